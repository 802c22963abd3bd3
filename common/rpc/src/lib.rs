//! kilonova-rpc.
