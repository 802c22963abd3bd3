//! What was asked of each resource on this host, and how it ended: the memory that makes commands idempotent.
//!
//! Every command carries a [`Stamp`]. The ledger holds, per resource, the newest stamp it took, which of the two
//! commands it was, and where the resource stands:
//!
//! ```text
//!              make, claimed               done
//!   (unknown) ───────────────► Making ─────────────► Ready ──┐
//!       │                       │  │ failed, nothing left    │ unmake
//!       │ make, no room         │  └───────────► Failed      ▼
//!       ├───────────► Refused   └── unmake: cancel ───► Unmaking ──── done ───► Gone
//!       └── unmake, for nobody knows ──────────────────► Unmaking (the driver is asked)
//!
//!   Ready ── act ──► Acting ── done or failed ──► Ready
//!                      └── unmake: cancel ──► Unmaking
//! ```
//!
//! - The same command again changes nothing: it is under way, or its outcome is told again.
//! - An older one is refused with STALE_GENERATION. At one stamp, unmake is newer than make: a make that arrives
//!   after the unmake that was to undo it must not leave anything behind.
//! - An unmake or an act of an earlier attempt than that of what is there, or being made, is refused in the same way, whatever its
//!   generation: its sender does not know of what is there, as after its store was put back.
//! - A make that was refused stays refused: its sender went elsewhere on the strength of that answer.
//! - A make that was repeated as a newer attempt, at the same generation, adopts what is there or being made; there is never a
//!   second one.
//! - A make at another generation asks for something else than what is there (another flavor, another image): it is refused
//!   until that is unmade, and so is one of what is still being unmade. The refusal is remembered apart: the unmake that
//!   clears the way is of an earlier attempt, and must not be taken for an older command.
//! - An act is something done with what is there: it stays there, whether that succeeds or not.
//!
//! Pure: decides and remembers, does nothing. What ended (Failed, Refused, Gone) is forgotten when
//! [`REMEMBERED`] others ended after it; by then its commands are long past their deadlines.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use kilonova_model::{Attempt, Error, Generation, Reason};
use kilonova_proto::types::v1::action::Kind;
use kilonova_proto::types::v1::{Fault, Step};
use tokio_util::sync::CancellationToken;

/// The key in the metadata of an older command's refusal that is `true` if something is there, or being made: of a later command.
pub const LATER_THERE: &str = "later_there";
/// The attempt of an unmake of whatever is there.
const ANY: Attempt = Attempt(0);
/// How many resources that ended are remembered, so that late commands for them are recognised.
pub const REMEMBERED: usize = 10_000;

/// Orders the commands for one resource.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// What is wanted of the resource is at this generation.
    pub generation: Generation,
    /// The attempt the command is part of.
    pub attempt: Attempt,
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "generation {} attempt {}", self.generation, self.attempt)
    }
}

/// How work on a resource ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome<M> {
    /// It is there; this is what was made.
    Ready(M),
    /// It could not be made; nothing of it is left.
    Failed(Box<Fault>),
    /// It is not there.
    Gone,
}

/// What is to be reported of a resource.
#[derive(Debug, Clone, PartialEq)]
pub struct Conclusion<M> {
    /// The newest command it answers.
    pub stamp: Stamp,
    /// How it ended.
    pub outcome: Outcome<M>,
    /// What was done, in order.
    pub steps: Vec<Step>,
    /// The act it answers; none when that is a make or an unmake.
    pub act: Option<Acted>,
}

/// An act that ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Acted {
    /// What was asked.
    pub kind: Kind,
    /// Why it was not done.
    pub fault: Option<Box<Fault>>,
}

/// What becomes of an act command that was taken.
#[derive(Debug)]
pub enum Act<M> {
    /// Begin; the token says that it is no longer wanted.
    Start(CancellationToken),
    /// It is under way; its end will be reported.
    Underway,
    /// It ended before; report this again.
    Report(Conclusion<M>),
}

/// What becomes of a make command that was taken.
#[derive(Debug)]
pub enum Make<M, T> {
    /// Begin: what the claim gave, and the token that says that it is no longer wanted.
    Start(T, CancellationToken),
    /// It is under way; its end will be reported.
    Underway,
    /// It ended before; report this again.
    Report(Conclusion<M>),
}

/// What becomes of an unmake command that was taken.
#[derive(Debug, PartialEq)]
pub enum Unmake<M> {
    /// Begin.
    Start,
    /// It is under way, or whoever is making it will do it; its end will be reported.
    Underway,
    /// Nothing is there; report this.
    Report(Conclusion<M>),
}

/// What is known of one resource.
#[derive(Debug, Clone, PartialEq)]
pub struct View<'a, M> {
    /// The newest command taken for it.
    pub stamp: Stamp,
    /// Whether work on it goes on.
    pub busy: bool,
    /// How the last work on it ended; `None` while it goes on, and for a make that was refused.
    pub outcome: Option<&'a Outcome<M>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Verb {
    Make,
    Unmake,
}

#[derive(Debug)]
enum Phase<M> {
    Making(CancellationToken),
    /// With what is there.
    Acting(Kind, M, CancellationToken),
    Unmaking,
    Settled(Outcome<M>, Vec<Step>),
    Refused(Error),
}

impl<M> Phase<M> {
    fn busy(&self) -> bool {
        matches!(self, Self::Making(_) | Self::Acting(..) | Self::Unmaking)
    }

    fn ended(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Settled(Outcome::Failed(_) | Outcome::Gone, _))
    }
}

#[derive(Debug)]
struct Entry<M> {
    stamp: Stamp,
    verb: Verb,
    phase: Phase<M>,
    /// The newest act that ended, by its stamp.
    acted: Option<(Stamp, Acted)>,
    /// The newest make that was refused because of what is there, and why.
    refused: Option<(Stamp, Error)>,
    /// Its place among those that ended.
    ended: Option<u64>,
}

impl<M> Entry<M> {
    /// True if the resource is there, whatever is done with it.
    fn is_there(&self) -> bool {
        matches!(self.phase, Phase::Acting(..) | Phase::Settled(Outcome::Ready(_), _))
    }

    /// Refuses a command that is older than the newest one, or of an earlier attempt than what is there, or being made.
    fn check_not_older(&self, id: impl fmt::Display, stamp: Stamp) -> Result<(), Error> {
        let is_any = self.is_there() || matches!(self.phase, Phase::Making(_));
        let is_earlier = is_any && stamp.attempt != ANY && stamp.attempt < self.stamp.attempt;
        if stamp < self.stamp || is_earlier {
            return Err(stale(id, stamp, self.stamp).with(LATER_THERE, is_any));
        }
        Ok(())
    }

    /// Whether what is there, or being made, is what a make at `stamp` asks for: it was made at that generation, and nothing was
    /// done with it at that generation since, unless it is the same command again.
    fn is_what_was_asked_at(&self, stamp: Stamp) -> bool {
        let acted = self.acted.as_ref().is_some_and(|(done, _)| done.generation == stamp.generation);
        stamp == self.stamp || (stamp.generation == self.stamp.generation && !acted)
    }

    /// Remembers that a make is refused, for good: its sender goes elsewhere on the strength of that answer.
    fn refuse(&mut self, stamp: Stamp, error: Error) -> Error {
        self.refused = Some((stamp, error.clone()));
        error
    }
}

/// The ledger of one host.
#[derive(Debug)]
pub struct Ledger<K, M> {
    entries: BTreeMap<K, Entry<M>>,
    /// Those that ended, in the order they did.
    ended: BTreeMap<u64, K>,
    next_end: u64,
    busy: usize,
}

impl<K, M> Default for Ledger<K, M> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), ended: BTreeMap::new(), next_end: 0, busy: 0 }
    }
}

impl<K: Copy + Ord + fmt::Display, M: Clone> Ledger<K, M> {
    /// Enters what was there when the host started, with the newest command that was done, and the act if it was one.
    pub fn restore(&mut self, id: K, stamp: Stamp, made: M, act: Option<Kind>) {
        self.set(id, stamp, Verb::Make, Phase::Settled(Outcome::Ready(made), Vec::new()));
        if let (Some(kind), Some(entry)) = (act, self.entries.get_mut(&id)) {
            entry.acted = Some((stamp, Acted { kind, fault: None }));
        }
    }

    /// Takes a make command. `claim` is asked for room when it is to be begun, and at no other time.
    pub fn make<T>(
        &mut self,
        id: K,
        stamp: Stamp,
        claim: impl FnOnce() -> Result<T, Error>,
    ) -> Result<Make<M, T>, Error> {
        if let Some(entry) = self.entries.get_mut(&id) {
            if (stamp, Verb::Make) < (entry.stamp, entry.verb) {
                return Err(stale(id, stamp, entry.stamp));
            }
            match &entry.refused {
                Some((refused, error)) if stamp == *refused => return Err(error.clone()),
                Some((refused, _)) if entry.stamp < stamp && stamp < *refused => {
                    return Err(stale(id, stamp, *refused));
                }
                _ => {}
            }
            let again = stamp == entry.stamp;
            let same = entry.is_what_was_asked_at(stamp);
            match &entry.phase {
                Phase::Making(_) if same => {
                    entry.stamp = stamp;
                    return Ok(Make::Underway);
                }
                Phase::Acting(..) if again => return Ok(Make::Underway),
                Phase::Settled(outcome @ Outcome::Ready(_), steps) if same => {
                    (entry.stamp, entry.verb) = (stamp, Verb::Make);
                    return Ok(Make::Report(conclusion(stamp, outcome, steps)));
                }
                Phase::Making(_) | Phase::Acting(..) | Phase::Settled(Outcome::Ready(_), _) => {
                    return Err(entry.refuse(stamp, of_another_generation(id, stamp, entry.stamp)));
                }
                Phase::Settled(outcome @ Outcome::Failed(_), steps) if again => {
                    return Ok(Make::Report(conclusion(stamp, outcome, steps)));
                }
                Phase::Refused(error) if again => return Err(error.clone()),
                Phase::Unmaking => return Err(entry.refuse(stamp, still_unmaking(id))),
                Phase::Settled(Outcome::Failed(_) | Outcome::Gone, _) | Phase::Refused(_) => {}
            }
        }
        match claim() {
            Ok(claimed) => {
                let cancel = CancellationToken::new();
                self.set(id, stamp, Verb::Make, Phase::Making(cancel.clone()));
                Ok(Make::Start(claimed, cancel))
            }
            Err(error) => {
                // A host that is stopping or not ready refuses for now only.
                if !matches!(error.reason, Reason::Draining | Reason::NotReady) {
                    self.set(id, stamp, Verb::Make, Phase::Refused(error.clone()));
                }
                Err(error)
            }
        }
    }

    /// Takes an unmake command.
    pub fn unmake(&mut self, id: K, stamp: Stamp) -> Result<Unmake<M>, Error> {
        let Some(entry) = self.entries.get_mut(&id) else {
            self.set(id, stamp, Verb::Unmake, Phase::Unmaking);
            return Ok(Unmake::Start);
        };
        entry.check_not_older(id, stamp)?;
        (entry.stamp, entry.verb) = (stamp, Verb::Unmake);
        match &entry.phase {
            Phase::Making(cancel) | Phase::Acting(_, _, cancel) => {
                cancel.cancel();
                entry.phase = Phase::Unmaking;
                Ok(Unmake::Underway)
            }
            Phase::Unmaking => Ok(Unmake::Underway),
            Phase::Settled(Outcome::Ready(_), _) => {
                self.set(id, stamp, Verb::Unmake, Phase::Unmaking);
                Ok(Unmake::Start)
            }
            Phase::Settled(outcome @ Outcome::Gone, steps) => {
                Ok(Unmake::Report(conclusion(stamp, outcome, steps)))
            }
            Phase::Settled(Outcome::Failed(_), _) | Phase::Refused(_) => {
                Ok(Unmake::Report(self.settle(id, stamp, Verb::Unmake, Outcome::Gone, Vec::new())))
            }
        }
    }

    /// A make succeeded. `None`: it was overtaken by an unmake, and what was made is to be unmade.
    pub fn made(&mut self, id: K, made: M, steps: &[Step]) -> Option<Conclusion<M>> {
        let entry = self.entries.get(&id)?;
        let (stamp, verb) = (entry.stamp, entry.verb);
        match entry.phase {
            Phase::Making(_) => Some(self.settle(id, stamp, verb, Outcome::Ready(made), steps.to_vec())),
            _ => None,
        }
    }

    /// Takes an act command; `not_found` is why there is nothing to act on. `claim` is asked for the room it needs when
    /// it is to be begun, and at no other time.
    pub fn act(
        &mut self,
        id: K,
        stamp: Stamp,
        kind: Kind,
        not_found: Reason,
        claim: impl FnOnce() -> Result<(), Error>,
    ) -> Result<Act<M>, Error> {
        let not_here = || Error::new(not_found, format!("{id} is not here")).with("id", id);
        let Some(entry) = self.entries.get_mut(&id) else { return Err(not_here()) };
        entry.check_not_older(id, stamp)?;
        match &entry.phase {
            Phase::Acting(..) if stamp == entry.stamp => Ok(Act::Underway),
            Phase::Making(_) | Phase::Acting(..) => Err(still_busy(id)),
            Phase::Settled(outcome @ Outcome::Ready(made), steps) => {
                if let Some((_, acted)) = entry.acted.as_ref().filter(|(done, _)| *done == stamp) {
                    let act = Some(acted.clone());
                    return Ok(Act::Report(Conclusion { act, ..conclusion(stamp, outcome, steps) }));
                }
                if let Err(error) = claim() {
                    // Refused for good: its sender gave it up on the strength of that answer.
                    let (reason, message) = (error.reason.as_str().to_owned(), error.message.clone());
                    let fault = Some(Box::new(Fault { reason, message, ..Fault::default() }));
                    (entry.stamp, entry.acted) = (stamp, Some((stamp, Acted { kind, fault })));
                    return Err(error);
                }
                let cancel = CancellationToken::new();
                let phase = Phase::Acting(kind, made.clone(), cancel.clone());
                self.set(id, stamp, Verb::Make, phase);
                Ok(Act::Start(cancel))
            }
            Phase::Unmaking | Phase::Settled(..) | Phase::Refused(_) => Err(not_here()),
        }
    }

    /// Takes a command that changes nothing of the resource itself; `not_found` is why there is nothing it is about.
    pub fn touch(&mut self, id: K, stamp: Stamp, not_found: Reason) -> Result<(), Error> {
        let not_here = || Error::new(not_found, format!("{id} is not here")).with("id", id);
        let entry = self.entries.get_mut(&id).ok_or_else(not_here)?;
        entry.check_not_older(id, stamp)?;
        let Phase::Settled(Outcome::Ready(_), _) = &entry.phase else { return Err(not_here()) };
        entry.stamp = stamp;
        Ok(())
    }

    /// An act ended: with what is there now, or with why it was not done. `None`: it was overtaken by an unmake.
    pub fn acted(&mut self, id: K, result: Result<M, Box<Fault>>, steps: Vec<Step>) -> Option<Conclusion<M>> {
        let entry = self.entries.get(&id)?;
        let Phase::Acting(kind, before, _) = &entry.phase else { return None };
        let (stamp, kind) = (entry.stamp, *kind);
        let (made, fault) = match result {
            Ok(made) => (made, None),
            Err(fault) => (before.clone(), Some(fault)),
        };
        let acted = Acted { kind, fault };
        let told = self.settle(id, stamp, Verb::Make, Outcome::Ready(made), steps);
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.acted = Some((stamp, acted.clone()));
        }
        Some(Conclusion { act: Some(acted), ..told })
    }

    /// Nothing of the resource is left. With `fault`, because making it failed; when an unmake overtook that, it is
    /// gone rather than failed.
    pub fn unmade(&mut self, id: K, fault: Option<Box<Fault>>, steps: Vec<Step>) -> Conclusion<M> {
        let entry = self.entries.get(&id);
        let (stamp, verb) = entry.map_or((Stamp::default(), Verb::Unmake), |entry| (entry.stamp, entry.verb));
        let failed = entry.is_some_and(|entry| matches!(entry.phase, Phase::Making(_)));
        let outcome = match fault {
            Some(fault) if failed => Outcome::Failed(fault),
            _ => Outcome::Gone,
        };
        self.settle(id, stamp, verb, outcome, steps)
    }

    /// Whether an unmake overtook the make that is under way.
    pub fn overtaken(&self, id: K) -> bool {
        self.entries.get(&id).is_some_and(|entry| matches!(entry.phase, Phase::Unmaking))
    }

    /// What is there is what this command asked for: raises the stamp and gives what to report. `None` if it is not
    /// there, not idle, or a newer command was taken.
    pub fn adopt(&mut self, id: K, stamp: Stamp) -> Option<Conclusion<M>> {
        let entry = self.entries.get_mut(&id)?;
        match &entry.phase {
            Phase::Settled(outcome @ Outcome::Ready(_), steps) if stamp >= entry.stamp => {
                entry.stamp = stamp;
                Some(conclusion(stamp, outcome, steps))
            }
            _ => None,
        }
    }

    /// Everything that anything is known of.
    pub fn ids(&self) -> BTreeSet<K> {
        self.entries.keys().copied().collect()
    }

    /// What is there and idle, with the newest command for each.
    pub fn idle(&self) -> BTreeMap<K, Stamp> {
        let there = |entry: &Entry<M>| matches!(entry.phase, Phase::Settled(Outcome::Ready(_), _));
        self.entries.iter().filter(|(_, entry)| there(entry)).map(|(id, entry)| (*id, entry.stamp)).collect()
    }

    /// What is there, being made or being unmade: the newest command for each, and whether work on it goes on.
    pub fn live_ones(&self) -> impl Iterator<Item = (K, Stamp, bool)> + '_ {
        let live = self.entries.iter().filter(|(_, entry)| !entry.phase.ended());
        live.map(|(id, entry)| (*id, entry.stamp, entry.phase.busy()))
    }

    /// Whether a resource is there, whatever is done with it.
    pub fn is_there(&self, id: K) -> bool {
        self.entries.get(&id).is_some_and(Entry::is_there)
    }

    /// What is known of a resource.
    pub fn view(&self, id: K) -> Option<View<'_, M>> {
        let entry = self.entries.get(&id)?;
        let outcome = match &entry.phase {
            Phase::Settled(outcome, _) => Some(outcome),
            _ => None,
        };
        Some(View { stamp: entry.stamp, busy: entry.phase.busy(), outcome })
    }

    /// Resources on which work goes on.
    pub fn busy(&self) -> usize {
        self.busy
    }

    /// Resources that are there, being made or being unmade.
    pub fn live(&self) -> usize {
        self.entries.len() - self.ended.len()
    }

    /// Resources that ended and are remembered.
    pub fn remembered(&self) -> usize {
        self.ended.len()
    }

    fn settle(
        &mut self,
        id: K,
        stamp: Stamp,
        verb: Verb,
        outcome: Outcome<M>,
        steps: Vec<Step>,
    ) -> Conclusion<M> {
        let told = conclusion(stamp, &outcome, &steps);
        self.set(id, stamp, verb, Phase::Settled(outcome, steps));
        told
    }

    fn set(&mut self, id: K, stamp: Stamp, verb: Verb, phase: Phase<M>) {
        let mut refused = None;
        let ended = phase.ended().then(|| {
            self.next_end += 1;
            self.ended.insert(self.next_end, id);
            self.next_end
        });
        self.busy += usize::from(phase.busy());
        if let Some(old) = self.entries.remove(&id) {
            self.busy -= usize::from(old.phase.busy());
            if let Some(place) = old.ended {
                self.ended.remove(&place);
            }
            refused = old.refused.filter(|(refused, _)| *refused > stamp);
        }
        self.entries.insert(id, Entry { stamp, verb, phase, acted: None, refused, ended });
        while self.ended.len() > REMEMBERED {
            if let Some((_, oldest)) = self.ended.pop_first() {
                self.entries.remove(&oldest);
            }
        }
    }
}

fn conclusion<M: Clone>(stamp: Stamp, outcome: &Outcome<M>, steps: &[Step]) -> Conclusion<M> {
    Conclusion { stamp, outcome: outcome.clone(), steps: steps.to_vec(), act: None }
}

fn stale(id: impl fmt::Display, asked: Stamp, seen: Stamp) -> Error {
    let message = format!("{id}: a newer command ({seen}) was seen before this one ({asked})");
    Error::new(Reason::StaleGeneration, message)
        .with("id", id)
        .with("generation", seen.generation)
        .with("attempt", seen.attempt)
}

fn still_busy(id: impl fmt::Display) -> Error {
    let message = format!("{id}: what was asked of it before still goes on");
    Error::new(Reason::InvalidState, message).with("id", id)
}

fn still_unmaking(id: impl fmt::Display) -> Error {
    let message = format!("{id}: an earlier one is still being removed and holds its room");
    Error::new(Reason::StillRemoving, message).with("id", id)
}

fn of_another_generation(id: impl fmt::Display, asked: Stamp, there: Stamp) -> Error {
    let message = format!(
        "{id}: what is here is of {there} and is not what {asked} asks for; it has to be removed first"
    );
    Error::new(Reason::OlderGenerationPresent, message)
        .with("id", id)
        .with("generation", there.generation)
        .with("attempt", there.attempt)
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
