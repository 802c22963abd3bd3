//! kilonova-runtime.
