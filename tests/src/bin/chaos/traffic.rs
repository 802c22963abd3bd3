//! What users do all the while: each works at instances and volumes of its own, one request after another.

use std::time::Duration;

use kilonova_proto::types::v1::server_group::Policy;
use kilonova_tests::user::{Denied, User};
use rand::rngs::StdRng;
use rand::seq::IteratorRandom;
use rand::{Rng, SeedableRng};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// Most of each that one worker has at a time.
const MOST: usize = 12;
/// How long a worker waits for something to come to its end before it does something else with it.
const WAIT: Duration = Duration::from_secs(20);

/// One user's work.
pub struct Worker {
    user: User,
    random: StdRng,
    stop: CancellationToken,
    instances: Vec<String>,
    volumes: Vec<String>,
    snapshots: Vec<String>,
    group: String,
}

impl Worker {
    /// One that does as this seed says.
    pub fn new(user: User, seed: u64, stop: CancellationToken) -> Self {
        let random = StdRng::seed_from_u64(seed);
        let (instances, volumes, snapshots, group) = Default::default();
        Self { user, random, stop, instances, volumes, snapshots, group }
    }

    /// Works until it is told to stop.
    pub async fn run(mut self) {
        if let Ok(group) = self.user.group(Policy::AntiAffinity).await {
            self.group = group;
        }
        while !self.stop.is_cancelled() {
            self.one().await;
            sleep(Duration::from_millis(self.random.random_range(10..300))).await;
        }
    }

    async fn one(&mut self) {
        let full = self.instances.len() >= MOST;
        match self.random.random_range(0..120) {
            0..30 if !full => self.create().await,
            0..50 => self.delete().await,
            50..62 if self.volumes.len() < MOST => {
                if let Ok(id) = self.user.create_volume("data").await {
                    self.volumes.push(id);
                }
            }
            50..70 => self.delete_volume().await,
            70..82 => self.with_both(true).await,
            82..90 => self.with_both(false).await,
            90..94 => self.with_one(|user, id| async move { user.stop(&id).await }).await,
            94..97 => self.with_one(|user, id| async move { user.start(&id).await }).await,
            97..99 => self.with_one(|user, id| async move { user.reboot(&id, true).await }).await,
            99..104 => self.with_one(|user, id| async move { user.live_migrate(&id).await }).await,
            104..108 => self.with_one(|user, id| async move { user.resize(&id, None).await }).await,
            108..113 => {
                let confirm = self.random.random_bool(0.5);
                self.with_one(|user, id| async move { user.end_resize(&id, confirm).await }).await;
            }
            113..115 => self.with_one(|user, id| async move { user.rebuild(&id).await }).await,
            115..118 => self.snapshot().await,
            118..119 => self.delete_snapshot().await,
            _ => {
                if let Some(id) = self.volumes.iter().choose(&mut self.random) {
                    let size = self.random.random_range(2..6);
                    let _ = self.user.extend(id, size).await;
                }
            }
        }
    }

    async fn create(&mut self) {
        let (count, group) = match self.random.random_range(0..10) {
            0 => (3, ""),
            1 => (1, self.group.as_str()),
            _ => (1, ""),
        };
        let Ok(ids) = self.user.create("vm", count, group).await else { return };
        self.instances.extend(ids.clone());
        // Not always: so that some are deleted while they are built.
        if self.random.random_bool(0.6) {
            self.built(&ids[0]).await;
        }
    }

    async fn built(&self, id: &str) {
        let start = Instant::now();
        while start.elapsed() < WAIT && !self.stop.is_cancelled() {
            if self.user.instance_state(id).await.is_some_and(|state| state != "BUILDING") {
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn delete(&mut self) {
        let Some(n) = (0..self.instances.len()).choose(&mut self.random) else { return };
        let id = self.instances.swap_remove(n);
        settle(&self.user, &id, self.user.delete(&id).await);
    }

    async fn delete_volume(&mut self) {
        let Some(n) = (0..self.volumes.len()).choose(&mut self.random) else { return };
        let id = self.volumes[n].clone();
        let deleted = self.user.delete_volume(&id).await;
        if !matches!(deleted, Err(Denied::Refused(_))) {
            self.volumes.swap_remove(n);
        }
        settle(&self.user, &id, deleted);
    }

    async fn snapshot(&mut self) {
        let Some(volume) = self.volumes.iter().choose(&mut self.random) else { return };
        if let Ok(id) = self.user.snapshot(volume).await {
            self.snapshots.push(id);
        }
    }

    async fn delete_snapshot(&mut self) {
        let Some(n) = (0..self.snapshots.len()).choose(&mut self.random) else { return };
        let id = self.snapshots.swap_remove(n);
        settle(&self.user, &id, self.user.delete_snapshot(&id).await);
    }

    async fn with_both(&mut self, attach: bool) {
        let instance = self.instances.iter().choose(&mut self.random);
        let volume = self.volumes.iter().choose(&mut self.random);
        if let (Some(instance), Some(volume)) = (instance, volume) {
            // Refused when one of them is busy, which is as it should be.
            let _ = match attach {
                true => self.user.attach(instance, volume).await,
                false => self.user.detach(instance, volume).await.map(drop),
            };
        }
    }

    async fn with_one<Fut>(&mut self, act: impl Fn(User, String) -> Fut)
    where
        Fut: Future<Output = Result<(), Denied>>,
    {
        if let Some(id) = self.instances.iter().choose(&mut self.random) {
            let _ = act(self.user.clone(), id.clone()).await;
        }
    }
}

/// Of a delete that was never answered nobody knows whether it was accepted.
fn settle(user: &User, id: &str, deleted: Result<(), Denied>) {
    if matches!(deleted, Err(Denied::Unanswered(_))) {
        user.forgets(id);
    }
}
