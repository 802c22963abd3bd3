//! A cell of real processes over a real etcd, each with its ports and its directory for as long as the cell lives.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kilonova_model::ServiceKind;
use kilonova_store::SharedStore;
use kilonova_store::etcd::{EtcdOptions, EtcdStore};
use kilonova_store::testing::EtcdProcess;
use kilonova_tests::checker::Outage;
use kilonova_tests::cluster::{MemberId, name};
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

/// The cell's name, which is the program's default.
pub const NAME: &str = "default";
/// How many of each.
const COUNTS: [(ServiceKind, usize); 5] = [
    (ServiceKind::Conductor, 3),
    (ServiceKind::Scheduler, 2),
    (ServiceKind::Compute, 10),
    (ServiceKind::Volume, 3),
    (ServiceKind::Api, 2),
];
/// Shorter than usual, so that much happens in the time there is.
const SETTINGS: &[&str] = &[
    "registry.ttl=5s",
    "log.level=info",
    "conductor.shard_ttl=4s",
    "conductor.resend_interval=2s",
    "conductor.scan_interval=5s",
    "conductor.build_timeout=20s",
    "conductor.operation_timeout=20s",
    "conductor.delete_timeout=15s",
    "conductor.quota.instances=-1",
    "conductor.quota.cores=-1",
    "conductor.quota.ram_mib=-1",
    "conductor.quota.volumes=-1",
    "conductor.quota.gigabytes=-1",
    "compute.register_interval=5s",
    "compute.driver.latency=150ms",
    "compute.driver.latency_jitter=140ms",
    "compute.driver.verbs.destroy.latency=400ms",
    "compute.driver.verbs.destroy.jitter=390ms",
    "compute.driver.verbs.destroy.fail_rate=0.03",
    "compute.driver.verbs.detach.fail_rate=0.03",
    "compute.driver.verbs.spawn.lose_rate=0.02",
    "compute.reconcile_interval=10s",
    "compute.remove_orphans=true",
    "compute.orphan_grace=10s",
    "volume.register_interval=5s",
    "volume.driver.latency=100ms",
    "volume.driver.latency_jitter=90ms",
    "volume.driver.verbs.export.latency=100ms",
    "volume.driver.verbs.export.jitter=95ms",
    "volume.driver.verbs.unexport.latency=100ms",
    "volume.driver.verbs.unexport.jitter=95ms",
    "volume.driver.verbs.unexport.fail_rate=0.03",
    "volume.driver.verbs.delete.latency=200ms",
    "volume.driver.verbs.delete.jitter=190ms",
    "volume.reconcile_interval=10s",
    "volume.remove_orphans=true",
    "volume.orphan_grace=10s",
];
/// The sections of single services.
const SECTIONS: [&str; 5] = ["conductor", "scheduler", "compute", "volume", "api"];
/// How long a process may take to be ready: one that died leaves its name to a lease first.
const READY: Duration = Duration::from_secs(90);
/// How long it may take to stop in good order.
const STOP: Duration = Duration::from_secs(15);

/// One process.
pub struct Member {
    /// Which.
    pub id: MemberId,
    grpc: u16,
    http: u16,
    /// The programs it is run with in turn, one each time it is started.
    programs: Vec<PathBuf>,
    starts: usize,
    arguments: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
    /// Whether it died for good.
    dead: bool,
}

/// The programs a cell is run with.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The one that is tested.
    pub kilonova: PathBuf,
    /// An older one, which conductors are run with in turn with it.
    pub older: Option<PathBuf>,
}

impl Programs {
    /// Those of one member: of several conductors some begin with the older.
    fn of(&self, kind: ServiceKind, number: usize) -> Vec<PathBuf> {
        let mut programs = vec![self.kilonova.clone()];
        programs.extend(self.older.clone().filter(|_| kind == ServiceKind::Conductor));
        let first = number % programs.len();
        programs.rotate_left(first);
        programs
    }
}

/// The cell. What holds a member's lock does something to it.
pub struct Cell {
    /// All processes.
    pub members: BTreeMap<MemberId, Arc<tokio::sync::Mutex<Member>>>,
    /// The apis' addresses.
    pub apis: Vec<String>,
    /// The store's process.
    pub etcd: tokio::sync::Mutex<EtcdProcess>,
    /// When agents could not be asked.
    pub outages: Mutex<Vec<Outage>>,
    /// The hosts that died for good: their outages have no end.
    pub buried: Mutex<BTreeSet<String>>,
    /// What processes did that they must not do, as the monkeys saw it.
    pub misdeeds: Mutex<Vec<String>>,
    /// Below which everything is.
    pub dir: PathBuf,
    endpoint: String,
}

impl Cell {
    /// Starts all of it and waits until it is ready.
    pub async fn start(programs: &Programs, dir: &Path) -> io::Result<Self> {
        let Some(etcd) = EtcdProcess::start().await? else {
            return Err(io::Error::other("there is no etcd"));
        };
        let endpoint = etcd.endpoint();
        let (mut members, mut apis) = (BTreeMap::new(), Vec::new());
        for (kind, count) in COUNTS {
            for number in 1..=count {
                let own = programs.of(kind, number);
                let mut member = Member::new(own, dir, &endpoint, kind, &name(kind, number)).await?;
                member.spawn()?;
                if kind == ServiceKind::Api {
                    apis.push(format!("127.0.0.1:{}", member.grpc));
                }
                members.insert(member.id.clone(), Arc::new(tokio::sync::Mutex::new(member)));
            }
        }
        let (outages, buried, misdeeds) = Default::default();
        let etcd = tokio::sync::Mutex::new(etcd);
        let dir = dir.to_owned();
        let cell = Self { members, apis, etcd, outages, buried, misdeeds, dir, endpoint };
        cell.all_ready().await?;
        Ok(cell)
    }

    /// Starts again what has ended, lets go on what was stopped, and waits until all is ready.
    pub async fn all_ready(&self) -> io::Result<()> {
        for member in self.members.values() {
            let mut member = member.lock().await;
            member.signal(Signal::CONT)?;
            member.until_ready().await?;
        }
        Ok(())
    }

    /// A way of its own to the store, for the checker.
    pub async fn store(&self) -> io::Result<SharedStore> {
        let options = EtcdOptions { endpoints: vec![self.endpoint.clone()], ..EtcdOptions::default() };
        Ok(Arc::new(EtcdStore::connect(options).await.map_err(io::Error::other)?))
    }

    /// From now on an agent cannot be asked. Of other services that matters to nobody.
    pub fn away(&self, (kind, host): &MemberId) {
        if matches!(kind, ServiceKind::Compute | ServiceKind::Volume) {
            let from = SystemTime::now();
            let outage = Outage { host: host.clone(), from, started: None, until: None };
            self.outages.lock().push(outage);
        }
    }

    /// It can be asked again, unless it died for good.
    pub fn back(&self, (_, host): &MemberId) {
        if self.buried.lock().contains(host) {
            return;
        }
        let now = SystemTime::now();
        let mut outages = self.outages.lock();
        for outage in outages.iter_mut().filter(|one| one.host == *host && one.until.is_none()) {
            outage.until = Some(now);
        }
    }
}

impl Member {
    async fn new(
        programs: Vec<PathBuf>,
        dir: &Path,
        etcd: &str,
        kind: ServiceKind,
        host: &str,
    ) -> io::Result<Self> {
        let grpc = free_port().await;
        let http = free_port().await;
        let own = dir.join(host);
        std::fs::create_dir_all(&own)?;
        let mut arguments = vec![kind.to_string()];
        let flags = [
            ("--host", host.to_owned()),
            ("--listen", format!("127.0.0.1:{grpc}")),
            ("--http-listen", format!("127.0.0.1:{http}")),
            ("--etcd-endpoints", format!("http://{etcd}")),
            ("--data-dir", own.display().to_string()),
        ];
        for (flag, value) in flags {
            arguments.extend([flag.to_owned(), value]);
        }
        let is_own = |setting: &&&str| {
            let section = setting.split(['.', '=']).next().unwrap_or_default();
            section == kind.as_str() || !SECTIONS.contains(&section)
        };
        // A section is for its own service: an older program knows no newer keys of another's.
        for setting in SETTINGS.iter().filter(is_own) {
            arguments.extend(["--set".to_owned(), (*setting).to_owned()]);
        }
        let (id, log) = ((kind, host.to_owned()), own.join("log"));
        Ok(Self { id, grpc, http, programs, starts: 0, arguments, log, child: None, dead: false })
    }

    /// Starts it. It ends with this process.
    pub fn spawn(&mut self) -> io::Result<()> {
        self.spawn_as(None)
    }

    /// Starts it under another name over its data.
    pub fn spawn_as(&mut self, name: Option<&str>) -> io::Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let program = &self.programs[self.starts % self.programs.len()];
        self.starts += 1;
        let mut arguments = self.arguments.clone();
        if let (Some(name), Some(flag)) = (name, arguments.iter().position(|one| one == "--host")) {
            arguments[flag + 1] = name.to_owned();
        }
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        self.child = Some(child);
        Ok(())
    }

    /// Whether it died for good.
    pub fn is_dead(&self) -> bool {
        self.dead
    }

    /// Kills it for good, and sets its data aside.
    pub async fn bury(&mut self, dir: &Path) -> io::Result<()> {
        self.kill().await?;
        self.dead = true;
        let (_, host) = &self.id;
        let aside = dir.join("dead");
        std::fs::create_dir_all(&aside)?;
        std::fs::rename(dir.join(host), aside.join(host))
    }

    /// Waits until it has ended by itself; whether it has.
    pub async fn ends(&mut self, within: Duration) -> io::Result<bool> {
        let Some(child) = &mut self.child else { return Ok(true) };
        Ok(timeout(within, child.wait()).await.is_ok())
    }

    /// Kills it, and waits until it is gone.
    pub async fn kill(&mut self) -> io::Result<()> {
        match self.child.take() {
            Some(mut child) => child.kill().await,
            None => Ok(()),
        }
    }

    /// Asks it to stop in good order; kills it if it does not.
    pub async fn stop(&mut self) -> io::Result<()> {
        self.signal(Signal::TERM)?;
        if let Some(child) = &mut self.child
            && timeout(STOP, child.wait()).await.is_err()
        {
            child.kill().await?;
        }
        self.child = None;
        Ok(())
    }

    /// Sends it a signal; nothing if it has ended.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let pid = self.child.as_ref().and_then(Child::id);
        let pid = pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        pid.map_or(Ok(()), |pid| kill_process(pid, signal).map_err(io::Error::from))
    }

    /// Waits until it is ready, unless it is dead, and starts it again whenever it has ended, as a supervisor would.
    pub async fn until_ready(&mut self) -> io::Result<()> {
        let start = Instant::now();
        if self.dead {
            return Ok(());
        }
        loop {
            let ended = match &mut self.child {
                Some(child) => child.try_wait()?.is_some(),
                None => true,
            };
            if ended {
                self.spawn()?;
            }
            if timeout(Duration::from_secs(2), self.is_ready())
                .await
                .is_ok_and(|ready| ready.unwrap_or(false))
            {
                return Ok(());
            }
            if start.elapsed() > READY {
                let (_, host) = &self.id;
                return Err(io::Error::other(format!("{host} is not ready; see {}", self.log.display())));
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Whether it says that it is ready.
    pub async fn is_ready(&self) -> io::Result<bool> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.http)).await?;
        stream.write_all(b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer.split(' ').nth(1) == Some("200"))
    }
}

/// A port below those that the system gives to whoever asks for any: it stays free while its process is down.
async fn free_port() -> u16 {
    loop {
        let port = rand::random_range(12_000..32_000);
        if TcpListener::bind(("127.0.0.1", port)).await.is_ok() {
            return port;
        }
    }
}
