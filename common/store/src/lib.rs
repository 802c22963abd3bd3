//! kilonova-store.
