//! The last thing that is done to a cell: its store is put back to an earlier copy, while all runs. Nobody knows then what is wanted,
//! so what hosts have is kept until an operator says that this is the store to go by.

use std::error::Error;
use std::time::{Duration, SystemTime};

use kilonova_model::ServiceKind;
use kilonova_store::SharedStore;
use kilonova_tests::checker::{self, Expected, Violation, World};
use kilonova_tests::journal;
use kilonova_tests::user::User;
use tokio::time::sleep;

use crate::cell::{Cell, NAME};

/// How many instances and volumes there are of before the copy, and as many of after it.
const EACH: u32 = 5;
/// Long enough for agents to have compared what they have with the records more than once, and for graces to end.
const WATCHED: Duration = Duration::from_secs(45);

/// Puts the store back and watches: what is wrong then is only what must hold at every moment.
pub async fn restore(
    cell: &Cell,
    store: &SharedStore,
    user: &User,
) -> Result<Vec<Violation>, Box<dyn Error>> {
    let before = create(user).await?;
    let copy = cell.etcd.lock().await.copy().await?;
    cell.all_ready().await?;
    // Some that the copy knows is gone, and some that is there it does not know.
    user.delete(&before[0]).await.map_err(|denied| format!("{denied:?}"))?;
    user.forgets(&before[0]);
    while user.instance_state(&before[0]).await.as_deref() != Some("DELETED") {
        sleep(Duration::from_millis(100)).await;
    }
    create(user).await?;
    let since = SystemTime::now();
    cell.etcd.lock().await.restore(&copy).await?;
    println!("chaos: the store went back; for {WATCHED:?} nothing is to be removed");
    sleep(WATCHED).await;
    let mut violations = waiting(cell).await;
    // What is removed from now on was accepted.
    let world = World::read(store, NAME, journal::read_all(&cell.dir)).await?;
    user.accept_store().await.map_err(|denied| format!("{denied:?}"))?;
    cell.all_ready().await?;
    println!("chaos: the store was accepted, and every agent is ready");
    let expected = Expected {
        wanted: user.wanted(),
        outages: cell.outages.lock().clone(),
        kept_since: Some(since),
        is_set_back: true,
        aftermath: crate::verdict::AFTERMATH,
        ..Expected::default()
    };
    violations.extend(checker::lasting(&world, &expected));
    Ok(violations)
}

/// The agents that do not wait for the operator though the store is not what it was.
async fn waiting(cell: &Cell) -> Vec<Violation> {
    let mut hasty = Vec::new();
    for ((kind, host), member) in &cell.members {
        let member = member.lock().await;
        let is_agent = matches!(kind, ServiceKind::Compute | ServiceKind::Volume);
        if is_agent && !member.is_dead() && member.is_ready().await.unwrap_or(false) {
            let cause = "it is ready, and the store is not what it was".to_owned();
            hasty.push(Violation { rule: "nothing is removed", subject: host.clone(), cause });
        }
    }
    hasty
}

/// Instances and volumes, once they are there.
async fn create(user: &User) -> Result<Vec<String>, Box<dyn Error>> {
    let ids = user.create("vm", EACH, "").await.map_err(|denied| format!("{denied:?}"))?;
    for _ in 0..EACH {
        user.create_volume("data").await.map_err(|denied| format!("{denied:?}"))?;
    }
    for id in &ids {
        while user.instance_state(id).await.as_deref() == Some("BUILDING") {
            sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(ids)
}
