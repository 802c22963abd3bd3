//! `AuditService`: what does not agree, and its mending.

use kilonova_model::check::Checker;
use kilonova_model::{Error, HostName, Reason};
use kilonova_proto::conductor::v1 as proto;
use kilonova_proto::conductor::v1::audit_service_server::AuditService;
use kilonova_rpc::status::to_status;
use tonic::{Request, Response, Status};

use super::Conductor;

#[tonic::async_trait]
impl AuditService for Conductor {
    async fn audit(
        &self,
        request: Request<proto::AuditRequest>,
    ) -> Result<Response<proto::AuditResponse>, Status> {
        let proto::AuditRequest { heal, host } = request.into_inner();
        let mut check = Checker::new();
        check.optional_id::<HostName>("host", &host);
        check.finish().map_err(|error| to_status(&error))?;
        if heal && self.identity.waits() {
            let message = "cannot mend anything: the store is not what it was; accept it first (`kilonova store accept`), or bring back what it was";
            return Err(to_status(&Error::new(Reason::InvalidState, message)));
        }
        let _turn = self.audits.lock().await;
        let audit = self.auditor.audit(&host, heal).await.map_err(|error| to_status(&error))?;
        Ok(Response::new(proto::AuditResponse { audit: Some(audit) }))
    }
}
