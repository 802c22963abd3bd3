//! `ReportService`: what agents say of themselves and of what they hold.

use std::time::SystemTime;

use kilonova_model::page::page_size;
use kilonova_model::{Epoch, Error, HostName, Reason, Revision, ServiceKind};
use kilonova_proto::conductor::v1 as proto;
use kilonova_proto::conductor::v1::report_service_server::ReportService;
use kilonova_proto::conductor::v1::{InstanceRecord, ReportStatus, SnapshotRecord, VolumeRecord};
use kilonova_proto::types::v1 as pb;
use kilonova_rpc::caller::Caller;
use kilonova_rpc::status::to_status;
use prost::Message;
use tonic::{Request, Response, Status};

use super::hosts::host_id;
use super::pages::{cut, next_token, read_after};
use super::{Answer, Conductor};
use crate::cache::Entry;
use crate::identity::Remembered;
use crate::placed::Placed;
use crate::records::Records;
use crate::reports::{self, Report};
use crate::requests::read_id;

/// Most reports in one call.
const MAX_REPORTS: usize = 100;

impl Conductor {
    /// The host an agent speaks for, if it is its own and no newer incarnation of it is known.
    fn own_host<T>(
        &self,
        request: &Request<T>,
        service: ServiceKind,
        host: &str,
        epoch: u64,
    ) -> Result<HostName, Status> {
        let refuse = |error: Error| to_status(&error.with("host", host));
        let name = read_id::<HostName>("host", host).map_err(refuse)?;
        let caller = Caller::from_request(request);
        if !caller.is_some_and(|caller| caller.service == service && caller.host == name) {
            let message = format!("only the {service} agent of {host} may speak for it");
            return Err(refuse(Error::new(Reason::NotOwnHost, message)));
        }
        let registered = self.registry.members(service).current().callable(&name).map(|member| member.epoch);
        if registered.is_some_and(|registered| registered > Epoch(epoch)) {
            let message = format!("a newer incarnation of {host} has registered");
            return Err(refuse(Error::new(Reason::StaleEpoch, message)));
        }
        Ok(name)
    }
}

impl Conductor {
    /// Which store it is, once something was read from it.
    async fn store(&self) -> Result<pb::Store, Status> {
        self.identity.current().await.map_err(|error| to_status(&error))
    }
}

/// Those of `ids`, which `host` has, that a record wants, wherever they belong. The record gets to know that the host has it.
async fn wanted<P: Placed>(
    records: &Records<P>,
    host: &HostName,
    field: &str,
    ids: &[String],
) -> Result<Vec<proto::WantedRecord>, Status> {
    let failed = |error: Error| to_status(&error);
    if !ids.is_empty() {
        records.brought_up_to_date().await.map_err(failed)?;
    }
    let mut wanted = Vec::new();
    for text in ids {
        let id = read_id(field, text).map_err(failed)?;
        let noted = records.modify(id, |entry| {
            let mut record = P::clone(&entry.record);
            Ok(record.note_found(host.as_str(), SystemTime::now()).then_some(record))
        });
        let Some(entry) = noted.await.map_err(failed)? else { continue };
        if entry.record.is_wanted() {
            wanted.push(proto::WantedRecord { id: text.clone(), host: entry.record.status().host });
        }
    }
    Ok(wanted)
}

fn check_count(count: usize) -> Result<(), Status> {
    let mut check = kilonova_model::check::Checker::new();
    check.ensure(count <= MAX_REPORTS, "reports", format!("at most {MAX_REPORTS}"));
    check.finish().map_err(|error| to_status(&error))
}

/// The records of what is or may be on a host: an agent takes what is not among them for nobody's, so memory has to have all
/// that was committed before it asked.
async fn on_host<P: Placed>(
    records: &Records<P>,
    host: &str,
    size: i32,
    token: &str,
) -> Result<(Vec<P::Resource>, String), Error> {
    let limit = page_size(size)?;
    let filter = format!("{}@{host}", P::NOUN);
    let after = read_after::<P::Id>(&filter, token)?;
    records.brought_up_to_date().await?;
    let pass = |_: &P::Id, record: &P| record.receipts().iter().any(|receipt| receipt.host == host);
    let (mut entries, mut more) = records.cache.page(after.as_ref(), limit, pass);
    more |= cut(&mut entries, |record| record.resource().encoded_len());
    let next = next_token(&filter, &entries, more);
    for (id, entry) in &mut entries {
        tell_first(records, *id, entry, host).await?;
    }
    let seen = entries.iter().filter_map(|(_, entry)| entry.record.seen_by(host, entry.etag()));
    Ok((seen.collect(), next))
}

/// What a host is about to be told that has consequences is in the record first.
async fn tell_first<P: Placed>(
    records: &Records<P>,
    id: P::Id,
    entry: &mut Entry<P>,
    host: &str,
) -> Result<(), Error> {
    if !P::clone(&entry.record).note_told(host) {
        return Ok(());
    }
    let told = records
        .modify(id, |entry| {
            let mut record = P::clone(&entry.record);
            Ok(record.note_told(host).then_some(record))
        })
        .await?;
    if let Some(told) = told {
        *entry = told;
    }
    Ok(())
}

/// Adds what a ready instance's report says of the guest.
fn guest_details(
    power_state: pb::instance::PowerState,
    addresses: Vec<pb::InstanceAddress>,
) -> impl Fn(&mut InstanceRecord) -> bool {
    move |record| {
        let instance = record.instance.get_or_insert_default();
        let new = instance.power_state() != power_state || instance.addresses != addresses;
        instance.set_power_state(power_state);
        instance.addresses.clone_from(&addresses);
        new
    }
}

/// The operation that a report answers, if it answers one.
fn asked(operation: pb::action::Kind) -> Option<pb::action::Kind> {
    (operation != pb::action::Kind::Unspecified).then_some(operation)
}

/// Enters the reports of a request in `$records`; `$rest` gives of each the operation it answers, and what it says besides.
macro_rules! entered {
    ($conductor:ident, $records:ident, $service:expr, $request:ident, $id:ident, |$report:ident| $rest:block) => {{
        let message = $request.get_ref();
        let host = $conductor.own_host(&$request, $service, &message.host, message.epoch)?;
        check_count(message.reports.len())?;
        let again = $conductor.config.operation_timeout.get();
        for report in $request.into_inner().reports {
            let $report = &report;
            let (operation, details) = $rest;
            let read = Report {
                id: read_id(concat!("reports.", stringify!($id)), &report.$id).map_err(|e| to_status(&e))?,
                host: host.to_string(),
                generation: report.generation,
                attempt: report.attempt,
                status: report.status(),
                fault: report.fault,
                steps: report.steps,
                operation,
            };
            let entered = reports::enter(&$conductor.$records, read, again, details).await;
            entered.map_err(|error| to_status(&error))?;
        }
    }};
}

#[tonic::async_trait]
impl ReportService for Conductor {
    async fn register_host(
        &self,
        request: Request<proto::RegisterHostRequest>,
    ) -> Answer<proto::RegisterHostResponse> {
        let (service, _) = host_id(request.get_ref().service(), &request.get_ref().host)
            .map_err(|error| to_status(&error))?;
        let (host, epoch) = (request.get_ref().host.clone(), request.get_ref().epoch);
        let name = self.own_host(&request, service, &host, epoch)?;
        let message = request.get_ref();
        let revision = Revision(message.store_revision);
        let (id, origin) = (&message.store_id, &message.store_origin_id);
        let remembered = Remembered { id, origin, revision, mark: &message.store_mark };
        let store = self.identity.compared(remembered).await.map_err(|error| to_status(&error))?;
        let (host, placement) =
            self.hosts.register(&(service, name), message).await.map_err(|error| to_status(&error))?;
        Ok(Response::new(proto::RegisterHostResponse {
            revision: placement.revision,
            store: Some(store),
            enabled: host.admin_state() != pb::host::AdminState::Disabled,
            disabled_reason: host.disabled_reason,
            placement: Some(placement),
        }))
    }

    async fn report_instances(
        &self,
        request: Request<proto::ReportInstancesRequest>,
    ) -> Answer<proto::ReportInstancesResponse> {
        entered!(self, instances, ServiceKind::Compute, request, instance_id, |report| {
            let details = guest_details(report.power_state(), report.addresses.clone());
            (asked(report.operation()), details)
        });
        Ok(Response::new(proto::ReportInstancesResponse {}))
    }

    async fn report_volumes(
        &self,
        request: Request<proto::ReportVolumesRequest>,
    ) -> Answer<proto::ReportVolumesResponse> {
        entered!(self, volumes, ServiceKind::Volume, request, volume_id, |report| {
            (asked(report.operation()), |_: &mut VolumeRecord| false)
        });
        Ok(Response::new(proto::ReportVolumesResponse {}))
    }

    async fn report_snapshots(
        &self,
        request: Request<proto::ReportSnapshotsRequest>,
    ) -> Answer<proto::ReportSnapshotsResponse> {
        entered!(self, snapshots, ServiceKind::Volume, request, snapshot_id, |_report| {
            (None, |_: &mut SnapshotRecord| false)
        });
        Ok(Response::new(proto::ReportSnapshotsResponse {}))
    }

    async fn list_host_snapshots(
        &self,
        request: Request<proto::ListHostSnapshotsRequest>,
    ) -> Answer<proto::ListHostSnapshotsResponse> {
        let message = request.get_ref();
        let host = self.own_host(&request, ServiceKind::Volume, &message.host, message.epoch)?;
        let (size, token) = (message.page_size, message.page_token.as_str());
        let (snapshots, next_page_token) =
            on_host(&self.snapshots, host.as_str(), size, token).await.map_err(|error| to_status(&error))?;
        let store = Some(self.store().await?);
        Ok(Response::new(proto::ListHostSnapshotsResponse { snapshots, next_page_token, store }))
    }

    async fn list_host_instances(
        &self,
        request: Request<proto::ListHostInstancesRequest>,
    ) -> Answer<proto::ListHostInstancesResponse> {
        let message = request.get_ref();
        let host = self.own_host(&request, ServiceKind::Compute, &message.host, message.epoch)?;
        let (size, token) = (message.page_size, message.page_token.as_str());
        let (instances, next_page_token) =
            on_host(&self.instances, host.as_str(), size, token).await.map_err(|error| to_status(&error))?;
        let store = Some(self.store().await?);
        Ok(Response::new(proto::ListHostInstancesResponse { instances, next_page_token, store }))
    }

    async fn list_host_volumes(
        &self,
        request: Request<proto::ListHostVolumesRequest>,
    ) -> Answer<proto::ListHostVolumesResponse> {
        let message = request.get_ref();
        let host = self.own_host(&request, ServiceKind::Volume, &message.host, message.epoch)?;
        let (size, token) = (message.page_size, message.page_token.as_str());
        let (volumes, next_page_token) =
            on_host(&self.volumes, host.as_str(), size, token).await.map_err(|error| to_status(&error))?;
        let store = Some(self.store().await?);
        Ok(Response::new(proto::ListHostVolumesResponse { volumes, next_page_token, store }))
    }

    async fn find_records(
        &self,
        request: Request<proto::FindRecordsRequest>,
    ) -> Answer<proto::FindRecordsResponse> {
        let message = request.get_ref();
        let (instances, volumes, snapshots) =
            (&message.instance_ids, &message.volume_ids, &message.snapshot_ids);
        let mut check = kilonova_model::check::Checker::new();
        let count = instances.len() + volumes.len() + snapshots.len();
        check.ensure(count <= MAX_REPORTS, "instance_ids, volume_ids, snapshot_ids", "at most 100 in all");
        let of_one_agent = instances.is_empty() || (volumes.is_empty() && snapshots.is_empty());
        check.ensure(of_one_agent, "instance_ids", "not beside those of a backend");
        check.finish().map_err(|error| to_status(&error))?;
        let service = if instances.is_empty() { ServiceKind::Volume } else { ServiceKind::Compute };
        let host = self.own_host(&request, service, &message.host, message.epoch)?;
        let wanted = [
            wanted(&self.instances, &host, "instance_ids", instances).await?,
            wanted(&self.volumes, &host, "volume_ids", volumes).await?,
            wanted(&self.snapshots, &host, "snapshot_ids", snapshots).await?,
        ]
        .concat();
        Ok(Response::new(proto::FindRecordsResponse { wanted, store: Some(self.store().await?) }))
    }

    async fn reschedule_instance(
        &self,
        request: Request<proto::RescheduleInstanceRequest>,
    ) -> Answer<proto::RescheduleInstanceResponse> {
        let message = request.get_ref();
        let host = self.own_host(&request, ServiceKind::Compute, &message.host, message.epoch)?;
        let again = self.config.operation_timeout.get();
        let message = request.into_inner();
        let report = Report {
            id: read_id("instance_id", &message.instance_id).map_err(|error| to_status(&error))?,
            host: host.to_string(),
            generation: message.generation,
            attempt: message.attempt,
            status: ReportStatus::Failed,
            fault: message.fault,
            steps: Vec::new(),
            operation: None,
        };
        reports::enter(&self.instances, report, again, |_| false).await.map_err(|error| to_status(&error))?;
        Ok(Response::new(proto::RescheduleInstanceResponse {}))
    }
}
