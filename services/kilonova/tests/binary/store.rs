//! The embedded store over lives: what was lost is not passed over, and a process that stood still keeps its leases.

use std::path::Path;
use std::time::Duration;

use crate::process::{Running, kilonova, run};

const STOP: Duration = Duration::from_secs(20);

fn up(dir: &Path, settings: &[&str]) -> (Running, String) {
    let mut arguments = vec!["up", "--ephemeral-ports", "--log-level", "info", "--hosts", "2", "--data-dir"];
    arguments.push(dir.to_str().expect("a name of text"));
    arguments.extend(settings.iter().flat_map(|setting| ["--set", *setting]));
    let mut cloud = Running::start(&mut kilonova(&arguments));
    let banner = cloud.read_until("Ctrl-C");
    let api = banner.lines().find(|line| line.trim_start().starts_with("api ")).expect("it is listed");
    (cloud, api.split_whitespace().nth(2).expect("with its address").to_owned())
}

fn operate(address: &str, line: &str) -> String {
    let ended = run(kilonova(&line.split(' ').collect::<Vec<_>>()).env("KILONOVA_ENDPOINT", address));
    assert_eq!(ended.code, Some(0), "{line}: {}", ended.stderr);
    ended.stdout
}

fn create(address: &str, name: &str) {
    operate(address, &format!("instance create {name} --flavor m1.tiny --image cirros --wait"));
}

#[test]
fn a_backup_is_put_back_only_when_that_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let (cloud, address) = up(dir.path(), &[]);
    create(&address, "early");
    let copy = dir.path().join("copy.db");
    let (copy_text, dir_text) = (copy.to_str().unwrap(), dir.path().to_str().unwrap());
    let copied = run(&mut kilonova(&["backup", copy_text, "--data-dir", dir_text]));
    assert_eq!(copied.code, Some(0), "{}", copied.stderr);
    assert!(copied.stdout.contains(" keys, at revision "), "{}", copied.stdout);
    create(&address, "late");
    cloud.signal("TERM");
    assert!(cloud.wait(STOP).0.success());

    let store = dir.path().join("store");
    for file in ["store.db-wal", "store.db-shm"] {
        // A store that was closed has none.
        let _ = std::fs::remove_file(store.join(file));
    }
    std::fs::rename(&copy, store.join("store.db")).unwrap();
    let refused = run(&mut kilonova(&["up", "--ephemeral-ports", "--data-dir", dir_text]));
    assert_eq!(refused.code, Some(1), "{}", refused.stderr);
    for part in ["is not what it was", "changes are lost", "--set store.accept_older=true"] {
        assert!(refused.stderr.contains(part), "{}", refused.stderr);
    }
    // The agents know what the copy does not: only the operator's word lets them go by it.
    let (cloud, address) = up(dir.path(), &["store.accept_older=true"]);
    let listed = operate(&address, "instance list");
    assert!(listed.contains("early") && !listed.contains("late"), "{listed}");
    let healed = run(kilonova(&["audit", "--heal"]).env("KILONOVA_ENDPOINT", &address));
    assert!(healed.stderr.contains("store accept"), "{}", healed.stderr);
    let waiting = ["instance", "create", "waiting", "--flavor", "m1.tiny", "--image", "cirros", "--wait"];
    let mut waiting = Running::start(kilonova(&waiting).env("KILONOVA_ENDPOINT", &address));
    waiting.read_stderr_until("SCHEDULING");
    operate(&address, "store accept");
    let (created, log) = waiting.wait(STOP);
    assert!(created.success(), "{log}");
    create(&address, "new");
    cloud.signal("TERM");
    assert!(cloud.wait(STOP).0.success());
    let (_cloud, address) = up(dir.path(), &["store.accept_older=true"]);
    create(&address, "newer");
}

#[test]
fn what_is_to_be_backed_up_must_be_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("copy.db");
    let file = file.to_str().unwrap();
    let unnamed = run(&mut kilonova(&["backup", file]));
    assert_eq!(unnamed.code, Some(2), "{}", unnamed.stderr);
    let etcd = run(&mut kilonova(&["backup", file, "--store", "etcd"]));
    assert_eq!(etcd.code, Some(2));
    assert!(etcd.stderr.contains("etcdctl snapshot save"), "{}", etcd.stderr);
    let nothing = run(&mut kilonova(&["backup", file, "--data-dir", dir.path().to_str().unwrap()]));
    assert_eq!(nothing.code, Some(1));
    assert!(nothing.stderr.contains("there is no store in"), "{}", nothing.stderr);
}

#[tokio::test]
async fn a_process_that_stood_still_longer_than_its_leases_and_heartbeats_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let short = ["registry.ttl=2s", "conductor.shard_ttl=2s", "scheduler.heartbeat=500ms"];
    let (cloud, address) = up(dir.path(), &short);
    create(&address, "before");
    for _ in 0..2 {
        cloud.signal("STOP");
        // Three times the leases and the silence that is taken for death.
        tokio::time::sleep(Duration::from_secs(6)).await;
        cloud.signal("CONT");
        create(&address, "after");
    }
    cloud.signal("KILL");
    let (_, log) = cloud.wait(STOP);
    for sign in ["publisher is down", "registration is lost", "shards are not held", "vanished"] {
        assert!(!log.contains(sign), "{sign}: {log}");
    }
    assert!(log.contains("leases ran out while this process stood still"), "{log}");
}
