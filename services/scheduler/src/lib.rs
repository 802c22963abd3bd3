//! kilonova-scheduler.
