//! Why something failed: the fault, earlier attempts, and what the scheduler saw.

use std::time::SystemTime;

use kilonova_proto::types::v1::{
    Action, Fault, Outcome, PlacementDecision, PlacementExplanation, WeighedCandidate,
};

use super::format::{NONE, label, moment, or_dash, safe};
use super::output::{Style, details, table};

/// One line for a fault: what, on which attempt, where.
#[must_use]
pub fn fault_line(fault: &Fault) -> String {
    let mut line = format!("{}: {}", fault.reason, fault.message);
    let mut place = Vec::new();
    if fault.attempt > 0 {
        place.push(format!("attempt {}", fault.attempt));
    }
    if !fault.host.is_empty() {
        place.push(format!("on {}", fault.host));
    }
    if !place.is_empty() {
        line.push_str(&format!(" ({})", place.join(" ")));
    }
    safe(&line).into_owned()
}

/// Why an action was not done; none if it was, or goes on.
#[must_use]
pub fn not_done(action: &Action) -> Option<String> {
    if action.outcome() != Outcome::Failed {
        return None;
    }
    let fault = action.steps.iter().rev().find_map(|step| step.fault.as_ref());
    Some(fault.map_or_else(|| "it was not done".to_owned(), fault_line))
}

/// The fault of a resource with its explanation, then why each earlier attempt failed; empty when all is well.
#[must_use]
pub fn faults(fault: Option<&Fault>, earlier: &[Fault], now: SystemTime, style: Style) -> String {
    let mut text = String::new();
    if let Some(fault) = fault {
        text.push_str(&format!("\nfault: {}\n", fault_line(fault)));
        text.push_str(&format!("  {}\n", moment(fault.time.as_ref(), now)));
        if let Ok(reason) = fault.reason.parse::<kilonova_model::Reason>() {
            text.push_str(&format!("  hint: {}\n", reason.advice()));
        }
        if let Some(explanation) = &fault.explanation {
            let said = if explanation.summary == fault.message { "" } else { &explanation.summary };
            text.push_str(&indent(&figures(explanation, said, style)));
        }
    }
    if !earlier.is_empty() {
        text.push_str("\nfailed attempts:\n");
        let rows = earlier.iter().map(|fault| {
            vec![fault.attempt.to_string(), or_dash(&fault.host), fault.reason.clone(), fault.message.clone()]
        });
        text.push_str(&indent(&table(&["TRY", "HOST", "REASON", "MESSAGE"], rows.collect(), style)));
    }
    text
}

/// Why a resource is on `host`, or on none: the last decision that named a place, then what went wrong.
#[must_use]
pub fn why(
    host: &str,
    decision: Option<&PlacementDecision>,
    (fault, earlier): (Option<&Fault>, &[Fault]),
    now: SystemTime,
    style: Style,
) -> String {
    let mut text = match decision {
        Some(decision) => decided(host, decision, now, style),
        None if fault.is_some() => "no scheduler named a place for it\n".to_owned(),
        None => "no scheduler has named a place for it yet, or none that is kept\n".to_owned(),
    };
    text.push_str(&faults(fault, earlier, now, style));
    text
}

fn decided(host: &str, decision: &PlacementDecision, now: SystemTime, style: Style) -> String {
    let taken = match decision.hosts.iter().position(|named| named == host) {
        Some(0) => format!("{host}, the first"),
        Some(before) => {
            format!("{host}, number {}: what was before it refused, failed or was not allowed", before + 1)
        }
        None if host.is_empty() => NONE.to_owned(),
        None => format!("none of them: it is on {host}"),
    };
    let kind = label(decision.kind().as_str_name(), "KIND_").to_lowercase();
    let rows = vec![
        ("decided", format!("{}, for {kind}", moment(decision.time.as_ref(), now))),
        ("named", or_dash(&decision.hosts.join(", "))),
        ("taken", taken),
    ];
    let mut text = details(rows, style);
    if let Some(explanation) = &decision.explanation {
        text.push_str(&placement(explanation, style));
    }
    text
}

/// What each filter removed, with examples, and the best of what remained.
#[must_use]
pub fn placement(explanation: &PlacementExplanation, style: Style) -> String {
    figures(explanation, &explanation.summary, style)
}

/// The same with what the scheduler said, or nothing where that was shown already.
fn figures(explanation: &PlacementExplanation, said: &str, style: Style) -> String {
    let mut text = format!("{} considered", or_dash(&explanation.scheduler));
    text.push_str(&format!(" {}, {} remained", explanation.considered, explanation.remaining));
    if !said.is_empty() {
        text.push_str(&format!(": {said}"));
    }
    let mut text = safe(&text).into_owned() + "\n";
    let mut left = explanation.considered;
    let rows = explanation.filters.iter().flat_map(|filter| {
        left = left.saturating_sub(filter.removed);
        let mut examples: Vec<String> =
            filter.samples.iter().map(|sample| format!("{}: {}", sample.host, sample.detail)).collect();
        let unnamed = usize::try_from(filter.removed).unwrap_or(usize::MAX).saturating_sub(examples.len());
        if !examples.is_empty() && unnamed > 0 {
            examples.push(format!("and {unnamed} more"));
        }
        let mut examples = examples.into_iter();
        let first = examples.next().unwrap_or_else(|| NONE.to_owned());
        let head = vec![filter.name.clone(), filter.removed.to_string(), left.to_string(), first];
        let further = examples.map(|example| vec![String::new(), String::new(), String::new(), example]);
        std::iter::once(head).chain(further).collect::<Vec<_>>()
    });
    let rows: Vec<_> = rows.collect();
    if !rows.is_empty() {
        text.push_str(&table(&["FILTER", "REMOVED", "LEFT", "EXAMPLES"], rows, style));
    }
    if !explanation.enough.is_empty() {
        text.push_str("what alone would be enough:\n");
        text.extend(explanation.enough.iter().map(|enough| format!("  {}\n", safe(enough))));
    }
    if !explanation.candidates.is_empty() {
        let rows = explanation.candidates.iter().flat_map(weighed).collect();
        text.push_str(&table(&WEIGHED, rows, style));
    }
    text
}

const WEIGHED: [&str; 7] = ["CANDIDATE", "WEIGHT", "WEIGHER", "RAW", "NORMALIZED", "MULTIPLIER", "ADDS"];

/// A candidate, one line to a weigher.
fn weighed(candidate: &WeighedCandidate) -> Vec<Vec<String>> {
    let name = place(&candidate.host, &candidate.pool);
    let mut head = vec![name, format!("{:.3}", candidate.weight)];
    if candidate.weighers.is_empty() {
        head.resize(WEIGHED.len(), NONE.to_owned());
        return vec![head];
    }
    let lines = candidate.weighers.iter().map(|one| {
        let head = std::mem::replace(&mut head, vec![String::new(), String::new()]);
        let figures = [one.raw, one.normalized, one.multiplier].map(|figure| format!("{figure:.3}"));
        // Plus zero, so that nothing times a negative multiplier is not shown as minus nothing.
        let adds = format!("{:+.3}", one.normalized * one.multiplier + 0.0);
        [head, vec![one.name.clone()], figures.to_vec(), vec![adds]].concat()
    });
    lines.collect()
}

/// A host, or a pool of a backend.
#[must_use]
pub fn place(host: &str, pool: &str) -> String {
    if pool.is_empty() { host.to_owned() } else { format!("{host}#{pool}") }
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kilonova_proto::types::v1::action::Kind;
    use kilonova_proto::types::v1::{FilterResult, FilterSample, WeigherResult};

    fn no_valid_host() -> Fault {
        let sample = FilterSample { host: "compute-1".into(), detail: "needs 8192 MiB, has 6144".into() };
        Fault {
            reason: "NO_VALID_HOST".into(),
            message: "no host fits".into(),
            explanation: Some(PlacementExplanation {
                considered: 3,
                filters: vec![
                    FilterResult { name: "ComputeFilter".into(), removed: 0, samples: vec![] },
                    FilterResult { name: "RamFilter".into(), removed: 3, samples: vec![sample] },
                ],
                summary: "RamFilter removed all 3".into(),
                scheduler: "scheduler-1".into(),
                enough: vec!["without RamFilter 3 would do: the most free is 6144 MiB on c1".into()],
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn no_valid_host_is_explained_filter_by_filter() {
        let text = faults(Some(&no_valid_host()), &[], SystemTime::UNIX_EPOCH, Style::PLAIN);
        let expected = format!(
            "
fault: NO_VALID_HOST: no host fits
  -
  hint: {}
  scheduler-1 considered 3, 0 remained: RamFilter removed all 3
  FILTER          REMOVED   LEFT   EXAMPLES
  ComputeFilter   0         3      -
  RamFilter       3         0      compute-1: needs 8192 MiB, has 6144
                                   and 2 more
  what alone would be enough:
    without RamFilter 3 would do: the most free is 6144 MiB on c1
",
            kilonova_model::Reason::NoValidHost.advice()
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn why_it_is_where_it_is_says_which_of_the_places_was_taken() {
        let weigher =
            WeigherResult { name: "RAMWeigher".into(), raw: 512.0, normalized: 0.5, multiplier: 1.0 };
        let idle = WeigherResult { name: "IoOpsWeigher".into(), multiplier: -1.0, ..Default::default() };
        let candidate = WeighedCandidate {
            host: "c1".into(),
            weight: 0.5,
            weighers: vec![weigher, idle],
            ..Default::default()
        };
        let decision = PlacementDecision {
            kind: Kind::Create.into(),
            hosts: vec!["c1".into(), "c2".into()],
            explanation: Some(PlacementExplanation {
                considered: 3,
                remaining: 2,
                filters: vec![FilterResult { name: "ComputeFilter".into(), removed: 1, samples: vec![] }],
                candidates: vec![candidate],
                summary: "c1 is the best of 2 that fit, 3 considered".into(),
                scheduler: "s1".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let why = |host: &str| why(host, Some(&decision), (None, &[]), SystemTime::UNIX_EPOCH, Style::PLAIN);
        let expected = "\
decided   -, for create
named     c1, c2
taken     c1, the first
s1 considered 3, 2 remained: c1 is the best of 2 that fit, 3 considered
FILTER          REMOVED   LEFT   EXAMPLES
ComputeFilter   1         2      -
CANDIDATE   WEIGHT   WEIGHER        RAW       NORMALIZED   MULTIPLIER   ADDS
c1          0.500    RAMWeigher     512.000   0.500        1.000        +0.500
                     IoOpsWeigher   0.000     0.000        -1.000       +0.000
";
        assert_eq!(why("c1"), expected);
        assert!(why("c2").contains("taken     c2, number 2: what was before it refused"));
        assert!(
            why("c9").contains("taken     none of them: it is on c9"),
            "a migration that did not succeed"
        );
        assert!(why("").contains("taken     -\n"));
    }

    #[test]
    fn why_it_is_nowhere_is_in_the_fault() {
        let fault = no_valid_host();
        let text = why("", None, (Some(&fault), &[]), SystemTime::UNIX_EPOCH, Style::PLAIN);
        assert!(text.starts_with("no scheduler named a place for it\n\nfault: NO_VALID_HOST"), "{text}");
        assert!(text.contains("RamFilter       3         0"), "{text}");
    }

    #[test]
    fn earlier_attempts_are_listed_with_their_cause() {
        let fault = Fault {
            reason: "DRIVER_FAILED".into(),
            message: "injected".into(),
            host: "compute-2".into(),
            attempt: 1,
            ..Default::default()
        };
        let text = faults(None, std::slice::from_ref(&fault), SystemTime::UNIX_EPOCH, Style::PLAIN);
        assert!(text.contains("1     compute-2   DRIVER_FAILED   injected"), "{text}");
        assert_eq!(fault_line(&fault), "DRIVER_FAILED: injected (attempt 1 on compute-2)");
        assert_eq!(faults(None, &[], SystemTime::UNIX_EPOCH, Style::PLAIN), "");
    }
}
