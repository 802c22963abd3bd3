//! kilonova-volume.
