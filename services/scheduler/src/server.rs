//! `kilonova.scheduler.v1.SchedulerService`: a thin adapter.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kilonova_model::check::Checker;
use kilonova_model::{Error, HostName, Reason, RequestId, page};
use kilonova_proto::scheduler::v1::scheduler_service_server::SchedulerService;
use kilonova_proto::scheduler::v1::{
    BackendSelection, HostSelection, HostState, ListBackendStatesRequest, ListBackendStatesResponse,
    ListHostStatesRequest, ListHostStatesResponse, SelectBackendsRequest, SelectBackendsResponse,
    SelectHostsRequest, SelectHostsResponse,
};
use kilonova_rpc::status::to_status;
use kilonova_runtime::readiness::Readiness;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use crate::hosts::{Answer, Asked};
use crate::placement::{Compute, ComputeDemand, Storage, StorageDemand, Wanted, World};
use crate::state::{Kept, State};
use crate::validate;

/// The full name of the service.
pub(crate) const SERVICE: &str = "kilonova.scheduler.v1.SchedulerService";

/// When to ask again a scheduler that does not know enough.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The service over one scheduler's memory.
pub(crate) struct Scheduler {
    pub state: Arc<State>,
    pub readiness: Readiness,
}

impl Scheduler {
    fn select<S: Kept>(
        &self,
        request: &RequestId,
        wanted: Wanted,
        dry_run: bool,
        demand: impl FnOnce(&World<S::Row>) -> S::Demand,
    ) -> Result<Answer, Status> {
        if !self.readiness.is_ready() {
            let reasons = self.readiness.current().summary();
            let message = format!("this scheduler is not ready: {reasons}");
            return Err(not_ready(message));
        }
        let begun = Instant::now();
        let asked = Asked { request, wanted, dry_run, seed: rand::random() };
        let selected = S::of(&self.state).lock().select(&asked, demand, begun);
        let noun = S::NOUN;
        metrics::histogram!("scheduler_select_seconds", "for" => noun).record(begun.elapsed().as_secs_f64());
        let outcome = match &selected {
            Err(_) => "not_ready",
            Ok(answer) if answer.picks.is_empty() => "refused",
            Ok(_) => "placed",
        };
        metrics::counter!("scheduler_selects_total", "for" => noun, "outcome" => outcome).increment(1);
        let mut answer = selected.map_err(|unknown| {
            tracing::info!(%request, dry_run, %unknown, "no {noun} fits, and not all is known");
            not_ready(format!("this scheduler knows of no {noun} that fits, but not all is known: {unknown}"))
        })?;
        answer.explanation.scheduler = self.state.host.to_string();
        let summary = answer.explanation.summary.as_str();
        if answer.picks.is_empty() {
            tracing::info!(%request, dry_run, summary, "no valid {noun}");
        } else {
            tracing::debug!(%request, dry_run, summary, "selected");
        }
        Ok(answer)
    }

    fn list<S: Kept>(
        &self,
        page_size: i32,
        page_token: &str,
        (field, names): (&str, &[String]),
    ) -> Result<(Vec<HostState>, String), Error> {
        let limit = page::page_size(page_size)?;
        let filter = names.join(",");
        let bad_token = |_| Error::new(Reason::PageTokenInvalid, "page_token was not given out by this list");
        let after = page::decode_token(&filter, page_token)?.map(|last| HostName::parse(&last));
        let after = after.transpose().map_err(bad_token)?;
        let mut check = Checker::new();
        let names: BTreeSet<HostName> = names.iter().filter_map(|name| check.id(field, name)).collect();
        check.finish()?;
        let mut listed = S::of(&self.state).lock().list(after.as_ref(), &names, limit + 1, Instant::now());
        let has_more = listed.len() > limit;
        listed.truncate(limit);
        let last = listed.last().filter(|_| has_more);
        let next = last.map_or_else(String::new, |last| page::encode_token(&filter, &last.host));
        Ok((listed, next))
    }
}

fn not_ready(message: String) -> Status {
    to_status(&Error::new(Reason::NotReady, message).retry_after(RETRY_AFTER))
}

fn wanted(count: u32, alternates: u32) -> Wanted {
    Wanted { count: count.max(1) as usize, alternates: alternates as usize }
}

#[tonic::async_trait]
impl SchedulerService for Scheduler {
    async fn select_hosts(
        &self,
        request: Request<SelectHostsRequest>,
    ) -> Result<Response<SelectHostsResponse>, Status> {
        let request = request.into_inner();
        let id = validate::select_hosts(&request).map_err(|error| to_status(&error))?;
        let wanted = wanted(request.count, request.alternates);
        let answer = self
            .select::<Compute>(&id, wanted, request.dry_run, |world| ComputeDemand::new(&request, world))?;
        let alternates = answer.alternates;
        let selections = answer
            .picks
            .into_iter()
            .map(|pick| HostSelection { host: Some(pick), alternates: alternates.clone() });
        Ok(Response::new(SelectHostsResponse {
            selections: selections.collect(),
            explanation: Some(answer.explanation),
        }))
    }

    async fn select_backends(
        &self,
        request: Request<SelectBackendsRequest>,
    ) -> Result<Response<SelectBackendsResponse>, Status> {
        let request = request.into_inner();
        let id = validate::select_backends(&request).map_err(|error| to_status(&error))?;
        let wanted = wanted(request.count, request.alternates);
        let answer = self
            .select::<Storage>(&id, wanted, request.dry_run, |world| StorageDemand::new(&request, world))?;
        let alternates = answer.alternates;
        let selections = answer
            .picks
            .into_iter()
            .map(|pick| BackendSelection { backend: Some(pick), alternates: alternates.clone() });
        Ok(Response::new(SelectBackendsResponse {
            selections: selections.collect(),
            explanation: Some(answer.explanation),
        }))
    }

    async fn list_host_states(
        &self,
        request: Request<ListHostStatesRequest>,
    ) -> Result<Response<ListHostStatesResponse>, Status> {
        let request = request.into_inner();
        let listed = self.list::<Compute>(request.page_size, &request.page_token, ("hosts", &request.hosts));
        let (hosts, next_page_token) = listed.map_err(|error| to_status(&error))?;
        Ok(Response::new(ListHostStatesResponse { hosts, next_page_token }))
    }

    async fn list_backend_states(
        &self,
        request: Request<ListBackendStatesRequest>,
    ) -> Result<Response<ListBackendStatesResponse>, Status> {
        let request = request.into_inner();
        let listed =
            self.list::<Storage>(request.page_size, &request.page_token, ("backends", &request.backends));
        let (backends, next_page_token) = listed.map_err(|error| to_status(&error))?;
        Ok(Response::new(ListBackendStatesResponse { backends, next_page_token }))
    }
}
