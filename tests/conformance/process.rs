//! The `kilonova` binary as child processes that never outlive their test.

use std::path::PathBuf;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::OnceCell;

use crate::world::in_time;

/// One process. Dropped, it is killed.
pub struct Process {
    child: Child,
    stdout: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts it without any of the caller's own settings.
    pub async fn start(arguments: &[&str]) -> Self {
        let mut command = Command::new(binary().await);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("KILONOVA_") {
                command.env_remove(name);
            }
        }
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, stdout }
    }

    /// Reads what it prints up to a line that has all of these words.
    pub async fn line_with(&mut self, words: &[&str]) -> String {
        let reading = async {
            loop {
                let line = self.stdout.next_line().await.unwrap().expect("it goes on");
                if words.iter().all(|word| line.contains(word)) {
                    return line;
                }
            }
        };
        in_time("the process says so", reading).await
    }

    /// SIGKILL, and waits until it is gone.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}

/// Where the binary is: beside this one. It is built first, unless it is current.
async fn binary() -> PathBuf {
    static BUILT: OnceCell<PathBuf> = OnceCell::const_new();
    let build = async || {
        let own = std::env::current_exe().unwrap();
        let dir = own.ancestors().nth(2).expect("tests are in <target>/<profile>/deps");
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--quiet", "-p", "kilonova"]);
        if dir.ends_with("release") {
            cargo.arg("--release");
        }
        let built = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().await.unwrap();
        assert!(built.success(), "the binary was not built: {built}");
        dir.join("kilonova")
    };
    BUILT.get_or_init(build).await.clone()
}
