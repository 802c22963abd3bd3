//! Taking ports, before anything else is done.

use std::io::ErrorKind;
use std::net::SocketAddr;

use tokio::net::TcpListener;

use crate::failure::Failure;

/// Why a port cannot be had that another would do for.
pub const TAKEN: &str = "another process listens there";

/// The two sockets of one service.
#[derive(Debug)]
pub struct Ports {
    /// For gRPC.
    pub grpc: TcpListener,
    /// For metrics and probes.
    pub http: TcpListener,
}

impl Ports {
    /// Takes both, or says which could not be had and why.
    pub async fn bind(service: &str, grpc: SocketAddr, http: SocketAddr) -> Result<Self, Failure> {
        Ok(Self { grpc: listen(service, "gRPC", grpc).await?, http: listen(service, "HTTP", http).await? })
    }

    /// Takes the first pair of ports, a given distance apart, of which both are free.
    pub async fn bind_first_free(
        service: &str,
        candidates: impl Iterator<Item = (SocketAddr, SocketAddr)>,
    ) -> Result<Self, Failure> {
        let mut last = None;
        for (grpc, http) in candidates {
            match Self::bind(service, grpc, http).await {
                Ok(ports) => return Ok(ports),
                Err(failure) => last = Some(failure),
            }
        }
        Err(last.unwrap_or_else(|| Failure::failed(format!("no port is left for {service}"))))
    }
}

async fn listen(service: &str, protocol: &str, address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address).await.map_err(|error| {
        let why = match error.kind() {
            ErrorKind::AddrInUse => TAKEN.to_owned(),
            ErrorKind::AddrNotAvailable => "this machine does not have that address".to_owned(),
            ErrorKind::PermissionDenied => "the system does not let this user take that port".to_owned(),
            _ => error.to_string(),
        };
        Failure::failed(format!("{service} cannot serve {protocol} at {address}: {why}"))
    })
}
