//! The body of a reply: holds the call's place in flight, its deadline and its metrics until the trailers.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use kilonova_model::{Error, Reason};
use tokio::time::Sleep;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

use super::connection::{Connection, InFlight};
use super::metrics::CallMetrics;
use crate::status::to_status;
use crate::wire::{FrameCounter, code_in};

const DETAILS: &str = "grpc-status-details-bin";

/// The body of a reply. Fails with a typed status when the connection breaks or the deadline passes.
pub struct ReplyBody {
    inner: Incoming,
    connection: Arc<Connection>,
    call: Option<Call>,
}

/// What ends with the call.
struct Call {
    _in_flight: InFlight,
    metrics: CallMetrics,
    deadline: Option<Pin<Box<Sleep>>>,
    frames: FrameCounter,
}

impl ReplyBody {
    /// For a call nobody counts.
    pub(crate) fn bare(response: Response<Incoming>, connection: Arc<Connection>) -> Response<Self> {
        let (mut head, inner) = response.into_parts();
        drop_broken_details(&mut head.headers);
        Response::from_parts(head, Self { inner, connection, call: None })
    }

    /// For a counted call. A `deadline` covers the body too.
    pub(crate) fn counted(
        response: Response<Incoming>,
        in_flight: InFlight,
        mut metrics: CallMetrics,
        deadline: Option<Pin<Box<Sleep>>>,
    ) -> Response<Self> {
        let connection = in_flight.connection.clone();
        let mut response = Self::bare(response, connection);
        match code_in(response.headers()) {
            Some(code) => metrics.finish(code),
            None => {
                let frames = FrameCounter::default();
                response.body_mut().call = Some(Call { _in_flight: in_flight, metrics, deadline, frames });
            }
        }
        response
    }

    fn finish(&mut self, code: Code) {
        if let Some(mut call) = self.call.take() {
            call.metrics.finish(code);
        }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                let Some(call) = &mut self.call else { return Poll::Pending };
                let Some(deadline) = &mut call.deadline else { return Poll::Pending };
                if deadline.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                let method = call.metrics.method().name.clone();
                let message = format!("{method} at {} did not end by its deadline", self.connection.host);
                let error = Error::new(Reason::DeadlineExceeded, message);
                self.finish(Code::DeadlineExceeded);
                return Poll::Ready(Some(Err(to_status(&error))));
            }
        };
        match frame {
            Some(Ok(mut frame)) => {
                if let (Some(data), Some(call)) = (frame.data_ref(), &mut self.call) {
                    let begun = call.frames.advance(data, usize::MAX).expect("nothing is longer");
                    call.metrics.received(begun);
                }
                if let Some(trailers) = frame.trailers_mut() {
                    drop_broken_details(trailers);
                    let code = code_in(trailers).unwrap_or(Code::Unknown);
                    self.finish(code);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                let text = self.connection.body_failed(&error);
                self.finish(Code::Unknown);
                Poll::Ready(Some(Err(connection_lost(&self.connection, &text))))
            }
            None => {
                self.finish(Code::Unknown);
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// For a call whose answer was lost after it was sent.
pub(crate) fn connection_lost(connection: &Connection, text: &str) -> Status {
    let Connection { service, host, addr, .. } = connection;
    let message =
        format!("the connection to {service} {host} at {addr} broke before the answer came: {text}");
    to_status(&Error::new(Reason::ConnectionLost, message).with("host", host))
}

/// Removes details that are not base64, which tonic would panic on.
fn drop_broken_details(headers: &mut HeaderMap) {
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
