//! How long guests lived, by the journals, and that no two of one instance lived at once.
//!
//! A guest lives from the line that made it run until the line that its driver wrote when it had removed it. A removal that takes
//! long is part of its life: what is being destroyed may still run.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use kilonova_model::time::timestamp;

use super::{Event, Expected, Findings, World};

const ONE: &str = "one guest at most";

/// One guest of an instance, or one copy of a volume, from its beginning to its end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Life<'a> {
    /// Where.
    pub host: &'a str,
    /// When it began to run.
    pub from: SystemTime,
    /// When it was removed, or handed over; none if it still runs.
    pub until: Option<SystemTime>,
    /// The line that began it.
    begun: &'a Event,
}

impl fmt::Display for Life<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = &self.begun.line;
        write!(f, "{} ({} of {}.{} at ", self.host, line.op, line.generation, line.attempt)?;
        write!(f, "{}", timestamp(self.from))?;
        match self.until {
            Some(until) => write!(f, ", until {})", timestamp(until)),
            None => write!(f, ", and still there)"),
        }
    }
}

/// The lives of every id, in the order in which they began. One that is only prepared, or handed over, does not run until its
/// host takes it over or back.
pub(super) fn of(world: &World) -> BTreeMap<&str, Vec<Life<'_>>> {
    let mut all: BTreeMap<&str, Vec<Life<'_>>> = BTreeMap::new();
    for event in &world.events {
        let (id, host) = (event.line.id.as_str(), event.line.host.as_str());
        let lives = all.entry(id).or_default();
        let open = lives.iter_mut().find(|life| life.host == host && life.until.is_none());
        match event.line.op.as_str() {
            // One that was not handed over after all is taken back where it runs.
            "take_back" if open.is_some() => {}
            "spawn" | "create" | "take_over" | "take_back" => {
                lives.push(Life { host, from: event.at, until: None, begun: event });
            }
            "destroy" | "delete" | "hand_over" => {
                for life in lives.iter_mut().filter(|life| life.host == host && life.until.is_none()) {
                    life.until = Some(event.at);
                }
            }
            _ => {}
        }
    }
    all
}

/// No instance has two guests at one moment, on whichever hosts; one volume is not on two backends. Excused is only the part of
/// the time in which one of the two hosts could not be asked.
pub fn at_most_one(world: &World, expected: &Expected, findings: &mut Findings) {
    for (id, lives) in of(world) {
        for (n, one) in lives.iter().enumerate() {
            for other in &lives[n + 1..] {
                let Some((from, until)) = together(one, other) else { continue };
                if one.host == other.host {
                    findings.add(ONE, id, format!("made again while it is there: {one}, and {other}"));
                    continue;
                }
                let hosts = [one.host, other.host];
                if let Some(unexcused) = expected.unexcused(hosts, from, until) {
                    let spans = Spans { both: (from, until), unexcused };
                    let evidence = expected.evidence(hosts);
                    findings.add(ONE, id, format!("two at once {spans}: {one}, and {other}; {evidence}"));
                }
            }
        }
    }
}

/// The time in which both lived.
fn together(one: &Life<'_>, other: &Life<'_>) -> Option<(SystemTime, Option<SystemTime>)> {
    let from = one.from.max(other.from);
    let until = match (one.until, other.until) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    };
    until.is_none_or(|until| from < until).then_some((from, until))
}

/// How long two lived at once, and since when nothing excuses that.
struct Spans {
    both: (SystemTime, Option<SystemTime>),
    unexcused: (SystemTime, Option<SystemTime>),
}

impl fmt::Display for Spans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let long = |(from, until): (SystemTime, Option<SystemTime>)| match until {
            Some(until) => format!("for {:?}", until.duration_since(from).unwrap_or(Duration::ZERO)),
            None => "to the end".to_owned(),
        };
        write!(
            f,
            "{}, unexcused from {} {}",
            long(self.both),
            timestamp(self.unexcused.0),
            long(self.unexcused)
        )
    }
}
