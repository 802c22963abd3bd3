//! Server groups against the records of their members.

use std::collections::{BTreeMap, BTreeSet};

use kilonova_model::{InstanceId, Revision, ServerGroupId};
use kilonova_proto::conductor::v1::{InstanceRecord, MemberPlace, ServerGroupRecord};
use kilonova_proto::types::v1::drift::Kind;
use kilonova_proto::types::v1::server_group::Policy;

use super::World;
use super::finding::{Finding, Heal};
use super::world::under_way;
use crate::cache::Entry;
use crate::groups::rule::place_of;
use crate::placed::{Phase, Placed};

/// What does not agree of groups and their members.
#[must_use]
pub fn judge(world: &World) -> Vec<Finding> {
    let mut members = BTreeMap::<ServerGroupId, Vec<(InstanceId, &Entry<InstanceRecord>)>>::new();
    for (id, entry) in &world.instances {
        let Some(group) = entry.record.group() else { continue };
        if entry.record.status().phase != Phase::Gone {
            members.entry(group).or_default().push((*id, entry));
        }
    }
    let mut found = Vec::new();
    for (id, group) in &world.groups {
        let members = members.remove(id).unwrap_or_default();
        found.extend(gone(world, *id, group));
        found.extend(members.iter().filter_map(|(member, entry)| misplaced(*id, group, *member, entry)));
        found.extend(broken(*id, group, &members));
    }
    for (id, members) in members {
        let cause = format!("there is no such group, and {} instances are to be in it", members.len());
        found.push(Finding::new(Kind::GroupRuleBroken, id, cause));
    }
    found
}

fn project(group: &ServerGroupRecord) -> &str {
    group.server_group.as_ref().map_or("", |group| &group.project_id)
}

/// The members that are gone.
fn gone(world: &World, id: ServerGroupId, group: &Entry<ServerGroupRecord>) -> Vec<Finding> {
    let named = group.record.server_group.iter().flat_map(|group| &group.instance_ids);
    let named: BTreeSet<&String> = named.chain(group.record.places.keys()).collect();
    let finding = |member: &String| {
        let entry = member.parse().ok().and_then(|member: InstanceId| world.instances.get(&member));
        let why = match entry {
            None => "there is no record of it",
            Some(entry) if entry.record.status().phase == Phase::Gone => "its record says that it is gone",
            Some(entry) if entry.record.group() != Some(id) => "its record is not of this group",
            Some(_) => return None,
        };
        let record = entry.map(|entry| entry.revision);
        let heal = Heal::LeaveGroup { group: id, member: member.clone(), record };
        let finding = Finding::new(Kind::GroupMemberGone, id, format!("{member} is a member, and {why}"));
        let seen = [group.revision.0, record.unwrap_or(Revision(0)).0];
        Some(finding.of(project(&group.record)).resting_on(seen).healed_by(heal))
    };
    named.into_iter().filter_map(finding).collect()
}

/// A member that the group has elsewhere, or not at all.
fn misplaced(
    id: ServerGroupId,
    group: &Entry<ServerGroupRecord>,
    member: InstanceId,
    entry: &Entry<InstanceRecord>,
) -> Option<Finding> {
    let record = &entry.record;
    if under_way(record.as_ref()) {
        return None;
    }
    let name = member.to_string();
    let place = place_of(&record.resource().host, record.receipts());
    let entered = group.record.places.get(&name);
    let listed = group.record.server_group.iter().any(|group| group.instance_ids.contains(&name));
    if entered == place.as_ref() && listed {
        return None;
    }
    let cause = if listed {
        format!("{member} is entered {}, and its record has it {}", words(entered), words(place.as_ref()))
    } else {
        format!("{member} is not entered as a member, and its record says that it is one")
    };
    let finding = Finding::new(Kind::GroupPlaceWrong, id, cause)
        .of(project(&group.record))
        .resting_on([group.revision.0, entry.revision.0]);
    Some(finding.healed_by(Heal::Place { group: id, member, record: entry.revision, place }))
}

fn words(place: Option<&MemberPlace>) -> String {
    let Some(place) = place else { return "nowhere".to_owned() };
    let on = if place.host.is_empty() { "on no host".to_owned() } else { format!("on {}", place.host) };
    if place.left_hosts.is_empty() {
        on
    } else {
        format!("{on}, having left {}", place.left_hosts.join(" and "))
    }
}

/// A hard rule that does not hold.
fn broken(
    id: ServerGroupId,
    group: &Entry<ServerGroupRecord>,
    members: &[(InstanceId, &Entry<InstanceRecord>)],
) -> Option<Finding> {
    let rule = group.record.server_group.as_ref()?;
    let mut hosts = BTreeMap::<&str, u32>::new();
    for (_, entry) in members {
        let host = entry.record.resource().host.as_str();
        if !host.is_empty() && entry.record.status().phase != Phase::Failed {
            *hosts.entry(host).or_default() += 1;
        }
    }
    let most = rule.max_per_host.max(1);
    let counts = |over: u32| {
        let counts = hosts.iter().filter(|(_, count)| **count > over);
        counts.map(|(host, count)| format!("{count} on {host}")).collect::<Vec<_>>().join(", ")
    };
    let cause = match rule.policy() {
        Policy::AntiAffinity if hosts.values().any(|count| *count > most) => {
            format!("at most {most} of them may share a host, and there are {}", counts(most))
        }
        Policy::Affinity if hosts.len() > 1 => {
            format!("they are to share one host, and there are {}", counts(0))
        }
        _ => return None,
    };
    let finding = Finding::new(Kind::GroupRuleBroken, id, cause);
    Some(finding.of(&rule.project_id).resting_on([group.revision.0]))
}
