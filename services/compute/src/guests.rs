//! Guests as the executor's work: made by spawn, unmade by destroy, reported as instances.

use std::sync::Arc;

use async_trait::async_trait;
use kilonova_model::{Error, InstanceId};
use kilonova_proto::conductor::v1::{InstanceReport, ReportStatus};
use kilonova_runtime::agent::ledger::{Conclusion, Outcome, Stamp};
use kilonova_runtime::agent::work::{Site, Verbs, Work};
use tokio_util::sync::CancellationToken;

use crate::claims::HostClaims;
use crate::driver::{Driver, GuestFacts, GuestSpec};

/// The guests of one hypervisor.
pub struct Guests {
    site: Site,
    driver: Arc<dyn Driver>,
}

impl Guests {
    /// Work done by this driver on this host.
    pub fn new(site: Site, driver: Arc<dyn Driver>) -> Self {
        Self { site, driver }
    }
}

#[async_trait]
impl Work for Guests {
    type Id = InstanceId;
    type Order = GuestSpec;
    type Made = GuestFacts;
    type Claims = HostClaims;
    type Report = InstanceReport;

    const VERBS: Verbs =
        Verbs { make: "build", driver_make: "spawn", unmake: "terminate", driver_unmake: "destroy" };

    async fn make(
        &self,
        id: InstanceId,
        stamp: Stamp,
        spec: &GuestSpec,
        cancel: &CancellationToken,
    ) -> Result<GuestFacts, Error> {
        tracing::info!(%id, %stamp, name = spec.name, host = %self.site.host, "spawning");
        self.driver.spawn(id, stamp, spec, cancel).await
    }

    async fn unmake(&self, id: InstanceId, stamp: Stamp) -> Result<(), Error> {
        tracing::info!(%id, %stamp, host = %self.site.host, "destroying");
        self.driver.destroy(id, stamp).await
    }

    fn report(&self, id: InstanceId, conclusion: &Conclusion<GuestFacts>) -> InstanceReport {
        let mut report = InstanceReport {
            instance_id: id.to_string(),
            generation: conclusion.stamp.generation.0,
            attempt: conclusion.stamp.attempt.0,
            steps: conclusion.steps.clone(),
            ..InstanceReport::default()
        };
        match &conclusion.outcome {
            Outcome::Ready(facts) => {
                report.set_status(ReportStatus::Ready);
                report.set_power_state(facts.power_state);
                report.addresses.clone_from(&facts.addresses);
            }
            Outcome::Failed(fault) => {
                report.set_status(ReportStatus::Failed);
                report.fault = Some(*fault.clone());
            }
            Outcome::Gone => report.set_status(ReportStatus::Gone),
        }
        report
    }
}
