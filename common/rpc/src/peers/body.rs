//! The body of a reply. A unary reply is read whole before its caller sees any of it, so that a failure anywhere in
//! it is known in time; a stream holds the call's place in flight, its deadline and its metrics until the trailers.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Body, Frame};
use kilonova_model::{Error, Reason};
use tokio::time::Sleep;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

use super::connection::{Connection, InFlight};
use super::http2;
use super::method::CallMetrics;
use crate::status::to_status;
use crate::wire::{FrameCounter, code_in};

const DETAILS: &str = "grpc-status-details-bin";

/// The longest unary reply: what the servers of Kilonova send at most, and a little for framing.
const LONGEST: usize = (4 << 20) + 1024;

/// The body of a reply. A stream's fails with a typed status when the connection breaks or the deadline passes.
pub struct ReplyBody(Inner);

enum Inner {
    Whole { data: VecDeque<Bytes>, trailers: Option<HeaderMap> },
    Stream(Box<Stream>),
}

/// A unary reply, complete.
pub(super) struct Whole {
    head: http::response::Parts,
    data: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
}

impl Whole {
    /// Reads a reply to its end.
    pub(super) async fn read(
        response: Response<http2::Body>,
        connection: &Connection,
    ) -> Result<Self, Status> {
        let (head, mut body) = response.into_parts();
        let (mut data, mut length, mut trailers) = (VecDeque::new(), 0, None);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| broke_off(connection, &error))?;
            match frame.into_data() {
                Ok(chunk) => {
                    length += chunk.len();
                    if length > LONGEST {
                        let message =
                            format!("the answer of {} has more than {LONGEST} bytes", connection.host);
                        return Err(to_status(&Error::new(Reason::Internal, message)));
                    }
                    data.push_back(chunk);
                }
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        trailers.iter_mut().for_each(drop_broken_details);
        Ok(Self { head, data, trailers })
    }

    /// Where the status stands: in the trailers, or in the headers of a reply that has nothing else.
    pub(super) fn ending(&self) -> &HeaderMap {
        self.trailers.as_ref().unwrap_or(&self.head.headers)
    }

    /// For the caller.
    pub(super) fn into_response(self) -> Response<ReplyBody> {
        let Self { head, data, trailers } = self;
        Response::from_parts(head, ReplyBody(Inner::Whole { data, trailers }))
    }

    /// Whether there is a message.
    pub(super) fn messages(&self) -> u64 {
        u64::from(!self.data.is_empty())
    }
}

/// A stream of messages.
struct Stream {
    inner: http2::Body,
    metrics: Option<CallMetrics>,
    deadline: Option<Pin<Box<Sleep>>>,
    frames: FrameCounter,
    /// Holds the connection, counted or not.
    holder: Holder,
}

/// What keeps the connection of a stream.
enum Holder {
    Counted(InFlight),
    Bare(Arc<Connection>),
}

impl Holder {
    fn connection(&self) -> &Connection {
        match self {
            Self::Counted(in_flight) => &in_flight.connection,
            Self::Bare(connection) => connection,
        }
    }
}

impl ReplyBody {
    /// For a call nobody counts.
    pub(super) fn bare(response: Response<http2::Body>, connection: Arc<Connection>) -> Response<Self> {
        stream(response, Holder::Bare(connection), None, None)
    }

    /// For a stream. A `deadline` covers all of it.
    pub(super) fn stream(
        response: Response<http2::Body>,
        in_flight: InFlight,
        metrics: CallMetrics,
        deadline: Option<Pin<Box<Sleep>>>,
    ) -> Response<Self> {
        stream(response, Holder::Counted(in_flight), Some(metrics), deadline)
    }
}

fn stream(
    response: Response<http2::Body>,
    holder: Holder,
    metrics: Option<CallMetrics>,
    deadline: Option<Pin<Box<Sleep>>>,
) -> Response<ReplyBody> {
    let (head, inner) = response.into_parts();
    let mut stream = Stream { inner, metrics, deadline, frames: FrameCounter::default(), holder };
    if let Some(code) = code_in(&head.headers) {
        stream.finish(code);
    }
    Response::from_parts(head, ReplyBody(Inner::Stream(Box::new(stream))))
}

type Polled = Poll<Option<Result<Frame<Bytes>, Status>>>;

impl Stream {
    fn finish(&mut self, code: Code) {
        if let Some(mut metrics) = self.metrics.take() {
            metrics.finish(code);
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Polled {
        let Poll::Ready(frame) = self.inner.poll_frame(cx) else {
            return self.poll_deadline(cx);
        };
        match frame {
            Some(Ok(mut frame)) => {
                if let (Some(data), Some(metrics)) = (frame.data_ref(), &self.metrics) {
                    let begun = self.frames.advance(data, usize::MAX).expect("nothing is longer");
                    metrics.received(begun);
                }
                if let Some(trailers) = frame.trailers_mut() {
                    drop_broken_details(trailers);
                    let code = code_in(trailers).unwrap_or(Code::Unknown);
                    self.finish(code);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                self.finish(Code::Unknown);
                Poll::Ready(Some(Err(broke_off(self.holder.connection(), &error))))
            }
            None => {
                self.finish(Code::Unknown);
                Poll::Ready(None)
            }
        }
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Polled {
        let (Some(deadline), Some(metrics)) = (&mut self.deadline, &self.metrics) else {
            return Poll::Pending;
        };
        std::task::ready!(deadline.as_mut().poll(cx));
        let (name, host) = (&metrics.method().name, &self.holder.connection().host);
        let error =
            Error::new(Reason::DeadlineExceeded, format!("{name} at {host} did not end by its deadline"));
        self.finish(Code::DeadlineExceeded);
        Poll::Ready(Some(Err(to_status(&error))))
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        match &mut self.0 {
            Inner::Stream(stream) => stream.poll_frame(cx),
            Inner::Whole { data, trailers } => {
                let next = data.pop_front().map(Frame::data);
                Poll::Ready(next.or_else(|| trailers.take().map(Frame::trailers)).map(Ok))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Stream(stream) => stream.inner.is_end(),
            Inner::Whole { data, trailers } => data.is_empty() && trailers.is_none(),
        }
    }
}

/// For a reply that broke off.
fn broke_off(connection: &Connection, error: &h2::Error) -> Status {
    connection.failed(error);
    connection_lost(connection, &error.to_string())
}

/// For a call whose answer was lost after it was sent.
pub(super) fn connection_lost(connection: &Connection, text: &str) -> Status {
    let Connection { service, host, addr, .. } = connection;
    let message =
        format!("the connection to {service} {host} at {addr} broke before the answer came: {text}");
    to_status(&Error::new(Reason::ConnectionLost, message).with("host", host))
}

/// Removes details that are not base64, which tonic would panic on.
pub(super) fn drop_broken_details(headers: &mut HeaderMap) {
    if !headers.contains_key(DETAILS) {
        return;
    }
    let metadata = MetadataMap::from_headers(std::mem::take(headers));
    let broken = metadata.get_all_bin(DETAILS).iter().any(|value| value.to_bytes().is_err());
    *headers = metadata.into_headers();
    if broken {
        tracing::warn!("dropped error details that are not base64");
        headers.remove(DETAILS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_broken_details_are_dropped() {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-status", "5".parse().unwrap());
        headers.insert(DETAILS, "CAUSAXg".parse().unwrap());
        drop_broken_details(&mut headers);
        assert_eq!((headers.len(), code_in(&headers)), (2, Some(Code::NotFound)));
        headers.insert(DETAILS, "!!! not base64 !!!".parse().unwrap());
        drop_broken_details(&mut headers);
        assert_eq!(headers.len(), 1);
        assert!(Status::from_header_map(&headers).is_some());
    }
}
