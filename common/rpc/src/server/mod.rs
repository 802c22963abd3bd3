//! The serving end: one port with the services a process has, and what every gRPC tool expects beside them.
//!
//! A request passes, in this order: the gate (is the method served?), the deadline, the address (is this member
//! meant?), admission (is there room?), the handler, and on the way back the body, which counts messages, keeps the
//! deadline and the end of streams, and reports the outcome once as metrics and a log line. A panic in a handler is
//! that call's `INTERNAL` and nobody else's. A handler that changes something runs to its end even if its caller
//! leaves.
//!
//! What is served is decided once, in [`descriptors`]: the same pruned descriptors feed the gate and reflection,
//! so that what tools list is what works.
//!
//! Stopping ([`Server::stop`]) always ends within its bound:
//!
//! ```text
//! serving ── NOT_SERVING ── streams end ── no new connections, GOAWAY ── calls drain ── connections close ── stopped
//!                                                                          └── bound over: all is cut ──┘
//! ```

mod addressed;
mod admission;
mod body;
mod builder;
mod call;
mod deadline;
pub mod descriptors;
mod gate;
mod health;
mod health_list;
mod listen;
mod observe;
mod quiet;
mod reflection;

pub use admission::AdmissionLimits;
pub use builder::{BuildError, Identity, Served, ServerBuilder};
pub use health::Health;
pub use listen::{Limits, Load, Server, Stopped};
