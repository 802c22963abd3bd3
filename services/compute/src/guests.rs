//! Guests as the executor's work: made by spawn, changed by what is asked of them, unmade by destroy, reported as
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
use crate::driver::{Driver, GuestAct, GuestFacts, GuestSpec, Move, PowerAct};

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
    type Act = GuestAct;
    type Claims = HostClaims;
    type Report = InstanceReport;

    const VERBS: Verbs = Verbs {
        noun: "instance",
        make: "build",
        driver_make: "spawn",
        unmake: "terminate",
        driver_unmake: "destroy",
    };
    const NOT_FOUND: Reason = Reason::InstanceNotFound;

    fn kind(act: &GuestAct) -> Kind {
        match act {
            GuestAct::Power(PowerAct::Start) => Kind::Start,
            GuestAct::Power(PowerAct::Stop) => Kind::Stop,
            GuestAct::Power(PowerAct::Reboot { .. }) => Kind::Reboot,
            GuestAct::Attach(_) => Kind::AttachVolume,
            GuestAct::Detach(_) => Kind::DetachVolume,
            GuestAct::Rebuild(_) => Kind::Rebuild,
            GuestAct::Move(part) => part.kind(),
        }
    }

    fn act_name(act: &GuestAct) -> &'static str {
        match act {
            GuestAct::Power(PowerAct::Start) => "power_on",
            GuestAct::Power(PowerAct::Stop) => "power_off",
            GuestAct::Power(PowerAct::Reboot { .. }) => "reboot",
            GuestAct::Attach(_) => "attach_volume",
            GuestAct::Detach(_) => "detach_volume",
            GuestAct::Rebuild(_) => "rebuild",
            GuestAct::Move(Move::HandOver { .. }) => "hand_over",
            GuestAct::Move(Move::TakeOver { .. }) => "take_over",
            GuestAct::Move(Move::TakeBack { .. }) => "take_back",
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
        act: &GuestAct,
        cancel: &CancellationToken,
    ) -> Result<GuestFacts, Error> {
        tracing::info!(%id, %stamp, what = Self::act_name(act), host = %self.site.host, "changing the guest");
        match act {
            GuestAct::Power(power) => self.driver.power(id, stamp, *power, cancel).await,
            GuestAct::Attach(device) => self.driver.attach(id, stamp, device, cancel).await,
            GuestAct::Detach(volume) => self.driver.detach(id, stamp, *volume, cancel).await,
            GuestAct::Rebuild(image) => self.driver.rebuild(id, stamp, image, cancel).await,
            GuestAct::Move(part) => self.driver.migrate(id, stamp, part, cancel).await,
        }
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
