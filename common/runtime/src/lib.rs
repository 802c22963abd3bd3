//! What every service of Kilonova needs around its own work: configuration, telemetry, named tasks, signals,
//! readiness, the HTTP side port, and the life of a service from registration to a graceful stop.

pub mod agent;
pub mod base;
pub mod config;
pub mod diagnostics;
pub mod http;
pub mod readiness;
pub mod reconcile;
pub mod service;
pub mod signals;
pub mod tasks;
pub mod telemetry;

/// Every process of Kilonova allocates with jemalloc: docs/decisions/0023 says what it gains.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

pub use service::{Context, Fatal, Launch, LaunchOptions, Running, StartError};
