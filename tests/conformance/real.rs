//! Real services in a cell of a world.

use std::collections::BTreeSet;

use kilonova_proto::api::v1 as api;
use kilonova_proto::conductor::v1::BuildInstancesRequest;
use kilonova_proto::conductor::v1::task_service_client::TaskServiceClient;
use kilonova_proto::types::v1 as pb;
use kilonova_tests::{Cluster, Plan};
use tonic::Status;

use crate::world::World;

/// So many conductors, schedulers and compute hosts.
pub async fn cluster_on(
    world: &World,
    mut plan: Plan,
    [conductors, schedulers, computes]: [usize; 3],
) -> Cluster {
    plan.conductors = conductors;
    plan.schedulers = schedulers;
    plan.computes = computes;
    plan.volumes = 0;
    Cluster::over(plan, world.store.clone(), world.cell.clone()).await
}

/// A request for one instance.
pub fn build(request_id: &str) -> BuildInstancesRequest {
    let instance = pb::InstanceSpec {
        name: "vm".into(),
        flavor_id: "small".into(),
        image_id: "cirros".into(),
        ..Default::default()
    };
    BuildInstancesRequest {
        request_id: request_id.into(),
        instance: Some(instance),
        count: 1,
        ..Default::default()
    }
}

/// Sends it to a conductor; gives the ids of what was accepted.
pub async fn send<C>(channel: C, request_id: &str) -> Result<Vec<String>, Status>
where
    C: tonic::client::GrpcService<tonic::body::Body>,
    C::Error: Into<tonic::codegen::StdError>,
    C::ResponseBody: tonic::codegen::Body<Data = tonic::codegen::Bytes> + Send + 'static,
    <C::ResponseBody as tonic::codegen::Body>::Error: Into<tonic::codegen::StdError> + Send,
{
    let answer = TaskServiceClient::new(channel).build_instances(build(request_id)).await?;
    Ok(answer.into_inner().instances.into_iter().map(|instance| instance.id).collect())
}

/// All there are.
pub async fn instances(cluster: &Cluster) -> BTreeSet<String> {
    let (mut ids, mut token) = (BTreeSet::new(), String::new());
    loop {
        let request = api::ListInstancesRequest { page_token: token, page_size: 100, ..Default::default() };
        let page = cluster.api().instances().list_instances(request).await.unwrap().into_inner();
        ids.extend(page.instances.into_iter().map(|instance| instance.id));
        token = page.next_page_token;
        if token.is_empty() {
            return ids;
        }
    }
}
