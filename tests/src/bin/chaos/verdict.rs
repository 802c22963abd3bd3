//! Waits until the cell is at rest, and asks the checker.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use kilonova_model::time::system_time;
use kilonova_store::SharedStore;
use kilonova_tests::checker::{self, Capacity, Expected, Violation, World};
use kilonova_tests::user::User;
use kilonova_tests::{Backing, Plan, journal};
use tokio::time::{Instant, sleep};

use crate::cell::{Cell, NAME};

/// How long all may take to come to rest once nothing is broken any more.
const DEADLINE: Duration = Duration::from_secs(150);
/// How long after an outage something that was decided during it may still be done.
pub const AFTERMATH: Duration = Duration::from_secs(30);
/// How long a host may be away before all can know.
pub const UNNOTICED: Duration = Duration::from_secs(15);

/// What the checker says in the end.
pub struct Verdict {
    /// What is wrong.
    pub violations: Vec<Violation>,
    /// How long it took until nothing was on its way.
    pub took: Duration,
    /// What there is.
    pub world: World,
}

/// Waits until nothing is on its way, and judges.
pub async fn judge(cell: &Cell, store: &SharedStore, user: &User) -> io::Result<Verdict> {
    let start = Instant::now();
    loop {
        let world = World::read(store, NAME, journal::read_all(&cell.dir)).await.map_err(io::Error::other)?;
        let expected = Expected {
            wanted: user.wanted(),
            // A user who gave up may have created what it does not know of.
            complete: false,
            // The hosts are set as the program sets them by default.
            capacity: Capacity::of(&Plan::new(Backing::Etcd)),
            outages: cell.outages.lock().clone(),
            aftermath: AFTERMATH,
            unnoticed: UNNOTICED,
            ..Expected::default()
        };
        if checker::settling(&world, &expected).is_empty() || start.elapsed() > DEADLINE {
            let violations = checker::check(&world, &expected);
            return Ok(Verdict { violations, took: start.elapsed(), world });
        }
        sleep(Duration::from_millis(250)).await;
    }
}

/// The longest time that each kind of action took, by the histories.
pub fn longest(world: &World) -> BTreeMap<&'static str, Duration> {
    let mut longest = BTreeMap::new();
    let instances = world.instances.values().flat_map(|record| &record.actions);
    let volumes = world.volumes.values().flat_map(|record| &record.actions);
    for action in instances.chain(volumes) {
        let time = |time: &Option<prost_types::Timestamp>| time.as_ref().and_then(system_time);
        if let (Some(start), Some(end)) = (time(&action.start_time), time(&action.end_time)) {
            let took = end.duration_since(start).unwrap_or_default();
            let most = longest.entry(action.kind().as_str_name()).or_default();
            *most = took.max(*most);
        }
    }
    longest
}

/// How many instances and volumes ended in ERROR, by the reason.
pub fn errors(world: &World) -> BTreeMap<String, usize> {
    let instances = world.instances.values().filter_map(|record| record.instance.as_ref()?.fault.as_ref());
    let volumes = world.volumes.values().filter_map(|record| record.volume.as_ref()?.fault.as_ref());
    let mut errors = BTreeMap::new();
    for fault in instances.chain(volumes) {
        *errors.entry(fault.reason.clone()).or_default() += 1;
    }
    errors
}
