//! `kilonova audit`.

use clap::Args;
use kilonova_proto::api::v1::AuditRequest;
use kilonova_proto::types::v1::drift::{Healing, Kind};
use kilonova_proto::types::v1::{Audit, Drift, ServiceKind};

use super::client::Client;
use super::failure::Failure;
use super::format::{label, or_dash, safe};
use super::json::Json;
use super::options::GlobalOptions;
use super::output::{Output, Style, table};
use super::service::kind_label;

/// What to compare, and whether to heal.
#[derive(Debug, Clone, Args)]
pub struct AuditCommand {
    /// Heal what can be healed.
    #[arg(long)]
    heal: bool,
    /// Only what this compute host or backend has.
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
}

pub(super) async fn run(command: AuditCommand, options: &GlobalOptions) -> Result<(), Failure> {
    let output = Output::new(options);
    let limit = options.limit(true);
    let client = Client::connect(options, Some(limit)).await?.allowing(limit);
    let request = AuditRequest { heal: command.heal, host: command.host.unwrap_or_default() };
    let call = async |request| client.audits().audit(request).await;
    let audit = client.call(request, None, call).await?.audit.unwrap_or_default();
    if output.is_json() {
        output.json(&std::collections::BTreeMap::from([("audit", Json(&audit))]))?;
    } else {
        output.text(&describe(&audit, output.style()))?;
    }
    match remaining(&audit) {
        0 => Ok(()),
        1 => Err(Failure::Ended("1 drift remains".to_owned())),
        drifts => Err(Failure::Ended(format!("{drifts} drifts remain"))),
    }
}

/// How much was found and not healed.
fn remaining(audit: &Audit) -> usize {
    let remain = |drift: &&Drift| drift.healing() != Healing::Healed;
    audit.drifts.iter().filter(remain).count() + usize::from(audit.truncated)
}

fn describe(audit: &Audit, style: Style) -> String {
    let mut text = String::new();
    if !audit.drifts.is_empty() {
        let rows = audit.drifts.iter().map(row).collect();
        text += &table(&["DRIFT", "SUBJECT", "HOST", "CAUSE", "HEAL"], rows, style);
        text += "\n";
    }
    text += &format!(
        "{} instances, {} volumes, {} snapshots, {} server groups, {} projects, {} hosts: {}\n",
        audit.instances,
        audit.volumes,
        audit.snapshots,
        audit.server_groups,
        audit.projects,
        audit.hosts,
        verdict(audit)
    );
    for unchecked in &audit.unchecked {
        let what = match unchecked.service() {
            ServiceKind::Unspecified => "project".to_owned(),
            kind => kind_label(kind),
        };
        text += &format!("not checked: {what} {}: {}\n", safe(&unchecked.name), safe(&unchecked.cause));
    }
    text
}

fn row(drift: &Drift) -> Vec<String> {
    vec![
        label(Kind::try_from(drift.kind).unwrap_or_default().as_str_name(), "KIND_"),
        drift.subject_id.clone(),
        or_dash(&drift.host),
        drift.cause.clone(),
        heal(drift),
    ]
}

fn heal(drift: &Drift) -> String {
    match drift.healing() {
        Healing::Healed => format!("done: {}", drift.remedy),
        Healing::NotHealed if !drift.remedy.is_empty() => format!("not done: {}", drift.healing_detail),
        _ => or_dash(&drift.remedy),
    }
}

fn verdict(audit: &Audit) -> String {
    let found = audit.drifts.len();
    let more = if audit.truncated { ", and more" } else { "" };
    let healed = audit.drifts.iter().filter(|drift| drift.healing() == Healing::Healed).count();
    match (found, healed) {
        (0, _) => "no drift".to_owned(),
        (1, 0) => format!("1 drift{more}"),
        (_, 0) => format!("{found} drifts{more}"),
        _ => format!("{healed} of {found} drifts healed{more}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kilonova_proto::types::v1::Unchecked;

    fn audit(healing: &[Healing]) -> Audit {
        let drift = |healing: &Healing| Drift {
            kind: Kind::UsageDrift.into(),
            subject_id: "demo".into(),
            cause: "cores: 5 counted, 2 in the records".into(),
            remedy: "write the sum of the records".into(),
            healing: (*healing).into(),
            healing_detail: if *healing == Healing::NotHealed { "it changed".into() } else { String::new() },
            ..Default::default()
        };
        Audit { drifts: healing.iter().map(drift).collect(), projects: 1, hosts: 2, ..Default::default() }
    }

    #[test]
    fn what_was_not_healed_remains() {
        assert_eq!(remaining(&audit(&[])), 0);
        assert_eq!(remaining(&audit(&[Healing::Unspecified, Healing::Healed, Healing::NotHealed])), 2);
        assert_eq!(remaining(&Audit { truncated: true, ..audit(&[Healing::Healed]) }), 1);
    }

    #[test]
    fn the_table_says_what_is_wrong_and_what_is_done() {
        let text = describe(&audit(&[Healing::Healed, Healing::NotHealed]), Style::PLAIN);
        assert!(text.contains("done: write the sum of the records"), "{text}");
        assert!(text.contains("not done: it changed"), "{text}");
        assert!(text.ends_with("1 projects, 2 hosts: 1 of 2 drifts healed\n"), "{text}");
    }

    #[test]
    fn nothing_wrong_is_one_line_and_what_is_not_checked_is_named() {
        let down = Unchecked {
            service: ServiceKind::Compute.into(),
            name: "compute-3".into(),
            cause: "it is not registered".into(),
        };
        let text = describe(&Audit { unchecked: vec![down], ..audit(&[]) }, Style::PLAIN);
        assert!(text.contains("2 hosts: no drift\nnot checked: compute compute-3: it is not registered\n"));
    }
}
