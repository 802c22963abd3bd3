//! Transactions: compares that must all hold, and the operations then done at once.

use std::collections::BTreeSet;

use bytes::Bytes;
use kilonova_model::Revision;

use crate::{KeyValue, LeaseId, StoreError};

/// The longest key.
pub const MAX_KEY_BYTES: usize = 512;
/// The most compares, and the most operations, of one transaction.
pub const MAX_TXN_OPS: usize = 128;
/// The most bytes of keys and values in one transaction.
pub const MAX_TXN_BYTES: usize = 1024 * 1024;

const KEY_RULE: &str = "1 to 512 bytes of text without spaces and control characters, not starting with '/'";

/// A condition on one key. An absent key has the create and mod revision 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// The key does not exist.
    Absent(String),
    /// The key exists.
    Exists(String),
    /// The key was last put at this revision.
    ModRevision(String, Revision),
    /// The key exists since this revision.
    CreateRevision(String, Revision),
}

impl Compare {
    /// The key it looks at.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Absent(key)
            | Self::Exists(key)
            | Self::ModRevision(key, _)
            | Self::CreateRevision(key, _) => key,
        }
    }

    pub(crate) fn holds(&self, found: Revisions) -> bool {
        match self {
            Self::Absent(_) => found.create == Revision(0),
            Self::Exists(_) => found.create != Revision(0),
            Self::ModRevision(_, revision) => found.modified == *revision,
            Self::CreateRevision(_, revision) => found.create == *revision,
        }
    }
}

/// A key's revisions, both 0 when it is absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Revisions {
    pub(crate) create: Revision,
    pub(crate) modified: Revision,
}

/// The indexes of the compares that do not hold, given what each one's key looks like.
pub(crate) fn failed_compares(compares: &[Compare], found: impl Fn(&str) -> Revisions) -> Vec<usize> {
    compares.iter().enumerate().filter(|(_, c)| !c.holds(found(c.key()))).map(|(index, _)| index).collect()
}

/// A change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Writes the key. The key then belongs to this lease, or to none.
    Put {
        /// The key.
        key: String,
        /// Its new value.
        value: Bytes,
        /// The lease it goes away with.
        lease: Option<LeaseId>,
    },
    /// Deletes the key, if it is there.
    Delete {
        /// The key.
        key: String,
    },
}

impl Op {
    /// The key it changes.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// A transaction, built up: `Txn::new().when(Compare::Absent(key)).put(key, value)`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    /// All must hold.
    pub compares: Vec<Compare>,
    /// Then all are done. At most one for each key.
    pub ops: Vec<Op>,
}

impl Txn {
    /// No conditions and nothing to do.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a condition.
    #[must_use]
    pub fn when(mut self, compare: Compare) -> Self {
        self.compares.push(compare);
        self
    }

    /// Only if the key does not exist.
    #[must_use]
    pub fn when_absent(self, key: impl Into<String>) -> Self {
        self.when(Compare::Absent(key.into()))
    }

    /// Only if the key is still as it was read.
    #[must_use]
    pub fn when_unchanged(self, read: &KeyValue) -> Self {
        self.when(Compare::ModRevision(read.key.clone(), read.mod_revision))
    }

    /// Writes a key.
    #[must_use]
    pub fn put(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.ops.push(Op::Put { key: key.into(), value: value.into(), lease: None });
        self
    }

    /// Writes a key that goes away with a lease.
    #[must_use]
    pub fn put_leased(mut self, key: impl Into<String>, value: impl Into<Bytes>, lease: LeaseId) -> Self {
        self.ops.push(Op::Put { key: key.into(), value: value.into(), lease: Some(lease) });
        self
    }

    /// Deletes a key.
    #[must_use]
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.ops.push(Op::Delete { key: key.into() });
        self
    }

    /// All of another transaction too.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.compares.extend(other.compares);
        self.ops.extend(other.ops);
        self
    }

    /// Checks what no store takes, so that both stores refuse the same transactions.
    pub(crate) fn validate(&self) -> Result<(), StoreError> {
        check_limit("the number of compares", self.compares.len(), MAX_TXN_OPS)?;
        check_limit("the number of operations", self.ops.len(), MAX_TXN_OPS)?;
        check_limit("the transaction", self.bytes(), MAX_TXN_BYTES)?;
        for compare in &self.compares {
            validate_key(compare.key())?;
        }
        let mut written = BTreeSet::new();
        for op in &self.ops {
            validate_key(op.key())?;
            if !written.insert(op.key()) {
                return Err(StoreError::DuplicateKey { key: op.key().to_owned() });
            }
        }
        Ok(())
    }

    /// The bytes of its keys and values, as [`MAX_TXN_BYTES`] counts them.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let compares = self.compares.iter().map(|c| c.key().len());
        let ops = self.ops.iter().map(|op| match op {
            Op::Put { key, value, .. } => key.len() + value.len(),
            Op::Delete { key } => key.len(),
        });
        compares.chain(ops).sum()
    }
}

/// How a transaction ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TxnOutcome {
    /// Done, and durable.
    Committed {
        /// The store's revision after it: the mod revision of every key it put.
        revision: Revision,
    },
    /// Nothing done: a compare did not hold.
    Conflict {
        /// Which compares failed, as indexes into [`Txn::compares`].
        failed: Vec<usize>,
        /// The revision at which they failed.
        revision: Revision,
    },
}

impl TxnOutcome {
    /// The revision of the commit; none on conflict.
    #[must_use]
    pub fn committed(&self) -> Option<Revision> {
        match self {
            Self::Committed { revision } => Some(*revision),
            Self::Conflict { .. } => None,
        }
    }
}

fn check_limit(what: &'static str, size: usize, limit: usize) -> Result<(), StoreError> {
    if size > limit { Err(StoreError::TooLarge { what, size, limit }) } else { Ok(()) }
}

/// Refuses what is not a key.
pub(crate) fn validate_key(key: &str) -> Result<(), StoreError> {
    if key.is_empty() { Err(invalid(key)) } else { validate_prefix(key) }
}

/// Refuses what no key can start with. The empty prefix is every key.
pub(crate) fn validate_prefix(prefix: &str) -> Result<(), StoreError> {
    let fine = prefix.len() <= MAX_KEY_BYTES
        && !prefix.starts_with('/')
        && !prefix.contains(|c: char| c.is_control() || c.is_whitespace());
    if fine { Ok(()) } else { Err(invalid(prefix)) }
}

fn invalid(key: &str) -> StoreError {
    StoreError::InvalidKey { key: key.chars().take(80).collect(), rule: KEY_RULE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_every_compare_that_fails() {
        let compares = [
            Compare::Absent("a".into()),
            Compare::Exists("b".into()),
            Compare::ModRevision("a".into(), Revision(7)),
            Compare::CreateRevision("a".into(), Revision(5)),
            Compare::ModRevision("b".into(), Revision(0)),
        ];
        let a = Revisions { create: Revision(5), modified: Revision(8) };
        let found = |key: &str| if key == "a" { a } else { Revisions::default() };
        assert_eq!(failed_compares(&compares, found), vec![0, 1, 2]);
    }

    #[test]
    fn refuses_what_no_store_takes() {
        let too_long = "k".repeat(MAX_KEY_BYTES + 1);
        for key in ["", "/a", "a b", "a\u{0}", "a\n", &too_long] {
            let error = Txn::new().put(key, "").validate().unwrap_err();
            assert!(matches!(error, StoreError::InvalidKey { .. }), "{key:?}: {error}");
        }
        let twice = Txn::new().put("k", "1").delete("k").validate();
        assert_eq!(twice, Err(StoreError::DuplicateKey { key: "k".into() }));
        let big = Txn::new().put("k", vec![0; MAX_TXN_BYTES]).validate();
        assert!(matches!(big, Err(StoreError::TooLarge { .. })));
        let many = (0..=MAX_TXN_OPS).fold(Txn::new(), |txn, n| txn.delete(n.to_string())).validate();
        assert!(matches!(many, Err(StoreError::TooLarge { size: 129, limit: 128, .. })));
    }
}
