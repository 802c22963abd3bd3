//! One clear sentence for everything that keeps it from starting.

use std::net::TcpListener;
use std::time::Duration;

use tokio::time::Instant;

use crate::process::{Running, kilonova, run};

fn refused(arguments: &[&str], code: i32, sentence: &str) {
    let ended = run(&mut kilonova(arguments));
    assert_eq!(ended.stderr, format!("error: {sentence}\n"), "{arguments:?}");
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(code), ""), "{arguments:?}");
}

#[test]
fn keys_that_do_not_exist() {
    refused(
        &["api", "--set", "lsten=127.0.0.1"],
        2,
        "unknown key `lsten` in the command line; the nearest known key is `listen`",
    );
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("k.toml");
    std::fs::write(&path, "[log]\nlevle = \"debug\"\n").unwrap();
    let path = path.to_str().unwrap();
    refused(
        &["compute", "--config", path],
        2,
        &format!("unknown key `log.levle` in the file {path}; the nearest known key is `log.level`"),
    );
    let ended = run(kilonova(&["up"]).env("KILONOVA_STORE__KINDD", "etcd"));
    assert_eq!(
        ended.stderr,
        "error: unknown key `store.kindd` in the environment variable KILONOVA_STORE__KINDD; \
         the nearest known key is `store.kind`\n"
    );
    assert_eq!(ended.code, Some(2));
}

#[test]
fn values_that_keys_cannot_have() {
    refused(
        &["api", "--listen", "localhost"],
        2,
        "bad value `localhost` for `listen` in the command line: expected an IP address with or without a port, \
         such as 127.0.0.1:7770, 10.0.0.7 or [::1]:7770",
    );
    refused(
        &["api", "--store", "mysql"],
        2,
        "bad value `mysql` for `store.kind` in the command line: expected one of embedded, etcd",
    );
    refused(
        &["up", "--log-level", "loud"],
        2,
        "`loud` is not a log level: `loud` is none of off, error, warn, info, debug, trace",
    );
    refused(
        &["api", "--etcd-endpoints", "http://127.0.0.1:1", "--listen", "0.0.0.0:0"],
        2,
        "listening on every address (0.0.0.0:0) says nothing about where others reach the service: \
         name that address with --advertise",
    );
    refused(
        &["compute", "--set", "compute.max_concurrent_builds=0", "--set", "compute.driver.fail_rate=2"],
        2,
        "compute.max_concurrent_builds: at least 1; compute.driver.fail_rate: 0 to 1",
    );
    refused(
        &["up", "--set", "compute.max_concurrent_builds=many"],
        2,
        "bad value `many` for `compute.max_concurrent_builds` in the command line: expected a whole number",
    );
    refused(
        &["api", "--print-config", "--set", "conductor.max_attempts=0"],
        2,
        "conductor.max_attempts: at least 1",
    );
    refused(
        &["up", "--print-config", "--set", "scheduler.heartbeat=1ms"],
        2,
        "scheduler.heartbeat: 1ms is not between 500ms and 60s",
    );
    refused(
        &["api", "--config", "/nonexistent/k.toml"],
        2,
        "cannot read the configuration file /nonexistent/k.toml: No such file or directory (os error 2)",
    );
}

#[test]
fn one_service_alone_in_the_embedded_store() {
    refused(
        &["scheduler", "--store", "embedded"],
        2,
        "the embedded store is open in one process only, so a scheduler of its own would be alone in it: \
         run all services in one process with `kilonova up`, or name an etcd with --etcd-endpoints",
    );
    let api = run(&mut kilonova(&["api", "--store", "embedded"])).stderr;
    assert!(api.contains("so an api of its own"), "{api}");
}

#[test]
fn a_port_that_is_taken() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    refused(
        &["api", "--etcd-endpoints", "http://127.0.0.1:1", "--listen", &address],
        1,
        &format!("api cannot serve gRPC at {address}: another process listens there"),
    );
    refused(
        &[
            "api",
            "--etcd-endpoints",
            "http://127.0.0.1:1",
            "--listen",
            "127.0.0.1:0",
            "--http-listen",
            &address,
        ],
        1,
        &format!("api cannot serve HTTP at {address}: another process listens there"),
    );
    refused(
        &["api", "--etcd-endpoints", "http://127.0.0.1:1", "--listen", "192.0.2.1:7770"],
        1,
        "api cannot serve gRPC at 192.0.2.1:7770: this machine does not have that address",
    );
}

#[test]
fn an_address_this_machine_does_not_have() {
    let sentence = "api-1 cannot serve gRPC at 192.0.2.1:7770: this machine does not have that address";
    refused(&["up", "--listen-ip", "192.0.2.1"], 1, sentence);
}

#[test]
fn an_etcd_that_does_not_answer() {
    let began = Instant::now();
    let flags =
        ["--etcd-endpoints", "http://127.0.0.1:1", "--listen", "127.0.0.1:0", "--data-dir", "/nonexistent"];
    let ended = run(kilonova(&["conductor"]).args(flags));
    assert!(
        ended.stderr.starts_with("error: etcd at http://127.0.0.1:1 cannot be used: "),
        "{}",
        ended.stderr
    );
    assert_eq!((ended.code, ended.stderr.lines().count()), (Some(1), 1), "{}", ended.stderr);
    assert!(began.elapsed() < Duration::from_secs(60));
}

#[test]
fn data_that_another_process_works_on() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().to_str().unwrap();
    let up = ["up", "--ephemeral-ports", "--data-dir", data, "--hosts", "1", "--backends", "1"];
    let mut first = Running::start(&mut kilonova(&up));
    first.read_until("Ctrl-C");
    refused(&up, 1, &format!("the store in {data}/store is in use by another process"));
    first.signal("TERM");
    first.wait(Duration::from_secs(10));

    refused(
        &["up", "--ephemeral-ports", "--data-dir", "/proc/nowhere"],
        1,
        "the store in /proc/nowhere/store cannot be opened: /proc/nowhere/store: No such file or directory (os error 2)",
    );
}
