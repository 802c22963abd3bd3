//! Requests that are checked, forwarded, tried again, and answered.

use std::time::Duration;

use kilonova_model::{Error, Reason};
use kilonova_proto::api::v1::{CreateInstanceRequest, GetInstanceRequest};
use kilonova_proto::types::v1::InstanceSpec;
use kilonova_rpc::status::{from_status, reason_of};
use tonic::{Code, Request};

use crate::setup::Edge;

const ID: &str = "0192d3a4-5b6c-7d8e-9f01-23456789abcd";

fn web() -> CreateInstanceRequest {
    let spec = InstanceSpec {
        name: "web".into(),
        flavor_id: "m1.small".into(),
        image_id: "cirros".into(),
        ..Default::default()
    };
    CreateInstanceRequest { instance: Some(spec), ..Default::default() }
}

#[tokio::test]
async fn wrong_fields_are_named_and_no_conductor_is_asked() {
    let (edge, _conductors) = Edge::start(&["c1"]).await;
    let mut request = web();
    request.count = 1000;
    request.instance.as_mut().unwrap().flavor_id = "no/slash".into();
    let status = edge.instances().create_instance(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let error = from_status(&status).unwrap();
    assert_eq!(error.reason, Reason::ValidationFailed);
    let fields: Vec<&str> = error.violations.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(fields, ["instance.flavor_id", "count"]);
    assert!(edge.world.asked.borrow().is_empty());
}

#[tokio::test]
async fn the_conductor_s_error_arrives_as_it_was() {
    let (edge, _conductors) = Edge::start(&["c1"]).await;
    let request = GetInstanceRequest { instance_id: ID.into(), ..Default::default() };
    let status = edge.instances().get_instance(request).await.unwrap_err();
    let error = from_status(&status).unwrap();
    let expected = Error::new(Reason::InstanceNotFound, format!("instance {ID} does not exist"))
        .with("instance_id", ID)
        .retry_after(Duration::from_secs(7));
    assert_eq!((status.code(), error), (Code::NotFound, expected));
}

#[tokio::test]
async fn what_is_left_out_is_filled_in_and_the_same_on_every_try() {
    let (edge, _conductors) = Edge::start(&["c1"]).await;
    edge.world.failures.lock().push_back(Error::new(Reason::StoreUnavailable, "not now"));
    let created = edge.instances().create_instance(web()).await.unwrap().into_inner();
    assert_eq!(created.instances[0].project_id, "default");
    assert_eq!(created.instances[0].spec, web().instance);
    let asked = edge.world.asked(2).await;
    assert_eq!(asked.len(), 2);
    assert!(!asked[0].request_id.is_empty());
    assert_eq!(asked[0].request_id, asked[1].request_id);
}

#[tokio::test]
async fn a_refusal_is_not_tried_again() {
    let (edge, _conductors) = Edge::start(&["c1"]).await;
    edge.world.failures.lock().push_back(Error::new(Reason::FlavorNotFound, "no flavor m1.small"));
    let mut request = web();
    request.request_id = "mine".into();
    let status = edge.instances().create_instance(request).await.unwrap_err();
    assert_eq!(reason_of(&status), Some(Reason::FlavorNotFound));
    let asked = edge.world.asked(1).await;
    assert_eq!(asked.iter().map(|asked| asked.request_id.as_str()).collect::<Vec<_>>(), ["mine"]);
}

#[tokio::test]
async fn a_conductor_that_dies_in_the_middle_is_replaced_with_the_same_request_id() {
    let (edge, mut conductors) = Edge::start(&["c1"]).await;
    *edge.world.hang.lock() = true;
    let mut instances = edge.instances();
    let creating = tokio::join!(instances.create_instance(web()), async {
        edge.world.asked(1).await;
        let second = edge.conductor("c2").await;
        *edge.world.hang.lock() = false;
        conductors.clear();
        second
    });
    let (created, _second) = creating;
    created.unwrap();
    let asked = edge.world.asked(2).await;
    assert_eq!((asked[0].conductor.as_str(), asked[1].conductor.as_str()), ("c1", "c2"));
    assert_eq!(asked[0].request_id, asked[1].request_id);
}

#[tokio::test]
async fn the_caller_s_deadline_goes_along_and_is_kept() {
    let (edge, _conductors) = Edge::start(&["c1"]).await;
    *edge.world.hang.lock() = true;
    let mut request = Request::new(web());
    request.metadata_mut().insert("grpc-timeout", "600m".parse().unwrap());
    let status = edge.instances().create_instance(request).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    let left = edge.world.asked(1).await[0].time_left.unwrap();
    assert!(left < Duration::from_millis(600), "{left:?}");
}

#[tokio::test]
async fn without_a_conductor_it_says_so() {
    let (edge, _conductors) = Edge::start(&[]).await;
    let status = edge.instances().create_instance(web()).await.unwrap_err();
    assert_eq!((status.code(), reason_of(&status)), (Code::Unavailable, Some(Reason::NoEndpoint)));
    assert!(!edge.api.readiness.current().ready());
    let _conductor = edge.conductor("c1").await;
    let mut readiness = edge.api.readiness.subscribe();
    let ready = readiness.wait_for(|conditions| conditions.ready());
    tokio::time::timeout(crate::setup::SOON, ready).await.unwrap().unwrap();
    edge.instances().create_instance(web()).await.unwrap();
}
