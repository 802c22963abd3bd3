//! Every host (or backend) this scheduler knows: its figures, whether it answers, and what was promised on it.
//!
//! ```text
//!                  heard, with figures
//!   joined ─► DOWN ───────────────────► UP ── stream lost, draining ─► DOWN (with the reason)
//!              ▲                                                        │ absent from the registry as well
//!              │ joins again                                            ▼
//!              └──────────────────────── LEFT: listed as down ── forget_after ─► forgotten
//! ```
//!
//! **The registry is no proof of death.** One that vanished from it stays up while its stream lives. When it registers
//! again as another incarnation, what is known of it stays until the new stream speaks.
//!
//! **Ignorance is not an answer.** "No place" is said only of hosts that are known: while some that are registered
//! have not answered yet, or all are down, there is no answer.
//!
//! **Order.** What one publisher says is ordered by (epoch, generation). What is older than what is known is ignored;
//! the same again only proves that it is still true. What the registered epoch says replaces what any other said. Clocks decide nothing: "now" is this process's own.
//!
//! **Stale figures.** A publisher that is alive and whose driver gives no figures for three of its own intervals is down, with
//! that as the reason: only the change of its time of collection is looked at, by this process's clock.
//!
//! **Quarantine.** A host on which build after build fails gets nothing new for a while (`quarantine.rs`).
//!
//! **Holds.** What a decision promised is held against the host for later decisions, so that a burst spreads. The
//! same request id replaces its own hold. A hold ends by the first of these:
//!
//! - it expires (`hold_time`);
//! - the host reports growth that has room for it. A new generation of the same epoch is compared with the one before
//!   it: by how much did what is claimed grow? From that growth the holds are paid, the oldest first, each only
//!   whole (CPUs, memory, disk and one instance; or the pool's allocated size). What the growth does not cover stays
//!   held.
//!
//! This errs on the side of too much held: where claims ended in the same update growth looks smaller, and the hold
//! stays until it expires. It can err the other way only when another scheduler's claim pays for our promise; then
//! the host, which has the last word, may refuse ours. A new epoch pays nothing: its figures are not comparable.

mod entry;
mod holds;
mod listing;
mod manager;
mod quarantine;
mod standing;
mod tidy;

pub use holds::Holds;
pub use listing::Counts;
pub use manager::{Answer, Asked, HostManager, HostOptions, Outcome};
pub use quarantine::QuarantineConfig;
pub use standing::{Standing, Unknown};

#[cfg(test)]
mod tests;
