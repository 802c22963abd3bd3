//! Aggregates, zones and traits, from an administrator's word to where instances go, over both stores.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use kilonova_model::{AggregateId, Reason, ServiceKind};
use kilonova_proto::api::v1 as api;
use kilonova_proto::capability::v1::RefreshCapabilitiesRequest;
use kilonova_proto::capability::v1::capability_service_client::CapabilityServiceClient;
use kilonova_proto::compute::v1::SetHostEnabledRequest;
use kilonova_proto::compute::v1::compute_service_client::ComputeServiceClient;
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::capabilities::Resources;
use kilonova_proto::types::v1::instance::State;
use kilonova_rpc::status::from_status;
use kilonova_runtime::config::Period;
use kilonova_store::Txn;
use kilonova_store::keys::Keys;
use kilonova_tests::asking::started;
use kilonova_tests::waiting::until;
use kilonova_tests::{Api, Backing, Cluster, Plan, over_both_stores};
use prost::Message;

over_both_stores!(
    flavors_find_the_hosts_of_an_aggregate_until_they_leave_it,
    a_host_that_was_away_learns_where_it_belongs,
    an_older_word_does_not_enable_a_host_again,
    an_aggregate_says_how_much_may_be_promised,
    a_host_is_put_into_another_zone_unless_somebody_asked_for_its_own,
    aggregates_are_created_changed_listed_and_deleted,
    what_was_stored_and_not_told_is_told_when_it_is_asked_for_again,
    hosts_that_were_added_once_and_left_do_not_come_back_with_the_request,
    a_delete_is_done_once_for_each_request_id,
);

fn reason<T>(answer: Result<T, tonic::Status>) -> Result<T, Reason> {
    answer.map_err(|status| from_status(&status).unwrap().reason)
}

fn metadata(entries: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
    entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

async fn aggregate(api: &Api, id: &str, entries: &[(&str, &str)], hosts: &[&str]) {
    let new = pb::Aggregate { id: id.into(), metadata: metadata(entries), ..Default::default() };
    let request = api::CreateAggregateRequest { aggregate: Some(new), ..Default::default() };
    api.aggregates().create_aggregate(request).await.unwrap();
    if !hosts.is_empty() {
        add(api, id, hosts).await.unwrap();
    }
}

async fn add(api: &Api, id: &str, hosts: &[&str]) -> Result<pb::Aggregate, Reason> {
    let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
    let request = api::AddAggregateHostsRequest { aggregate_id: id.into(), hosts, ..Default::default() };
    let added = reason(api.aggregates().add_aggregate_hosts(request).await)?;
    Ok(added.into_inner().aggregate.unwrap())
}

async fn remove(api: &Api, id: &str, host: &str) {
    let request = api::RemoveAggregateHostsRequest {
        aggregate_id: id.into(),
        hosts: vec![host.into()],
        ..Default::default()
    };
    api.aggregates().remove_aggregate_hosts(request).await.unwrap();
}

async fn get(api: &Api, host: &str) -> Option<pb::Host> {
    let request = api::GetHostRequest { service: pb::ServiceKind::Compute.into(), host: host.into() };
    api.hosts().get_host(request).await.ok()?.into_inner().host
}

/// Waits until schedulers know that a host is in exactly these aggregates.
async fn until_in(api: &Api, host: &str, aggregates: &[&str]) -> pb::Capabilities {
    until(&format!("{host} publishes {aggregates:?}"), || async {
        let capabilities = get(api, host).await?.capabilities?;
        let ids: Vec<&str> = capabilities.aggregates.iter().map(|one| one.id.as_str()).collect();
        (ids == aggregates).then(|| capabilities.clone())
    })
    .await
}

/// An instance of a flavor with these extra specs, once it is built or has failed.
async fn built(api: &Api, name: &str, specs: &[(&str, &str)], zone: &str) -> pb::Instance {
    let (id, extra_specs) = (format!("flavor-{name}"), metadata(specs));
    let flavor = pb::Flavor { id: id.clone(), vcpus: 1, ram_mib: 512, extra_specs, ..Default::default() };
    let request = api::CreateFlavorRequest { flavor: Some(flavor), ..Default::default() };
    api.flavors().create_flavor(request).await.unwrap();
    let spec = pb::InstanceSpec {
        name: name.into(),
        flavor_id: id,
        image_id: "cirros".into(),
        availability_zone: zone.into(),
        ..Default::default()
    };
    let request = api::CreateInstanceRequest { instance: Some(spec), ..Default::default() };
    let made = api.instances().create_instance(request).await.unwrap().into_inner();
    let id = &made.instances[0].id;
    until(&format!("the build of {name} ended"), || async {
        api.get(id).await.ok().filter(|i| matches!(i.state(), State::Active | State::Error))
    })
    .await
}

/// One scheduler and one conductor: what one of them knows, is known.
fn plan(backing: Backing) -> Plan {
    Plan { schedulers: 1, conductors: 1, ..Plan::new(backing) }
}

const SSD: (&str, &str) = ("aggregate_instance_extra_specs:disk", "ssd");

async fn flavors_find_the_hosts_of_an_aggregate_until_they_leave_it(backing: Backing) {
    let Some((cluster, api)) = started(plan(backing)).await else { return };
    aggregate(&api, "ssd", &[("disk", "ssd")], &["compute-2"]).await;
    until_in(&api, "compute-2", &["ssd"]).await;
    until("the host shows what it is in", || async {
        (get(&api, "compute-2").await?.aggregates == ["ssd"]).then_some(())
    })
    .await;
    for n in 0..3 {
        assert_eq!(built(&api, &format!("fast-{n}"), &[SSD], "").await.host, "compute-2");
    }
    aggregate(&api, "others", &[("filter_tenant_id", "others")], &["compute-2"]).await;
    until_in(&api, "compute-2", &["others", "ssd"]).await;
    let fault = built(&api, "not-ours", &[SSD], "").await.fault.unwrap();
    assert!(fault.message.contains("AggregateMultiTenancyIsolation removed 1"), "{fault:?}");
    assert!(fault.message.contains("compute-2: is for others only, not for default"), "{fault:?}");

    remove(&api, "others", "compute-2").await;
    remove(&api, "ssd", "compute-2").await;
    until_in(&api, "compute-2", &[]).await;
    let fault = built(&api, "nowhere", &[SSD], "").await.fault.unwrap();
    assert!(fault.message.contains("AggregateInstanceExtraSpecsFilter removed 3"), "{fault:?}");
    cluster.shutdown().await;
}

async fn a_host_that_was_away_learns_where_it_belongs(backing: Backing) {
    let Some((mut cluster, api)) = started(plan(backing)).await else { return };
    cluster.stop(ServiceKind::Compute, "compute-1").await;
    aggregate(&api, "ssd", &[("disk", "ssd")], &["compute-1", "compute-3"]).await;
    let request = api::UpdateHostRequest {
        service: pb::ServiceKind::Compute.into(),
        host: "compute-1".into(),
        traits: vec!["CUSTOM_GOLD".into()],
        update_mask: Some(prost_types::FieldMask { paths: vec!["traits".into()] }),
        ..Default::default()
    };
    api.hosts().update_host(request).await.unwrap();
    cluster.launch(ServiceKind::Compute, "compute-1").await;
    cluster.ready().await;
    assert_eq!(until_in(&api, "compute-1", &["ssd"]).await.traits, ["CUSTOM_GOLD"]);
    let gold = [SSD, ("trait:CUSTOM_GOLD", "required")];
    assert_eq!(built(&api, "gold", &gold, "").await.host, "compute-1");

    cluster.stop(ServiceKind::Compute, "compute-1").await;
    cluster.launch(ServiceKind::Compute, "compute-1").await;
    cluster.ready().await;
    until_in(&api, "compute-1", &["ssd"]).await;
    cluster.shutdown().await;
}

async fn an_older_word_does_not_enable_a_host_again(backing: Backing) {
    let mut plan = Plan::new(backing);
    plan.computes = 1;
    let Some((cluster, api)) = started(plan).await else { return };
    let name = kilonova_tests::cluster::name(ServiceKind::Compute, 1);
    // So that the store is further than when the host registered.
    api.active("before").await;
    let request = api::DisableHostRequest {
        service: pb::ServiceKind::Compute.into(),
        host: name.clone(),
        reason: "maintenance".into(),
        ..Default::default()
    };
    let disabled = api.hosts().disable_host(request).await.unwrap().into_inner().host.unwrap();
    let revision = u64::from_str_radix(&disabled.etag, 16).unwrap();
    let channel = cluster.channel(ServiceKind::Compute, &name);
    let published = async || {
        let mut client = CapabilityServiceClient::new(channel.clone());
        let fresh = client.refresh_capabilities(RefreshCapabilitiesRequest {}).await.unwrap();
        fresh.into_inner().capabilities.unwrap().enabled
    };
    let say = async |revision| {
        let word = SetHostEnabledRequest {
            target_host: name.clone(),
            target_epoch: disabled.epoch,
            enabled: true,
            disabled_reason: String::new(),
            revision,
        };
        ComputeServiceClient::new(channel.clone()).set_host_enabled(word).await.unwrap();
        published().await
    };
    assert!(!published().await, "it was told before the answer");
    assert!(!say(revision - 1).await, "what was said before that");
    assert!(say(revision + 1).await, "what is said after it");
    cluster.shutdown().await;
}

async fn an_aggregate_says_how_much_may_be_promised(backing: Backing) {
    let mut plan = plan(backing);
    plan.computes = 1;
    plan.compute.driver.vcpus = 2;
    plan.compute.register_interval = Period::from_millis(200);
    let Some((cluster, api)) = started(plan).await else { return };
    aggregate(&api, "dense", &[("cpu_allocation_ratio", "1.5")], &["compute-1"]).await;
    aggregate(&api, "thin", &[("cpu_allocation_ratio", "1")], &["compute-1"]).await;
    let figures = |capabilities: pb::Capabilities| match capabilities.resources {
        Some(Resources::Compute(figures)) => figures.cpu_allocation_ratio,
        _ => 0.0,
    };
    assert_eq!(figures(until_in(&api, "compute-1", &["dense", "thin"]).await), 1.0);
    for n in 0..2 {
        assert_eq!(built(&api, &format!("fits-{n}"), &[], "").await.state(), State::Active);
    }
    let fault = built(&api, "too-many", &[], "").await.fault.unwrap();
    assert!(fault.message.contains("CoreFilter removed 1"), "{fault:?}");

    remove(&api, "thin", "compute-1").await;
    assert_eq!(figures(until_in(&api, "compute-1", &["dense"]).await), 1.5);
    assert_eq!(built(&api, "one-more", &[], "").await.state(), State::Active);
    remove(&api, "dense", "compute-1").await;
    assert_eq!(figures(until_in(&api, "compute-1", &[]).await), 4.0, "its own again");
    cluster.shutdown().await;
}

async fn put(api: &Api, host: &str, zone: &str) -> Result<pb::Host, Reason> {
    let request = api::UpdateHostRequest {
        service: pb::ServiceKind::Compute.into(),
        host: host.into(),
        assigned_zone: zone.into(),
        update_mask: Some(prost_types::FieldMask { paths: vec!["assigned_zone".into()] }),
        ..Default::default()
    };
    Ok(reason(api.hosts().update_host(request).await)?.into_inner().host.unwrap())
}

async fn zone_published(api: &Api, host: &str, zone: &str) {
    until(&format!("{host} publishes zone {zone}"), || async {
        let capabilities = get(api, host).await?.capabilities?;
        (capabilities.availability_zone == zone).then_some(())
    })
    .await;
}

async fn a_host_is_put_into_another_zone_unless_somebody_asked_for_its_own(backing: Backing) {
    let Some((cluster, api)) = started(plan(backing)).await else { return };
    let own = get(&api, "compute-3").await.unwrap().availability_zone;
    let moved = put(&api, "compute-3", "elsewhere").await.unwrap();
    assert_eq!((moved.availability_zone.as_str(), moved.assigned_zone.as_str()), ("elsewhere", "elsewhere"));
    zone_published(&api, "compute-3", "elsewhere").await;
    assert_eq!(built(&api, "there", &[], "elsewhere").await.host, "compute-3");
    let zones = until("the zone is listed", || async {
        let zones = api.hosts().list_zones(api::ListZonesRequest {}).await.ok()?.into_inner().zones;
        zones.iter().any(|zone| zone.name == "elsewhere").then_some(zones)
    })
    .await;
    let elsewhere = zones.iter().find(|zone| zone.name == "elsewhere").unwrap();
    assert_eq!((elsewhere.compute_hosts, elsewhere.enabled_compute_hosts), (1, 1));
    assert_eq!(zones.iter().map(|zone| zone.compute_hosts).sum::<u32>(), 3);

    assert_eq!(put(&api, "compute-3", "").await.unwrap_err(), Reason::InvalidState, "one asked for the zone");
    assert_eq!(put(&api, "compute-9", "x").await.unwrap_err(), Reason::HostNotFound);
    put(&api, "compute-2", "elsewhere").await.unwrap();
    zone_published(&api, "compute-2", "elsewhere").await;
    put(&api, "compute-2", "").await.unwrap();
    zone_published(&api, "compute-2", &own).await;
    cluster.shutdown().await;
}

async fn aggregates_are_created_changed_listed_and_deleted(backing: Backing) {
    let Some((cluster, api)) = started(plan(backing)).await else { return };
    aggregate(&api, "b", &[], &[]).await;
    aggregate(&api, "a", &[("disk", "ssd")], &[]).await;
    assert_eq!(add(&api, "a", &["compute-1", "compute-9"]).await.unwrap_err(), Reason::HostNotFound);
    assert_eq!(add(&api, "c", &["compute-1"]).await.unwrap_err(), Reason::AggregateNotFound);
    let added = add(&api, "a", &["compute-3", "compute-1", "compute-3"]).await.unwrap();
    assert_eq!(added.hosts, ["compute-1", "compute-3"]);
    assert_eq!(add(&api, "a", &["compute-1"]).await.unwrap().etag, added.etag, "the same changes nothing");

    let update = |etag: &str, value: &str| api::UpdateAggregateRequest {
        aggregate_id: "a".into(),
        etag: etag.into(),
        aggregate: Some(pb::Aggregate { metadata: metadata(&[("disk", value)]), ..Default::default() }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["metadata".into()] }),
        ..Default::default()
    };
    let mut client = api.aggregates();
    client.update_aggregate(update(&added.etag, "nvme")).await.unwrap();
    let late = client.update_aggregate(update(&added.etag, "hdd")).await;
    assert_eq!(reason(late).unwrap_err(), Reason::EtagMismatch);
    until("each of its hosts publishes the change", || async {
        for host in ["compute-1", "compute-3"] {
            let capabilities = get(&api, host).await?.capabilities?;
            capabilities.aggregates.iter().find(|one| one.metadata == metadata(&[("disk", "nvme")]))?;
        }
        Some(())
    })
    .await;

    until("both are listed", || async {
        let all = api.aggregates().list_aggregates(api::ListAggregatesRequest::default()).await.ok()?;
        (all.into_inner().aggregates.len() == 2).then_some(())
    })
    .await;
    let page = |page_token: String| api::ListAggregatesRequest { page_size: 1, page_token };
    let first = client.list_aggregates(page(String::new())).await.unwrap().into_inner();
    let second = client.list_aggregates(page(first.next_page_token)).await.unwrap().into_inner();
    let ids = [&first.aggregates[0].id, &second.aggregates[0].id];
    assert_eq!((ids, second.next_page_token.as_str()), (["a", "b"].map(String::from).each_ref(), ""));
    let gone = |id: &str, allow_missing| api::DeleteAggregateRequest {
        aggregate_id: id.into(),
        allow_missing,
        ..Default::default()
    };
    assert_eq!(reason(client.delete_aggregate(gone("a", false)).await).unwrap_err(), Reason::InvalidState);
    client.delete_aggregate(gone("b", false)).await.unwrap();
    assert_eq!(
        reason(client.delete_aggregate(gone("b", false)).await).unwrap_err(),
        Reason::AggregateNotFound
    );
    client.delete_aggregate(gone("b", true)).await.unwrap();
    cluster.shutdown().await;
}

/// What a conductor leaves behind that stored a change and stopped.
async fn stored_only(cluster: &Cluster, id: &str, hosts: &[&str]) {
    let key = Keys::new(cluster.cell()).aggregate(&AggregateId::parse(id).unwrap());
    let store = cluster.shared_store();
    let (read, _) = store.get(&key).await.unwrap();
    let mut record = pb::Aggregate::decode(read.unwrap().value).unwrap();
    record.hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
    store.txn(Txn::new().put(key, record.encode_to_vec())).await.unwrap();
}

async fn what_was_stored_and_not_told_is_told_when_it_is_asked_for_again(backing: Backing) {
    let Some((cluster, api)) = started(plan(backing)).await else { return };
    aggregate(&api, "ssd", &[("disk", "ssd")], &[]).await;
    stored_only(&cluster, "ssd", &["compute-2"]).await;
    add(&api, "ssd", &["compute-2"]).await.unwrap();
    until_in(&api, "compute-2", &["ssd"]).await;
    stored_only(&cluster, "ssd", &[]).await;
    remove(&api, "ssd", "compute-2").await;
    until_in(&api, "compute-2", &[]).await;
    cluster.shutdown().await;
}

async fn hosts_that_were_added_once_and_left_do_not_come_back_with_the_request(backing: Backing) {
    let Some((cluster, api)) = started(plan(backing)).await else { return };
    aggregate(&api, "ssd", &[("disk", "ssd")], &[]).await;
    let request = api::AddAggregateHostsRequest {
        request_id: "once".into(),
        aggregate_id: "ssd".into(),
        hosts: vec!["compute-2".into()],
    };
    let added = api.aggregates().add_aggregate_hosts(request.clone()).await.unwrap().into_inner();
    assert_eq!(added.aggregate.unwrap().hosts, ["compute-2"]);
    remove(&api, "ssd", "compute-2").await;
    stored_only(&cluster, "ssd", &["compute-3"]).await;
    let again = api.aggregates().add_aggregate_hosts(request.clone()).await.unwrap().into_inner();
    assert_eq!(again.aggregate.unwrap().hosts, ["compute-3"], "as it is now");
    // What was stored and not told is told, whoever asks again.
    until_in(&api, "compute-3", &["ssd"]).await;
    until_in(&api, "compute-2", &[]).await;
    let other = api::AddAggregateHostsRequest { hosts: vec!["compute-1".into()], ..request };
    let refused = reason(api.aggregates().add_aggregate_hosts(other).await);
    assert_eq!(refused.unwrap_err(), Reason::RequestIdReused);
    cluster.shutdown().await;
}

async fn a_delete_is_done_once_for_each_request_id(backing: Backing) {
    let Some((cluster, api)) = started(plan(backing)).await else { return };
    aggregate(&api, "a", &[], &[]).await;
    let flavor = pb::Flavor { id: "a".into(), vcpus: 1, ram_mib: 512, ..Default::default() };
    let request = api::CreateFlavorRequest { flavor: Some(flavor), ..Default::default() };
    api.flavors().create_flavor(request).await.unwrap();
    let image = pb::Image { id: "a".into(), ..Default::default() };
    let request = api::CreateImageRequest { image: Some(image), ..Default::default() };
    api.images().create_image(request).await.unwrap();

    let aggregate = async |request_id: &str| {
        let (request_id, aggregate_id) = (request_id.into(), "a".into());
        let request = api::DeleteAggregateRequest { request_id, aggregate_id, ..Default::default() };
        reason(api.aggregates().delete_aggregate(request).await).map(drop)
    };
    let flavor = async |request_id: &str| {
        let (request_id, flavor_id) = (request_id.into(), "a".into());
        let request = api::DeleteFlavorRequest { request_id, flavor_id, ..Default::default() };
        reason(api.flavors().delete_flavor(request).await).map(drop)
    };
    let image = async |request_id: &str| {
        let (request_id, image_id) = (request_id.into(), "a".into());
        let request = api::DeleteImageRequest { request_id, image_id, ..Default::default() };
        reason(api.images().delete_image(request).await).map(drop)
    };
    for _ in 0..2 {
        let answers = [aggregate("gone-1").await, flavor("gone-2").await, image("gone-3").await];
        assert_eq!(answers, [Ok(()), Ok(()), Ok(())]);
    }
    let answers = [aggregate("gone-4").await, flavor("gone-5").await, image("gone-6").await];
    let missing = [Reason::AggregateNotFound, Reason::FlavorNotFound, Reason::ImageNotFound];
    assert_eq!(answers, missing.map(Err));
    assert_eq!(flavor("gone-1").await, Err(Reason::RequestIdReused));
    cluster.shutdown().await;
}
