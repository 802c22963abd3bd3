//! What is asked of an instance where it is.

use kilonova_runtime::agent::simulated::FailRule;
use kilonova_tests::checker::Want;

use super::Row;
use super::steps::{instance, until_instance};

pub const ROWS: &[Row] = &[
    row!("stop", |u| vec![instance(&u).await], |u, ids| u.stop(&ids[0]).await.unwrap()),
    row!(
        "start",
        |u| {
            let id = instance(&u).await;
            u.stop(&id).await.unwrap();
            until_instance(&u, &id, "STOPPED").await;
            vec![id]
        },
        |u, ids| u.start(&ids[0]).await.unwrap()
    ),
    row!("reboot", |u| vec![instance(&u).await], |u, ids| u.reboot(&ids[0], true).await.unwrap()),
    row!("stop and start", |u| vec![instance(&u).await], |u, ids| {
        u.stop(&ids[0]).await.unwrap();
        until_instance(&u, &ids[0], "STOPPED").await;
        u.start(&ids[0]).await.unwrap();
    }),
    row!("rebuild", |u| vec![instance(&u).await], |u, ids| u.rebuild(&ids[0]).await.unwrap()),
    row!(
        "a rebuild fails",
        |plan| plan.compute.driver.rebuild_fail = vec![FailRule { name: "vm".into(), attempts: 99 }],
        |u| vec![instance(&u).await],
        |u, ids| {
            u.rebuild(&ids[0]).await.unwrap();
            u.wants(&ids[0], Want::State("ACTIVE"));
        }
    ),
    row!(
        "a stop fails",
        |plan| plan.compute.driver.power_fail = vec![FailRule { name: "vm".into(), attempts: 99 }],
        |u| vec![instance(&u).await],
        |u, ids| {
            u.stop(&ids[0]).await.unwrap();
            u.wants(&ids[0], Want::State("ACTIVE"));
        }
    ),
];
