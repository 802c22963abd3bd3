//! Compute hosts that do nothing but publish: real capability servers on ports of their own, registered as hosts are.
//! Thousands fit into one process.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt, stream};
use kilonova_model::{CellName, Error, HostName, ServiceKind, Version, ZoneName, page};
use kilonova_proto::base::v1::GetServiceInfoRequest;
use kilonova_proto::base::v1::base_service_client::BaseServiceClient;
use kilonova_proto::scheduler::v1::scheduler_service_client::SchedulerServiceClient;
use kilonova_proto::scheduler::v1::{HostState, ListHostStatesRequest};
use kilonova_proto::types::v1::capabilities::Resources;
use kilonova_proto::types::v1::{Capabilities, ComputeResources, ServiceKind as ProtoServiceKind, host};
use kilonova_rpc::registry::{Endpoint, RegisterError, Registration, Registry, RegistryOptions};
use kilonova_rpc::server::{Identity, Served, Server, ServerBuilder};
use kilonova_runtime::agent::capability_server::{CAPABILITY_SERVICE, Source, capability_service};
use kilonova_runtime::agent::publisher::CapabilityPublisher;
use kilonova_store::SharedStore;
use tokio::net::TcpListener;
use tonic::Status;
use tonic::transport::Channel;

/// How many register at once.
const AT_ONCE: usize = 64;

/// One host that publishes, until it is dropped.
pub struct Publisher {
    /// Its name.
    pub host: String,
    publisher: CapabilityPublisher,
    _registration: Registration,
    _server: Server,
}

/// Starts those of these numbers.
pub async fn start(
    store: &SharedStore,
    cell: &CellName,
    numbers: Range<usize>,
) -> Result<Vec<Publisher>, RegisterError> {
    let registry = Registry::new(store.clone(), cell.clone());
    let starts = numbers.map(|number| Publisher::start(&registry, number));
    stream::iter(starts).buffered(AT_ONCE).try_collect().await
}

impl Publisher {
    async fn start(registry: &Registry, number: usize) -> Result<Self, RegisterError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let host = HostName::parse(&format!("compute-{number:05}")).expect("a host name");
        let endpoint = Endpoint {
            service: ServiceKind::Compute,
            host: host.clone(),
            addr: listener.local_addr().expect("its address").to_string(),
            zone: ZoneName::parse("zone-1").expect("a zone name"),
            minor: 0,
            authority: None,
        };
        let options = RegistryOptions::for_service(ServiceKind::Compute);
        let registration = registry.register(endpoint, options).await?;
        let publisher = CapabilityPublisher::new(Capabilities {
            host: host.to_string(),
            service: ProtoServiceKind::Compute.into(),
            availability_zone: "zone-1".into(),
            enabled: true,
            epoch: registration.epoch().0,
            resources: Some(Resources::Compute(figures())),
            ..Capabilities::default()
        });
        let identity = Identity {
            service: ServiceKind::Compute,
            host: host.clone(),
            cell: registry.cell().clone(),
            version: Version::v1(0),
            epoch: registration.epochs(),
        };
        let service = capability_service(publisher.clone(), Arc::new(Still));
        let server =
            ServerBuilder::new(identity).reflection(false).add(service, Served::all(CAPABILITY_SERVICE));
        server.health().set_serving(true);
        let server = server.serve(listener).expect("a server");
        Ok(Self { host: host.to_string(), publisher, _registration: registration, _server: server })
    }

    /// Publishes that it has claimed a little more, or nothing any more when it is full.
    pub fn claim(&self) {
        self.publisher.publish(|told| {
            if let Some(Resources::Compute(figures)) = &mut told.resources {
                figures.ram_used_mib = (figures.ram_used_mib + 512) % figures.ram_mib;
                figures.vcpus_used = (figures.vcpus_used + 1) % 256;
            }
        });
    }

    /// Of what it publishes, the newest.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.publisher.current().generation
    }
}

fn figures() -> ComputeResources {
    ComputeResources {
        vcpus: 64,
        cpu_allocation_ratio: 4.0,
        ram_mib: 262_144,
        ram_reserved_mib: 512,
        ram_allocation_ratio: 1.0,
        disk_gib: 4_000,
        disk_allocation_ratio: 1.0,
        hypervisor_type: "QEMU".into(),
        hypervisor_version: "7.2.0".into(),
        cpu_architecture: "x86_64".into(),
        machine_types: vec!["pc".into(), "q35".into()],
        ..ComputeResources::default()
    }
}

/// No driver.
struct Still;

#[async_trait]
impl Source for Still {
    fn publish(&self) {}

    async fn refresh(&self) -> Result<(), Error> {
        Ok(())
    }
}

/// Publishes so many changes a second, by one host after another, for ever.
pub async fn publish(publishers: &[Publisher], per_second: u32) {
    const TICK: Duration = Duration::from_millis(10);
    let mut ticks = tokio::time::interval(TICK);
    let (mut owed, mut hosts) = (0.0, publishers.iter().cycle());
    loop {
        ticks.tick().await;
        owed += f64::from(per_second) * TICK.as_secs_f64();
        for host in hosts.by_ref().take(owed as usize) {
            host.claim();
        }
        owed = owed.fract();
    }
}

/// What a scheduler knows of all hosts, or of those named.
pub async fn states(scheduler: &Channel, hosts: &[String]) -> Result<Vec<HostState>, Status> {
    let mut client = SchedulerServiceClient::new(scheduler.clone());
    let (mut all, mut page_token) = (Vec::new(), String::new());
    loop {
        let page_size = i32::try_from(page::MAX_PAGE).unwrap_or(i32::MAX);
        let request = ListHostStatesRequest { page_size, page_token, hosts: hosts.to_vec() };
        let answer = client.list_host_states(request).await?.into_inner();
        all.extend(answer.hosts);
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            return Ok(all);
        }
    }
}

/// How much a scheduler knows of all hosts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Known {
    /// How many are up.
    pub up: usize,
    /// The sum of the generations of what they published: one more with every change.
    pub changes: u64,
}

/// How much a scheduler knows.
pub async fn known(scheduler: &Channel) -> Result<Known, Status> {
    let states = states(scheduler, &[]).await?;
    let changes = states.iter().filter_map(|one| one.capabilities.as_ref()).map(|told| told.generation);
    let up = states.iter().filter(|one| one.state() == host::State::Up).count();
    Ok(Known { up, changes: changes.sum() })
}

/// Why a scheduler is not ready; `None` if it is.
pub async fn not_ready(scheduler: &Channel) -> Result<Option<String>, Status> {
    let mut client = BaseServiceClient::new(scheduler.clone());
    let info = client.get_service_info(GetServiceInfoRequest {}).await?.into_inner();
    Ok((!info.ready).then(|| info.not_ready_reasons.join("; ")))
}
