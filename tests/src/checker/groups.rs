//! Server groups: members exist, places are where the members are, and hard rules hold at every moment.

use std::collections::{BTreeMap, BTreeSet};

use kilonova_proto::types::v1::instance::State;
use kilonova_proto::types::v1::server_group::Policy;

use super::{Expected, Findings, World};

const GROUPS: &str = "server groups";
const RULES: &str = "group rules";

/// The group each instance was created in.
fn memberships(world: &World) -> BTreeMap<&str, &str> {
    let group = |record: &'_ kilonova_proto::conductor::v1::InstanceRecord| {
        let hints = record.instance.as_ref()?.spec.as_ref()?.hints.as_ref()?;
        Some(hints.server_group_id.clone()).filter(|group| !group.is_empty())
    };
    world
        .instances
        .iter()
        .filter_map(|(id, record)| {
            let group = group(record)?;
            world.groups.get_key_value(&group).map(|(group, _)| (id.as_str(), group.as_str()))
        })
        .collect()
}

/// Members and places agree with the records.
pub fn as_recorded(world: &World, findings: &mut Findings) {
    let memberships = memberships(world);
    for (group, record) in &world.groups {
        let server_group = record.server_group.clone().unwrap_or_default();
        let members: BTreeSet<&str> = server_group.instance_ids.iter().map(String::as_str).collect();
        let by_records: BTreeSet<&str> = memberships
            .iter()
            .filter(|(id, of)| **of == group && state(world, id) != State::Deleted)
            .map(|(id, _)| *id)
            .collect();
        findings.add_unless(members == by_records, GROUPS, group, || {
            format!("its members are {members:?}, and by the records {by_records:?}")
        });
        for (id, place) in &record.places {
            findings.add_unless(members.contains(id.as_str()), GROUPS, group, || {
                format!("it has a place for {id}, which is no member")
            });
            let host =
                world.instances.get(id).and_then(|record| record.instance.as_ref()).map(|i| i.host.as_str());
            findings.add_unless(host == Some(place.host.as_str()), GROUPS, group, || {
                format!("it has {id} on {:?}, and by its record it is on {host:?}", place.host)
            });
        }
        let there = |id: &&&str| matches!(state(world, id), State::Active | State::Stopped | State::Resized);
        for id in by_records.iter().filter(there) {
            findings.add_unless(record.places.contains_key(*id), GROUPS, group, || {
                format!("it has no place for {id}, which is there")
            });
        }
    }
}

fn state(world: &World, id: &str) -> State {
    let instance = world.instances.get(id).and_then(|record| record.instance.as_ref());
    instance.map_or(State::Unspecified, kilonova_proto::types::v1::Instance::state)
}

/// At no moment were guests where the rule does not let them be together, or apart.
pub fn at_every_moment(world: &World, expected: &Expected, findings: &mut Findings) {
    let memberships = memberships(world);
    let mut there: BTreeMap<&str, BTreeMap<(&str, &str), std::time::SystemTime>> = BTreeMap::new();
    for event in &world.events {
        let (id, host) = (event.line.id.as_str(), event.line.host.as_str());
        let Some(&group) = memberships.get(id) else { continue };
        let guests = there.entry(group).or_default();
        match event.line.op.as_str() {
            "spawn" | "take_over" | "take_back" => {
                let rule = world.groups[group].server_group.clone().unwrap_or_default();
                let together = guests.keys().filter(|(other, on)| *other != id && *on == host).count() + 1;
                let most = usize::try_from(rule.max_per_host.max(1)).unwrap_or(usize::MAX);
                let apart = guests.iter().find(|((other, on), since)| {
                    *other != id && *on != host && !expected.excuses([on, host], **since, event.at)
                });
                let fine = match rule.policy() {
                    Policy::AntiAffinity => together <= most,
                    Policy::Affinity => apart.is_none(),
                    _ => true,
                };
                findings.add_unless(fine, RULES, group, || {
                    format!("{id} was made on {host}, where {together} are then, and others are at {apart:?}")
                });
                guests.insert((id, host), event.at);
            }
            "destroy" | "hand_over" => _ = guests.remove(&(id, host)),
            _ => {}
        }
    }
}
