//! What an agent says to a conductor.

use std::time::Duration;

use async_trait::async_trait;
use kilonova_model::{Epoch, HostName};
use kilonova_proto::conductor::v1::report_service_client::ReportServiceClient;
use kilonova_proto::conductor::v1::{
    InstanceReport, ListHostInstancesRequest, ListHostSnapshotsRequest, ListHostVolumesRequest,
    RegisterHostRequest, ReportInstancesRequest, ReportSnapshotsRequest, ReportVolumesRequest,
    SnapshotReport, VolumeReport,
};
use kilonova_proto::types::v1::{Instance, Snapshot, Volume};
use kilonova_rpc::peers::Channel;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::{Request, Status};

use super::admin::AdminState;
use super::reporter::{Report, Sink};

const DEADLINE: Duration = Duration::from_secs(10);
const PAGE: i32 = 1000;

/// Asks page after page for what belongs on the host.
macro_rules! every_page {
    ($conductor:ident, $request:ident, $method:ident, $field:ident) => {{
        let mut client = $conductor.client().await?;
        let (mut found, mut page_token) = (Vec::new(), String::new());
        loop {
            let (host, epoch) = $conductor.names();
            let request = $request { host, epoch, page_size: PAGE, page_token };
            let page = client.$method(within(request)).await?.into_inner();
            found.extend(page.$field);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(found);
            }
        }
    }};
}

/// One agent's line to any conductor. Cheap to clone.
#[derive(Clone)]
pub struct Conductor {
    channel: Channel,
    host: HostName,
    epochs: watch::Receiver<Epoch>,
}

impl Conductor {
    /// Speaks for `host` over `channel`.
    pub fn new(channel: Channel, host: HostName, epochs: watch::Receiver<Epoch>) -> Self {
        Self { channel, host, epochs }
    }

    /// The incarnation it speaks for.
    pub fn epoch(&self) -> Epoch {
        *self.epochs.borrow()
    }

    /// The incarnation, as it changes.
    pub fn epochs(&self) -> watch::Receiver<Epoch> {
        self.epochs.clone()
    }

    /// A client, once there is a conductor to talk to.
    async fn client(&self) -> Result<ReportServiceClient<Channel>, Status> {
        self.channel.wait_ready(Instant::now() + DEADLINE).await?;
        Ok(ReportServiceClient::new(self.channel.clone()))
    }

    fn names(&self) -> (String, u64) {
        (self.host.to_string(), self.epoch().0)
    }

    /// Registers the host in that incarnation; gives the administrator's word about it.
    pub(super) async fn register(
        &self,
        epoch: Epoch,
        about: RegisterHostRequest,
    ) -> Result<AdminState, Status> {
        let request = RegisterHostRequest { host: self.host.to_string(), epoch: epoch.0, ..about };
        let answer = self.client().await?.register_host(within(request)).await?.into_inner();
        Ok(AdminState {
            enabled: answer.enabled,
            disabled_reason: answer.disabled_reason,
            placement: answer.placement.unwrap_or_default(),
        })
    }

    /// Every instance that is or may be on the host.
    pub async fn instances(&self) -> Result<Vec<Instance>, Status> {
        every_page!(self, ListHostInstancesRequest, list_host_instances, instances)
    }

    /// Every volume that is or may be on the backend.
    pub async fn volumes(&self) -> Result<Vec<Volume>, Status> {
        every_page!(self, ListHostVolumesRequest, list_host_volumes, volumes)
    }

    /// Every snapshot that is or may be on the backend.
    pub async fn snapshots(&self) -> Result<Vec<Snapshot>, Status> {
        every_page!(self, ListHostSnapshotsRequest, list_host_snapshots, snapshots)
    }
}

fn within<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(DEADLINE);
    request
}

impl Report for InstanceReport {
    type Key = String;
    fn key(&self) -> String {
        self.instance_id.clone()
    }
}

impl Report for VolumeReport {
    type Key = String;
    fn key(&self) -> String {
        self.volume_id.clone()
    }
}

impl Report for SnapshotReport {
    type Key = String;
    fn key(&self) -> String {
        self.snapshot_id.clone()
    }
}

#[async_trait]
impl Sink<SnapshotReport> for Conductor {
    async fn send(&self, reports: Vec<SnapshotReport>) -> Result<(), Status> {
        let (host, epoch) = self.names();
        let request = ReportSnapshotsRequest { host, epoch, reports };
        self.client().await?.report_snapshots(within(request)).await.map(drop)
    }
}

#[async_trait]
impl Sink<InstanceReport> for Conductor {
    async fn send(&self, reports: Vec<InstanceReport>) -> Result<(), Status> {
        let (host, epoch) = self.names();
        let request = ReportInstancesRequest { host, epoch, reports };
        self.client().await?.report_instances(within(request)).await.map(drop)
    }
}

#[async_trait]
impl Sink<VolumeReport> for Conductor {
    async fn send(&self, reports: Vec<VolumeReport>) -> Result<(), Status> {
        let (host, epoch) = self.names();
        let request = ReportVolumesRequest { host, epoch, reports };
        self.client().await?.report_volumes(within(request)).await.map(drop)
    }
}
