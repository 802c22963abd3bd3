//! A network that can be told to fall silent, to break, or to lose answers.

use std::collections::BTreeSet;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use kilonova_rpc::transport::{BoxIo, Connect};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// All links of one caller. Clones share them.
#[derive(Clone, Default)]
pub struct Links(Arc<Shared>);

#[derive(Default)]
struct Shared {
    open: Mutex<Vec<Control>>,
    /// New links to these carry nothing either.
    silent: Mutex<BTreeSet<String>>,
    /// Requests with this text lose their answers.
    needle: Mutex<String>,
    /// How many still do.
    to_lose: AtomicUsize,
    /// How many of them were sent.
    sent: AtomicUsize,
}

#[derive(Clone)]
struct Control {
    addr: String,
    silent: Arc<AtomicBool>,
    cut: CancellationToken,
}

impl Links {
    /// The links to an address carry nothing any more, either way; they stay open. So do new ones.
    pub fn silence(&self, addr: &str) {
        self.0.silent.lock().insert(addr.to_owned());
        let open = self.0.open.lock();
        open.iter()
            .filter(|link| link.addr == addr)
            .for_each(|link| link.silent.store(true, Ordering::Relaxed));
    }

    /// New links carry bytes again.
    pub fn end_silence(&self) {
        self.0.silent.lock().clear();
    }

    /// Breaks all links to an address.
    pub fn cut(&self, addr: &str) {
        self.0.open.lock().iter().filter(|link| link.addr == addr).for_each(|link| link.cut.cancel());
    }

    /// How many links to an address were made.
    pub fn made(&self, addr: &str) -> usize {
        self.0.open.lock().iter().filter(|link| link.addr == addr).count()
    }

    /// The next `times` requests with this text in them arrive and are done; the link breaks before their answers.
    pub fn lose_answers(&self, needle: &str, times: usize) {
        needle.clone_into(&mut self.0.needle.lock());
        self.0.to_lose.store(times, Ordering::Relaxed);
        self.0.sent.store(0, Ordering::Relaxed);
    }

    /// How many requests with that text were sent.
    pub fn sent(&self) -> usize {
        self.0.sent.load(Ordering::Relaxed)
    }
}

#[async_trait::async_trait]
impl Connect for Links {
    async fn connect(&self, addr: &str) -> io::Result<BoxIo> {
        let inner = TcpStream::connect(addr).await?;
        inner.set_nodelay(true)?;
        let silent = Arc::new(AtomicBool::new(self.0.silent.lock().contains(addr)));
        let control = Control { addr: addr.to_owned(), silent, cut: CancellationToken::new() };
        self.0.open.lock().push(control.clone());
        Ok(Box::new(Link {
            inner,
            shared: self.0.clone(),
            cut: Box::pin(control.cut.clone().cancelled_owned()),
            control,
            doomed: false,
            frames: Frames::default(),
        }))
    }
}

struct Link {
    inner: TcpStream,
    shared: Arc<Shared>,
    control: Control,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Breaks before the next answer.
    doomed: bool,
    frames: Frames,
}

fn broken() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

impl Link {
    fn is_silent(&self) -> bool {
        self.control.silent.load(Ordering::Relaxed)
    }

    fn is_cut(&mut self, cx: &mut Context<'_>) -> bool {
        self.cut.as_mut().poll(cx).is_ready()
    }

    fn note(&mut self, written: &[u8]) {
        let needle = self.shared.needle.lock().clone();
        if needle.is_empty() || !written.windows(needle.len()).any(|part| part == needle.as_bytes()) {
            return;
        }
        self.shared.sent.fetch_add(1, Ordering::Relaxed);
        let left = &self.shared.to_lose;
        self.doomed =
            left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
    }
}

impl AsyncRead for Link {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if this.is_cut(cx) {
                return Poll::Ready(Err(broken()));
            }
            let before = buf.filled().len();
            ready!(Pin::new(&mut this.inner).poll_read(cx, buf))?;
            let answers = this.frames.headers_in(&buf.filled()[before..]);
            if this.doomed && answers {
                this.control.cut.cancel();
            } else if !this.is_silent() {
                return Poll::Ready(Ok(()));
            } else if buf.filled().len() == before {
                // The far end has gone, which nobody hears of over a silent link.
                return Poll::Pending;
            }
            buf.set_filled(before);
        }
    }
}

impl AsyncWrite for Link {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_cut(cx) {
            return Poll::Ready(Err(broken()));
        }
        if self.is_silent() {
            return Poll::Ready(Ok(buf.len()));
        }
        let written = ready!(Pin::new(&mut self.inner).poll_write(cx, buf))?;
        self.note(&buf[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Reads where HTTP/2 frames begin.
#[derive(Default)]
struct Frames {
    head: Vec<u8>,
    body_left: usize,
}

const HEADERS: u8 = 1;

impl Frames {
    /// Whether a HEADERS frame begins in these bytes.
    fn headers_in(&mut self, mut bytes: &[u8]) -> bool {
        let mut found = false;
        while !bytes.is_empty() {
            let skipped = self.body_left.min(bytes.len());
            self.body_left -= skipped;
            bytes = &bytes[skipped..];
            let (head, rest) = bytes.split_at(bytes.len().min(9 - self.head.len()));
            self.head.extend_from_slice(head);
            bytes = rest;
            if let [a, b, c, kind, _, _, _, _, _] = self.head[..] {
                found |= kind == HEADERS;
                self.body_left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                self.head.clear();
            }
        }
        found
    }
}
