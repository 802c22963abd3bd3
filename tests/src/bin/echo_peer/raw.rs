//! Both ends of plain tonic: no discovery, pool, deadline, admission, health, metric or log.

use kilonova_proto::base::v1::base_service_server::BaseServiceServer;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};

use crate::PATIENCE;
use crate::echo::{Flat, Nested};

/// As many as our pool opens to a busy member.
const CONNECTIONS: usize = 4;

pub async fn serve(address: &str) -> JoinSet<()> {
    let listener = TcpListener::bind(address).await.expect("that port");
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let server = Server::builder().add_service(BaseServiceServer::new(Flat)).add_service(Nested);
        server.serve_with_incoming(incoming).await.expect("serving");
    });
    serving
}

pub fn connect(address: &str) -> Vec<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address");
    let endpoint = endpoint.tcp_nodelay(true).connect_timeout(PATIENCE);
    (0..CONNECTIONS).map(|_| endpoint.connect_lazy()).collect()
}
