//! Streams of frames as answers of a gRPC service.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::future::{BoxFuture, Either};
use futures::{FutureExt, Stream};
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body::{Body as HttpBody, Frame};
use kilonova_proto::codec::MessageCodec;
use prost::Message;
use tonic::body::Body;
use tonic::codec::Codec;
use tonic::metadata::MetadataMap;
use tonic::server::NamedService;
use tonic::{Code, Status, Streaming};
use tower::Service;

/// A stream of framed messages: each item is one or more of them, whole.
pub struct Frames(Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>);

impl Frames {
    /// These frames. An error is the last item and becomes the status.
    pub fn new(frames: impl Stream<Item = Result<Bytes, Status>> + Send + 'static) -> Self {
        Self(Box::pin(frames))
    }
}

impl Stream for Frames {
    type Item = Result<Bytes, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx)
    }
}

type Open = Arc<dyn Fn(Request<Body>) -> BoxFuture<'static, Response<Body>> + Send + Sync>;

/// A generated service of which some methods answer with frames instead.
///
/// To the server they are methods as all others: gate, deadline, metrics and the end of streams apply. The generated
/// trait's own implementation of them is never called.
#[derive(Clone)]
pub struct Framed<S> {
    service: S,
    methods: Arc<HashMap<String, Open>>,
}

impl<S: NamedService> Framed<S> {
    /// The service as generated.
    pub fn new(service: S) -> Self {
        Self { service, methods: Arc::default() }
    }

    /// Answers this server-streaming method with the frames that `open` gives.
    #[must_use]
    pub fn stream<M, F, O>(mut self, method: &str, open: F) -> Self
    where
        M: Message + Default + 'static,
        F: Fn(tonic::Request<M>) -> O + Clone + Send + Sync + 'static,
        O: Future<Output = Result<Frames, Status>> + Send + 'static,
    {
        let handler: Open = Arc::new(move |request| {
            let open = open.clone();
            async move {
                let answer = async { open(read(request).await?).await };
                match answer.await {
                    Ok(frames) => answer_with(frames),
                    Err(status) => status.into_http(),
                }
            }
            .boxed()
        });
        let path = format!("/{}/{method}", S::NAME);
        Arc::make_mut(&mut self.methods).insert(path, handler);
        self
    }
}

impl<S: NamedService> NamedService for Framed<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Framed<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Either<BoxFuture<'static, Result<Response<Body>, Infallible>>, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self.methods.get(request.uri().path()) {
            Some(open) => Either::Left(open(request).map(Ok).boxed()),
            None => Either::Right(self.service.call(request)),
        }
    }
}

/// The one message of a request.
async fn read<M: Message + Default + 'static>(request: Request<Body>) -> Result<tonic::Request<M>, Status> {
    let (head, body) = request.into_parts();
    if let Some(encoding) = head.headers.get("grpc-encoding")
        && encoding != "identity"
    {
        return Err(not_compressed(encoding));
    }
    let decoder = MessageCodec::<M, M>::default().decoder();
    let mut messages = Streaming::new_request(decoder, body, None, None);
    let message = messages.message().await?;
    let message = message.ok_or_else(|| Status::invalid_argument("the request has no message"))?;
    Ok(tonic::Request::from_parts(MetadataMap::from_headers(head.headers), head.extensions, message))
}

fn not_compressed(encoding: &HeaderValue) -> Status {
    let encoding = encoding.to_str().unwrap_or("an unreadable encoding");
    let mut status = Status::unimplemented(format!("messages compressed with {encoding} are not read here"));
    status
        .metadata_mut()
        .insert("grpc-accept-encoding", tonic::metadata::MetadataValue::from_static("identity"));
    status
}

fn answer_with(frames: Frames) -> Response<Body> {
    let mut answer = Response::new(Body::new(FrameBody { frames: Some(frames) }));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    answer
}

/// Frames, then the status as trailers.
struct FrameBody {
    /// None once they have ended.
    frames: Option<Frames>,
}

impl HttpBody for FrameBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(frames) = &mut self.frames else { return Poll::Ready(None) };
        let status = match ready!(frames.0.as_mut().poll_next(cx)) {
            Some(Ok(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
            Some(Err(status)) => status,
            None => Status::new(Code::Ok, ""),
        };
        self.frames = None;
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_none()
    }
}
