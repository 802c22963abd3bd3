//! What a row does to its cell, besides asking something of it: hosts die and come back, or under another name; the store goes back,
//! or is another one. The run, which has the cell, does it.

use std::time::Duration;

use kilonova_model::{HostName, ServiceKind};
use kilonova_proto::conductor::v1::GetInstanceRequest;
use kilonova_proto::conductor::v1::record_service_client::RecordServiceClient;
use kilonova_proto::types::v1::host::State;
use kilonova_store::keys::Keys;
use kilonova_store::{SharedStore, Txn};
use kilonova_tests::Cluster;
use kilonova_tests::cluster::MemberId;
use kilonova_tests::stores::{Copied, Kept};
use kilonova_tests::user::User;
use kilonova_tests::waiting::until;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tonic::transport::Channel;

use crate::outages::Outages;

/// How long an agent gets to start, or to be refused.
const PATIENCE: Duration = Duration::from_secs(30);

/// Something that is to be done to the cell, and where it is said that it is done.
pub enum Deed {
    /// An agent is killed.
    Kill(MemberId, oneshot::Sender<Seen>),
    /// An agent that was killed is started again.
    Start(MemberId),
    /// An agent is started under this name over the data of another that does not run.
    StartAs { agent: MemberId, data_of: String, done: oneshot::Sender<Result<(), String>> },
    /// An earlier copy of the store is made.
    Copy(oneshot::Sender<()>),
    /// The store is put back to the copy, or emptied if there is none.
    PutBack { at_rest: bool, done: oneshot::Sender<()> },
}

/// Where it can be seen that a killed agent has left.
pub struct Seen {
    store: SharedStore,
    /// Its registration.
    key: String,
    conductors: Vec<Channel>,
}

/// How a row has things done. Clones do the same.
#[derive(Clone)]
pub struct Hand {
    deeds: mpsc::UnboundedSender<Deed>,
    outages: Outages,
}

impl Hand {
    /// A hand, and where its deeds are told.
    pub fn new(outages: Outages) -> (Self, mpsc::UnboundedReceiver<Deed>) {
        let (deeds, told) = mpsc::unbounded_channel();
        (Self { deeds, outages }, told)
    }

    async fn done<T>(&self, deed: impl FnOnce(oneshot::Sender<T>) -> Deed) -> T {
        let (done, told) = oneshot::channel();
        self.deeds.send(deed(done)).expect("the run goes on");
        told.await.expect("the run goes on")
    }

    /// Kills an agent. Nobody knows yet.
    pub async fn kill(&self, service: ServiceKind, host: &str) {
        self.done(|done| Deed::Kill((service, host.to_owned()), done)).await;
    }

    /// Kills an agent, and waits until it has left the registry; the conductors that run then are given.
    pub async fn lose(&self, service: ServiceKind, host: &str) -> Vec<Channel> {
        let Seen { store, key, conductors } =
            self.done(|done| Deed::Kill((service, host.to_owned()), done)).await;
        until(&format!("{host} has left"), || async {
            let (found, _) = store.get(&key).await.ok()?;
            found.is_none().then_some(())
        })
        .await;
        conductors
    }

    /// Loses the host of an instance, waits until every conductor sees that, and gives its name.
    pub async fn lose_host_of(&self, user: &User, id: &str) -> String {
        let host = user.instance_host(id).await.expect("it is on a host");
        for channel in self.lose(ServiceKind::Compute, &host).await {
            let records = RecordServiceClient::new(channel);
            until(&format!("every conductor sees that {host} has left"), || async {
                let request = GetInstanceRequest { instance_id: id.to_owned(), ..Default::default() };
                let answer = records.clone().get_instance(request).await.ok()?.into_inner();
                (answer.instance?.host_state() == State::Down).then_some(())
            })
            .await;
        }
        host
    }

    /// A host that was lost stays away for good.
    pub fn for_good(&self, host: &str) {
        self.outages.for_good(host);
    }

    /// A host that was lost comes back.
    pub fn back(&self, service: ServiceKind, host: &str) {
        self.deeds.send(Deed::Start((service, host.to_owned()))).expect("the run goes on");
    }

    /// Starts an agent under another name over the data of one that was lost; why it does not start, if it does not.
    pub async fn start_as(&self, service: ServiceKind, name: &str, data_of: &str) -> Result<(), String> {
        let agent = (service, name.to_owned());
        self.done(|done| Deed::StartAs { agent, data_of: data_of.to_owned(), done }).await
    }

    /// From now on nothing may be removed.
    pub fn keep_all(&self) {
        self.outages.keep_all();
    }

    /// Copies the store.
    pub async fn copy_store(&self) {
        self.done(Deed::Copy).await;
    }

    /// Puts the store back to the copy, or empties it if none was made. From then on nothing may be removed.
    pub async fn put_store_back(&self) {
        self.outages.set_back();
        self.done(|done| Deed::PutBack { at_rest: false, done }).await;
    }

    /// Puts the store back while nothing runs, and has it grow past all that was known of it before anything starts.
    pub async fn put_store_back_at_rest(&self) {
        self.outages.set_back();
        self.done(|done| Deed::PutBack { at_rest: true, done }).await;
    }
}

/// The store of a cell, if it is its own, and what was copied of it.
pub struct OwnStore {
    /// The store.
    pub kept: Kept,
    /// The copy.
    pub copied: Option<Copied>,
}

/// Does what was asked. An agent that is to be started is left to the caller.
pub async fn act(
    deed: Deed,
    cluster: &mut Cluster,
    own: &mut Option<OwnStore>,
    outages: &Outages,
) -> Option<MemberId> {
    match deed {
        Deed::Start(agent) => return Some(agent),
        Deed::Kill((kind, host), done) => {
            outages.begin(&host);
            cluster.kill(kind, &host);
            let conductors = cluster.names(ServiceKind::Conductor).into_iter();
            let conductors = conductors.map(|name| cluster.channel(ServiceKind::Conductor, &name)).collect();
            let key = Keys::new(cluster.cell()).endpoint(kind, &HostName::parse(&host).expect("a name"));
            let _ = done.send(Seen { store: cluster.shared_store(), key, conductors });
        }
        Deed::StartAs { agent: (kind, name), data_of, done } => {
            let started = timeout(PATIENCE, cluster.launch_over(kind, &name, &data_of)).await;
            // One that has begun and waits for something was not refused.
            let _ = done.send(started.map_or(Ok(()), |started| started.map_err(|error| error.to_string())));
        }
        Deed::Copy(done) => {
            let own = own.as_mut().expect("the row has a store of its own");
            let copied = match own.kept.changes_while_open() {
                true => own.kept.copy().await,
                false => {
                    let all = cluster.kill_all().await;
                    let copied = own.kept.copy().await;
                    start_all(cluster, all).await;
                    copied
                }
            };
            own.copied = Some(copied.expect("the store is copied"));
            let _ = done.send(());
        }
        Deed::PutBack { at_rest, done } => {
            let own = own.as_mut().expect("the row has a store of its own");
            if own.kept.changes_while_open() && !at_rest {
                own.kept.put_back(own.copied.as_ref()).await.expect("the store is put back");
            } else {
                let all = cluster.kill_all().await;
                own.kept.put_back(own.copied.as_ref()).await.expect("the store is put back");
                let store = own.kept.open().await;
                if at_rest {
                    outgrow(&store).await;
                }
                cluster.use_store(store);
                start_all(cluster, all).await;
            }
            let _ = done.send(());
        }
    }
    None
}

/// Writes more than a row does.
async fn outgrow(store: &SharedStore) {
    for n in 0..1_000 {
        let written = store.txn(Txn::new().put("grown", n.to_string())).await;
        written.expect("the store is written");
    }
}

/// Starts all that were killed. It is not waited until they are ready: what they then are is what is judged.
async fn start_all(cluster: &mut Cluster, all: Vec<MemberId>) {
    for (kind, host) in all {
        cluster.launch(kind, &host).await;
    }
}
