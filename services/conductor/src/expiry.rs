//! Forgetting request ids once their time is over.

use std::time::{Duration, SystemTime};

use kilonova_model::Error;
use kilonova_model::time::system_time;
use kilonova_proto::conductor::v1::RequestRecord;
use kilonova_store::{Compare, Txn};

use crate::db::{Db, decode, store_error};
use crate::shards::Shards;

/// How many requests are looked at together.
const PAGE: usize = 100;
/// Whoever owns this name's shard forgets the requests of the whole cell.
const DUTY: &str = "requests";

/// Forgets for ever, whenever this conductor has the duty.
pub async fn run(db: Db, shards: Shards, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        if !shards.owns(&DUTY) {
            continue;
        }
        match forget(&db, SystemTime::now()).await {
            Ok(0) => {}
            Ok(forgotten) => tracing::debug!(forgotten, "forgot old requests"),
            Err(error) => tracing::warn!(%error, "cannot forget old requests yet"),
        }
    }
}

/// Forgets what is over; says how many.
pub async fn forget(db: &Db, now: SystemTime) -> Result<usize, Error> {
    let prefix = db.keys.all_requests();
    let (mut after, mut forgotten) = (None, 0);
    loop {
        let page = db.store.list(&prefix, after.as_deref(), PAGE).await.map_err(store_error)?;
        let mut txn = Txn::new();
        for item in &page.items {
            let expiry = decode::<RequestRecord>(item)?.record.expire_time;
            if expiry.as_ref().and_then(system_time).is_some_and(|expiry| expiry <= now) {
                txn = txn.when(Compare::ModRevision(item.key.clone(), item.mod_revision)).delete(&item.key);
            }
        }
        let over = txn.ops.len();
        // A request is never changed once it is stored: a conflict means that another conductor forgets too.
        if over > 0 && db.commit(txn).await?.committed().is_some() {
            forgotten += over;
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(forgotten),
        }
    }
}
