//! A peer below gRPC: it answers each request as the script says, and keeps what it was sent.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::{Builder, SendResponse};
use http::{HeaderMap, Request, Response};
use kilonova_model::{Error, Reason};
use kilonova_rpc::status::to_status;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How one request is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// With an empty message.
    Answer,
    /// With a status that nobody of Kilonova made.
    Code(u16),
    /// With an error of Kilonova's.
    Error(Reason),
    /// The stream is refused: it was not processed.
    Refuse,
    /// The connection is cut.
    Cut,
    /// Never.
    Hang,
}

/// One request, as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    pub path: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// What is to come and what came, for all peers that play it.
#[derive(Clone, Default)]
pub struct Script(Arc<Mutex<(VecDeque<Act>, Vec<Seen>)>>);

impl Script {
    /// The answers to come; all is answered after them.
    pub fn set(&self, acts: impl IntoIterator<Item = Act>) {
        *self.0.lock() = (acts.into_iter().collect(), Vec::new());
    }

    /// What came since.
    pub fn seen(&self) -> Vec<Seen> {
        self.0.lock().1.clone()
    }

    fn next(&self, seen: Seen) -> Act {
        let (acts, all) = &mut *self.0.lock();
        all.push(seen);
        acts.pop_front().unwrap_or(Act::Answer)
    }
}

/// Ends when it is dropped.
pub struct Scripted {
    pub addr: String,
    _tasks: JoinSet<()>,
}

impl Scripted {
    pub async fn start(script: &Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let script = script.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(connection(stream, script.clone()));
            }
        });
        Self { addr, _tasks: tasks }
    }
}

async fn connection(stream: TcpStream, script: Script) {
    let Ok(mut connection) = Builder::new().handshake::<_, Bytes>(stream).await else { return };
    let cut = CancellationToken::new();
    let mut answers = JoinSet::new();
    loop {
        tokio::select! {
            () = cut.cancelled() => return,
            request = connection.accept() => {
                let Some(Ok((request, respond))) = request else { return };
                answers.spawn(answer(request, respond, script.clone(), cut.clone()));
            }
        }
    }
}

async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    script: Script,
    cut: CancellationToken,
) {
    let path = request.uri().path().to_owned();
    if path.starts_with("/grpc.health.") {
        // Who has no health service serves.
        let _ = respond.send_response(bare(12), true);
        return;
    }
    let (head, mut body) = request.into_parts();
    let mut whole = Vec::new();
    while let Some(Ok(chunk)) = body.data().await {
        let _ = body.flow_control().release_capacity(chunk.len());
        whole.extend_from_slice(&chunk);
    }
    // Nobody listens to what cannot be sent.
    match script.next(Seen { path, headers: head.headers, body: whole.into() }) {
        Act::Code(code) => drop(respond.send_response(bare(code), true)),
        Act::Error(reason) => {
            let answer = to_status(&Error::new(reason, "as told")).into_http::<()>();
            drop(respond.send_response(answer, true));
        }
        Act::Refuse => respond.send_reset(h2::Reason::REFUSED_STREAM),
        Act::Cut => cut.cancel(),
        Act::Hang => std::future::pending().await,
        Act::Answer => {
            let head = Response::builder().header("content-type", "application/grpc").body(()).unwrap();
            let Ok(mut stream) = respond.send_response(head, false) else { return };
            let _ = stream.send_data(Bytes::from_static(&[0; 5]), false);
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", 0.into());
            let _ = stream.send_trailers(trailers);
        }
    }
}

/// An answer of headers alone.
fn bare(code: u16) -> Response<()> {
    let answer = Response::builder().header("content-type", "application/grpc");
    answer.header("grpc-status", code).header("grpc-message", "as told").body(()).unwrap()
}
