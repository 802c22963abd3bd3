//! Hosts and backends: what they registered, what administrators say of them, and their figures as a scheduler has them.

pub mod compared;
mod fence;
pub mod held;
mod tell;
mod zones;

pub use fence::Fences;
pub use zones::HostChange;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kilonova_model::time::timestamp;
use kilonova_model::{Epoch, Error, HostName, Reason, Revision, ServiceKind};
use kilonova_proto::conductor::v1::{HostRecord, RegisterHostRequest};
use kilonova_proto::scheduler::v1 as scheduler;
use kilonova_proto::scheduler::v1::scheduler_service_client::SchedulerServiceClient;
use kilonova_proto::types::v1 as pb;
use kilonova_runtime::tasks::Tasks;
use kilonova_store::keys::Key;
use kilonova_store::{Compare, Txn, TxnOutcome};
use prost::Message;
use tonic::Request as Call;

use crate::accept::{Acceptor, Request};
use crate::agents::Callers;
use crate::aggregates::Aggregates;
use crate::cache::{Cache, Entry};
use crate::db::{Db, Read, conflict};
use crate::history::service_kind;

/// How often a change is tried again when somebody else was faster.
const TRIES: usize = 16;
/// How long a scheduler gets to tell what it knows.
const STATES_DEADLINE: Duration = Duration::from_secs(2);

/// A host's or backend's name with its kind.
pub type HostId = (ServiceKind, HostName);

/// What an administrator asks, and what makes it one request.
pub struct Once<'a> {
    /// What knows the earlier requests.
    pub acceptor: &'a Acceptor,
    /// The request.
    pub request: Request,
}

/// All hosts and backends. Clones share them.
#[derive(Clone)]
pub struct Hosts {
    db: Db,
    callers: Callers,
    tasks: Tasks,
    /// What they are in.
    pub aggregates: Aggregates,
    /// The memory.
    pub cache: Cache<HostId, HostRecord>,
    /// Which of them are off, by an operator's word.
    pub fences: Fences,
}

impl Hosts {
    /// Follows the store.
    pub fn follow(db: &Db, callers: Callers, tasks: &Tasks) -> Self {
        let id_of = |key| if let Key::Host(service, host) = key { Some((service, host)) } else { None };
        let cache = Cache::follow("hosts", &db.store, &db.keys, db.keys.all_hosts(), id_of, tasks);
        let aggregates = Aggregates::follow(db, tasks);
        let fences = callers.fences.clone();
        Self { db: db.clone(), callers, tasks: tasks.clone(), aggregates, cache, fences }
    }

    /// An agent is there; the answer is the host, and where it belongs.
    pub async fn register(
        &self,
        id: &HostId,
        request: &RegisterHostRequest,
    ) -> Result<(pb::Host, pb::HostPlacement), Error> {
        let known = |record: &mut HostRecord| {
            let host = record.host.get_or_insert_default();
            if request.epoch < host.epoch {
                let message = format!("a newer incarnation of {} has registered", id.1);
                return Err(Error::new(Reason::StaleEpoch, message)
                    .with("host", &id.1)
                    .with("epoch", host.epoch));
            }
            record.own_zone.clone_from(&request.availability_zone);
            // One that has just started has yet to compare again.
            if !request.compared_store_id.is_empty() {
                record.compared_store_id.clone_from(&request.compared_store_id);
            }
            host.availability_zone = zones::effective(host, &record.own_zone);
            host.name = id.1.to_string();
            host.service = service_kind(id.0).into();
            host.epoch = request.epoch;
            host.address.clone_from(&request.address);
            host.version.clone_from(&request.version);
            host.create_time.get_or_insert(timestamp(SystemTime::now()));
            if host.admin_state() == pb::host::AdminState::Unspecified {
                host.set_admin_state(pb::host::AdminState::Enabled);
            }
            Ok(())
        };
        // An agent of an earlier version does not take back what was said of its host.
        let with = Txn::new().delete(self.db.keys.fence(id.0, &id.1));
        let entry = self.modify(id, None, &with, known).await?;
        self.aggregates.at_least(Revision(request.aggregates_revision)).await?;
        Ok((self.shown(id, &entry), self.placement(id, &entry)))
    }

    /// Where a host belongs.
    fn placement(&self, id: &HostId, entry: &Entry<HostRecord>) -> pb::HostPlacement {
        let host = entry.record.host.clone().unwrap_or_default();
        let (aggregates, aggregates_revision) = match id.0 {
            ServiceKind::Compute => self.aggregates.of(id.1.as_str()),
            _ => (Vec::new(), Revision(0)),
        };
        pb::HostPlacement {
            availability_zone: host.assigned_zone,
            traits: host.traits,
            revision: entry.revision.0,
            aggregates,
            aggregates_revision: aggregates_revision.0,
        }
    }

    /// The administrator's word. It is stored first; then the host is told, if it is up.
    pub async fn set_enabled(
        &self,
        once: &Once<'_>,
        id: &HostId,
        enabled: bool,
        reason: &str,
    ) -> Result<pb::Host, Error> {
        let entry = self
            .modify(id, Some(once), &Txn::new(), |record| {
                let host = record.host.get_or_insert_default();
                let state =
                    if enabled { pb::host::AdminState::Enabled } else { pb::host::AdminState::Disabled };
                host.set_admin_state(state);
                host.disabled_reason = reason.to_owned();
                Ok(())
            })
            .await?;
        let host = self.shown(id, &entry);
        // As it is now: a repetition of an earlier word is answered with the word that holds.
        let enabled = host.admin_state() != pb::host::AdminState::Disabled;
        self.tell_enabled(id, Epoch(host.epoch), (enabled, &host.disabled_reason), entry.revision).await;
        Ok(host)
    }

    /// Changes a host's record in one transaction with `with`. One that is not there is made, unless an administrator asks
    /// (`once`): what an administrator asks is done once for its request id.
    async fn modify(
        &self,
        id: &HostId,
        once: Option<&Once<'_>>,
        with: &Txn,
        change: impl Fn(&mut HostRecord) -> Result<(), Error>,
    ) -> Result<Entry<HostRecord>, Error> {
        let key = self.db.keys.host(id.0, &id.1);
        for _ in 0..TRIES {
            let is_repeated = match once {
                Some(Once { acceptor, request }) => acceptor.replay(request).await?.is_some(),
                None => false,
            };
            let read = self.db.read_or_default::<HostRecord>(&key).await?;
            let as_it_is =
                |read: Read<HostRecord>| Entry { record: Arc::new(read.record), revision: read.revision };
            if is_repeated {
                return Ok(as_it_is(read));
            }
            if once.is_some() && read.revision.0 == 0 {
                return Err(not_found(id));
            }
            let mut record = read.record.clone();
            change(&mut record)?;
            let txn = with.clone().when(Compare::ModRevision(key.clone(), read.revision));
            let txn = match once {
                None if record == read.record => return Ok(as_it_is(read)),
                None => txn,
                Some(Once { acceptor, request }) => acceptor.remember(request, vec![id.1.to_string()], txn),
            };
            if let TxnOutcome::Committed { revision } =
                self.db.commit(txn.put(key.clone(), record.encode_to_vec())).await?
            {
                let entry = Entry { record: Arc::new(record), revision };
                self.cache.committed(id.clone(), entry.record.clone(), revision);
                return Ok(entry);
            }
        }
        Err(conflict(&format!("host {}", id.1)))
    }

    /// A host that has registered, from memory or else from the store.
    pub async fn known(&self, id: &HostId) -> Result<Entry<HostRecord>, Error> {
        if let Some(entry) = self.cache.get(id) {
            return Ok(entry);
        }
        let read = self.db.read::<HostRecord>(&self.db.keys.host(id.0, &id.1)).await?;
        let read = read.ok_or_else(|| not_found(id))?;
        Ok(Entry { record: Arc::new(read.record), revision: read.revision })
    }

    /// One host with its figures.
    pub async fn get(&self, id: &HostId) -> Result<pb::Host, Error> {
        let entry = self.known(id).await?;
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
            .map(|(id, entry)| {
                let (kind, name) = id;
                let mut host = self.shown(id, entry);
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

    /// What users see of a record.
    fn shown(&self, id: &HostId, entry: &Entry<HostRecord>) -> pb::Host {
        let host = entry.record.host.clone().unwrap_or_default();
        let aggregates = match host.service() {
            pb::ServiceKind::Compute => self.aggregates.of(&host.name).0,
            _ => Vec::new(),
        };
        let aggregates = aggregates.into_iter().map(|aggregate| aggregate.id).collect();
        let fenced = self.fences.holds(id);
        pb::Host { etag: entry.etag(), aggregates, fenced, ..host }
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
            let mut request =
                Call::new(scheduler::ListHostStatesRequest { page_size, hosts: names, ..Default::default() });
            request.set_timeout(STATES_DEADLINE);
            client.list_host_states(request).await.map(|answer| answer.into_inner().hosts)
        } else {
            let mut request = Call::new(scheduler::ListBackendStatesRequest {
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

fn not_found(id: &HostId) -> Error {
    Error::new(Reason::HostNotFound, format!("no {} host {}", id.0, id.1)).with("host", &id.1)
}
