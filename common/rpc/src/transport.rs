//! What connections are made of: TCP, or anything else that carries bytes both ways, such as a simulated network.

use std::io;
use std::net::SocketAddr;

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

/// A two-way stream of bytes.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// Any such stream.
pub type BoxIo = Box<dyn Io>;

/// How a member is dialled. The caller bounds the time.
#[async_trait]
pub trait Connect: Send + Sync + 'static {
    /// Connects to `host:port`.
    async fn connect(&self, addr: &str) -> io::Result<BoxIo>;
}

/// Where a server's connections come from.
#[async_trait]
pub trait Listen: Send + 'static {
    /// The next connection and who made it.
    async fn accept(&mut self) -> io::Result<(BoxIo, SocketAddr)>;

    /// Where it listens.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// TCP without delay.
#[derive(Debug, Clone, Copy)]
pub struct Tcp;

#[async_trait]
impl Connect for Tcp {
    async fn connect(&self, addr: &str) -> io::Result<BoxIo> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }
}

#[async_trait]
impl Listen for TcpListener {
    async fn accept(&mut self) -> io::Result<(BoxIo, SocketAddr)> {
        let (stream, peer) = TcpListener::accept(self).await?;
        stream.set_nodelay(true)?;
        Ok((Box::new(stream), peer))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        TcpListener::local_addr(self)
    }
}
