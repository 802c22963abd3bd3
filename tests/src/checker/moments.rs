//! What must hold at every moment, replayed from the journals.

use std::collections::BTreeMap;
use std::time::SystemTime;

use super::{Event, Expected, Findings, World};

const LEFT: &str = "nothing left behind";
const ONCE: &str = "once";
const ROOM: &str = "room";
/// What a host or backend does once for each command.
const ONCE_EACH: [&str; 12] = [
    "spawn",
    "prepare",
    "power",
    "attach",
    "detach",
    "rebuild",
    "hand_over",
    "take_over",
    "take_back",
    "create",
    "extend",
    "create_snapshot",
];

/// Of these, what makes something that its host may have removed again.
const MAKES: [&str; 4] = ["spawn", "prepare", "create", "create_snapshot"];
/// What removes it.
const REMOVALS: [&str; 3] = ["destroy", "delete", "delete_snapshot"];

/// On which hosts each has a guest that may run, and since when.
type There<'a> = BTreeMap<&'a str, BTreeMap<&'a str, SystemTime>>;

/// One that is only prepared, or handed over, is none until its host takes it over or back.
fn enter<'a>(there: &mut There<'a>, event: &'a Event) {
    let hosts = there.entry(&event.line.id).or_default();
    match event.line.op.as_str() {
        "spawn" | "create" | "take_over" | "take_back" => _ = hosts.insert(&event.line.host, event.at),
        "destroy" | "delete" | "hand_over" => _ = hosts.remove(event.line.host.as_str()),
        _ => {}
    }
}

/// A host that was away is not ready before it has removed what was made elsewhere until it was started again.
pub fn nothing_stays_that_was_lost(world: &World, expected: &Expected, findings: &mut Findings) {
    for outage in &expected.outages {
        let (Some(started), Some(ready)) = (outage.started, outage.until) else { continue };
        let mut there = There::default();
        for event in world.events.iter().take_while(|event| event.at <= ready) {
            enter(&mut there, event);
        }
        for (id, hosts) in there {
            let kept = hosts.get(outage.host.as_str()).is_some_and(|since| *since < outage.from);
            let replaced = |since: &SystemTime| (outage.from..=started).contains(since);
            findings.add_unless(!kept || !hosts.values().any(replaced), LEFT, id, || {
                format!("{} is ready again and still has it, and so have {:?}", outage.host, hosts.keys())
            });
        }
    }
}

/// What one generation and attempt ask is done once. A host that failed, removed what it had begun and then died before it said
/// so knows nothing of it in its next incarnation, and may do it anew.
pub fn each_command_once(world: &World, findings: &mut Findings) {
    let mut done: BTreeMap<(&str, &str, u64, u32), Vec<&str>> = BTreeMap::new();
    // In which incarnation a host last removed what it had of each.
    let mut removed: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for event in &world.events {
        let line = &event.line;
        let (op, id, host) = (line.op.as_str(), line.id.as_str(), line.host.as_str());
        if REMOVALS.contains(&op) {
            removed.insert((host, id), line.epoch);
        }
        if ONCE_EACH.contains(&op) {
            let hosts = done.entry((op, id, line.generation, line.attempt)).or_default();
            let was_removed = removed.get(&(host, id)).is_some_and(|epoch| *epoch < line.epoch);
            if !(was_removed && MAKES.contains(&op) && hosts.contains(&host)) {
                hosts.push(host);
            }
        }
    }
    for ((op, id, generation, attempt), hosts) in done {
        findings.add_unless(hosts.len() == 1, ONCE, id, || {
            format!("{op} of {generation}.{attempt} was done {} times: {hosts:?}", hosts.len())
        });
    }
}

/// The amounts of one guest: virtual CPUs, MiB of memory, GiB of disk.
type Amount = [u64; 3];

/// Nothing is promised that is not there.
pub fn never_more_than_there_is(world: &World, expected: &Expected, findings: &mut Findings) {
    let capacity = expected.capacity;
    let most = [("vcpus", capacity.vcpus), ("ram_mib", capacity.ram_mib), ("disk_gib", capacity.disk_gib)];
    let mut guests: BTreeMap<&str, BTreeMap<&str, Amount>> = BTreeMap::new();
    let mut pools: BTreeMap<(&str, String), BTreeMap<&str, u64>> = BTreeMap::new();
    for event in &world.events {
        let (line, id, host) = (&event.line, event.line.id.as_str(), event.line.host.as_str());
        let figure = |name: &str| line.detail[name].as_u64().unwrap_or_default();
        match line.op.as_str() {
            "spawn" | "prepare" => {
                let on_host = guests.entry(host).or_default();
                on_host.insert(id, most.map(|(name, _)| figure(name)));
                for (n, (name, most)) in most.into_iter().enumerate() {
                    let taken: u64 = on_host.values().map(|amount| amount[n]).sum();
                    findings.add_unless(taken <= most, ROOM, host, || {
                        format!("{taken} {name} are taken of {most} once {id} is there")
                    });
                }
            }
            "destroy" => {
                guests.entry(host).or_default().remove(id);
            }
            "create" => {
                let pool = line.detail["pool"].as_str().unwrap_or_default().to_owned();
                let in_pool = pools.entry((host, pool)).or_default();
                in_pool.insert(id, figure("size_gib"));
                let taken: u64 = in_pool.values().sum();
                findings.add_unless(taken <= capacity.pool_gib, ROOM, host, || {
                    format!("{taken} GiB are taken of {} once {id} is there", capacity.pool_gib)
                });
            }
            "extend" | "delete" => {
                for ((_, _), in_pool) in pools.iter_mut().filter(|((backend, _), _)| *backend == host) {
                    if line.op == "delete" {
                        in_pool.remove(id);
                    } else if let Some(size) = in_pool.get_mut(id) {
                        *size = (*size).max(figure("size_gib"));
                    }
                    let taken: u64 = in_pool.values().sum();
                    findings.add_unless(taken <= capacity.pool_gib, ROOM, host, || {
                        format!("{taken} GiB are taken of {} once {id} has grown", capacity.pool_gib)
                    });
                }
            }
            _ => {}
        }
    }
}
