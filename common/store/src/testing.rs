//! For tests: a real `etcd` as a child process, which can be paused, killed and started again, and whose data can be put back to
//! an earlier copy; three of them as a cluster; and a proxy to cut the way to them.

mod cluster;
mod proxy;

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use etcd_client::{Client, CompactionOptions};
use kilonova_model::Revision;
use tempfile::TempDir;
use tokio::time::Instant;

pub use cluster::EtcdCluster;
pub use proxy::Proxy;

const START_DEADLINE: Duration = Duration::from_secs(30);
const START_ATTEMPTS: usize = 5;
/// The most bytes that are read of an answer.
const ANSWER: u64 = 4096;

/// One etcd member on free ports of the loopback interface, with its data in a temporary directory. It is
/// killed when this is dropped.
///
/// The shortest lease it grants is one second, and it takes HTTP/2 pings once a second.
#[derive(Debug)]
pub struct EtcdProcess {
    binary: PathBuf,
    dir: TempDir,
    place: Place,
    child: Child,
}

/// Where a member listens, and which cluster it is of.
#[derive(Debug, Clone)]
struct Place {
    name: String,
    client_port: u16,
    peer_port: u16,
    /// All members, as etcd's flag wants them.
    initial_cluster: String,
    /// Further flags.
    flags: Vec<String>,
}

impl Place {
    fn new(name: &str) -> io::Result<Self> {
        let (client_port, peer_port) = free_ports()?;
        let initial_cluster = format!("{name}=http://127.0.0.1:{peer_port}");
        Ok(Self { name: name.to_owned(), client_port, peer_port, initial_cluster, flags: Vec::new() })
    }
}

/// A copy of the data of an etcd.
#[derive(Debug)]
pub struct EtcdCopy {
    dir: TempDir,
}

impl EtcdProcess {
    /// Starts etcd and waits until it takes connections. None, after printing `SKIPPED: etcd not found`, when there
    /// is no such program: `$KILONOVA_ETCD`, else `etcd` on the path.
    pub async fn start() -> io::Result<Option<Self>> {
        Self::start_with(&[]).await
    }

    /// The same, with further flags.
    pub async fn start_with(flags: &[&str]) -> io::Result<Option<Self>> {
        let Some(binary) = find_binary() else {
            println!("SKIPPED: etcd not found");
            return Ok(None);
        };
        let mut attempt = 1;
        loop {
            // Another process may take a port between its choice and its use: choose again.
            match Self::start_once(binary.clone(), flags).await {
                Err(error) if attempt == START_ATTEMPTS => return Err(error),
                Err(_) => attempt += 1,
                Ok(etcd) => return Ok(Some(etcd)),
            }
        }
    }

    async fn start_once(binary: PathBuf, flags: &[&str]) -> io::Result<Self> {
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let mut etcd = Self::launch(binary, Place { flags, ..Place::new("test")? })?;
        etcd.wait_until_it_listens().await?;
        Ok(etcd)
    }

    fn launch(binary: PathBuf, place: Place) -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix("kilonova-etcd-").tempdir()?;
        let child = spawn(&binary, dir.path(), &place)?;
        Ok(Self { binary, dir, place, child })
    }

    /// The address for clients, as `host:port`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        self.address().to_string()
    }

    /// The address for clients.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.place.client_port))
    }

    /// What etcd has logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Stops it in its tracks (SIGSTOP): connections stay open and nothing answers.
    pub fn pause(&self) -> io::Result<()> {
        self.signal("-STOP")
    }

    /// Lets it go on after [`pause`](Self::pause).
    pub fn resume(&self) -> io::Result<()> {
        self.signal("-CONT")
    }

    /// Kills it (SIGKILL). The data stay.
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Starts it again after [`kill`](Self::kill), on the same ports with the same data.
    pub async fn restart(&mut self) -> io::Result<()> {
        self.child = spawn(&self.binary, self.dir.path(), &self.place)?;
        self.wait_until_it_listens().await
    }

    /// Stops it for a moment and copies its data.
    pub async fn copy(&mut self) -> io::Result<EtcdCopy> {
        self.kill()?;
        let dir = tempfile::Builder::new().prefix("kilonova-etcd-copy-").tempdir()?;
        copy_dir(&self.data_dir(), &dir.path().join("data"))?;
        self.restart().await?;
        Ok(EtcdCopy { dir })
    }

    /// Kills it, puts its data back to a copy, and starts it again on the same ports.
    pub async fn restore(&mut self, copy: &EtcdCopy) -> io::Result<()> {
        self.kill()?;
        std::fs::remove_dir_all(self.data_dir())?;
        copy_dir(&copy.dir.path().join("data"), &self.data_dir())?;
        self.restart().await
    }

    /// Kills it, removes its data, and starts it again on the same ports, empty.
    pub async fn wipe(&mut self) -> io::Result<()> {
        self.kill()?;
        std::fs::remove_dir_all(self.data_dir())?;
        self.restart().await
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Compacts all before a revision, and has etcd apply it: whoever stood before it cannot resume.
    pub async fn compact(&self, revision: Revision) -> io::Result<()> {
        let mut client = Client::connect([self.endpoint()], None).await.map_err(io::Error::other)?;
        let options = CompactionOptions::new().with_physical();
        let revision = i64::try_from(revision.0).map_err(io::Error::other)?;
        client.compact(revision, Some(options)).await.map(drop).map_err(io::Error::other)
    }

    fn signal(&self, signal: &str) -> io::Result<()> {
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status()?;
        if status.success() { Ok(()) } else { Err(io::Error::other(format!("kill {signal}: {status}"))) }
    }

    async fn wait_until_it_listens(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Err(io::Error::other(format!("etcd ended with {status}: {}", self.log())));
            }
            // etcd opens its client port when it is ready to serve. Another process may have taken it: etcd ends soon then.
            if is_etcd(self.address()).unwrap_or(false) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(io::Error::other(format!("etcd does not listen: {}", self.log())));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for EtcdProcess {
    fn drop(&mut self) {
        // It may be dead already.
        let _ = self.kill();
    }
}

/// True if what listens there is etcd, by its `/version`.
fn is_etcd(address: SocketAddr) -> io::Result<bool> {
    let limit = Duration::from_secs(1);
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.write_all(b"GET /version HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(ANSWER).read_to_string(&mut answer)?;
    Ok(answer.contains("\"etcdserver\""))
}

fn copy_dir(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_dir(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn find_binary() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("KILONOVA_ETCD") {
        return Some(PathBuf::from(path)).filter(|path| path.is_file());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join("etcd")).find(|file| file.is_file())
}

fn free_ports() -> io::Result<(u16, u16)> {
    let (client, peer) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
    Ok((client.local_addr()?.port(), peer.local_addr()?.port()))
}

fn spawn(binary: &Path, dir: &Path, place: &Place) -> io::Result<Child> {
    let Place { name, client_port, peer_port, initial_cluster, flags } = place;
    let client = format!("http://127.0.0.1:{client_port}");
    let peer = format!("http://127.0.0.1:{peer_port}");
    let log = std::fs::File::options().create(true).append(true).open(dir.join("log"))?;
    Command::new(binary)
        .args(["--name", name, "--logger", "zap", "--log-outputs", "stderr"])
        .arg("--data-dir")
        .arg(dir.join("data"))
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", initial_cluster])
        .args(["--heartbeat-interval", "50", "--election-timeout", "500", "--grpc-keepalive-min-time", "1s"])
        .args(flags)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_server_at_its_port_is_not_taken_for_etcd() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let serving = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = [0; 64];
            let _ = stream.read(&mut asked).unwrap();
            stream.write_all(b"HTTP/1.0 404 Not Found\r\n\r\n").unwrap();
        });
        assert!(!is_etcd(address).unwrap());
        serving.join().unwrap();
        assert!(is_etcd(address).is_err(), "nobody listens");
    }
}
