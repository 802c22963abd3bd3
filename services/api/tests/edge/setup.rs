//! Starts an api and conductors, and connects to the api as any client would.

use std::sync::Arc;
use std::time::Duration;

use kilonova_api::Config;
use kilonova_model::{CellName, HostName, ServiceKind, ZoneName};
use kilonova_proto::api::v1::instance_service_client::InstanceServiceClient;
use kilonova_proto::conductor::v1::record_service_server::RecordServiceServer;
use kilonova_proto::conductor::v1::task_service_server::TaskServiceServer;
use kilonova_rpc::registry::RegistryOptions;
use kilonova_rpc::server::Served;
use kilonova_runtime::{Launch, LaunchOptions, Running};
use kilonova_store::SharedStore;
use kilonova_store::embedded::EmbeddedStore;
use tokio::net::TcpListener;
use tonic::transport::{Channel, Endpoint};

use crate::fake::{FakeConductor, World};

pub const SOON: Duration = Duration::from_secs(20);

pub struct Edge {
    store: SharedStore,
    pub world: Arc<World>,
    pub api: Running,
}

impl Edge {
    /// An api, and these conductors.
    pub async fn start(conductors: &[&str]) -> (Self, Vec<Running>) {
        Self::start_with(Config::default(), conductors).await
    }

    /// An api with this configuration, and these conductors.
    pub async fn start_with(config: Config, conductors: &[&str]) -> (Self, Vec<Running>) {
        let store: SharedStore = Arc::new(EmbeddedStore::open_temporary().unwrap());
        let world = Arc::new(World::default());
        let mut running = Vec::new();
        for name in conductors {
            running.push(conductor(&store, &world, name).await);
        }
        let launch = launch(&store, ServiceKind::Api, "api-1").await;
        let api = kilonova_api::start(config, launch).await.unwrap();
        let edge = Self { store, world, api };
        for name in conductors {
            edge.found(name).await;
        }
        (edge, running)
    }

    /// One more conductor.
    pub async fn conductor(&self, name: &str) -> Running {
        let running = conductor(&self.store, &self.world, name).await;
        self.found(name).await;
        running
    }

    /// Waits until the api calls this conductor.
    async fn found(&self, name: &str) {
        let ready = || self.api.peers().states().iter().any(|peer| peer.ready && peer.host.as_str() == name);
        let mut looks = tokio::time::interval(Duration::from_millis(5));
        let found = async {
            while !ready() {
                looks.tick().await;
            }
        };
        tokio::time::timeout(SOON, found).await.expect("the api finds the conductor");
    }

    pub fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.api.grpc_addr)).unwrap().connect_lazy()
    }

    pub fn instances(&self) -> InstanceServiceClient<Channel> {
        InstanceServiceClient::new(self.channel())
    }
}

async fn launch(store: &SharedStore, service: ServiceKind, name: &str) -> Launch {
    Launch {
        service,
        host: HostName::parse(name).unwrap(),
        cell: CellName::parse("test").unwrap(),
        zone: ZoneName::parse("a").unwrap(),
        store: store.clone(),
        listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
        http: None,
        advertise: None,
        options: LaunchOptions {
            registry: RegistryOptions { ttl: Duration::from_secs(2) },
            ..LaunchOptions::default()
        },
    }
}

async fn conductor(store: &SharedStore, world: &Arc<World>, name: &str) -> Running {
    let context = launch(store, ServiceKind::Conductor, name).await.register().await.unwrap();
    let fake = FakeConductor { name: name.to_owned(), world: world.clone() };
    let server = context
        .server()
        .add(TaskServiceServer::new(fake.clone()), Served::all("kilonova.conductor.v1.TaskService"))
        .add(RecordServiceServer::new(fake), Served::all("kilonova.conductor.v1.RecordService"));
    context.serve(server).await.unwrap()
}
