//! Where administrators put hosts: their zones, and what they say hosts can do.

use std::collections::BTreeMap;

use kilonova_model::{Epoch, Error, Reason};
use kilonova_proto::types::v1 as pb;

use kilonova_store::Txn;

use super::{HostId, Hosts, Once};

/// What is to be changed; what is not set stays.
#[derive(Debug, Clone, Default)]
pub struct HostChange {
    /// The zone; empty for that of its own configuration.
    pub assigned_zone: Option<String>,
    /// What it can do besides what its driver says.
    pub traits: Option<Vec<String>>,
}

/// The zone a host is in, given that of its own configuration.
pub(super) fn effective(host: &pb::Host, own_zone: &str) -> String {
    if host.assigned_zone.is_empty() { own_zone.to_owned() } else { host.assigned_zone.clone() }
}

impl Hosts {
    /// Changes what administrators say of a host, and tells it. `bound` counts what is on it that asked for a zone.
    pub async fn update(
        &self,
        once: &Once<'_>,
        id: &HostId,
        change: &HostChange,
        bound: impl Fn(&str) -> usize,
    ) -> Result<pb::Host, Error> {
        let entry = self
            .modify(id, Some(once), &Txn::new(), |record| {
                let host = record.host.get_or_insert_default();
                if let Some(traits) = &change.traits {
                    host.traits.clone_from(traits);
                }
                if let Some(zone) = &change.assigned_zone {
                    host.assigned_zone.clone_from(zone);
                    let before = std::mem::take(&mut host.availability_zone);
                    host.availability_zone = effective(host, &record.own_zone);
                    if before != host.availability_zone {
                        refuse_if_bound(&before, bound(&before))?;
                    }
                }
                Ok(())
            })
            .await?;
        let host = self.shown(id, &entry);
        self.tell_placement(id, Epoch(host.epoch), self.placement(id, &entry)).await;
        Ok(host)
    }

    /// The zones that hosts and backends are in, in the order of their names.
    #[must_use]
    pub fn zones(&self) -> Vec<pb::Zone> {
        let mut zones = BTreeMap::<String, pb::Zone>::new();
        let (entries, _) = self.cache.page(None, usize::MAX, |_, _| true);
        for host in entries.iter().filter_map(|(_, entry)| entry.record.host.as_ref()) {
            let zone = zones.entry(host.availability_zone.clone()).or_default();
            let enabled = u32::from(host.admin_state() != pb::host::AdminState::Disabled);
            let (all, able) = match host.service() {
                pb::ServiceKind::Compute => (&mut zone.compute_hosts, &mut zone.enabled_compute_hosts),
                _ => (&mut zone.storage_backends, &mut zone.enabled_storage_backends),
            };
            (*all, *able) = (*all + 1, *able + enabled);
        }
        zones.into_iter().map(|(name, zone)| pb::Zone { name, ..zone }).collect()
    }
}

fn refuse_if_bound(zone: &str, bound: usize) -> Result<(), Error> {
    if bound == 0 {
        return Ok(());
    }
    let message = format!("{bound} on it asked for zone {zone}; move or delete them first");
    Err(Error::new(Reason::InvalidState, message).with("availability_zone", zone).with("bound", bound))
}
