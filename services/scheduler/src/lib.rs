//! The scheduler: keeps the state of every host and backend in memory, fed by their capability streams, and answers "where".

pub mod config;
pub mod placement;
