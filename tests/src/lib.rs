//! kilonova-tests.
