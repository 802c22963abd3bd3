//! Creates and deletes.

use kilonova_proto::types::v1::server_group::Policy;
use kilonova_runtime::agent::simulated::FailRule;
use kilonova_runtime::config::Period;
use kilonova_tests::checker::Want;

use super::Row;
use super::steps::{create, instance, until_instance, until_spawning};

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
    row!("create and delete", |_u| vec![], |u, _ids| {
        let id = instance(&u).await;
        u.delete(&id).await.unwrap();
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
];
