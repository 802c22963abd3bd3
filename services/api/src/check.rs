//! Looks at the shape of every request, names every wrong field at once, and fills in what may be left out.

mod aggregate;
mod catalogue;
mod host;
mod instance;
mod placement;
mod server_group;
mod snapshot;
mod store;
mod volume;

use std::time::Duration;

use kilonova_model::check::Checker;
use kilonova_model::time::{duration, to_duration};
use kilonova_model::{Error, HostName, ProjectId};
use prost_types::FieldMask;

/// The project of new things when the request names none.
const DEFAULT_PROJECT: &str = "default";
/// How often a watch says that it is alive when the request does not say.
pub const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(20);
const MIN_HEARTBEAT: Duration = Duration::from_secs(1);
const MAX_HEARTBEAT: Duration = Duration::from_secs(60);

/// A request that can be looked at.
pub trait Checked {
    /// Refuses it, or makes it whole.
    fn check(&mut self) -> Result<(), Error>;
}

/// A request id for callers that do not care, so that trying again here never does a thing twice.
fn fill_request_id(request_id: &mut String) {
    if request_id.is_empty() {
        *request_id = uuid::Uuid::now_v7().to_string();
    }
}

fn fill_project(project_id: &mut String) {
    if project_id.is_empty() {
        DEFAULT_PROJECT.clone_into(project_id);
    }
}

/// What every list of something owned takes.
fn list(check: &mut Checker, page_size: i32, project_id: &str, host: &str) {
    self::page_size(check, page_size);
    check.optional_id::<ProjectId>("project_id", project_id);
    check.optional_id::<HostName>("host", host);
}

fn page_size(check: &mut Checker, page_size: i32) {
    check.ensure(page_size >= 0, "page_size", format!("0 to {}", kilonova_model::page::MAX_PAGE));
}

fn states(check: &mut Checker, states: &[i32], known: impl Fn(i32) -> bool) {
    for (index, state) in states.iter().enumerate() {
        check.ensure(*state != 0 && known(*state), &format!("states[{index}]"), "no state of this version");
    }
}

/// The fields an update may name.
fn mask(check: &mut Checker, mask: Option<&FieldMask>, known: &[&str], required: bool) {
    let paths = mask.map_or(&[] as &[String], |mask| &mask.paths);
    check.ensure(
        !required || !paths.is_empty(),
        "update_mask",
        format!("name at least one of {}", known.join(", ")),
    );
    for path in paths {
        check.ensure(
            known.contains(&path.as_str()),
            "update_mask",
            format!("`{path}` cannot be changed; only {} can", known.join(", ")),
        );
    }
}

fn names(mask: Option<&FieldMask>, path: &str) -> bool {
    mask.is_some_and(|mask| mask.paths.iter().any(|named| named == path))
}

/// Brings the interval into its bounds, or sets the default.
fn clamp_heartbeat(interval: &mut Option<prost_types::Duration>) {
    let wanted = interval.as_ref().map_or(DEFAULT_HEARTBEAT, to_duration);
    *interval = Some(duration(wanted.clamp(MIN_HEARTBEAT, MAX_HEARTBEAT)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heartbeats_stay_within_their_bounds() {
        let clamped = |interval: Option<Duration>| {
            let mut interval = interval.map(duration);
            clamp_heartbeat(&mut interval);
            to_duration(&interval.unwrap())
        };
        assert_eq!(clamped(None), DEFAULT_HEARTBEAT);
        assert_eq!(clamped(Some(Duration::from_millis(1))), MIN_HEARTBEAT);
        assert_eq!(clamped(Some(Duration::from_secs(7))), Duration::from_secs(7));
        assert_eq!(clamped(Some(Duration::from_secs(3600))), MAX_HEARTBEAT);
    }

    #[test]
    fn masks_name_only_what_can_be_changed() {
        let paths =
            |paths: &[&str]| FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() };
        let violations = |paths: Option<&FieldMask>, required| {
            let mut check = Checker::new();
            mask(&mut check, paths, &["name", "metadata"], required);
            check.finish().err().map_or(0, |error| error.violations.len())
        };
        assert_eq!(violations(Some(&paths(&["name", "metadata"])), true), 0);
        assert_eq!(violations(Some(&paths(&["host", "id"])), true), 2);
        assert_eq!(violations(None, true), 1);
        assert_eq!(violations(None, false), 0);
    }
}
