//! What an agent says to a conductor.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use async_trait::async_trait;
use kilonova_model::{Epoch, HostName};
use kilonova_proto::conductor::v1::report_service_client::ReportServiceClient;
use kilonova_proto::conductor::v1::{
    FindRecordsRequest, InstanceReport, ListHostInstancesRequest, ListHostSnapshotsRequest,
    ListHostVolumesRequest, RegisterHostRequest, ReportInstancesRequest, ReportSnapshotsRequest,
    ReportVolumesRequest, SnapshotReport, VolumeReport,
};
use kilonova_proto::types::v1::{Instance, Snapshot, Store, Volume};
use kilonova_rpc::peers::Channel;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::{Code, Request, Status};

use super::admin::AdminState;
use super::reporter::{Report, Sink};
use super::store_memory::{Remembered, StoreMemory};

const DEADLINE: Duration = Duration::from_secs(10);
const PAGE: i32 = 1000;
/// Most ids that are asked about in one call.
const MOST_IDS: usize = 100;

/// Asks page after page for what belongs on the host.
macro_rules! every_page {
    ($conductor:ident, $request:ident, $method:ident, $field:ident) => {{
        let mut client = $conductor.client().await?;
        let (mut found, mut page_token) = (Vec::new(), String::new());
        loop {
            let ((host, epoch), known) = ($conductor.names(), $conductor.memory.known());
            let request = $request { host, epoch, page_size: PAGE, page_token };
            let page = client.$method(within(request)).await?.into_inner();
            $conductor.saw(known.as_ref(), page.store.as_ref())?;
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
    memory: StoreMemory,
}

impl Conductor {
    /// Speaks for `host` over `channel`, and remembers in `memory` which store the answers come from.
    pub fn new(
        channel: Channel,
        host: HostName,
        epochs: watch::Receiver<Epoch>,
        memory: StoreMemory,
    ) -> Self {
        Self { channel, host, epochs, memory }
    }

    /// Refuses an answer of another store than the one that is remembered, or one that cannot be remembered.
    fn saw(&self, known: Option<&Remembered>, store: Option<&Store>) -> Result<(), Status> {
        self.memory.saw(known, store).map_err(|why| Status::failed_precondition(why.to_string()))
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
        let known = self.memory.known();
        let remembered = known.clone().unwrap_or_default();
        let request = RegisterHostRequest {
            host: self.host.to_string(),
            epoch: epoch.0,
            store_id: remembered.id,
            store_revision: remembered.revision,
            store_mark: remembered.mark,
            store_origin_id: remembered.origin,
            ..about
        };
        let answer = self.client().await?.register_host(within(request)).await?.into_inner();
        self.saw(known.as_ref(), answer.store.as_ref())?;
        Ok(AdminState {
            enabled: answer.enabled,
            disabled_reason: answer.disabled_reason,
            revision: answer.revision,
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

    /// Which of these that no list has a record wants all the same, and where.
    pub async fn wanted<K: Copy + Ord + fmt::Display + FromStr>(
        &self,
        ids: &[K],
        enter: impl Fn(&mut FindRecordsRequest, Vec<String>),
    ) -> Result<BTreeMap<K, String>, Status> {
        let mut wanted = BTreeMap::new();
        for ids in ids.chunks(MOST_IDS) {
            let ((host, epoch), known) = (self.names(), self.memory.known());
            let mut request = FindRecordsRequest { host, epoch, ..FindRecordsRequest::default() };
            enter(&mut request, ids.iter().map(ToString::to_string).collect());
            let answer = match self.client().await?.find_records(within(request)).await {
                Ok(answer) => answer.into_inner(),
                // A conductor of an earlier version cannot say: all may be.
                Err(status) if status.code() == Code::Unimplemented => {
                    wanted.extend(ids.iter().map(|id| (*id, String::new())));
                    continue;
                }
                Err(status) => return Err(status),
            };
            self.saw(known.as_ref(), answer.store.as_ref())?;
            let found = answer.wanted.into_iter();
            wanted.extend(found.filter_map(|one| Some((one.id.parse().ok()?, one.host))));
        }
        Ok(wanted)
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
