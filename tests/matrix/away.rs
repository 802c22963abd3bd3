//! Members that are away: because they died, or because a row is to do without one.

use std::sync::Arc;
use std::time::SystemTime;

use kilonova_model::ServiceKind;
use kilonova_proto::conductor::v1::GetInstanceRequest;
use kilonova_proto::conductor::v1::record_service_client::RecordServiceClient;
use kilonova_proto::types::v1::host::State;
use kilonova_tests::Cluster;
use kilonova_tests::checker::Outage;
use kilonova_tests::cluster::MemberId;
use kilonova_tests::waiting::until;
use parking_lot::Mutex;

/// When who was away, for the checker. Clones share it.
#[derive(Clone, Default)]
pub struct Outages(Arc<Mutex<Vec<Outage>>>);

impl Outages {
    /// A member cannot be asked from now on.
    pub fn begin(&self, host: &str) {
        let from = SystemTime::now();
        self.0.lock().push(Outage { host: host.to_owned(), from, started: None, until: None });
    }

    /// It is started again.
    pub fn start(&self, host: &str) {
        let now = SystemTime::now();
        let mut outages = self.0.lock();
        for outage in outages.iter_mut().filter(|one| one.host == *host && one.started.is_none()) {
            outage.started = Some(now);
        }
    }

    /// All that were started are ready.
    pub fn end(&self) {
        let now = SystemTime::now();
        for outage in self.0.lock().iter_mut().filter(|one| one.started.is_some()) {
            outage.until.get_or_insert(now);
        }
    }

    /// All there were.
    pub fn all(&self) -> Vec<Outage> {
        self.0.lock().clone()
    }
}

/// Kills the host of an instance, and waits until every conductor sees that it has left.
pub async fn take_host_of(id: &str, cluster: &mut Cluster, outages: &Outages) -> MemberId {
    let host = cluster.api().get(id).await.expect("it is there").host;
    outages.begin(&host);
    cluster.kill(ServiceKind::Compute, &host);
    for conductor in cluster.names(ServiceKind::Conductor) {
        let records = RecordServiceClient::new(cluster.channel(ServiceKind::Conductor, &conductor));
        until(&format!("{conductor} sees that {host} has left"), || async {
            let request = GetInstanceRequest { instance_id: id.to_owned(), ..Default::default() };
            let answer = records.clone().get_instance(request).await.ok()?.into_inner();
            (answer.instance?.host_state() == State::Down).then_some(())
        })
        .await;
    }
    (ServiceKind::Compute, host)
}
