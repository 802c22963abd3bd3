//! Who hears what.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use futures::stream::FuturesUnordered;
use kilonova_model::{Reason, Revision, ServiceKind};
use kilonova_rpc::peers::Peers;
use kilonova_tests::Backing;
use kilonova_tests::waiting::until;

use crate::fake::{ping, work};
use crate::world::{Member, World, host, in_time, ready, to, until_ready, verdict};

const SERVICE: ServiceKind = ServiceKind::Compute;

over_both_stores!(
    a_call_to_one_of_three_changes_only_that_one,
    calls_to_a_group_reach_every_member_and_each_call_one,
    cells_on_one_store_never_hear_each_other,
    a_cast_to_one_host_changes_only_that_one,
    twenty_casts_to_a_group_are_shared_and_none_is_lost,
    a_fan_out_reaches_every_member_exactly_once,
    every_address_reaches_exactly_who_is_meant,
    members_join_and_leave_the_rotation,
    a_client_may_start_before_its_server_or_after,
);

async fn three(world: &World) -> [Member; 3] {
    [world.member(SERVICE, "a").await, world.member(SERVICE, "b").await, world.member(SERVICE, "c").await]
}

fn counts(members: &[Member]) -> Vec<usize> {
    members.iter().map(|member| member.fake.executed().len()).collect()
}

/// 1.
async fn a_call_to_one_of_three_changes_only_that_one(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let members = three(&world).await;
    let peers = world.peers();
    let second = to(&peers, &members[1]);
    assert_eq!(work(&second, "open").await.unwrap(), "open");
    assert_eq!(work(&second, "stack").await.unwrap(), "openstack");
    assert_eq!(counts(&members), [0, 2, 0]);
}

/// 2. Calls that are held load the members, so each gets its share.
async fn calls_to_a_group_reach_every_member_and_each_call_one(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let members = three(&world).await;
    let peers = world.peers();
    ready(&peers, SERVICE, 3).await;
    let group = peers.call(SERVICE);
    let orders: Vec<_> = (10..24).map(|number| format!("hold {number}")).collect();
    let begun = || members.iter().map(|member| member.fake.began().len()).sum::<usize>();
    let calls = FuturesUnordered::new();
    for (sent, order) in orders.iter().enumerate() {
        let mut call = Box::pin(work(&group, order));
        tokio::select! {
            biased;
            answer = &mut call => panic!("{answer:?}"),
            () = until("it has arrived", || async { (begun() == sent + 1).then_some(()) }) => {}
        }
        calls.push(call);
    }
    members.iter().for_each(|member| member.fake.release_all());
    for answer in join_all(calls).await {
        answer.unwrap();
    }
    let mut all = Vec::new();
    for member in &members {
        let share = member.fake.began();
        assert!(!share.is_empty() && share.is_sorted(), "{share:?}");
        assert_eq!(share.len(), member.fake.executed().len());
        all.extend(share);
    }
    all.sort();
    assert_eq!(all, orders);
}

/// 3 and 57, fan-outs included. An address that changed hands does not lead into another cell either.
async fn cells_on_one_store_never_hear_each_other(backing: Backing) {
    let Some(east) = World::on(backing).await else { return };
    let (west, north) = (east.neighbour(), east.neighbour());
    let mut members = Vec::new();
    for world in [&east, &west, &north] {
        members.push(world.member(SERVICE, "a").await);
    }
    let peers = east.peers();
    work(&peers.call(SERVICE), "call").await.unwrap();
    work(&to(&peers, &members[0]), "directed").await.unwrap();
    work(&peers.cast(SERVICE), "cast").await.unwrap();
    let all = peers.fan_out(SERVICE, 8, |channel, _| async move { work(&channel, "all").await }).await;
    assert_eq!(all.results.len(), 1);
    assert_eq!(counts(&members), [4, 0, 0]);

    let _lie = west.register(SERVICE, "b", &members[0].addr, 0).await;
    let lost = west.peers().call_host(SERVICE, &host("b"));
    assert_eq!(verdict(work(&lost, "stray").await), ("refused", Some(Reason::WrongHost)));
    assert_eq!(counts(&members), [4, 0, 0]);
}

/// 4.
async fn a_cast_to_one_host_changes_only_that_one(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let members = three(&world).await;
    let peers = world.peers();
    let second = peers.cast_host(SERVICE, &members[1].host);
    for answer in join_all(["x", "y", "z"].map(|order| work(&second, order))).await {
        answer.unwrap();
    }
    assert_eq!(counts(&members), [0, 3, 0]);
    let mut done = members[1].fake.executed();
    done.sort();
    assert_eq!(done, ["x", "y", "z"]);
}

/// 5.
async fn twenty_casts_to_a_group_are_shared_and_none_is_lost(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let members = three(&world).await;
    let peers = world.peers();
    ready(&peers, SERVICE, 3).await;
    let group = peers.cast(SERVICE);
    let orders: Vec<_> = (10..30).map(|number| format!("hold {number}")).collect();
    let casts = join_all(orders.iter().map(|order| work(&group, order)));
    let release = async {
        let begun = || members.iter().map(|member| member.fake.began().len()).sum::<usize>();
        until("all arrive", || async { (begun() == 20).then_some(()) }).await;
        members.iter().for_each(|member| member.fake.release_all());
    };
    let (answers, ()) = tokio::join!(casts, release);
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    let counts = counts(&members);
    assert!(counts.iter().all(|count| (1..20).contains(count)), "{counts:?}");
    let mut all: Vec<_> = members.iter().flat_map(|member| member.fake.executed()).collect();
    all.sort();
    assert_eq!(all, orders);
}

/// 6.
async fn a_fan_out_reaches_every_member_exactly_once(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let members = three(&world).await;
    let peers = world.peers();
    for order in ["1", "2", "3", "4"] {
        let all = peers.fan_out(SERVICE, 8, |channel, _| async move { work(&channel, order).await }).await;
        assert!(all.revision > Revision(0));
        assert_eq!(all.results.into_keys().collect::<Vec<_>>(), members.each_ref().map(|m| m.host.clone()));
    }
    for member in &members {
        assert_eq!(member.fake.executed(), ["1", "2", "3", "4"]);
    }
}

/// 7: two cells, two services, two hosts; every verb from every cell to every service.
async fn every_address_reaches_exactly_who_is_meant(backing: Backing) {
    let Some(east) = World::on(backing).await else { return };
    let worlds = [("east", &east), ("west", &east.neighbour())];
    let services = [ServiceKind::Compute, ServiceKind::Scheduler];
    let names = ["a", "b"];
    let mut members = BTreeMap::new();
    for (cell, world) in worlds {
        for service in services {
            for name in names {
                members.insert((cell, service, name), world.member(service, name).await);
            }
        }
    }
    for (cell, world) in worlds {
        let peers = world.peers();
        for service in services {
            work(&peers.call(service), &format!("{cell} {service} any call")).await.unwrap();
            work(&peers.cast(service), &format!("{cell} {service} any cast")).await.unwrap();
            for name in names {
                let (call, cast) =
                    (peers.call_host(service, &host(name)), peers.cast_host(service, &host(name)));
                work(&call, &format!("{cell} {service} {name} call")).await.unwrap();
                work(&cast, &format!("{cell} {service} {name} cast")).await.unwrap();
            }
            let order = format!("{cell} {service} all fan-out");
            let order = order.as_str();
            peers.fan_out(service, 8, |channel, _| async move { work(&channel, order).await }).await;
        }
    }
    let mut any = 0;
    for ((cell, service, name), member) in &members {
        let mut done = member.fake.executed();
        let own = format!("{cell} {service} ");
        assert!(done.iter().all(|order| order.starts_with(&own)), "{done:?}");
        let all = done.len();
        done.retain(|order| !order.contains(" any "));
        any += all - done.len();
        done.sort();
        let (call, cast) = (format!("{name} call"), format!("{name} cast"));
        let mut expected = [&call, &cast, "all fan-out"].map(|order| format!("{own}{order}"));
        expected.sort();
        assert_eq!(done, expected);
    }
    assert_eq!(any, 8, "each of those once");
}

/// 8.
async fn members_join_and_leave_the_rotation(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let peers = world.peers();
    let none = peers.fan_out(SERVICE, 8, |channel, _| async move { ping(&channel, "x").await }).await;
    assert!(none.results.is_empty() && none.revision > Revision(0), "none is an answer: {none:?}");

    let a = world.member(SERVICE, "a").await;
    let group = peers.call(SERVICE).wait_for_ready();
    assert_eq!(ping(&group, "x").await.unwrap().host, "a");
    let b = world.member(SERVICE, "b").await;
    until("b has its turn", || async { (ping(&group, "x").await.unwrap().host == "b").then_some(()) }).await;

    let again = world.register(SERVICE, "a", &a.addr, 0).await;
    let set = world.registry.members(SERVICE).current();
    assert_eq!(set.members.len(), 2, "the same again is the same member");
    drop(again);

    b.stop(Duration::from_secs(5)).await;
    until_ready(&peers, &host("b"), false).await;
    let mut sets = world.registry.members(SERVICE).subscribe();
    drop(in_time("b leaves", sets.wait_for(|set| set.members.len() == 1)).await.unwrap());
    for _ in 0..10 {
        assert_eq!(ping(&group, "x").await.unwrap().host, "a");
    }
}

/// 9.
async fn a_client_may_start_before_its_server_or_after(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let before = world.peers();
    let three_calls = async |peers: &Peers| {
        let group = peers.call(SERVICE).wait_for_ready();
        for answer in join_all(["1", "2", "3"].map(|payload| ping(&group, payload))).await {
            assert_eq!(answer.unwrap().host, "a");
        }
    };
    let start = async {
        // The early calls are under way when the server comes: nobody is there to answer them.
        until("the calls look for a member", || async {
            world.registry.members(SERVICE).current().is_known().then_some(())
        })
        .await;
        world.member(SERVICE, "a").await
    };
    let ((), _a) = tokio::join!(three_calls(&before), start);
    three_calls(&world.peers()).await;
    // Without a word of waiting too: the first connection is waited for.
    let after = world.peers();
    assert_eq!(ping(&after.call(SERVICE), "x").await.unwrap().host, "a");
}
