//! HTTP/2 to one peer: the handshake, one request after the other, and whether anybody is still there.
//!
//! h2 itself, without hyper's client around it: that keeps room for 32 requests and a task of each stream for as long as a
//! connection lives, which of an idle one is a third of its memory (docs/decisions/0030).
//!
//! ```text
//!   send ──► lock ──► room for one more stream? ──yes──► HEADERS, DATA with END_STREAM ──► response, body, trailers
//!                          └── the peer allows no more yet: wait; if the connection ends now, nothing was written
//! ```
//!
//! Only one request at a time waits for room inside h2, so that of the others it is certain that nothing of them was written.

use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{Ping, PingPong, RecvStream};
use http::{Request, Response};
use http_body::Frame;
use parking_lot::Mutex;
use tokio::sync::MutexGuard;
use tokio::time::{Instant, sleep_until, timeout};

use crate::transport::BoxIo;

const STREAM_WINDOW: u32 = 1 << 20;
/// The largest there is: every stream is bounded by its own window, and streams whose consumer is slow must not
/// use up what all calls of the connection share.
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
/// How many streams there may be until the peer says how many it allows.
const BEFORE_IT_SAYS: usize = 100;
/// The longest list of headers or trailers that is taken, in bytes: hyper's own figure.
const MAX_HEADER_LIST: u32 = 16 << 10;

/// When a peer is asked whether it is there.
#[derive(Debug, Clone, Copy)]
pub(super) struct KeepAlive {
    /// Nothing came for so long.
    pub(super) interval: Duration,
    /// How long the answer may take.
    pub(super) timeout: Duration,
}

/// When something came from the peer for the last time.
#[derive(Clone)]
struct Heard(Arc<Mutex<Instant>>);

impl Heard {
    fn last(&self) -> Instant {
        *self.0.lock()
    }

    fn now(&self) {
        *self.0.lock() = Instant::now();
    }
}

/// The sending end of a connection, which closes when this and all its streams are gone.
pub(super) struct Sender {
    requests: tokio::sync::Mutex<SendRequest<Bytes>>,
    heard: Heard,
}

/// Why there is no response.
pub(super) enum Unsent {
    /// Nothing of the request was written.
    NotWritten(h2::Error),
    /// It was handed over.
    Failed(h2::Error),
}

/// Makes a connection of a stream of bytes. What comes with it drives it until it ends, and says why it did.
pub(super) async fn handshake(
    io: BoxIo,
    keep_alive: KeepAlive,
) -> Result<(Sender, impl Future<Output = String> + Send + 'static), h2::Error> {
    let (requests, mut connection) = Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEADER_LIST)
        .initial_max_send_streams(BEFORE_IT_SAYS)
        .enable_push(false)
        .handshake(io)
        .await?;
    let heard = Heard(Arc::new(Mutex::new(Instant::now())));
    let sender = Sender { requests: tokio::sync::Mutex::new(requests), heard: heard.clone() };
    let pings = connection.ping_pong().expect("nobody took it before");
    let driver = async move {
        tokio::select! {
            // After a pause of this process the answer to a ping may be there, unread, when its time is over.
            biased;
            ended = connection => match ended {
                Ok(()) => "closed".to_owned(),
                Err(error) => error.to_string(),
            },
            () = silence(pings, heard, keep_alive) => {
                format!("no answer to a keep-alive ping within {:?}", keep_alive.timeout)
            }
        }
    };
    Ok((sender, driver))
}

/// Ends when the peer does not answer.
async fn silence(mut pings: PingPong, heard: Heard, keep_alive: KeepAlive) {
    loop {
        let last = heard.last();
        sleep_until(last + keep_alive.interval).await;
        if heard.last() > last {
            continue;
        }
        match timeout(keep_alive.timeout, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => heard.now(),
            // The connection says itself that it has ended.
            Ok(Err(_)) => std::future::pending().await,
            Err(_) => return,
        }
    }
}

impl Sender {
    /// Sends a request of one message, and waits for the head of the response.
    pub(super) async fn send(&self, request: Request<Bytes>) -> Result<Response<Body>, Unsent> {
        let response = self.write(request).await?.await.map_err(Unsent::Failed)?;
        self.heard.now();
        Ok(response.map(|stream| Body { stream, heard: self.heard.clone() }))
    }

    async fn write(&self, request: Request<Bytes>) -> Result<ResponseFuture, Unsent> {
        let (head, message) = request.into_parts();
        let mut turn = Turn { requests: self.requests.lock().await, waits: false };
        turn.ready().await.map_err(Unsent::NotWritten)?;
        let sent = turn.requests.send_request(Request::from_parts(head, ()), false);
        let (response, mut body) = sent.map_err(Unsent::NotWritten)?;
        turn.waits = true;
        // If the connection ends meanwhile the response says so.
        let _ = turn.ready().await;
        turn.waits = false;
        // What the peer's window does not take yet is kept by h2; its length is bounded by what a request may be. A stream that
        // ended in between says more in its response: a peer that refuses need not read the request.
        let _ = body.send_data(message, true);
        Ok(response)
    }
}

/// The turn of one request, until its stream is open.
struct Turn<'a> {
    requests: MutexGuard<'a, SendRequest<Bytes>>,
    /// Its stream is not open yet.
    waits: bool,
}

impl Turn<'_> {
    /// Waits until there is nothing that waits for room.
    async fn ready(&mut self) -> Result<(), h2::Error> {
        std::future::poll_fn(|cx| self.requests.poll_ready(cx)).await
    }
}

impl Drop for Turn<'_> {
    /// A caller that goes away leaves no stream that waits: the sender keeps it, a copy of the sender does not.
    fn drop(&mut self) {
        if self.waits {
            *self.requests = self.requests.clone();
        }
    }
}

/// The body of a response. Dropping it before its end resets the stream.
pub(super) struct Body {
    stream: RecvStream,
    heard: Heard,
}

impl Body {
    /// The next of it: data, then trailers.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let data = match ready!(self.stream.poll_data(cx)) {
            Some(Ok(data)) => {
                let released = self.stream.flow_control().release_capacity(data.len());
                released.map(|()| Frame::data(data))
            }
            Some(Err(error)) => Err(error),
            None => match ready!(self.stream.poll_trailers(cx)) {
                Ok(None) => return Poll::Ready(None),
                Ok(Some(trailers)) => Ok(Frame::trailers(trailers)),
                Err(error) => Err(error),
            },
        };
        self.heard.now();
        Poll::Ready(Some(data))
    }

    /// Whether nothing of it is left.
    pub(super) fn is_end(&self) -> bool {
        self.stream.is_end_stream()
    }

    /// Waits for the next of it.
    pub(super) async fn frame(&mut self) -> Option<Result<Frame<Bytes>, h2::Error>> {
        std::future::poll_fn(|cx| self.poll_frame(cx)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use futures::future::{join_all, pending};
    use tokio::io::duplex;
    use tokio::sync::Notify;
    use tokio::task::JoinSet;

    const KEEP_ALIVE: KeepAlive =
        KeepAlive { interval: Duration::from_secs(10), timeout: Duration::from_secs(5) };

    fn request() -> Request<Bytes> {
        Request::post("http://peer/a.B/C").body(Bytes::from_static(b"message")).unwrap()
    }

    #[tokio::test]
    async fn of_requests_that_wait_for_room_one_at_most_was_handed_over() {
        let (ours, theirs) = duplex(1 << 16);
        let taken = Arc::new(Notify::new());
        let told = taken.clone();
        let mut tasks = JoinSet::new();
        let peer = tasks.spawn(async move {
            let mut connection = h2::server::Builder::new()
                .max_concurrent_streams(1)
                .handshake::<_, Bytes>(theirs)
                .await
                .unwrap();
            let (_, mut respond) = connection.accept().await.unwrap().unwrap();
            respond.send_response(Response::new(()), true).unwrap();
            drop(respond);
            let _held = connection.accept().await.unwrap().unwrap();
            told.notify_one();
            drop(connection.accept().await);
        });
        let (sender, driver) = handshake(Box::new(ours), KEEP_ALIVE).await.unwrap();
        tasks.spawn(async move { drop(driver.await) });
        assert!(sender.send(request()).await.is_ok(), "the peer has said how much it takes");
        let cut = async {
            taken.notified().await;
            peer.abort();
        };
        let (answers, ()) = tokio::join!(join_all((0..5).map(|_| sender.send(request()))), cut);
        let unwritten = answers.iter().filter(|answer| matches!(answer, Err(Unsent::NotWritten(_)))).count();
        let failed = answers.iter().filter(|answer| matches!(answer, Err(Unsent::Failed(_)))).count();
        assert_eq!((failed, unwritten), (2, 3), "one was sent, one was in h2's hands");
        while tasks.join_next().await.is_some() {}
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_caller_that_went_away_while_it_waited_no_message_is_sent() {
        let (ours, theirs) = duplex(1 << 16);
        let whole = Arc::new(Mutex::new(Vec::new()));
        let (taken, mut tasks) = (whole.clone(), JoinSet::new());
        tasks.spawn(async move {
            let mut builder = h2::server::Builder::new();
            let mut connection =
                builder.max_concurrent_streams(1).handshake::<_, Bytes>(theirs).await.unwrap();
            let mut handlers = JoinSet::new();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                let taken = taken.clone();
                handlers.spawn(async move {
                    let (head, mut body) = request.into_parts();
                    while let Some(data) = body.data().await {
                        if data.is_err() {
                            return;
                        }
                    }
                    let path = head.uri.path().to_owned();
                    taken.lock().push(path.clone());
                    if path == "/held" {
                        pending::<()>().await;
                    }
                    drop(respond.send_response(Response::new(()), true));
                });
            }
        });
        let (sender, driver) = handshake(Box::new(ours), KEEP_ALIVE).await.unwrap();
        tasks.spawn(async move { drop(driver.await) });
        let send = |path: &str| {
            let uri = format!("http://peer{path}");
            sender.send(Request::post(uri).body(Bytes::from_static(b"message")).unwrap())
        };
        let moment = Duration::from_millis(100);
        assert!(send("/first").await.is_ok());
        let (held, abandoned) =
            tokio::join!(timeout(moment, send("/held")), timeout(moment / 2, send("/abandoned")));
        assert!(held.is_err() && abandoned.is_err(), "there is no answer to either");
        assert!(send("/after").await.is_ok(), "there is room again");
        assert_eq!(*whole.lock(), ["/first", "/held", "/after"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_answer_a_ping_is_given_up_and_one_that_does_is_kept() {
        for answers in [true, false] {
            let (ours, theirs) = duplex(1 << 16);
            let mut tasks = JoinSet::new();
            tasks.spawn(async move {
                let mut connection = h2::server::handshake(theirs).await.unwrap();
                match answers {
                    true => drop(connection.accept().await),
                    false => pending().await,
                }
            });
            let (_sender, driver) = handshake(Box::new(ours), KEEP_ALIVE).await.unwrap();
            let ended = timeout(Duration::from_secs(100), driver).await;
            assert_eq!(ended.is_err(), answers, "{ended:?}");
        }
    }
}
