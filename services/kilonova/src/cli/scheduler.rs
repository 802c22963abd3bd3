//! `kilonova scheduler …`.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use kilonova_proto::api::v1::{EvaluateInstancePlacementRequest, EvaluateVolumePlacementRequest};
use kilonova_proto::types::v1::{InstanceSpec, PlacementExplanation, Selection, ServiceKind, VolumeSpec};

use super::client::Client;
use super::explain::{place, placement};
use super::failure::Failure;
use super::format::or_dash;
use super::json::{Json, Named};
use super::numbers::{whole, within};
use super::options::{GlobalOptions, key_value};
use super::output::{Output, Style, table};
use super::snapshot;
use super::wishes::{Company, VolumeCompany, Whereabouts};

/// What can be asked of schedulers.
#[derive(Debug, Clone, Subcommand)]
pub enum SchedulerCommand {
    /// Say where instances or volumes would go, and why; nothing is created, held or counted.
    DryRun(DryRun),
}

/// What would be created.
#[derive(Debug, Clone, Args)]
pub struct DryRun {
    /// Of instances: the flavor's id.
    #[arg(long, value_name = "ID", required_unless_present = "volume_size")]
    flavor: Option<String>,
    /// The image's id; none makes no demands.
    #[arg(long, value_name = "ID")]
    image: Option<String>,
    /// Of volumes: the size in GiB.
    #[arg(
        long,
        value_name = "GIB",
        allow_negative_numbers = true,
        value_parser = whole::<u32>,
        conflicts_with_all = ["flavor", "group", "hint"]
    )]
    volume_size: Option<u32>,
    /// Of volumes: made of this snapshot, by its id, or its name if no other has it.
    #[arg(long, value_name = "SNAPSHOT", conflicts_with_all = ["image", "flavor"])]
    snapshot: Option<String>,
    /// Of volumes: only on a backend of the compute host of this instance.
    #[arg(long, value_name = "ID|NAME", conflicts_with = "flavor")]
    local_to_instance: Option<String>,
    /// Of volumes: a demand on the backend; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value, conflicts_with = "flavor")]
    extra_spec: Vec<(String, String)>,
    /// How many, 1 to 100.
    #[arg(long, default_value_t = 1, value_name = "N", allow_negative_numbers = true, value_parser = within(1_u32..=100))]
    count: u32,
    /// How many further places to name, at most 10.
    #[arg(long, default_value_t = 2, value_name = "N", allow_negative_numbers = true, value_parser = within(0_u32..=10))]
    alternates: u32,
    #[command(flatten)]
    whereabouts: Whereabouts,
    #[command(flatten)]
    company: Company,
}

pub(super) async fn run(command: SchedulerCommand, options: &GlobalOptions) -> Result<(), Failure> {
    let SchedulerCommand::DryRun(asked) = command;
    let output = Output::new(options);
    let client = Client::connect(options, Some(options.request_limit())).await?;
    match asked.volume_size {
        Some(size_gib) => volumes(asked, size_gib, &client, options, output).await,
        None => instances(asked, &client, options, output).await,
    }
}

async fn instances(
    asked: DryRun,
    client: &Client,
    options: &GlobalOptions,
    output: Output,
) -> Result<(), Failure> {
    let mut hints = asked.whereabouts.hints(client, ServiceKind::Compute).await?;
    asked.company.add_to(&mut hints, client, options).await?;
    let spec = InstanceSpec {
        flavor_id: asked.flavor.unwrap_or_default(),
        image_id: asked.image.unwrap_or_default(),
        availability_zone: asked.whereabouts.zone.unwrap_or_default(),
        hints: Some(hints),
        ..Default::default()
    };
    let request = EvaluateInstancePlacementRequest {
        project_id: options.project(),
        instance: Some(spec),
        count: asked.count,
        alternates: asked.alternates,
    };
    let call = async |request| client.placements().evaluate_instance_placement(request).await;
    let answer = client.call(request, None, call).await?;
    let explanation = answer.explanation.clone().unwrap_or_default();
    show(&answer, &answer.selections, &explanation, output)
}

async fn volumes(
    asked: DryRun,
    size_gib: u32,
    client: &Client,
    options: &GlobalOptions,
    output: Output,
) -> Result<(), Failure> {
    let mut hints = asked.whereabouts.hints(client, ServiceKind::Volume).await?;
    let company = VolumeCompany {
        different_host: asked.company.different_host,
        same_host: Vec::from_iter(asked.company.same_host),
        local_to_instance: asked.local_to_instance,
    };
    company.add_to(&mut hints, client, options).await?;
    let snapshot_id = match &asked.snapshot {
        Some(text) => snapshot::resolve(client, options, text).await?,
        None => String::new(),
    };
    let spec = VolumeSpec {
        size_gib,
        availability_zone: asked.whereabouts.zone.unwrap_or_default(),
        extra_specs: BTreeMap::from_iter(asked.extra_spec),
        hints: Some(hints),
        snapshot_id,
        image_id: asked.image.unwrap_or_default(),
        ..Default::default()
    };
    let request = EvaluateVolumePlacementRequest {
        project_id: options.project(),
        volume: Some(spec),
        count: asked.count,
        alternates: asked.alternates,
    };
    let call = async |request| client.placements().evaluate_volume_placement(request).await;
    let answer = client.call(request, None, call).await?;
    let explanation = answer.explanation.clone().unwrap_or_default();
    show(&answer, &answer.selections, &explanation, output)
}

fn show(
    answer: &impl Named,
    selections: &[Selection],
    explanation: &PlacementExplanation,
    output: Output,
) -> Result<(), Failure> {
    match output.is_json() {
        true => output.json(&Json(answer))?,
        false => output.text(&describe(selections, explanation, output.style()))?,
    }
    verdict(selections, explanation)
}

/// Where each would go, and why.
fn describe(selections: &[Selection], explanation: &PlacementExplanation, style: Style) -> String {
    let mut text = String::new();
    if !selections.is_empty() {
        let rows = selections.iter().zip(1..).map(|(selection, number): (_, usize)| {
            let best = selection.place.clone().unwrap_or_default();
            let alternates: Vec<String> =
                selection.alternates.iter().map(|other| place(&other.host, &other.pool)).collect();
            vec![
                number.to_string(),
                place(&best.host, &best.pool),
                or_dash(&best.availability_zone),
                or_dash(&alternates.join(", ")),
            ]
        });
        text.push_str(&table(&["#", "PLACE", "ZONE", "ALTERNATES"], rows.collect(), style));
        text.push('\n');
    }
    text.push_str(&placement(explanation, style));
    text
}

/// No place is a failure, as that of a build that is waited for.
fn verdict(selections: &[Selection], explanation: &PlacementExplanation) -> Result<(), Failure> {
    match selections {
        [] => Err(Failure::Ended(explanation.summary.clone())),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kilonova_proto::types::v1::{SelectedPlace, WeighedCandidate, WeigherResult};

    fn selected(host: &str, pool: &str) -> SelectedPlace {
        SelectedPlace { host: host.into(), availability_zone: "north".into(), pool: pool.into() }
    }

    #[test]
    fn each_place_is_shown_with_its_alternates_and_what_the_weighers_said() {
        let weigher =
            WeigherResult { name: "CapacityWeigher".into(), raw: 1900.0, normalized: 1.0, multiplier: 2.0 };
        let explanation = PlacementExplanation {
            considered: 2,
            remaining: 2,
            candidates: vec![WeighedCandidate {
                host: "node1@lvm".into(),
                pool: "fast".into(),
                weight: 2.0,
                weighers: vec![weigher.clone(), WeigherResult { name: "Other".into(), ..weigher }],
            }],
            summary: "node1@lvm#fast is the best of 2 that fit, 2 considered".into(),
            scheduler: "scheduler-1".into(),
            ..Default::default()
        };
        let selection = Selection {
            place: Some(selected("node1@lvm", "fast")),
            alternates: vec![selected("node2@lvm", "slow")],
        };
        let text = describe(&[selection], &explanation, Style::PLAIN);
        let expected = "\
#   PLACE            ZONE    ALTERNATES
1   node1@lvm#fast   north   node2@lvm#slow

scheduler-1 considered 2, 2 remained: node1@lvm#fast is the best of 2 that fit, 2 considered
CANDIDATE        WEIGHT   WEIGHER           RAW        NORMALIZED   MULTIPLIER   ADDS
node1@lvm#fast   2.000    CapacityWeigher   1900.000   1.000        2.000        +2.000
                          Other             1900.000   1.000        2.000        +2.000
";
        assert_eq!(text, expected);
        assert!(verdict(&[Selection::default()], &explanation).is_ok());
    }

    #[test]
    fn no_place_is_exit_code_four_and_says_why() {
        let explanation =
            PlacementExplanation { summary: "no valid host: 3 considered".into(), ..Default::default() };
        let failure = verdict(&[], &explanation).unwrap_err();
        assert_eq!(
            (failure.exit_code(), failure.lines()),
            (4, vec!["error: no valid host: 3 considered".into()])
        );
    }
}
