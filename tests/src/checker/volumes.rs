//! The volumes and exports that the journals leave are those that the records say.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use kilonova_proto::types::v1::volume::State;

use super::{Expected, Findings, World};

const VOLUMES: &str = "volumes are records";
const EXPORTS: &str = "exports are attachments";

/// A volume as its journal leaves it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Stored {
    size_gib: u64,
    /// The hosts that reach it, and since when.
    exports: BTreeMap<String, SystemTime>,
}

fn left(world: &World) -> BTreeMap<(String, String), Stored> {
    let mut volumes: BTreeMap<(String, String), Stored> = BTreeMap::new();
    for event in &world.events {
        let line = &event.line;
        let key = (line.host.clone(), line.id.clone());
        let size = line.detail["size_gib"].as_u64().unwrap_or_default();
        let to = line.detail["host"].as_str().unwrap_or_default().to_owned();
        match line.op.as_str() {
            "create" => {
                volumes.insert(key, Stored { size_gib: size, exports: BTreeMap::new() });
            }
            "delete" => {
                volumes.remove(&key);
            }
            op => {
                let Some(stored) = volumes.get_mut(&key) else { continue };
                match op {
                    "extend" => stored.size_gib = stored.size_gib.max(size),
                    "export" => _ = stored.exports.insert(to, event.at),
                    "unexport" => _ = stored.exports.remove(&to),
                    _ => {}
                }
            }
        }
    }
    volumes
}

/// Every volume has its record there, with its size and with an export for each attachment, and the other way round.
pub fn as_recorded(world: &World, expected: &Expected, findings: &mut Findings) {
    let stored = left(world);
    for ((host, id), volume) in &stored {
        let Some(record) = world.volumes.get(id).and_then(|record| record.volume.as_ref()) else {
            findings.add(VOLUMES, id, format!("a volume on {host} has no record"));
            continue;
        };
        let state = record.state();
        let here = record.host == *host && state != State::Deleted;
        // A backend that never came back could not be told to remove it.
        findings.add_unless(here || expected.is_away(host), VOLUMES, id, || {
            format!("it is on {host}, and its record is {} on {:?}", state.as_str_name(), record.host)
        });
        let size = record.spec.as_ref().map_or(0, |spec| u64::from(spec.size_gib));
        let settled = matches!(state, State::Available | State::InUse);
        findings.add_unless(!settled || size == volume.size_gib, VOLUMES, id, || {
            format!("it has {} GiB on {host}, and {size} by its record", volume.size_gib)
        });
        let instances = record.attachments.iter().filter_map(|one| world.instances.get(&one.instance_id));
        // One that was resized may go back: its volumes stay exported there too.
        let hosts: BTreeSet<String> = instances
            .flat_map(|record| {
                let back = record.resized_from.as_ref().map(|from| from.host.clone());
                record.instance.as_ref().map(|instance| instance.host.clone()).into_iter().chain(back)
            })
            .collect();
        for missing in hosts.iter().filter(|host| !volume.exports.contains_key(*host)) {
            findings.add(
                EXPORTS,
                id,
                format!("it is attached on {missing} and not exported to it by {host}"),
            );
        }
        for (more, since) in volume.exports.iter().filter(|(to, _)| !hosts.contains(*to)) {
            // Freed at the deadline without its backend having been asked.
            findings.add_unless(expected.was_away_since(host, *since), EXPORTS, id, || {
                format!("{host} exports it to {more}, where it is not attached")
            });
        }
    }
    for (id, record) in &world.volumes {
        let volume = record.volume.clone().unwrap_or_default();
        if matches!(volume.state(), State::Available | State::InUse) {
            let there = stored.contains_key(&(volume.host.clone(), id.clone()));
            findings.add_unless(there, VOLUMES, id, || {
                format!("it is {} on {:?} and not there", volume.state().as_str_name(), volume.host)
            });
        }
    }
}
