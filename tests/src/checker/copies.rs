//! The last good copy of what users have is only destroyed once they asked for that, or it runs elsewhere.
//!
//! A copy is good from the moment at which it ran until it is removed, also while it is handed over: it can be taken back. The
//! history of the record says what was asked by then.

use std::collections::BTreeMap;
use std::time::SystemTime;

use kilonova_model::time::timestamp;
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::Outcome;
use kilonova_proto::types::v1::action::Kind;
use prost_types::Timestamp;

use super::world::moment;
use super::{Event, Expected, Findings, Want, World};

const LAST: &str = "last good copy";
const KEPT: &str = "nothing is removed";

/// Which copies there are, by id and host, and since when each is good; none while it is only prepared.
type Copies<'a> = BTreeMap<&'a str, BTreeMap<&'a str, Option<SystemTime>>>;

/// What a record's history says of a moment.
struct Told<'a> {
    actions: &'a [pb::Action],
    launch_time: Option<&'a Timestamp>,
}

/// No copy is destroyed that was the last one, unless its end was asked for, it was never launched, or its host was given up by
/// an evacuation.
pub fn last_is_kept(world: &World, expected: &Expected, findings: &mut Findings) {
    let mut copies = Copies::new();
    for event in &world.events {
        let (id, host) = (event.line.id.as_str(), event.line.host.as_str());
        let of = copies.entry(id).or_default();
        match event.line.op.as_str() {
            "spawn" | "create" | "create_snapshot" | "take_over" | "take_back" => {
                of.insert(host, Some(event.at));
            }
            "prepare" => _ = of.insert(host, None),
            "destroy" | "delete" | "delete_snapshot" => {
                let Some(Some(good_since)) = of.remove(host) else { continue };
                judge(world, expected, event, good_since, of, findings);
            }
            _ => {}
        }
    }
}

fn judge(
    world: &World,
    expected: &Expected,
    event: &Event,
    good_since: SystemTime,
    others: &BTreeMap<&str, Option<SystemTime>>,
    findings: &mut Findings,
) {
    let (id, at) = (event.line.id.as_str(), event.at);
    let Some(told) = told(world, id) else {
        // A record that is gone was deleted, unless its user never asked for that.
        let wanted = expected.wanted.get(id).is_some_and(|want| *want != Want::Absent);
        let again = world.events.iter().any(|later| {
            let makes = matches!(later.line.op.as_str(), "spawn" | "create" | "take_over" | "take_back");
            makes && later.line.id == id && later.at > at
        });
        let alone = others.values().all(Option::is_none) && !again;
        findings.add_unless(!(wanted && alone), LAST, id, || {
            format!("{} destroyed its last copy, and there is no record of it", event.line.host)
        });
        return;
    };
    if told.deletes_by(at) || !told.launched_by(at) || told.left_by_evacuation(good_since, at) {
        return;
    }
    let accepted = told.last_accepted_by(at);
    // A host that was known to be away when this was asked for may have lost its copy for good.
    let elsewhere = others.iter().filter(|(_, good)| good.is_some());
    let counted = elsewhere.filter(|(host, _)| !expected.was_known_away(host, accepted, at));
    findings.add_unless(counted.count() > 0, LAST, id, || {
        let host = &event.line.host;
        let (generation, attempt) = (event.line.generation, event.line.attempt);
        format!(
            "{host} destroyed it by {generation}.{attempt} at {}, good since {}; other copies: {:?}; {}",
            timestamp(at),
            timestamp(good_since),
            others.keys(),
            expected.evidence(others.keys().copied())
        )
    });
}

/// What is told of an instance, a volume or a snapshot.
fn told<'a>(world: &'a World, id: &str) -> Option<Told<'a>> {
    if let Some(record) = world.instances.get(id) {
        let launch_time = record.instance.as_ref().and_then(|instance| instance.launch_time.as_ref());
        return Some(Told { actions: &record.actions, launch_time });
    }
    if let Some(record) = world.volumes.get(id) {
        let launch_time = record.volume.as_ref().and_then(|volume| volume.launch_time.as_ref());
        return Some(Told { actions: &record.actions, launch_time });
    }
    let record = world.snapshots.get(id)?;
    Some(Told { actions: &record.actions, launch_time: None })
}

impl Told<'_> {
    fn accepted_by(&self, at: SystemTime) -> impl Iterator<Item = (&pb::Action, SystemTime)> {
        let started = |action: &'_ pb::Action| action.start_time.as_ref().map(moment);
        self.actions
            .iter()
            .filter_map(move |action| Some((action, started(action)?)))
            .filter(move |(_, start)| *start <= at)
    }

    fn deletes_by(&self, at: SystemTime) -> bool {
        self.accepted_by(at).any(|(action, _)| action.kind() == Kind::Delete)
    }

    /// Whether it had been there before.
    fn launched_by(&self, at: SystemTime) -> bool {
        let create = self.actions.iter().find(|action| action.kind() == Kind::Create);
        let launched = match create {
            Some(create) if create.outcome() == Outcome::Succeeded => create.end_time.as_ref(),
            Some(_) => None,
            // Older than the history goes back.
            None => self.launch_time,
        };
        launched.is_some_and(|launched| moment(launched) < at)
    }

    /// Whether an evacuation gave this copy up, or was under way and had it made.
    fn left_by_evacuation(&self, good_since: SystemTime, at: SystemTime) -> bool {
        self.accepted_by(at).filter(|(action, _)| action.kind() == Kind::Evacuate).any(|(action, start)| {
            let end = action.end_time.as_ref().map(moment);
            good_since <= start || end.is_none_or(|end| at <= end)
        })
    }

    fn last_accepted_by(&self, at: SystemTime) -> SystemTime {
        self.accepted_by(at).map(|(_, start)| start).max().unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

/// Since the store is not what it was, nothing is removed: nobody knows what is wanted.
pub fn nothing_is_removed(world: &World, expected: &Expected, findings: &mut Findings) {
    let Some(since) = expected.kept_since else { return };
    for event in world.events.iter().filter(|event| event.at >= since) {
        let removes = matches!(event.line.op.as_str(), "destroy" | "delete" | "delete_snapshot");
        findings.add_unless(!removes, KEPT, &event.line.id, || {
            let (host, op) = (&event.line.host, &event.line.op);
            format!(
                "{host} did {op} at {}, and nothing is to be removed since {}",
                timestamp(event.at),
                timestamp(since)
            )
        });
    }
}
