//! kilonova-api.
