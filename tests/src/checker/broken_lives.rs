//! Worlds in which something lived that should not, or was destroyed that should not be: each is found by its rule, with
//! what it says, and what is allowed is not.

use std::time::Duration;

use kilonova_proto::conductor::v1::{SnapshotRecord, VolumeRecord};
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::action::Kind;
use kilonova_proto::types::v1::volume::State as VolumeState;
use serde_json::{Value, json};

use super::broken_worlds::{action, at, broken, disk, event, guest, shown, sound, time};
use super::{Event, Expected, Outage, Want, World, check, lasting};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn away(host: &str, from: u64, until: Option<u64>) -> Outage {
    Outage { host: host.into(), from: at(from), started: None, until: until.map(at) }
}

/// What `lasting` says of one rule.
fn said(rule: &str, change: impl FnOnce(&mut World, &mut Expected)) -> Vec<String> {
    let (mut world, mut expected) = sound();
    change(&mut world, &mut expected);
    world.events.sort_by_key(|event| event.at);
    let found = lasting(&world, &expected).into_iter().filter(|violation| violation.rule == rule);
    found.map(|violation| violation.cause).collect()
}

/// The guest of `i2` on h3 is destroyed at `end` and not before that on h2 was made.
fn slow(world: &mut World, end: u64) {
    world.events.retain(|event| event.at != at(6));
    world.events.push(event(end, "h3", "destroy", "i2", (1, 1), Value::Null));
}

/// A kind of action of `i1` that began and ended then.
fn asked(world: &mut World, kind: Kind, start: i64, end: Option<i64>, outcome: pb::Outcome) {
    let mut one = action(kind, outcome, start);
    one.end_time = end.and_then(time);
    guest(world, "i1").actions.push(one);
}

fn destroyed(second: u64, host: &str, id: &str) -> Event {
    event(second, host, "destroy", id, (9, 1), Value::Null)
}

#[test]
fn a_slow_removal_is_part_of_a_guests_life() {
    let found = said("one guest at most", |world, _| slow(world, 9));
    assert_eq!(found.len(), 1);
    for part in ["for 2s", "h3 (spawn of 1.1", "h2 (spawn of 1.2", "none of them was away"] {
        assert!(found[0].contains(part), "{part}: {}", found[0]);
    }
    assert!(said("one guest at most", |world, _| slow(world, 7)).is_empty(), "it ended as the other began");
}

#[test]
fn two_guests_are_excused_for_as_long_as_a_host_is_away_and_no_longer() {
    let found = |outages: &[Outage], aftermath: u64| {
        said("one guest at most", |world, expected| {
            slow(world, 10);
            (expected.outages, expected.aftermath) = (outages.to_vec(), seconds(aftermath));
        })
    };
    for fine in [&[away("h3", 6, None)][..], &[away("h3", 6, Some(10))], &[away("h2", 7, Some(10))]] {
        assert_eq!(found(fine, 0), Vec::<String>::new(), "{fine:?}");
    }
    assert!(found(&[away("h3", 6, Some(8)), away("h2", 8, None)], 0).is_empty(), "one after the other");
    assert!(found(&[away("h3", 6, Some(8))], 2).is_empty(), "what was decided meanwhile is still done");
    for (outages, left) in [
        (vec![away("h3", 6, Some(9))], "unexcused from 1970-01-01T00:00:09Z for 1s"),
        (vec![away("h3", 6, Some(8)), away("h3", 9, None)], "unexcused from 1970-01-01T00:00:08Z for 1s"),
        (vec![away("h3", 8, None)], "unexcused from 1970-01-01T00:00:07Z for 1s"),
        (vec![away("h9", 1, None)], "unexcused from 1970-01-01T00:00:07Z for 3s"),
    ] {
        let found = found(&outages, 0);
        assert!(found.len() == 1 && found[0].contains(left), "{outages:?}: {found:?}");
    }
}

#[test]
fn the_only_copy_of_what_was_launched_is_not_destroyed() {
    let rule = "last good copy";
    let found = said(rule, |world, _| world.events.push(destroyed(10, "h1", "i1")));
    assert!(found.len() == 1 && found[0].contains("h1 destroyed it by 9.1"), "{found:?}");
    let volume = |world: &mut World| world.events.push(event(10, "b1", "delete", "v1", (9, 1), Value::Null));
    assert_eq!(said(rule, |world, _| volume(world)).len(), 1, "a volume's data are no less");

    let fine = |what: &str, change: fn(&mut World)| {
        let found = said(rule, |world, _| {
            change(world);
            world.events.push(destroyed(10, "h1", "i1"));
        });
        assert_eq!(found, Vec::<String>::new(), "{what}");
    };
    fine("its end was asked for", |world| asked(world, Kind::Delete, 9, None, pb::Outcome::InProgress));
    fine("it was never there", |world| {
        guest(world, "i1").actions[0].set_outcome(pb::Outcome::Failed);
    });
    fine("it was there only later", |world| guest(world, "i1").actions[0].end_time = time(11));
    fine("it runs elsewhere", |world| world.events.push(event(9, "h5", "spawn", "i1", (3, 2), Value::Null)));
    fine("an evacuation gave it up", |world| {
        asked(world, Kind::Evacuate, 7, Some(8), pb::Outcome::Succeeded);
    });
    assert_eq!(
        said(rule, |world, _| {
            asked(world, Kind::Evacuate, 1, Some(2), pb::Outcome::Succeeded);
            world.events[0].at = at(2);
            world.events.push(destroyed(10, "h1", "i1"));
        })
        .len(),
        1,
        "what was made for an evacuation is no less"
    );
    assert_eq!(
        said(rule, |world, _| {
            world.events.push(event(9, "h5", "prepare", "i1", (3, 2), Value::Null));
            world.events.push(destroyed(10, "h1", "i1"));
        })
        .len(),
        1,
        "one that is only prepared is none"
    );
}

#[test]
fn a_copy_on_a_host_that_was_gone_when_it_was_asked_for_does_not_count() {
    let reverted = |outage: Option<Outage>| {
        said("last good copy", |world, expected| {
            let move_of = |op: &str| json!({ "move": { op: {} } });
            world.events.push(event(10, "h5", "prepare", "i1", (2, 2), Value::Null));
            world.events.push(event(11, "h1", "hand_over", "i1", (3, 1), move_of("hand_over")));
            world.events.push(event(12, "h5", "take_over", "i1", (4, 2), move_of("take_over")));
            asked(world, Kind::RevertResize, 20, None, pb::Outcome::InProgress);
            world.events.push(destroyed(21, "h5", "i1"));
            (expected.outages, expected.unnoticed) = (outage.into_iter().collect(), seconds(2));
        })
    };
    assert!(reverted(None).is_empty(), "it can be taken back");
    assert!(reverted(Some(away("h1", 19, None))).is_empty(), "nobody could know");
    assert!(reverted(Some(away("h1", 13, Some(20)))).is_empty(), "it is back");
    let found = reverted(Some(away("h1", 13, None)));
    assert!(found.len() == 1 && found[0].contains("h1 was away from"), "{found:?}");
}

#[test]
fn what_no_record_tells_of_is_kept_if_its_user_did_not_delete_it() {
    let lost = |want: Option<Want>| {
        said("last good copy", |world, expected| {
            world.instances.remove("i2");
            expected.wanted.remove("i2");
            expected.wanted.extend(want.map(|want| ("i2".to_owned(), want)));
            world.events.push(destroyed(10, "h2", "i2"));
        })
        .len()
    };
    assert_eq!((lost(Some(Want::Present)), lost(Some(Want::Absent)), lost(None)), (1, 0, 0));
}

#[test]
fn nothing_is_removed_since_the_store_is_another() {
    let since = |second: u64| {
        said("nothing is removed", |world, expected| {
            expected.kept_since = Some(at(second));
            world.events.push(event(10, "b1", "delete_snapshot", "s1", (1, 1), Value::Null));
        })
        .len()
    };
    assert_eq!((since(11), since(10), since(9)), (0, 1, 2));
}

#[test]
fn a_volume_is_exported_to_two_hosts_only_while_its_instance_moves() {
    let exported = |kind: Option<Kind>, end: Option<i64>, outage: Option<Outage>| {
        said("exported to one host", |world, expected| {
            world.events.push(event(10, "b1", "export", "v1", (1, 1), json!({ "host": "h5" })));
            if let Some(kind) = kind {
                asked(world, kind, 8, end, pb::Outcome::Succeeded);
            }
            expected.outages = outage.into_iter().collect();
        })
    };
    let found = exported(None, None, None);
    assert!(found.len() == 1 && found[0].contains("b1 exports it to h5"), "{found:?}");
    assert!(exported(Some(Kind::Migrate), Some(12), None).is_empty(), "both sides of a move need it");
    assert!(exported(Some(Kind::Evacuate), None, None).is_empty());
    let back_while_evacuated = said("exported to one host", |world, expected| {
        asked(world, Kind::Evacuate, 8, None, pb::Outcome::Succeeded);
        world.events.push(destroyed(9, "h1", "i1"));
        world.events.push(event(10, "b1", "export", "v1", (1, 1), json!({ "host": "h5" })));
        expected.outages = Vec::new();
    });
    assert!(back_while_evacuated.is_empty(), "its old host removed it meanwhile: {back_while_evacuated:?}");
    assert_eq!(exported(Some(Kind::Migrate), Some(9), None).len(), 1, "the move is over");
    assert_eq!(exported(Some(Kind::Stop), None, None).len(), 1, "that is no move");
    assert!(exported(None, None, Some(away("b1", 4, Some(6)))).is_empty(), "it could not be asked to stop");
    assert_eq!(exported(None, None, Some(away("b1", 1, Some(2)))).len(), 1, "that was before");
}

#[test]
fn a_free_volume_that_is_still_exported_is_found_and_one_freed_without_its_backend_is_not() {
    let free = |outage: Option<Outage>| {
        broken(|world, expected| {
            disk(world).attachments.clear();
            disk(world).set_state(VolumeState::Available);
            shown(world, "i1").attachments.clear();
            world.events.retain(|event| event.line.op != "attach");
            expected.wanted.insert("v1".into(), Want::State("AVAILABLE"));
            expected.outages = outage.into_iter().collect();
        })
    };
    assert_eq!(free(None), ["exports are attachments"]);
    assert_eq!(free(Some(away("b1", 1, Some(2)))), ["exports are attachments"], "that was before");
    assert_eq!(free(Some(away("b1", 3, Some(4)))), Vec::<&str>::new());
}

#[test]
fn one_that_is_only_prepared_or_handed_over_is_no_guest_to_be_active() {
    for op in ["prepare", "hand_over"] {
        let found = broken(|world, _| {
            if op == "prepare" {
                world.events[6].line.op = op.into();
            } else {
                world.events.push(event(10, "h2", op, "i2", (2, 2), json!({ "move": { op: {} } })));
            }
        });
        assert!(found.contains(&"guests are records"), "{op}: {found:?}");
    }
}

#[test]
fn the_history_of_a_snapshot_comes_to_an_end_too() {
    let (mut world, expected) = sound();
    let mut snapshot = pb::Snapshot { volume_id: "v1".into(), ..Default::default() };
    snapshot.set_state(pb::snapshot::State::Available);
    let mut record = SnapshotRecord {
        snapshot: Some(snapshot),
        actions: vec![action(Kind::Create, pb::Outcome::Succeeded, 1)],
        ..Default::default()
    };
    let volume: &mut VolumeRecord = world.volumes.get_mut("v1").unwrap();
    volume.snapshot_ids.push("s1".into());
    let rules = |record: &SnapshotRecord| {
        let mut world = world.clone();
        world.snapshots.insert("s1".into(), record.clone());
        check(&world, &expected).into_iter().map(|violation| violation.rule).collect::<Vec<_>>()
    };
    assert!(!rules(&record).contains(&"history"));
    record.actions[0].set_outcome(pb::Outcome::InProgress);
    assert!(rules(&record).contains(&"history"));
}

#[test]
fn a_stop_that_an_evacuation_overtook_is_as_was_asked() {
    let stopped = |outcome: pb::Outcome| {
        broken(|world, expected| {
            asked(world, Kind::Stop, 12, Some(13), outcome);
            asked(world, Kind::Evacuate, 13, Some(14), pb::Outcome::Succeeded);
            shown(world, "i1").set_state(pb::instance::State::Stopped);
            let power = json!({ "power": "stop" });
            world.events.push(event(12, "h1", "power", "i1", (3, 1), power));
            expected.wanted.insert("i1".into(), Want::Present);
        })
    };
    assert_eq!(stopped(pb::Outcome::Superseded), Vec::<&str>::new());
    assert_eq!(stopped(pb::Outcome::Failed), ["history"]);
}
