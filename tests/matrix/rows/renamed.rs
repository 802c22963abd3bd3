//! An agent that is started under another name over the data of one that was there.

use kilonova_model::ServiceKind::{Compute, Volume};
use kilonova_runtime::config::Period;
use kilonova_tests::Plan;

use super::Row;
use super::steps::{attached, instance, while_agents_look};

/// Agents look often, and soon remove what they take for nobody's.
pub fn hasty(plan: &mut Plan) {
    (plan.compute.remove_orphans, plan.volume.remove_orphans) = (true, true);
    (plan.compute.orphan_grace, plan.volume.orphan_grace) =
        (Period::from_millis(500), Period::from_millis(500));
    (plan.compute.reconcile_interval, plan.volume.reconcile_interval) =
        (Period::from_millis(300), Period::from_millis(300));
    (plan.compute.register_interval, plan.volume.register_interval) =
        (Period::from_millis(300), Period::from_millis(300));
}

pub const ROWS: &[Row] = &[
    row!(
        "a host is renamed",
        hasty,
        |u, hand| {
            let id = instance(&u).await;
            let host = hand.lose_host_of(&u, &id).await;
            vec![id, host]
        },
        |_u, ids, hand| {
            hand.keep_all();
            let started = hand.start_as(Compute, "compute-9", &ids[1]).await;
            while_agents_look().await;
            assert!(started.is_err(), "it runs as another over its data");
            hand.back(Compute, &ids[1]);
        }
    )
    .only_undisturbed(),
    row!(
        "a backend is renamed",
        hasty,
        |u, hand| {
            let ids = attached(&u).await;
            let backend = u.volume_host(&ids[1]).await.unwrap();
            hand.lose(Volume, &backend).await;
            vec![ids[0].clone(), backend]
        },
        |_u, ids, hand| {
            hand.keep_all();
            let started = hand.start_as(Volume, "storage-9@sim", &ids[1]).await;
            while_agents_look().await;
            assert!(started.is_err(), "it runs as another over its data");
            hand.back(Volume, &ids[1]);
        }
    )
    .only_undisturbed(),
];
