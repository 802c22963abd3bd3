//! kilonova-model.
