//! kilonova-proto.
