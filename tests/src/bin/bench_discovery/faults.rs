//! A member killed and a member frozen, while callers call.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kilonova_model::{CellName, HostName, ServiceKind};
use kilonova_proto::api::v1::GetQuotaRequest;
use kilonova_proto::api::v1::quota_service_client::QuotaServiceClient;
use kilonova_rpc::caller::Caller;
use kilonova_rpc::peers::{Channel, Peers, PeersOptions};
use kilonova_rpc::registry::Registry;
use kilonova_store::testing::EtcdProcess;
use kilonova_tests::process::Process;
use kilonova_tests::waiting::until;
use parking_lot::Mutex;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::Status;

use crate::seen::connect;
use crate::{Size, line, summary};

const SERVICE: ServiceKind = ServiceKind::Scheduler;
const CALLERS: usize = 8;
/// What a call may take. A frozen member is suspected after the first call that took as long.
const DEADLINE: Duration = Duration::from_secs(1);

/// The binary of a member, beside this one.
fn binary() -> PathBuf {
    let this = std::env::current_exe().expect("the path of this program");
    let member = this.with_file_name("member");
    assert!(member.is_file(), "{} is missing: cargo build -p kilonova-tests --bin member", member.display());
    member
}

async fn member(etcd: &EtcdProcess, name: &str, listen: &str) -> Process {
    let etcd = etcd.endpoint();
    let arguments =
        ["--service", SERVICE.as_str(), "--host", name, "--listen", listen, "--etcd", &etcd, "--echo"];
    Process::start(&binary(), &arguments).await.expect("a member")
}

async fn peers(etcd: &EtcdProcess) -> Peers {
    let registry = Registry::new(connect(etcd).await, CellName::parse("test").expect("a cell name"));
    let caller = Caller::new(ServiceKind::Api, HostName::parse("bench").expect("a host name"));
    Peers::new(registry, caller, PeersOptions::default())
}

/// Waits until a member may be called, or may not.
async fn becomes(peers: &Peers, name: &str, ready: bool) {
    until(&format!("{name} is {}ready", if ready { "" } else { "not " }), || async {
        let states = peers.states();
        states.iter().any(|peer| peer.host.as_str() == name && peer.ready == ready).then_some(())
    })
    .await;
}

async fn call(channel: &Channel) -> Result<String, Status> {
    let answer = QuotaServiceClient::new(channel.clone()).get_quota(GetQuotaRequest::default()).await?;
    Ok(answer.into_inner().quota.unwrap_or_default().project_id)
}

/// One call: when it began and ended, and how.
struct Made {
    began: Instant,
    ended: Instant,
    /// Who answered.
    answer: Option<String>,
}

/// Callers that call without a pause until dropped.
struct Callers {
    made: Arc<Mutex<Vec<Made>>>,
    _tasks: JoinSet<()>,
}

impl Callers {
    fn start(channel: &Channel) -> Self {
        let made = Arc::<Mutex<Vec<Made>>>::default();
        let mut tasks = JoinSet::new();
        for _ in 0..CALLERS {
            let (channel, made) = (channel.clone(), made.clone());
            tasks.spawn(async move {
                loop {
                    let began = Instant::now();
                    let answer = call(&channel).await.ok();
                    made.lock().push(Made { began, ended: Instant::now(), answer });
                }
            });
        }
        Self { made, _tasks: tasks }
    }

    fn take(&self) -> Vec<Made> {
        std::mem::take(&mut *self.made.lock())
    }
}

/// `kill -9` of one of two members under load.
pub async fn kills(size: Size, etcd: &EtcdProcess) {
    let _stays = member(etcd, "stays", "127.0.0.1:0").await;
    let mut dies = member(etcd, "dies", "127.0.0.1:0").await;
    let peers = peers(etcd).await;
    let channel = peers.call(SERVICE).within(DEADLINE);
    let (mut next, mut slowest, mut failed) = (Vec::new(), Vec::new(), 0);
    for _ in 0..size.kills {
        becomes(&peers, "stays", true).await;
        becomes(&peers, "dies", true).await;
        let callers = Callers::start(&channel);
        tokio::time::sleep(Duration::from_millis(200)).await;
        callers.take();
        let addr = dies.addr().to_owned();
        let killed = Instant::now();
        dies.kill_now().expect("killed");
        call(&channel).await.map_or_else(|_| failed += 1, |_| next.push(killed.elapsed()));
        tokio::time::sleep(Duration::from_millis(300)).await;
        let made = callers.take();
        drop(callers);
        failed += made.iter().filter(|made| made.answer.is_none()).count();
        slowest.extend(
            made.iter().filter(|made| made.ended >= killed).map(|made| made.ended - made.began).max(),
        );
        dies.kill().await.expect("it is gone");
        dies = member(etcd, "dies", &addr).await;
    }
    line(
        "kill -9 of one of two members, 8 idempotent callers",
        json!({
            "kills": size.kills,
            "next_call_succeeds_after": summary(next),
            "slowest_call_around_it": summary(slowest),
            "failed_calls": failed,
        }),
    );
}

/// SIGSTOP of one of two members under load.
pub async fn freezes(size: Size, etcd: &EtcdProcess) {
    let _stays = member(etcd, "stays-2", "127.0.0.1:0").await;
    let freezes = member(etcd, "freezes", "127.0.0.1:0").await;
    let peers = peers(etcd).await;
    let channel = peers.call(SERVICE).within(DEADLINE);
    let (mut let_go, mut suspected, mut thawed, mut failed) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for _ in 0..size.freezes {
        becomes(&peers, "stays-2", true).await;
        becomes(&peers, "freezes", true).await;
        let callers = Callers::start(&channel);
        tokio::time::sleep(Duration::from_millis(300)).await;
        callers.take();
        let frozen = Instant::now();
        freezes.pause().expect("paused");
        becomes(&peers, "freezes", false).await;
        let_go.push(frozen.elapsed());
        tokio::time::sleep(DEADLINE).await;
        let made = callers.take();
        let lost = made.iter().filter(|made| made.answer.is_none());
        failed += lost.clone().count();
        suspected.extend(lost.map(|made| made.began.saturating_duration_since(frozen)).max());
        let resumed = Instant::now();
        freezes.resume().expect("resumed");
        until("it answers again", || async {
            let made = callers.take();
            made.iter().any(|made| made.answer.as_deref() == Some("freezes")).then_some(())
        })
        .await;
        thawed.push(resumed.elapsed());
    }
    line(
        "SIGSTOP of one of two members, 8 idempotent callers",
        json!({
            "freezes": size.freezes,
            "deadline_ms": DEADLINE.as_millis() as u64,
            "connection_let_go_after": summary(let_go),
            "last_call_lost_to_it_began_after": summary(suspected),
            "failed_calls": failed,
            "used_again_after_sigcont": summary(thawed),
        }),
    );
}
