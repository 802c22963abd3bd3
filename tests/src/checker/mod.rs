//! An independent judge of a cell: it reads every record in the store and every line of the simulated drivers'
//! journals, and nothing else. It shares no code with the services' logic, so that a mistake there is not made here
//! too.
//!
//! [`lasting`] is what must hold at every moment, judged from the journals, which keep all moments. [`settling`] is
//! what must hold once nothing is on its way; until then some of it may not.

mod attachments;
mod copies;
mod counts;
mod expected;
mod exports;
mod finals;
mod groups;
mod guests;
mod history;
mod lifetimes;
mod moments;
mod volumes;
mod world;

#[cfg(test)]
mod broken_lives;
#[cfg(test)]
mod broken_worlds;

use std::fmt;

pub use expected::{Capacity, Expected, Outage, Want};
pub use world::{Event, World};

/// One thing that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// Which rule is broken.
    pub rule: &'static str,
    /// Of which record, guest, host or project.
    pub subject: String,
    /// How.
    pub cause: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {}: {}", self.rule, self.subject, self.cause)
    }
}

/// Where violations are written down.
#[derive(Debug, Default)]
struct Findings(Vec<Violation>);

impl Findings {
    fn add(&mut self, rule: &'static str, subject: impl fmt::Display, cause: impl fmt::Display) {
        self.0.push(Violation { rule, subject: subject.to_string(), cause: cause.to_string() });
    }

    fn add_unless(
        &mut self,
        fine: bool,
        rule: &'static str,
        subject: impl fmt::Display,
        cause: impl FnOnce() -> String,
    ) {
        if !fine {
            self.add(rule, subject, cause());
        }
    }

    fn sorted(mut self) -> Vec<Violation> {
        self.0.sort();
        self.0.dedup();
        self.0
    }
}

/// What must hold at every moment.
#[must_use]
pub fn lasting(world: &World, expected: &Expected) -> Vec<Violation> {
    let mut findings = Findings::default();
    lifetimes::at_most_one(world, expected, &mut findings);
    copies::nothing_is_removed(world, expected, &mut findings);
    if !expected.is_set_back {
        copies::last_is_kept(world, expected, &mut findings);
        exports::at_every_moment(world, expected, &mut findings);
    }
    moments::nothing_stays_that_was_lost(world, expected, &mut findings);
    moments::each_command_once(world, &mut findings);
    moments::never_more_than_there_is(world, expected, &mut findings);
    groups::at_every_moment(world, expected, &mut findings);
    findings.sorted()
}

/// What must hold once nothing is on its way.
#[must_use]
pub fn settling(world: &World, expected: &Expected) -> Vec<Violation> {
    let mut findings = Findings::default();
    finals::acknowledged(world, expected, &mut findings);
    finals::only_what_was_asked(world, expected, &mut findings);
    finals::receipts(world, expected, &mut findings);
    guests::as_recorded(world, expected, &mut findings);
    volumes::as_recorded(world, expected, &mut findings);
    attachments::agree(world, &mut findings);
    counts::usage(world, &mut findings);
    counts::requests(world, &mut findings);
    groups::as_recorded(world, &mut findings);
    history::tells_the_truth(world, &mut findings);
    findings.sorted()
}

/// Everything.
#[must_use]
pub fn check(world: &World, expected: &Expected) -> Vec<Violation> {
    let mut all = lasting(world, expected);
    all.extend(settling(world, expected));
    all
}
