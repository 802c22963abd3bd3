//! Guests as the executor's work: made by spawn, started, stopped and rebooted, unmade by destroy, reported as
//! instances.

use std::sync::Arc;

use async_trait::async_trait;
use kilonova_model::{Error, InstanceId, Reason};
use kilonova_proto::conductor::v1::{InstanceReport, ReportStatus};
use kilonova_proto::types::v1::action::Kind;
use kilonova_runtime::agent::ledger::{Conclusion, Outcome, Stamp};
use kilonova_runtime::agent::work::{Site, Verbs, Work};
use tokio_util::sync::CancellationToken;

use crate::claims::HostClaims;
use crate::driver::{Driver, GuestFacts, GuestSpec, PowerAct};

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
    type Act = PowerAct;
    type Claims = HostClaims;
    type Report = InstanceReport;

    const VERBS: Verbs =
        Verbs { make: "build", driver_make: "spawn", unmake: "terminate", driver_unmake: "destroy" };
    const NOT_FOUND: Reason = Reason::InstanceNotFound;

    fn kind(act: &PowerAct) -> Kind {
        match act {
            PowerAct::Start => Kind::Start,
            PowerAct::Stop => Kind::Stop,
            PowerAct::Reboot { .. } => Kind::Reboot,
        }
    }

    fn act_name(act: &PowerAct) -> &'static str {
        match act {
            PowerAct::Start => "power_on",
            PowerAct::Stop => "power_off",
            PowerAct::Reboot { .. } => "reboot",
        }
    }

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

    async fn act(
        &self,
        id: InstanceId,
        stamp: Stamp,
        act: &PowerAct,
        cancel: &CancellationToken,
    ) -> Result<GuestFacts, Error> {
        tracing::info!(%id, %stamp, ?act, host = %self.site.host, "changing the power state");
        self.driver.power(id, stamp, *act, cancel).await
    }

    fn report(&self, id: InstanceId, conclusion: &Conclusion<GuestFacts>) -> InstanceReport {
        let mut report = InstanceReport {
            instance_id: id.to_string(),
            generation: conclusion.stamp.generation.0,
            attempt: conclusion.stamp.attempt.0,
            steps: conclusion.steps.clone(),
            ..InstanceReport::default()
        };
        if let Some(act) = &conclusion.act {
            report.set_operation(act.kind);
            report.fault = act.fault.as_deref().cloned();
        }
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
