//! The one foundation under discovery, ownership and records: a store of revisioned keys.
//!
//! A [`Store`] is small on purpose: linearizable [`get`](Store::get), paged [`list`](Store::list), one
//! multi-key compare-and-write [`txn`](Store::txn), a [`watch`](Store::watch) that heals itself, and leases.
//! Every committed change moves the whole store to a greater [`Revision`](kilonova_model::Revision).
//!
//! Where keys lie is decided in [`keys`] and nowhere else.

pub mod api;
pub mod embedded;
pub mod error;
pub mod etcd;
pub mod keys;
pub mod testing;
pub mod txn;
pub mod watch;

mod page;

pub use api::{KeyValue, LeaseId, Page, SharedStore, Store};
pub use embedded::{EmbeddedOptions, EmbeddedStore};
pub use error::StoreError;
pub use etcd::{EtcdOptions, EtcdStore};
pub use keys::{Key, Keys};
pub use txn::{Compare, Op, Txn, TxnOutcome};
pub use watch::{Watch, WatchEvent, WatchFrom, WatchHealth};
