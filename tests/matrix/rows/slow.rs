//! Drivers that are slow, or fail, at what they do: each verb of them.

use std::collections::BTreeMap;

use kilonova_compute::config::Verb;
use kilonova_model::ServiceKind::Compute;
use kilonova_runtime::agent::simulated::{FailRule, VerbConfig};
use kilonova_runtime::config::Period;
use kilonova_tests::Plan;
use kilonova_tests::checker::Want;
use kilonova_volume::config::Verb as StorageVerb;

use super::Row;
use super::steps::{attached, create, evacuate, in_the_end, instance, resized, until_accepted, volume};

/// Every name, for as many attempts.
fn all(attempts: u32) -> Vec<FailRule> {
    vec![FailRule { name: "*".into(), attempts }]
}

fn slow(milliseconds: u64) -> VerbConfig {
    VerbConfig { latency: Some(Period::from_millis(milliseconds)), ..VerbConfig::default() }
}

/// What is removed goes on running for a while.
fn slow_removals(plan: &mut Plan) {
    plan.compute.driver.verbs = BTreeMap::from([(Verb::Destroy, slow(300))]);
}

/// What fails once, and then not.
fn once() -> VerbConfig {
    VerbConfig { fail: all(99), times: 1, ..VerbConfig::default() }
}

pub const ROWS: &[Row] = &[
    row!("a removal is slow", slow_removals, |u| attached(&u).await, |u, ids| {
        u.delete(&ids[0]).await.unwrap();
        u.wants(&ids[1], Want::State("AVAILABLE"));
    }),
    row!(
        "a removal fails once",
        |plan| plan.compute.driver.verbs = BTreeMap::from([(Verb::Destroy, once())]),
        |u| attached(&u).await,
        |u, ids| {
            u.delete(&ids[0]).await.unwrap();
            u.wants(&ids[1], Want::State("AVAILABLE"));
        }
    ),
    row!("a removal is slow after a confirm", slow_removals, |u| resized(&u).await, |u, ids| {
        u.end_resize(&ids[0], true).await.unwrap();
    }),
    row!("a removal is slow after a revert", slow_removals, |u| resized(&u).await, |u, ids| {
        u.end_resize(&ids[0], false).await.unwrap();
    }),
    row!("a removal is slow after a live migration", slow_removals, |u| attached(&u).await, |u, ids| {
        u.live_migrate(&ids[0]).await.unwrap();
    }),
    row!(
        "a removal is slow on a host that is back",
        slow_removals,
        |u, hand| {
            let ids = attached(&u).await;
            let host = hand.lose_host_of(&u, &ids[0]).await;
            vec![ids[0].clone(), host]
        },
        |u, ids, hand| {
            evacuate(&u, &ids[0]).await;
            hand.back(Compute, &ids[1]);
        }
    ),
    row!(
        "no place to evacuate to, and a removal is slow on its host that is back",
        |plan| {
            plan.computes = 1;
            plan.compute.driver.verbs = BTreeMap::from([(Verb::Destroy, slow(2000))]);
        },
        |u, hand| {
            let id = instance(&u).await;
            let host = hand.lose_host_of(&u, &id).await;
            vec![id, host]
        },
        |u, ids, hand| {
            until_accepted(|| u.evacuate(&ids[0])).await;
            u.wants(&ids[0], Want::Present);
            hand.back(Compute, &ids[1]);
        }
    ),
    row!(
        "the first host's guest runs, and the host says that it failed",
        |plan| {
            let lost = VerbConfig { lose: all(1), ..VerbConfig::default() };
            plan.compute.driver.verbs = BTreeMap::from([(Verb::Spawn, lost), (Verb::Destroy, slow(500))]);
        },
        |_u| vec![],
        |u, _ids| _ = create(&u, 1).await
    ),
    row!(
        "the first host is too slow",
        |plan| {
            // Of three hosts one at least is in time: each takes between nothing and three times as long as it has.
            plan.compute.driver.latency = Period::from_millis(1500);
            plan.compute.driver.latency_jitter = Period::from_millis(1500);
            plan.compute.driver.verbs = BTreeMap::from([(Verb::Destroy, slow(500))]);
            plan.conductor.build_timeout = Period::from_secs(1);
        },
        |_u| vec![],
        |u, _ids| {
            let id = create(&u, 1).await.remove(0);
            u.wants(&id, Want::Present);
        }
    ),
    row!(
        "a detach fails",
        |plan| {
            let fails = VerbConfig { fail: all(99), ..VerbConfig::default() };
            plan.compute.driver.verbs = BTreeMap::from([(Verb::Detach, fails)]);
        },
        |u| attached(&u).await,
        |u, ids| {
            u.detach(&ids[0], &ids[1]).await.unwrap();
            u.wants(&ids[1], Want::State("IN_USE"));
        }
    ),
    row!(
        "a detach fails once, and is asked again",
        |plan| plan.compute.driver.verbs = BTreeMap::from([(Verb::Detach, once())]),
        |u| attached(&u).await,
        |u, ids| {
            // A host that was killed fails once more.
            in_the_end(&u, &ids[0], || u.detach(&ids[0], &ids[1])).await;
        }
    ),
    row!(
        "delete while an export is slow",
        |plan| plan.volume.driver.verbs = BTreeMap::from([(StorageVerb::Export, slow(500))]),
        |u| vec![instance(&u).await, volume(&u).await],
        |u, ids| {
            u.attach(&ids[0], &ids[1]).await.unwrap();
            u.delete(&ids[0]).await.unwrap();
            u.wants(&ids[1], Want::State("AVAILABLE"));
        }
    ),
    row!(
        "an unexport is slow",
        |plan| plan.volume.driver.verbs = BTreeMap::from([(StorageVerb::Unexport, slow(500))]),
        |u| attached(&u).await,
        |u, ids| _ = u.detach(&ids[0], &ids[1]).await.unwrap()
    ),
    row!(
        "an unexport fails once",
        |plan| plan.volume.driver.verbs = BTreeMap::from([(StorageVerb::Unexport, once())]),
        |u| attached(&u).await,
        |u, ids| _ = u.detach(&ids[0], &ids[1]).await.unwrap()
    ),
    row!(
        "a take-over is done and said to have failed",
        |plan| {
            let lost = VerbConfig { lose: all(99), ..VerbConfig::default() };
            plan.compute.driver.verbs = BTreeMap::from([(Verb::TakeOver, lost), (Verb::Destroy, slow(300))]);
        },
        |u| attached(&u).await,
        |u, ids| {
            u.resize(&ids[0], None).await.unwrap();
            u.wants(&ids[0], Want::Present);
        }
    ),
    row!(
        "an attach is slow, and its instance is deleted",
        |plan| plan.compute.driver.verbs = BTreeMap::from([(Verb::Attach, slow(500))]),
        |u| vec![instance(&u).await, volume(&u).await],
        |u, ids| {
            u.attach(&ids[0], &ids[1]).await.unwrap();
            u.delete(&ids[0]).await.unwrap();
            u.wants(&ids[1], Want::State("AVAILABLE"));
        }
    ),
];
