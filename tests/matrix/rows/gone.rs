//! Hosts that die: they stay away for good, or come back later, while something is asked of what is on them.

use kilonova_model::ServiceKind::{Compute, Volume};
use kilonova_proto::types::v1::server_group::Policy;
use kilonova_runtime::config::Period;
use kilonova_tests::Plan;
use kilonova_tests::checker::Want;
use kilonova_tests::user::{Denied, User};

use super::Row;
use super::steps::{
    attached, evacuate, evacuate_in_the_end, instance, resized, until_accepted, until_gone, until_instance,
    until_volume, volume,
};

/// What waits for a host waits longer than the row may take.
fn patient(plan: &mut Plan) {
    plan.conductor.operation_timeout = Period::from_secs(600);
}

/// Long enough that a host dies in the middle of it.
fn slow(plan: &mut Plan) {
    plan.compute.driver.latency = Period::from_millis(300);
    plan.compute.driver.latency_jitter = Period::from_millis(0);
}

pub const ROWS: &[Row] = &[
    row!(
        "evacuate",
        |u, hand| {
            let id = instance(&u).await;
            let host = hand.lose_host_of(&u, &id).await;
            vec![id, host]
        },
        |u, ids, hand| {
            evacuate(&u, &ids[0]).await;
            hand.back(Compute, &ids[1]);
        }
    ),
    row!(
        "evacuate with a volume",
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
        "its host is back while it is evacuated",
        |u, hand| {
            let ids = attached(&u).await;
            let host = hand.lose_host_of(&u, &ids[0]).await;
            vec![ids[0].clone(), host]
        },
        |u, ids, hand| {
            until_accepted(|| u.evacuate(&ids[0])).await;
            hand.back(Compute, &ids[1]);
        }
    ),
    row!(
        "evacuate, for good",
        |u, hand| {
            let ids = attached(&u).await;
            let host = hand.lose_host_of(&u, &ids[0]).await;
            hand.for_good(&host);
            ids
        },
        |u, ids, _hand| evacuate(&u, &ids[0]).await
    ),
    row!(
        "there is no place to evacuate to, and its host is back",
        |plan| plan.computes = 1,
        |u, hand| {
            let ids = attached(&u).await;
            let host = hand.lose_host_of(&u, &ids[0]).await;
            vec![ids[0].clone(), host, ids[1].clone()]
        },
        |u, ids, hand| {
            // It stays if its host has kept it, and is in ERROR if its host has removed it.
            until_accepted(|| u.evacuate(&ids[0])).await;
            u.wants(&ids[0], Want::Present);
            u.wants(&ids[2], Want::Present);
            hand.back(Compute, &ids[1]);
        }
    ),
    row!(
        "delete on a dead host",
        |u, hand| {
            let ids = attached(&u).await;
            let host = hand.lose_host_of(&u, &ids[0]).await;
            hand.for_good(&host);
            ids
        },
        |u, ids, _hand| {
            u.delete(&ids[0]).await.unwrap();
            u.wants(&ids[1], Want::State("AVAILABLE"));
        }
    ),
    row!(
        "delete on a host that comes back later",
        |plan| plan.conductor.delete_timeout = Period::from_secs(2),
        |u, hand| {
            let id = instance(&u).await;
            let host = hand.lose_host_of(&u, &id).await;
            vec![id, host]
        },
        |u, ids, hand| {
            u.delete(&ids[0]).await.unwrap();
            until_gone(&u, &ids[0]).await;
            hand.back(Compute, &ids[1]);
        }
    ),
    row!(
        "a host is away and back",
        |u, hand| {
            let ids = attached(&u).await;
            let host = hand.lose_host_of(&u, &ids[0]).await;
            vec![ids[0].clone(), host]
        },
        |_u, ids, hand| {
            hand.keep_all();
            hand.back(Compute, &ids[1]);
        }
    )
    .only_undisturbed(),
    row!(
        "stop at a dead host, then evacuate",
        patient,
        |u, hand| {
            let id = instance(&u).await;
            let host = hand.lose_host_of(&u, &id).await;
            hand.for_good(&host);
            vec![id]
        },
        |u, ids, _hand| {
            let _ = u.stop(&ids[0]).await;
            u.wants(&ids[0], Want::Present);
            evacuate(&u, &ids[0]).await;
        }
    ),
    row!(
        "detach at a dead host, then evacuate",
        patient,
        |u, hand| {
            let ids = attached(&u).await;
            let host = hand.lose_host_of(&u, &ids[0]).await;
            hand.for_good(&host);
            ids
        },
        |u, ids, _hand| {
            let _ = u.detach(&ids[0], &ids[1]).await;
            u.wants(&ids[1], Want::Present);
            evacuate(&u, &ids[0]).await;
        }
    ),
    row!(
        "stop at a dead host, then delete",
        patient,
        |u, hand| {
            let ids = attached(&u).await;
            let host = hand.lose_host_of(&u, &ids[0]).await;
            hand.for_good(&host);
            ids
        },
        |u, ids, _hand| {
            let _ = u.stop(&ids[0]).await;
            u.delete(&ids[0]).await.unwrap();
            u.wants(&ids[1], Want::State("AVAILABLE"));
        }
    ),
    row!(
        "moves from a dead host are refused",
        patient,
        |u, hand| {
            let id = instance(&u).await;
            let host = hand.lose_host_of(&u, &id).await;
            hand.for_good(&host);
            vec![id]
        },
        |u, ids, _hand| {
            refused("a live migration", u.live_migrate(&ids[0]).await);
            refused("a migration", u.migrate_to(&ids[0], false, "").await);
            refused("a resize", u.resize(&ids[0], Some("double")).await);
            refused("a rebuild", u.rebuild(&ids[0]).await);
            evacuate(&u, &ids[0]).await;
        }
    )
    .only_undisturbed(),
    row!(
        "revert to a host that is gone",
        |u, hand| {
            let ids = resized(&u).await;
            let source = u.previous_host(&ids[0]).await.unwrap();
            hand.lose(Compute, &source).await;
            hand.for_good(&source);
            ids
        },
        |u, ids, _hand| refused("a revert", u.end_resize(&ids[0], false).await)
    )
    .only_undisturbed(),
    row!(
        "confirm on a host that is gone",
        |u, hand| {
            let ids = resized(&u).await;
            let host = hand.lose_host_of(&u, &ids[0]).await;
            hand.for_good(&host);
            ids
        },
        |u, ids, _hand| refused("a confirm", u.end_resize(&ids[0], true).await)
    )
    .only_undisturbed(),
    row!(
        "detach at a host that is fenced, and then evacuate",
        |u, hand| {
            let ids = attached(&u).await;
            let host = hand.lose_host_of(&u, &ids[0]).await;
            hand.for_good(&host);
            [ids, vec![host]].concat()
        },
        |u, ids, _hand| {
            u.fence(&ids[2]).await.unwrap();
            refused("a detach", u.detach(&ids[0], &ids[1]).await);
            refused("a stop", u.stop(&ids[0]).await);
            evacuate(&u, &ids[0]).await;
            until_accepted(|| u.detach(&ids[0], &ids[1])).await;
            until_volume(&u, &ids[1], "AVAILABLE").await;
        }
    ),
    row!(
        "revert from a host that is fenced",
        |u, hand| {
            let ids = resized(&u).await;
            let host = hand.lose_host_of(&u, &ids[0]).await;
            hand.for_good(&host);
            vec![ids[0].clone(), host]
        },
        |u, ids, _hand| {
            u.fence(&ids[1]).await.unwrap();
            until_accepted(|| u.end_resize(&ids[0], false)).await;
        }
    ),
    row!(
        "confirm with a source that is fenced",
        |u, hand| {
            let ids = resized(&u).await;
            let source = u.previous_host(&ids[0]).await.unwrap();
            hand.lose(Compute, &source).await;
            hand.for_good(&source);
            vec![ids[0].clone(), source]
        },
        |u, ids, _hand| {
            u.fence(&ids[1]).await.unwrap();
            until_accepted(|| u.end_resize(&ids[0], true)).await;
        }
    ),
    row!(
        "confirm with a source that is gone",
        |u, hand| {
            let ids = resized(&u).await;
            let source = u.previous_host(&ids[0]).await.unwrap();
            hand.lose(Compute, &source).await;
            hand.for_good(&source);
            ids
        },
        // Accepted or refused: what runs goes on running, and what was accepted ends.
        |u, ids, _hand| {
            let _ = u.end_resize(&ids[0], true).await;
            u.wants(&ids[0], Want::Present);
        }
    ),
    row!(
        "delete what is resized, with a source that is gone",
        |u, hand| {
            let ids = resized(&u).await;
            let source = u.previous_host(&ids[0]).await.unwrap();
            hand.lose(Compute, &source).await;
            hand.for_good(&source);
            ids
        },
        |u, ids, _hand| {
            u.delete(&ids[0]).await.unwrap();
            u.wants(&ids[1], Want::State("AVAILABLE"));
        }
    ),
    row!("a live migration's source dies for good", slow, |u, _hand| attached(&u).await, |u, ids, hand| {
        let (source, destination) = ends(&u, &ids[0]).await;
        u.migrate_to(&ids[0], true, destination).await.unwrap();
        hand.for_good(&source);
        hand.kill(Compute, &source).await;
        u.wants(&ids[0], Want::Present);
        u.wants(&ids[1], Want::Present);
        // Either it goes over, or it is evacuated, where the operator says of the destination that it does not run it.
        let vouched = [destination.to_owned()];
        until_accepted(|| async {
            match u.instance_host(&ids[0]).await {
                Some(host) if host == destination => Ok(()),
                _ => u.evacuate_vouching(&ids[0], &vouched).await,
            }
        })
        .await;
    })
    .only_undisturbed(),
    row!(
        "a live migration's destination dies for good",
        slow,
        |u, _hand| attached(&u).await,
        |u, ids, hand| {
            destination_dies(&u, &ids, true, &hand).await;
        }
    )
    .only_undisturbed(),
    row!("a migration's destination dies for good", slow, |u, _hand| attached(&u).await, |u, ids, hand| {
        destination_dies(&u, &ids, false, &hand).await;
    })
    .only_undisturbed(),
    row!(
        "members together leave a host that is gone",
        |u, hand| {
            let group = u.group(Policy::Affinity).await.unwrap();
            let mut ids = Vec::new();
            for _ in 0..2 {
                let id = u.create("member", 1, &group).await.unwrap().remove(0);
                until_instance(&u, &id, "ACTIVE").await;
                ids.push(id);
            }
            let host = hand.lose_host_of(&u, &ids[0]).await;
            hand.for_good(&host);
            ids
        },
        |u, ids, _hand| {
            for id in &ids {
                evacuate_in_the_end(&u, id).await;
            }
        }
    ),
    row!(
        "members apart leave a host that is gone",
        |plan| plan.computes = 4,
        |u, hand| {
            let group = u.group(Policy::AntiAffinity).await.unwrap();
            let mut ids = Vec::new();
            for _ in 0..2 {
                let id = u.create("member", 1, &group).await.unwrap().remove(0);
                until_instance(&u, &id, "ACTIVE").await;
                ids.push(id);
            }
            let host = hand.lose_host_of(&u, &ids[0]).await;
            hand.for_good(&host);
            ids
        },
        |u, ids, _hand| evacuate(&u, &ids[0]).await
    ),
    row!(
        "delete volume on a backend that is gone",
        |u, hand| {
            let id = volume(&u).await;
            let backend = u.volume_host(&id).await.unwrap();
            hand.lose(Volume, &backend).await;
            hand.for_good(&backend);
            vec![id]
        },
        |u, ids, _hand| u.delete_volume(&ids[0]).await.unwrap()
    ),
];

/// A move to a host that dies as soon as it was accepted, and stays away. Its user has it somewhere, or is told why not; its volume is
/// with it or free.
async fn destination_dies(user: &User, ids: &[String], live: bool, hand: &crate::hand::Hand) {
    let (_, destination) = ends(user, &ids[0]).await;
    user.migrate_to(&ids[0], live, destination).await.unwrap();
    hand.for_good(destination);
    hand.kill(Compute, destination).await;
    user.wants(&ids[0], Want::Present);
    user.wants(&ids[1], Want::Present);
    // Whatever came of it, there is a way out once an operator says that the host is off.
    until_accepted(|| user.fence(destination)).await;
}

/// The host an instance is on, and another.
async fn ends(user: &User, id: &str) -> (String, &'static str) {
    let source = user.instance_host(id).await.unwrap();
    let others = ["compute-1", "compute-2", "compute-3"];
    let destination = others.into_iter().find(|host| *host != source).unwrap();
    (source, destination)
}

/// What is not possible is said at once.
fn refused<T: std::fmt::Debug>(what: &str, asked: Result<T, Denied>) {
    assert!(matches!(asked, Err(Denied::Refused(_))), "{what}: {asked:?}");
}
