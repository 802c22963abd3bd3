//! kilonova-compute.
