use kilonova_model::{Error, Reason};
use kilonova_proto::conductor::v1::Receipt;
use kilonova_proto::types::v1::instance::Task;

use super::ask::{Asked, begin};
use super::*;
use crate::history;
use crate::reach::Standing;
use crate::requests::Acceptance;

const NOW: SystemTime = SystemTime::UNIX_EPOCH;
const LATER: SystemTime = NOW;

fn flavor(id: &str, vcpus: u32) -> pb::Flavor {
    pb::Flavor { id: id.into(), vcpus, ram_mib: 512, ..Default::default() }
}

/// On h1, by attempt 1, with one core of two counted in all.
fn there() -> InstanceRecord {
    let mut record = InstanceRecord { last_attempt: 1, ..Default::default() };
    let instance = record.instance.get_or_insert_default();
    (instance.host, instance.attempt, instance.generation) = ("h1".into(), 1, 1);
    instance.flavor = Some(flavor("small", 1));
    instance.set_desired(Desired::Running);
    instance.set_state(State::Active);
    instance.launch_time = Some(kilonova_model::time::timestamp(NOW));
    record.receipts.push(Receipt { host: "h1".into(), attempt: 1, ..Default::default() });
    record.tried_hosts.push("h1".into());
    record
}

fn asked(record: &mut InstanceRecord, asked: Asked) -> Result<u32, Reason> {
    let acceptance = Acceptance { conductor: "c1", arrived: NOW, request_id: "" };
    let more = begin(record, &asked, &|_| Standing::Registered, LATER, NOW, acceptance);
    more.map(|more| more.cores).map_err(|error| error.reason)
}

fn fault() -> pb::Fault {
    history::fault(&Error::new(Reason::DriverFailed, "x"), "h2", 2, NOW)
}

fn migration(live: bool) -> Asked {
    Asked::Migrate { live, target_host: String::new() }
}

fn step(record: &InstanceRecord) -> Step {
    of(record).unwrap().step()
}

/// A resize to two cores that has got its destination, h2 by attempt 2.
fn placed(first: Asked) -> InstanceRecord {
    let mut record = there();
    asked(&mut record, first).unwrap();
    record.set_place(&Alternate { host: "h2".into(), ..Default::default() }, LATER, NOW);
    record
}

fn at(host: &str, attempt: u32) -> Site {
    Site { host: host.into(), attempt }
}

#[test]
fn a_resize_goes_from_host_to_host_and_each_step_has_its_own_generation() {
    let mut record = placed(Asked::Resize(flavor("large", 2)));
    assert_eq!((record.building_at(), record.building()), (Some(at("h2", 2)), "prepare"));
    assert_eq!(record.keeps(), ["h1", "h2"]);
    assert_eq!(record.usage().cores, 2, "the greater counts");
    record.set_ready(LATER, NOW);
    assert_eq!((step(&record), record.acts_at(), record.building_at()), (Step::HandOver, at("h1", 1), None));
    let handing = record.operations[0].generation;
    record.host_did(LATER, NOW);
    assert_eq!((step(&record), record.acts_at()), (Step::TakeOver, at("h2", 2)));
    assert!(record.operations[0].generation > handing);
    record.host_did(LATER, NOW);
    assert!(record.operations[0].host_done);
    assert_eq!(record.resource().host, "h2");
    record.conclude(NOW);
    let instance = record.resource();
    assert_eq!((instance.state(), instance.task()), (State::Resized, Task::Unspecified));
    assert_eq!((instance.attempt, instance.previous_host.as_str()), (2, "h1"));
    assert_eq!(record.keeps(), ["h2", "h1"], "until it is confirmed");
    assert_eq!(record.usage().cores, 2);
}

#[test]
fn a_confirm_gives_up_the_source_and_a_revert_the_destination() {
    let mut record = placed(Asked::Resize(flavor("small-2", 1)));
    record.set_ready(LATER, NOW);
    record.host_did(LATER, NOW);
    record.host_did(LATER, NOW);
    record.conclude(NOW);
    let mut kept = record.clone();
    asked(&mut kept, Asked::Confirm).unwrap();
    assert_eq!((kept.keeps(), kept.clears()), (vec!["h2".to_owned()], vec!["h1".to_owned()]));
    assert_eq!(left_behind(&kept), ["h1"]);
    kept.cleared(LATER);
    assert!(kept.operations[0].host_done);
    kept.conclude(NOW);
    assert_eq!((kept.resource().state(), kept.resized_from.is_none()), (State::Active, true));

    asked(&mut record, Asked::Revert).unwrap();
    assert_eq!(
        (step(&record), record.acts_at(), record.resource().host.as_str()),
        (Step::LetGo, at("h2", 2), "h2")
    );
    assert_eq!(
        (record.keeps().contains(&"h1".to_owned()), record.keeps().contains(&"h2".to_owned())),
        (true, true)
    );
    assert!(record.lets_go());
    record.host_did(LATER, NOW);
    assert_eq!((step(&record), record.acts_at(), record.lets_go()), (Step::TakeBack, at("h1", 1), false));
    assert!(record.keeps().contains(&"h2".to_owned()), "its copy is kept until the other runs");
    record.host_did(LATER, NOW);
    assert_eq!((record.keeps(), left_behind(&record)), (vec!["h1".to_owned()], vec!["h2".to_owned()]));
    record.conclude(NOW);
    let instance = record.resource();
    assert_eq!((instance.state(), instance.flavor.as_ref().unwrap().id.as_str()), (State::Active, "small"));
    assert_eq!(record.actions.last().unwrap().outcome(), pb::Outcome::Succeeded);
}

/// A migration from h1 to h2 that is neither confirmed nor reverted.
fn resized() -> InstanceRecord {
    let mut record = placed(migration(false));
    record.set_ready(LATER, NOW);
    record.host_did(LATER, NOW);
    record.host_did(LATER, NOW);
    record.conclude(NOW);
    record
}

#[test]
fn a_revert_that_fails_runs_it_again_where_it_was_once_the_source_has_let_go() {
    let mut record = resized();
    asked(&mut record, Asked::Revert).unwrap();
    record.host_did(LATER, NOW);
    record.host_did_not(&fault(), LATER, NOW);
    assert_eq!((step(&record), record.acts_at(), record.lets_go()), (Step::LetGoAgain, at("h1", 1), true));
    let mut doubtful = record.clone();
    let has_nothing = history::fault(&Error::new(Reason::InstanceNotFound, "x"), "h1", 1, NOW);
    record.host_did_not(&has_nothing, LATER, NOW);
    assert_eq!((step(&record), record.acts_at()), (Step::Resume, at("h2", 2)));
    record.host_did(LATER, NOW);
    record.conclude(NOW);
    assert_eq!((record.resource().state(), record.resource().host.as_str()), (State::Resized, "h2"));
    assert_eq!(record.actions.last().unwrap().outcome(), pb::Outcome::Failed);
    assert!(record.resized_from.is_some() && left_behind(&record).is_empty());

    doubtful.host_did_not(&fault(), LATER, NOW);
    doubtful.conclude(NOW);
    assert_eq!(doubtful.resource().state(), State::Error, "both may run it");
    assert_eq!(doubtful.keeps(), ["h2", "h1"], "and both keep it");
    asked(&mut doubtful, Asked::Revert).unwrap();
    doubtful.host_did(LATER, NOW);
    doubtful.host_did(LATER, NOW);
    doubtful.conclude(NOW);
    assert_eq!((doubtful.resource().state(), doubtful.resource().fault.is_none()), (State::Active, true));
}

#[test]
fn a_confirm_whose_destination_is_gone_leaves_the_source_its_copy() {
    let gone = |host: &str| {
        let mut fault = fault();
        fault.metadata.insert("host".into(), host.into());
        fault
    };
    let mut record = resized();
    asked(&mut record, Asked::Confirm).unwrap();
    assert_eq!(record.clears_for(), Some("h2".into()));
    let mut source_is_gone = record.clone();
    record.host_did_not(&gone("h2"), LATER, NOW);
    assert!(left_behind(&record).is_empty());
    record.conclude(NOW);
    assert_eq!((record.resource().state(), record.keeps()), (State::Resized, vec!["h2".into(), "h1".into()]));
    assert_eq!(record.actions.last().unwrap().outcome(), pb::Outcome::Failed);
    source_is_gone.host_did_not(&gone("h1"), LATER, NOW);
    source_is_gone.conclude(NOW);
    assert_eq!(
        (source_is_gone.resource().state(), source_is_gone.keeps()),
        (State::Active, vec!["h2".into()])
    );
}

#[test]
fn what_fails_after_the_room_was_taken_is_cleared_before_it_is_taken_back() {
    for hand_over_done in [false, true] {
        let mut record = placed(Asked::Resize(flavor("large", 2)));
        record.set_ready(LATER, NOW);
        if hand_over_done {
            record.host_did(LATER, NOW);
        }
        record.host_did_not(&fault(), LATER, NOW);
        assert_eq!((step(&record), record.clears()), (Step::Clear, vec!["h2".to_owned()]));
        assert_eq!(record.keeps(), ["h1"]);
        record.cleared(LATER);
        assert_eq!((step(&record), record.acts_at()), (Step::TakeBack, at("h1", 1)));
        record.host_did(LATER, NOW);
        assert_eq!(left_behind(&record), ["h2"]);
        record.conclude(NOW);
        let instance = record.resource();
        assert_eq!((instance.state(), instance.host.as_str()), (State::Active, "h1"));
        assert_eq!(record.actions.last().unwrap().outcome(), pb::Outcome::Failed);
        assert_eq!(record.usage().cores, 1);
    }
}

#[test]
fn a_destination_that_cannot_be_cleared_leaves_an_error_and_nothing_is_started() {
    let mut record = placed(migration(false));
    record.set_ready(LATER, NOW);
    record.host_did(LATER, NOW);
    record.host_did_not(&fault(), LATER, NOW);
    record.host_did_not(&fault(), LATER, NOW);
    assert!(record.operations[0].host_done && left_behind(&record).is_empty());
    record.conclude(NOW);
    assert_eq!((record.resource().state(), record.resource().host.as_str()), (State::Error, "h1"));
    assert_eq!(record.keeps(), ["h1"], "its copy is kept");
}

#[test]
fn a_destination_that_does_not_take_it_is_followed_by_the_next_and_at_last_it_stays() {
    let mut record = placed(migration(true));
    record.set_attempt_failed(fault(), NOW);
    assert_eq!((record.building_at(), record.is_placing()), (None, true));
    assert!(record.resource().failed_attempts.is_empty(), "it runs where it is");
    record.set_place(&Alternate { host: "h3".into(), ..Default::default() }, LATER, NOW);
    assert_eq!(record.building_at(), Some(at("h3", 3)));
    record.set_attempt_failed(fault(), NOW);
    record.host_did_not(&fault(), LATER, NOW);
    assert_eq!(left_behind(&record), ["h2", "h3"]);
    record.conclude(NOW);
    assert_eq!((record.resource().state(), record.resource().host.as_str()), (State::Active, "h1"));
}

#[test]
fn what_did_not_take_it_reaches_its_volumes_no_longer() {
    for live in [false, true] {
        let mut record = placed(migration(live));
        record.set_attempt_failed(fault(), NOW);
        record.set_place(&Alternate { host: "h3".into(), ..Default::default() }, LATER, NOW);
        record.set_ready(LATER, NOW);
        record.host_did(LATER, NOW);
        record.host_did(LATER, NOW);
        let expected: &[&str] = if live { &["h1", "h2"] } else { &["h2"] };
        assert_eq!(left_behind(&record), expected, "h3 has it");
    }
}

#[test]
fn a_live_migration_leaves_its_source_at_once() {
    let mut record = placed(migration(true));
    record.set_ready(LATER, NOW);
    record.host_did(LATER, NOW);
    record.host_did(LATER, NOW);
    assert_eq!(left_behind(&record), ["h1"]);
    record.conclude(NOW);
    assert_eq!((record.resource().state(), record.keeps()), (State::Active, vec!["h2".to_owned()]));
}

fn unwanted(instance: &pb::Instance) -> bool {
    instance.desired() == Desired::Absent
}

#[test]
fn each_host_sees_the_instance_as_it_concerns_it() {
    let mut record = placed(migration(false));
    let seen = |record: &InstanceRecord, host: &str| {
        let seen = record.seen_by(host, String::new());
        seen.map(|one| {
            (one.host.clone(), one.attempt, if unwanted(&one) { State::Deleted } else { one.state() })
        })
    };
    assert_eq!(seen(&record, "h1"), Some(("h1".into(), 1, State::Active)));
    assert_eq!(seen(&record, "h2"), Some(("h2".into(), 2, State::Building)));
    assert_eq!(seen(&record, "h3"), None);
    record.set_ready(LATER, NOW);
    assert_eq!(seen(&record, "h2"), Some(("h2".into(), 2, State::Active)));
    record.host_did(LATER, NOW);
    record.host_did(LATER, NOW);
    record.conclude(NOW);
    assert_eq!(seen(&record, "h1"), Some(("h1".into(), 1, State::Active)), "until it is confirmed");
    asked(&mut record, Asked::Revert).unwrap();
    assert_ne!(seen(&record, "h2").unwrap().2, State::Deleted, "until h1 runs it");
    record.host_did(LATER, NOW);
    record.host_did(LATER, NOW);
    assert_eq!(seen(&record, "h2"), None, "h1 is asked first whether it has it");
}

#[test]
fn each_needs_its_state_and_nothing_else_going_on() {
    for (state, ask) in [
        (State::Building, migration(false)),
        (State::Stopped, migration(true)),
        (State::Error, Asked::Resize(flavor("large", 2))),
        (State::Active, Asked::Confirm),
        (State::Stopped, Asked::Revert),
        (State::Resized, migration(false)),
        (State::Deleted, Asked::Rebuild(pb::Image::default())),
    ] {
        let mut record = there();
        record.instance.as_mut().unwrap().set_state(state);
        assert_eq!(asked(&mut record, ask.clone()), Err(Reason::InvalidState), "{state:?} {ask:?}");
    }
    let mut record = there();
    asked(&mut record, migration(false)).unwrap();
    assert_eq!(asked(&mut record, Asked::Rebuild(pb::Image::default())), Err(Reason::InvalidState));
}

fn evacuate(
    record: &mut InstanceRecord,
    vouched: &[&str],
    standing: fn(&str) -> Standing,
) -> Result<(), Reason> {
    let acceptance = Acceptance { conductor: "c1", arrived: NOW, request_id: "" };
    let vouched: Vec<String> = vouched.iter().map(ToString::to_string).collect();
    let asked = evacuate::Asked { target_host: "", vouched_hosts: &vouched };
    evacuate::begin(record, asked, &standing, NOW, acceptance).map_err(|error| error.reason)
}

fn all_gone(_: &str) -> Standing {
    Standing::Gone
}

fn evacuated() -> InstanceRecord {
    let mut record = there();
    evacuate(&mut record, &[], all_gone).unwrap();
    record
}

#[test]
fn an_evacuated_instance_belongs_to_its_old_host_no_more() {
    let mut record = evacuated();
    assert!(record.is_placing() && record.keeps().is_empty());
    let seen = record.seen_by("h1", String::new()).unwrap();
    assert_eq!((seen.host.as_str(), seen.attempt, unwanted(&seen)), ("h1", 1, true));
    assert_eq!((record.tried().len(), leaves(&record)), (0, vec!["h1".to_owned()]));
    record.set_place(&Alternate { host: "h2".into(), ..Default::default() }, LATER, NOW);
    record.set_ready(LATER, NOW);
    assert_eq!(left_behind(&record), ["h1"]);
    record.conclude(NOW);
    assert_eq!((record.resource().state(), record.evacuated_from.is_none()), (State::Active, true));

    let refused = |standing, state| {
        let mut record = there();
        record.instance.as_mut().unwrap().set_state(state);
        evacuate(&mut record, &[], standing).is_err()
    };
    assert!(refused(|_| Standing::Registered, State::Active) && refused(all_gone, State::Building));
}

#[test]
fn an_evacuation_is_refused_while_a_third_host_may_run_the_guest() {
    let in_doubt = || {
        let mut record = there();
        record.receipts.push(Receipt { host: "h3".into(), attempt: 2, ..Default::default() });
        record
    };
    assert_eq!(evacuate(&mut in_doubt(), &[], all_gone), Err(Reason::InvalidState));
    let h3_is_there = |host: &str| if host == "h3" { Standing::Registered } else { Standing::Gone };
    assert_eq!(evacuate(&mut in_doubt(), &[], h3_is_there), Err(Reason::InvalidState));
    assert_eq!(evacuate(&mut in_doubt(), &["h2"], h3_is_there), Err(Reason::InvalidState));
    assert_eq!(evacuate(&mut in_doubt(), &["h3"], h3_is_there), Ok(()));
    let h3_is_off = |host: &str| if host == "h3" { Standing::Fenced } else { Standing::Gone };
    assert_eq!(evacuate(&mut in_doubt(), &[], h3_is_off), Ok(()));
    assert_eq!(
        evacuate(&mut resized(), &[], all_gone),
        Err(Reason::InvalidState),
        "h1 has the copy to go back to"
    );
}

#[test]
fn an_evacuation_overtakes_what_waits_at_the_host_that_is_gone() {
    let mut record = there();
    let instance = record.instance.as_mut().unwrap();
    instance.set_task(Task::Stopping);
    instance.set_desired(Desired::Stopped);
    record.operations.push(Operation { kind: Kind::Stop.into(), generation: 2, ..Default::default() });
    history::begin(&mut record.actions, Kind::Stop, "", NOW);
    evacuate(&mut record, &[], all_gone).unwrap();
    assert_eq!(record.actions[0].outcome(), pb::Outcome::Superseded);
    record.set_place(&Alternate { host: "h2".into(), ..Default::default() }, LATER, NOW);
    record.set_ready(LATER, NOW);
    record.conclude(NOW);
    assert_eq!(record.resource().state(), State::Stopped, "as its user wanted it last");
    let mut moving = placed(migration(true));
    moving.set_ready(LATER, NOW);
    assert_eq!(evacuate(&mut moving, &["h2"], all_gone), Err(Reason::InvalidState));
}

#[test]
fn an_evacuation_that_fails_stays_only_if_nothing_else_may_be_elsewhere() {
    let mut record = evacuated();
    record.set_failed(fault(), NOW);
    record.conclude(NOW);
    assert_eq!((record.resource().state(), record.resource().host.as_str()), (State::Active, "h1"));
    assert_eq!(record.resource().attempt, 1);
    let action = record.actions.last().unwrap();
    let step = action.steps.iter().find(|step| step.name == "evacuate").unwrap();
    assert_eq!(
        (action.outcome(), step.fault.as_ref()),
        (pb::Outcome::Failed, Some(&fault())),
        "and says why"
    );

    let mut record = evacuated();
    record.set_place(&Alternate { host: "h2".into(), ..Default::default() }, LATER, NOW);
    record.set_attempt_failed(fault(), NOW);
    record.set_failed(fault(), NOW);
    record.conclude(NOW);
    assert_eq!((record.resource().state(), record.resource().host.as_str()), (State::Error, ""));

    let mut record = evacuated();
    record.drop_receipt("h1", 1);
    record.set_failed(fault(), NOW);
    assert_eq!(record.resource().state(), State::Error, "its host has removed it");

    let mut record = evacuated();
    assert!(note_told(&mut record, "h1") && !note_told(&mut record, "h1"));
    record.set_failed(fault(), NOW);
    assert_eq!(record.resource().state(), State::Error, "its host is removing it");
}

#[test]
fn an_evacuation_does_not_stay_on_what_its_own_attempt_built() {
    let mut record = evacuated();
    record.receipts[0].attempt += 1;
    record.set_failed(fault(), NOW);
    assert_eq!((record.resource().state(), record.resource().host.as_str()), (State::Error, ""));
}

#[test]
fn attempts_are_counted_on_over_all_placements() {
    let mut record = evacuated();
    record.set_place(&Alternate { host: "h2".into(), ..Default::default() }, LATER, NOW);
    assert_eq!((record.resource().attempt, record.tried().len()), (2, 1));
}

#[test]
fn what_a_broken_move_left_exported_is_ended_with_the_next_that_ends_well() {
    let mut record = there();
    record.evacuated_from = Some(Place { host: "h8".into(), ..Place::default() });
    let broken = Operation { kind: Kind::Evacuate.into(), broken: true, ..Operation::default() };
    end(&mut record, &broken);
    assert_eq!(record.exported_hosts, ["h8"]);

    let kind = |kind: Kind| Operation { kind: kind.into(), host_done: true, ..Operation::default() };
    record.operations = vec![kind(Kind::DetachVolume)];
    assert!(left_behind(&record).is_empty(), "that is about one volume");
    record.operations = vec![kind(Kind::Reboot)];
    assert_eq!(left_behind(&record), ["h8"], "nothing is there any more");
    record.receipts.push(Receipt { host: "h8".into(), attempt: 2, ..Default::default() });
    for kept in [Kind::Reboot, Kind::ConfirmResize] {
        record.operations = vec![kind(kept)];
        assert!(left_behind(&record).is_empty(), "h8 may still run it");
    }
    record.operations = vec![kind(Kind::Evacuate)];
    assert_eq!(left_behind(&record), ["h8"], "an operator said that it does not");
    record.conclude(NOW);
    assert!(record.exported_hosts.is_empty());
}
