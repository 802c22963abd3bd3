//! What monkeys do to compute hosts besides killing and freezing them: some die for good, and some are started under another name.

use std::io;
use std::time::Duration;

use kilonova_model::ServiceKind;
use kilonova_tests::cluster::MemberId;
use kilonova_tests::user::User;
use rand::Rng;
use rand::seq::IndexedRandom;
use tokio::time::{Instant, sleep};

use crate::monkey::Monkey;

/// How many hosts die for good at most: the others have room for what was on them.
const MOST_DEAD: usize = 3;
/// How long what was on a dead host is tried to be evacuated: longer than what waits for that host.
const EVACUATE: Duration = Duration::from_secs(60);
/// Between two tries.
const AGAIN: Duration = Duration::from_millis(500);
/// How long an agent that must not run may take to end.
const ENDS: Duration = Duration::from_secs(30);

impl Monkey {
    /// Now and then until then, a host dies for good: its operator says that it is off, and has what was on it evacuated.
    pub async fn kill_for_good(mut self, user: User, until: Instant, every: Duration) -> io::Result<()> {
        for _ in 0..MOST_DEAD {
            let wait = every.mul_f64(self.random.random_range(0.5..1.0));
            if Instant::now() + wait > until {
                return Ok(());
            }
            sleep(wait).await;
            let victim = self.compute();
            {
                let mut member = self.cell.members[&victim].lock().await;
                if member.is_dead() {
                    continue;
                }
                self.cell.away(&victim);
                self.cell.buried.lock().insert(victim.1.clone());
                self.note("a host dies for good".to_owned());
                member.bury(&self.cell.dir).await?;
            }
            self.rescue(&user, &victim.1).await;
        }
        Ok(())
    }

    /// What can be evacuated is; what cannot, as an instance that waits for a confirmation, is left to its user.
    async fn rescue(&self, user: &User, host: &str) {
        let start = Instant::now();
        while start.elapsed() < EVACUATE && user.fence(host).await.is_err() {
            sleep(AGAIN).await;
        }
        while start.elapsed() < EVACUATE {
            let there = user.instances_on(host).await;
            if there.is_empty() {
                return;
            }
            for id in there {
                if user.evacuate(&id).await.is_ok() {
                    self.note("evacuate".to_owned());
                }
            }
            sleep(AGAIN).await;
        }
    }

    /// Now and then until then, an agent is started under another name over its data. It must end, and remove nothing.
    pub async fn rename(mut self, until: Instant, every: Duration) -> io::Result<()> {
        for number in 1.. {
            let wait = every.mul_f64(self.random.random_range(0.5..1.0));
            if Instant::now() + wait + ENDS > until {
                return Ok(());
            }
            sleep(wait).await;
            let victim = self.compute();
            let mut member = self.cell.members[&victim].lock().await;
            if member.is_dead() {
                continue;
            }
            self.cell.away(&victim);
            self.note("rename a host".to_owned());
            member.kill().await?;
            let name = format!("renamed-{number}");
            member.spawn_as(Some(&name))?;
            if !member.ends(ENDS).await? {
                self.cell.misdeeds.lock().push(format!("{name} runs over the data of {}", victim.1));
                member.kill().await?;
            }
            member.spawn()?;
            member.until_ready().await?;
            self.cell.back(&victim);
        }
        Ok(())
    }

    fn compute(&mut self) -> MemberId {
        let computes: Vec<&MemberId> =
            self.cell.members.keys().filter(|(kind, _)| *kind == ServiceKind::Compute).collect();
        (*computes.choose(&mut self.random).expect("there are some")).clone()
    }
}
