//! Bodies that watch themselves: the request's counts messages, the answer's also keeps the deadline and the end
//! of streams, and reports how the call ended.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use kilonova_model::{Error, Reason};
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::body::Body;
use tonic::{Code, Status};

use super::admission::Permit;
use super::call::panicked;
use super::deadline;
use super::gate::Method;
use super::observe::Observer;
use crate::deadline::Deadline;
use crate::status::to_status;
use crate::wire::{FrameCounter, TooLong, code_in};

/// A request's body.
pub(super) struct RequestBody {
    inner: Incoming,
    frames: FrameCounter,
    method: Arc<Method>,
    longest: usize,
}

impl RequestBody {
    pub fn new(inner: Incoming, method: Arc<Method>, longest: usize) -> Self {
        Self { inner, frames: FrameCounter::default(), method, longest }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let frame = std::task::ready!(Pin::new(&mut this.inner).poll_frame(cx));
        Poll::Ready(frame.map(|frame| {
            let frame = frame.map_err(|error| Status::from_error(error.into()))?;
            if let Some(data) = frame.data_ref() {
                match this.frames.advance(data, this.longest) {
                    Ok(messages) => this.method.metrics.received(messages),
                    Err(TooLong(length)) => return Err(to_status(&request_too_long(length, this.longest))),
                }
            }
            Ok(frame)
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// An answer's body.
pub(super) struct ResponseBody {
    inner: Body,
    frames: FrameCounter,
    longest: usize,
    observer: Observer,
    deadline: Option<Deadline>,
    /// Made when the body first has to wait: most never do.
    alarm: Option<Pin<Box<Sleep>>>,
    streams_end: Option<StreamsEnd>,
    ended: bool,
    /// The call's place, until the body ends.
    permit: Option<Permit>,
}

enum StreamsEnd {
    Armed(CancellationToken),
    Waiting(Pin<Box<WaitForCancellationFutureOwned>>),
}

impl ResponseBody {
    pub fn new(
        inner: Body,
        observer: Observer,
        longest: usize,
        deadline: Option<Deadline>,
        streams_end: Option<CancellationToken>,
        permit: Option<Permit>,
    ) -> Self {
        let streams_end = streams_end.map(StreamsEnd::Armed);
        let frames = FrameCounter::default();
        Self { inner, frames, longest, observer, deadline, alarm: None, streams_end, ended: false, permit }
    }

    /// For an answer that is headers alone.
    pub fn finished(code: Code, mut observer: Observer) -> Self {
        observer.finish(code);
        Self { ended: true, ..Self::new(Body::empty(), observer, 0, None, None, None) }
    }

    /// Ends the answer with a status of our own.
    fn end(&mut self, error: &Error) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.ended = true;
        self.permit = None;
        self.inner = Body::empty();
        let status = to_status(error);
        self.observer.finish(status.code());
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))))
    }

    fn pass(&mut self, frame: Frame<Bytes>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(data) = frame.data_ref() {
            match self.frames.advance(data, self.longest) {
                Ok(messages) => self.observer.method().metrics.sent(messages),
                Err(TooLong(length)) => return self.end(&answer_too_long(length, self.longest)),
            }
        } else if let Some(trailers) = frame.trailers_ref() {
            self.observer.finish(code_in(trailers).unwrap_or(Code::Unknown));
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn out_of_time(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(Deadline(at)) = self.deadline else { return false };
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        alarm.as_mut().poll(cx).is_ready()
    }

    fn must_end(&mut self, cx: &mut Context<'_>) -> bool {
        if let Some(StreamsEnd::Armed(token)) = &self.streams_end {
            let waiting = token.clone().cancelled_owned();
            self.streams_end = Some(StreamsEnd::Waiting(Box::pin(waiting)));
        }
        match &mut self.streams_end {
            Some(StreamsEnd::Waiting(waiting)) => waiting.as_mut().poll(cx).is_ready(),
            _ => false,
        }
    }
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(&mut this.inner).poll_frame(cx)));
        match polled {
            Err(panic) => this.end(&panicked(&this.observer.method().path, &*panic)),
            Ok(Poll::Ready(Some(Ok(frame)))) => this.pass(frame),
            Ok(Poll::Ready(Some(Err(status)))) => {
                this.observer.finish(status.code());
                Poll::Ready(Some(Err(status)))
            }
            Ok(Poll::Ready(None)) => {
                this.observer.finish(Code::Unknown);
                Poll::Ready(None)
            }
            Ok(Poll::Pending) if this.out_of_time(cx) => this.end(&deadline::exceeded()),
            Ok(Poll::Pending) if this.must_end(cx) => this.end(&draining()),
            Ok(Poll::Pending) => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.ended { SizeHint::with_exact(0) } else { self.inner.size_hint() }
    }
}

/// What a watcher hears when streams end.
pub(super) fn draining() -> Error {
    // Watchers that all come back at once would meet again elsewhere.
    let pause = Duration::from_millis(rand::random_range(50..500));
    Error::new(Reason::Draining, "the service is stopping; resume the stream at another member")
        .retry_after(pause)
}

fn request_too_long(length: usize, longest: usize) -> Error {
    Error::new(Reason::ValidationFailed, format!("the message has {length} bytes, more than {longest}"))
        .with("limit_bytes", longest)
}

fn answer_too_long(length: usize, longest: usize) -> Error {
    let message = format!("the answer would have {length} bytes, more than {longest}; ask for less at once");
    Error::new(Reason::Internal, message).with("limit_bytes", longest)
}
