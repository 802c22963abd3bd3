//! Callers that call without a pause, and what they got.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kilonova_proto::api::v1 as api;
use kilonova_proto::api::v1::flavor_service_client::FlavorServiceClient;
use kilonova_proto::api::v1::quota_service_client::QuotaServiceClient;
use kilonova_proto::types::v1 as pb;
use kilonova_rpc::peers::Channel;
use kilonova_tests::echo::Order;
use kilonova_tests::waiting::until;
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// A server that is full asks for a longer pause.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);

/// How calls ended so far.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// By who answered.
    pub answers: BTreeMap<String, u64>,
    pub failures: Vec<String>,
    /// Failures that took less than any pause before another attempt.
    pub at_once: usize,
    pub slowest: Duration,
}

impl Tally {
    pub fn of(&self, host: &str) -> u64 {
        self.answers.get(host).copied().unwrap_or_default()
    }

    pub fn answered(&self) -> u64 {
        self.answers.values().sum()
    }

    #[track_caller]
    pub fn nothing_failed(&self) {
        assert_eq!(self.failures.first(), None, "{} of {} failed", self.failures.len(), self.answered());
    }
}

/// Which promise calls carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Calls {
    /// May be made again.
    Idempotent,
    /// Are made once.
    Once,
}

/// Who answered one call.
pub async fn call(channel: &Channel, order: Order) -> Result<String, Status> {
    let request = api::GetQuotaRequest { project_id: order.text() };
    let answer = QuotaServiceClient::new(channel.clone()).get_quota(request).await?;
    Ok(answer.into_inner().quota.unwrap_or_default().project_id)
}

/// Who answered one call that is never made again.
pub async fn call_once(channel: &Channel, order: Order) -> Result<String, Status> {
    let flavor = Some(pb::Flavor { id: order.text(), ..Default::default() });
    let request = api::CreateFlavorRequest { flavor, ..Default::default() };
    let answer = FlavorServiceClient::new(channel.clone()).create_flavor(request).await?;
    Ok(answer.into_inner().flavor.unwrap_or_default().id)
}

/// Callers at work.
pub struct Load {
    tally: Arc<Mutex<Tally>>,
    stop: CancellationToken,
    callers: JoinSet<()>,
}

impl Load {
    pub fn start(callers: usize, channel: &Channel, calls: Calls, order: Order) -> Self {
        let (tally, stop) = (Arc::<Mutex<Tally>>::default(), CancellationToken::new());
        let mut tasks = JoinSet::new();
        for _ in 0..callers {
            let (channel, tally, stop) = (channel.clone(), tally.clone(), stop.clone());
            tasks.spawn(async move {
                while !stop.is_cancelled() {
                    let start = Instant::now();
                    let result = match calls {
                        Calls::Idempotent => call(&channel, order).await,
                        Calls::Once => call_once(&channel, order).await,
                    };
                    let mut tally = tally.lock();
                    let took = start.elapsed();
                    tally.slowest = tally.slowest.max(took);
                    tally.at_once += usize::from(result.is_err() && took < SHORTEST_PAUSE);
                    match result {
                        Ok(host) => *tally.answers.entry(host).or_default() += 1,
                        Err(status) => {
                            tally.failures.push(format!("{:?}: {}", status.code(), status.message()))
                        }
                    }
                }
            });
        }
        Self { tally, stop, callers: tasks }
    }

    pub fn so_far(&self) -> Tally {
        self.tally.lock().clone()
    }

    /// Waits until a condition on what came so far holds.
    pub async fn until(&self, what: &str, wanted: impl Fn(&Tally) -> bool) {
        let wanted = &wanted;
        until(what, || async { wanted(&self.tally.lock()).then_some(()) }).await;
    }

    /// Waits for this many more answers of one member.
    pub async fn more_of(&self, host: &str, more: u64) {
        let before = self.so_far().of(host);
        self.until(&format!("{host} answers"), |tally| tally.of(host) >= before + more).await;
    }

    /// Waits for this many more answers of anybody.
    pub async fn more(&self, more: u64) {
        let before = self.so_far().answered();
        self.until("calls are answered", |tally| tally.answered() >= before + more).await;
    }

    /// Lets the calls under way end.
    pub async fn stop(mut self) -> Tally {
        self.stop.cancel();
        while let Some(ended) = self.callers.join_next().await {
            ended.unwrap();
        }
        self.so_far()
    }
}
