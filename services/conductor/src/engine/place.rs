//! Where a record goes: a scheduler names places, and the first that the record's server group allows is taken.
//!
//! A group is read, its rule judged, and the place entered in one transaction that compares the group's revision: of two members
//! placed at once, on whichever conductors, the later is judged with the earlier in its place.

use std::time::SystemTime;

use kilonova_model::{Error, Reason, ServerGroupId, ServiceKind};
use kilonova_proto::conductor::v1::{Alternate, ServerGroupRecord};
use kilonova_proto::types::v1 as pb;
use kilonova_rpc::outcome::CallError;
use kilonova_rpc::status::from_status;
use kilonova_runtime::reconcile::Next;
use kilonova_store::{Compare, Txn, TxnOutcome};

use super::Engine;
use super::decision::decision;
use super::store::Stepped;
use crate::agents::{Agents, GroupWish, Selected};
use crate::cache::Entry;
use crate::db::Read;
use crate::groups::{Change, rule};
use crate::history::{self, Actor};
use crate::placed::{Phase, Placed, Wanted};
use crate::records::Written;
use crate::shards::Fence;

impl<P: Placed, A: Agents<P>> Engine<P, A> {
    /// Goes to the next place a scheduler named, or asks again when the server group allows none of them.
    pub(super) async fn take_alternate(&self, id: P::Id, entry: &Entry<P>, fence: &Fence) -> Stepped<P> {
        let mut record = P::clone(&entry.record);
        let places = std::mem::take(record.alternates_mut());
        match self.take(id, entry, &record, &places, fence, |_, _| {}).await {
            Some(stepped) => stepped,
            None => self.select(id, entry, fence, places).await,
        }
    }

    /// Asks a scheduler. What it named before and the server group did not allow is `refused`.
    pub(super) async fn select(
        &self,
        id: P::Id,
        entry: &Entry<P>,
        fence: &Fence,
        mut refused: Vec<Alternate>,
    ) -> Stepped<P> {
        loop {
            let start = SystemTime::now();
            let group = match self.group_of(&entry.record).await {
                Ok(group) => group,
                Err(error) => return self.store_failed(id, &error),
            };
            let member = id.to_string();
            let is_gone = self.holds_nobody(&*entry.record);
            let wish = group.map_or_else(GroupWish::default, |(_, group)| {
                refused.retain(|place| !rule::allows(&group.record, &member, &place.host, &is_gone));
                let broken = refused.iter().map(|place| place.host.clone()).collect();
                GroupWish { hosts: Some(rule::hosts(&group.record, &member, &is_gone)), broken }
            });
            let selected = match self.agents.select(id, &entry.record, self.config.alternates, &wish).await {
                Ok(selected) => selected,
                Err(CallError::Refused(status)) => {
                    let error = from_status(&status)
                        .unwrap_or_else(|| Error::new(Reason::Internal, status.message().to_owned()));
                    let attempt = entry.record.status().attempt;
                    return self.fail(id, entry, fence, history::fault(&error, "", attempt, start)).await;
                }
                Err(error) => {
                    tracing::warn!(%id, %error, "no scheduler answered");
                    return Stepped::Stop(Next::Retry);
                }
            };
            // One that names again what it was told is not allowed knows nothing better.
            if selected.places.iter().all(|place| wish.broken.contains(&place.host)) {
                return self.no_place(id, entry, fence, &selected, start).await;
            }
            let took = start.elapsed().unwrap_or_default();
            let note = |record: &mut P, taken: usize| {
                let scheduler =
                    Actor { service: ServiceKind::Scheduler, host: &selected.explanation.scheduler };
                let attempt = record.next_attempt();
                let detail = chosen(&selected, taken);
                let step = history::done("schedule", scheduler, start, took, attempt, detail);
                history::add(record.actions_mut(), step);
                let kind = history::going_on(record.actions());
                record.set_placement(decision(&selected, taken, kind, start));
            };
            if let Some(stepped) = self.take(id, entry, &entry.record, &selected.places, fence, note).await {
                return stepped;
            }
            tracing::debug!(%id, "the server group changed and allows none of the places; asking again");
            refused.extend(selected.places);
        }
    }

    async fn no_place(
        &self,
        id: P::Id,
        entry: &Entry<P>,
        fence: &Fence,
        selected: &Selected,
        start: SystemTime,
    ) -> Stepped<P> {
        let now = SystemTime::now();
        let mut record = P::clone(&entry.record);
        let attempt = record.status().attempt;
        let summary = match selected.explanation.summary.as_str() {
            summary if selected.places.is_empty() && !summary.is_empty() => summary.to_owned(),
            _ => format!("no place for this {}", P::NOUN),
        };
        let mut fault = history::fault(&Error::new(P::NO_PLACE, summary), "", attempt, now);
        fault.explanation = Some(selected.explanation.clone());
        let scheduler = Actor { service: ServiceKind::Scheduler, host: &selected.explanation.scheduler };
        let took = now.duration_since(start).unwrap_or_default();
        let mut step = history::done("schedule", scheduler, start, took, record.next_attempt(), "no place");
        step.outcome = pb::Outcome::Failed.into();
        history::add(record.actions_mut(), step);
        self.fail_with(id, entry, record, fence, fault).await
    }

    /// Enters the first of `places` that the server group allows, the rest as alternates; `None` when it allows none.
    async fn take(
        &self,
        id: P::Id,
        entry: &Entry<P>,
        record: &P,
        places: &[Alternate],
        fence: &Fence,
        note: impl Fn(&mut P, usize),
    ) -> Option<Stepped<P>> {
        let member = id.to_string();
        let _lane = match record.group() {
            Some(group) => Some(self.groups.enter(group).await),
            None => None,
        };
        loop {
            let group = match self.group_of(record).await {
                Ok(group) => group,
                Err(error) => return Some(self.store_failed(id, &error)),
            };
            let is_gone = self.holds_nobody(record);
            let may_go = |place: &Alternate| {
                group
                    .as_ref()
                    .is_none_or(|(_, group)| rule::allows(&group.record, &member, &place.host, &is_gone))
            };
            let taken = places.iter().position(may_go)?;
            let now = SystemTime::now();
            let mut record = record.clone();
            *record.alternates_mut() = places[taken + 1..].to_vec();
            note(&mut record, taken);
            self.place(&mut record, &places[taken], now);
            let Some((group_id, group)) = group else {
                return Some(self.store(id, entry, record, fence).await);
            };
            let place = rule::place_of(&record.status().host, record.receipts());
            let change = Change::moved(group_id, &group, &member, place);
            let with = self.groups.with(Txn::new(), &change);
            let written = self.records.write(id, entry, record, Some(fence), with).await;
            match &written {
                Ok(Written::Stored(entry)) => self.groups.committed(change, entry.revision),
                Ok(Written::Changed) if self.is_as_read(id, entry).await => continue,
                _ => {}
            }
            return Some(self.settled(id, written).await);
        }
    }

    /// Enters the place, and with it the intent to build there.
    fn place(&self, record: &mut P, place: &Alternate, now: SystemTime) {
        record.set_place(place, now + self.config.build_timeout.get(), now);
        let attempt = record.building_at().map_or(0, |site| site.attempt);
        let step = history::begun(record.building(), self.me(), now, attempt, format!("on {}", place.host));
        history::add(record.actions_mut(), step);
    }

    /// The server group a record is a member of, from the store.
    async fn group_of(&self, record: &P) -> Result<Option<(ServerGroupId, Read<ServerGroupRecord>)>, Error> {
        let Some(id) = record.group() else { return Ok(None) };
        let read = self.groups.read(id).await?;
        if read.is_none() {
            tracing::error!(group = %id, "a server group with members is not there; its rule does not hold");
        }
        Ok(read.map(|read| (id, read)))
    }

    /// Whether it was another key that a write ran into.
    async fn is_as_read(&self, id: P::Id, entry: &Entry<P>) -> bool {
        let now = self.records.read(id).await;
        now.is_ok_and(|now| now.is_some_and(|now| now.revision == entry.revision))
    }

    /// Brings what the server group says of a record's hosts in line with the record, after an attempt ended or a host
    /// said that nothing is left. `None` when there is nothing to do, or no more.
    pub(super) async fn correct_group(
        &self,
        id: P::Id,
        entry: &Entry<P>,
        fence: &Fence,
    ) -> Option<Stepped<P>> {
        let record = &entry.record;
        let (group_id, status) = (record.group()?, record.status());
        // One that is gone left the group, and one of which nothing is left does in its next step.
        let leaves = status.wanted == Wanted::Absent && record.receipts().is_empty();
        if leaves || status.phase == Phase::Gone {
            return None;
        }
        let member = id.to_string();
        let place = rule::place_of(&status.host, record.receipts());
        let is_right = |group: &ServerGroupRecord| group.places.get(&member) == place.as_ref();
        if self.groups.cache.get(&group_id).is_some_and(|group| is_right(&group.record)) {
            return None;
        }
        let _lane = self.groups.enter(group_id).await;
        let group = match self.group_of(record).await {
            Ok(group) => group.map(|(_, group)| group).filter(|group| !is_right(&group.record))?,
            Err(error) => return Some(self.store_failed(id, &error)),
        };
        let change = Change::moved(group_id, &group, &member, place.clone());
        let key = P::key(&self.records.db.keys, id);
        let txn = Txn::new().when(fence.holds()).when(Compare::ModRevision(key, entry.revision));
        match self.records.db.commit(self.groups.with(txn, &change)).await {
            Ok(TxnOutcome::Committed { revision }) => {
                self.groups.committed(change, revision);
                None
            }
            Ok(TxnOutcome::Conflict { .. }) => Some(Stepped::Stop(Next::Retry)),
            Err(error) => Some(self.store_failed(id, &error)),
        }
    }

    /// Stores a record that is gone, and takes it out of its server group. A host that left the registry may still hold
    /// a copy: it takes nothing new until it is back, and removes the copy then.
    pub(super) async fn store_gone(
        &self,
        id: P::Id,
        entry: &Entry<P>,
        record: P,
        fence: &Fence,
        with: Txn,
    ) -> Stepped<P> {
        let Some(group_id) = record.group() else {
            return self.store_with(id, entry, record, fence, with).await;
        };
        let _lane = self.groups.enter(group_id).await;
        let group = match self.group_of(&record).await {
            Ok(Some((_, group))) => group,
            Ok(None) => return self.store_with(id, entry, record, fence, with).await,
            Err(error) => return self.store_failed(id, &error),
        };
        let change = Change::left(group_id, &group, &id.to_string());
        let with = self.groups.with(with, &change);
        let written = self.records.write(id, entry, record, Some(fence), with).await;
        if let Ok(Written::Stored(entry)) = &written {
            self.groups.committed(change, entry.revision);
        }
        self.settled(id, written).await
    }
}

/// What was chosen, in words.
fn chosen(selected: &Selected, taken: usize) -> String {
    let names =
        |places: &[Alternate]| places.iter().map(|place| place.host.as_str()).collect::<Vec<_>>().join(", ");
    let (passed, rest) = selected.places.split_at(taken);
    let mut detail = format!("{} of {}", names(&rest[..1]), selected.explanation.considered);
    if rest.len() > 1 {
        detail.push_str(&format!(", then {}", names(&rest[1..])));
    }
    if !passed.is_empty() {
        detail.push_str(&format!("; its server group does not allow {}", names(passed)));
    }
    detail
}
