//! The guests that the journals leave are those that the records say, as the records say.

use std::collections::{BTreeMap, BTreeSet};

use kilonova_proto::types::v1::instance::State;

use super::{Expected, Findings, World};
use crate::journal::Line;

const GUESTS: &str = "guests are records";

/// A guest as its journal leaves it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Guest {
    /// Whether it is its host's to run, and neither only prepared nor handed over.
    pub runs: bool,
    /// Whether it was shut down.
    pub stopped: bool,
    /// Its volumes and their devices.
    pub volumes: BTreeMap<String, String>,
}

/// The guests on each host, as the journals say up to some line.
#[derive(Debug, Default)]
pub struct Guests {
    /// By host and id.
    there: BTreeMap<(String, String), Guest>,
    /// The instances of which a guest had a volume and did not lose it by a detach, by volume.
    had: BTreeMap<String, BTreeSet<String>>,
}

impl Guests {
    /// Takes the next line.
    pub fn enter(&mut self, line: &Line) {
        let key = (line.host.clone(), line.id.clone());
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        match line.op.as_str() {
            op @ ("spawn" | "prepare") => {
                let stopped = line.detail["stopped"] == true;
                let volumes: BTreeMap<String, String> =
                    serde_json::from_value(line.detail["volumes"].clone()).unwrap_or_default();
                for volume in volumes.keys() {
                    self.had.entry(volume.clone()).or_default().insert(line.id.clone());
                }
                self.there.insert(key, Guest { runs: op == "spawn", stopped, volumes });
            }
            "destroy" => {
                self.there.remove(&key);
            }
            op => {
                let Some(guest) = self.there.get_mut(&key) else { return };
                match op {
                    "power" => guest.stopped = line.detail["power"] == "stop",
                    "attach" => {
                        let attach = &line.detail["attach"];
                        let volume = text(&attach["volume"]);
                        self.had.entry(volume.clone()).or_default().insert(line.id.clone());
                        guest.volumes.insert(volume, text(&attach["device"]));
                    }
                    "detach" => {
                        let volume = text(&line.detail["detach"]["volume"]);
                        self.had.entry(volume.clone()).or_default().remove(&line.id);
                        guest.volumes.remove(&volume);
                    }
                    "hand_over" => (guest.runs, guest.stopped) = (false, true),
                    "take_over" | "take_back" => {
                        guest.runs = true;
                        guest.stopped = line.detail["move"][op]["stopped"] == true;
                    }
                    _ => {}
                }
            }
        }
    }

    /// The instances of which a guest has a volume, or had it when it was removed.
    pub fn having(&self, volume: &str) -> impl Iterator<Item = &str> {
        self.had.get(volume).into_iter().flatten().map(String::as_str)
    }
}

/// The guests on each host once all was written.
pub fn left(world: &World) -> BTreeMap<(String, String), Guest> {
    let mut guests = Guests::default();
    world.events.iter().for_each(|event| guests.enter(&event.line));
    guests.there
}

/// Whether a host keeps the copy of an instance that was resized and may go back there.
fn record_keeps(world: &World, id: &str, host: &str) -> bool {
    let from = world.instances.get(id).and_then(|record| record.resized_from.as_ref());
    from.is_some_and(|from| from.host == host)
}

/// Every guest has its record there, and every record that should have one its guest.
pub fn as_recorded(world: &World, expected: &Expected, findings: &mut Findings) {
    let guests = left(world);
    for ((host, id), guest) in &guests {
        let instance = world.instances.get(id).and_then(|record| record.instance.as_ref());
        let Some(instance) = instance else {
            findings.add(GUESTS, id, format!("a guest on {host} has no record"));
            continue;
        };
        let state = instance.state();
        let kept = record_keeps(world, id, host);
        let well = matches!(state, State::Active | State::Stopped | State::Error | State::Resized);
        let here = kept || (instance.host == *host && well);
        // A host that never came back could not be told to remove it.
        findings.add_unless(here || expected.is_away(host), GUESTS, id, || {
            format!("a guest is on {host}, and its record is {} on {:?}", state.as_str_name(), instance.host)
        });
        let judged = here && !kept && matches!(state, State::Active | State::Stopped);
        let agrees = !judged || guest.stopped == (state == State::Stopped);
        findings.add_unless(agrees, GUESTS, id, || {
            format!(
                "it is {}, and its guest was {}",
                state.as_str_name(),
                if guest.stopped { "stopped" } else { "running" }
            )
        });
    }
    for (id, record) in &world.instances {
        let instance = record.instance.clone().unwrap_or_default();
        if matches!(instance.state(), State::Active | State::Stopped | State::Resized) {
            let guest = guests.get(&(instance.host.clone(), id.clone()));
            findings.add_unless(guest.is_some_and(|guest| guest.runs), GUESTS, id, || {
                let what = if guest.is_some() { "one that is not there to run" } else { "no guest" };
                format!(
                    "it is {} on {:?} and has {what} there",
                    instance.state().as_str_name(),
                    instance.host
                )
            });
        }
    }
}
