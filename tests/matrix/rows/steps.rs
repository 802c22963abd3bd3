//! What rows have in common.

use std::time::Duration;

use kilonova_tests::user::{Denied, User};
use kilonova_tests::waiting::at_this_pace;
use tokio::time::sleep;

use super::Ids;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(5);

pub async fn create(user: &User, count: u32) -> Ids {
    user.create("vm", count, "").await.unwrap()
}

pub async fn instance(user: &User) -> String {
    let id = create(user, 1).await.remove(0);
    until_instance(user, &id, "ACTIVE").await;
    id
}

pub async fn volume(user: &User) -> String {
    let id = user.create_volume("data").await.unwrap();
    until_volume(user, &id, "AVAILABLE").await;
    id
}

/// An instance and the volume it has.
pub async fn attached(user: &User) -> Ids {
    let ids = vec![instance(user).await, volume(user).await];
    user.attach(&ids[0], &ids[1]).await.unwrap();
    until_volume(user, &ids[1], "IN_USE").await;
    ids
}

/// An instance that was moved, and the volume it has.
pub async fn resized(user: &User) -> Ids {
    let ids = attached(user).await;
    user.resize(&ids[0], Some("double")).await.unwrap();
    until_instance(user, &ids[0], "RESIZED").await;
    ids
}

/// A volume and its snapshot.
pub async fn kept(user: &User) -> Ids {
    let volume = volume(user).await;
    let id = user.snapshot(&volume).await.unwrap();
    while user.snapshot_state(&id).await.as_deref() != Some("AVAILABLE") {
        sleep(LOOK).await;
    }
    vec![volume, id]
}

pub async fn until_instance(user: &User, id: &str, state: &str) {
    while user.instance_state(id).await.as_deref() != Some(state) {
        sleep(LOOK).await;
    }
}

/// Until its host was asked for it, or has made it.
pub async fn until_spawning(user: &User, id: &str) {
    while user.instance_task(id).await.is_none_or(|task| task == "SCHEDULING") {
        sleep(LOOK).await;
    }
    // The command follows what says so.
    sleep(Duration::from_millis(50)).await;
}

pub async fn until_volume(user: &User, id: &str, state: &str) {
    while user.volume_state(id).await.as_deref() != Some(state) {
        sleep(LOOK).await;
    }
}

/// Asks until it is accepted: what a host's end changes is seen a moment later.
pub async fn until_accepted<T, F, Fut>(ask: F) -> T
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<T, Denied>>,
{
    loop {
        match ask().await {
            Ok(accepted) => return accepted,
            Err(_) => sleep(LOOK * 10).await,
        }
    }
}

/// Evacuates an instance, to the end.
pub async fn evacuate(user: &User, id: &str) {
    let request_id = until_accepted(|| user.evacuate(id)).await;
    until_ended(user, id, &request_id).await;
}

/// Evacuates an instance, again when it failed.
pub async fn evacuate_in_the_end(user: &User, id: &str) {
    in_the_end(user, id, || user.evacuate(id)).await;
}

/// Asks something of an instance until it is accepted, again when it failed. Its answer is the request's id.
pub async fn in_the_end<F, Fut>(user: &User, id: &str, ask: F)
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<String, Denied>>,
{
    loop {
        let request_id = until_accepted(&ask).await;
        loop {
            match user.instance_outcome(id, &request_id).await.as_deref() {
                Some("SUCCEEDED") => return,
                Some("FAILED") => break,
                _ => sleep(LOOK).await,
            }
        }
    }
}

/// Until what was asked with this request id has succeeded.
pub async fn until_ended(user: &User, id: &str, request_id: &str) {
    while user.instance_outcome(id, request_id).await.as_deref() != Some("SUCCEEDED") {
        sleep(LOOK).await;
    }
}

/// Until all hosts take new work: they have compared with a store that was accepted.
pub async fn until_hosts_take_work(user: &User) {
    while !user.hosts_take_work().await {
        sleep(LOOK * 10).await;
    }
}

/// Until it is deleted.
pub async fn until_gone(user: &User, id: &str) {
    until_instance(user, id, "DELETED").await;
}

/// Until the conductors have made another mark of the store.
pub async fn until_marked_anew(user: &User) {
    let before = user.store().await.unwrap().mark;
    while user.store().await.unwrap().mark == before {
        sleep(LOOK).await;
    }
}

/// Long enough for agents to have looked for what is nobody's more than once, and to have removed it.
pub async fn while_agents_look() {
    sleep(at_this_pace(Duration::from_secs(5))).await;
}
