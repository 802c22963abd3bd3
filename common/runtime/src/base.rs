//! `kilonova.base.v1.BaseService`: what every service answers, whatever else it does.

use std::time::SystemTime;

use kilonova_model::{CellName, Epoch, Error, FieldViolation, HostName, ServiceKind};
use kilonova_proto::base::v1::base_service_server::BaseService;
use kilonova_proto::base::v1::{
    DiagnosticsSection, GetDiagnosticsRequest, GetDiagnosticsResponse, GetServiceInfoRequest,
    GetServiceInfoResponse, PingRequest, PingResponse,
};
use kilonova_proto::types::v1::ServiceKind as ProtoServiceKind;
use kilonova_rpc::status::to_status;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::diagnostics::Diagnostics;
use crate::readiness::Readiness;

/// The full name of the service.
pub const SERVICE: &str = "kilonova.base.v1.BaseService";

/// The version of this build.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

const LONGEST_PING: usize = 64 << 10;

/// One service's answers.
#[derive(Clone, Debug)]
pub(crate) struct Base {
    pub service: ServiceKind,
    pub host: HostName,
    pub cell: CellName,
    pub minor: u32,
    pub epoch: watch::Receiver<Epoch>,
    pub started: Instant,
    pub started_at: SystemTime,
    pub readiness: Readiness,
    pub diagnostics: Diagnostics,
}

#[tonic::async_trait]
impl BaseService for Base {
    async fn ping(&self, request: Request<PingRequest>) -> Result<Response<PingResponse>, Status> {
        let PingRequest { payload } = request.into_inner();
        if payload.len() > LONGEST_PING {
            let described = format!("has {} bytes, more than {LONGEST_PING}", payload.len());
            return Err(refused("payload", described));
        }
        Ok(Response::new(PingResponse { payload, host: self.host.to_string() }))
    }

    async fn get_service_info(
        &self,
        _: Request<GetServiceInfoRequest>,
    ) -> Result<Response<GetServiceInfoResponse>, Status> {
        let conditions = self.readiness.current();
        Ok(Response::new(GetServiceInfoResponse {
            service: proto_kind(self.service).into(),
            host: self.host.to_string(),
            cell: self.cell.to_string(),
            epoch: self.epoch.borrow().0,
            version: VERSION.to_owned(),
            api_minor: self.minor,
            start_time: Some(self.started_at.into()),
            uptime: self.started.elapsed().try_into().ok(),
            ready: conditions.ready(),
            not_ready_reasons: conditions.missing().map(|(name, why)| format!("{name}: {why}")).collect(),
        }))
    }

    async fn get_diagnostics(
        &self,
        request: Request<GetDiagnosticsRequest>,
    ) -> Result<Response<GetDiagnosticsResponse>, Status> {
        let wanted = request.into_inner().sections;
        let all = self.diagnostics.collect();
        if let Some(unknown) = wanted.iter().find(|name| !all.contains_key(*name)) {
            let known: Vec<_> = all.keys().map(String::as_str).collect();
            return Err(refused("sections", format!("{unknown} is none of {}", known.join(", "))));
        }
        let sections = all.into_iter().filter(|(name, _)| wanted.is_empty() || wanted.contains(name));
        let sections = sections.map(|(name, json)| DiagnosticsSection { name, json: json.to_string() });
        Ok(Response::new(GetDiagnosticsResponse { sections: sections.collect() }))
    }
}

fn refused(field: &str, description: String) -> Status {
    to_status(&Error::invalid(vec![FieldViolation { field: field.to_owned(), description }]))
}

fn proto_kind(kind: ServiceKind) -> ProtoServiceKind {
    match kind {
        ServiceKind::Api => ProtoServiceKind::Api,
        ServiceKind::Conductor => ProtoServiceKind::Conductor,
        ServiceKind::Scheduler => ProtoServiceKind::Scheduler,
        ServiceKind::Compute => ProtoServiceKind::Compute,
        ServiceKind::Volume => ProtoServiceKind::Volume,
    }
}
