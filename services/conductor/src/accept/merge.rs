//! Which of the requests that wait together share a transaction, and who is to blame when it fails: pure decisions.

use kilonova_model::{Error, ProjectId, Revision};
use kilonova_proto::conductor::v1::UsageRecord;
use kilonova_proto::types::v1::{QuotaLimits, QuotaUsage};
use kilonova_store::keys::Keys;
use kilonova_store::txn::{MAX_TXN_BYTES, MAX_TXN_OPS};
use kilonova_store::{Compare, Txn};
use prost::Message;

use super::Request;
use crate::quota;

/// The compares of a basis.
const BASIS_COMPARES: usize = 2;
/// The operations of a basis.
const BASIS_OPS: usize = 1;
/// More than its keys and values take.
const BASIS_BYTES: usize = 4 * 1024;

/// One request as it waits.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The request.
    pub request: Request,
    /// What it takes of the quota.
    pub wanted: QuotaUsage,
    /// What it stores, and that none of it is there.
    pub txn: Txn,
}

/// What requests of a project are judged on.
#[derive(Debug, Clone, PartialEq)]
pub struct Basis {
    /// What it uses.
    pub used: QuotaUsage,
    /// The revision of that.
    pub used_at: Revision,
    /// What it may use.
    pub limits: QuotaLimits,
    /// The revision of that; 0 for the default ones.
    pub limits_at: Revision,
}

impl Basis {
    /// What is used with this too, if that may be.
    pub fn with(&self, project: &ProjectId, wanted: &QuotaUsage) -> Result<QuotaUsage, Error> {
        quota::check(project.as_str(), &self.limits, &self.used, wanted)?;
        Ok(quota::sum(&self.used, wanted))
    }

    /// Writes what is used now, if all is still as it was judged on.
    #[must_use]
    pub fn count(&self, keys: &Keys, project: &ProjectId, used: &QuotaUsage) -> Txn {
        let key = keys.usage(project);
        Txn::new()
            .when(Compare::ModRevision(key.clone(), self.used_at))
            .when(Compare::ModRevision(keys.quota(project), self.limits_at))
            .put(key, UsageRecord { usage: Some(*used) }.encode_to_vec())
    }
}

/// What becomes of requests that wait together. Those it does not name wait on.
#[derive(Debug, Default)]
pub struct Choice {
    /// Which share the transaction, in the order they came.
    pub taken: Vec<usize>,
    /// Which are refused, if the basis and those taken hold.
    pub refused: Vec<(usize, Error)>,
    /// What is used with all that are taken.
    pub used: QuotaUsage,
}

/// Judges requests as if they came one after the other, as many as one transaction takes. Of equal ids the first is
/// judged and the others wait: they are answered as it was.
pub fn choose<'a>(project: &ProjectId, basis: &Basis, asks: impl IntoIterator<Item = &'a Ask>) -> Choice {
    let mut now = basis.clone();
    let mut choice = Choice::default();
    let mut ids = std::collections::HashSet::new();
    let (mut compares, mut ops, mut bytes) = (BASIS_COMPARES, BASIS_OPS, BASIS_BYTES);
    for (index, ask) in asks.into_iter().enumerate() {
        if ask.request.id.as_ref().is_some_and(|id| !ids.insert(id)) {
            continue;
        }
        let used = match now.with(project, &ask.wanted) {
            Ok(used) => used,
            Err(error) => {
                choice.refused.push((index, error));
                continue;
            }
        };
        compares += ask.txn.compares.len();
        ops += ask.txn.ops.len();
        bytes += ask.txn.bytes();
        let is_full = compares > MAX_TXN_OPS || ops > MAX_TXN_OPS || bytes > MAX_TXN_BYTES;
        // One that is too large by itself is the store's to refuse.
        if is_full && !choice.taken.is_empty() {
            break;
        }
        choice.taken.push(index);
        now.used = used;
    }
    choice.used = now.used;
    choice
}

/// Whose compares failed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Blame {
    /// The basis is not what it was.
    pub basis: bool,
    /// Something that these store is there already, by their position among those taken.
    pub asks: Vec<usize>,
}

/// Finds whose compares failed in a transaction of the basis and then of those taken, with so many compares each.
pub fn blame(failed: &[usize], compares: impl IntoIterator<Item = usize>) -> Blame {
    let mut blame = Blame { basis: failed.iter().any(|index| *index < BASIS_COMPARES), asks: Vec::new() };
    let mut start = BASIS_COMPARES;
    for (position, count) in compares.into_iter().enumerate() {
        if failed.iter().any(|index| (start..start + count).contains(index)) {
            blame.asks.push(position);
        }
        start += count;
    }
    blame
}

#[cfg(test)]
#[path = "merge_tests.rs"]
mod tests;
