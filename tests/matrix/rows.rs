//! The flows, one a row: what is there before, and what is asked then. What is wanted in the end is what the user
//! writes down with each answer: see [`User`].

use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use kilonova_proto::types::v1::server_group::Policy;
use kilonova_runtime::agent::simulated::FailRule;
use kilonova_runtime::config::Period;
use kilonova_tests::Plan;
use kilonova_tests::checker::Want;
use kilonova_tests::user::User;
use tokio::time::sleep;

/// The ids that the first part hands to the second.
pub type Ids = Vec<String>;

/// One flow.
#[derive(Clone, Copy)]
pub struct Row {
    /// What is asked.
    pub name: &'static str,
    /// What is set otherwise than in other rows.
    pub adjust: fn(&mut Plan),
    /// What is there before. Nothing fails yet.
    pub prepare: fn(User) -> BoxFuture<'static, Ids>,
    /// Whether the host of the first that is there is gone when it is asked, and back once that is done.
    pub host_leaves: bool,
    /// What is asked. Here it fails.
    pub act: fn(User, Ids) -> BoxFuture<'static, ()>,
}

impl Row {
    const fn without_its_host(self) -> Self {
        Self { host_leaves: true, ..self }
    }
}

/// Writes a row: `row!("name", |u| prepare, |u, ids| act)`.
macro_rules! row {
    ($name:literal, |$u:ident| $prepare:expr, |$user:ident, $ids:ident| $act:expr) => {
        row!($name, |_| {}, |$u| $prepare, |$user, $ids| $act)
    };
    ($name:literal, $adjust:expr, |$u:ident| $prepare:expr, |$user:ident, $ids:ident| $act:expr) => {
        Row {
            name: $name,
            adjust: $adjust,
            prepare: |$u| async move { $prepare }.boxed(),
            host_leaves: false,
            act: |$user, $ids| async move { $act }.boxed(),
        }
    };
}

/// All of them.
pub const ROWS: &[Row] = &[
    row!("create one", |_u| vec![], |u, _ids| _ = create(&u, 1).await),
    row!("create three", |_u| vec![], |u, _ids| _ = create(&u, 3).await),
    row!("delete at once", |_u| vec![], |u, _ids| {
        let ids = create(&u, 1).await;
        u.delete(&ids[0]).await.unwrap();
    }),
    row!(
        "delete while it is built",
        |plan| {
            plan.compute.driver.latency = Period::from_millis(300);
            plan.compute.driver.latency_jitter = Period::from_millis(0);
        },
        |_u| vec![],
        |u, _ids| {
            let id = create(&u, 1).await.remove(0);
            until_spawning(&u, &id).await;
            u.delete(&id).await.unwrap();
        }
    ),
    row!("delete", |u| vec![instance(&u).await], |u, ids| u.delete(&ids[0]).await.unwrap()),
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
    row!("create volume", |_u| vec![], |u, _ids| _ = u.create_volume("data").await.unwrap()),
    row!("delete volume", |u| vec![volume(&u).await], |u, ids| u.delete_volume(&ids[0]).await.unwrap()),
    row!("extend", |u| vec![volume(&u).await], |u, ids| u.extend(&ids[0], 3).await.unwrap()),
    row!("attach", |u| vec![instance(&u).await, volume(&u).await], |u, ids| {
        u.attach(&ids[0], &ids[1]).await.unwrap();
    }),
    row!("detach", |u| attached(&u).await, |u, ids| u.detach(&ids[0], &ids[1]).await.unwrap()),
    row!("delete with a volume", |u| attached(&u).await, |u, ids| {
        u.delete(&ids[0]).await.unwrap();
        u.wants(&ids[1], Want::State("AVAILABLE"));
    }),
    row!("create and delete", |_u| vec![], |u, _ids| {
        let id = instance(&u).await;
        u.delete(&id).await.unwrap();
    }),
    row!("stop and start", |u| vec![instance(&u).await], |u, ids| {
        u.stop(&ids[0]).await.unwrap();
        until_instance(&u, &ids[0], "STOPPED").await;
        u.start(&ids[0]).await.unwrap();
    }),
    row!("attach and detach", |u| vec![instance(&u).await, volume(&u).await], |u, ids| {
        u.attach(&ids[0], &ids[1]).await.unwrap();
        until_volume(&u, &ids[1], "IN_USE").await;
        u.detach(&ids[0], &ids[1]).await.unwrap();
    }),
    row!(
        "a member of a group",
        |u| {
            let group = u.group(Policy::AntiAffinity).await.unwrap();
            let first = u.create("member", 1, &group).await.unwrap().remove(0);
            until_instance(&u, &first, "ACTIVE").await;
            vec![group]
        },
        |u, ids| _ = u.create("member", 1, &ids[0]).await.unwrap()
    ),
    row!(
        "the first host fails",
        |plan| plan.compute.driver.fail = vec![FailRule { name: "unlucky".into(), attempts: 1 }],
        |_u| vec![],
        |u, _ids| _ = u.create("unlucky", 1, "").await.unwrap()
    ),
    row!(
        "every host fails",
        |plan| plan.compute.driver.fail = vec![FailRule { name: "doomed".into(), attempts: 99 }],
        |_u| vec![],
        |u, _ids| {
            let id = u.create("doomed", 1, "").await.unwrap().remove(0);
            u.wants(&id, Want::State("ERROR"));
        }
    ),
    row!(
        "an attach fails",
        |plan| plan.compute.driver.attach_fail = vec![FailRule { name: "vm".into(), attempts: 99 }],
        |u| vec![instance(&u).await, volume(&u).await],
        |u, ids| {
            u.attach(&ids[0], &ids[1]).await.unwrap();
            u.wants(&ids[1], Want::State("AVAILABLE"));
        }
    ),
    row!("rebuild", |u| vec![instance(&u).await], |u, ids| u.rebuild(&ids[0]).await.unwrap()),
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
    row!("evacuate", |u| vec![instance(&u).await], |u, ids| evacuate(&u, &ids[0]).await).without_its_host(),
    row!("evacuate with a volume", |u| attached(&u).await, |u, ids| evacuate(&u, &ids[0]).await)
        .without_its_host(),
    row!("its host is back while it is evacuated", |u| attached(&u).await, |u, ids| {
        u.evacuate(&ids[0]).await.unwrap();
    })
    .without_its_host(),
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
];

async fn create(user: &User, count: u32) -> Ids {
    user.create("vm", count, "").await.unwrap()
}

async fn instance(user: &User) -> String {
    let id = create(user, 1).await.remove(0);
    until_instance(user, &id, "ACTIVE").await;
    id
}

async fn volume(user: &User) -> String {
    let id = user.create_volume("data").await.unwrap();
    until_volume(user, &id, "AVAILABLE").await;
    id
}

/// An instance and the volume it has.
async fn attached(user: &User) -> Ids {
    let ids = vec![instance(user).await, volume(user).await];
    user.attach(&ids[0], &ids[1]).await.unwrap();
    until_volume(user, &ids[1], "IN_USE").await;
    ids
}

/// An instance that was moved, and the volume it has.
async fn resized(user: &User) -> Ids {
    let ids = attached(user).await;
    user.resize(&ids[0], Some("double")).await.unwrap();
    until_instance(user, &ids[0], "RESIZED").await;
    ids
}

/// A volume and its snapshot.
async fn kept(user: &User) -> Ids {
    let volume = volume(user).await;
    let id = user.snapshot(&volume).await.unwrap();
    while user.snapshot_state(&id).await.as_deref() != Some("AVAILABLE") {
        sleep(Duration::from_millis(5)).await;
    }
    vec![volume, id]
}

/// Evacuates an instance, to the end.
async fn evacuate(user: &User, id: &str) {
    user.evacuate(id).await.unwrap();
    while user.instance_outcome(id).await.as_deref() != Some("SUCCEEDED") {
        sleep(Duration::from_millis(5)).await;
    }
}

async fn until_instance(user: &User, id: &str, state: &str) {
    while user.instance_state(id).await.as_deref() != Some(state) {
        sleep(Duration::from_millis(5)).await;
    }
}

/// Until its host was asked for it, or has made it.
async fn until_spawning(user: &User, id: &str) {
    while user.instance_task(id).await.is_none_or(|task| task == "SCHEDULING") {
        sleep(Duration::from_millis(5)).await;
    }
    // The command follows what says so.
    sleep(Duration::from_millis(50)).await;
}

async fn until_volume(user: &User, id: &str, state: &str) {
    while user.volume_state(id).await.as_deref() != Some(state) {
        sleep(Duration::from_millis(5)).await;
    }
}
