//! kilonova-conductor.
