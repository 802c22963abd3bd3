//! Guests as the executor's work: made by spawn, changed by what is asked of them, unmade by destroy, reported as
//! instances.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use kilonova_model::{Error, InstanceId, Reason};
use kilonova_proto::compute::v1 as pb;
use kilonova_proto::conductor::v1::{InstanceReport, ReportStatus};
use kilonova_proto::types::v1::action::Kind;
use kilonova_runtime::agent::inventory::Known;
use kilonova_runtime::agent::ledger::{Conclusion, Outcome, Stamp};
use kilonova_runtime::agent::work::{Site, Verbs, Work};
use tokio_util::sync::CancellationToken;

use crate::claims::HostClaims;
use crate::driver::{Driver, Guest, GuestAct, GuestFacts, GuestSpec, Move, PowerAct};
use crate::share::Amount;

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

    /// A guest that is made anew may take more disk than before.
    fn claim_act(claims: &mut HostClaims, id: InstanceId, act: &mut GuestAct) -> Result<(), Error> {
        if let GuestAct::Rebuild(rebuild) = act {
            rebuild.held_gib = claims.grow_disk(id, rebuild.disk_gib)?;
        }
        Ok(())
    }

    fn act_failed(claims: &mut HostClaims, id: InstanceId, act: &GuestAct) {
        if let GuestAct::Rebuild(rebuild) = act {
            claims.set_disk(id, rebuild.held_gib);
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
            GuestAct::Rebuild(rebuild) => self.driver.rebuild(id, stamp, rebuild, cancel).await,
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

/// What there is on a host: what the book knows, what the hypervisor has, and what room is held.
pub fn inventory(
    known: &BTreeMap<InstanceId, Known>,
    found: Vec<Guest>,
    held: Vec<(InstanceId, Amount)>,
) -> BTreeMap<InstanceId, pb::Guest> {
    let mut all = BTreeMap::<InstanceId, pb::Guest>::new();
    let of = |id: InstanceId| pb::Guest { instance_id: id.to_string(), ..Default::default() };
    let mut stamps = BTreeMap::<InstanceId, Stamp>::new();
    for (id, known) in known {
        all.entry(*id).or_insert_with(|| of(*id)).busy = known.busy;
        stamps.insert(*id, known.stamp);
    }
    for guest in found {
        let entry = all.entry(guest.id).or_insert_with(|| of(guest.id));
        entry.present = true;
        entry.set_power_state(guest.facts.power_state);
        entry.volume_ids = guest.volumes.iter().map(ToString::to_string).collect();
        let stamp = stamps.entry(guest.id).or_default();
        *stamp = guest.stamp.max(*stamp);
    }
    for (id, amount) in held {
        let entry = all.entry(id).or_insert_with(|| of(id));
        entry.claimed = true;
        (entry.vcpus, entry.ram_mib, entry.disk_gib) = (amount.vcpus, amount.ram_mib, amount.disk_gib);
    }
    for (id, stamp) in stamps {
        if let Some(entry) = all.get_mut(&id) {
            (entry.generation, entry.attempt) = (stamp.generation.0, stamp.attempt.0);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use kilonova_model::{Attempt, Generation};

    fn at(generation: u64) -> Stamp {
        Stamp { generation: Generation(generation), attempt: Attempt(1) }
    }

    #[test]
    fn guests_claims_and_work_are_one_list() {
        let ids: Vec<InstanceId> = (0..3).map(|_| InstanceId::generate()).collect();
        let known = BTreeMap::from([
            (ids[0], Known { stamp: at(3), busy: false }),
            (ids[1], Known { stamp: at(1), busy: true }),
        ]);
        let amount = Amount { vcpus: 2, ram_mib: 512, disk_gib: 1 };
        let facts = GuestFacts::default();
        let guest = |id, stamp| Guest {
            id,
            stamp,
            act: None,
            share: amount.into(),
            volumes: Vec::new(),
            facts: facts.clone(),
        };
        let found = vec![guest(ids[0], at(2)), guest(ids[2], at(7))];
        let all = inventory(&known, found, vec![(ids[0], amount), (ids[1], amount)]);
        let seen = |id: &InstanceId| {
            let one = &all[id];
            (one.generation, one.present, one.claimed, one.busy, one.vcpus)
        };
        assert_eq!(seen(&ids[0]), (3, true, true, false, 2), "its newest command");
        assert_eq!(seen(&ids[1]), (1, false, true, true, 2), "being made");
        assert_eq!(seen(&ids[2]), (7, true, false, false, 0), "behind the agent's back");
    }
}
