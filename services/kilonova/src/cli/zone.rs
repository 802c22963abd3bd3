//! `kilonova zone …`.

use std::time::SystemTime;

use clap::Subcommand;
use kilonova_proto::api::v1::ListZonesRequest;
use kilonova_proto::types::v1::Zone;

use super::client::Client;
use super::failure::Failure;
use super::options::GlobalOptions;
use super::output::{Output, Row};

/// What can be done with availability zones.
#[derive(Debug, Clone, Subcommand)]
pub enum ZoneCommand {
    /// List the zones that hosts and backends are in; `kilonova host set --zone` puts one elsewhere.
    List,
}

impl Row for Zone {
    const ONE: &'static str = "zone";
    const MANY: &'static str = "zones";
    const COLUMNS: &'static [&'static str] = &["NAME", "COMPUTE HOSTS", "STORAGE BACKENDS"];

    fn row(&self, _now: SystemTime) -> Vec<String> {
        let enabled = |enabled: u32, all: u32| format!("{enabled} of {all} enabled");
        vec![
            self.name.clone(),
            enabled(self.enabled_compute_hosts, self.compute_hosts),
            enabled(self.enabled_storage_backends, self.storage_backends),
        ]
    }
}

pub(super) async fn run(command: ZoneCommand, options: &GlobalOptions) -> Result<(), Failure> {
    let ZoneCommand::List = command;
    let output = Output::new(options);
    let client = Client::connect(options, Some(options.request_limit())).await?;
    let call = async |request| client.hosts().list_zones(request).await;
    output.list(&client.call(ListZonesRequest {}, None, call).await?.zones)
}
