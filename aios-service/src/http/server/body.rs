//! Bodies of requests that may not stall, and of answers that are counted until they were sent.
//!
//! hyper asks a body for its next part when the client lets it send more. Until then, the client is waited
//! for. Large parts are divided, so that a client that takes a little at a time counts as taking.
//!
//! The clock of a body runs only while a handler waits for the client. A handler that takes its
//! time between two reads does not use up the time of its client.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use aios_core::{BoxFuture, clock::Clock};
use axum::body::Body;
use hyper::body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint};

use super::connections::Request;

/// The body of a request. Reading it fails if the client sends nothing for some time.
pub(super) struct TimedBody {
    /// The body, as hyper reads it.
    body: Incoming,
    /// The longest wait for one part.
    timeout: Duration,
    /// The clock of the server.
    clock: Arc<dyn Clock>,
    /// While the client is waited for.
    late: Option<BoxFuture<'static, ()>>,
}

impl TimedBody {
    /// Limits the waits of a body.
    pub(super) fn new(body: Incoming, timeout: Duration, clock: Arc<dyn Clock>) -> Self {
        Self { body, timeout, clock, late: None }
    }
}

impl HttpBody for TimedBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            self.late = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(io::Error::other)));
        }
        let Self { timeout, clock, late, .. } = &mut *self;
        ready!(late.get_or_insert_with(|| clock.sleep(*timeout)).as_mut().poll(context));
        let message = format!("the client sent nothing for {timeout:?}");
        Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::TimedOut, message))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Largest part of an answer, in bytes.
const PART: usize = 64 * 1024;

/// The body of an answer. Its request is counted until it is dropped.
pub(super) struct CountedBody {
    /// The body of the handler.
    body: Body,
    /// The end of its last part, which was not handed out yet.
    rest: Bytes,
    /// Counts the request until the last byte was taken.
    request: Request,
}

impl CountedBody {
    /// Counts a request for as long as its answer is sent.
    pub(super) fn new(body: Body, request: Request) -> Self {
        Self { body, rest: Bytes::new(), request }
    }

    /// The next part that is there.
    fn poll_part(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => frame,
                end => return Poll::Ready(end),
            };
            match frame.into_data() {
                Ok(data) => self.rest = data,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
        let length = self.rest.len().min(PART);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }
}

impl HttpBody for CountedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.request.taken();
        let part = self.poll_part(context);
        if part.is_ready() {
            self.request.wait();
        }
        part
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (of_body, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut all = SizeHint::new();
        all.set_lower(of_body.lower() + rest);
        if let Some(upper) = of_body.upper() {
            all.set_upper(upper + rest);
        }
        all
    }
}
