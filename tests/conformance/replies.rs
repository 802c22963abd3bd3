//! Each caller gets its own answer, as it was given.

use futures::future::join_all;
use kilonova_model::ServiceKind;
use kilonova_proto::compute::v1::compute_service_client::ComputeServiceClient;
use kilonova_proto::compute::v1::{GetInstanceStateRequest, GetInstanceStateResponse};
use kilonova_proto::conductor::v1::BuildInstancesRequest;
use kilonova_proto::conductor::v1::task_service_client::TaskServiceClient;
use kilonova_proto::types::v1::instance::State;
use kilonova_tests::{Backing, Plan};

use crate::fake::ping;
use crate::real::{build, cluster_on};
use crate::world::{World, to};

const SERVICE: ServiceKind = ServiceKind::Compute;

over_both_stores!(
    empty_values_come_back_as_they_are,
    answers_out_of_order_reach_their_callers,
    a_cast_is_answered_before_the_work_is_done,
);

/// 31.
async fn empty_values_come_back_as_they_are(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let member = world.member(SERVICE, "a").await;
    let peers = world.peers();
    let channel = to(&peers, &member);
    for payload in ["", "0", "false", "[]", "{}", "\0", "ö"] {
        assert_eq!(ping(&channel, payload).await.unwrap().payload, payload);
    }
    let state = async || {
        let mut client = ComputeServiceClient::new(channel.clone());
        client.get_instance_state(GetInstanceStateRequest::default()).await.unwrap().into_inner()
    };
    // No fault, generation 0, not busy.
    assert_eq!(state().await, GetInstanceStateResponse::default());
    for answer in join_all((0..10).map(|_| state())).await {
        assert_eq!(answer, GetInstanceStateResponse::default());
    }
}

/// 31.
async fn answers_out_of_order_reach_their_callers(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let member = world.member(SERVICE, "a").await;
    let peers = world.peers();
    let channel = to(&peers, &member);
    let orders: Vec<_> = (0..10).map(|number| format!("hold {number}")).collect();
    let backwards = async {
        member.fake.until_began(10).await;
        for (done, order) in orders.iter().rev().enumerate() {
            member.fake.release(order);
            member.fake.until_executed(done + 1).await;
        }
    };
    let (answers, ()) = tokio::join!(join_all(orders.iter().map(|order| ping(&channel, order))), backwards);
    let answers: Vec<_> = answers.into_iter().map(|answer| answer.unwrap().payload).collect();
    assert_eq!(answers, orders);
    let reversed: Vec<_> = orders.iter().rev().cloned().collect();
    assert_eq!(member.fake.executed(), reversed);
}

/// 32: OK says that it is stored, and no word of the work comes back on the call; with nobody to do it, it stays.
async fn a_cast_is_answered_before_the_work_is_done(backing: Backing) {
    let Some(world) = World::on(backing).await else { return };
    let cluster = cluster_on(&world, Plan::new(backing), [1, 0, 0]).await;
    cluster.api().seed().await;
    let peers = world.peers();
    let conductor = peers.cast(ServiceKind::Conductor).wait_for_ready();
    let request = BuildInstancesRequest { count: 3, ..build("") };
    let accepted = TaskServiceClient::new(conductor).build_instances(request).await.unwrap().into_inner();
    assert_eq!(accepted.instances.len(), 3);
    for instance in &accepted.instances {
        assert_eq!(instance.state(), State::Building);
        assert_eq!(cluster.api().get(&instance.id).await.unwrap().state(), State::Building);
    }
    cluster.shutdown().await;
}
