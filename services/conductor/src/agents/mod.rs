//! The calls a conductor makes: to schedulers, and to the agents of hosts and backends.

mod ask;
pub(crate) mod connections;
pub(crate) mod instance;
mod snapshot;
pub(crate) mod volume;

use std::time::Duration;

use async_trait::async_trait;
use kilonova_model::{Epoch, Error, HostName, Reason, Revision, ServiceKind};
use kilonova_proto::conductor::v1::{
    Alternate, InstanceRecord, Operation, Receipt, SnapshotRecord, VolumeRecord,
};
use kilonova_proto::scheduler::v1 as scheduler;
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::action::Kind;
use kilonova_proto::types::v1::server_group::Policy;
use kilonova_rpc::outcome::{CallError, classify};
use kilonova_rpc::peers::{Channel, Peers};
use kilonova_rpc::status::to_status;
use kilonova_store::Txn;
use tonic::Request;

pub use ask::{disk_gib, rebuild_request};

use crate::cache::Entry;
use crate::engine::behind::Behind;
use crate::hosts::Fences;
use crate::identity::StoreIdentity;
use crate::placed::{Placed, Site};
use crate::records::Records;
use crate::shards::Fence;

/// The longest an agent may take to accept a command.
pub(crate) const COMMAND_DEADLINE: Duration = Duration::from_secs(5);

/// What a scheduler answered.
#[derive(Debug)]
pub struct Selected {
    /// The places, best first; none when there is none.
    pub places: Vec<Alternate>,
    /// Why.
    pub explanation: pb::PlacementExplanation,
}

/// What a server group asks of a place, on top of what the record itself asks.
#[derive(Debug, Default)]
pub struct GroupWish {
    /// Its rule, and the hosts of its other members.
    pub hosts: Option<scheduler::GroupHosts>,
    /// Hosts that a scheduler named and the rule does not allow.
    pub broken: Vec<String>,
}

impl GroupWish {
    /// The one host it leaves.
    fn only(&self) -> Option<&str> {
        let group = self.hosts.as_ref().filter(|group| group.policy() == Policy::Affinity)?;
        group.hosts.first().map(|host| host.host.as_str())
    }
}

/// The state of the store, as agents are told with each command.
#[derive(Default)]
pub(crate) struct Told {
    /// The revision of the record that the command is made of.
    revision: u64,
    /// The newest mark of the store; empty if none is known.
    mark: String,
}

/// How records of one type are placed, built and removed.
#[async_trait]
pub trait Agents<P: Placed>: Send + Sync + 'static {
    /// Asks a scheduler where.
    async fn select(
        &self,
        id: P::Id,
        record: &P,
        alternates: u32,
        group: &GroupWish,
    ) -> Result<Selected, CallError>;
    /// Has a host build it.
    async fn build(&self, id: P::Id, entry: &Entry<P>, at: &Site, epoch: Epoch) -> Result<(), CallError>;
    /// Has a host do its part of an operation.
    async fn operate(
        &self,
        id: P::Id,
        entry: &Entry<P>,
        operation: &Operation,
        at: &Site,
        epoch: Epoch,
    ) -> Result<(), CallError>;
    /// Does what others have to do once the host did its part, and gives what has to be stored with its end.
    async fn conclude(&self, id: P::Id, entry: &Entry<P>, operation: &Operation) -> Result<Txn, CallError>;
    /// Has others let go of what a record holds that is about to be gone, and gives what has to be stored with that.
    /// Without `ask` they are not asked, only freed in the store: nobody is left who could use it.
    async fn let_go(&self, id: P::Id, entry: &Entry<P>, ask: bool) -> Result<Txn, CallError>;
    /// Has the generations of a resource that commands for such records are also about go on after one that its agent has
    /// taken, if that resource is behind; says whether it was.
    async fn continue_after(&self, _: &Behind, _: &Fence) -> Result<bool, Error> {
        Ok(false)
    }
    /// True if a host has it, as that attempt which its receipts tell of put it there; `None` if that cannot be said now.
    async fn has(&self, _: P::Id, _: &Entry<P>, _host: &str, _: Epoch) -> Result<Option<bool>, CallError> {
        Ok(Some(true))
    }
    /// Has a host remove what it may hold.
    async fn terminate(
        &self,
        id: P::Id,
        entry: &Entry<P>,
        receipt: &Receipt,
        epoch: Epoch,
    ) -> Result<(), CallError>;
}

/// The calls over the network.
#[derive(Clone)]
pub struct Callers {
    /// The channels.
    pub peers: Peers,
    /// Where the instances are that a wish names.
    pub instances: Records<InstanceRecord>,
    /// Where the volumes are that instances have, or that a wish names.
    pub volumes: Records<VolumeRecord>,
    /// Where the snapshots are that volumes are made of.
    pub snapshots: Records<SnapshotRecord>,
    /// Which store the records are in.
    pub identity: StoreIdentity,
    /// The backends that are off.
    pub fences: Fences,
}

pub(crate) fn within<T>(message: T, deadline: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    request
}

/// Names one decision or command, the same for every repetition of it.
pub(crate) fn step_id(id: impl std::fmt::Display, generation: u64, attempt: u32, step: &str) -> String {
    format!("{id}-{generation}-{attempt}-{step}")
}

/// An error of this conductor, as if an agent had answered with it.
fn refused(error: &Error) -> CallError {
    classify(to_status(error))
}

/// A record written by a newer version, or a defect.
fn no_such_operation(kind: Kind) -> CallError {
    let message = format!("this version does not know the operation {}", kind.as_str_name());
    refused(&Error::new(Reason::MethodNotImplemented, message))
}

fn places(best: Option<scheduler::SelectedHost>, rest: Vec<scheduler::SelectedHost>) -> Vec<Alternate> {
    let place = |selected: scheduler::SelectedHost| Alternate {
        host: selected.host,
        availability_zone: selected.availability_zone,
        pool: selected.pool,
    };
    best.into_iter().chain(rest).map(place).collect()
}

impl Callers {
    /// The state of the store for a command made of the record at that revision.
    pub(crate) fn told(&self, made_of: Revision) -> Told {
        Told { revision: made_of.0, mark: self.identity.mark() }
    }

    /// The channel for work to one incarnation of a host. A name that is none belongs to no host.
    pub(crate) fn host(&self, service: ServiceKind, host: &str, epoch: Epoch) -> Result<Channel, CallError> {
        let host = HostName::parse(host)
            .map_err(|error| refused(&Error::new(Reason::NoSuchHost, error.to_string())))?;
        Ok(self.peers.cast_host(service, &host).at(epoch))
    }
}
