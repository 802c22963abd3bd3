//! More callers than a server takes.

use std::time::Duration;

use futures::future::join_all;
use kilonova_model::Reason;
use kilonova_proto::api::v1 as api;
use kilonova_proto::api::v1::quota_service_client::QuotaServiceClient;
use kilonova_proto::conductor::v1 as conductor;
use kilonova_proto::conductor::v1::report_service_client::ReportServiceClient;
use kilonova_rpc::outcome::{CallError, classify};
use kilonova_rpc::server::{AdmissionLimits, Limits};
use kilonova_rpc::status::from_status;
use kilonova_tests::echo::Order;
use kilonova_tests::waiting::until;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::load::{Calls, Load, call};
use crate::support::{Cell, Member, SERVICE, ready};

/// Eight calls of users at once, six of them of one peer.
const LIMITS: AdmissionLimits =
    AdmissionLimits { calls: 10, calls_per_peer: 6, streams: 100, streams_per_peer: 100 };

async fn limited(admission: AdmissionLimits) -> Member {
    Member::limited("full", "127.0.0.1:0", Limits { admission, ..Limits::default() }).await
}

/// One connection: on one machine, one peer.
fn connection(member: &Member) -> Channel {
    Endpoint::from_shared(format!("http://{}", member.addr)).unwrap().connect_lazy()
}

async fn ask(channel: &Channel, order: Order) -> Result<(), Status> {
    let request = api::GetQuotaRequest { project_id: order.text() };
    QuotaServiceClient::new(channel.clone()).get_quota(request).await.map(drop)
}

/// Calls in progress that last for the rest of the test.
async fn occupy(member: &Member, channel: &Channel, calls: u64) -> JoinSet<()> {
    let before = member.seen.calls();
    let mut tasks = JoinSet::new();
    for _ in 0..calls {
        let channel = channel.clone();
        tasks.spawn(async move {
            let _ = ask(&channel, Order::Wait(Duration::from_secs(60))).await;
        });
    }
    until("the calls are in progress", || async { (member.seen.calls() == before + calls).then_some(()) })
        .await;
    tasks
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_hears_when_to_come_back_and_a_noisy_peer_starves_nobody() {
    let member = limited(LIMITS).await;
    let (noisy, other) = (connection(&member), connection(&member));
    let _noise = occupy(&member, &noisy, 6).await;
    let refused = join_all((0..20).map(|_| ask(&noisy, Order::Answer))).await;
    for result in refused {
        let status = result.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        let error = from_status(&status).unwrap();
        assert_eq!(error.reason, Reason::Overloaded);
        let pause = error.retry_after.expect("RetryInfo");
        let pushed = status.metadata().get("grpc-retry-pushback-ms").unwrap().to_str().unwrap();
        assert_eq!(pushed.parse::<u128>().unwrap(), pause.as_millis());
        assert!(matches!(classify(status), CallError::NotExecuted(_)));
    }
    for _ in 0..50 {
        ask(&other, Order::Answer).await.unwrap();
    }

    // All of what users may take is taken: reports and health checks still get through, also on these connections.
    let _more = occupy(&member, &other, 2).await;
    assert_eq!(ask(&other, Order::Answer).await.unwrap_err().code(), Code::ResourceExhausted);
    let third = connection(&member);
    for _ in 0..50 {
        let report = conductor::RegisterHostRequest::default();
        ReportServiceClient::new(third.clone()).register_host(report).await.unwrap();
        HealthClient::new(noisy.clone()).check(HealthCheckRequest::default()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_calls_are_made_again_within_the_budget() {
    let cell = Cell::new();
    let member = limited(AdmissionLimits { calls_per_peer: 1000, ..LIMITS }).await;
    let _registration = cell.register("full", &member.addr).await;
    let peers = cell.peers();
    let channel = peers.call(SERVICE);
    ready(&peers, 1).await;

    // A burst that fits after one pause: all of it is done in the end.
    let burst = join_all((0..12).map(|_| call(&channel, Order::Wait(Duration::from_millis(20))))).await;
    assert!(burst.iter().all(Result::is_ok), "{burst:?}");
    assert!(member.seen.repeated() > 0, "some of them were refused at first");

    // A flood that never fits: refused in the end, and not tried for ever.
    let _full = {
        let channel = connection(&member);
        occupy(&member, &channel, 8).await
    };
    let load = Load::start(64, &channel, Calls::Idempotent, Order::Answer);
    load.until("the flood is refused", |tally| tally.failures.len() >= 2000).await;
    let tally = load.stop().await;
    assert_eq!(tally.answered(), 0);
    assert!(
        tally.failures.iter().all(|failure| failure.starts_with("ResourceExhausted")),
        "{:?}",
        tally.failures[0]
    );
    // When half of the 1000 tokens are used up, calls fail without another attempt.
    println!("{} refused, {} of them at once", tally.failures.len(), tally.at_once);
    assert!(tally.at_once >= 100, "{} of {}", tally.at_once, tally.failures.len());
    assert!(peers.states().iter().all(|peer| peer.ready), "who is busy is there: {:?}", peers.states());
}
