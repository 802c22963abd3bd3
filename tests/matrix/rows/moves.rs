//! From one host to another, both of which are there.

use kilonova_runtime::agent::simulated::FailRule;
use kilonova_tests::checker::Want;

use super::Row;
use super::steps::{attached, instance, resized};

pub const ROWS: &[Row] = &[
    row!("resize", |u| vec![instance(&u).await], |u, ids| {
        u.resize(&ids[0], Some("double")).await.unwrap();
    }),
    row!("migrate with a volume", |u| attached(&u).await, |u, ids| {
        u.resize(&ids[0], None).await.unwrap();
    }),
    row!("live migrate with a volume", |u| attached(&u).await, |u, ids| {
        u.live_migrate(&ids[0]).await.unwrap();
    }),
    row!("confirm", |u| resized(&u).await, |u, ids| u.end_resize(&ids[0], true).await.unwrap()),
    row!("revert with a volume", |u| resized(&u).await, |u, ids| {
        u.end_resize(&ids[0], false).await.unwrap();
    }),
    row!("delete what is resized", |u| resized(&u).await, |u, ids| {
        u.delete(&ids[0]).await.unwrap();
        u.wants(&ids[1], Want::State("AVAILABLE"));
    }),
    row!("delete while it is resized", |u| attached(&u).await, |u, ids| {
        u.resize(&ids[0], None).await.unwrap();
        u.delete(&ids[0]).await.unwrap();
        u.wants(&ids[1], Want::State("AVAILABLE"));
    }),
    row!(
        "a hand-over fails",
        |plan| plan.compute.driver.hand_over_fail = vec![FailRule { name: "vm".into(), attempts: 99 }],
        |u| attached(&u).await,
        |u, ids| {
            u.resize(&ids[0], Some("double")).await.unwrap();
            u.wants(&ids[0], Want::State("ACTIVE"));
        }
    ),
    row!(
        "a take-over fails",
        |plan| plan.compute.driver.take_over_fail = vec![FailRule { name: "vm".into(), attempts: 99 }],
        |u| attached(&u).await,
        |u, ids| {
            u.resize(&ids[0], None).await.unwrap();
            u.wants(&ids[0], Want::State("ACTIVE"));
        }
    ),
];
