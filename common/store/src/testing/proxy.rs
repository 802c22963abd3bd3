//! A TCP proxy whose way can be cut and led elsewhere.

use std::io;
use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Closes its connections when it is led elsewhere, and refuses new ones while it leads nowhere.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    target: watch::Sender<Option<SocketAddr>>,
    _task: JoinSet<()>,
}

impl Proxy {
    /// Listens on a free port of the loopback interface.
    pub async fn start(target: Option<SocketAddr>) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (target, way) = watch::channel(target);
        let mut task = JoinSet::new();
        task.spawn(accept(listener, way));
        Ok(Self { address, target, _task: task })
    }

    /// Where it listens, as `host:port`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        self.address.to_string()
    }

    /// Leads all that connect from now on there, or nowhere.
    pub fn lead_to(&self, target: Option<SocketAddr>) {
        self.target.send_replace(target);
    }
}

async fn accept(listener: TcpListener, way: watch::Receiver<Option<SocketAddr>>) {
    let mut connections = JoinSet::new();
    while let Ok((connection, _)) = listener.accept().await {
        connections.spawn(forward(connection, way.clone()));
    }
}

async fn forward(mut connection: TcpStream, mut way: watch::Receiver<Option<SocketAddr>>) {
    let Some(target) = *way.borrow_and_update() else { return };
    let Ok(mut onward) = TcpStream::connect(target).await else { return };
    tokio::select! {
        _ = copy_bidirectional(&mut connection, &mut onward) => {}
        _ = way.changed() => {}
    }
}
