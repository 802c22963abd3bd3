//! That every situation of a record has its one next step.

use super::*;

struct World {
    status: Status,
    receipts: Vec<Receipt>,
    alternates: usize,
    tried: usize,
    refusals: usize,
    clears: Vec<String>,
    clears_for: Option<&'static str>,
    moves: bool,
    starts: bool,
    lets_go: bool,
    settling: Duration,
    only_place: bool,
    operation: Option<Operation>,
    since: Instant,
    deadline: Instant,
    operation_deadline: Instant,
    kept: Duration,
    sent: Vec<Sent>,
    up: Vec<&'static str>,
    fenced: Vec<&'static str>,
    gone_for: Duration,
    unreachable: Vec<u32>,
    now: Instant,
}

fn world(wanted: Wanted, phase: Phase, host: &str, attempt: u32) -> World {
    let now = Instant::now() + Duration::from_secs(1000);
    World {
        status: Status { wanted, phase, host: host.into(), attempt, generation: 1 },
        receipts: Vec::new(),
        alternates: 0,
        tried: 0,
        refusals: 0,
        clears: Vec::new(),
        clears_for: None,
        moves: false,
        starts: false,
        lets_go: false,
        settling: Duration::ZERO,
        only_place: false,
        operation: None,
        since: now,
        deadline: now + Duration::from_secs(60),
        operation_deadline: now + Duration::from_secs(60),
        kept: Duration::ZERO,
        sent: Vec::new(),
        up: vec!["h1", "h2"],
        fenced: Vec::new(),
        gone_for: Duration::ZERO,
        unreachable: Vec::new(),
        now,
    }
}

impl World {
    fn receipt(mut self, host: &str, attempt: u32) -> Self {
        self.receipts.push(Receipt { host: host.into(), attempt, ..Default::default() });
        self
    }
    fn sent(mut self, verb: Verb, host: &str, attempt: u32, ago: u64) -> Self {
        let at = self.now - Duration::from_secs(ago);
        self.sent.push(Sent { verb, host: host.into(), epoch: Epoch(7), generation: 1, attempt, at });
        self
    }
    fn plan(&self) -> Decision {
        let host = self.status.host.clone();
        let keeps = Vec::from_iter((!host.is_empty()).then(|| host.clone()));
        let site = Site { host, attempt: self.status.attempt };
        let placing = self.status.phase == Phase::Building;
        plan(&View {
            status: &self.status,
            receipts: &self.receipts,
            keeps: &keeps,
            placing,
            building_at: Some(&site).filter(|site| placing && !site.host.is_empty()),
            acts_at: &site,
            clears: &self.clears,
            clears_for: self.clears_for,
            moves: self.moves,
            starts: self.starts,
            lets_go: self.lets_go,
            tried: self.tried,
            refusals: self.refusals,
            settling: self.settling,
            alternates: self.alternates,
            operation: self.operation.as_ref(),
            since: self.since,
            deadline: self.deadline,
            operation_deadline: self.operation_deadline,
            kept: self.kept,
            sent: &self.sent,
            epoch_of: &|host| self.up.contains(&host).then_some(Epoch(7)),
            gone_for: &|_| self.gone_for,
            is_fenced: &|host| self.fenced.contains(&host),
            is_unreachable: &|attempt| self.unreachable.contains(&attempt),
            now: self.now,
            max_attempts: 3,
            max_refusals: 20,
            only_place: self.only_place,
            resend: Duration::from_secs(10),
            leave_timeout: Duration::from_secs(60),
            gone_after: Duration::from_secs(30),
        })
    }
}

#[test]
fn a_new_record_asks_for_a_place_then_takes_alternates_then_gives_up() {
    let mut w = world(Wanted::Present, Phase::Building, "", 0);
    assert_eq!(w.plan(), Decision::Select);
    w.alternates = 1;
    w.tried = 2;
    assert_eq!(w.plan(), Decision::TakeAlternate);
    w.tried = 3;
    assert_eq!(w.plan(), Decision::GiveUp);
}

#[test]
fn a_refusal_is_no_attempt_unless_there_is_no_other_place_and_has_a_limit_of_its_own() {
    let mut w = world(Wanted::Present, Phase::Building, "", 5);
    (w.tried, w.refusals) = (5, 3);
    assert_eq!(w.plan(), Decision::Select);
    w.tried = 6;
    assert_eq!(w.plan(), Decision::GiveUp);
    (w.tried, w.refusals) = (19, 19);
    assert_eq!(w.plan(), Decision::Select);
    (w.tried, w.refusals) = (20, 20);
    assert_eq!(w.plan(), Decision::GiveUp);
    (w.tried, w.refusals, w.only_place) = (1, 1, true);
    assert_eq!(w.plan(), Decision::GiveUp);
}

#[test]
fn a_build_is_sent_once_and_again_when_unanswered_or_to_a_new_incarnation() {
    let mut w = world(Wanted::Present, Phase::Building, "h1", 1).receipt("h1", 1);
    w.deadline = w.now + Duration::from_secs(60);
    assert_eq!(w.plan(), Decision::Build);
    let mut w = w.sent(Verb::Build, "h1", 1, 5);
    assert_eq!(w.plan(), Decision::Wait(Duration::from_secs(60)));
    w.sent[0].epoch = Epoch(6);
    assert_eq!(w.plan(), Decision::Build);
    w.sent[0].epoch = Epoch(7);
    w.sent[0].at = w.now - Duration::from_secs(11);
    assert_eq!(w.plan(), Decision::Build);
}

#[test]
fn a_late_or_vanished_host_is_left_and_its_receipt_is_cleaned_up_later() {
    let mut w = world(Wanted::Present, Phase::Building, "h1", 1).receipt("h1", 1);
    w.deadline = w.now - Duration::from_secs(60);
    assert_eq!(w.plan(), Decision::Build, "it is asked once more");
    let mut w = w.sent(Verb::Build, "h1", 1, 3);
    assert_eq!(w.plan(), Decision::Wait(Duration::from_secs(7)));
    w.sent[0].at = w.now - Duration::from_secs(11);
    assert_eq!(w.plan(), Decision::LeaveHost(Leave::Late));
    w.up = vec!["h2"];
    assert_eq!(w.plan(), Decision::LeaveHost(Leave::NotRegistered));
    let mut w = world(Wanted::Present, Phase::Ready, "h2", 2).receipt("h1", 1).receipt("h2", 2);
    assert!(matches!(w.plan(), Decision::Terminate(r) if r.host == "h1"));
    w.up = vec!["h2"];
    assert_eq!(w.plan(), Decision::Wait(Duration::from_secs(10)));
}

impl World {
    fn operated_until(mut self, deadline: Instant) -> Self {
        self.operation_deadline = deadline;
        self.operation = Some(Operation { generation: 1, ..Default::default() });
        self
    }
}

#[test]
fn an_operation_is_sent_where_it_is_and_given_up_when_late() {
    let w = world(Wanted::Present, Phase::Ready, "h1", 1).receipt("h1", 1);
    let now = w.now;
    let w = w.operated_until(now + Duration::from_secs(60));
    assert_eq!(w.plan(), Decision::Operate);
    let mut w = w.sent(Verb::Operate, "h1", 1, 4);
    assert_eq!(w.plan(), Decision::Wait(Duration::from_secs(6)), "then it is sent again");
    w.sent[0].at = now - Duration::from_secs(11);
    assert_eq!(w.plan(), Decision::Operate);
    let mut w = w.operated_until(now);
    assert_eq!(w.plan(), Decision::Operate, "it is asked once more");
    w.sent[0].at = now;
    assert_eq!(w.plan(), Decision::Wait(Duration::from_secs(10)));
    w.sent[0].at = now - Duration::from_secs(11);
    let mut w = w.operated_until(now - Duration::from_secs(20));
    assert_eq!(w.plan(), Decision::GiveUpOperation(Leave::Late));
    w.operation.as_mut().unwrap().generation = 2;
    assert_eq!(w.plan(), Decision::Operate, "the next one was never sent");
    w.operation.as_mut().unwrap().host_done = true;
    assert_eq!(w.plan(), Decision::Conclude);
}

#[test]
fn an_operation_waits_for_a_host_that_left_until_it_is_late() {
    let w = world(Wanted::Present, Phase::Ready, "h9", 1).receipt("h9", 1);
    let now = w.now;
    let w = w.operated_until(now + Duration::from_secs(3));
    assert_eq!(w.plan(), Decision::Wait(Duration::from_secs(3)));
    let mut w = w.operated_until(now);
    assert_eq!(w.plan(), Decision::GiveUpOperation(Leave::NotRegistered));
    w.status.wanted = Wanted::Absent;
    assert!(!matches!(w.plan(), Decision::GiveUpOperation(_)), "a delete overtakes it");
}

#[test]
fn an_operation_goes_on_once_the_host_in_its_way_is_cleared() {
    let mut w = world(Wanted::Present, Phase::Ready, "h1", 1).receipt("h1", 1).receipt("h2", 2);
    w.clears = vec!["h2".into()];
    let now = w.now;
    let w = w.operated_until(now + Duration::from_secs(30));
    assert!(matches!(w.plan(), Decision::Terminate(r) if r.host == "h2"));
    let mut w = w.sent(Verb::Terminate, "h2", 2, 4);
    assert_eq!(w.plan(), Decision::Wait(Duration::from_secs(6)));
    w.up = vec!["h1"];
    let mut w = w.operated_until(now);
    assert_eq!(w.plan(), Decision::GiveUpOperation(Leave::NotRegistered));
    w.receipts.pop();
    assert_eq!(w.plan(), Decision::GoOn);
}

#[test]
fn a_build_goes_elsewhere_once_the_host_it_left_has_said_that_nothing_is_left_there() {
    let w = world(Wanted::Present, Phase::Building, "", 1).receipt("h1", 1);
    assert!(matches!(w.plan(), Decision::Terminate(r) if r.host == "h1"));
    let mut w = w.sent(Verb::Terminate, "h1", 1, 4);
    assert_eq!(w.plan(), Decision::Wait(Duration::from_secs(6)), "it has not said so yet");
    w.alternates = 1;
    assert_eq!(w.plan(), Decision::Wait(Duration::from_secs(6)));
    w.since = w.now - Duration::from_secs(57);
    assert_eq!(w.plan(), Decision::Wait(Duration::from_secs(3)));
    w.since = w.now - Duration::from_secs(60);
    assert_eq!(w.plan(), Decision::TakeAlternate, "it is not waited for for ever");
    w.since = w.now;
    w.unreachable = vec![1];
    assert_eq!(w.plan(), Decision::TakeAlternate, "nothing listens there");
    (w.unreachable, w.up) = (vec![], vec!["h2"]);
    assert_eq!(w.plan(), Decision::TakeAlternate, "it cannot be asked");
    (w.up, w.receipts) = (vec!["h1", "h2"], vec![]);
    assert_eq!(w.plan(), Decision::TakeAlternate);
}

#[test]
fn an_error_keeps_every_copy_that_was_to_run() {
    for (phase, decision) in [(Phase::Ready, false), (Phase::Failed, true)] {
        let world = world(Wanted::Present, phase, "h1", 1).receipt("h1", 1).receipt("h2", 2);
        assert_eq!(world.plan() == Decision::Done, decision, "{phase:?}");
    }
    let mut prepared = world(Wanted::Present, Phase::Failed, "h1", 1).receipt("h2", 2);
    prepared.receipts[0].prepared = true;
    assert!(matches!(prepared.plan(), Decision::Terminate(_)), "that never ran");
}

#[test]
fn nothing_is_made_to_run_beside_a_copy_that_was_found() {
    let found = |host: &str, vouched| {
        let mut world = world(Wanted::Present, Phase::Ready, "h1", 1).receipt("h1", 1).receipt(host, 2);
        (world.receipts[1].found, world.receipts[1].vouched) = (true, vouched);
        (world.operation, world.starts) = (Some(Operation { generation: 1, ..Operation::default() }), true);
        world
    };
    assert_eq!(found("h2", false).plan(), Decision::GiveUpOperation(Leave::Found));
    assert_eq!(found("h2", true).plan(), Decision::Operate);
    assert_eq!(found("h1", false).plan(), Decision::Operate, "it is that copy");
    let mut fenced = found("h3", false);
    fenced.fenced.push("h3");
    assert_eq!(fenced.plan(), Decision::Operate);
    let mut stops = found("h2", false);
    stops.starts = false;
    assert_eq!(stops.plan(), Decision::Operate);
}

#[test]
fn nothing_is_cleared_while_the_host_that_is_to_run_it_is_away() {
    let mut w = world(Wanted::Present, Phase::Ready, "h1", 1).receipt("h1", 1).receipt("h2", 2);
    (w.clears, w.clears_for, w.moves) = (vec!["h2".into()], Some("h1"), true);
    let until = w.now + Duration::from_secs(60);
    let mut w = w.operated_until(until);
    assert!(matches!(w.plan(), Decision::Terminate(r) if r.host == "h2"));
    w.up = vec!["h2"];
    assert_eq!(w.plan(), Decision::Wait(Duration::from_secs(30)));
    w.gone_for = Duration::from_secs(30);
    assert_eq!(w.plan(), Decision::GiveUpOperation(Leave::NotRegistered));
    w.operation = None;
    assert_eq!(w.plan(), Decision::Done, "nor is anything that is left over");
    w.up = vec!["h1", "h2"];
    assert!(matches!(w.plan(), Decision::Terminate(r) if r.host == "h2"));
}

#[test]
fn a_fenced_host_counts_as_cleared_and_as_one_that_let_go() {
    let mut w = world(Wanted::Present, Phase::Ready, "h1", 1).receipt("h1", 1).receipt("h9", 2);
    w.clears = vec!["h9".into()];
    let until = w.now + Duration::from_secs(60);
    let mut w = w.operated_until(until);
    assert_eq!(w.plan(), Decision::Wait(Duration::from_secs(10)), "it may be back in time");
    w.fenced = vec!["h9"];
    assert_eq!(w.plan(), Decision::GoOn);
    let mut w = world(Wanted::Present, Phase::Ready, "h9", 1).receipt("h9", 1).operated_until(until);
    (w.moves, w.lets_go, w.fenced) = (true, true, vec!["h9"]);
    assert_eq!(w.plan(), Decision::SkipHost);
    w.lets_go = false;
    assert_eq!(w.plan(), Decision::Wait(Duration::from_secs(30)), "it would have to run it");
}

#[test]
fn what_was_found_elsewhere_ends_a_placement_unless_an_operator_says_that_it_does_not_run() {
    let mut w = world(Wanted::Present, Phase::Building, "", 1).receipt("h9", 0);
    w.receipts[0].found = true;
    assert_eq!(w.plan(), Decision::GiveUp);
    w.fenced = vec!["h9"];
    assert_eq!(w.plan(), Decision::Select);
    w.fenced.clear();
    w.receipts[0].vouched = true;
    assert_eq!(w.plan(), Decision::Select);
}

#[test]
fn a_move_does_not_wait_until_its_deadline_for_a_host_that_is_gone() {
    let mut w = world(Wanted::Present, Phase::Ready, "h9", 1).receipt("h9", 1);
    w.moves = true;
    let until = w.now + Duration::from_secs(180);
    let mut w = w.operated_until(until);
    assert_eq!(w.plan(), Decision::Wait(Duration::from_secs(30)));
    w.gone_for = Duration::from_secs(30);
    assert_eq!(w.plan(), Decision::GiveUpOperation(Leave::NotRegistered));
    w.moves = false;
    assert_eq!(w.plan(), Decision::Wait(Duration::from_secs(180)), "a stop may wait");
}

#[test]
fn a_conductor_that_has_just_begun_waits_for_hosts_to_register() {
    let mut w = world(Wanted::Present, Phase::Building, "h9", 1).receipt("h9", 1);
    w.settling = Duration::from_secs(4);
    assert_eq!(w.plan(), Decision::Wait(Duration::from_secs(4)));
    w.settling = Duration::ZERO;
    assert_eq!(w.plan(), Decision::LeaveHost(Leave::NotRegistered));
}

#[test]
fn the_only_place_is_waited_for_and_tried_once() {
    let mut w = world(Wanted::Present, Phase::Building, "h9", 1).receipt("h9", 1);
    w.only_place = true;
    w.deadline = w.now + Duration::from_secs(60);
    assert_eq!(w.plan(), Decision::Wait(Duration::from_secs(60)));
    w.deadline = w.now;
    assert_eq!(w.plan(), Decision::LeaveHost(Leave::NotRegistered));
    w.status.host.clear();
    w.tried = 1;
    assert_eq!(w.plan(), Decision::GiveUp);
}

#[test]
fn a_delete_clears_every_receipt_before_it_is_finished() {
    let w = world(Wanted::Absent, Phase::Building, "h2", 2).receipt("h1", 1).receipt("h2", 2);
    assert!(matches!(w.plan(), Decision::Terminate(r) if r.host == "h1"));
    let w = w.sent(Verb::Terminate, "h1", 1, 4);
    assert!(matches!(w.plan(), Decision::Terminate(r) if r.host == "h2"));
    let mut w = w.sent(Verb::Terminate, "h2", 2, 1);
    assert_eq!(w.plan(), Decision::Wait(Duration::from_secs(6)));
    w.receipts.clear();
    assert_eq!(w.plan(), Decision::Finish { forced: false });
}

#[test]
fn a_delete_does_not_wait_for_ever_for_a_host_that_left() {
    let mut w = world(Wanted::Absent, Phase::Ready, "h9", 1).receipt("h9", 1);
    w.deadline = w.now + Duration::from_secs(3);
    assert_eq!(w.plan(), Decision::Wait(Duration::from_secs(3)));
    w.deadline = w.now;
    assert_eq!(w.plan(), Decision::Finish { forced: true });
    w.up.push("h9");
    assert!(matches!(w.plan(), Decision::Terminate(_)));
}

#[test]
fn a_deleted_record_is_kept_for_its_retention() {
    let mut w = world(Wanted::Absent, Phase::Gone, "", 1);
    w.kept = Duration::from_secs(5);
    assert_eq!(w.plan(), Decision::Wait(Duration::from_secs(5)));
    let mut w = w.receipt("h9", 1);
    assert_eq!(w.plan(), Decision::Wait(Duration::from_secs(5)));
    w.up.push("h9");
    assert!(matches!(w.plan(), Decision::Terminate(_)), "a host that is back removes its copy");
    w.kept = Duration::ZERO;
    assert!(matches!(w.plan(), Decision::Terminate(_)), "it says so as long as there is a copy");
    w.up.clear();
    assert!(matches!(w.plan(), Decision::Wait(_)), "the host may be back");
    w.fenced.push("h9");
    assert_eq!(w.plan(), Decision::Purge);
    w.fenced.clear();
    w.receipts.clear();
    assert_eq!(w.plan(), Decision::Purge);
}
