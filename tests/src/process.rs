//! A member in a process of its own (`src/bin/member.rs`), which can be killed, frozen and asked to stop.

use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

const START_DEADLINE: Duration = Duration::from_secs(120);
const STOP_DEADLINE: Duration = Duration::from_secs(120);

/// One running member. It is killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    addr: String,
}

impl Process {
    /// Starts `binary`, and waits until it says where it listens.
    pub async fn start(binary: &Path, arguments: &[&str]) -> io::Result<Self> {
        let mut child = Command::new(binary)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take().expect("it is piped");
        let mut lines = BufReader::new(stdout).lines();
        let addr = match timeout(START_DEADLINE, lines.next_line()).await {
            Ok(Ok(Some(addr))) => addr,
            Ok(Ok(None)) => return Err(io::Error::other(format!("{arguments:?} ended before it served"))),
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(io::Error::other(format!("{arguments:?} does not serve"))),
        };
        Ok(Self { child, addr })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> &str {
        &self.addr
    }

    /// What the system calls it; none once it has ended.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Stops it in its tracks (SIGSTOP): connections stay open and nothing answers.
    pub fn pause(&self) -> io::Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on after [`pause`](Self::pause).
    pub fn resume(&self) -> io::Result<()> {
        self.signal(Signal::CONT)
    }

    /// Kills it (SIGKILL), and waits until it is gone.
    pub async fn kill(mut self) -> io::Result<()> {
        self.child.kill().await
    }

    /// Kills it and does not wait.
    pub fn kill_now(&mut self) -> io::Result<()> {
        self.child.start_kill()
    }

    /// Asks it to stop in good order (SIGTERM), and waits until it has.
    pub async fn stop(mut self) -> io::Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        match timeout(STOP_DEADLINE, self.child.wait()).await {
            Ok(ended) => ended,
            Err(_) => Err(io::Error::other(format!("{} does not stop", self.addr))),
        }
    }

    fn signal(&self, signal: Signal) -> io::Result<()> {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        let pid = pid.ok_or_else(|| io::Error::other("it has ended"))?;
        kill_process(pid, signal).map_err(io::Error::from)
    }
}
