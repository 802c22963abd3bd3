//! Between our types and etcd's.

use std::collections::BTreeMap;

use bytes::Bytes;
use etcd_client::{CompareOp, EventType, GetOptions, PutOptions, TxnOp, TxnOpResponse, TxnResponse};
use kilonova_model::Revision;

use super::cluster::to_etcd;
use crate::txn::{Revisions, failed_compares};
use crate::{Compare, KeyValue, Op, StoreError, Txn, TxnOutcome, WatchEvent};

pub(super) fn revision(of_etcd: i64) -> Revision {
    Revision(u64::try_from(of_etcd).unwrap_or_default())
}

pub(super) fn key_of(item: &etcd_client::KeyValue) -> Result<&str, StoreError> {
    item.key_str()
        .map_err(|_| StoreError::corrupt(format!("key {:?} is not text", item.key().escape_ascii())))
}

pub(super) fn key_value(item: etcd_client::KeyValue) -> Result<KeyValue, StoreError> {
    let key = key_of(&item)?.to_owned();
    let (create_revision, mod_revision) = (revision(item.create_revision()), revision(item.mod_revision()));
    let leased = item.lease() != 0;
    let value = Bytes::from(item.into_key_value().1);
    Ok(KeyValue { key, value, create_revision, mod_revision, leased })
}

pub(super) fn watch_event(event: &etcd_client::Event) -> Result<WatchEvent, StoreError> {
    let item = event.kv().ok_or_else(|| StoreError::corrupt("an event without a key"))?;
    Ok(match event.event_type() {
        EventType::Put => WatchEvent::Put(key_value(item.clone())?),
        EventType::Delete => {
            WatchEvent::Delete { key: key_of(item)?.to_owned(), revision: revision(item.mod_revision()) }
        }
    })
}

/// The transaction; where it conflicts it reads the revisions of every key compared, to tell which compares failed.
pub(super) fn txn_request(txn: &Txn) -> etcd_client::Txn {
    let keys = compared_keys(txn);
    let revisions_only = GetOptions::new().with_keys_only();
    etcd_client::Txn::new()
        .when(txn.compares.iter().map(compare).collect::<Vec<_>>())
        .and_then(txn.ops.iter().map(operation).collect::<Vec<_>>())
        .or_else(keys.map(|key| TxnOp::get(key, Some(revisions_only.clone()))).collect::<Vec<_>>())
}

pub(super) fn txn_outcome(txn: &Txn, answer: &TxnResponse, revision: Revision) -> TxnOutcome {
    if answer.succeeded() {
        return TxnOutcome::Committed { revision };
    }
    let found: BTreeMap<_, _> =
        compared_keys(txn).zip(answer.op_responses().iter().map(found_revisions)).collect();
    let failed = failed_compares(&txn.compares, |key| found.get(key).copied().unwrap_or_default());
    TxnOutcome::Conflict { failed, revision }
}

fn compared_keys(txn: &Txn) -> impl Iterator<Item = &str> {
    txn.compares.iter().map(Compare::key)
}

fn compare(compare: &Compare) -> etcd_client::Compare {
    use etcd_client::Compare as Etcd;
    match compare {
        Compare::Absent(key) => Etcd::create_revision(key.as_str(), CompareOp::Equal, 0),
        Compare::Exists(key) => Etcd::create_revision(key.as_str(), CompareOp::Greater, 0),
        Compare::ModRevision(key, revision) => {
            Etcd::mod_revision(key.as_str(), CompareOp::Equal, to_etcd(*revision))
        }
        Compare::CreateRevision(key, revision) => {
            Etcd::create_revision(key.as_str(), CompareOp::Equal, to_etcd(*revision))
        }
    }
}

fn operation(op: &Op) -> TxnOp {
    match op {
        Op::Put { key, value, lease } => {
            let options = lease.map(|lease| PutOptions::new().with_lease(lease.0));
            TxnOp::put(key.as_str(), value.to_vec(), options)
        }
        Op::Delete { key } => TxnOp::delete(key.as_str(), None),
    }
}

fn found_revisions(answer: &TxnOpResponse) -> Revisions {
    match answer {
        TxnOpResponse::Get(get) => get.kvs().first().map_or_else(Revisions::default, |item| Revisions {
            create: revision(item.create_revision()),
            modified: revision(item.mod_revision()),
        }),
        _ => Revisions::default(),
    }
}
