//! The store is not what it was: it goes back to an earlier copy, or is another one. What hosts have is kept.

use super::Row;
use super::renamed::hasty;
use super::steps::{
    attached, create, instance, kept, resized, until_accepted, until_ended, until_gone,
    until_hosts_take_work, until_marked_anew, until_volume, while_agents_look,
};

pub const ROWS: &[Row] = &[
    row!(
        "the store is another one",
        hasty,
        |u, _hand| {
            resized(&u).await;
            kept(&u).await
        },
        |_u, _ids, hand| {
            hand.put_store_back().await;
            while_agents_look().await;
        }
    )
    .with_another_store(),
    row!(
        "the store goes back to before all there is",
        hasty,
        |u, hand| {
            hand.copy_store().await;
            attached(&u).await;
            kept(&u).await
        },
        |_u, _ids, hand| {
            hand.put_store_back().await;
            while_agents_look().await;
        }
    )
    .with_another_store(),
    row!(
        "the store goes back while nothing runs, and outgrows what agents know",
        hasty,
        |u, hand| {
            hand.copy_store().await;
            for _ in 0..2 {
                until_marked_anew(&u).await;
            }
            attached(&u).await;
            kept(&u).await
        },
        |_u, _ids, hand| {
            hand.put_store_back_at_rest().await;
            while_agents_look().await;
        }
    )
    .with_another_store(),
    row!(
        "the store goes back to before a delete and a move",
        hasty,
        |u, hand| {
            let (moved, deleted) = (attached(&u).await, instance(&u).await);
            hand.copy_store().await;
            let request_id = u.migrate_to(&moved[0], true, "").await.unwrap();
            until_ended(&u, &moved[0], &request_id).await;
            u.delete(&deleted).await.unwrap();
            until_gone(&u, &deleted).await;
            u.forgets(&deleted);
            moved
        },
        |_u, _ids, hand| {
            hand.put_store_back().await;
            while_agents_look().await;
        }
    )
    .with_another_store(),
    Row {
        rests: true,
        ..row!(
            "the store goes back a little, and is accepted",
            hasty,
            |u, hand| {
                let ids = attached(&u).await;
                hand.copy_store().await;
                // Its host and its volume's backend take commands that the copy knows nothing of.
                u.detach(&ids[0], &ids[1]).await.unwrap();
                until_volume(&u, &ids[1], "AVAILABLE").await;
                u.attach(&ids[0], &ids[1]).await.unwrap();
                until_volume(&u, &ids[1], "IN_USE").await;
                ids
            },
            |u, ids, hand| {
                hand.put_store_back().await;
                while_agents_look().await;
                until_accepted(|| u.accept_store()).await;
                until_hosts_take_work(&u).await;
                // What was there goes on, and what is new is made.
                create(&u, 3).await;
                u.detach(&ids[0], &ids[1]).await.unwrap();
            }
        )
        .with_another_store()
    },
];
