//! What placement of instances and placement of volumes have in common.

use std::fmt::Debug;

use kilonova_model::ServiceKind;
use kilonova_proto::types::v1::Capabilities;

use super::columns::OwnColumns;
use super::vocabulary::{AggregatesId, Symbol, Vocabulary, Wish};
use super::world::{HostId, World};

/// One kind of placement: what is chosen, and for what.
pub trait Space: Sized + Send + Sync + 'static {
    /// What can be chosen.
    type Row: Row<Amount = <Self::Demand as Demand>::Amount>;
    /// What it is chosen for.
    type Demand: Demand;
    /// What a candidate's owner is called: `host`.
    const NOUN: &'static str;
    /// Who publishes the candidates.
    const PUBLISHER: ServiceKind;

    /// How many builds failed on a publisher one after the other.
    fn failed_builds(_: &Capabilities) -> u32 {
        0
    }

    /// The candidates of one publisher. Of one that never said what it has there is one, without room, so that it
    /// is counted and explained like the others.
    fn rows(
        head: Head,
        name: &str,
        capabilities: Option<&Capabilities>,
        vocabulary: &mut Vocabulary,
    ) -> Vec<Self::Row>;
}

/// One candidate: figures and small ids only.
pub trait Row: Debug + Clone + Send + Sync + 'static {
    /// What one placement takes.
    type Amount: Amount;
    /// The figures of many rows, as dense columns.
    type Columns: OwnColumns<Self>;

    /// What every candidate has.
    fn head(&self) -> &Head;

    /// The same, to change it.
    fn head_mut(&mut self) -> &mut Head;

    /// The pool's name; empty for a host.
    fn pool(&self) -> &str;

    /// Counts a placement that its owner does not report yet.
    fn hold(&mut self, amount: &Self::Amount);

    /// Counts it no longer.
    fn release(&mut self, amount: &Self::Amount);

    /// By how much the owner's own report of what is taken has grown since `before`.
    fn growth_since(&self, before: &Self) -> Self::Amount;
}

/// What one placement takes.
pub trait Amount: Debug + Clone + Send + Sync + 'static {
    /// Takes `part` out, if all of it is there.
    fn take(&mut self, part: &Self) -> bool;
}

/// What a placement asks for.
pub trait Demand: Debug + Send + Sync {
    /// What one placement takes.
    type Amount: Amount;

    /// What any placement can ask for.
    fn wishes(&self) -> &Wishes;

    /// What one placement takes.
    fn amount(&self) -> Self::Amount;

    /// Whether it is in its place already, and only what it is made of changes.
    fn is_rebuild(&self) -> bool {
        false
    }
}

/// What every candidate has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Whose it is.
    pub host: HostId,
    /// The availability zone.
    pub zone: Symbol,
    /// The aggregates it is in.
    pub aggregates: AggregatesId,
    /// Whether its owner can be reached.
    pub up: bool,
    /// Whether its administrator lets it take new work.
    pub enabled: bool,
    /// Whether it is kept away from new work because builds fail there.
    pub quarantined: bool,
}

impl Head {
    /// Whether it may be chosen at all.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.up && self.enabled && !self.quarantined
    }
}

/// What any placement can ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Only this zone.
    pub zone: Option<Wish>,
    /// Only this host or backend, by name and, if it is known, by id.
    pub forced: Option<(String, Option<HostId>)>,
    /// Not these, sorted.
    excluded: Vec<HostId>,
}

impl Wishes {
    /// Looks up what is asked for by name. An empty name asks for nothing.
    pub fn new<'a, R: Row>(
        world: &World<R>,
        zone: &str,
        forced: &str,
        excluded: impl IntoIterator<Item = &'a String>,
    ) -> Self {
        Self {
            zone: (!zone.is_empty()).then(|| Wish::new(zone, world.vocabulary())),
            forced: (!forced.is_empty()).then(|| (forced.to_owned(), world.find(forced))),
            excluded: world.find_all(excluded),
        }
    }

    /// Whether any host known is not wanted.
    #[must_use]
    pub fn excludes_any(&self) -> bool {
        !self.excluded.is_empty()
    }

    /// Whether a host is one of those not wanted.
    #[must_use]
    pub fn excludes(&self, host: HostId) -> bool {
        self.excluded.binary_search(&host).is_ok()
    }
}
