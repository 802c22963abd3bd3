//! `kilonova service …`, and how kinds of service are written.

use std::time::SystemTime;

use clap::Subcommand;
use kilonova_proto::api::v1::ListServicesRequest;
use kilonova_proto::types::v1::{ServiceKind, ServiceMember};

use super::client::Client;
use super::failure::Failure;
use super::format::{NONE, label, or_dash};
use super::options::GlobalOptions;
use super::output::{Output, Row};

/// What can be done with services.
#[derive(Debug, Clone, Subcommand)]
pub enum ServiceCommand {
    /// List the running members of every service, as the registry shows them.
    List {
        /// Only of this service: api, conductor, scheduler, compute, volume.
        #[arg(value_parser = parse_kind)]
        service: Option<ServiceKind>,
    },
}

/// A kind of service as it is named everywhere but in protobuf.
#[must_use]
pub fn kind_label(kind: ServiceKind) -> String {
    label(kind.as_str_name(), "SERVICE_KIND_").to_lowercase()
}

/// Reads a kind of service by the name [`kind_label`] gives it.
pub fn parse_kind(text: &str) -> Result<ServiceKind, String> {
    let kind: kilonova_model::ServiceKind = text.parse().map_err(|error| format!("{error}"))?;
    Ok(match kind {
        kilonova_model::ServiceKind::Api => ServiceKind::Api,
        kilonova_model::ServiceKind::Conductor => ServiceKind::Conductor,
        kilonova_model::ServiceKind::Scheduler => ServiceKind::Scheduler,
        kilonova_model::ServiceKind::Compute => ServiceKind::Compute,
        kilonova_model::ServiceKind::Volume => ServiceKind::Volume,
    })
}

impl Row for ServiceMember {
    const ONE: &'static str = "service";
    const MANY: &'static str = "services";
    const COLUMNS: &'static [&'static str] =
        &["SERVICE", "HOST", "STATE", "ADDRESS", "ZONE", "MINOR", "SHARDS", "EPOCH"];

    fn row(&self, _now: SystemTime) -> Vec<String> {
        let shards = match self.service() {
            ServiceKind::Conductor => self.shards.to_string(),
            _ => NONE.to_owned(),
        };
        vec![
            kind_label(self.service()),
            self.host.clone(),
            if self.draining { "DRAINING".to_owned() } else { "SERVING".to_owned() },
            or_dash(&self.address),
            or_dash(&self.availability_zone),
            self.api_minor.to_string(),
            shards,
            self.epoch.to_string(),
        ]
    }
}

pub(super) async fn run(command: ServiceCommand, options: &GlobalOptions) -> Result<(), Failure> {
    let ServiceCommand::List { service } = command;
    let output = Output::new(options);
    let client = Client::connect(options, Some(options.request_limit())).await?;
    let request = ListServicesRequest { service: service.unwrap_or_default().into() };
    let call = async |request| client.hosts().list_services(request).await;
    let answer = client.call(request, None, call).await?;
    if answer.registry_stale_seconds > 0 {
        eprintln!(
            "warning: the registry could not be read for {} s; this is what was last known",
            answer.registry_stale_seconds
        );
    }
    output.list(&answer.services)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_read_back() {
        for kind in kilonova_model::ServiceKind::ALL {
            assert_eq!(kind_label(parse_kind(kind.as_str()).unwrap()), kind.as_str());
        }
        assert!(parse_kind("nova").is_err());
    }
}
