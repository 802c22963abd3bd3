//! What the trait promises, tried on both stores.
#![expect(clippy::unwrap_used, reason = "a test that fails may panic")]

mod cases;

use std::sync::Arc;
use std::time::Duration;

use kilonova_store::etcd::{EtcdOptions, EtcdStore};
use kilonova_store::testing::EtcdProcess;
use kilonova_store::{EmbeddedStore, SharedStore};

/// A store to try, and the process behind it.
struct Fixture {
    store: SharedStore,
    _etcd: Option<EtcdProcess>,
}

async fn embedded() -> Option<Fixture> {
    let store = EmbeddedStore::open_temporary().expect("a temporary store opens");
    Some(Fixture { store: Arc::new(store), _etcd: None })
}

async fn etcd() -> Option<Fixture> {
    let etcd = EtcdProcess::start().await.expect("etcd starts")?;
    let options = EtcdOptions { endpoints: vec![etcd.endpoint()], ..EtcdOptions::default() };
    let store = EtcdStore::connect(options).await.expect("etcd answers");
    Some(Fixture { store: Arc::new(store), _etcd: Some(etcd) })
}

macro_rules! conformance {
    ($($case:ident),* $(,)?) => {
        mod on_embedded {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    super::run(super::embedded().await, super::cases::$case).await;
                }
            )*
        }
        mod on_etcd {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    super::run(super::etcd().await, super::cases::$case).await;
                }
            )*
        }
    };
}

async fn run<F: Future<Output = ()>>(fixture: Option<Fixture>, case: impl FnOnce(SharedStore) -> F) {
    let Some(fixture) = fixture else { return };
    let done = tokio::time::timeout(Duration::from_secs(120), case(fixture.store.clone())).await;
    assert!(done.is_ok(), "the case takes too long");
}

conformance!(
    a_conflict_names_the_compares_that_failed,
    revisions_grow_and_mark_the_keys,
    one_of_many_concurrent_writers_wins,
    no_increment_is_lost,
    none_of_many_at_once_spoils_the_others,
    operations_of_a_transaction_are_done_together,
    a_read_sees_every_acknowledged_write,
    a_listing_is_paged_in_key_order,
    a_listing_is_complete_while_others_write,
    bad_requests_are_refused,
    large_values_pass,
    a_watch_starts_with_a_snapshot_and_keeps_to_its_prefix,
    a_watch_has_no_gap_and_no_duplicate,
    a_watch_resumes_after_a_revision,
    a_watch_from_an_unknown_future_starts_over,
    a_slow_watch_holds_up_nobody_and_catches_up,
    a_dropped_watch_ends,
    keys_of_an_expired_lease_are_deleted,
    a_renewed_lease_lives_on,
    a_revoked_lease_takes_its_keys,
    a_key_put_anew_leaves_its_lease,
    a_lease_is_looked_at_only_when_the_compares_hold,
);
