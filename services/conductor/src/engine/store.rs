//! Writes what came of a step, and says where that leaves the pass.

use kilonova_model::Error;
use kilonova_proto::types::v1 as pb;
use kilonova_runtime::reconcile::Next;
use kilonova_store::Txn;

use super::Engine;
use crate::accept;
use crate::agents::Agents;
use crate::cache::Entry;
use crate::placed::Placed;
use crate::records::Written;
use crate::shards::Fence;

/// How one step went.
pub(super) enum Stepped<P> {
    /// Go on with the record as it is now.
    On(Entry<P>),
    /// Stop here.
    Stop(Next),
}

impl<P: Placed, A: Agents<P>> Engine<P, A> {
    pub(super) async fn store(&self, id: P::Id, entry: &Entry<P>, record: P, fence: &Fence) -> Stepped<P> {
        self.store_with(id, entry, record, fence, Txn::new()).await
    }

    pub(super) async fn store_with(
        &self,
        id: P::Id,
        entry: &Entry<P>,
        record: P,
        fence: &Fence,
        with: Txn,
    ) -> Stepped<P> {
        let written = self.records.write(id, entry, record, Some(fence), with).await;
        self.settled(id, written).await
    }

    /// Where a write leaves the pass.
    pub(super) async fn settled(&self, id: P::Id, written: Result<Written<P>, Error>) -> Stepped<P> {
        match written {
            Ok(Written::Stored(entry)) => Stepped::On(entry),
            // What changed it is in memory already, or the watch brings it and with it a new pass.
            Ok(Written::Changed) => match self.records.read(id).await {
                Ok(Some(entry)) => Stepped::On(entry),
                Ok(None) => Stepped::Stop(Next::Done),
                Err(error) => self.store_failed(id, &error),
            },
            Ok(Written::Fenced) => {
                // The next pass stops if the shard is another's now, and goes on under the new right if it is not.
                tracing::info!(%id, "the right to the shard was lost");
                Stepped::Stop(Next::Retry)
            }
            Err(error) => self.store_failed(id, &error),
        }
    }

    pub(super) fn store_failed(&self, id: P::Id, error: &Error) -> Stepped<P> {
        tracing::warn!(%id, %error, "cannot write a step");
        Stepped::Stop(Next::Retry)
    }

    /// What takes this off what the record's project uses.
    pub(super) async fn taken_off(&self, record: &P, less: &pb::QuotaUsage) -> Result<Txn, Error> {
        match accept::project(record.project_id()) {
            Ok(project) if *less != pb::QuotaUsage::default() => {
                accept::take_off(&self.records.db, &project, less).await
            }
            _ => Ok(Txn::new()),
        }
    }
}
