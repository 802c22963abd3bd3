//! A watch that heals itself.
//!
//! ```text
//!        ┌──────────────► list at one revision ── send Snapshot ──┐
//!        │                                                        ▼
//!        │           ┌──────────► open the stream at known.revision + 1 ◄───────┐
//!        │           │                                            │             │
//!        │       pause, jittered                                  ▼             │
//!        │           ▲                               send changes as they come  │
//!        │           │                                            │             │
//!        │           └── stream broken, cancelled, no leader ─────┤             │
//!        │                                                        │             │
//!        └── revision compacted, store gone back, audit differs ──┴── audit ok ─┘ (the stream stays open)
//! ```
//!
//! A stream that is opened is believed once the store is known to be the one followed before ([`History`](super::history)).
//!
//! What was reported is remembered as keys and revisions ([`Known`]). Every few minutes, and soon after every resumption, the audit
//! compares it with a listing.
//! For changes may be on their way, the audit first asks for the store's revision, gives the stream a grace to
//! deliver up to there, and then lists at *the revision known*: at that revision the two must agree exactly.
//!
//! Resuming relies on nothing but revisions of changes received and of listings that agreed.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{WatchOptions, WatchResponse, WatchStream};
use kilonova_model::Revision;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::cluster::{Cluster, MAX_MESSAGE, to_etcd};
use super::convert;
use super::failure::{Effect, Failure};
use super::known::Known;
use crate::page::PageRequest;
use crate::{StoreError, Watch, WatchEvent, WatchFrom, WatchHealth};

/// How many events wait for the consumer; then etcd does.
const BUFFER: usize = 256;
/// How many keys a page of a snapshot has.
const SNAPSHOT_PAGE: usize = 500;
/// The first pause before reconnecting.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// Why one stream came to its end.
#[derive(Debug)]
enum End {
    /// The consumer dropped the watch.
    Dropped,
    /// The changes since what is known are not kept: list again.
    Compacted,
    /// What is known is not of this store's history: list again, and say so.
    Doubted(&'static str),
    /// The stream was not allowed.
    Refused(String),
    /// Try again from what is known.
    Broken(String),
}

struct Follower {
    cluster: Arc<Cluster>,
    prefix: String,
    events: mpsc::Sender<WatchEvent>,
    health: watch::Sender<WatchHealth>,
    known: Option<Known>,
    /// The count of the history that the consumer knows of.
    told: Option<u64>,
    doubted: bool,
}

/// Follows a prefix until the watch is dropped.
pub(super) fn follow(cluster: &Arc<Cluster>, prefix: &str, from: WatchFrom) -> Watch {
    let (events, receiver) = mpsc::channel(BUFFER);
    let (health, healthy) = watch::channel(WatchHealth::now(false));
    cluster.history.may_read(prefix);
    let told = match from {
        WatchFrom::Snapshot => None,
        WatchFrom::After(_) => Some(cluster.history.count()),
    };
    let follower = Follower {
        cluster: Arc::clone(cluster),
        prefix: prefix.to_owned(),
        events,
        health,
        known: None,
        told,
        doubted: false,
    };
    let mut task = JoinSet::new();
    task.spawn(follower.run(from));
    let stream = futures::stream::unfold((receiver, task), |(mut receiver, task)| async move {
        let event = receiver.recv().await;
        event.map(|event| (event, (receiver, task)))
    });
    Watch::new(stream, healthy)
}

impl Follower {
    async fn run(mut self, from: WatchFrom) {
        let mut resume = match from {
            WatchFrom::Snapshot => None,
            WatchFrom::After(revision) => Some(revision),
        };
        let mut failures: u32 = 0;
        loop {
            let end = match self.follow_once(resume).await {
                Ok(never) => match never {},
                Err(end) => end,
            };
            // A connection that does not last is no reason to come back at once.
            failures = if self.was_stable() { 0 } else { failures.saturating_add(1) };
            match end {
                End::Dropped => return,
                End::Compacted => {
                    self.start_over("compacted");
                    resume = None;
                }
                End::Doubted(reason) => {
                    self.start_over(reason);
                    (resume, self.doubted) = (None, true);
                }
                End::Refused(reason) => {
                    self.set_connected(false);
                    tracing::warn!(prefix = self.prefix, reason, "etcd cancelled the watch");
                    self.cluster.renew_token_now().await;
                }
                End::Broken(error) => {
                    if self.set_connected(false) {
                        tracing::warn!(prefix = self.prefix, error, "watch lost its connection");
                    } else {
                        tracing::debug!(prefix = self.prefix, error, "watch cannot connect");
                    }
                }
            }
            tokio::select! {
                () = sleep(pause(failures, self.cluster.options.reconnect_pause)) => {}
                () = self.events.closed() => return,
            }
        }
    }

    fn start_over(&mut self, reason: &'static str) {
        tracing::warn!(prefix = self.prefix, reason, "watch starts over");
        metrics::counter!("kilonova_store_watch_restarts_total", "reason" => reason).increment(1);
        self.known = None;
    }

    async fn follow_once(&mut self, resume: Option<Revision>) -> Result<Infallible, End> {
        let resumes = self.known.is_some();
        let mut known = match (self.known.take(), resume) {
            (Some(known), _) => known,
            (None, Some(revision)) => self.recall(revision).await?,
            (None, None) => self.snapshot().await?,
        };
        let audit = if resumes { Audit::soon() } else { Audit::idle(&self.cluster.options.audit_interval) };
        let end = self.follow_stream(&mut known, audit).await;
        self.known = Some(known);
        end
    }

    async fn follow_stream(&self, known: &mut Known, mut audit: Audit) -> Result<Infallible, End> {
        let history = &self.cluster.history;
        let count = self.told.unwrap_or_else(|| history.count());
        let mut stream = self.open(known.revision).await?;
        self.set_connected(true);
        loop {
            tokio::select! {
                biased;
                () = history.ended(count) => return Err(End::Doubted("store_went_back")),
                message = stream.message() => {
                    let news = known.take_news(changes(message)?);
                    if let Some(WatchEvent::Put(change)) = news.last() {
                        history.saw(count, change);
                    }
                    for event in news {
                        self.send(event).await?;
                    }
                }
                () = sleep_until(audit.at) => audit = self.audit(known, &audit).await?,
                () = self.events.closed() => return Err(End::Dropped),
            }
        }
    }

    /// Lists everything and sends it.
    async fn snapshot(&mut self) -> Result<Known, End> {
        let count = self.cluster.history.count();
        let request = PageRequest::first(&self.prefix, SNAPSHOT_PAGE);
        let (items, revision) = self.cluster.everything(request, false).await.map_err(broken)?;
        let items: Result<Vec<_>, _> = items.into_iter().map(convert::key_value).collect();
        let items = items.map_err(|error| End::Broken(error.to_string()))?;
        let known = Known::new(items.iter().map(|item| (item.key.clone(), item.mod_revision)), revision);
        if let Some(newest) = items.iter().max_by_key(|item| item.mod_revision) {
            self.cluster.history.saw(count, newest);
        }
        self.set_connected(true);
        let went_back = self.doubted || self.told.is_some_and(|told| told != count);
        self.send(WatchEvent::Snapshot { items, revision, went_back }).await?;
        (self.told, self.doubted) = (Some(count), false);
        Ok(known)
    }

    /// What the consumer must know if it knows everything up to a revision.
    async fn recall(&self, revision: Revision) -> Result<Known, End> {
        match self.list_keys(revision).await {
            Ok(keys) => Ok(Known::new(keys, revision)),
            Err(Failure::NoSuchRevision) => {
                let reached = self.cluster.revision(&self.prefix).await.map_err(broken)?;
                Err(if reached < revision { End::Doubted("revision_unknown") } else { End::Compacted })
            }
            Err(failure) => Err(broken(failure)),
        }
    }

    async fn list_keys(&self, revision: Revision) -> Result<Vec<(String, Revision)>, Failure> {
        let request = PageRequest {
            revision: Some(revision),
            ..PageRequest::first(&self.prefix, crate::page::MAX_PAGE)
        };
        let (items, _) = self.cluster.everything(request, true).await?;
        let key = |item: &etcd_client::KeyValue| {
            convert::key_of(item).map(|key| (key.to_owned(), convert::revision(item.mod_revision())))
        };
        items.iter().map(key).collect::<Result<_, _>>().map_err(|error| Failure::NotDone(error.to_string()))
    }

    /// Opens the stream after a revision, and looks whether it is the store that came that far.
    async fn open(&self, after: Revision) -> Result<WatchStream, End> {
        let request = PageRequest::first(&self.prefix, 1);
        let start = if request.start.is_empty() { vec![0] } else { request.start };
        let options = WatchOptions::new()
            .with_range(request.end.unwrap_or_else(|| vec![0]))
            .with_start_revision(to_etcd(after.next()));
        let opening = async {
            let mut client = self.cluster.client.watch_client().max_decoding_message_size(MAX_MESSAGE);
            let mut stream = client.watch(start, Some(options)).await?;
            let created = stream.message().await?;
            Ok((stream, created))
        };
        let (stream, created) = match timeout(self.cluster.options.call_deadline, opening).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => return Err(broken(Failure::of(&error))),
            Err(_) => return Err(End::Broken("etcd did not open the watch in time".to_owned())),
        };
        let created = created.ok_or_else(|| End::Broken("etcd closed the watch".to_owned()))?;
        check(&created)?;
        match self.cluster.probe().await.map_err(broken)? {
            reached if reached < after => Err(End::Doubted("store_went_back")),
            _ => Ok(stream),
        }
    }

    /// One step of the audit; returns the next one.
    async fn audit(&self, known: &mut Known, audit: &Audit) -> Result<Audit, End> {
        let options = &self.cluster.options;
        let Some(reached) = audit.reached else {
            let reached = self.cluster.revision(&self.prefix).await;
            return Ok(match reached {
                Ok(reached) => Audit { at: Instant::now() + options.audit_grace, reached: Some(reached) },
                Err(_) => Audit::idle(&options.audit_interval),
            });
        };
        let revision = reached.max(known.revision);
        match self.list_keys(revision).await {
            Ok(listed) if known.is(&listed) => known.revision = revision,
            Ok(_) => return Err(End::Doubted("audit_differs")),
            // Compacted in between, or out of reach just now: the next round tells.
            Err(failure) => tracing::debug!(prefix = self.prefix, ?failure, "watch audit skipped"),
        }
        Ok(Audit::idle(&options.audit_interval))
    }

    async fn send(&self, event: WatchEvent) -> Result<(), End> {
        self.events.send(event).await.map_err(|_| End::Dropped)
    }

    fn was_stable(&self) -> bool {
        let health = *self.health.borrow();
        health.connected && health.since.elapsed() >= self.cluster.options.reconnect_pause
    }

    /// Returns whether that is a change.
    fn set_connected(&self, connected: bool) -> bool {
        self.health.send_if_modified(|health| {
            let changed = health.connected != connected;
            if changed {
                *health = WatchHealth::now(connected);
            }
            changed
        })
    }
}

/// When the audit goes on, and the revision that the stream must have reached by then, once asked.
struct Audit {
    at: Instant,
    reached: Option<Revision>,
}

impl Audit {
    /// At once, about: what was resumed is looked at before long.
    fn soon() -> Self {
        Self::idle(&Duration::from_secs(1))
    }

    fn idle(interval: &Duration) -> Self {
        Self { at: Instant::now() + interval.mul_f64(rand::random_range(0.7..1.3)), reached: None }
    }
}

/// The changes in an answer of the stream.
fn changes(message: Result<Option<WatchResponse>, etcd_client::Error>) -> Result<Vec<WatchEvent>, End> {
    let answer = message.map_err(|error| broken(Failure::of(&error)))?;
    let answer = answer.ok_or_else(|| End::Broken("etcd closed the watch".to_owned()))?;
    check(&answer)?;
    let events: Result<Vec<_>, StoreError> = answer.events().iter().map(convert::watch_event).collect();
    events.map_err(|error| End::Broken(error.to_string()))
}

fn check(answer: &WatchResponse) -> Result<(), End> {
    match answer {
        answer if answer.compact_revision() != 0 => Err(End::Compacted),
        answer if answer.canceled() => Err(End::Refused(answer.cancel_reason().to_owned())),
        _ => Ok(()),
    }
}

fn broken(failure: Failure) -> End {
    match failure {
        Failure::NoSuchRevision => End::Compacted,
        failure => End::Broken(failure.into_error(Effect::Read).to_string()),
    }
}

/// Twice as long after each failure, up to a limit; anywhere between half of it and all.
fn pause(failures: u32, longest: Duration) -> Duration {
    let full = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(failures)).min(longest);
    full.mul_f64(rand::random_range(0.5..1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::testing::EtcdProcess;
    use crate::{EtcdOptions, EtcdStore, Store, Txn};

    #[tokio::test]
    async fn the_audit_finds_what_the_stream_missed() {
        let Some(etcd) = EtcdProcess::start().await.unwrap() else { return };
        let brief = Duration::from_millis(50);
        let options = EtcdOptions {
            endpoints: vec![etcd.endpoint()],
            audit_interval: brief,
            audit_grace: brief,
            ..EtcdOptions::default()
        };
        let store = EtcdStore::connect(options).await.unwrap();
        let written = store.txn(Txn::new().put("w/a", "1")).await.unwrap().committed().unwrap();
        let (events, _consumer) = mpsc::channel(BUFFER);
        let health = watch::Sender::new(WatchHealth::now(false));
        let cluster = Arc::clone(&store.cluster);
        let (prefix, known, told) = ("w/".into(), None, None);
        let follower = Follower { cluster, prefix, events, health, known, told, doubted: false };
        let mut missed = Known::new([], written);
        let following = follower.follow_stream(&mut missed, Audit::idle(&brief));
        let following = timeout(Duration::from_secs(30), following).await;
        assert!(matches!(following, Ok(Err(End::Doubted("audit_differs")))));
    }

    #[test]
    fn pauses_grow_to_the_limit_and_scatter() {
        let longest = Duration::from_secs(5);
        for failures in [0, 3, 31, u32::MAX] {
            let full = (FIRST_PAUSE.as_secs_f64() * 2_f64.powi(failures.min(64) as i32)).min(5.0);
            let found = pause(failures, longest).as_secs_f64();
            assert!((full * 0.49..=full).contains(&found), "{failures}: {found}");
        }
    }
}
