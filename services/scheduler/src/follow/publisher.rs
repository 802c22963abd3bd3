//! One publisher's capability stream, made into state.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use kilonova_model::{HostName, Reason, time};
use kilonova_proto::capability::v1::capability_service_client::CapabilityServiceClient;
use kilonova_proto::capability::v1::watch_capabilities_response::Event as Message;
use kilonova_proto::capability::v1::{WatchCapabilitiesRequest, WatchCapabilitiesResponse};
use kilonova_proto::types::v1::Capabilities;
use kilonova_rpc::peers::Channel;
use kilonova_rpc::status::reason_of;
use kilonova_rpc::subscribe::{Classified, Event, Lost, SubscribeOptions, Subscription, subscribe};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::first::FirstAnswers;
use crate::hosts::{HostManager, Outcome};
use crate::state::{Kept, State};

/// The subscription to one publisher.
pub(super) struct Publisher<S> {
    host: HostName,
    state: Arc<State>,
    first: Arc<FirstAnswers>,
    client: CapabilityServiceClient<Channel>,
    heartbeat: Duration,
    is_up: bool,
    cancel: CancellationToken,
    kind: PhantomData<S>,
}

impl<S: Kept> Publisher<S> {
    pub fn new(
        host: HostName,
        state: Arc<State>,
        first: Arc<FirstAnswers>,
        channel: Channel,
        heartbeat: Duration,
        cancel: CancellationToken,
    ) -> Self {
        let client = CapabilityServiceClient::new(channel);
        Self { host, state, first, client, heartbeat, is_up: false, cancel, kind: PhantomData }
    }

    /// Changes what is known, unless another subscription took the place of this one: it is cancelled before what is
    /// known is handed over.
    fn update<T>(&self, change: impl FnOnce(&mut HostManager<S>) -> T) -> Option<T> {
        S::update(&self.state, |known| (!self.cancel.is_cancelled()).then(|| change(known)))
    }

    fn apply(&self, capabilities: Capabilities) {
        if capabilities.host != self.host.as_str() {
            tracing::warn!(host = %self.host, named = capabilities.host, "ignored capabilities of another host");
            return;
        }
        let (epoch, generation) = (capabilities.epoch, capabilities.generation);
        let applied = self.update(|known| known.apply(&self.host, capabilities, Instant::now()));
        let Some(outcome) = applied else { return };
        if outcome == Outcome::Older {
            tracing::debug!(host = %self.host, epoch, generation, "ignored capabilities older than those known");
        }
        metrics::counter!(
            "scheduler_capability_messages_total",
            "service" => S::PUBLISHER.as_str(),
            "outcome" => match outcome {
                Outcome::Applied => "applied",
                Outcome::Confirmed => "confirmed",
                Outcome::Older => "older",
                Outcome::Unknown => "unknown",
            }
        )
        .increment(1);
    }
}

/// Follows until cancelled, beginning after `delay`.
pub(super) async fn follow<S: Kept>(mut publisher: Publisher<S>, delay: Duration) {
    let cancel = publisher.cancel.clone();
    if cancel.run_until_cancelled(tokio::time::sleep(delay)).await.is_none() {
        return;
    }
    let options = SubscribeOptions { heartbeat_interval: publisher.heartbeat, ..SubscribeOptions::default() };
    subscribe(&mut publisher, options, &cancel).await;
}

impl<S: Kept> Subscription for Publisher<S> {
    type Message = WatchCapabilitiesResponse;
    type Item = Capabilities;

    async fn open(&mut self, resume_token: &str) -> Result<Streaming<WatchCapabilitiesResponse>, Status> {
        let request = WatchCapabilitiesRequest {
            resume_token: resume_token.to_owned(),
            heartbeat_interval: Some(time::duration(self.heartbeat)),
        };
        Ok(self.client.watch_capabilities(request).await?.into_inner())
    }

    fn classify(&self, message: WatchCapabilitiesResponse) -> Option<Classified<Capabilities>> {
        let event = match message.event? {
            Message::Snapshot(capabilities) | Message::Update(capabilities) => Event::Item(capabilities),
            Message::SnapshotEnd(_) => Event::SnapshotEnd,
            Message::Heartbeat(_) => Event::Heartbeat,
        };
        Some(Classified { event, resume_token: message.resume_token })
    }

    fn on_connected(&mut self, snapshot: bool) {
        tracing::debug!(service = %S::PUBLISHER, host = %self.host, snapshot, "capability stream opened");
    }

    fn on_event(&mut self, event: Event<Capabilities>) {
        if !self.is_up {
            self.is_up = true;
            tracing::info!(service = %S::PUBLISHER, host = %self.host, "publisher is up");
        }
        match event {
            Event::Item(capabilities) => self.apply(capabilities),
            Event::SnapshotEnd => {
                self.update(|known| known.heard(&self.host));
                self.first.settled(S::PUBLISHER.as_str(), &self.host);
            }
            Event::Heartbeat => {
                self.update(|known| known.heard(&self.host));
            }
        }
    }

    fn on_lost(&mut self, lost: &Lost) {
        if matches!(lost, Lost::TokenExpired) {
            return;
        }
        let reason = why(lost);
        if self.is_up {
            self.is_up = false;
            tracing::warn!(service = %S::PUBLISHER, host = %self.host, reason, "publisher is down");
        }
        let left = self.update(|known| {
            let left = known.lost(&self.host, reason, Instant::now());
            if left {
                // Under the lock: who registers again must see that nobody follows it any longer.
                self.cancel.cancel();
            }
            left
        });
        if left == Some(true) {
            self.first.settled(S::PUBLISHER.as_str(), &self.host);
            tracing::info!(service = %S::PUBLISHER, host = %self.host, "publisher left: neither registered nor heard");
        }
    }
}

fn why(lost: &Lost) -> String {
    match lost {
        Lost::Failed(status) if reason_of(status) == Some(Reason::Draining) => "it is stopping".to_owned(),
        Lost::Failed(status) if status.message().is_empty() => {
            format!("its stream failed: {}", status.code())
        }
        Lost::Failed(status) => status.message().to_owned(),
        Lost::Ended | Lost::Silent(_) | Lost::TokenExpired => lost.to_string(),
    }
}
