//! Telling agents what administrators said of their hosts. What is said is stored first: an agent that cannot be told learns it
//! when it registers next.

use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use kilonova_model::{AggregateId, Epoch, HostName, Revision, ServiceKind};
use kilonova_proto::compute::v1 as compute;
use kilonova_proto::compute::v1::compute_service_client::ComputeServiceClient;
use kilonova_proto::types::v1 as pb;
use kilonova_proto::volume::v1 as volume;
use kilonova_proto::volume::v1::volume_service_client::VolumeServiceClient;
use kilonova_rpc::peers::Channel;
use tokio::time::timeout;
use tonic::Request;

use super::{HostId, Hosts};

/// How long a host gets to take what it is told.
const DEADLINE: Duration = Duration::from_secs(2);
/// How many hosts of an aggregate are told at once.
const AT_ONCE: usize = 64;

impl Hosts {
    /// Tells a host whether it takes new work.
    pub(super) async fn tell_enabled(&self, id: &HostId, epoch: Epoch, word: (bool, &str), at: Revision) {
        let (channel, epoch) = self.line(id, epoch);
        let (target_host, target_epoch, revision) = (id.1.to_string(), epoch.0, at.0);
        let (enabled, disabled_reason) = (word.0, word.1.to_owned());
        let told = if id.0 == ServiceKind::Compute {
            let request = compute::SetHostEnabledRequest {
                target_host,
                target_epoch,
                enabled,
                disabled_reason,
                revision,
            };
            ComputeServiceClient::new(channel).set_host_enabled(within(request)).await.map(drop)
        } else {
            let request = volume::SetHostEnabledRequest {
                target_host,
                target_epoch,
                enabled,
                disabled_reason,
                revision,
            };
            VolumeServiceClient::new(channel).set_host_enabled(within(request)).await.map(drop)
        };
        note(id, told);
    }

    /// Tells a host where it belongs.
    pub(super) async fn tell_placement(&self, id: &HostId, epoch: Epoch, placement: pb::HostPlacement) {
        let (channel, epoch) = self.line(id, epoch);
        let (target_host, target_epoch, placement) = (id.1.to_string(), epoch.0, Some(placement));
        let told = if id.0 == ServiceKind::Compute {
            let request = compute::SetHostPlacementRequest { target_host, target_epoch, placement };
            ComputeServiceClient::new(channel).set_host_placement(within(request)).await.map(drop)
        } else {
            let request = volume::SetHostPlacementRequest { target_host, target_epoch, placement };
            VolumeServiceClient::new(channel).set_host_placement(within(request)).await.map(drop)
        };
        note(id, told);
    }

    /// Tells the hosts of an aggregate that changed at `revision`, in a task of its own.
    pub fn tell_members(&self, aggregate: &AggregateId, revision: Revision, hosts: Vec<String>) {
        let (this, name) = (self.clone(), format!("telling hosts of aggregate {aggregate}"));
        let ids: Vec<HostName> = hosts.iter().filter_map(|host| HostName::parse(host).ok()).collect();
        self.tasks.spawn(name, async move {
            // What is told is not older than the change.
            if timeout(DEADLINE, this.aggregates.cache().until_seen(revision)).await.is_err() {
                return tracing::warn!(%revision, "memory lags; hosts learn of the aggregate when they register next");
            }
            let tell = |host| this.tell_member((ServiceKind::Compute, host));
            stream::iter(ids).for_each_concurrent(AT_ONCE, tell).await;
        });
    }

    async fn tell_member(&self, id: HostId) {
        if let Some(entry) = self.cache.get(&id) {
            let epoch = Epoch(entry.record.host.as_ref().map_or(0, |host| host.epoch));
            self.tell_placement(&id, epoch, self.placement(&id, &entry)).await;
        }
    }

    /// The line to a host, and its incarnation: that in the registry, or else the one that registered.
    fn line(&self, id: &HostId, registered: Epoch) -> (Channel, Epoch) {
        let members = self.callers.peers.registry().members(id.0).current();
        let epoch = members.get(&id.1).map_or(registered, |member| member.epoch);
        (self.callers.peers.cast_host(id.0, &id.1).at(epoch), epoch)
    }
}

fn within<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(DEADLINE);
    request
}

fn note(id: &HostId, told: Result<(), tonic::Status>) {
    if let Err(status) = told {
        tracing::info!(host = %id.1, message = status.message(), "the host learns it when it registers next");
    }
}
