//! Volumes, snapshots, and volumes with instances.

use kilonova_runtime::agent::simulated::FailRule;
use kilonova_runtime::config::Period;
use kilonova_tests::checker::Want;

use super::Row;
use super::steps::{attached, instance, kept, until_volume, volume};

pub const ROWS: &[Row] = &[
    row!("create volume", |_u| vec![], |u, _ids| _ = u.create_volume("data").await.unwrap()),
    row!("delete volume", |u| vec![volume(&u).await], |u, ids| u.delete_volume(&ids[0]).await.unwrap()),
    row!("extend", |u| vec![volume(&u).await], |u, ids| u.extend(&ids[0], 3).await.unwrap()),
    row!("attach", |u| vec![instance(&u).await, volume(&u).await], |u, ids| {
        u.attach(&ids[0], &ids[1]).await.unwrap();
    }),
    row!("detach", |u| attached(&u).await, |u, ids| _ = u.detach(&ids[0], &ids[1]).await.unwrap()),
    row!("delete with a volume", |u| attached(&u).await, |u, ids| {
        u.delete(&ids[0]).await.unwrap();
        u.wants(&ids[1], Want::State("AVAILABLE"));
    }),
    row!("attach and detach", |u| vec![instance(&u).await, volume(&u).await], |u, ids| {
        u.attach(&ids[0], &ids[1]).await.unwrap();
        until_volume(&u, &ids[1], "IN_USE").await;
        u.detach(&ids[0], &ids[1]).await.unwrap();
    }),
    row!(
        "an attach fails",
        |plan| plan.compute.driver.attach_fail = vec![FailRule { name: "vm".into(), attempts: 99 }],
        |u| vec![instance(&u).await, volume(&u).await],
        |u, ids| {
            u.attach(&ids[0], &ids[1]).await.unwrap();
            u.wants(&ids[1], Want::State("AVAILABLE"));
        }
    ),
    row!("snapshot", |u| vec![volume(&u).await], |u, ids| _ = u.snapshot(&ids[0]).await.unwrap()),
    row!("delete snapshot", |u| kept(&u).await, |u, ids| {
        u.delete_snapshot(&ids[1]).await.unwrap();
    }),
    row!("volume of a snapshot", |u| kept(&u).await, |u, ids| {
        u.create_volume_of("copy", &ids[1]).await.unwrap();
    }),
    row!(
        "a snapshot fails",
        |plan| plan.volume.driver.snapshot_fail = vec![FailRule { name: "kept".into(), attempts: 99 }],
        |u| vec![volume(&u).await],
        |u, ids| {
            let id = u.snapshot(&ids[0]).await.unwrap();
            u.wants(&id, Want::State("ERROR"));
        }
    ),
    row!(
        "an extend fails",
        |plan| plan.volume.driver.extend_fail = vec![FailRule { name: "data".into(), attempts: 99 }],
        |u| vec![volume(&u).await],
        |u, ids| u.extend(&ids[0], 3).await.unwrap()
    ),
    row!(
        "a snapshot is deleted while a volume is made of it",
        |plan| {
            plan.volume.driver.latency = Period::from_millis(300);
            plan.volume.driver.latency_jitter = Period::from_millis(0);
        },
        |u| kept(&u).await,
        |u, ids| {
            // The volume is made whatever becomes of that: the snapshot is refused, or waits.
            u.create_volume_of("copy", &ids[1]).await.unwrap();
            let _ = u.delete_snapshot(&ids[1]).await;
        }
    ),
];
