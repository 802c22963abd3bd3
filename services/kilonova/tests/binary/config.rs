//! What `--print-config` shows, and which source wins.

use std::path::Path;

use crate::process::{kilonova, run};

fn printed(arguments: &[&str], variables: &[(&str, &str)]) -> toml::Table {
    let ended = run(kilonova(arguments).arg("--print-config").envs(variables.iter().copied()));
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{arguments:?}");
    ended.stdout.parse().expect("it prints TOML")
}

fn file(dir: &Path, text: &str) -> String {
    let path = dir.join("kilonova.toml");
    std::fs::write(&path, text).expect("the directory is ours");
    path.to_str().expect("it is UTF-8").to_owned()
}

#[test]
fn what_was_left_open_is_decided_and_shown() {
    let config = printed(&["scheduler", "--host", "node7"], &[]);
    assert_eq!(config["cell"].as_str(), Some("default"));
    assert_eq!(config["host"].as_str(), Some("node7"));
    assert_eq!(config["listen"].as_str(), Some("127.0.0.1:7772"));
    assert_eq!(config["http_listen"].as_str(), Some("127.0.0.1:8772"));
    assert_eq!(config["store"]["kind"].as_str(), Some("embedded"));
    assert_eq!(config["store"]["path"].as_str(), Some("/var/lib/kilonova/store"));
    assert_eq!(config["log"]["level"].as_str(), Some("info"));
    for service in ["api", "conductor", "scheduler", "compute", "volume"] {
        assert!(config[service].is_table(), "{service}");
    }
    assert_eq!(printed(&["up"], &[])["log"]["level"].as_str(), Some("warn"));
}

#[test]
fn file_then_variable_then_flag_then_setting() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(
        dir.path(),
        "cell = \"file\"\nzone = \"file\"\nhost = \"file\"\nlisten = \"10.0.0.7\"\n[log]\nlevel = \"debug\"\n",
    );
    let variables = [("KILONOVA_ZONE", "env"), ("KILONOVA_HOST", "env"), ("KILONOVA_LOG__FORMAT", "json")];
    let arguments = ["volume", "--config", &path, "--host", "flag@sim", "--set", "drain.timeout=3s"];
    let config = printed(&arguments, &variables);
    assert_eq!(config["cell"].as_str(), Some("file"));
    assert_eq!(config["zone"].as_str(), Some("env"));
    assert_eq!(config["host"].as_str(), Some("flag@sim"));
    assert_eq!(config["listen"].as_str(), Some("10.0.0.7:7773"), "the port is the service's own");
    assert_eq!(config["log"]["level"].as_str(), Some("debug"));
    assert_eq!(config["log"]["format"].as_str(), Some("json"));
    assert_eq!(config["drain"]["timeout"].as_str(), Some("3s"));

    let over_all = printed(&["api", "--host", "flag", "--set", "host=set"], &[("KILONOVA_CONFIG", &path)]);
    assert_eq!(over_all["host"].as_str(), Some("set"));
    assert_eq!(over_all["listen"].as_str(), Some("10.0.0.7:7770"));
}

#[test]
fn etcd_endpoints_imply_etcd_and_secrets_stay_hidden() {
    let config = printed(
        &["compute", "--etcd-endpoints", "http://a:2379,http://b:2379", "--set", "store.password=hunter2"],
        &[],
    );
    assert_eq!(config["store"]["kind"].as_str(), Some("etcd"));
    assert_eq!(config["store"]["endpoints"].as_array().unwrap().len(), 2);
    assert_eq!(config["store"]["password"].as_str(), Some("(hidden)"));
}

#[test]
fn what_it_prints_reads_back_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let first = run(&mut kilonova(&["conductor", "--host", "c1", "--print-config"])).stdout;
    let path = file(dir.path(), &first);
    let second = run(&mut kilonova(&["conductor", "--config", &path, "--print-config"])).stdout;
    assert_eq!(first, second);
}
