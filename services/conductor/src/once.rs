//! Changes of a record that users ask for: each once for its request id, whoever else changes the record meanwhile.

use async_trait::async_trait;
use kilonova_model::{Error, ProjectId};
use kilonova_proto::types::v1::QuotaUsage;
use kilonova_store::Txn;

use crate::accept::{Acceptor, Request};
use crate::cache::Entry;
use crate::db::conflict;
use crate::placed::Placed;
use crate::records::{Records, Written};
use crate::requests::{Named, stored};

/// How often a request is tried again when somebody else was faster.
const TRIES: usize = 16;

/// What is asked of a record.
#[async_trait]
pub trait Change<P: Placed>: Sync {
    /// The record as it is to be, with what else is to change in the same transaction; or why it is not in a state for it.
    async fn begin(&self, entry: &Entry<P>) -> Result<(P, Txn), Error>;
}

/// Accepts a change of a record, as the store has it.
pub async fn change_once<P: Placed>(
    acceptor: &Acceptor,
    request: &Request,
    records: &Records<P>,
    named: Named<'_, P::Id>,
    change: &impl Change<P>,
) -> Result<Entry<P>, Error> {
    for _ in 0..TRIES {
        if acceptor.replay(request).await?.is_some() {
            return stored(records, named).await;
        }
        let entry = stored(records, named).await?;
        let begun = match named.check(&entry) {
            Ok(()) => change.begin(&entry).await,
            Err(refusal) => Err(refusal),
        };
        let (record, with) = match begun {
            Ok(begun) => begun,
            Err(_) if acceptor.outrun(request).await? => continue,
            Err(error) => return Err(error),
        };
        let with = acceptor.remember(request, vec![named.id.to_string()], with);
        if let Written::Stored(entry) = records.write(named.id, &entry, record, None, with).await? {
            return Ok(entry);
        }
    }
    Err(conflict(&format!("{} {}", P::NOUN, named.id)))
}

/// What counts `more` in a project's usage, if its quota allows it.
pub async fn count(acceptor: &Acceptor, project: &ProjectId, more: &QuotaUsage) -> Result<Txn, Error> {
    if *more == QuotaUsage::default() {
        return Ok(Txn::new());
    }
    let basis = acceptor.basis(project).await?;
    Ok(basis.count(&acceptor.db().keys, project, &basis.with(project, more)?))
}
