//! One attempt to put a member's record: read, decide, put under a condition.

use std::time::Duration;

use kilonova_model::{Epoch, Revision};
use kilonova_store::keys::Keys;
use kilonova_store::{Compare, KeyValue, LeaseId, SharedStore, StoreError, Txn, TxnOutcome};

use super::record::{self, Endpoint, Member};

/// What the last put left in the store.
pub(super) struct Held {
    pub(super) lease: LeaseId,
    pub(super) epoch: Epoch,
    pub(super) mod_revision: Revision,
}

/// What to do about the record found under the own key.
#[derive(Debug, PartialEq, Eq)]
enum Claim {
    /// Put, under this condition.
    Put(Compare),
    /// Somebody else's: wait for its lease to end.
    Taken,
}

/// Decides. A record with our own address is ours whatever its epoch: we hold the port, so whoever wrote it
/// is gone. A value that is not a record stands for nobody.
fn decide(found: Option<&KeyValue>, member: Option<&Member>, key: &str, addr: &str) -> Claim {
    match (found, member) {
        (None, _) => Claim::Put(Compare::Absent(key.to_owned())),
        (Some(_), Some(member)) if member.addr != addr => Claim::Taken,
        (Some(found), _) => Claim::Put(Compare::ModRevision(key.to_owned(), found.mod_revision)),
    }
}

/// How one attempt to put the record ended.
pub(super) enum Attempt {
    Held(Held),
    Taken(Member),
    /// Changed between reading and putting.
    Again,
}

pub(super) async fn attempt(
    store: &SharedStore,
    keys: &Keys,
    endpoint: &Endpoint,
    ttl: Duration,
    draining: bool,
) -> Result<Attempt, StoreError> {
    let (key, fence) = (
        &keys.endpoint(endpoint.service, &endpoint.host),
        // An operator's word that the host is off: it is not any more.
        keys.fence(endpoint.service, &endpoint.host),
    );
    let (found, revision) = store.get(key).await?;
    let member = found.as_ref().and_then(|found| record::decode(&endpoint.host, &found.value).ok());
    let condition = match (decide(found.as_ref(), member.as_ref(), key, &endpoint.addr), member) {
        (Claim::Put(condition), _) => condition,
        (Claim::Taken, Some(member)) => return Ok(Attempt::Taken(member)),
        (Claim::Taken, None) => return Ok(Attempt::Again),
    };
    let epoch = Epoch(revision.0);
    let lease = store.grant_lease(ttl).await?;
    let value = record::encode(endpoint, epoch, draining);
    match store.txn(Txn::new().when(condition).put_leased(key, value, lease).delete(fence)).await {
        Ok(TxnOutcome::Committed { revision }) => {
            Ok(Attempt::Held(Held { lease, epoch, mod_revision: revision }))
        }
        // It ended before it was used: this process, or the store, stood still that long.
        Err(StoreError::LeaseGone) => {
            tracing::warn!(key, ?ttl, "the lease ended before the record was put; taking another one");
            Ok(Attempt::Again)
        }
        Err(error) => Err(error),
        Ok(TxnOutcome::Conflict { .. }) => {
            // The lease holds nothing; if it cannot be revoked it ends by itself.
            let _ = store.revoke_lease(lease).await;
            Ok(Attempt::Again)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kilonova_model::HostName;

    fn found(value: &str) -> (KeyValue, Option<Member>) {
        let host = HostName::parse("h").unwrap();
        let item = KeyValue {
            key: "k".into(),
            value: value.to_owned().into(),
            create_revision: Revision(4),
            mod_revision: Revision(7),
            leased: true,
        };
        let member = record::decode(&host, &item.value).ok();
        (item, member)
    }

    #[test]
    fn an_absent_or_own_record_is_replaced_and_another_is_not() {
        assert_eq!(decide(None, None, "k", "a:1"), Claim::Put(Compare::Absent("k".into())));
        let unchanged = Claim::Put(Compare::ModRevision("k".into(), Revision(7)));
        let (item, member) = found(r#"{"Addr":"a:1","Metadata":{"epoch":3}}"#);
        assert_eq!(decide(Some(&item), member.as_ref(), "k", "a:1"), unchanged);
        assert_eq!(decide(Some(&item), member.as_ref(), "k", "b:1"), Claim::Taken);
        let (item, member) = found("nonsense");
        assert_eq!(decide(Some(&item), member.as_ref(), "k", "a:1"), unchanged);
    }
}
