//! A publication: what its owner changes and its subscribers follow.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use kilonova_model::Error;
use metrics::{Counter, Gauge, counter, gauge};
use prost::Message;
use tokio::sync::watch;

use super::Event;
use super::log::Log;
use super::serve::Frames;
use super::shape::Shape;
use super::subscriber::{Ask, Subscriber};

/// What a publication bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishOptions {
    /// How often a heartbeat is sent when nothing else is, if the subscriber does not say.
    pub heartbeat: Duration,
    /// What a subscriber may ask for instead.
    pub heartbeats: std::ops::RangeInclusive<Duration>,
    /// Removals that are remembered. A subscriber that has not heard of one that is forgotten is ended.
    pub most_removals: usize,
    /// A subscriber that read nothing for so long ...
    pub stalled_after: Duration,
    /// ... and misses more keys than this is ended.
    pub max_behind: usize,
    /// About how many bytes of messages are put into one piece.
    pub piece: usize,
}

impl Default for PublishOptions {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(20),
            heartbeats: Duration::from_secs(1)..=Duration::from_secs(60),
            most_removals: 4096,
            stalled_after: Duration::from_secs(30),
            max_behind: 4096,
            piece: 16 << 10,
        }
    }
}

/// What a publication holds and serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Streams that are open.
    pub subscribers: usize,
    /// Keys that have a value.
    pub keys: usize,
    /// Removals that are remembered.
    pub removals: usize,
    /// Changes so far.
    pub generation: u64,
}

/// The newest value of every key, streamed to whoever subscribes. Clones share it; with the last of them the streams end
/// as DRAINING.
#[derive(Debug)]
pub struct Publication<K, V> {
    log: watch::Sender<Log<K>>,
    rules: Arc<Rules>,
    value: std::marker::PhantomData<fn(V)>,
}

impl<K, V> Clone for Publication<K, V> {
    fn clone(&self) -> Self {
        Self { log: self.log.clone(), rules: self.rules.clone(), value: self.value }
    }
}

/// What all subscribers share.
#[derive(Debug)]
pub(super) struct Rules {
    pub shape: Shape,
    pub options: PublishOptions,
    pub metrics: Metrics,
}

/// The metrics of one publication.
#[derive(Debug)]
pub(super) struct Metrics {
    pub active: Gauge,
    pub coalesced: Counter,
    pub kicked: Counter,
}

impl Metrics {
    fn new(service: &str, method: &str) -> Self {
        let labels = [("grpc_service", service.to_owned()), ("grpc_method", method.to_owned())];
        Self {
            active: gauge!("watch_streams_active", &labels),
            coalesced: counter!("watch_coalesced_total", &labels),
            kicked: counter!("watch_kicked_total", &labels),
        }
    }
}

impl<K, V> Publication<K, V>
where
    K: Clone + Ord + Send + Sync + 'static,
    V: Message + Default,
{
    /// An empty publication of one incarnation. `message` makes the messages of `service`'s `method`.
    pub fn new<M: Message>(
        (service, method): (&str, &str),
        epoch: u64,
        options: PublishOptions,
        message: impl Fn(Event<V>, String) -> M,
    ) -> Self {
        let log = Log::new(epoch, options.most_removals);
        let rules = Rules { shape: Shape::of(message), options, metrics: Metrics::new(service, method) };
        Self { log: watch::Sender::new(log), rules: Arc::new(rules), value: std::marker::PhantomData }
    }

    /// Publishes a key's new value. It is encoded here and never again.
    pub fn put(&self, key: K, value: &V) {
        let value = value.encode_to_vec();
        self.log.send_modify(|log| log.put(&self.rules.shape, key, &value));
    }

    /// Takes a key away; false if it has no value.
    pub fn remove(&self, key: &K) -> bool
    where
        K: Display,
    {
        let id = key.to_string();
        self.log.send_if_modified(|log| log.remove(&self.rules.shape, key, &id))
    }

    /// Goes on as another incarnation: tokens given so far have expired. Streams go on.
    pub fn renew(&self, epoch: u64) {
        self.log.send_if_modified(|log| {
            log.renew(epoch);
            false
        });
    }

    /// A stream of what is published, from where `ask` says.
    pub fn subscribe(&self, ask: &Ask<'_>) -> Result<Frames, Error> {
        let subscriber = Subscriber::new(self.log.subscribe(), self.rules.clone(), ask)?;
        Ok(Frames::new(subscriber.stream()))
    }

    /// What it holds and serves.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let subscribers = self.log.receiver_count();
        let log = self.log.borrow();
        Counts { subscribers, keys: log.keys(), removals: log.removals(), generation: log.generation() }
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use kilonova_model::Reason;
    use kilonova_proto::conductor::v1::watch_instances_response::Event as Out;
    use kilonova_proto::types::v1::Instance;
    use metrics_exporter_prometheus::PrometheusBuilder;

    use tokio::time::Instant;

    use super::super::shape::tests::{message, messages};
    use super::*;
    use crate::status::reason_of;

    #[tokio::test(start_paused = true)]
    async fn the_metrics_tell_who_follows_what_was_left_out_and_who_was_ended() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let options = PublishOptions { max_behind: 3, ..PublishOptions::default() };
        let stalled_after = options.stalled_after;
        let publication = metrics::with_local_recorder(&recorder, || {
            Publication::new(("p.Service", "Watch"), 1, options, message)
        });
        let figure = |name: &str| {
            let labels = "{grpc_service=\"p.Service\",grpc_method=\"Watch\"} ";
            let (text, name) = (recorder.handle().render(), format!("{name}{labels}"));
            text.lines().find_map(|line| line.strip_prefix(&name)?.parse::<u64>().ok())
        };
        let put = |key: u8| publication.put(key, &Instance::default());

        let mut frames = publication.subscribe(&Ask::default()).unwrap();
        frames.next().await.unwrap().unwrap();
        (0..10).for_each(|_| put(1));
        frames.next().await.unwrap().unwrap();
        assert_eq!(figure("watch_streams_active"), Some(1));
        assert_eq!(figure("watch_coalesced_total"), Some(9));

        tokio::time::advance(stalled_after * 2).await;
        (1..=3).for_each(put);
        frames.next().await.unwrap().expect("it misses no more than it may");
        (1..=4).for_each(put);
        frames.next().await.unwrap().expect("it has not stood still");
        tokio::time::advance(stalled_after * 2).await;
        (1..=4).for_each(put);
        let ended = frames.next().await.unwrap().unwrap_err();
        assert_eq!(reason_of(&ended), Some(Reason::SlowConsumer));
        assert!(frames.next().await.is_none());
        assert_eq!(figure("watch_kicked_total"), Some(1));
        assert_eq!(figure("watch_streams_active"), Some(0));
        assert_eq!(publication.counts().subscribers, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_heartbeat_comes_when_nothing_else_did_for_its_interval() {
        let options = PublishOptions::default();
        let (heartbeat, shortest) = (options.heartbeat, *options.heartbeats.start());
        let publication = Publication::new(("p.Service", "Watch"), 1, options, message);
        let wish = prost_types::Duration { seconds: 0, nanos: 1 };
        let asks = [(None, heartbeat), (Some(&wish), shortest)];
        for (ask, interval) in asks {
            let mut frames = publication.subscribe(&Ask { token: "", heartbeat: ask }).unwrap();
            frames.next().await.unwrap().unwrap();
            tokio::time::advance(interval * 3 / 4).await;
            publication.put(1, &Instance::default());
            frames.next().await.unwrap().unwrap();
            for _ in 0..2 {
                let before = Instant::now();
                let beat = frames.next().await.unwrap().unwrap();
                assert!(matches!(messages(&beat)[0].event, Some(Out::Heartbeat(_))));
                assert_eq!(before.elapsed(), interval);
            }
        }
    }
}
