//! The binary as its users meet it: what it prints, how it refuses, how it stops.

mod config;
mod life;
mod process;
mod refusals;
mod store;
