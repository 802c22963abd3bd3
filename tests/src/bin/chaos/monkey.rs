//! Breaks things, one after another, as its seed says.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use kilonova_model::ServiceKind;
use kilonova_tests::cluster::MemberId;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use crate::cell::Cell;

/// How long etcd is cut off.
const CUT: Duration = Duration::from_secs(30);

/// What it does to a process, and how often.
const ACTS: [(Act, u32); 3] = [(Act::Kill, 5), (Act::Freeze, 3), (Act::Restart, 2)];
/// Whom it chooses, and how often.
const VICTIMS: [(ServiceKind, u32); 5] = [
    (ServiceKind::Compute, 5),
    (ServiceKind::Conductor, 4),
    (ServiceKind::Volume, 2),
    (ServiceKind::Scheduler, 2),
    (ServiceKind::Api, 1),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Kill,
    Freeze,
    Restart,
}

/// One monkey.
pub struct Monkey {
    pub(crate) cell: Arc<Cell>,
    pub(crate) random: StdRng,
    done: Arc<Mutex<BTreeMap<String, usize>>>,
}

impl Monkey {
    /// A monkey that will do as this seed says, and counts what it does.
    pub fn new(cell: Arc<Cell>, seed: u64, done: Arc<Mutex<BTreeMap<String, usize>>>) -> Self {
        Self { cell, random: StdRng::seed_from_u64(seed), done }
    }

    /// Breaks processes until then. What it stopped may still stand then.
    pub async fn break_processes(mut self, until: Instant) -> io::Result<()> {
        while Instant::now() < until {
            sleep(Duration::from_millis(self.random.random_range(500..3000))).await;
            let victim = self.victim();
            let act = weighted(&mut self.random, &ACTS);
            let pause = Duration::from_millis(match act {
                Act::Kill => self.random.random_range(0..3000),
                Act::Freeze => self.random.random_range(1000..15_000),
                Act::Restart => 0,
            });
            self.note(format!("{act:?} {}", victim.0));
            self.act(&victim, act, pause).await?;
        }
        Ok(())
    }

    /// Cuts etcd off, or kills it, now and then until then.
    pub async fn break_etcd(mut self, until: Instant, every: Duration) -> io::Result<()> {
        loop {
            let wait = every.mul_f64(self.random.random_range(0.6..1.0));
            if Instant::now() + wait + CUT > until {
                return Ok(());
            }
            sleep(wait).await;
            let agents: Vec<MemberId> = self.cell.members.keys().cloned().collect();
            agents.iter().for_each(|agent| self.cell.away(agent));
            {
                let mut etcd = self.cell.etcd.lock().await;
                if self.random.random_bool(0.7) {
                    self.note("cut etcd".to_owned());
                    etcd.pause()?;
                    sleep(CUT).await;
                    etcd.resume()?;
                } else {
                    self.note("kill etcd".to_owned());
                    etcd.kill()?;
                    sleep(Duration::from_secs(3)).await;
                    etcd.restart().await?;
                }
            }
            agents.iter().for_each(|agent| self.cell.back(agent));
        }
    }

    /// Kills all members of one service at once, now and then until then.
    pub async fn break_services(mut self, until: Instant, every: Duration) -> io::Result<()> {
        loop {
            let wait = every.mul_f64(self.random.random_range(0.6..1.0));
            if Instant::now() + wait > until {
                return Ok(());
            }
            sleep(wait).await;
            let kind = weighted(&mut self.random, &VICTIMS);
            self.note(format!("kill every {kind}"));
            let victims: Vec<MemberId> =
                self.cell.members.keys().filter(|(of, _)| *of == kind).cloned().collect();
            let pause = Duration::from_millis(self.random.random_range(0..3000));
            let killed = victims.iter().map(|victim| self.act(victim, Act::Kill, pause));
            futures::future::try_join_all(killed).await?;
        }
    }

    async fn act(&self, victim: &MemberId, act: Act, pause: Duration) -> io::Result<()> {
        let mut member = self.cell.members[victim].lock().await;
        if member.is_dead() {
            return Ok(());
        }
        self.cell.away(victim);
        match act {
            Act::Kill => {
                member.kill().await?;
                sleep(pause).await;
                member.spawn()?;
            }
            Act::Freeze => {
                member.signal(Signal::STOP)?;
                sleep(pause).await;
                member.signal(Signal::CONT)?;
            }
            Act::Restart => {
                member.stop().await?;
                member.spawn()?;
            }
        }
        member.until_ready().await?;
        self.cell.back(victim);
        Ok(())
    }

    fn victim(&mut self) -> MemberId {
        let kind = weighted(&mut self.random, &VICTIMS);
        let of_kind: Vec<&MemberId> = self.cell.members.keys().filter(|(of, _)| *of == kind).collect();
        (*of_kind.choose(&mut self.random).expect("there are some")).clone()
    }

    /// Says what it does, and counts it.
    pub(crate) fn note(&self, what: String) {
        println!("monkey: {what}");
        *self.done.lock().entry(what).or_default() += 1;
    }
}

fn weighted<T: Copy>(random: &mut StdRng, choices: &[(T, u32)]) -> T {
    choices.choose_weighted(random, |(_, weight)| *weight).expect("there are some").0
}
