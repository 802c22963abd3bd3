//! A user who does not give up: every request has an id and is sent again with it until it is answered, and what was
//! answered with OK is written down, for the checker.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kilonova_model::Reason;
use kilonova_proto::api::v1 as api;
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::server_group::Policy;
use kilonova_rpc::status::from_status;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status};

use crate::api::Api;
use crate::checker::Want;
use crate::waiting::at_this_pace;

/// How long one answer is waited for.
const ANSWER: Duration = Duration::from_secs(5);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(40);

/// Why a request came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Denied {
    /// It was refused, for good.
    Refused(Reason),
    /// It was not answered in all the time there was: it may have been accepted or not.
    Unanswered(String),
}

/// One user. Clones share what was acknowledged.
#[derive(Clone)]
pub struct User {
    apis: Arc<[Api]>,
    patience: Duration,
    loosely: bool,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    requests: AtomicU64,
    repeated: AtomicU64,
    wanted: Mutex<BTreeMap<String, Want>>,
}

impl User {
    /// A user of these apis, who asks the next one when one does not answer, for so long.
    #[must_use]
    pub fn new(apis: Vec<Api>, patience: Duration) -> Self {
        Self { apis: apis.into(), patience, loosely: false, shared: Arc::default() }
    }

    /// Takes an error with a reason for an answer too: where so much is broken, some builds find no host.
    #[must_use]
    pub fn loosely(self) -> Self {
        Self { loosely: true, ..self }
    }

    /// What was acknowledged, and what was wanted of it last.
    #[must_use]
    pub fn wanted(&self) -> BTreeMap<String, Want> {
        self.shared.wanted.lock().clone()
    }

    /// Requests, and how many times one was sent again.
    #[must_use]
    pub fn asked(&self) -> (u64, u64) {
        (self.shared.requests.load(Ordering::Relaxed), self.shared.repeated.load(Ordering::Relaxed))
    }

    /// What is wanted of an id from now on.
    pub fn wants(&self, id: &str, want: Want) {
        let want = if self.loosely && want != Want::Absent { Want::Present } else { want };
        self.shared.wanted.lock().insert(id.to_owned(), want);
    }

    /// Nothing is known any more of what was wanted of an id.
    pub fn forgets(&self, id: &str) {
        self.shared.wanted.lock().remove(id);
    }

    /// Asks until there is an answer.
    pub async fn ask<T, F, Fut>(&self, call: F) -> Result<T, Denied>
    where
        F: Fn(Api, String) -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        self.ask_as(&self.request_id(), call).await
    }

    /// An id for a request, which no other has.
    fn request_id(&self) -> String {
        let number = self.shared.requests.fetch_add(1, Ordering::Relaxed);
        format!("user-{number}-{:x}", rand::random::<u64>())
    }

    /// Asks until there is an answer, with a given request id.
    async fn ask_as<T, F, Fut>(&self, request_id: &str, call: F) -> Result<T, Denied>
    where
        F: Fn(Api, String) -> Fut,
        Fut: Future<Output = Result<T, Status>>,
    {
        let start = Instant::now();
        for n in 0.. {
            let api = self.apis[n % self.apis.len()].clone();
            let failure = match timeout(at_this_pace(ANSWER), call(api, request_id.to_owned())).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(status)) => match refusal(&status) {
                    Some(reason) => return Err(Denied::Refused(reason)),
                    None => status.to_string(),
                },
                Err(_) => format!("no answer within {ANSWER:?}"),
            };
            if start.elapsed() > self.patience {
                return Err(Denied::Unanswered(failure));
            }
            self.shared.repeated.fetch_add(1, Ordering::Relaxed);
            sleep(PAUSE).await;
        }
        unreachable!("the loop has no end of its own")
    }

    /// Creates instances of the flavor `small`, as members of a server group if one is named.
    pub async fn create(&self, name: &str, count: u32, group: &str) -> Result<Vec<String>, Denied> {
        let hints = pb::SchedulerHints { server_group_id: group.into(), ..Default::default() };
        let spec = pb::InstanceSpec {
            name: name.into(),
            flavor_id: "small".into(),
            image_id: "cirros".into(),
            hints: Some(hints).filter(|_| !group.is_empty()),
            ..Default::default()
        };
        let created = self
            .ask(|api, request_id| {
                let instance = Some(spec.clone());
                let request =
                    api::CreateInstanceRequest { request_id, instance, count, ..Default::default() };
                async move { api.instances().create_instance(request).await }
            })
            .await?;
        let ids = created.into_inner().instances.into_iter().map(|instance| instance.id);
        Ok(ids.inspect(|id| self.wants(id, Want::State("ACTIVE"))).collect())
    }

    /// Deletes an instance.
    pub async fn delete(&self, instance_id: &str) -> Result<(), Denied> {
        let asked = self.ask(|api, request_id| {
            let instance_id = instance_id.to_owned();
            let request = api::DeleteInstanceRequest { request_id, instance_id, ..Default::default() };
            async move { api.instances().delete_instance(request).await }
        });
        asked.await?;
        self.wants(instance_id, Want::Absent);
        Ok(())
    }

    /// Stops an instance.
    pub async fn stop(&self, instance_id: &str) -> Result<(), Denied> {
        let asked = self.ask(|api, request_id| {
            let instance_id = instance_id.to_owned();
            let request = api::StopInstanceRequest { request_id, instance_id, ..Default::default() };
            async move { api.instances().stop_instance(request).await }
        });
        asked.await?;
        self.wants(instance_id, Want::State("STOPPED"));
        Ok(())
    }

    /// Starts an instance.
    pub async fn start(&self, instance_id: &str) -> Result<(), Denied> {
        let asked = self.ask(|api, request_id| {
            let instance_id = instance_id.to_owned();
            let request = api::StartInstanceRequest { request_id, instance_id, ..Default::default() };
            async move { api.instances().start_instance(request).await }
        });
        asked.await?;
        self.wants(instance_id, Want::State("ACTIVE"));
        Ok(())
    }

    /// Reboots an instance.
    pub async fn reboot(&self, instance_id: &str, hard: bool) -> Result<(), Denied> {
        let asked = self.ask(|api, request_id| {
            let instance_id = instance_id.to_owned();
            let request = api::RebootInstanceRequest { request_id, instance_id, hard, ..Default::default() };
            async move { api.instances().reboot_instance(request).await }
        });
        asked.await?;
        self.wants(instance_id, Want::State("ACTIVE"));
        Ok(())
    }

    /// Gives an instance another flavor, or moves it if there is none.
    pub async fn resize(&self, instance_id: &str, flavor: Option<&str>) -> Result<(), Denied> {
        let asked = self.ask(|api, request_id| {
            let (instance_id, flavor) = (instance_id.to_owned(), flavor.map(ToOwned::to_owned));
            async move {
                let mut instances = api.instances();
                match flavor {
                    Some(flavor_id) => {
                        let request = api::ResizeInstanceRequest {
                            request_id,
                            instance_id,
                            flavor_id,
                            ..Default::default()
                        };
                        instances.resize_instance(request).await.map(drop)
                    }
                    None => {
                        let request =
                            api::MigrateInstanceRequest { request_id, instance_id, ..Default::default() };
                        instances.migrate_instance(request).await.map(drop)
                    }
                }
            }
        });
        asked.await?;
        self.wants(instance_id, Want::State("RESIZED"));
        Ok(())
    }

    /// Confirms a resize, or reverts it.
    pub async fn end_resize(&self, instance_id: &str, confirm: bool) -> Result<(), Denied> {
        let asked = self.ask(|api, request_id| {
            let instance_id = instance_id.to_owned();
            async move {
                let mut instances = api.instances();
                if confirm {
                    let request = api::ConfirmResizeRequest { request_id, instance_id, ..Default::default() };
                    instances.confirm_resize(request).await.map(drop)
                } else {
                    let request = api::RevertResizeRequest { request_id, instance_id, ..Default::default() };
                    instances.revert_resize(request).await.map(drop)
                }
            }
        });
        asked.await?;
        self.wants(instance_id, Want::State("ACTIVE"));
        Ok(())
    }

    /// Moves an instance while it runs.
    pub async fn live_migrate(&self, instance_id: &str) -> Result<(), Denied> {
        self.migrate_to(instance_id, true, "").await.map(drop)
    }

    /// Moves an instance to a host, or to any if none is named, and gives the request's id. What is wanted of it is not
    /// changed.
    pub async fn migrate_to(&self, instance_id: &str, live: bool, host: &str) -> Result<String, Denied> {
        let id = self.request_id();
        let asked = self.ask_as(&id, |api, request_id| {
            let (instance_id, target_host) = (instance_id.to_owned(), host.to_owned());
            let request = api::MigrateInstanceRequest {
                request_id,
                instance_id,
                live,
                target_host,
                ..Default::default()
            };
            async move { api.instances().migrate_instance(request).await }
        });
        asked.await?;
        Ok(id)
    }

    /// Has an instance built elsewhere whose host is gone, and gives the request's id.
    pub async fn evacuate(&self, instance_id: &str) -> Result<String, Denied> {
        let id = self.request_id();
        let asked = self.ask_as(&id, |api, request_id| {
            let instance_id = instance_id.to_owned();
            let request = api::EvacuateInstanceRequest { request_id, instance_id, ..Default::default() };
            async move { api.instances().evacuate_instance(request).await }
        });
        asked.await?;
        Ok(id)
    }

    /// The same, where an operator says of hosts that they do not run it.
    pub async fn evacuate_vouching(&self, instance_id: &str, hosts: &[String]) -> Result<(), Denied> {
        let asked = self.ask(|api, request_id| {
            let (instance_id, vouched_hosts) = (instance_id.to_owned(), hosts.to_vec());
            let request =
                api::EvacuateInstanceRequest { request_id, instance_id, vouched_hosts, ..Default::default() };
            async move { api.instances().evacuate_instance(request).await }
        });
        asked.await.map(drop)
    }

    /// An operator's word that a compute host is off.
    pub async fn fence(&self, host: &str) -> Result<(), Denied> {
        let asked = self.ask(|api, request_id| {
            let service = pb::ServiceKind::Compute.into();
            let request = api::FenceHostRequest { request_id, service, host: host.to_owned() };
            async move { api.hosts().fence_host(request).await }
        });
        asked.await.map(drop)
    }

    /// Which store there is.
    pub async fn store(&self) -> Result<pb::Store, Denied> {
        let read = self.ask(|api, _| async move { api.stores().get_store(api::GetStoreRequest {}).await });
        Ok(read.await?.into_inner().store.unwrap_or_default())
    }

    /// An operator's word that the store there is is the one to go by.
    pub async fn accept_store(&self) -> Result<(), Denied> {
        let id = self.store().await?.id;
        let asked = self.ask(|api, _| {
            let request = api::AcceptStoreRequest { id: id.clone(), accepted_by: "operator".into() };
            async move { api.stores().accept_store(request).await }
        });
        asked.await.map(drop)
    }

    /// Makes an instance anew from its image.
    pub async fn rebuild(&self, instance_id: &str) -> Result<(), Denied> {
        let asked = self.ask(|api, request_id| {
            let instance_id = instance_id.to_owned();
            let request = api::RebuildInstanceRequest { request_id, instance_id, ..Default::default() };
            async move { api.instances().rebuild_instance(request).await }
        });
        asked.await.map(drop)
    }

    /// Keeps a volume's contents.
    pub async fn snapshot(&self, volume_id: &str) -> Result<String, Denied> {
        let created = self.ask(|api, request_id| {
            let (volume_id, name) = (volume_id.to_owned(), "kept".to_owned());
            let request = api::CreateSnapshotRequest { request_id, volume_id, name, ..Default::default() };
            async move { api.snapshots().create_snapshot(request).await }
        });
        let id = created.await?.into_inner().snapshot.unwrap_or_default().id;
        self.wants(&id, Want::State("AVAILABLE"));
        Ok(id)
    }

    /// Deletes a snapshot.
    pub async fn delete_snapshot(&self, snapshot_id: &str) -> Result<(), Denied> {
        let asked = self.ask(|api, request_id| {
            let snapshot_id = snapshot_id.to_owned();
            let request = api::DeleteSnapshotRequest { request_id, snapshot_id, ..Default::default() };
            async move { api.snapshots().delete_snapshot(request).await }
        });
        asked.await?;
        self.wants(snapshot_id, Want::Absent);
        Ok(())
    }

    /// Creates a volume of one GiB.
    pub async fn create_volume(&self, name: &str) -> Result<String, Denied> {
        self.create_volume_of(name, "").await
    }

    /// Creates a volume of one GiB with the contents of a snapshot.
    pub async fn create_volume_of(&self, name: &str, snapshot: &str) -> Result<String, Denied> {
        let snapshot_id = snapshot.to_owned();
        let spec = pb::VolumeSpec { name: name.into(), size_gib: 1, snapshot_id, ..Default::default() };
        let created = self.ask(|api, request_id| {
            let volume = Some(spec.clone());
            let request = api::CreateVolumeRequest { request_id, volume, ..Default::default() };
            async move { api.volumes().create_volume(request).await }
        });
        let id = created.await?.into_inner().volume.unwrap_or_default().id;
        self.wants(&id, Want::State("AVAILABLE"));
        Ok(id)
    }

    /// Deletes a volume.
    pub async fn delete_volume(&self, volume_id: &str) -> Result<(), Denied> {
        let asked = self.ask(|api, request_id| {
            let volume_id = volume_id.to_owned();
            let request = api::DeleteVolumeRequest { request_id, volume_id, ..Default::default() };
            async move { api.volumes().delete_volume(request).await }
        });
        asked.await?;
        self.wants(volume_id, Want::Absent);
        Ok(())
    }

    /// Makes a volume larger.
    pub async fn extend(&self, volume_id: &str, size_gib: u32) -> Result<(), Denied> {
        let asked = self.ask(|api, request_id| {
            let volume_id = volume_id.to_owned();
            let request = api::ExtendVolumeRequest { request_id, volume_id, size_gib, ..Default::default() };
            async move { api.volumes().extend_volume(request).await }
        });
        asked.await.map(drop)
    }

    /// Attaches a volume.
    pub async fn attach(&self, instance_id: &str, volume_id: &str) -> Result<(), Denied> {
        let asked = self.ask(|api, request_id| {
            let (instance_id, volume_id) = (instance_id.to_owned(), volume_id.to_owned());
            let request =
                api::AttachVolumeRequest { request_id, instance_id, volume_id, ..Default::default() };
            async move { api.instances().attach_volume(request).await }
        });
        asked.await?;
        self.wants(volume_id, Want::State("IN_USE"));
        Ok(())
    }

    /// Detaches a volume, and gives the request's id.
    pub async fn detach(&self, instance_id: &str, volume_id: &str) -> Result<String, Denied> {
        let id = self.request_id();
        let asked = self.ask_as(&id, |api, request_id| {
            let (instance_id, volume_id) = (instance_id.to_owned(), volume_id.to_owned());
            let request =
                api::DetachVolumeRequest { request_id, instance_id, volume_id, ..Default::default() };
            async move { api.instances().detach_volume(request).await }
        });
        asked.await?;
        self.wants(volume_id, Want::State("AVAILABLE"));
        Ok(id)
    }

    /// Creates a server group.
    pub async fn group(&self, policy: Policy) -> Result<String, Denied> {
        let group = pb::ServerGroup { name: "g".into(), policy: policy.into(), ..Default::default() };
        let created = self.ask(|api, request_id| {
            let server_group = Some(group.clone());
            let request = api::CreateServerGroupRequest { request_id, server_group, ..Default::default() };
            async move { api.server_groups().create_server_group(request).await }
        });
        Ok(created.await?.into_inner().server_group.unwrap_or_default().id)
    }

    /// The instances on a host.
    pub async fn instances_on(&self, host: &str) -> Vec<String> {
        let request = api::ListInstancesRequest { host: host.to_owned(), ..Default::default() };
        let listed = self.ask(|api, _| {
            let request = request.clone();
            async move { api.instances().list_instances(request).await }
        });
        let instances = listed.await.map(|answer| answer.into_inner().instances).unwrap_or_default();
        instances.into_iter().map(|instance| instance.id).collect()
    }

    /// Whether all hosts take new work.
    pub async fn hosts_take_work(&self) -> bool {
        self.apis[0].takes_work().await
    }

    /// The host an instance is on.
    pub async fn instance_host(&self, id: &str) -> Option<String> {
        Some(self.apis[0].get(id).await.ok()?.host).filter(|host| !host.is_empty())
    }

    /// The host an instance was on before it was moved.
    pub async fn previous_host(&self, id: &str) -> Option<String> {
        Some(self.apis[0].get(id).await.ok()?.previous_host).filter(|host| !host.is_empty())
    }

    /// The backend a volume is on.
    pub async fn volume_host(&self, volume_id: &str) -> Option<String> {
        let request = api::GetVolumeRequest { volume_id: volume_id.to_owned(), ..Default::default() };
        let host = self.apis[0].volumes().get_volume(request).await.ok()?.into_inner().volume?.host;
        Some(host).filter(|host| !host.is_empty())
    }

    /// The state of an instance, as `ACTIVE`.
    pub async fn instance_state(&self, id: &str) -> Option<String> {
        let state = self.apis[0].get(id).await.ok()?.state();
        state.as_str_name().strip_prefix("STATE_").map(ToOwned::to_owned)
    }

    /// What is being done with an instance, as `SPAWNING`.
    pub async fn instance_task(&self, id: &str) -> Option<String> {
        let task = self.apis[0].get(id).await.ok()?.task();
        task.as_str_name().strip_prefix("TASK_").map(ToOwned::to_owned)
    }

    /// How what was asked of an instance with a request id ended, as `SUCCEEDED`.
    pub async fn instance_outcome(&self, id: &str, request_id: &str) -> Option<String> {
        let request = api::ListInstanceActionsRequest { instance_id: id.to_owned(), ..Default::default() };
        let answer = self.apis[0].instances().list_instance_actions(request).await.ok()?;
        let actions = answer.into_inner().actions;
        let outcome = actions.iter().find(|action| action.request_id == request_id)?.outcome();
        outcome.as_str_name().strip_prefix("OUTCOME_").map(ToOwned::to_owned)
    }

    /// The state of a snapshot, as `AVAILABLE`.
    pub async fn snapshot_state(&self, snapshot_id: &str) -> Option<String> {
        let request = api::GetSnapshotRequest { snapshot_id: snapshot_id.to_owned(), ..Default::default() };
        let answer = self.apis[0].snapshots().get_snapshot(request).await.ok()?;
        let state = answer.into_inner().snapshot?.state();
        state.as_str_name().strip_prefix("STATE_").map(ToOwned::to_owned)
    }

    /// The state of a volume, as `AVAILABLE`.
    pub async fn volume_state(&self, volume_id: &str) -> Option<String> {
        let request = api::GetVolumeRequest { volume_id: volume_id.to_owned(), ..Default::default() };
        let state = self.apis[0].volumes().get_volume(request).await.ok()?.into_inner().volume?.state();
        state.as_str_name().strip_prefix("STATE_").map(ToOwned::to_owned)
    }
}

/// Why an answer is final; none when the same request may be answered otherwise later.
fn refusal(status: &Status) -> Option<Reason> {
    let passing = matches!(
        status.code(),
        Code::Unavailable
            | Code::Unknown
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Aborted
            | Code::Internal
    );
    let reason = from_status(status).map_or(Reason::Internal, |error| error.reason);
    let overloaded = status.code() == Code::ResourceExhausted && reason != Reason::QuotaExceeded;
    (!passing && !overloaded).then_some(reason)
}
