//! The life of a service, from a bound port to a stop that loses nothing.
//!
//! ```text
//!  Launch ──register()──► Context ──serve()──► Running ──stop()──► gone
//!    │                      │                    │
//!    │ ports are bound      │ epoch known,       │ health follows readiness
//!    │ before any work      │ service is built
//! ```
//!
//! A service registers before it is built because what it builds carries its epoch. Callers find it in the registry
//! a moment early; they wait for its health to say SERVING, which it does once every condition of its readiness
//! holds.
//!
//! Stopping keeps an order, so that callers leave before they are turned away: NOT_SERVING, draining in the registry,
//! out of the registry, streams end, calls drain, tasks stop. All of it takes at most [`LaunchOptions::stop_within`].
//!
//! Nothing here is the process's own: any number of services live side by side, each with its own launch.

mod context;
mod launch;
mod running;

pub use context::{Context, Fatal};
pub use launch::{Launch, LaunchOptions, StartError};
pub use running::Running;
