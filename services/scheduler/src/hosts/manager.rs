//! The state of all hosts, or all backends, of one cell.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use kilonova_model::{Epoch, HostName, RequestId};
use kilonova_proto::scheduler::v1::SelectedHost;
use kilonova_proto::types::v1::{Capabilities, PlacementExplanation};
use tokio::time::Instant;

use super::entry::{Entry, order};
use super::holds::{Hold, Holds};
use super::quarantine::QuarantineConfig;
use super::standing::{Standing, Unknown};
use super::tidy;
use crate::placement::{
    Amount, Apart, Chain, Demand, Head, HostId, Pick, Row, Scan, Space, Wanted, World, select,
};

type AmountOf<S> = <<S as Space>::Demand as Demand>::Amount;

/// Every host, or every backend, this scheduler knows.
pub struct HostManager<S: Space> {
    pub(super) world: World<S::Row>,
    pub(super) entries: BTreeMap<HostName, Entry>,
    pub(super) holds: Holds<AmountOf<S>>,
    pub(super) standing: Standing,
    /// Those that left, in the order they did. One that came back is passed over.
    leavers: VecDeque<(Instant, HostName)>,
    pub(super) chain: Chain<S>,
    pub(super) scan: Scan,
    options: HostOptions,
    /// When to look again whether figures are stale, or a quarantine is over.
    looks: BinaryHeap<Reverse<(Instant, HostName)>>,
    pub(super) quarantined: usize,
    /// With how many words it is looked which of them are used.
    pub(super) tidy_at: usize,
}

/// What is done for how long.
#[derive(Debug, Clone, Copy)]
pub struct HostOptions {
    /// How long what was promised is held.
    pub hold_time: Duration,
    /// How long one that left is listed.
    pub forget_after: Duration,
    /// When hosts on which builds fail are kept away from new work.
    pub quarantine: QuarantineConfig,
}

/// What became of capabilities that came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// They are newer than what was known.
    Applied,
    /// They are what was known.
    Confirmed,
    /// They are older than what is known.
    Older,
    /// Nobody registered under that name.
    Unknown,
}

/// One question.
#[derive(Debug, Clone)]
pub struct Asked<'a> {
    /// Names the decision.
    pub request: &'a RequestId,
    /// How many.
    pub wanted: Wanted,
    /// Promise nothing.
    pub dry_run: bool,
    /// Tells equals apart.
    pub seed: u64,
}

/// The answer to it.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// One for each placement; none when there is no place for all.
    pub picks: Vec<SelectedHost>,
    /// The next best, for every pick.
    pub alternates: Vec<SelectedHost>,
    /// Why.
    pub explanation: PlacementExplanation,
}

impl<S: Space> HostManager<S> {
    /// Knows nobody yet.
    #[must_use]
    pub fn new(chain: Chain<S>, options: HostOptions) -> Self {
        Self {
            world: World::new(),
            entries: BTreeMap::new(),
            holds: Holds::default(),
            standing: Standing::default(),
            leavers: VecDeque::new(),
            chain,
            scan: Scan::default(),
            options,
            looks: BinaryHeap::new(),
            quarantined: 0,
            tidy_at: tidy::FEW,
        }
    }

    /// Who else decides.
    pub fn keep_apart(&mut self, apart: Apart) {
        self.chain.apart = apart;
    }

    /// The registry shows a publisher.
    pub fn joined(&mut self, host: &HostName, epoch: Epoch, draining: bool) {
        let id = self.world.add(host.as_str());
        self.entries.entry(host.clone()).or_insert_with(|| Entry::new(id, epoch)).join(epoch, draining);
        self.show(host);
    }

    /// The registry shows it no longer. Whether it left: it did not while its stream is alive.
    pub fn absent(&mut self, host: &HostName, now: Instant) -> bool {
        let Some(entry) = self.entries.get_mut(host) else { return true };
        entry.absent = true;
        self.leave_if_gone(host, now);
        self.has_left(host)
    }

    /// A publisher's stream is alive.
    pub fn heard(&mut self, host: &HostName) {
        if let Some(entry) = self.entries.get_mut(host)
            && entry.lost.take().is_some()
        {
            entry.awaited &= entry.capabilities.is_none();
            self.show(host);
        }
    }

    /// A publisher's stream is not alive. Whether it left with it: so it is when the registry does not show it either.
    pub fn lost(&mut self, host: &HostName, reason: String, now: Instant) -> bool {
        let Some(entry) = self.entries.get_mut(host) else { return true };
        entry.lost = Some(reason);
        self.leave_if_gone(host, now);
        self.show(host);
        self.has_left(host)
    }

    /// A publisher says what it has.
    pub fn apply(&mut self, host: &HostName, capabilities: Capabilities, now: Instant) -> Outcome {
        self.expire(now);
        let Some(entry) = self.entries.get_mut(host) else { return Outcome::Unknown };
        let known = entry.order();
        if entry.is_outdated(&capabilities) {
            return Outcome::Older;
        }
        entry.received = Some(now);
        entry.awaited = false;
        entry.lost = None;
        if known == Some(order(&capabilities)) {
            self.show(host);
            return Outcome::Confirmed;
        }
        let same_epoch = known.is_some_and(|(epoch, _)| epoch == Epoch(capabilities.epoch));
        let id = entry.id;
        let collected = entry.capabilities.as_deref().and_then(|known| known.collected_time);
        let is_fresh = entry.collected.is_none() || !same_epoch || collected != capabilities.collected_time;
        let failed_builds = S::failed_builds(&capabilities);
        entry.capabilities = Some(Arc::new(capabilities));
        if is_fresh {
            (entry.collected, entry.is_stale) = (Some(now), false);
            self.looks.extend(entry.stale_at().map(|at| Reverse((at, host.clone()))));
        }
        let may = self.options.quarantine.may_add(self.quarantined, self.standing.registered);
        let until = entry.builds.told(failed_builds, &self.options.quarantine, may, now);
        self.looks.extend(until.map(|at| Reverse((at, host.clone()))));
        let before: Vec<S::Row> =
            if same_epoch { self.world.rows_of(id).cloned().collect() } else { Vec::new() };
        self.count(host);
        self.rebuild(host);
        self.settle(id, &before);
        self.tidy();
        Outcome::Applied
    }

    /// Forgets those that left long ago, lets expired holds go, and sees whose figures are too old and whose quarantine is
    /// over.
    pub fn sweep(&mut self, now: Instant) {
        self.expire(now);
        while self.looks.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            let Some(Reverse((_, host))) = self.looks.pop() else { break };
            if let Some(entry) = self.entries.get_mut(&host) {
                entry.is_stale = entry.stale_at().is_some_and(|at| at <= now);
                entry.builds.end_if_due(now);
                self.show(&host);
            }
        }
        let is_due = |left: &Instant| now.saturating_duration_since(*left) >= self.options.forget_after;
        while self.leavers.front().is_some_and(|(left, _)| is_due(left)) {
            let Some((left, host)) = self.leavers.pop_front() else { break };
            if self.entries.get(&host).is_some_and(|entry| entry.left == Some(left))
                && let Some(entry) = self.entries.remove(&host)
            {
                self.holds.settle(entry.id, |_| true);
                self.world.remove(entry.id);
            }
        }
    }

    /// Decides, and holds what it promises. `Err` when there is no place among those known, and others may have one, or
    /// what is promised may not be claimed: then nothing has changed.
    pub fn select(
        &mut self,
        asked: &Asked<'_>,
        demand: impl FnOnce(&World<S::Row>) -> S::Demand,
        now: Instant,
    ) -> Result<Answer, Unknown> {
        self.expire(now);
        let own = self.holds.take(asked.request);
        if let Some((_, holds)) = &own {
            self.release(holds);
        }
        let demand = demand(&self.world);
        let mut decision =
            select(&mut self.world, &self.chain, &demand, asked.wanted, asked.seed, &mut self.scan);
        let unknown = match decision.picks.is_empty() {
            true => self.unknown().or_else(|| self.promised(&demand, asked)),
            false => None,
        };
        let promised: Vec<Hold<AmountOf<S>>> = decision
            .picks
            .iter()
            .map(|pick| Hold { host: pick.host, pool: pick.pool.clone(), amount: demand.amount() })
            .collect();
        if !asked.dry_run && !promised.is_empty() {
            self.hold(&promised);
            self.holds.add(asked.request.clone(), now + self.options.hold_time, promised);
        } else if (asked.dry_run || unknown.is_some())
            && let Some((expires, holds)) = own
        {
            self.hold(&holds);
            self.holds.put_back(asked.request.clone(), expires, holds);
        }
        if let Some(unknown) = unknown {
            return Err(unknown);
        }
        if self.standing.registered == 0 {
            decision.explanation.summary =
                format!("no valid {}: no {} is registered", S::NOUN, S::PUBLISHER.as_str());
        }
        Ok(Answer {
            picks: decision.picks.iter().map(|pick| self.selected(pick)).collect(),
            alternates: decision.alternates.iter().map(|pick| self.selected(pick)).collect(),
            explanation: decision.explanation,
        })
    }

    fn selected(&self, pick: &Pick) -> SelectedHost {
        let facts = self.world.facts(pick.host);
        SelectedHost {
            host: self.world.name(pick.host).to_owned(),
            epoch: facts.epoch.0,
            availability_zone: facts.zone.clone(),
            pool: pick.pool.clone(),
        }
    }

    fn has_left(&self, host: &HostName) -> bool {
        self.entries.get(host).is_none_or(|entry| entry.left.is_some())
    }

    fn leave_if_gone(&mut self, host: &HostName, now: Instant) {
        if let Some(entry) = self.entries.get_mut(host)
            && entry.left.is_none()
            && entry.absent
            && entry.lost.is_some()
        {
            entry.left = Some(now);
            self.leavers.push_back((now, host.clone()));
            self.show(host);
        }
    }

    /// Brings the rows in line with whether the host is up.
    fn show(&mut self, host: &HostName) {
        self.count(host);
        let Some(entry) = self.entries.get(host) else { return };
        let (id, reason) = (entry.id, entry.down_reason());
        if self.world.rows_of(id).next().is_none() {
            self.rebuild(host);
            return;
        }
        let (up, quarantined) = (entry.is_up(), entry.builds.is_on());
        let facts = self.world.facts_mut(id);
        facts.down_reason = reason.unwrap_or_default();
        facts.quarantine_reason = entry.builds.reason().unwrap_or_default();
        self.world.update_rows(id, |row| {
            let head = row.head_mut();
            (head.up, head.quarantined) = (up, quarantined);
        });
    }

    fn count(&mut self, host: &HostName) {
        let Some(entry) = self.entries.get_mut(host) else { return };
        let (up, registered) = (entry.is_up(), entry.left.is_none());
        let standing = &mut self.standing;
        standing.up = standing.up - usize::from(entry.counted_up) + usize::from(up);
        standing.registered =
            standing.registered - usize::from(entry.counted_registered) + usize::from(registered);
        let quarantined = entry.builds.is_on() && registered;
        self.quarantined =
            self.quarantined - usize::from(entry.counted_quarantined) + usize::from(quarantined);
        (entry.counted_up, entry.counted_registered) = (up, registered);
        entry.counted_quarantined = quarantined;
    }

    /// Makes the rows anew from the capabilities, with nothing held.
    pub(super) fn rebuild(&mut self, host: &HostName) {
        let Some(entry) = self.entries.get(host) else { return };
        let (id, reason, builds) = (entry.id, entry.down_reason(), entry.builds);
        let unknown = Capabilities { enabled: true, ..Capabilities::default() };
        let capabilities = entry.capabilities.as_deref();
        let told = capabilities.unwrap_or(&unknown);
        let vocabulary = self.world.vocabulary_mut();
        let zone = vocabulary.intern(&told.availability_zone);
        let aggregates = vocabulary.intern_aggregates(&told.aggregates);
        let (up, enabled, quarantined) = (reason.is_none(), told.enabled, builds.is_on());
        let head = Head { host: id, zone, aggregates, up, enabled, quarantined };
        let rows = S::rows(head, host.as_str(), capabilities, self.world.vocabulary_mut());
        self.world.set_rows(id, rows);
        let facts = self.world.facts_mut(id);
        facts.epoch = Epoch(told.epoch);
        facts.zone.clone_from(&told.availability_zone);
        facts.disabled_reason.clone_from(&told.disabled_reason);
        facts.down_reason = reason.unwrap_or_default();
        facts.quarantine_reason = builds.reason().unwrap_or_default();
    }

    /// Pays holds from the growth since `before`, and takes the others on the new rows.
    pub(super) fn settle(&mut self, id: HostId, before: &[S::Row]) {
        let mut growth: Vec<(String, AmountOf<S>)> = self
            .world
            .rows_of(id)
            .filter_map(|row| {
                let old = before.iter().find(|old| old.pool() == row.pool())?;
                Some((row.pool().to_owned(), row.growth_since(old)))
            })
            .collect();
        self.holds.settle(id, |hold| {
            growth.iter_mut().any(|(pool, growth)| *pool == hold.pool && growth.take(&hold.amount))
        });
        let left: Vec<_> = self.holds.on(id).cloned().collect();
        self.hold(&left);
    }

    fn expire(&mut self, now: Instant) {
        let expired = self.holds.take_expired(now);
        self.release(&expired);
    }

    pub(super) fn hold(&mut self, holds: &[Hold<AmountOf<S>>]) {
        for hold in holds {
            self.world.update_rows(hold.host, |row| {
                if row.pool() == hold.pool {
                    row.hold(&hold.amount);
                }
            });
        }
    }

    pub(super) fn release(&mut self, holds: &[Hold<AmountOf<S>>]) {
        for hold in holds {
            self.world.update_rows(hold.host, |row| {
                if row.pool() == hold.pool {
                    row.release(&hold.amount);
                }
            });
        }
    }
}
