//! `kilonova quota …`.

use clap::{Args, Subcommand};
use kilonova_proto::api::v1::{GetQuotaRequest, UpdateQuotaRequest};
use kilonova_proto::types::v1::{Quota, QuotaLimits};

use super::client::Client;
use super::failure::Failure;
use super::format::safe;
use super::json::Json;
use super::numbers::whole;
use super::options::{GlobalOptions, new_request_id};
use super::output::{Output, Style, table};

/// What can be done with quotas.
#[derive(Debug, Clone, Subcommand)]
pub enum QuotaCommand {
    /// Show what a project may use and what it uses; `--project` names it.
    Show,
    /// Set what a project may use; `--project` names it.
    Set(Set),
}

/// The limits to set; -1 is without limit.
#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = true)]
pub struct Set {
    /// Instances.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole::<i32>)]
    instances: Option<i32>,
    /// Virtual CPUs of all instances.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole::<i32>)]
    cores: Option<i32>,
    /// Memory of all instances in MiB.
    #[arg(long, value_name = "MIB", allow_negative_numbers = true, value_parser = whole::<i32>)]
    ram: Option<i32>,
    /// Volumes.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole::<i32>)]
    volumes: Option<i32>,
    /// Size of all volumes and snapshots in GiB.
    #[arg(long, value_name = "GIB", allow_negative_numbers = true, value_parser = whole::<i32>)]
    gigabytes: Option<i32>,
    /// Snapshots.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole::<i32>)]
    snapshots: Option<i32>,
}

pub(super) async fn run(command: QuotaCommand, options: &GlobalOptions) -> Result<(), Failure> {
    let output = Output::new(options);
    let client = Client::connect(options, Some(options.request_limit())).await?;
    let quota = match command {
        QuotaCommand::Show => {
            let request = GetQuotaRequest { project_id: options.project() };
            client.call(request, None, async |request| client.quotas().get_quota(request).await).await?.quota
        }
        QuotaCommand::Set(set) => {
            let request = request(&set, options.project());
            client
                .call(request, None, async |request| client.quotas().update_quota(request).await)
                .await?
                .quota
        }
    };
    let quota = quota.unwrap_or_default();
    if output.is_json() {
        return output.json(&std::collections::BTreeMap::from([("quota", Json(&quota))]));
    }
    output.text(&describe(&quota, output.style()))
}

/// Names in the mask only what was given.
fn request(set: &Set, project_id: String) -> UpdateQuotaRequest {
    let given = [
        ("instances", set.instances),
        ("cores", set.cores),
        ("ram_mib", set.ram),
        ("volumes", set.volumes),
        ("gigabytes", set.gigabytes),
        ("snapshots", set.snapshots),
    ];
    let paths = given.iter().filter(|(_, limit)| limit.is_some()).map(|(path, _)| (*path).to_owned());
    UpdateQuotaRequest {
        request_id: new_request_id(),
        project_id,
        limits: Some(QuotaLimits {
            instances: set.instances.unwrap_or_default(),
            cores: set.cores.unwrap_or_default(),
            ram_mib: set.ram.unwrap_or_default(),
            volumes: set.volumes.unwrap_or_default(),
            gigabytes: set.gigabytes.unwrap_or_default(),
            snapshots: set.snapshots.unwrap_or_default(),
        }),
        update_mask: Some(prost_types::FieldMask { paths: paths.collect() }),
    }
}

fn describe(quota: &Quota, style: Style) -> String {
    let limits = quota.limits.unwrap_or_default();
    let used = quota.usage.unwrap_or_default();
    let rows = [
        ("instances", used.instances, limits.instances),
        ("cores", used.cores, limits.cores),
        ("ram MiB", used.ram_mib, limits.ram_mib),
        ("volumes", used.volumes, limits.volumes),
        ("gigabytes", used.gigabytes, limits.gigabytes),
        ("snapshots", used.snapshots, limits.snapshots),
    ];
    let rows = rows.map(|(name, used, limit)| {
        let limit = if limit < 0 { "unlimited".to_owned() } else { limit.to_string() };
        vec![name.to_owned(), used.to_string(), limit]
    });
    format!(
        "project {}\n{}",
        safe(&quota.project_id),
        table(&["RESOURCE", "USED", "LIMIT"], rows.into(), style)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use kilonova_proto::types::v1::QuotaUsage;

    #[test]
    fn only_what_was_given_is_set() {
        let set = Set {
            instances: Some(-1),
            cores: None,
            ram: Some(0),
            volumes: None,
            gigabytes: None,
            snapshots: None,
        };
        let request = request(&set, "demo".into());
        assert_eq!(request.update_mask.unwrap().paths, ["instances", "ram_mib"]);
        assert_eq!(request.limits.unwrap().instances, -1);
    }

    #[test]
    fn no_limit_reads_as_such() {
        let quota = Quota {
            project_id: "demo".into(),
            limits: Some(QuotaLimits { instances: -1, cores: 20, ..Default::default() }),
            usage: Some(QuotaUsage { cores: 3, ..Default::default() }),
        };
        let text = describe(&quota, Style::PLAIN);
        assert!(text.starts_with("project demo\nRESOURCE    USED   LIMIT\ninstances   0      unlimited\ncores       3      20\n"), "{text}");
    }
}
