use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use kilonova_model::{Epoch, HostName, RequestId};
use kilonova_proto::scheduler::v1::{HostState, SelectHostsRequest};
use kilonova_proto::types::v1::capabilities::Resources;
use kilonova_proto::types::v1::host::State;
use kilonova_proto::types::v1::{Capabilities, ComputeResources, VolumeResources};
use tokio::time::Instant;

use super::{Answer, Asked, HostManager, HostOptions, Outcome, QuarantineConfig, Unknown};
use crate::config::{BackendsConfig, HostsConfig};
use crate::placement::testing::{instance, pool, resources, volume};
use crate::placement::{Compute, ComputeDemand, Storage, StorageDemand, Wanted};

const HOLD: Duration = Duration::from_secs(30);
const FORGET: Duration = Duration::from_secs(600);

fn hosts() -> HostManager<Compute> {
    HostManager::new(HostsConfig::default().chain().unwrap(), options())
}

fn options() -> HostOptions {
    HostOptions { hold_time: HOLD, forget_after: FORGET, quarantine: QuarantineConfig::default() }
}

fn host(name: &str) -> HostName {
    HostName::parse(name).unwrap()
}

fn capabilities(epoch: u64, generation: u64, figures: ComputeResources) -> Capabilities {
    Capabilities {
        enabled: true,
        availability_zone: "az1".into(),
        epoch,
        generation,
        resources: Some(Resources::Compute(figures)),
        ..Capabilities::default()
    }
}

fn claimed(instances: u32) -> ComputeResources {
    ComputeResources { vcpus_used: instances, ram_used_mib: instances * 1024, instances, ..resources() }
}

fn up(hosts: &mut HostManager<Compute>, name: &str, now: Instant) {
    hosts.joined(&host(name), Epoch(1), false);
    assert_eq!(hosts.apply(&host(name), capabilities(1, 1, claimed(0)), now), Outcome::Applied);
}

fn ask(hosts: &mut HostManager<Compute>, request: &str, now: Instant) -> Answer {
    ask_for(hosts, request, 1, false, now)
}

/// Why there is no answer.
fn unknown(hosts: &mut HostManager<Compute>, dry_run: bool, now: Instant) -> String {
    try_ask(hosts, "r1", 1, dry_run, now).unwrap_err().to_string()
}

fn leave(hosts: &mut HostManager<Compute>, name: &str, now: Instant) {
    hosts.lost(&host(name), "gone".into(), now);
    assert!(hosts.absent(&host(name), now));
}

fn ask_for(
    hosts: &mut HostManager<Compute>,
    request: &str,
    count: usize,
    dry_run: bool,
    now: Instant,
) -> Answer {
    try_ask(hosts, request, count, dry_run, now).unwrap()
}

fn try_ask(
    hosts: &mut HostManager<Compute>,
    request: &str,
    count: usize,
    dry_run: bool,
    now: Instant,
) -> Result<Answer, Unknown> {
    let request = RequestId::parse(request).unwrap();
    let asked = Asked { request: &request, wanted: Wanted { count, alternates: 0 }, dry_run, seed: 1 };
    hosts.select(&asked, |world| ComputeDemand::new(&instance(1, 1024, 0), world), now)
}

fn state(hosts: &HostManager<Compute>, name: &str, now: Instant) -> HostState {
    hosts.list(None, &[host(name)].into(), 1, now).remove(0)
}

fn holds(hosts: &HostManager<Compute>, name: &str) -> u32 {
    state(hosts, name, Instant::now()).holds
}

#[test]
fn a_host_is_down_until_it_answers_and_again_when_it_is_lost() {
    let (mut hosts, now) = (hosts(), Instant::now());
    hosts.joined(&host("c1"), Epoch(1), false);
    let listed = state(&hosts, "c1", now);
    assert_eq!((listed.state(), listed.state_detail.as_str()), (State::Down, "no answer yet"));
    assert_eq!(unknown(&mut hosts, false, now), "every compute registered is down: c1: no answer yet");
    hosts.heard(&host("c1"));
    assert_eq!(state(&hosts, "c1", now).state_detail, "it has not said what it has");
    up(&mut hosts, "c1", now);
    let later = now + Duration::from_secs(3);
    let listed = state(&hosts, "c1", later);
    assert_eq!((listed.state(), listed.state_detail.as_str()), (State::Up, ""));
    assert_eq!(listed.capabilities_age.unwrap().seconds, 3);
    assert_eq!(ask(&mut hosts, "r1", now).picks[0].host, "c1");
    assert_eq!((hosts.counts().up, hosts.counts().down), (1, 0));
    assert!(!hosts.lost(&host("c1"), "nothing heard for 6s".into(), now));
    assert_eq!((hosts.counts().up, hosts.counts().down), (0, 1));
    assert_eq!(state(&hosts, "c1", now).state(), State::Down);
    assert_eq!(unknown(&mut hosts, true, now), "every compute registered is down: c1: nothing heard for 6s");
    hosts.heard(&host("c1"));
    assert_eq!(state(&hosts, "c1", now).state(), State::Up);
    hosts.joined(&host("c1"), Epoch(1), true);
    assert_eq!(state(&hosts, "c1", now).state_detail, "it is stopping");
}

#[test]
fn what_is_older_is_ignored_and_a_new_epoch_starts_over() {
    let (mut hosts, now) = (hosts(), Instant::now());
    hosts.joined(&host("c1"), Epoch(1), false);
    let mut apply = |epoch, generation| {
        let outcome = hosts.apply(&host("c1"), capabilities(epoch, generation, claimed(0)), now);
        let known = state(&hosts, "c1", now).capabilities.unwrap();
        (outcome, known.epoch, known.generation)
    };
    assert_eq!(apply(5, 7), (Outcome::Applied, 5, 7));
    assert_eq!(apply(5, 6), (Outcome::Older, 5, 7));
    assert_eq!(apply(5, 7), (Outcome::Confirmed, 5, 7));
    assert_eq!(apply(6, 1), (Outcome::Applied, 6, 1));
    assert_eq!(apply(5, 900), (Outcome::Older, 6, 1));
    assert_eq!(hosts.apply(&host("c9"), capabilities(1, 1, claimed(0)), now), Outcome::Unknown);
}

#[test]
fn one_that_left_stays_listed_for_a_while() {
    let (mut hosts, now) = (hosts(), Instant::now());
    up(&mut hosts, "c1", now);
    up(&mut hosts, "c2", now);
    leave(&mut hosts, "c1", now);
    assert_eq!(state(&hosts, "c1", now).state_detail, "left the registry");
    hosts.sweep(now + FORGET - Duration::from_secs(1));
    assert_eq!(hosts.list(None, &BTreeSet::new(), 10, now).len(), 2);
    assert_eq!(hosts.list(Some(&host("c1")), &BTreeSet::new(), 10, now).len(), 1);
    hosts.sweep(now + FORGET);
    assert_eq!(hosts.list(None, &BTreeSet::new(), 10, now).len(), 1);
    assert_eq!(ask(&mut hosts, "r1", now).explanation.considered, 1);
}

#[test]
fn one_that_comes_back_keeps_its_figures_and_must_answer_first() {
    let (mut hosts, now) = (hosts(), Instant::now());
    up(&mut hosts, "c1", now);
    leave(&mut hosts, "c1", now);
    hosts.joined(&host("c1"), Epoch(1), false);
    assert_eq!(state(&hosts, "c1", now).state_detail, "no answer yet");
    hosts.heard(&host("c1"));
    assert_eq!(state(&hosts, "c1", now).state(), State::Up);
    hosts.sweep(now + FORGET);
    assert_eq!(state(&hosts, "c1", now).state(), State::Up);
}

#[test]
fn a_burst_spreads_over_what_was_promised() {
    let (mut hosts, now) = (hosts(), Instant::now());
    for name in ["c1", "c2", "c3", "c4"] {
        up(&mut hosts, name, now);
    }
    let mut chosen: Vec<String> =
        (0..4).map(|n| ask(&mut hosts, &format!("r{n}"), now).picks.remove(0).host).collect();
    chosen.sort();
    assert_eq!(chosen, ["c1", "c2", "c3", "c4"]);
}

#[test]
fn the_same_request_replaces_its_own_hold_and_a_dry_run_holds_nothing() {
    let (mut hosts, now) = (hosts(), Instant::now());
    up(&mut hosts, "c1", now);
    ask_for(&mut hosts, "r1", 1, true, now);
    assert_eq!(holds(&hosts, "c1"), 0);
    ask_for(&mut hosts, "r1", 3, false, now);
    assert_eq!(holds(&hosts, "c1"), 3);
    ask_for(&mut hosts, "r1", 2, false, now);
    assert_eq!(holds(&hosts, "c1"), 2);
    ask_for(&mut hosts, "r1", 60, true, now);
    assert_eq!(holds(&hosts, "c1"), 2, "the hold of before is still there");
    let answer = ask_for(&mut hosts, "r1", 65, false, now);
    assert!(answer.picks.is_empty());
    assert_eq!(holds(&hosts, "c1"), 0);
    assert_eq!(hosts.counts().held_requests, 0);
}

#[test]
fn holds_expire() {
    let (mut hosts, now) = (hosts(), Instant::now());
    up(&mut hosts, "c1", now);
    ask_for(&mut hosts, "r1", 64, false, now);
    assert!(try_ask(&mut hosts, "r2", 1, false, now + HOLD - Duration::from_millis(1)).is_err());
    assert_eq!(ask(&mut hosts, "r2", now + HOLD).picks.len(), 1);
    assert_eq!(holds(&hosts, "c1"), 1);
}

#[test]
fn a_hold_is_paid_by_the_growth_the_host_reports() {
    let (mut hosts, now) = (hosts(), Instant::now());
    up(&mut hosts, "c1", now);
    for request in ["r1", "r2", "r3"] {
        ask(&mut hosts, request, now);
    }
    let mut apply = |epoch, generation, instances| {
        hosts.apply(&host("c1"), capabilities(epoch, generation, claimed(instances)), now);
        let row = &hosts.world.rows()[0];
        (row.held_instances, row.ram.held)
    };
    assert_eq!(apply(1, 2, 0), (3, 3072), "newer, but nothing was claimed");
    assert_eq!(apply(1, 3, 1), (2, 2048));
    assert_eq!(apply(1, 3, 2), (2, 2048), "the same generation again says nothing new");
    assert_eq!(apply(1, 4, 0), (2, 2048), "a claim that ended pays nothing");
    assert_eq!(apply(2, 1, 2), (2, 2048), "another epoch is not comparable");
    assert_eq!(apply(2, 2, 5), (0, 0));
    assert_eq!(hosts.counts().held_requests, 0);
}

#[test]
fn pools_are_held_and_paid_one_by_one() {
    let now = Instant::now();
    let chain = BackendsConfig::default().chain().unwrap();
    let mut backends: HostManager<Storage> = HostManager::new(chain, options());
    let name = host("node1@file");
    backends.joined(&name, Epoch(1), false);
    let publish = |backends: &mut HostManager<Storage>, generation, allocated_gib| {
        let mut gold = pool("gold");
        gold.allocated_gib = allocated_gib;
        gold.free_gib = 1000 - allocated_gib;
        let mut tin = pool("tin");
        tin.free_gib = 10;
        let resources = VolumeResources { pools: vec![gold, tin], ..VolumeResources::default() };
        let capabilities = Capabilities {
            enabled: true,
            epoch: 1,
            generation,
            resources: Some(Resources::Volume(resources)),
            ..Capabilities::default()
        };
        backends.apply(&name, capabilities, now);
        backends.world.rows().iter().map(|row| row.held_gib).collect::<Vec<_>>()
    };
    assert_eq!(publish(&mut backends, 1, 0), [0, 0]);
    let request = RequestId::parse("r1").unwrap();
    let wanted = Wanted { count: 1, alternates: 1 };
    let asked = Asked { request: &request, wanted, dry_run: false, seed: 1 };
    let answer = backends.select(&asked, |world| StorageDemand::new(&volume(100, &[]), world), now).unwrap();
    assert_eq!((answer.picks[0].host.as_str(), answer.picks[0].pool.as_str()), ("node1@file", "gold"));
    assert!(answer.alternates.is_empty(), "another pool of the same backend is no alternate");
    assert_eq!(publish(&mut backends, 2, 0), [100, 0]);
    assert_eq!(publish(&mut backends, 3, 99), [100, 0]);
    assert_eq!(publish(&mut backends, 4, 199), [0, 0]);
}

#[test]
fn there_is_no_refusal_while_one_that_is_registered_has_not_answered() {
    let (mut hosts, now) = (hosts(), Instant::now());
    let nobody = ask(&mut hosts, "r1", now);
    assert_eq!(nobody.explanation.summary, "no valid host: no compute is registered");
    up(&mut hosts, "c1", now);
    assert_eq!(ask_for(&mut hosts, "r1", 60, false, now).picks.len(), 60);
    hosts.joined(&host("c2"), Epoch(1), false);
    for dry_run in [true, false] {
        let unknown = try_ask(&mut hosts, "r1", 65, dry_run, now).unwrap_err();
        assert_eq!(unknown.to_string(), "no answer yet from compute c2");
        assert_eq!(holds(&hosts, "c1"), 60, "nothing has changed");
    }
    assert_eq!(ask(&mut hosts, "r2", now).picks.len(), 1, "what is known is offered");
    hosts.joined(&host("c2"), Epoch(1), true);
    assert!(ask_for(&mut hosts, "r1", 65, false, now).picks.is_empty(), "one that is stopping has no room");
    hosts.joined(&host("c2"), Epoch(1), false);
    hosts.apply(&host("c2"), capabilities(1, 1, claimed(64)), now);
    hosts.lost(&host("c2"), "silent".into(), now);
    assert!(ask_for(&mut hosts, "r1", 65, true, now).picks.is_empty(), "one that answered is known");
    leave(&mut hosts, "c1", now);
    leave(&mut hosts, "c2", now);
    assert_eq!(ask(&mut hosts, "r3", now).explanation.summary, "no valid host: no compute is registered");
}

#[test]
fn there_is_no_refusal_for_want_of_what_is_only_promised() {
    let (mut hosts, now) = (hosts(), Instant::now());
    up(&mut hosts, "c1", now);
    assert_eq!(ask_for(&mut hosts, "r1", 60, false, now).picks.len(), 60);
    let unknown = try_ask(&mut hosts, "r2", 5, false, now).unwrap_err();
    assert_eq!(unknown.to_string(), "what is left is promised to others, and not claimed yet");
    assert_eq!(holds(&hosts, "c1"), 60, "nothing has changed");
    assert!(ask_for(&mut hosts, "r2", 5, true, now).picks.is_empty(), "a dry run counts promises");
    assert!(
        ask_for(&mut hosts, "r2", 65, false, now).picks.is_empty(),
        "without them there is no place either"
    );
    hosts.apply(&host("c1"), capabilities(1, 2, claimed(60)), now);
    assert!(ask_for(&mut hosts, "r2", 5, false, now).picks.is_empty(), "they are claimed");
    hosts.apply(&host("c1"), capabilities(1, 3, claimed(0)), now);
    assert_eq!(ask_for(&mut hosts, "r3", 60, false, now).picks.len(), 60);
    let expired = now + HOLD;
    assert_eq!(ask_for(&mut hosts, "r4", 5, false, expired).picks.len(), 5, "they were not taken up");
}

#[test]
fn one_that_is_still_heard_does_not_leave_with_the_registry() {
    let (mut hosts, now) = (hosts(), Instant::now());
    up(&mut hosts, "c1", now);
    assert!(!hosts.absent(&host("c1"), now));
    hosts.heard(&host("c1"));
    assert_eq!(state(&hosts, "c1", now).state(), State::Up);
    hosts.joined(&host("c1"), Epoch(2), false);
    assert_eq!(state(&hosts, "c1", now).state(), State::Up, "known until the new stream speaks");
    assert_eq!(ask(&mut hosts, "r1", now).picks.len(), 1);
    assert!(!hosts.lost(&host("c1"), "broken".into(), now), "it is registered");
    hosts.heard(&host("c1"));
    assert!(!hosts.absent(&host("c1"), now));
    assert!(hosts.lost(&host("c1"), "broken".into(), now));
    assert_eq!(state(&hosts, "c1", now).state_detail, "left the registry");
    assert_eq!((hosts.standing().registered, hosts.standing().up), (0, 0));
}

#[test]
fn the_registered_epoch_is_believed_even_if_it_went_backwards() {
    let (mut hosts, now) = (hosts(), Instant::now());
    hosts.joined(&host("c1"), Epoch(9), false);
    let apply = |hosts: &mut HostManager<Compute>, epoch, generation| {
        hosts.apply(&host("c1"), capabilities(epoch, generation, claimed(0)), now)
    };
    assert_eq!(apply(&mut hosts, 9, 40), Outcome::Applied);
    assert_eq!(apply(&mut hosts, 5, 1), Outcome::Older);
    hosts.joined(&host("c1"), Epoch(5), false);
    assert_eq!(apply(&mut hosts, 4, 1), Outcome::Older);
    assert_eq!(apply(&mut hosts, 5, 3), Outcome::Applied);
    assert_eq!(apply(&mut hosts, 5, 2), Outcome::Older);
    assert_eq!(state(&hosts, "c1", now).capabilities.unwrap().epoch, 5);
}

fn state_of(hosts: &HostManager<Compute>, name: &str, now: Instant) -> (State, String) {
    let listed = hosts.list(None, &BTreeSet::from([host(name)]), 1, now).remove(0);
    (listed.state(), listed.state_detail)
}

#[test]
fn figures_that_do_not_change_any_more_age_out_whatever_clock_they_bear() {
    let (start, minute) = (Instant::now(), Duration::from_secs(60));
    let mut hosts = hosts();
    hosts.joined(&host("c1"), Epoch(1), false);
    let told = |generation, seconds, used| Capabilities {
        // By a clock that is years behind.
        collected_time: Some(kilonova_model::time::timestamp(
            SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
        )),
        collect_interval: Some(kilonova_model::time::duration(minute)),
        ..capabilities(1, generation, claimed(used))
    };
    hosts.apply(&host("c1"), told(1, 5, 0), start);
    // The agent is alive and claims change, but its driver says nothing new.
    hosts.apply(&host("c1"), told(2, 5, 1), start + minute);
    hosts.heard(&host("c1"));
    hosts.sweep(start + minute * 3 - Duration::from_millis(1));
    assert_eq!(state_of(&hosts, "c1", start).0, State::Up);
    hosts.sweep(start + minute * 3);
    let (state, why) = state_of(&hosts, "c1", start);
    assert_eq!(
        (state, why.as_str()),
        (State::Down, "its driver, asked every 60s, gave no figures 3 times in a row")
    );
    assert!(unknown(&mut hosts, false, start + minute * 3).contains("its driver"));
    hosts.heard(&host("c1"));
    assert_eq!(state_of(&hosts, "c1", start).0, State::Down, "to be heard is not enough");
    hosts.apply(&host("c1"), told(3, 6, 1), start + minute * 4);
    assert_eq!(state_of(&hosts, "c1", start).0, State::Up);
    hosts.sweep(start + minute * 6);
    assert_eq!(state_of(&hosts, "c1", start).0, State::Up, "the next three have begun");
}

#[test]
fn a_host_on_which_builds_fail_is_kept_away_for_a_while_and_says_why() {
    let now = Instant::now();
    let mut hosts = hosts();
    (1..=5).for_each(|n| up(&mut hosts, &format!("c{n}"), now));
    let failing = |generation, failed_builds| {
        capabilities(1, generation, ComputeResources { failed_builds, ..claimed(0) })
    };
    hosts.apply(&host("c1"), failing(2, 5), now);
    hosts.apply(&host("c2"), failing(2, 9), now);
    let why = "quarantined: 5 builds failed one after the other".to_owned();
    assert_eq!(state_of(&hosts, "c1", now), (State::Up, why.clone()));
    assert_eq!(state_of(&hosts, "c2", now), (State::Up, String::new()), "one of five at most");
    let answer = ask_for(&mut hosts, "r1", 1, true, now);
    let filter = answer.explanation.filters.iter().find(|filter| filter.name == "ComputeFilter").unwrap();
    assert_eq!((filter.removed, &filter.samples[0].detail), (1, &why));
    assert_eq!(hosts.counts().quarantined, 1);
    hosts.sweep(now + Duration::from_secs(30));
    assert_eq!((state_of(&hosts, "c1", now).1, hosts.counts().quarantined), (String::new(), 0));
    hosts.apply(&host("c1"), failing(3, 6), now + Duration::from_secs(31));
    assert_eq!(hosts.counts().quarantined, 1);
    hosts.apply(&host("c1"), failing(4, 0), now + Duration::from_secs(32));
    assert_eq!(hosts.counts().quarantined, 0, "a build succeeded");
}

#[test]
fn words_that_no_host_uses_any_longer_are_forgotten() {
    let (mut hosts, now) = (hosts(), Instant::now());
    up(&mut hosts, "c1", now);
    ask_for(&mut hosts, "r1", 2, false, now);
    hosts.joined(&host("c2"), Epoch(1), false);
    for generation in 1..=9_000 {
        let mut figures = claimed(60);
        figures.capabilities.insert("load".into(), generation.to_string());
        hosts.apply(&host("c2"), capabilities(1, generation, figures), now);
    }
    let vocabulary = hosts.world.vocabulary();
    assert!(vocabulary.size() < 4_096, "{}", vocabulary.size());
    let rows: Vec<_> = hosts.world.rows().iter().map(|row| (row.head.host, row)).collect();
    for (id, row) in rows {
        let name = hosts.world.name(id);
        assert_eq!(vocabulary.text(row.head.zone), "az1", "{name}");
        let load = vocabulary.facts(row.facts).get("load").map(String::as_str);
        let (expected, held) = if name == "c1" { (None, 2) } else { (Some("9000"), 0) };
        assert_eq!((load, row.held_instances), (expected, held), "{name}");
    }
    let zoned = SelectHostsRequest { availability_zone: "az1".into(), ..instance(1, 1024, 0) };
    let request = RequestId::parse("r2").unwrap();
    let wanted = Wanted { count: 1, alternates: 0 };
    let asked = Asked { request: &request, wanted, dry_run: false, seed: 1 };
    let answer = hosts.select(&asked, |world| ComputeDemand::new(&zoned, world), now).unwrap();
    assert_eq!(answer.picks[0].host, "c1");
}
