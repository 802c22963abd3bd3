//! A volume is exported to one host at a time, but while its instance moves.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use kilonova_model::time::timestamp;
use kilonova_proto::types::v1::Outcome;
use kilonova_proto::types::v1::action::Kind;

use super::guests::Guests;
use super::world::moment;
use super::{Expected, Findings, World};

const RULE: &str = "exported to one host";

/// No backend exports a volume to one more host unless the instance that has it is on its way from one to another, or the backend
/// could not be asked since it exported it to the first.
pub fn at_every_moment(world: &World, expected: &Expected, findings: &mut Findings) {
    let mut guests = Guests::default();
    let mut exports: BTreeMap<(&str, &str), BTreeMap<&str, SystemTime>> = BTreeMap::new();
    for event in &world.events {
        let (line, at) = (&event.line, event.at);
        guests.enter(line);
        let key = (line.host.as_str(), line.id.as_str());
        let to = line.detail["host"].as_str().unwrap_or_default();
        match line.op.as_str() {
            "export" => {
                let to_others = exports.entry(key).or_default();
                let moves = || movers(world, &guests, &line.id).any(|id| is_moved_at(world, id, at));
                for (other, since) in to_others.iter().filter(|(other, _)| **other != to) {
                    let away = expected.was_away_since(&line.host, *since);
                    findings.add_unless(away || moves(), RULE, &line.id, || {
                        let (at, since) = (timestamp(at), timestamp(*since));
                        format!("{} exports it to {to} at {at}, and to {other} since {since}", line.host)
                    });
                }
                to_others.insert(to, at);
            }
            "unexport" => {
                if let Some(hosts) = exports.get_mut(&key) {
                    hosts.remove(to);
                }
            }
            "delete" => _ = exports.remove(&key),
            _ => {}
        }
    }
}

/// The instances of which a guest has the volume, or had it when it was removed: an evacuated guest is removed by its host
/// that is back while the volume is exported to the next.
fn movers<'a>(
    world: &'a World,
    guests: &'a Guests,
    volume: &'a str,
) -> impl Iterator<Item = &'a str> + use<'a> {
    let have: BTreeSet<&str> = guests.having(volume).collect();
    world.instances.keys().map(String::as_str).filter(move |id| have.contains(id))
}

fn is_moved_at(world: &World, id: &str, at: SystemTime) -> bool {
    let actions = world.instances.get(id).map_or(&[][..], |record| &record.actions);
    actions.iter().any(|action| {
        let moves = matches!(
            action.kind(),
            Kind::Resize | Kind::Migrate | Kind::LiveMigrate | Kind::RevertResize | Kind::Evacuate
        );
        let begun = action.start_time.as_ref().is_some_and(|start| moment(start) <= at);
        // What a delete ended may still be under way; the delete then takes all exports back.
        let superseded = action.outcome() == Outcome::Superseded;
        moves && begun && (superseded || action.end_time.as_ref().is_none_or(|end| at <= moment(end)))
    })
}
