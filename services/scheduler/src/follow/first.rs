//! Whether enough is known to answer. A scheduler that knows only half of the hosts would choose badly, so it waits for
//! the first answers, but not for ever; one that has not read the registry knows nothing, and waits.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kilonova_model::HostName;
use kilonova_runtime::readiness::Readiness;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::state::Standings;

/// The readiness condition this is.
pub(super) const CONDITION: &str = "capabilities";

/// How many of the missing are named.
const NAMED: usize = 3;

/// Who has not answered yet.
pub(crate) struct FirstAnswers {
    missing: watch::Sender<Missing>,
}

#[derive(Debug, Default)]
struct Missing {
    /// Services whose members are not known yet.
    registries: BTreeSet<&'static str>,
    publishers: BTreeSet<String>,
    over: bool,
}

impl FirstAnswers {
    pub fn new(services: impl IntoIterator<Item = &'static str>) -> Self {
        let missing = Missing { registries: services.into_iter().collect(), ..Missing::default() };
        Self { missing: watch::Sender::new(missing) }
    }

    /// The members of a service are known, and those that were awaited are all there are.
    pub fn known(&self, service: &'static str) {
        self.missing.send_if_modified(|missing| missing.registries.remove(service));
    }

    /// An answer is wanted of this one.
    pub fn awaited(&self, service: &str, host: &HostName) {
        self.missing.send_if_modified(|missing| {
            !missing.over && missing.publishers.insert(format!("{service} {host}"))
        });
    }

    /// It answered, or left.
    pub fn settled(&self, service: &str, host: &HostName) {
        self.missing.send_if_modified(|missing| {
            !missing.publishers.is_empty() && missing.publishers.remove(&format!("{service} {host}"))
        });
    }

    /// The wait is over: nobody is counted any longer.
    fn close(&self) -> Missing {
        self.missing.send_replace(Missing { over: true, ..Missing::default() })
    }
}

impl Missing {
    /// Why this scheduler cannot answer, if it cannot.
    fn reason(&self, standings: &Standings) -> Option<String> {
        if let Some(service) = self.registries.first() {
            return Some(format!("the registry has not been read for {service} yet"));
        }
        if !self.publishers.is_empty() {
            return Some(self.summary());
        }
        let registered = standings.hosts.registered + standings.backends.registered;
        let up = standings.hosts.up + standings.backends.up;
        (registered > 0 && up == 0).then(|| format!("all {registered} publishers registered are down"))
    }

    fn summary(&self) -> String {
        let named: Vec<&str> = self.publishers.iter().take(NAMED).map(String::as_str).collect();
        let others = self.publishers.len() - named.len();
        let more = if others > 0 { format!(" and {others} more") } else { String::new() };
        format!("no answer yet from {}{more}", named.join(", "))
    }
}

/// Keeps the condition true to what is known. The registry is waited for without limit, the first answers at most for
/// `most` from then on.
pub(super) async fn keep(
    first: Arc<FirstAnswers>,
    mut standings: watch::Receiver<Standings>,
    readiness: Readiness,
    most: Duration,
) {
    let mut missing = first.missing.subscribe();
    let mut until = None;
    loop {
        let (reason, is_read, is_over, is_complete) = {
            let missing = missing.borrow_and_update();
            let reason = missing.reason(&standings.borrow_and_update());
            (reason, missing.registries.is_empty(), missing.over, missing.publishers.is_empty())
        };
        match reason {
            Some(reason) => readiness.not(CONDITION, reason),
            None => readiness.ok(CONDITION),
        }
        if is_read && is_complete && !is_over {
            first.close();
            continue;
        }
        if is_read && until.is_none() {
            until = Some(Instant::now() + most);
        }
        let over = async {
            match until {
                Some(until) if !is_over => tokio::time::sleep_until(until).await,
                _ => std::future::pending().await,
            }
        };
        let is_open = tokio::select! {
            changed = missing.changed() => changed.is_ok(),
            changed = standings.changed() => changed.is_ok(),
            () = over => {
                let missing = first.close();
                tracing::warn!(waited = ?most, missing = missing.summary(), "serving without the first answers of some");
                true
            }
        };
        if !is_open {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hosts::Standing;

    const MOST: Duration = Duration::from_secs(5);

    fn host(name: &str) -> HostName {
        HostName::parse(name).unwrap()
    }

    fn standing(registered: usize, up: usize) -> Standings {
        Standings { hosts: Standing { registered, up }, ..Standings::default() }
    }

    /// Keeps the readiness while `steps` are taken.
    async fn beside(
        first: &Arc<FirstAnswers>,
        standings: &watch::Sender<Standings>,
        readiness: &Readiness,
        steps: impl Future<Output = ()>,
    ) {
        readiness.not(CONDITION, "starting");
        tokio::select! {
            () = keep(first.clone(), standings.subscribe(), readiness.clone(), MOST) => panic!("it ended"),
            () = steps => {}
        }
    }

    async fn reason(readiness: &Readiness, part: &str) -> String {
        let mut changes = readiness.subscribe();
        changes.wait_for(|now| now.summary().contains(part)).await.unwrap().summary()
    }

    #[tokio::test(start_paused = true)]
    async fn holds_when_all_have_answered() {
        let first = Arc::new(FirstAnswers::new(["compute", "volume"]));
        let (standings, readiness) = (watch::Sender::new(standing(4, 4)), Readiness::new());
        let names = ["c1", "c2", "c3", "c4"];
        for name in names {
            first.awaited("compute", &host(name));
        }
        first.known("compute");
        first.known("volume");
        let begun = Instant::now();
        beside(&first, &standings, &readiness, async {
            assert_eq!(
                reason(&readiness, "c1").await,
                "capabilities: no answer yet from compute c1, compute c2, compute c3 and 1 more"
            );
            for name in names {
                assert!(!readiness.is_ready());
                first.settled("compute", &host(name));
            }
            readiness.wait_ready().await;
        })
        .await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn waits_for_the_registry_for_ever_and_then_for_the_answers_for_a_while() {
        let first = Arc::new(FirstAnswers::new(["compute", "volume"]));
        let (standings, readiness) = (watch::Sender::new(standing(2, 1)), Readiness::new());
        first.awaited("compute", &host("c1"));
        first.known("compute");
        beside(&first, &standings, &readiness, async {
            let ready = tokio::time::timeout(MOST * 1000, readiness.wait_ready()).await;
            assert!(ready.is_err(), "the registry was not read");
            assert_eq!(
                readiness.current().summary(),
                "capabilities: the registry has not been read for volume yet"
            );
            let begun = Instant::now();
            first.known("volume");
            readiness.wait_ready().await;
            assert_eq!(begun.elapsed(), MOST);
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn does_not_hold_while_all_who_are_registered_are_down() {
        let first = Arc::new(FirstAnswers::new(["compute"]));
        let (standings, readiness) = (watch::Sender::new(Standings::default()), Readiness::new());
        first.known("compute");
        beside(&first, &standings, &readiness, async {
            readiness.wait_ready().await;
            standings.send_replace(standing(2, 0));
            assert_eq!(reason(&readiness, "all").await, "capabilities: all 2 publishers registered are down");
            standings.send_replace(standing(2, 1));
            readiness.wait_ready().await;
            standings.send_replace(standing(2, 0));
            reason(&readiness, "down").await;
            standings.send_replace(standing(0, 0));
            readiness.wait_ready().await;
        })
        .await;
    }
}
