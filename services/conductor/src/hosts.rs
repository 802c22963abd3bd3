//! Hosts and backends: what they registered, the administrator's word, and their figures as a scheduler has them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kilonova_model::time::timestamp;
use kilonova_model::{Epoch, Error, HostName, Reason, ServiceKind};
use kilonova_proto::compute::v1 as compute;
use kilonova_proto::compute::v1::compute_service_client::ComputeServiceClient;
use kilonova_proto::conductor::v1::{HostRecord, RegisterHostRequest};
use kilonova_proto::scheduler::v1 as scheduler;
use kilonova_proto::scheduler::v1::scheduler_service_client::SchedulerServiceClient;
use kilonova_proto::types::v1 as pb;
use kilonova_proto::volume::v1 as volume;
use kilonova_proto::volume::v1::volume_service_client::VolumeServiceClient;
use kilonova_runtime::tasks::Tasks;
use kilonova_store::keys::Key;
use kilonova_store::{Compare, Txn, TxnOutcome};
use prost::Message;
use tonic::Request;

use crate::agents::Callers;
use crate::cache::{Cache, Entry};
use crate::db::{Db, conflict};
use crate::history::service_kind;

/// How often a change is tried again when somebody else was faster.
const TRIES: usize = 16;
/// How long a host gets to take the administrator's word; one that does not gets it when it registers next.
const TELL_DEADLINE: Duration = Duration::from_secs(2);
/// How long a scheduler gets to tell what it knows.
const STATES_DEADLINE: Duration = Duration::from_secs(2);

/// A host's or backend's name with its kind.
pub type HostId = (ServiceKind, HostName);

/// All hosts and backends.
pub struct Hosts {
    db: Db,
    callers: Callers,
    /// The memory.
    pub cache: Cache<HostId, HostRecord>,
}

impl Hosts {
    /// Follows the store.
    pub fn follow(db: &Db, callers: Callers, tasks: &Tasks) -> Self {
        let id_of = |key| if let Key::Host(service, host) = key { Some((service, host)) } else { None };
        let cache = Cache::follow("hosts", &db.store, &db.keys, db.keys.all_hosts(), id_of, tasks);
        Self { db: db.clone(), callers, cache }
    }

    /// An agent is there; the answer is the host with the administrator's word.
    pub async fn register(&self, id: &HostId, request: &RegisterHostRequest) -> Result<pb::Host, Error> {
        let known = |host: &pb::Host| {
            if request.epoch < host.epoch {
                let message = format!("a newer incarnation of {} has registered", id.1);
                return Err(Error::new(Reason::StaleEpoch, message)
                    .with("host", &id.1)
                    .with("epoch", host.epoch));
            }
            let mut host = host.clone();
            host.name = id.1.to_string();
            host.service = service_kind(id.0).into();
            host.availability_zone.clone_from(&request.availability_zone);
            host.epoch = request.epoch;
            host.address.clone_from(&request.address);
            host.version.clone_from(&request.version);
            host.create_time.get_or_insert(timestamp(SystemTime::now()));
            if host.admin_state() == pb::host::AdminState::Unspecified {
                host.set_admin_state(pb::host::AdminState::Enabled);
            }
            Ok(host)
        };
        self.modify(id, true, known).await
    }

    /// The administrator's word. It is stored first; then the host is told, if it is up.
    pub async fn set_enabled(&self, id: &HostId, enabled: bool, reason: &str) -> Result<pb::Host, Error> {
        let host = self
            .modify(id, false, |host| {
                let mut host = host.clone();
                let state =
                    if enabled { pb::host::AdminState::Enabled } else { pb::host::AdminState::Disabled };
                host.set_admin_state(state);
                host.disabled_reason = reason.to_owned();
                Ok(host)
            })
            .await?;
        if let Err(status) = self.tell(id, &host, enabled, reason).await {
            tracing::info!(host = %id.1, message = status.message(), "the host learns it when it registers next");
        }
        Ok(host)
    }

    async fn tell(
        &self,
        id: &HostId,
        host: &pb::Host,
        enabled: bool,
        reason: &str,
    ) -> Result<(), tonic::Status> {
        let members = self.callers.peers.registry().members(id.0).current();
        let epoch = members.get(&id.1).map_or(Epoch(host.epoch), |member| member.epoch);
        let channel = self.callers.peers.cast_host(id.0, &id.1).at(epoch);
        let (target_host, disabled_reason) = (id.1.to_string(), reason.to_owned());
        if id.0 == ServiceKind::Compute {
            let mut request = Request::new(compute::SetHostEnabledRequest {
                target_host,
                target_epoch: epoch.0,
                enabled,
                disabled_reason,
            });
            request.set_timeout(TELL_DEADLINE);
            ComputeServiceClient::new(channel).set_host_enabled(request).await.map(drop)
        } else {
            let mut request = Request::new(volume::SetHostEnabledRequest {
                target_host,
                target_epoch: epoch.0,
                enabled,
                disabled_reason,
            });
            request.set_timeout(TELL_DEADLINE);
            VolumeServiceClient::new(channel).set_host_enabled(request).await.map(drop)
        }
    }

    async fn modify(
        &self,
        id: &HostId,
        create: bool,
        change: impl Fn(&pb::Host) -> Result<pb::Host, Error>,
    ) -> Result<pb::Host, Error> {
        let key = self.db.keys.host(id.0, &id.1);
        for _ in 0..TRIES {
            let read = self.db.read_or_default::<HostRecord>(&key).await?;
            if read.revision.0 == 0 && !create {
                return Err(not_found(id));
            }
            let old = read.record.host.clone().unwrap_or_default();
            let host = change(&old)?;
            let record = HostRecord { host: Some(host) };
            if record == read.record {
                return Ok(shown(&Entry { record: Arc::new(record), revision: read.revision }));
            }
            let txn = Txn::new()
                .when(Compare::ModRevision(key.clone(), read.revision))
                .put(key.clone(), record.encode_to_vec());
            if let TxnOutcome::Committed { revision } = self.db.commit(txn).await? {
                let entry = Entry { record: Arc::new(record), revision };
                self.cache.committed(id.clone(), entry.record.clone(), revision);
                return Ok(shown(&entry));
            }
        }
        Err(conflict(&format!("host {}", id.1)))
    }

    /// One host with its figures.
    pub async fn get(&self, id: &HostId) -> Result<pb::Host, Error> {
        let entry = match self.cache.get(id) {
            Some(entry) => entry,
            None => {
                let read = self.db.read::<HostRecord>(&self.db.keys.host(id.0, &id.1)).await?;
                let read = read.ok_or_else(|| not_found(id))?;
                Entry { record: Arc::new(read.record), revision: read.revision }
            }
        };
        let mut hosts = self.with_figures(vec![(id.clone(), entry)]).await;
        hosts.pop().ok_or_else(|| not_found(id))
    }

    /// Hosts with the figures the schedulers have of them. Without a scheduler they come without figures.
    pub async fn with_figures(&self, entries: Vec<(HostId, Entry<HostRecord>)>) -> Vec<pb::Host> {
        let names =
            |kind| entries.iter().filter(|((k, _), _)| *k == kind).map(|((_, h), _)| h.to_string()).collect();
        let (computes, volumes) = tokio::join!(
            self.states(ServiceKind::Compute, names(ServiceKind::Compute)),
            self.states(ServiceKind::Volume, names(ServiceKind::Volume)),
        );
        entries
            .iter()
            .map(|((kind, name), entry)| {
                let mut host = shown(entry);
                let states = if *kind == ServiceKind::Compute { &computes } else { &volumes };
                match states {
                    Ok(states) => match states.get(name.as_str()) {
                        Some(state) => {
                            host.state = state.state;
                            host.state_detail.clone_from(&state.state_detail);
                            host.capabilities.clone_from(&state.capabilities);
                            host.capabilities_age = state.capabilities_age;
                        }
                        None => host.state_detail = "no scheduler has heard of it".to_owned(),
                    },
                    Err(why) => host.state_detail = format!("no scheduler answered: {why}"),
                }
                host
            })
            .collect()
    }

    async fn states(
        &self,
        kind: ServiceKind,
        names: Vec<String>,
    ) -> Result<HashMap<String, scheduler::HostState>, String> {
        if names.is_empty() {
            return Ok(HashMap::new());
        }
        let mut client = SchedulerServiceClient::new(self.callers.peers.call(ServiceKind::Scheduler));
        let page_size = i32::try_from(names.len()).unwrap_or(i32::MAX);
        let states = if kind == ServiceKind::Compute {
            let mut request = Request::new(scheduler::ListHostStatesRequest {
                page_size,
                hosts: names,
                ..Default::default()
            });
            request.set_timeout(STATES_DEADLINE);
            client.list_host_states(request).await.map(|answer| answer.into_inner().hosts)
        } else {
            let mut request = Request::new(scheduler::ListBackendStatesRequest {
                page_size,
                backends: names,
                ..Default::default()
            });
            request.set_timeout(STATES_DEADLINE);
            client.list_backend_states(request).await.map(|answer| answer.into_inner().backends)
        };
        let states = states.map_err(|status| status.message().to_owned())?;
        Ok(states.into_iter().map(|state| (state.host.clone(), state)).collect())
    }
}

fn shown(entry: &Entry<HostRecord>) -> pb::Host {
    pb::Host { etag: entry.etag(), ..entry.record.host.clone().unwrap_or_default() }
}

fn not_found(id: &HostId) -> Error {
    Error::new(Reason::HostNotFound, format!("no {} host {}", id.0, id.1)).with("host", &id.1)
}
