//! One group of requests inside one SQLite transaction: each is judged before it writes, so that none
//! spoils another, and sees what those before it wrote.

use kilonova_model::Revision;
use rusqlite::Transaction;

use super::database;
use super::leases::Leases;
use crate::txn::{Op, Revisions, failed_compares};
use crate::{KeyValue, LeaseId, StoreError, Txn, TxnOutcome, WatchEvent};

pub(super) struct Group<'db> {
    tx: Transaction<'db>,
    before: Revision,
    revision: Revision,
    changes: Vec<WatchEvent>,
}

impl<'db> Group<'db> {
    pub(super) fn new(tx: Transaction<'db>, revision: Revision) -> Self {
        Self { tx, before: revision, revision, changes: Vec::new() }
    }

    /// Does one request. The outer error spoils the group; the inner one is that request's own.
    pub(super) fn apply(
        &mut self,
        txn: &Txn,
        leases: &Leases,
    ) -> rusqlite::Result<Result<TxnOutcome, StoreError>> {
        let failed = self.failed_compares(txn)?;
        if !failed.is_empty() {
            return Ok(Ok(TxnOutcome::Conflict { failed, revision: self.revision }));
        }
        let is_gone = |op: &Op| matches!(op, Op::Put { lease: Some(lease), .. } if !leases.is_alive(*lease));
        if txn.ops.iter().any(is_gone) {
            return Ok(Err(StoreError::LeaseGone));
        }
        let next = self.revision.next();
        let changes_before = self.changes.len();
        for op in &txn.ops {
            match op {
                Op::Put { key, value, lease } => {
                    let create_revision = database::put(&self.tx, key, value, *lease, next)?;
                    self.changes.push(WatchEvent::Put(KeyValue {
                        key: key.clone(),
                        value: value.clone(),
                        create_revision,
                        mod_revision: next,
                        leased: lease.is_some(),
                    }));
                }
                Op::Delete { key } => self.delete(key, next)?,
            }
        }
        self.advance(changes_before);
        Ok(Ok(TxnOutcome::Committed { revision: self.revision }))
    }

    /// Deletes the keys of a lease.
    pub(super) fn end_lease(&mut self, lease: LeaseId) -> rusqlite::Result<()> {
        let next = self.revision.next();
        let changes_before = self.changes.len();
        for key in database::keys_of(&self.tx, lease)? {
            self.delete(&key, next)?;
        }
        self.advance(changes_before);
        Ok(())
    }

    /// Writes the counter; what is left is the commit itself.
    pub(super) fn finish(self) -> rusqlite::Result<(Transaction<'db>, Revision, Vec<WatchEvent>)> {
        if self.revision != self.before {
            database::set_revision(&self.tx, self.revision)?;
        }
        Ok((self.tx, self.revision, self.changes))
    }

    fn failed_compares(&self, txn: &Txn) -> rusqlite::Result<Vec<usize>> {
        let mut found = Vec::<(&str, Revisions)>::with_capacity(txn.compares.len());
        for compare in &txn.compares {
            found.push((compare.key(), database::revisions_of(&self.tx, compare.key())?));
        }
        Ok(failed_compares(&txn.compares, |key| {
            found.iter().find(|(k, _)| *k == key).map_or_else(Revisions::default, |(_, revisions)| *revisions)
        }))
    }

    fn delete(&mut self, key: &str, revision: Revision) -> rusqlite::Result<()> {
        if database::delete(&self.tx, key)? {
            self.changes.push(WatchEvent::Delete { key: key.to_owned(), revision });
        }
        Ok(())
    }

    fn advance(&mut self, changes_before: usize) {
        if self.changes.len() > changes_before {
            self.revision = self.revision.next();
        }
    }
}
