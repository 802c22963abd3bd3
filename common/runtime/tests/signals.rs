//! What a signalled process does, seen from outside: the test starts itself again as the process to signal.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Stdio;
use std::time::Duration;

use kilonova_runtime::signals;
use kilonova_runtime::tasks::Tasks;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const SOON: Duration = Duration::from_secs(20);
const MARK: &str = "SIGNALS_TEST_CHILD";

/// The process that is signalled: says what happens to it, and never ends by itself.
#[tokio::test]
async fn child() {
    if std::env::var_os(MARK).is_none() {
        return;
    }
    let (tasks, stop) = (Tasks::new("child"), CancellationToken::new());
    signals::stop_on_terminate(&tasks, stop.clone()).unwrap();
    signals::on_hangup(&tasks, || println!("\nhangup")).unwrap();
    signals::on_user2(&tasks, || println!("\nuser2")).unwrap();
    println!("\nready");
    stop.cancelled().await;
    println!("\nstopping");
    std::future::pending().await
}

async fn start() -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--nocapture"])
        .env(MARK, "1")
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines)
}

async fn said(lines: &mut Lines<BufReader<ChildStdout>>, wanted: &str) {
    let wait = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line == wanted {
                return;
            }
        }
        panic!("the child ended without saying {wanted}");
    };
    timeout(SOON, wait).await.unwrap();
}

async fn signal(child: &Child, name: &str) {
    let pid = child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-s", name, &pid]).status().await.unwrap().success());
}

#[tokio::test]
async fn the_first_signal_asks_and_the_second_ends() {
    for (first, second) in [("TERM", "INT"), ("INT", "TERM")] {
        let (mut child, mut lines) = start().await;
        said(&mut lines, "ready").await;
        signal(&child, first).await;
        said(&mut lines, "stopping").await;
        signal(&child, second).await;
        let status = timeout(SOON, child.wait()).await.unwrap().unwrap();
        assert_eq!(status.code(), Some(signals::IMPATIENT_EXIT_CODE));
    }
}

#[tokio::test]
async fn hooks_are_called_every_time() {
    let (child, mut lines) = start().await;
    said(&mut lines, "ready").await;
    for (name, word) in [("HUP", "hangup"), ("USR2", "user2"), ("HUP", "hangup")] {
        signal(&child, name).await;
        said(&mut lines, word).await;
    }
}
