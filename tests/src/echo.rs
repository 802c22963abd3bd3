//! A member that does nothing but answer: what the tests of reaching members call.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kilonova_model::{CellName, Epoch, HostName, ServiceKind, Version};
use kilonova_proto::api::v1 as api;
use kilonova_proto::api::v1::flavor_service_server::{FlavorService, FlavorServiceServer};
use kilonova_proto::api::v1::quota_service_server::{QuotaService, QuotaServiceServer};
use kilonova_proto::conductor::v1 as conductor;
use kilonova_proto::conductor::v1::report_service_server::{ReportService, ReportServiceServer};
use kilonova_proto::types::v1 as pb;
use kilonova_rpc::server::{Identity, Limits, Served, Server, ServerBuilder};
use kilonova_rpc::transport::Listen;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

/// Answers `GetQuota` and `UpdateQuota` (idempotent), `CreateFlavor` (never tried again) and `RegisterHost` (a report)
/// with its own name. What stands where the project or the flavor's id would is an [`Order`].
#[derive(Clone)]
pub struct Echo {
    name: String,
    seen: Arc<Seen>,
}

/// What an echo has seen.
#[derive(Debug, Default)]
pub struct Seen {
    calls: AtomicU64,
    repeated: AtomicU64,
}

impl Seen {
    /// Calls.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Those among them that were sent before, here or elsewhere.
    #[must_use]
    pub fn repeated(&self) -> u64 {
        self.repeated.load(Ordering::Relaxed)
    }
}

/// What an echo is to do before it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Nothing.
    Answer,
    /// Wait.
    Wait(Duration),
}

impl Order {
    /// The order as text, as it goes over the wire.
    #[must_use]
    pub fn text(self) -> String {
        match self {
            Self::Answer => String::new(),
            Self::Wait(time) => time.as_millis().to_string(),
        }
    }

    async fn follow(text: &str) {
        if let Ok(millis) = text.parse() {
            tokio::time::sleep(Duration::from_millis(millis)).await;
        }
    }
}

impl Echo {
    /// An echo of that name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), seen: Arc::default() }
    }

    /// What it has seen.
    #[must_use]
    pub fn seen(&self) -> Arc<Seen> {
        self.seen.clone()
    }

    /// Adds its services to a server.
    #[must_use]
    pub fn add_to(&self, server: ServerBuilder) -> ServerBuilder {
        server
            .add(QuotaServiceServer::new(self.clone()), Served::all("kilonova.api.v1.QuotaService"))
            .add(FlavorServiceServer::new(self.clone()), Served::all("kilonova.api.v1.FlavorService"))
            .add(ReportServiceServer::new(self.clone()), Served::all("kilonova.conductor.v1.ReportService"))
    }

    /// A server of it on this listener, which serves at once and is registered nowhere.
    #[must_use]
    pub fn serve(&self, service: ServiceKind, listener: impl Listen, limits: Limits) -> Server {
        let identity = Identity {
            service,
            host: HostName::parse(&self.name).expect("a host name"),
            cell: CellName::parse("test").expect("a cell name"),
            version: Version::v1(0),
            epoch: watch::channel(Epoch(1)).1,
        };
        let builder = self.add_to(ServerBuilder::new(identity).limits(limits));
        builder.health().set_serving(true);
        builder.serve(listener).expect("a server")
    }

    async fn take<T>(&self, request: &Request<T>, order: &str) -> pb::Quota {
        self.seen.calls.fetch_add(1, Ordering::Relaxed);
        if request.metadata().contains_key("grpc-previous-rpc-attempts") {
            self.seen.repeated.fetch_add(1, Ordering::Relaxed);
        }
        Order::follow(order).await;
        pb::Quota { project_id: self.name.clone(), ..Default::default() }
    }
}

#[tonic::async_trait]
impl QuotaService for Echo {
    async fn get_quota(
        &self,
        request: Request<api::GetQuotaRequest>,
    ) -> Result<Response<api::GetQuotaResponse>, Status> {
        let quota = self.take(&request, &request.get_ref().project_id).await;
        Ok(Response::new(api::GetQuotaResponse { quota: Some(quota) }))
    }

    async fn update_quota(
        &self,
        request: Request<api::UpdateQuotaRequest>,
    ) -> Result<Response<api::UpdateQuotaResponse>, Status> {
        let quota = self.take(&request, &request.get_ref().project_id).await;
        Ok(Response::new(api::UpdateQuotaResponse { quota: Some(quota) }))
    }
}

#[tonic::async_trait]
impl FlavorService for Echo {
    async fn create_flavor(
        &self,
        request: Request<api::CreateFlavorRequest>,
    ) -> Result<Response<api::CreateFlavorResponse>, Status> {
        let order = request.get_ref().flavor.clone().unwrap_or_default().id;
        let id = self.take(&request, &order).await.project_id;
        let flavor = Some(pb::Flavor { id, ..Default::default() });
        Ok(Response::new(api::CreateFlavorResponse { flavor }))
    }
}

#[tonic::async_trait]
impl ReportService for Echo {
    async fn register_host(
        &self,
        request: Request<conductor::RegisterHostRequest>,
    ) -> Result<Response<conductor::RegisterHostResponse>, Status> {
        self.take(&request, &request.get_ref().host).await;
        Ok(Response::new(conductor::RegisterHostResponse { enabled: true, ..Default::default() }))
    }
}
