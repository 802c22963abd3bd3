//! The operator's word that a host is off: that nothing on it runs.
//!
//! It is about the incarnation that last registered, and is given while that is not registered any more: the transaction that
//! stores it compares that. When the host registers again, the word is void by itself.

use kilonova_model::{Error, Reason};
use kilonova_proto::conductor::v1::HostRecord;
use kilonova_proto::types::v1 as pb;
use kilonova_store::Txn;

use super::{HostId, Hosts, Once};

/// Whether an operator said of the incarnation that last registered that it is off.
#[must_use]
pub fn is_fenced(record: &HostRecord) -> bool {
    record.fenced_epoch != 0 && record.host.as_ref().is_some_and(|host| host.epoch == record.fenced_epoch)
}

impl Hosts {
    /// Stores the word, or takes it back.
    pub async fn set_fenced(&self, once: &Once<'_>, id: &HostId, fenced: bool) -> Result<pb::Host, Error> {
        let key = self.db.keys.endpoint(id.0, &id.1);
        let is_there = || async {
            let members = self.callers.peers.registry().members(id.0).current();
            let (found, _) = self.db.store.get(&key).await.map_err(crate::db::store_error)?;
            Ok::<_, Error>(found.is_some() || members.callable(&id.1).is_some())
        };
        if fenced && once.acceptor.replay(&once.request).await?.is_none() && is_there().await? {
            let message = format!(
                "{} is registered: switch it off first, and wait until it has left the registry",
                id.1
            );
            return Err(Error::new(Reason::InvalidState, message).with("host", &id.1));
        }
        let with = if fenced { Txn::new().when_absent(key.clone()) } else { Txn::new() };
        let entry = self
            .modify(id, Some(once), &with, |record| {
                let epoch = record.host.as_ref().map_or(0, |host| host.epoch);
                record.fenced_epoch = if fenced { epoch } else { 0 };
                Ok(())
            })
            .await?;
        Ok(self.shown(&entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_is_void_once_the_host_registers_again() {
        let record = |fenced_epoch, epoch| HostRecord {
            host: Some(pb::Host { epoch, ..Default::default() }),
            fenced_epoch,
            ..Default::default()
        };
        assert!(is_fenced(&record(7, 7)));
        assert!(!is_fenced(&record(7, 8)) && !is_fenced(&record(0, 0)) && !is_fenced(&HostRecord::default()));
    }
}
