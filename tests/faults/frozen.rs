//! A member that is stopped in its tracks: its connections stay open and nothing answers.

use std::time::Duration;

use kilonova_tests::echo::Order;
use kilonova_tests::waiting::at_this_pace;
use tokio::time::Instant;

use crate::load::{Calls, Load};
use crate::support::{Cell, SERVICE, member_until, process, ready};

const CALLERS: usize = 16;
const DEADLINE: Duration = Duration::from_millis(500);
const PROBE: Duration = Duration::from_millis(500);

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_member_is_let_go_and_used_again_when_it_thaws() {
    let cell = Cell::new();
    let (awake, freezes) = (process("awake").await, process("freezes").await);
    let _awake = cell.register("awake", awake.addr()).await;
    let _freezes = cell.register("freezes", freezes.addr()).await;
    let peers = cell.peers_with(|options| options.probe_timeout = PROBE);
    let channel = peers.call(SERVICE).within(DEADLINE);
    ready(&peers, 2).await;
    let load = Load::start(CALLERS, &channel, Calls::Idempotent, Order::Answer);
    load.more_of("freezes", 100).await;

    freezes.pause().unwrap();
    let frozen = Instant::now();
    let detail = member_until(&peers, "freezes", false).await;
    assert!(detail.contains("neither calls nor the health check"), "{detail}");
    // A call's deadline, then the probe's; long before keep-alive would notice.
    assert!(frozen.elapsed() < at_this_pace((DEADLINE + PROBE) * 3), "{:?}", frozen.elapsed());
    let noticed = load.so_far();
    assert!(noticed.failures.len() <= CALLERS, "those under way at most: {}", noticed.failures.len());
    load.more_of("awake", 1000).await;
    let failures = load.so_far().failures;
    assert_eq!(failures.len(), noticed.failures.len(), "{:?}", failures.last());

    freezes.resume().unwrap();
    member_until(&peers, "freezes", true).await;
    load.more_of("freezes", 100).await;
    let tally = load.stop().await;
    assert_eq!(tally.failures.len(), failures.len(), "{:?}", tally.failures.last());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_by_name_to_a_frozen_member_ends_by_its_deadline_and_later_ones_at_once() {
    let cell = Cell::new();
    let freezes = process("freezes").await;
    let _freezes = cell.register("freezes", freezes.addr()).await;
    let peers = cell.peers_with(|options| options.probe_timeout = PROBE);
    let channel = peers.call_host(SERVICE, &crate::support::host("freezes")).within(DEADLINE);
    let load = Load::start(1, &channel, Calls::Idempotent, Order::Answer);
    load.more_of("freezes", 10).await;
    freezes.pause().unwrap();
    load.until("a call runs out of time", |tally| {
        tally.failures.iter().any(|failure| failure.starts_with("DeadlineExceeded"))
    })
    .await;
    load.until("a call fails at once", |tally| {
        tally.failures.iter().any(|failure| failure.starts_with("Unavailable"))
    })
    .await;
    freezes.resume().unwrap();
    load.more_of("freezes", 10).await;
    let tally = load.stop().await;
    assert!(tally.slowest < DEADLINE * 2, "{:?}", tally.slowest);
}
