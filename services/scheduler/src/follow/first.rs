//! The first answers: a scheduler that knows only half of the hosts would choose badly, so it waits for them, but not
//! for ever.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kilonova_model::HostName;
use kilonova_runtime::readiness::Readiness;
use tokio::sync::watch;

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
    fn none(&self) -> bool {
        self.registries.is_empty() && self.publishers.is_empty()
    }

    fn summary(&self) -> String {
        if let Some(service) = self.registries.first() {
            return format!("the registry has not been read for {service} yet");
        }
        let named: Vec<&str> = self.publishers.iter().take(NAMED).map(String::as_str).collect();
        let others = self.publishers.len() - named.len();
        let more = if others > 0 { format!(" and {others} more") } else { String::new() };
        format!("no answer yet from {}{more}", named.join(", "))
    }
}

/// Makes the condition hold once nobody is missing, or the time is over.
pub(super) async fn wait(first: Arc<FirstAnswers>, readiness: Readiness, most: Duration) {
    let complete = async {
        let mut missing = first.missing.subscribe();
        loop {
            {
                let missing = missing.borrow_and_update();
                if missing.none() {
                    return;
                }
                readiness.not(CONDITION, missing.summary());
            }
            if missing.changed().await.is_err() {
                return;
            }
        }
    };
    let in_time = tokio::time::timeout(most, complete).await.is_ok();
    let missing = first.close();
    if !in_time {
        tracing::warn!(waited = ?most, missing = missing.summary(), "serving without the first answers of some");
    }
    readiness.ok(CONDITION);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str) -> HostName {
        HostName::parse(name).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn holds_when_all_have_answered() {
        let first = Arc::new(FirstAnswers::new(["compute", "volume"]));
        let readiness = Readiness::new();
        readiness.not(CONDITION, "starting");
        for name in ["c1", "c2", "c3", "c4"] {
            first.awaited("compute", &host(name));
        }
        first.known("compute");
        first.known("volume");
        let mut changes = readiness.subscribe();
        let waiting = wait(first.clone(), readiness.clone(), Duration::from_secs(5));
        let steps = async {
            let said = changes.wait_for(|now| now.summary().contains("c1")).await.unwrap().summary();
            assert_eq!(
                said,
                "capabilities: no answer yet from compute c1, compute c2, compute c3 and 1 more"
            );
            for name in ["c1", "c2", "c3", "c4"] {
                assert!(!readiness.is_ready());
                first.settled("compute", &host(name));
            }
        };
        let begun = tokio::time::Instant::now();
        tokio::join!(waiting, steps);
        assert!(readiness.is_ready());
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn does_not_wait_for_ever() {
        let first = Arc::new(FirstAnswers::new(["compute"]));
        let readiness = Readiness::new();
        first.awaited("compute", &host("c1"));
        first.known("compute");
        let begun = tokio::time::Instant::now();
        wait(first, readiness.clone(), Duration::from_secs(5)).await;
        assert!(readiness.is_ready());
        assert_eq!(begun.elapsed(), Duration::from_secs(5));
    }
}
