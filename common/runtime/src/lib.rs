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

pub use service::{Context, Fatal, Launch, LaunchOptions, Running, StartError};
