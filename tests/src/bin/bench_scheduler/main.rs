//! What a decision costs. One JSON line a figure, beside a plain implementation of the same rules and a bare scan of columns, in
//! turn in the same run.
//!
//! `make bench-scheduler`, or `make bench-scheduler ARGS=quick` for a short look.
//!
//! The workload: hosts with 64 CPUs and 256 GiB in 8 zones and 20 aggregates, 70 % of their memory taken; instances of five
//! flavors, most of them small, as in public traces; the default filters and weighers.

mod decisions;
mod limit;
mod memory;
mod workload;

use std::time::Duration;

/// How much is measured.
#[derive(Clone, Copy)]
pub struct Size {
    /// How long each figure is measured.
    pub window: Duration,
}

fn main() {
    let quick = std::env::args().any(|argument| argument == "quick" || argument == "--quick");
    let size = Size { window: Duration::from_millis(if quick { 500 } else { 3000 }) };
    for hosts in [1_000, 10_000, 100_000] {
        memory::measure(hosts);
        decisions::measure(hosts, size);
    }
}
