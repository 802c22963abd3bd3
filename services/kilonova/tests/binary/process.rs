//! Runs the binary as a child process that never outlives its test.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// How a run ended.
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// The binary with these arguments and nothing of the caller's own settings.
pub fn kilonova(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kilonova"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("KILONOVA_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs it to its end.
pub fn run(command: &mut Command) -> Ended {
    let output = command.output().expect("the binary was built");
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("it speaks UTF-8"),
        stderr: String::from_utf8(output.stderr).expect("it speaks UTF-8"),
    }
}

/// A child that is killed when it is dropped.
pub struct Running {
    child: Child,
    stdout: BufReader<ChildStdout>,
    stderr: BufReader<ChildStderr>,
}

impl Running {
    pub fn start(command: &mut Command) -> Self {
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary was built");
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let stderr = BufReader::new(child.stderr.take().expect("it is piped"));
        Self { child, stdout, stderr }
    }

    /// Reads what it prints up to a line with this in it.
    pub fn read_until(&mut self, text: &str) -> String {
        match read_until(&mut self.stdout, text) {
            Ok(all) => all,
            Err(all) => panic!("it ended before it said {text:?}:\n{all}\n{}", self.rest_of_stderr()),
        }
    }

    /// The same for what it logs.
    pub fn read_stderr_until(&mut self, text: &str) {
        if let Err(all) = read_until(&mut self.stderr, text) {
            panic!("it ended before it logged {text:?}:\n{all}");
        }
    }

    pub fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().expect("there is a shell").success());
    }

    /// Waits for its end, within a bound; it is killed past it.
    pub fn wait(mut self, bound: Duration) -> (ExitStatus, String) {
        let (over, ended) = mpsc::channel::<()>();
        let pid = self.child.id();
        let watchdog = std::thread::spawn(move || {
            if ended.recv_timeout(bound) == Err(mpsc::RecvTimeoutError::Timeout) {
                let _ = Command::new("sh").args(["-c", &format!("kill -KILL {pid}")]).status();
            }
        });
        let stderr = self.rest_of_stderr();
        let status = self.child.wait().expect("it is a child of ours");
        drop(over);
        watchdog.join().expect("it does not panic");
        (status, stderr)
    }

    fn rest_of_stderr(&mut self) -> String {
        let mut text = String::new();
        self.stderr.read_to_string(&mut text).expect("it speaks UTF-8");
        text
    }
}

/// All lines up to one with this in it; an error is all there was.
fn read_until(from: &mut impl BufRead, text: &str) -> Result<String, String> {
    let mut all = String::new();
    loop {
        let before = all.len();
        if from.read_line(&mut all).expect("it speaks UTF-8") == 0 {
            return Err(all);
        }
        if all[before..].contains(text) {
            return Ok(all);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
