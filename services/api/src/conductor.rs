//! Asks a conductor: any one that is ready, within the caller's deadline.

use std::future::Future;
use std::time::Duration;

use kilonova_model::ServiceKind;
use kilonova_proto::conductor::v1::aggregate_service_client::AggregateServiceClient;
use kilonova_proto::conductor::v1::audit_service_client::AuditServiceClient;
use kilonova_proto::conductor::v1::placement_service_client::PlacementServiceClient;
use kilonova_proto::conductor::v1::record_service_client::RecordServiceClient;
use kilonova_proto::conductor::v1::store_service_client::StoreServiceClient;
use kilonova_proto::conductor::v1::task_service_client::TaskServiceClient;
use kilonova_rpc::peers::{Channel, Peers};
use kilonova_rpc::status::to_status;
use tonic::{Request, Response, Status};

use crate::check::Checked;
use crate::config::Config;
use crate::convert::Recast;

/// How long an audit may take whose caller sets no deadline.
const AUDIT_TIMEOUT: Duration = Duration::from_secs(300);

/// The conductors, as one.
#[derive(Debug, Clone)]
pub struct Conductor {
    call: Channel,
    cast: Channel,
    open: Channel,
    long: Channel,
    /// How long a request may take whose caller sets no deadline.
    pub call_timeout: Duration,
    /// How long a watch looks for another conductor.
    pub resume_within: Duration,
}

impl Conductor {
    /// The conductors that `peers` reaches.
    #[must_use]
    pub fn new(peers: &Peers, config: &Config) -> Self {
        let (call_timeout, resume_within) = (config.call_timeout.get(), config.resume_within.get());
        // Several conductors must fit in where a watch looks for one.
        let looking = if resume_within.is_zero() { call_timeout } else { resume_within };
        Self {
            call: peers.call(ServiceKind::Conductor).within(call_timeout),
            cast: peers.cast(ServiceKind::Conductor).within(call_timeout),
            open: peers.call(ServiceKind::Conductor).within(looking / 3),
            long: peers.call(ServiceKind::Conductor).within(AUDIT_TIMEOUT),
            call_timeout,
            resume_within,
        }
    }

    /// What changes records.
    #[must_use]
    pub fn tasks(&self) -> TaskServiceClient<Channel> {
        TaskServiceClient::new(self.cast.clone())
    }

    /// What reads records.
    #[must_use]
    pub fn records(&self) -> RecordServiceClient<Channel> {
        RecordServiceClient::new(self.call.clone())
    }

    /// What keeps aggregates.
    #[must_use]
    pub fn aggregates(&self) -> AggregateServiceClient<Channel> {
        AggregateServiceClient::new(self.call.clone())
    }

    /// What says where things go.
    #[must_use]
    pub fn placements(&self) -> PlacementServiceClient<Channel> {
        PlacementServiceClient::new(self.call.clone())
    }

    /// What says which store there is.
    #[must_use]
    pub fn stores(&self) -> StoreServiceClient<Channel> {
        StoreServiceClient::new(self.call.clone())
    }

    /// What compares records with what hosts have.
    #[must_use]
    pub fn audits(&self) -> AuditServiceClient<Channel> {
        AuditServiceClient::new(self.long.clone())
    }

    /// What opens watches of records.
    #[must_use]
    pub fn watches(&self) -> RecordServiceClient<Channel> {
        RecordServiceClient::new(self.open.clone())
    }

    /// Checks a request, puts it to a conductor with `call`, and passes the answer on. Every request may be sent more
    /// than once: reads change nothing, and [`Checked::check`] gives changes an id.
    pub async fn forward<A, Q, R, B, F, Fut>(
        &self,
        request: Request<A>,
        call: F,
    ) -> Result<Response<B>, Status>
    where
        A: Checked + Recast<Q>,
        R: Recast<B>,
        F: Fn(Request<Q>) -> Fut,
        Fut: Future<Output = Result<Response<R>, Status>>,
    {
        let mut message = request.into_inner();
        message.check().map_err(|error| to_status(&error))?;
        let answer = call(Request::new(message.recast())).await?;
        Ok(Response::new(answer.into_inner().recast()))
    }
}
