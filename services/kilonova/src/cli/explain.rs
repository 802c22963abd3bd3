//! Why something failed: the fault, earlier attempts, and what the scheduler saw.

use std::time::SystemTime;

use kilonova_proto::types::v1::{Action, Fault, Outcome, PlacementExplanation};

use super::format::{NONE, moment, or_dash, safe};
use super::output::{Style, table};

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
    text.push_str(&table(&["FILTER", "REMOVED", "LEFT", "EXAMPLES"], rows.collect(), style));
    if !explanation.enough.is_empty() {
        text.push_str("what alone would be enough:\n");
        text.extend(explanation.enough.iter().map(|enough| format!("  {}\n", safe(enough))));
    }
    if !explanation.candidates.is_empty() {
        let rows = explanation.candidates.iter().map(|candidate| {
            let host = match candidate.pool.as_str() {
                "" => candidate.host.clone(),
                pool => format!("{}#{pool}", candidate.host),
            };
            let weighers = candidate.weighers.iter();
            let parts = weighers.map(|one| format!("{} {:+.3}", one.name, one.normalized * one.multiplier));
            vec![host, format!("{:.3}", candidate.weight), parts.collect::<Vec<_>>().join(", ")]
        });
        text.push_str(&table(&["CANDIDATE", "WEIGHT", "WEIGHERS"], rows.collect(), style));
    }
    text
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kilonova_proto::types::v1::{FilterResult, FilterSample};

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
