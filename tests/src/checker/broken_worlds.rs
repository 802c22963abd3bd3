//! One sound world, and one thing broken in it after another: each has to be found, and nothing in the sound one.

use std::time::{Duration, SystemTime};

use kilonova_proto::conductor::v1::{
    InstanceRecord, MemberPlace, Operation, Receipt, RequestRecord, ServerGroupRecord, UsageRecord,
    VolumeRecord,
};
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::action::Kind;
use kilonova_proto::types::v1::instance::State as InstanceState;
use kilonova_proto::types::v1::volume::State as VolumeState;
use prost_types::Timestamp;
use serde_json::{Value, json};

use super::{Capacity, Event, Expected, Outage, Want, World, check};
use crate::journal::Line;

pub(super) fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

pub(super) fn time(seconds: i64) -> Option<Timestamp> {
    Some(Timestamp { seconds, nanos: 0 })
}

pub(super) fn event(
    second: u64,
    host: &str,
    op: &str,
    id: &str,
    command: (u64, u32),
    detail: Value,
) -> Event {
    let (host, op, id) = (host.to_owned(), op.to_owned(), id.to_owned());
    let (generation, attempt) = command;
    Event {
        at: at(second),
        line: Line { seq: second, host, op, id, generation, attempt, detail, ..Line::default() },
    }
}

pub(super) fn action(kind: Kind, outcome: pb::Outcome, start: i64) -> pb::Action {
    let step =
        pb::Step { name: "x".into(), start_time: time(start), outcome: outcome.into(), ..Default::default() };
    pb::Action {
        kind: kind.into(),
        start_time: time(start),
        end_time: time(start + 1),
        outcome: outcome.into(),
        steps: vec![step],
        ..Default::default()
    }
}

fn attachment() -> pb::Attachment {
    let mut one = pb::Attachment {
        instance_id: "i1".into(),
        volume_id: "v1".into(),
        device: "/dev/vdb".into(),
        ..Default::default()
    };
    one.set_state(pb::attachment::State::Attached);
    one
}

fn instance(host: &str, attempt: u32) -> InstanceRecord {
    let hints = pb::SchedulerHints { server_group_id: "g1".into(), ..Default::default() };
    let mut instance = pb::Instance {
        project_id: "p".into(),
        spec: Some(pb::InstanceSpec { hints: Some(hints), ..Default::default() }),
        flavor: Some(pb::Flavor { vcpus: 2, ram_mib: 512, ..Default::default() }),
        host: host.into(),
        attempt,
        launch_time: time(2),
        ..Default::default()
    };
    instance.set_state(InstanceState::Active);
    InstanceRecord {
        instance: Some(instance),
        actions: vec![action(Kind::Create, pb::Outcome::Succeeded, 1)],
        receipts: vec![Receipt { host: host.into(), attempt, ..Default::default() }],
        counted: true,
        ..Default::default()
    }
}

/// `i1` on h1 with volume `v1`, `i2` on h2, both of an anti-affinity group; `i3` deleted.
pub(super) fn sound() -> (World, Expected) {
    let mut world = World::default();
    let mut first = instance("h1", 1);
    first.instance.as_mut().unwrap().attachments.push(attachment());
    world.instances.insert("i1".into(), first);
    let mut second = instance("h2", 2);
    second.actions[0].end_time = time(8);
    world.instances.insert("i2".into(), second);
    let mut gone = instance("", 1);
    gone.instance.as_mut().unwrap().set_state(InstanceState::Deleted);
    gone.instance.as_mut().unwrap().delete_time = time(9);
    (gone.counted, gone.receipts) = (false, Vec::new());
    gone.actions.push(action(Kind::Delete, pb::Outcome::Succeeded, 5));
    world.instances.insert("i3".into(), gone);

    let mut volume = pb::Volume {
        project_id: "p".into(),
        spec: Some(pb::VolumeSpec { size_gib: 5, ..Default::default() }),
        host: "b1".into(),
        attempt: 1,
        launch_time: time(2),
        attachments: vec![attachment()],
        ..Default::default()
    };
    volume.set_state(VolumeState::InUse);
    let volume = VolumeRecord {
        volume: Some(volume),
        actions: vec![action(Kind::Create, pb::Outcome::Succeeded, 1)],
        receipts: vec![Receipt { host: "b1".into(), attempt: 1, ..Default::default() }],
        counted: true,
        ..Default::default()
    };
    world.volumes.insert("v1".into(), volume);

    let usage =
        pb::QuotaUsage { instances: 2, cores: 4, ram_mib: 1024, volumes: 1, gigabytes: 5, snapshots: 0 };
    world.usages.insert("p".into(), UsageRecord { usage: Some(usage) });
    let mut group = pb::ServerGroup { instance_ids: vec!["i1".into(), "i2".into()], ..Default::default() };
    group.set_policy(pb::server_group::Policy::AntiAffinity);
    let place = |host: &str| MemberPlace { host: host.into(), left_hosts: Vec::new() };
    let places = [("i1".to_owned(), place("h1")), ("i2".to_owned(), place("h2"))].into();
    world.groups.insert("g1".into(), ServerGroupRecord { server_group: Some(group), places });
    let request = RequestRecord {
        method: "CreateInstance".into(),
        resource_ids: vec!["i1".into()],
        ..Default::default()
    };
    world.requests.insert("p/r1".into(), request);

    let amount = json!({ "vcpus": 2, "ram_mib": 512, "disk_gib": 1 });
    world.events = vec![
        event(1, "h1", "spawn", "i1", (1, 1), amount.clone()),
        event(2, "b1", "create", "v1", (1, 1), json!({ "pool": "p0", "size_gib": 5 })),
        event(3, "b1", "export", "v1", (1, 1), json!({ "host": "h1" })),
        event(4, "h1", "attach", "i1", (2, 1), json!({ "attach": { "volume": "v1", "device": "/dev/vdb" } })),
        event(5, "h3", "spawn", "i2", (1, 1), amount.clone()),
        event(6, "h3", "destroy", "i2", (1, 1), Value::Null),
        event(7, "h2", "spawn", "i2", (1, 2), amount.clone()),
        event(8, "h4", "spawn", "i3", (1, 1), amount),
        event(9, "h4", "destroy", "i3", (2, 1), Value::Null),
    ];
    let wanted = [
        ("i1".to_owned(), Want::State("ACTIVE")),
        ("i2".to_owned(), Want::Present),
        ("i3".to_owned(), Want::Absent),
        ("v1".to_owned(), Want::State("IN_USE")),
    ];
    let capacity = Capacity { vcpus: 4, ram_mib: 1024, disk_gib: 10, pool_gib: 10 };
    (world, Expected { wanted: wanted.into(), capacity, ..Expected::default() })
}

/// The rules that are found broken.
pub(super) fn broken(change: impl FnOnce(&mut World, &mut Expected)) -> Vec<&'static str> {
    let (mut world, mut expected) = sound();
    change(&mut world, &mut expected);
    let mut rules: Vec<_> = check(&world, &expected).into_iter().map(|violation| violation.rule).collect();
    rules.dedup();
    rules
}

pub(super) fn guest<'a>(world: &'a mut World, id: &str) -> &'a mut InstanceRecord {
    world.instances.get_mut(id).unwrap()
}

pub(super) fn shown<'a>(world: &'a mut World, id: &str) -> &'a mut pb::Instance {
    guest(world, id).instance.as_mut().unwrap()
}

pub(super) fn disk(world: &mut World) -> &mut pb::Volume {
    world.volumes.get_mut("v1").unwrap().volume.as_mut().unwrap()
}

#[test]
fn nothing_is_found_in_a_sound_world() {
    let (world, expected) = sound();
    assert_eq!(check(&world, &expected), []);
}

/// What is broken, how, and the rule that finds it.
type Case = (&'static str, fn(&mut World, &mut Expected), &'static str);

const CASES: &[Case] = &[
    ("a build goes on", |w, _| shown(w, "i1").set_state(InstanceState::Building), "final state"),
    ("a task goes on", |w, _| shown(w, "i1").set_task(pb::instance::Task::Stopping), "final state"),
    ("an operation waits", |w, _| guest(w, "i1").operations.push(Operation::default()), "final state"),
    ("a deadline is left", |w, _| guest(w, "i1").deadline_time = time(1), "final state"),
    ("an error without a reason", |w, _| shown(w, "i2").set_state(InstanceState::Error), "final state"),
    ("a fault of one that is well", |w, _| shown(w, "i2").fault = Some(pb::Fault::default()), "final state"),
    ("a volume on its way", |w, _| disk(w).set_state(VolumeState::Detaching), "final state"),
    ("an unreadable record", |w, _| w.unreadable.push(("k".into(), "?".into())), "final state"),
    ("an acknowledged id is lost", |_, e| _ = e.wanted.insert("i9".into(), Want::Present), "as was asked"),
    ("a delete was forgotten", |_, e| _ = e.wanted.insert("i2".into(), Want::Absent), "as was asked"),
    ("another state", |_, e| _ = e.wanted.insert("v1".into(), Want::State("AVAILABLE")), "as was asked"),
    (
        "a record that nobody was told of",
        |_, e| {
            e.complete = true;
            e.wanted.remove("i2");
        },
        "as was asked",
    ),
    (
        "tried twice in one place",
        |w, _| guest(w, "i2").tried_hosts = vec!["h2".into(), "h2".into()],
        "tried once",
    ),
    ("a receipt elsewhere", |w, _| guest(w, "i1").receipts.push(receipt("h3")), "receipts"),
    ("no receipt at home", |w, _| guest(w, "i1").receipts.clear(), "receipts"),
    ("two guests", |w, _| w.events.retain(|e| e.at != at(6)), "one guest at most"),
    (
        "made twice in one place",
        |w, _| w.events.push(event(10, "h1", "spawn", "i1", (2, 1), small())),
        "one guest at most",
    ),
    (
        "one command done twice",
        |w, _| w.events.push(event(10, "h1", "attach", "i1", (2, 1), Value::Null)),
        "once",
    ),
    (
        "one attempt on two hosts",
        |w, _| w.events.push(event(10, "h5", "spawn", "i3", (1, 1), small())),
        "once",
    ),
    ("too many VCPUs", |_, e| e.capacity.vcpus = 1, "room"),
    ("too much memory", |_, e| e.capacity.ram_mib = 511, "room"),
    ("too much disk", |_, e| e.capacity.disk_gib = 0, "room"),
    ("too large a pool", |_, e| e.capacity.pool_gib = 4, "room"),
    (
        "grown too large",
        |w, _| w.events.push(event(10, "b1", "extend", "v1", (2, 1), json!({ "size_gib": 11 }))),
        "room",
    ),
    (
        "a guest of nobody",
        |w, _| w.events.push(event(10, "h1", "spawn", "i9", (1, 1), small())),
        "guests are records",
    ),
    ("a guest that was left", |w, _| w.events.retain(|e| e.at != at(9)), "guests are records"),
    ("no guest", |w, _| w.events.retain(|e| e.at != at(7)), "guests are records"),
    (
        "a guest that was stopped",
        |w, _| w.events.push(event(10, "h2", "power", "i2", (2, 2), json!({ "power": "stop" }))),
        "guests are records",
    ),
    (
        "a volume of nobody",
        |w, _| w.events.push(event(10, "b1", "create", "v9", (1, 1), Value::Null)),
        "volumes are records",
    ),
    ("another size", |w, _| disk(w).spec.as_mut().unwrap().size_gib = 6, "volumes are records"),
    ("no volume", |w, _| w.events.retain(|e| e.at != at(2)), "volumes are records"),
    ("no export", |w, _| w.events.retain(|e| e.at != at(3)), "exports are attachments"),
    (
        "an export too many",
        |w, _| w.events.push(event(10, "b1", "export", "v1", (1, 1), json!({ "host": "h2" }))),
        "exports are attachments",
    ),
    ("one side only", |w, _| shown(w, "i1").attachments.clear(), "attachments agree"),
    ("the other side only", |w, _| disk(w).attachments.clear(), "attachments agree"),
    ("the guest does not have it", |w, _| w.events.retain(|e| e.at != at(4)), "attachments agree"),
    ("another device", |w, _| disk(w).attachments[0].device = "/dev/vdc".into(), "attachments agree"),
    ("usage drifts", |w, _| w.usages.get_mut("p").unwrap().usage.as_mut().unwrap().cores = 5, "usage"),
    ("usage of a project is lost", |w, _| w.usages.clear(), "usage"),
    ("what is gone counts", |w, _| guest(w, "i3").counted = true, "usage"),
    (
        "a request of nothing",
        |w, _| w.requests.get_mut("p/r1").unwrap().resource_ids.push("i9".into()),
        "requests",
    ),
    ("a member that is gone", |w, _| group(w).instance_ids.push("i3".into()), "server groups"),
    ("a member is not in it", |w, _| _ = group(w).instance_ids.pop(), "server groups"),
    (
        "another place",
        |w, _| w.groups.get_mut("g1").unwrap().places.get_mut("i1").unwrap().host = "h3".into(),
        "server groups",
    ),
    ("no place", |w, _| w.groups.get_mut("g1").unwrap().places.clear(), "server groups"),
    ("two where one may be", |w, _| w.events[6].line.host = "h1".into(), "group rules"),
    ("apart where together", |w, _| group(w).set_policy(pb::server_group::Policy::Affinity), "group rules"),
    ("an action goes on", |w, _| guest(w, "i1").actions[0].set_outcome(pb::Outcome::InProgress), "history"),
    (
        "a step goes on",
        |w, _| guest(w, "i1").actions[0].steps[0].set_outcome(pb::Outcome::InProgress),
        "history",
    ),
    ("a create that did not launch it", |w, _| shown(w, "i1").launch_time = None, "history"),
    (
        "a create that failed",
        |w, _| guest(w, "i1").actions[0] = action(Kind::Create, pb::Outcome::Failed, 1),
        "history",
    ),
    (
        "a failure without a step",
        |w, _| {
            guest(w, "i1")
                .actions
                .push(pb::Action { steps: Vec::new(), ..action(Kind::Reboot, pb::Outcome::Failed, 3) })
        },
        "history",
    ),
    ("a delete that was not", |w, _| _ = guest(w, "i3").actions.pop(), "history"),
    ("gone without a time", |w, _| shown(w, "i3").delete_time = None, "history"),
    ("an end before the start", |w, _| guest(w, "i1").actions[0].end_time = time(0), "history"),
    (
        "actions out of order",
        |w, _| guest(w, "i3").actions[1] = action(Kind::Delete, pb::Outcome::Succeeded, 0),
        "history",
    ),
    (
        "a stop that did not stop it",
        |w, _| guest(w, "i1").actions.push(action(Kind::Stop, pb::Outcome::Succeeded, 3)),
        "history",
    ),
];

fn receipt(host: &str) -> Receipt {
    Receipt { host: host.into(), attempt: 1, ..Default::default() }
}

fn small() -> Value {
    json!({ "vcpus": 1, "ram_mib": 1, "disk_gib": 1 })
}

fn group(world: &mut World) -> &mut pb::ServerGroup {
    world.groups.get_mut("g1").unwrap().server_group.as_mut().unwrap()
}

#[test]
fn each_thing_that_is_broken_is_found_by_its_rule() {
    for (what, change, rule) in CASES {
        let found = broken(change);
        assert!(found.contains(rule), "{what}: {found:?}");
    }
}

#[test]
fn what_a_host_removed_in_an_earlier_life_is_made_again_and_not_in_the_same() {
    let found = |lives: [u64; 3]| {
        broken(|world, _| {
            for (nth, (op, epoch)) in ["spawn", "destroy", "spawn"].into_iter().zip(lives).enumerate() {
                let mut event = event(20 + nth as u64, "h9", op, "i9", (1, 1), small());
                event.line.epoch = epoch;
                world.events.push(event);
            }
        })
    };
    assert!(!found([1, 1, 2]).contains(&"once"));
    for lives in [[1, 1, 1], [1, 2, 2]] {
        assert!(found(lives).contains(&"once"), "{lives:?}");
    }
}

#[test]
fn an_outage_excuses_a_second_guest_and_a_receipt_and_only_there_and_then() {
    let two = |world: &mut World| world.events.retain(|event| event.at != at(6));
    let away = |host: &str, from, until: Option<u64>| {
        vec![Outage { host: host.into(), from: at(from), started: None, until: until.map(at) }]
    };
    let found = |outages: Vec<Outage>| {
        broken(|world, expected| {
            two(world);
            expected.outages = outages;
        })
    };
    assert_eq!(found(away("h3", 6, None)), Vec::<&str>::new());
    for outages in [away("h1", 6, None), away("h3", 6, Some(8)), away("h3", 8, None), away("h3", 1, Some(3))]
    {
        assert!(found(outages.clone()).contains(&"one guest at most"), "{outages:?}");
    }
    let left = |until| {
        broken(|world, expected| {
            guest(world, "i3").receipts.push(receipt("h3"));
            expected.outages = away("h3", 6, until);
        })
    };
    assert_eq!((left(None), left(Some(7))), (vec![], vec!["receipts"]), "until it is back");
}

#[test]
fn a_host_that_is_back_is_ready_once_what_it_lost_is_removed() {
    let found = |started, ready| {
        broken(|world, expected| {
            let late = world.events.iter().position(|event| event.at == at(6)).unwrap();
            let removed = Event { at: at(9), ..world.events.remove(late) };
            world.events.push(removed);
            let (from, started, until) = (at(6), Some(at(started)), Some(at(ready)));
            expected.outages = vec![Outage { host: "h3".into(), from, started, until }];
        })
    };
    assert_eq!((found(8, 10), found(8, 8)), (vec![], vec!["nothing left behind", "one guest at most"]));
    // It was made elsewhere when the host had perhaps already asked what it is to keep.
    assert_eq!(found(6, 8), ["one guest at most"]);
}
