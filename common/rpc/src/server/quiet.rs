//! The bytes of a connection: of a peer that has to say something first, and that is heard out at the end.

use std::io::IoSlice;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{self, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::oneshot;
use tokio::time::{Sleep, sleep, timeout};

use crate::transport::BoxIo;

/// Fails when nothing came for so long. Once something has, it only passes bytes on, until HTTP/2 lets go of it; then
/// the stream goes back.
pub(super) struct Quiet {
    inner: BoxIo,
    patience: Option<Pin<Box<Sleep>>>,
    back: Option<oneshot::Sender<BoxIo>>,
}

impl Quiet {
    pub fn new(inner: BoxIo, patience: Duration) -> (Self, oneshot::Receiver<BoxIo>) {
        let (back, let_go) = oneshot::channel();
        (Self { inner, patience: Some(Box::pin(sleep(patience))), back: Some(back) }, let_go)
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let inner = mem::replace(&mut self.inner, Box::new(io::empty()));
        if let Some(back) = self.back.take() {
            // Nobody waits for it when the connection broke.
            let _ = back.send(inner);
        }
    }
}

/// Reads what a peer sends until it closes too, for at most so long, and drops it. To close a stream with bytes that were
/// not read resets it, and a reset takes from the peer what it has not read yet: our last word, which of its calls were
/// not looked at.
pub(super) async fn hear_out(mut stream: BoxIo, limit: Duration) {
    let mut unheard = [0; 4096];
    let to_the_end = async {
        if stream.shutdown().await.is_ok() {
            while stream.read(&mut unheard).await.is_ok_and(|count| count > 0) {}
        }
    };
    let _ = timeout(limit, to_the_end).await;
}

impl AsyncRead for Quiet {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.inner).poll_read(cx, buffer);
        let Some(patience) = &mut self.patience else { return read };
        if read.is_ready() {
            self.patience = None;
            return read;
        }
        std::task::ready!(patience.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer said nothing")))
    }
}

impl AsyncWrite for Quiet {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
