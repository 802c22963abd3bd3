//! "Where?": which hosts fit a demand and which of those is best. Pure: no I/O, no clock, and all chance comes
//! from a seed.
//!
//! ```text
//!   World (rows of figures) ──► filters: yes / no, each counted ──► weighers: Σ multiplier × normalised figure
//!                                                                        │
//!        PlacementExplanation ◄── best N, alternates on other hosts ◄────┘   equals are told apart by the seed
//! ```
//!
//! A [`World`] is one dense vector of rows, one for each thing that can be chosen: a compute host, or one pool of a
//! storage backend. A row holds figures and small ids only; names and other texts lie beside it and are touched
//! only to explain. What every decision looks at lies in dense [`Columns`] besides, derived from the rows as they change.
//! Who is left is a bit for each row. Filters and weighers run over a block of 512 at a time, so that it stays in the
//! processor's cache for the whole chain: a rule that has a column compares several at once, the others ask each row that is
//! left. A decision allocates nothing but its answer.
//!
//! The two kinds of placement are two [`Space`]s, [`Compute`] and [`Storage`]; everything but their filters and
//! weighers is shared.
//!
//! Several at once are decided one after the other, each seeing what the earlier ones take; only the row just taken
//! is looked at again. If one finds no place, none is given.

pub mod aggregates;
mod apart;
mod bitmap;
mod cells;
mod columns;
mod compute;
mod devices;
mod explain;
pub mod facts;
mod figure;
pub mod filters;
mod group;
mod rank;
mod scan;
mod select;
mod space;
mod storage;
mod vocabulary;
pub mod weighers;
mod world;

pub use apart::Apart;
pub use bitmap::{Bitmap, Block};
pub use cells::HostNuma;
pub use columns::{Columns, FigureColumns, OwnColumns, clamped};
pub use compute::{Compute, ComputeAmount, ComputeColumns, ComputeDemand, ComputeRow};
pub use devices::HostDevices;
pub use figure::Figure;
pub use group::Group;
pub use scan::Scan;
pub use select::{Chain, Decision, Pick, Wanted, select};
pub use space::{Amount, Demand, Head, Row, Space, Wishes};
pub use storage::{PoolAmount, PoolRow, Storage, StorageDemand};
pub use vocabulary::{AggregatesId, FactsId, Judged, Number, Symbol, TraitSetId, Vocabulary, Wish};
pub use world::{HostFacts, HostId, World};

#[cfg(test)]
pub(crate) mod testing;
