//! What a message bus promises, tried on Kilonova's own RPC, over both stores: docs/conformance.md lists every
//! behaviour with its test. The numbers in the comments are that document's.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

/// Runs tests over both stores.
macro_rules! over_both_stores {
    ($($name:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { Box::pin(super::$name(kilonova_tests::Backing::Embedded)).await; })*
        }
        mod etcd {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { Box::pin(super::$name(kilonova_tests::Backing::Etcd)).await; })*
        }
    };
}

mod delivery;
mod document;
mod durability;
mod errors;
mod failover;
mod fake;
mod lifecycle;
mod links;
mod liveness;
mod logs;
mod process;
mod real;
mod replies;
mod routing;
mod scripted;
mod timeouts;
mod versioning;
mod world;
