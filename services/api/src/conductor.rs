//! Asks a conductor: any one that is ready, within the caller's deadline, again where that cannot do harm.

use std::future::Future;
use std::time::Duration;

use kilonova_model::Reason;
use kilonova_proto::conductor::v1::record_service_client::RecordServiceClient;
use kilonova_proto::conductor::v1::task_service_client::TaskServiceClient;
use kilonova_rpc::peers::Channel;
use kilonova_rpc::retry::{RetryPolicy, retry_idempotent};
use kilonova_rpc::server::Deadline;
use kilonova_rpc::status::to_status;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::check::Checked;
use crate::config::Config;
use crate::convert::Recast;

/// Kept of a deadline for the way back, so that the caller hears the conductor's answer and not its own clock.
const WAY_BACK: Duration = Duration::from_millis(50);

/// The conductors, as one.
#[derive(Debug, Clone)]
pub struct Conductor {
    channel: Channel,
    call_timeout: Duration,
    call_attempts: u32,
    /// How long a watch looks for another conductor.
    pub resume_within: Duration,
}

impl Conductor {
    /// Conductors reached by `channel`.
    #[must_use]
    pub fn new(channel: Channel, config: &Config) -> Self {
        Self {
            channel,
            call_timeout: config.call_timeout.get(),
            call_attempts: config.call_attempts,
            resume_within: config.resume_within.get(),
        }
    }

    /// What changes records.
    #[must_use]
    pub fn tasks(&self) -> TaskServiceClient<Channel> {
        TaskServiceClient::new(self.channel.clone())
    }

    /// What reads records.
    #[must_use]
    pub fn records(&self) -> RecordServiceClient<Channel> {
        RecordServiceClient::new(self.channel.clone())
    }

    /// Checks a request, puts it to a conductor with `call`, and passes the answer on. Every request is idempotent:
    /// reads change nothing, and [`Checked::check`] gives changes an id.
    pub async fn forward<A, Q, R, B, F, Fut>(
        &self,
        request: Request<A>,
        call: F,
    ) -> Result<Response<B>, Status>
    where
        A: Checked + Recast<Q>,
        Q: Clone,
        R: Recast<B>,
        F: Fn(Request<Q>) -> Fut,
        Fut: Future<Output = Result<Response<R>, Status>>,
    {
        let until = Instant::now() + limit(Deadline::of(&request), self.call_timeout);
        let mut message = request.into_inner();
        message.check().map_err(|error| to_status(&error))?;
        let message = message.recast();
        self.idempotent(until, || {
            let mut request = Request::new(message.clone());
            request.set_timeout(until.saturating_duration_since(Instant::now()));
            call(request)
        })
        .await
        .map(|response| Response::new(response.into_inner().recast()))
    }

    /// Makes an idempotent call again if it was not executed, and also if its connection broke on the way: then it
    /// may have been executed, and the second answer is the first one's.
    pub async fn idempotent<T, F, Fut>(&self, until: Instant, call: F) -> Result<T, Status>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        let policy =
            RetryPolicy { attempts: self.call_attempts, deadline: Some(until), ..RetryPolicy::default() };
        let mut losses = 0;
        loop {
            match retry_idempotent(policy, &call).await {
                Err(error) if error.reason() == Some(Reason::ConnectionLost) => {
                    losses += 1;
                    if losses >= self.call_attempts || Instant::now() >= until {
                        return Err(error.into_status());
                    }
                }
                result => return result.map_err(|error| error.into_status()),
            }
        }
    }

    /// How long one conductor may take to open a watch: several must fit in where a watch looks for another.
    #[must_use]
    pub fn open_within(&self) -> Duration {
        let looking = if self.resume_within.is_zero() { self.call_timeout } else { self.resume_within };
        looking / 3
    }

    /// When a call without a caller's deadline must be over.
    #[must_use]
    pub fn until(&self) -> Instant {
        Instant::now() + self.call_timeout
    }
}

/// The time for asking: the caller's less the way back, or the default.
fn limit(deadline: Option<Deadline>, default: Duration) -> Duration {
    match deadline {
        None => default,
        Some(deadline) => {
            let left = deadline.remaining();
            left - WAY_BACK.min(left / 10)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_way_back_is_kept_of_the_caller_s_time() {
        let default = Duration::from_secs(10);
        let within = |ms| Some(Deadline(Instant::now() + Duration::from_millis(ms)));
        assert_eq!(limit(None, default), default);
        assert_eq!(limit(within(60_000), default), Duration::from_millis(59_950));
        assert_eq!(limit(within(100), default), Duration::from_millis(90));
        assert_eq!(limit(within(0), default), Duration::ZERO);
    }
}
