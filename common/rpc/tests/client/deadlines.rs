//! A request's deadline passes on to the calls made while it is handled.

use std::time::Duration;

use kilonova_model::{CellName, ServiceKind};
use kilonova_proto::base::v1 as base;
use kilonova_proto::base::v1::base_service_client::BaseServiceClient;
use kilonova_proto::base::v1::base_service_server::{BaseService, BaseServiceServer};
use kilonova_rpc::deadline::Deadline;
use kilonova_rpc::peers::Channel;
use kilonova_rpc::server::{Identity, Served, Server, ServerBuilder};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use crate::support::{Cell, host, soon};

/// Says how much time its request has, and passes it on if there is a next one.
struct Hop {
    next: Option<Channel>,
    allowed: watch::Sender<Option<Duration>>,
}

#[tonic::async_trait]
impl BaseService for Hop {
    async fn ping(
        &self,
        request: Request<base::PingRequest>,
    ) -> Result<Response<base::PingResponse>, Status> {
        self.allowed.send_replace(Deadline::of(&request).map(Deadline::remaining));
        match &self.next {
            Some(next) => BaseServiceClient::new(next.clone()).ping(request.into_inner()).await,
            None => Ok(Response::new(base::PingResponse::default())),
        }
    }
}

async fn hop(service: ServiceKind, next: Option<Channel>) -> (Server, watch::Receiver<Option<Duration>>) {
    let allowed = watch::Sender::new(None);
    let seen = allowed.subscribe();
    let identity = Identity::unregistered(service, host("hop"), CellName::parse("test").unwrap());
    let served = Served::only("kilonova.base.v1.BaseService", &["Ping"]);
    let builder = ServerBuilder::new(identity).add(BaseServiceServer::new(Hop { next, allowed }), served);
    let server = builder.serve(TcpListener::bind("127.0.0.1:0").await.unwrap()).unwrap();
    server.health().set_serving(true);
    (server, seen)
}

#[tokio::test]
async fn what_is_left_of_it_less_the_way_back() {
    let cell = Cell::new();
    let peers = cell.peers();
    let (last, last_allowed) = hop(ServiceKind::Scheduler, None).await;
    let _last = cell.register(ServiceKind::Scheduler, "hop", &last.address().to_string()).await;
    let to_last = peers.call(ServiceKind::Scheduler);
    to_last.wait_ready(soon()).await.unwrap();
    let (first, first_allowed) = hop(ServiceKind::Conductor, Some(to_last)).await;
    let _first = cell.register(ServiceKind::Conductor, "hop", &first.address().to_string()).await;
    let to_first = peers.call(ServiceKind::Conductor);
    to_first.wait_ready(soon()).await.unwrap();

    let mut request = Request::new(base::PingRequest::default());
    request.set_timeout(Duration::from_secs(4));
    BaseServiceClient::new(to_first.clone()).ping(request).await.unwrap();
    let (first, last) = (first_allowed.borrow().unwrap(), last_allowed.borrow().unwrap());
    assert!(first <= Duration::from_secs(4), "{first:?}");
    assert!(last + Duration::from_millis(50) <= first, "{last:?} of {first:?}");

    // Who sets none has the method's, and so has the call it leads to.
    BaseServiceClient::new(to_first).ping(base::PingRequest::default()).await.unwrap();
    let (first, last) = (first_allowed.borrow().unwrap(), last_allowed.borrow().unwrap());
    assert!(first <= Duration::from_secs(10) && first > Duration::from_secs(5), "{first:?}");
    assert!(last + Duration::from_millis(50) <= first, "{last:?} of {first:?}");
}
