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

#[cfg(test)]
mod tests {
    use kilonova_proto::types::v1::instance::State;

    use super::super::fixtures::{HOST, entry, instance, kinds, receipt};
    use super::*;

    /// A group with two members on one host, as records and group have it.
    fn world(policy: Policy) -> (World, ServerGroupId, [InstanceId; 2]) {
        let (mut world, group) = (World::default(), ServerGroupId::generate());
        let ids = [InstanceId::generate(), InstanceId::generate()];
        let mut record = ServerGroupRecord::default();
        let rule = record.server_group.get_or_insert_default();
        rule.set_policy(policy);
        for id in ids {
            let mut member = instance(id, State::Active, HOST);
            member.receipts.push(receipt(HOST));
            let spec = member.instance.as_mut().unwrap().spec.get_or_insert_default();
            spec.hints.get_or_insert_default().server_group_id = group.to_string();
            world.instances.insert(id, entry(member));
            record.server_group.get_or_insert_default().instance_ids.push(id.to_string());
            let place = MemberPlace { host: HOST.into(), ..Default::default() };
            record.places.insert(id.to_string(), place);
        }
        world.groups.insert(group, entry(record));
        (world, group, ids)
    }

    fn change(world: &mut World, id: ServerGroupId, change: impl FnOnce(&mut ServerGroupRecord)) {
        let mut record = ServerGroupRecord::clone(&world.groups[&id].record);
        change(&mut record);
        world.groups.insert(id, entry(record));
    }

    #[test]
    fn members_are_where_their_records_say() {
        let (mut world, group, [first, second]) = world(Policy::Affinity);
        assert!(judge(&world).is_empty());
        change(&mut world, group, |record| drop(record.places.remove(&first.to_string())));
        assert_eq!(kinds(&judge(&world)), [(Kind::GroupPlaceWrong, true)]);
        change(&mut world, group, |record| {
            record.server_group.get_or_insert_default().instance_ids.clear();
        });
        assert_eq!(kinds(&judge(&world)), [(Kind::GroupPlaceWrong, true); 2]);
        let moving = InstanceRecord {
            operations: vec![Default::default()],
            ..InstanceRecord::clone(&world.instances[&second].record)
        };
        world.instances.insert(second, entry(moving));
        assert_eq!(judge(&world).len(), 1, "what is under way is passed over");
    }

    #[test]
    fn a_member_that_is_gone_leaves() {
        let (mut world, _, [first, second]) = world(Policy::Affinity);
        world.instances.remove(&first);
        let mut gone = InstanceRecord::clone(&world.instances[&second].record);
        gone.instance.get_or_insert_default().set_state(State::Deleted);
        world.instances.insert(second, entry(gone));
        assert_eq!(kinds(&judge(&world)), [(Kind::GroupMemberGone, true); 2]);
    }

    #[test]
    fn a_broken_rule_is_only_told() {
        let broken = [(Kind::GroupRuleBroken, false)];
        let (mut spread, group, _) = world(Policy::AntiAffinity);
        assert_eq!(kinds(&judge(&spread)), broken);
        change(&mut spread, group, |record| {
            record.server_group.get_or_insert_default().max_per_host = 2;
        });
        assert!(judge(&spread).is_empty());
        assert!(judge(&world(Policy::SoftAntiAffinity).0).is_empty());
        let (mut lost, group, _) = world(Policy::Affinity);
        lost.groups.remove(&group);
        assert_eq!(kinds(&judge(&lost)), broken);
    }

    #[test]
    fn a_rule_about_one_host_needs_one_host() {
        let (mut world, group, [first, _]) = world(Policy::Affinity);
        let mut record = InstanceRecord::clone(&world.instances[&first].record);
        record.instance.get_or_insert_default().host = "h2".into();
        record.receipts = vec![receipt("h2")];
        world.instances.insert(first, entry(record));
        let place = MemberPlace { host: "h2".into(), ..Default::default() };
        change(&mut world, group, |record| drop(record.places.insert(first.to_string(), place)));
        let found = judge(&world);
        assert_eq!(kinds(&found), [(Kind::GroupRuleBroken, false)]);
        assert_eq!(found[0].cause, "they are to share one host, and there are 1 on h1, 1 on h2");
    }
}
