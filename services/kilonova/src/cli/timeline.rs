//! Draws an action step by step: who did what, when, for how long, and what came of it.

use std::time::{Duration, SystemTime};

use kilonova_model::time::{system_time, to_duration};
use kilonova_proto::types::v1::{Action, Outcome, Step};

use super::format::{NONE, label, or_dash, rfc3339, safe, took};
use super::output::{Style, table};
use super::service::kind_label;

const COLUMNS: [&str; 9] =
    ["STEP", "TRY", "SERVICE", "HOST", "START", "TAKES", "TIMELINE", "OUTCOME", "DETAIL"];

/// Cells of the bar, on a narrow and on a wide terminal.
const BAR: (usize, usize) = (20, 40);

/// Where a step lies in its action. A clock that is behind the first one's makes a start before zero.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Place {
    /// From the action's start to the step's, in seconds.
    start: f64,
    length: Duration,
}

/// The whole action: a headline, a line per step with its bar, and how many steps were dropped.
#[must_use]
pub fn draw(action: &Action, now: SystemTime, style: Style) -> String {
    let begin = action.start_time.as_ref().and_then(system_time).unwrap_or(now);
    let places: Vec<Place> = action.steps.iter().map(|step| place(step, begin, now)).collect();
    let total = total(action, begin, now, &places);
    let width = if style.width.is_some_and(|width| width < 140) { BAR.0 } else { BAR.1 };

    let mut text = headline(action, total);
    let rows = action
        .steps
        .iter()
        .zip(&places)
        .map(|(step, place)| row(step, *place, bar(*place, total, width, step.outcome())))
        .collect();
    for line in table(&COLUMNS, rows, style).lines() {
        text.push_str("  ");
        text.push_str(line);
        text.push('\n');
    }
    if action.dropped_steps > 0 {
        text.push_str(&format!("  ({} steps in the middle were dropped)\n", action.dropped_steps));
    }
    text
}

fn headline(action: &Action, total: Duration) -> String {
    let kind = label(action.kind().as_str_name(), "KIND_").to_lowercase();
    let ending = match action.outcome() {
        Outcome::InProgress | Outcome::Unspecified => format!("going on for {}", took(total)),
        Outcome::Succeeded => format!("succeeded in {}", took(total)),
        Outcome::Failed => format!("failed after {}", took(total)),
        Outcome::Superseded => format!("overtaken after {}", took(total)),
    };
    let started = action.start_time.as_ref().map_or_else(|| NONE.to_owned(), rfc3339);
    let request =
        if action.request_id.is_empty() { String::new() } else { format!(", request {}", action.request_id) };
    safe(&format!("{kind}: {ending} (accepted {started}{request})")).into_owned() + "\n"
}

fn place(step: &Step, begin: SystemTime, now: SystemTime) -> Place {
    let started = step.start_time.as_ref().and_then(system_time).unwrap_or(begin);
    let start = match started.duration_since(begin) {
        Ok(after) => after.as_secs_f64(),
        Err(before) => -before.duration().as_secs_f64(),
    };
    let length = match (&step.duration, step.outcome()) {
        (Some(length), _) => to_duration(length),
        (None, Outcome::InProgress) => now.duration_since(started).unwrap_or_default(),
        (None, _) => Duration::ZERO,
    };
    Place { start, length }
}

/// From the action's start to its end, to now while it goes on, and at least to its last step's end.
fn total(action: &Action, begin: SystemTime, now: SystemTime, places: &[Place]) -> Duration {
    let end = action.end_time.as_ref().and_then(system_time).unwrap_or(now);
    let whole = end.duration_since(begin).unwrap_or_default();
    let last = places.iter().map(|place| place.start + place.length.as_secs_f64()).fold(0.0, f64::max);
    let in_progress = matches!(action.outcome(), Outcome::InProgress);
    if action.end_time.is_some() || in_progress {
        whole.max(Duration::from_secs_f64(last))
    } else {
        Duration::from_secs_f64(last)
    }
}

/// The step's part of the action, at least one cell.
fn bar(place: Place, total: Duration, width: usize, outcome: Outcome) -> String {
    let cells = width as f64;
    let scale = cells / total.as_secs_f64().max(1e-9);
    let cell = |seconds: f64| (seconds * scale).clamp(0.0, cells);
    let from = (cell(place.start).floor() as usize).min(width - 1);
    let to = (cell(place.start + place.length.as_secs_f64()).ceil() as usize).max(from + 1);
    let fill = match outcome {
        Outcome::Failed => "▒",
        Outcome::InProgress => "░",
        Outcome::Succeeded | Outcome::Superseded | Outcome::Unspecified => "█",
    };
    format!("{}{}{}", "·".repeat(from), fill.repeat(to - from), "·".repeat(width - to))
}

fn row(step: &Step, place: Place, bar: String) -> Vec<String> {
    let sign = if place.start < 0.0 { "-" } else { "+" };
    let mut detail = step.detail.clone();
    if let Some(fault) = &step.fault {
        let cause = format!("{}: {}", fault.reason, fault.message);
        detail = if detail.is_empty() { cause } else { format!("{detail}; {cause}") };
    }
    vec![
        step.name.clone(),
        if step.attempt == 0 { NONE.to_owned() } else { step.attempt.to_string() },
        kind_label(step.service()),
        or_dash(&step.host),
        format!("{sign}{}", took(Duration::from_secs_f64(place.start.abs()))),
        took(place.length),
        bar,
        label(step.outcome().as_str_name(), "OUTCOME_"),
        detail,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use kilonova_proto::types::v1::action::Kind;
    use kilonova_proto::types::v1::{Fault, ServiceKind};
    use std::time::UNIX_EPOCH;

    const BEGIN: u64 = 1_700_000_000_000;

    fn at(ms: u64) -> Option<prost_types::Timestamp> {
        Some(kilonova_model::time::timestamp(UNIX_EPOCH + Duration::from_millis(BEGIN + ms)))
    }

    fn step(name: &str, start: u64, length: Option<u64>, outcome: Outcome) -> Step {
        Step {
            name: name.into(),
            service: ServiceKind::Compute.into(),
            host: "compute-1".into(),
            start_time: at(start),
            duration: length.map(|ms| kilonova_model::time::duration(Duration::from_millis(ms))),
            outcome: outcome.into(),
            attempt: 1,
            ..Default::default()
        }
    }

    fn create(steps: Vec<Step>, end: Option<u64>, outcome: Outcome) -> Action {
        Action {
            kind: Kind::Create.into(),
            request_id: "r-1".into(),
            start_time: at(0),
            end_time: end.and_then(at),
            outcome: outcome.into(),
            steps,
            dropped_steps: 0,
        }
    }

    fn now() -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(BEGIN + 1000)
    }

    #[test]
    fn a_build_that_went_to_a_second_host() {
        let mut failed = step("build", 0, Some(250), Outcome::Failed);
        failed.fault =
            Some(Fault { reason: "DRIVER_FAILED".into(), message: "no luck".into(), ..Default::default() });
        let mut second = step("build", 250, Some(250), Outcome::Succeeded);
        (second.attempt, second.host, second.detail) = (2, "compute-2".into(), "spawned".into());
        let narrow = Style { color: false, width: Some(80) };
        let text = draw(&create(vec![failed, second], Some(500), Outcome::Succeeded), now(), narrow);
        let expected = "\
create: succeeded in 500 ms (accepted 2023-11-14T22:13:20.000Z, request r-1)
  STEP    TRY   SERVICE   HOST        START     TAKES    TIMELINE               OUTCOME     DETAIL
  build   1     compute   compute-1   +0.0 ms   250 ms   ▒▒▒▒▒▒▒▒▒▒··········   FAILED      DRIVER_FAILED: no luck
  build   2     compute   compute-2   +250 ms   250 ms   ··········██████████   SUCCEEDED   spawned
";
        assert_eq!(text, expected);
    }

    #[test]
    fn what_goes_on_reaches_to_now() {
        let action = create(vec![step("spawn", 500, None, Outcome::InProgress)], None, Outcome::InProgress);
        let text = draw(&action, now(), Style { color: false, width: Some(80) });
        assert!(text.starts_with("create: going on for 1.00 s"), "{text}");
        assert!(text.contains("··········░░░░░░░░░░"), "{text}");
    }

    #[test]
    fn bars_stay_inside_whatever_the_clocks_say() {
        let second = Duration::from_secs(1);
        let places = [
            Place { start: -5.0, length: second },
            Place { start: 0.0, length: Duration::ZERO },
            Place { start: 1.0, length: Duration::ZERO },
            Place { start: 7.0, length: second },
            Place { start: 0.9999, length: second * 100 },
        ];
        for place in places {
            for total in [Duration::ZERO, second] {
                let bar = bar(place, total, 20, Outcome::Succeeded);
                assert_eq!(bar.chars().count(), 20, "{place:?}");
                assert!(bar.contains('█'), "{place:?}");
            }
        }
    }

    #[test]
    fn an_action_without_steps_or_times_is_drawn_too() {
        let text = draw(&Action::default(), now(), Style::PLAIN);
        assert!(text.starts_with("-: going on for 0.0 ms (accepted -)"), "{text}");
    }

    #[test]
    fn dropped_steps_are_counted() {
        let mut action = create(Vec::new(), Some(1), Outcome::Failed);
        action.dropped_steps = 7;
        assert!(draw(&action, now(), Style::PLAIN).ends_with("(7 steps in the middle were dropped)\n"));
    }
}
