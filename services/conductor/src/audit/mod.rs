//! The audit: what does not agree, of records, usage, server groups, guests, claims, volumes, snapshots and exports; and how
//! it is mended.
//!
//! # Theory of operation
//!
//! ```text
//!   look: ask the hosts ──► read the store ──► compare ──► nothing: done
//!                                                 │ findings
//!                                                 ▼ a moment later
//!   look again, at the hosts found ──► compare ──► what is the same both times ──► heal, one after another
//! ```
//!
//! Hosts are asked first and the store, not memory, is read then: a record is written before its host is asked for
//! anything, so what was there and is in no record is wanted by nobody. What is missing is judged the other way round, by
//! the second look: the record is as it was before the host was asked again. What is busy on a host is passed over, and so
//! is a record with something under way; that which a conductor is still to remove has a receipt, and is left to it.
//!
//! The judges ([`usage`], [`groups`], [`guests`], [`volumes`], [`attachments`], [`receipts`]) are pure. A finding carries
//! all that it rests on: the revisions of records and the commands that hosts had seen. It is believed if both looks give
//! the same, and [`heal`] writes and commands only as long as those still hold: a record that changed makes the write fail,
//! and a host that has seen a newer command refuses the older one.

pub mod attachments;
pub mod finding;
#[cfg(test)]
mod fixtures;
pub mod groups;
pub mod guests;
pub mod heal;
pub mod look;
pub mod receipts;
pub mod usage;
pub mod volumes;
pub mod world;

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use kilonova_model::{Error, HostName, Reason, ServiceKind};
use kilonova_proto::types::v1 as pb;
use kilonova_proto::types::v1::drift::{Healing, Kind};

use crate::history::service_kind;

pub use finding::{Finding, Heal};
pub use look::Auditor;
pub use world::World;

/// Most findings of one answer.
const MAX_FINDINGS: usize = 1000;
/// How long after the first look the second one is: what is only late, as a conductor's next step, is done by then.
const SECOND_LOOK: Duration = Duration::from_millis(300);
/// How often the usage of projects is looked at that changes meanwhile.
const USAGE_TRIES: usize = 5;

/// All that does not agree in what was seen.
#[must_use]
pub fn compare(world: &World, records_too: bool, now: SystemTime) -> Vec<Finding> {
    let mut found = guests::judge(world);
    found.extend(volumes::judge(world));
    found.extend(attachments::exports(world));
    if records_too {
        found.extend(usage::judge(world));
        found.extend(groups::judge(world));
        found.extend(attachments::judge(world));
        found.extend(receipts::judge(world, now));
    }
    found.sort_by(|a, b| a.order().cmp(&b.order()));
    found
}

/// What both looks gave, as the second one has it. Usage needs one look only: it is judged if it did not change during that.
fn confirmed(first: &[Finding], second: Vec<Finding>) -> Vec<Finding> {
    let seen: BTreeSet<_> = first.iter().map(Finding::basis).collect();
    let is_usage = |finding: &Finding| finding.kind == Kind::UsageDrift;
    second.into_iter().filter(|finding| is_usage(finding) || seen.contains(&finding.basis())).collect()
}

impl Auditor {
    /// Compares everything, or what one host has, and heals if that is wanted.
    pub async fn audit(&self, host: &str, heal: bool) -> Result<pb::Audit, Error> {
        let hosts = self.hosts(host)?;
        let all = host.is_empty();
        let world = self.look(&hosts).await?;
        let mut answer = summary(&world, all);
        let mut first = compare(&world, all, SystemTime::now());
        answer.truncated = first.len() > MAX_FINDINGS;
        first.truncate(MAX_FINDINGS);
        let mut unsettled = if all { world.unsettled() } else { BTreeSet::new() };
        drop(world);
        let mut found = Vec::new();
        if !first.is_empty() {
            tokio::time::sleep(SECOND_LOOK).await;
            let again = of_findings(&first, &hosts);
            let world = self.look(&again).await?;
            found = confirmed(&first, compare(&world, all, SystemTime::now()));
            if all {
                unsettled = world.unsettled();
            }
        }
        found.extend(self.usage_of_the_busy(&mut unsettled).await?);
        found.sort_by(|a, b| a.order().cmp(&b.order()));
        answer.unchecked.extend(unsettled.into_iter().map(|project| pb::Unchecked {
            name: project,
            cause: "its usage changed at every look".to_owned(),
            ..Default::default()
        }));
        for finding in found {
            let healed = if heal { Some(self.heal(&finding).await) } else { None };
            answer.drifts.push(told(finding, healed));
        }
        Ok(answer)
    }

    /// The findings about projects whose usage changed while the records were read. Those that keep changing stay in `busy`.
    async fn usage_of_the_busy(&self, busy: &mut BTreeSet<String>) -> Result<Vec<Finding>, Error> {
        let mut found = Vec::new();
        for _ in 0..USAGE_TRIES {
            if busy.is_empty() {
                break;
            }
            let world = self.look(&[]).await?;
            let unsettled = world.unsettled();
            let of_them = usage::judge(&world).into_iter().filter(|one| busy.contains(&one.project));
            found.extend(of_them);
            busy.retain(|project| unsettled.contains(project));
        }
        Ok(found)
    }
}

/// The hosts to ask again.
fn of_findings(found: &[Finding], hosts: &[(ServiceKind, HostName)]) -> Vec<(ServiceKind, HostName)> {
    let named: BTreeSet<&str> = found.iter().map(|finding| finding.host.as_str()).collect();
    let mut asked: BTreeSet<&str> = found.iter().map(|finding| finding.backend.as_str()).collect();
    asked.extend(named);
    hosts.iter().filter(|(_, host)| asked.contains(host.as_str())).cloned().collect()
}

fn summary(world: &World, all: bool) -> pb::Audit {
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let unchecked = world.unchecked.iter().map(|((service, host), cause)| pb::Unchecked {
        service: service_kind(*service).into(),
        name: host.to_string(),
        cause: cause.clone(),
    });
    pb::Audit {
        instances: count(world.instances.len()),
        volumes: count(world.volumes.len()),
        snapshots: count(world.snapshots.len()),
        server_groups: if all { count(world.groups.len()) } else { 0 },
        projects: if all { count(world.usages.len()) } else { 0 },
        hosts: count(world.computes.len() + world.backends.len()),
        unchecked: unchecked.collect(),
        ..Default::default()
    }
}

/// A finding as users see it.
fn told(finding: Finding, healed: Option<Result<(), String>>) -> pb::Drift {
    let (healing, healing_detail) = match healed {
        None => (Healing::Unspecified, String::new()),
        Some(Ok(())) => (Healing::Healed, String::new()),
        Some(Err(why)) => (Healing::NotHealed, why),
    };
    pb::Drift {
        kind: finding.kind.into(),
        remedy: finding.heal.as_ref().map(Heal::remedy).unwrap_or_default(),
        subject_id: finding.subject,
        project_id: finding.project,
        host: finding.host,
        cause: finding.cause,
        healing: healing.into(),
        healing_detail,
    }
}

/// The answer when a host is named that never registered.
fn no_such_host(host: &str) -> Error {
    let message = format!("no compute host and no backend {host} has registered");
    Error::new(Reason::HostNotFound, message).with("host", host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_rests_on_the_same_both_times_is_believed() {
        let finding = |subject: &str, revision| {
            Finding::new(Kind::GuestOrphan, subject, String::new()).on("h1").resting_on([revision])
        };
        let first = [finding("a", 1), finding("b", 1), finding("c", 1)];
        let usage = Finding::new(Kind::UsageDrift, "demo", String::new());
        let second = vec![finding("a", 1), finding("b", 2), finding("d", 1), usage];
        let subjects = |found: Vec<Finding>| found.into_iter().map(|one| one.subject).collect::<Vec<_>>();
        assert_eq!(subjects(confirmed(&first, second)), ["a", "demo"]);
    }

    #[test]
    fn hosts_of_findings_and_their_backends_are_asked_again_and_no_others() {
        let host = |service, name: &str| (service, HostName::parse(name).unwrap());
        let hosts = [
            host(ServiceKind::Compute, "h1"),
            host(ServiceKind::Compute, "h2"),
            host(ServiceKind::Volume, "b1"),
            host(ServiceKind::Volume, "b2"),
        ];
        let export = Finding::new(Kind::ExportOrphan, "v", String::new()).on("h1");
        let export = Finding { backend: "b2".into(), ..export };
        assert_eq!(of_findings(&[export], &hosts), [hosts[0].clone(), hosts[3].clone()]);
    }
}
