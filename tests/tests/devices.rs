//! PCI devices and NUMA cells, end to end through every service, over both stores.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;

use futures::future::join_all;
use kilonova_compute::config::NumaCellConfig;
use kilonova_model::{Reason, ServiceKind};
use kilonova_proto::api::v1 as api;
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::capabilities::Resources;
use kilonova_proto::types::v1::instance::State;
use kilonova_rpc::status::from_status;
use kilonova_tests::waiting::until;
use kilonova_tests::{Api, Backing, Cluster, Plan, over_both_stores};

over_both_stores!(
    devices_are_given_to_the_last_and_no_further,
    threads_are_pinned_to_the_last_and_no_further,
    devices_and_threads_move_with_the_guest_and_are_given_back,
);

fn flavor(id: &str, specs: &[(&str, &str)]) -> pb::Flavor {
    let extra_specs = specs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    pb::Flavor { id: id.into(), vcpus: 2, ram_mib: 1024, disk_gib: 1, extra_specs, ..Default::default() }
}

async fn create_flavor(api: &Api, flavor: pb::Flavor) -> Result<(), tonic::Status> {
    let request = api::CreateFlavorRequest { flavor: Some(flavor), ..Default::default() };
    api.flavors().create_flavor(request).await.map(drop)
}

/// Creates so many at once, each by a request of its own, and waits until each is built or has failed.
async fn at_once(api: &Api, flavor: &str, count: usize) -> Vec<pb::Instance> {
    let one = async || {
        let id = api.create("guest", flavor, 1).await.unwrap().remove(0);
        until(&format!("the build of {id} ended"), || async {
            api.get(&id).await.ok().filter(|i| matches!(i.state(), State::Active | State::Error))
        })
        .await
    };
    join_all((0..count).map(|_| one())).await
}

fn by_host(instances: &[pb::Instance]) -> BTreeMap<&str, usize> {
    let mut hosts = BTreeMap::new();
    for instance in instances.iter().filter(|instance| instance.state() == State::Active) {
        *hosts.entry(instance.host.as_str()).or_default() += 1;
    }
    hosts
}

/// How many found no place.
fn refused(instances: &[pb::Instance]) -> usize {
    let faults: Vec<&pb::Fault> = instances.iter().filter_map(|instance| instance.fault.as_ref()).collect();
    assert!(faults.iter().all(|fault| fault.reason == "NO_VALID_HOST"), "{faults:?}");
    faults.len()
}

/// How many hosts a filter removed for the one more that a full cell has no place for, and the first one's figures.
async fn one_more(api: &Api, flavor: &str, filter: &str) -> (u32, String) {
    let instance = at_once(api, flavor, 1).await.remove(0);
    assert_eq!(refused(std::slice::from_ref(&instance)), 1);
    let explanation = instance.fault.unwrap().explanation.unwrap();
    let result = explanation.filters.into_iter().find(|result| result.name == filter).unwrap();
    (result.removed, result.samples[0].detail.clone())
}

/// What a host publishes, as the api shows it.
async fn figures(api: &Api, host: &str) -> pb::ComputeResources {
    let request = api::GetHostRequest { service: pb::ServiceKind::Compute.into(), host: host.into() };
    let host = api.hosts().get_host(request).await.unwrap().into_inner().host.unwrap();
    match host.capabilities.unwrap().resources {
        Some(Resources::Compute(figures)) => figures,
        other => panic!("{other:?}"),
    }
}

async fn devices_are_given_to_the_last_and_no_further(backing: Backing) {
    let mut plan = Plan { computes: 2, ..Plan::new(backing) };
    plan.compute.driver.pci = [("gpu".to_owned(), 4)].into();
    let Some(mut cluster) = Cluster::start(plan).await else { return };
    let api = cluster.api();
    api.seed().await;
    create_flavor(&api, flavor("gpu", &[("pci_passthrough:alias", "gpu:1")])).await.unwrap();
    let bad = create_flavor(&api, flavor("bad", &[("pci_passthrough:alias", "gpu")])).await.unwrap_err();
    let error = from_status(&bad).unwrap();
    assert_eq!(error.reason, Reason::ValidationFailed);
    assert_eq!(error.violations[0].field, "flavor.extra_specs[\"pci_passthrough:alias\"]");

    let instances = at_once(&api, "gpu", 12).await;
    assert_eq!(by_host(&instances), [("compute-1", 4), ("compute-2", 4)].into());
    assert_eq!(refused(&instances), 4);
    let full = (2, "needs 1 gpu devices, has 0 of 4 free".to_owned());
    assert_eq!(one_more(&api, "gpu", "PciPassthroughFilter").await, full);

    // A host that starts again has what it gave.
    cluster.kill(ServiceKind::Compute, "compute-1");
    cluster.launch(ServiceKind::Compute, "compute-1").await;
    cluster.ready().await;
    until("the host shows what it gave", || async {
        let pools = figures(&api, "compute-1").await.pci_pools;
        (pools == [pb::PciPool { alias: "gpu".into(), total: 4, used: 4 }]).then_some(())
    })
    .await;
    assert_eq!(one_more(&api, "gpu", "PciPassthroughFilter").await, full);

    let gone = instances.iter().find(|instance| instance.host == "compute-1").unwrap();
    api.delete(&gone.id).await.unwrap();
    api.until(&gone.id, State::Deleted).await;
    until("the device is free", || async {
        (figures(&api, "compute-1").await.pci_pools[0].used == 3).then_some(())
    })
    .await;
    let next = at_once(&api, "gpu", 3).await;
    assert_eq!(by_host(&next), [("compute-1", 1)].into(), "one takes the device, the others find none");
    cluster.shutdown().await;
}

/// The threads pinned in each cell of a host.
async fn pinned(api: &Api, host: &str) -> Vec<u32> {
    figures(api, host).await.numa_cells.iter().map(|cell| cell.cpus_pinned).collect()
}

async fn threads_are_pinned_to_the_last_and_no_further(backing: Backing) {
    let mut plan = Plan { computes: 2, ..Plan::new(backing) };
    let driver = &mut plan.compute.driver;
    (driver.vcpus, driver.ram_mib) = (10, 16_384);
    let cell = |cpus| NumaCellConfig { cpus, memory_mib: 8192, ..NumaCellConfig::default() };
    driver.numa_cells = vec![cell(4), cell(5)];
    let Some(mut cluster) = Cluster::start(plan).await else { return };
    let api = cluster.api();
    api.seed().await;
    create_flavor(&api, flavor("pinned", &[("hw:cpu_policy", "dedicated")])).await.unwrap();
    let wide =
        pb::Flavor { vcpus: 4, ..flavor("wide", &[("hw:cpu_policy", "dedicated"), ("hw:numa_nodes", "2")]) };
    create_flavor(&api, wide).await.unwrap();
    let bad = create_flavor(&api, flavor("bad", &[("hw:numa_nodes", "3")])).await.unwrap_err();
    assert_eq!(from_status(&bad).unwrap().violations[0].field, "flavor.extra_specs[\"hw:numa_nodes\"]");

    let instances = at_once(&api, "pinned", 14).await;
    assert_eq!(by_host(&instances), [("compute-1", 4), ("compute-2", 4)].into());
    assert_eq!(refused(&instances), 6);
    let why = "needs 1 cell with 2 dedicated CPUs and 1024 MiB; 0 of 2 cells do, at most 1 CPUs and 6144 MiB are free in one";
    let full = (2, why.to_owned());
    assert_eq!(one_more(&api, "pinned", "NUMATopologyFilter").await, full);
    for host in ["compute-1", "compute-2"] {
        until("every pair of threads is pinned", || async {
            (pinned(&api, host).await == [4, 4]).then_some(())
        })
        .await;
    }

    // A host that starts again has what it gave, cell by cell.
    cluster.kill(ServiceKind::Compute, "compute-1");
    cluster.launch(ServiceKind::Compute, "compute-1").await;
    cluster.ready().await;
    assert_eq!(one_more(&api, "pinned", "NUMATopologyFilter").await, full);
    assert_eq!(pinned(&api, "compute-1").await, [4, 4]);

    for gone in instances.iter().filter(|instance| instance.host == "compute-1") {
        api.delete(&gone.id).await.unwrap();
        api.until(&gone.id, State::Deleted).await;
    }
    until("the threads are free", || async { (pinned(&api, "compute-1").await == [0, 0]).then_some(()) })
        .await;
    let next = at_once(&api, "wide", 3).await;
    assert_eq!(by_host(&next), [("compute-1", 2)].into(), "two in each cell for each");
    until("both cells are pinned", || async { (pinned(&api, "compute-1").await == [4, 4]).then_some(()) })
        .await;
    cluster.shutdown().await;
}

/// How many devices and threads each of the two hosts has given away.
async fn given(api: &Api) -> [(u32, u32); 2] {
    let of = async |host: &str| {
        let figures = figures(api, host).await;
        (figures.pci_pools[0].used, figures.numa_cells.iter().map(|cell| cell.cpus_pinned).sum())
    };
    [of("compute-1").await, of("compute-2").await]
}

async fn until_given(api: &Api, expected: [(u32, u32); 2]) {
    until(&format!("{expected:?} are given away"), || async { (given(api).await == expected).then_some(()) })
        .await;
}

/// On the one host this, on the other that.
fn on(host: &str, there: (u32, u32), elsewhere: (u32, u32)) -> [(u32, u32); 2] {
    if host == "compute-1" { [there, elsewhere] } else { [elsewhere, there] }
}

async fn devices_and_threads_move_with_the_guest_and_are_given_back(backing: Backing) {
    let mut plan = Plan { computes: 2, ..Plan::new(backing) };
    let driver = &mut plan.compute.driver;
    let cell = NumaCellConfig { cpus: 4, memory_mib: 8192, ..NumaCellConfig::default() };
    (driver.vcpus, driver.ram_mib, driver.numa_cells) = (8, 16_384, vec![cell.clone(), cell]);
    driver.pci = [("gpu".to_owned(), 4)].into();
    let Some(mut cluster) = Cluster::start(plan).await else { return };
    let api = cluster.api();
    api.seed().await;
    let both = |gpus| [("pci_passthrough:alias", gpus), ("hw:cpu_policy", "dedicated")];
    create_flavor(&api, flavor("both", &both("gpu:1"))).await.unwrap();
    create_flavor(&api, pb::Flavor { vcpus: 4, ..flavor("more", &both("gpu:3")) }).await.unwrap();
    create_flavor(&api, flavor("plain", &[])).await.unwrap();

    let instance = at_once(&api, "both", 1).await.remove(0);
    let (id, first) = (instance.id.as_str(), instance.host.as_str());
    until_given(&api, on(first, (1, 2), (0, 0))).await;

    let request = api::MigrateInstanceRequest { instance_id: id.into(), ..Default::default() };
    api.instances().migrate_instance(request).await.unwrap();
    let second = api.until(id, State::Resized).await.host;
    until_given(&api, [(1, 2), (1, 2)]).await;
    confirm(&api, id).await;
    until_given(&api, on(&second, (1, 2), (0, 0))).await;

    resize(&api, id, "more").await;
    until_given(&api, on(&second, (1, 2), (3, 4))).await;
    let request = api::RevertResizeRequest { instance_id: id.into(), ..Default::default() };
    let asked = api.instances().revert_resize(request).await.unwrap().into_inner().instance.unwrap();
    api.settled(&asked).await;
    until_given(&api, on(&second, (1, 2), (0, 0))).await;

    let request = api::RebuildInstanceRequest {
        instance_id: id.into(),
        image_id: "cirros".into(),
        ..Default::default()
    };
    let asked = api.instances().rebuild_instance(request).await.unwrap().into_inner().instance.unwrap();
    api.settled(&asked).await;
    until_given(&api, on(&second, (1, 2), (0, 0))).await;

    let request = api::MigrateInstanceRequest { instance_id: id.into(), live: true, ..Default::default() };
    let asked = api.instances().migrate_instance(request).await.unwrap().into_inner().instance.unwrap();
    assert_eq!(api.settled(&asked).await.host, first);
    until_given(&api, on(first, (1, 2), (0, 0))).await;

    // Agents that start again while both hosts hold a claim know both of them.
    resize(&api, id, "more").await;
    for host in ["compute-1", "compute-2"] {
        cluster.kill(ServiceKind::Compute, host);
        cluster.launch(ServiceKind::Compute, host).await;
    }
    cluster.ready().await;
    until_given(&api, on(first, (1, 2), (3, 4))).await;
    confirm(&api, id).await;
    until_given(&api, on(first, (0, 0), (3, 4))).await;

    resize(&api, id, "plain").await;
    until_given(&api, on(&second, (3, 4), (0, 0))).await;
    confirm(&api, id).await;
    until_given(&api, [(0, 0), (0, 0)]).await;
    cluster.shutdown().await;
}

/// Asks for another flavor, and waits until the instance runs with it elsewhere.
async fn resize(api: &Api, id: &str, flavor: &str) {
    let request =
        api::ResizeInstanceRequest { instance_id: id.into(), flavor_id: flavor.into(), ..Default::default() };
    let asked = api.instances().resize_instance(request).await.unwrap().into_inner().instance.unwrap();
    assert_eq!(api.settled(&asked).await.state(), State::Resized);
}

async fn confirm(api: &Api, id: &str) {
    let request = api::ConfirmResizeRequest { instance_id: id.into(), ..Default::default() };
    let asked = api.instances().confirm_resize(request).await.unwrap().into_inner().instance.unwrap();
    assert_eq!(api.settled(&asked).await.state(), State::Active);
}
