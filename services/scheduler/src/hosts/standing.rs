//! How much is known: who is registered, who is up, and whether "there is no place" can be said.

use super::manager::{Asked, HostManager};
use crate::placement::{Space, select};

/// How many of those that did not answer are named.
const NAMED: usize = 3;

/// How many there are that were not given up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Standing {
    /// Registered, or still heard.
    pub registered: usize,
    /// Of these: up.
    pub up: usize,
}

/// Too little is known for an answer; why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unknown(String);

impl<S: Space> HostManager<S> {
    /// How many are registered, and how many are up.
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// Whether a publisher is up.
    pub fn is_up(&self, host: &kilonova_model::HostName) -> bool {
        self.entries.get(host).is_some_and(|entry| entry.is_up())
    }

    /// Why "there is no place" cannot be said; `None` if it can.
    pub(super) fn unknown(&self) -> Option<Unknown> {
        let Standing { registered, up } = self.standing;
        let publisher = S::PUBLISHER.as_str();
        if registered > 0 && up == 0 {
            let present = self.entries.iter().filter(|(_, entry)| entry.left.is_none());
            let reasons =
                present.filter_map(|(host, entry)| Some(format!("{host}: {}", entry.down_reason()?)));
            let named: Vec<String> = reasons.take(NAMED).collect();
            let more = more(registered - named.len());
            return Some(Unknown(format!(
                "every {publisher} registered is down: {}{more}",
                named.join(", ")
            )));
        }
        let mut pending = self.entries.iter().filter(|(_, entry)| entry.is_pending()).map(|(host, _)| host);
        let named: Vec<&str> = pending.by_ref().take(NAMED).map(|host| host.as_str()).collect();
        let more = more(pending.count());
        (!named.is_empty())
            .then(|| Unknown(format!("no answer yet from {publisher} {}{more}", named.join(", "))))
    }

    /// The same when there would be a place if nothing were promised: a promise that its host refused, or that nobody took
    /// up, stands until it expires, and must not be the reason that another build fails.
    pub(super) fn promised(&mut self, demand: &S::Demand, asked: &Asked<'_>) -> Option<Unknown> {
        if asked.dry_run || self.holds.is_empty() {
            return None;
        }
        let holds: Vec<_> = self.holds.all().cloned().collect();
        self.release(&holds);
        let without = select(&mut self.world, &self.chain, demand, asked.wanted, asked.seed, &mut self.scan);
        self.hold(&holds);
        let why = "what is left is promised to others, and not claimed yet";
        (!without.picks.is_empty()).then(|| Unknown(why.to_owned()))
    }
}

fn more(others: usize) -> String {
    if others > 0 { format!(" and {others} more") } else { String::new() }
}
