//! A request on its way out: kept whole so that it can be sent again, with the metadata every call carries.

use std::pin::Pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request};
use http_body::Body as _;
use kilonova_model::{CellName, Epoch, HostName, Version};
use tonic::Status;
use tonic::body::Body;

use crate::caller::{CALLER_HOST, CALLER_SERVICE, CELL, Caller, TARGET_EPOCH, TARGET_HOST, VERSION};
use crate::wire::timeout::{self, GRPC_TIMEOUT};

/// How many times this call was sent before (gRFC A6).
const PREVIOUS_ATTEMPTS: &str = "grpc-previous-rpc-attempts";

/// What every call of this process says of itself.
pub(crate) struct Identity {
    service: HeaderValue,
    host: HeaderValue,
    cell: HeaderValue,
}

impl Identity {
    pub(super) fn new(caller: &Caller, cell: &CellName) -> Self {
        let (service, host) = caller.header_values();
        Self { service, host, cell: visible(cell.as_str()) }
    }
}

/// Which member a call is meant for, and which version of the interface it needs.
#[derive(Debug, Clone, Default)]
pub(super) struct Addressed {
    pub(super) host: Option<HeaderValue>,
    pub(super) epoch: Option<HeaderValue>,
    pub(super) version: Option<HeaderValue>,
}

impl Addressed {
    pub(super) fn to(host: &HostName) -> Self {
        Self { host: Some(visible(host.as_str())), ..Self::default() }
    }

    pub(super) fn set_epoch(&mut self, epoch: Epoch) {
        self.epoch = Some(HeaderValue::from(epoch.0));
    }

    pub(super) fn set_version(&mut self, version: Version) {
        self.version = Some(visible(&version.to_string()));
    }

    /// Adds to a request what does not change from attempt to attempt.
    pub(super) fn mark(&self, headers: &mut HeaderMap, identity: &Identity) {
        headers.insert(CALLER_SERVICE, identity.service.clone());
        headers.insert(CALLER_HOST, identity.host.clone());
        headers.insert(CELL, identity.cell.clone());
        let named = [(TARGET_HOST, &self.host), (TARGET_EPOCH, &self.epoch), (VERSION, &self.version)];
        for (name, value) in named {
            if let Some(value) = value {
                headers.insert(name, value.clone());
            }
        }
    }
}

fn visible(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("names and versions are visible ASCII")
}

/// A request that can be sent as often as needed.
pub(super) struct Outgoing {
    head: http::request::Parts,
    message: Bytes,
}

impl Outgoing {
    /// Takes the one message of a request out of its body; no method of Kilonova streams its requests.
    pub(super) async fn read(request: Request<Body>) -> Result<Self, Status> {
        let (head, mut body) = request.into_parts();
        let mut chunks = Chunks::default();
        while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            if let Ok(data) = frame?.into_data() {
                chunks.push(data);
            }
        }
        Ok(Self { head, message: chunks.join() })
    }

    /// The request of one attempt. `limit` is what the callee is told it may take.
    pub(super) fn attempt(&self, made: u32, limit: Option<Duration>) -> Request<Bytes> {
        let mut head = self.head.clone();
        if let Some(limit) = limit {
            head.headers.insert(GRPC_TIMEOUT, timeout::format(limit));
        }
        if made > 1 {
            head.headers.insert(PREVIOUS_ATTEMPTS, HeaderValue::from(made - 1));
        }
        Request::from_parts(head, self.message.clone())
    }
}

/// Pieces of a message, of which there is nearly always one.
#[derive(Default)]
struct Chunks {
    first: Bytes,
    rest: Vec<Bytes>,
}

impl Chunks {
    fn push(&mut self, chunk: Bytes) {
        if self.first.is_empty() {
            self.first = chunk;
        } else {
            self.rest.push(chunk);
        }
    }

    fn join(self) -> Bytes {
        if self.rest.is_empty() {
            return self.first;
        }
        let mut joined = BytesMut::from(self.first);
        self.rest.iter().for_each(|chunk| joined.extend_from_slice(chunk));
        joined.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use http_body::Frame;
    use http_body_util::StreamBody;

    #[tokio::test]
    async fn every_attempt_has_the_same_message_and_says_which_it_is() {
        let pieces = ["mess", "age"].map(|piece| Ok::<_, Status>(Frame::data(Bytes::from(piece))));
        let mut request = Request::new(Body::new(StreamBody::new(tokio_stream::iter(pieces))));
        request.headers_mut().insert("x-own", HeaderValue::from_static("kept"));
        let outgoing = Outgoing::read(request).await.unwrap();
        for (made, previous) in [(1, None), (2, Some("1")), (3, Some("2"))] {
            let attempt = outgoing.attempt(made, Some(Duration::from_millis(1500)));
            let header = |name| attempt.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
            assert_eq!(header(PREVIOUS_ATTEMPTS).as_deref(), previous);
            assert_eq!(header(GRPC_TIMEOUT).as_deref(), Some("1500m"));
            assert_eq!(header("x-own").as_deref(), Some("kept"));
            assert_eq!(attempt.body(), "message");
        }
    }
}
