//! Requests that hyper refuses, in the shape of errors.
//!
//! hyper answers a request that it cannot read, or whose headers or target are too long, with a status and
//! nothing else; no handler sees it. This stream replaces such an answer while hyper writes it. It is the
//! only one that hyper writes on its own: no request has begun since the last answer was sent.
//!
//! ```text
//! hyper ──── no request is in progress, and all is sent? ──► yes: status line, `date` and `connection`
//!   │                                                             of hyper, with the body of the error
//!   └──────► no: an answer of a handler ──► unchanged
//! ```
//!
//! HTTP/2 has its own limits and no such text: requests with headers above the limit reach
//! [`oversized`], and h2 refuses those that are much larger with the status alone.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use aios_core::catalog::codes;
use axum::{
    body::Body,
    http::{HeaderMap, Request, Response, StatusCode, Version},
};
use futures_util::FutureExt;
use http_body_util::BodyExt;
use hyper::body::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tracing::debug;

use super::connections::Connection;
use crate::http::{ApiError, layers::refusal};

/// Headers of a request over HTTP/1.1 that hyper accepts.
const MAX_HEADERS: usize = 100;
/// Longest target of a request that hyper accepts, in bytes.
const MAX_TARGET: usize = 65_534;
/// The part of hyper's answer that gives way to a body.
const EMPTY: &str = "content-length: 0\r\n";

/// The stream of an HTTP/1.1 connection. Refusals of hyper get a body.
pub(super) struct Refusals<S> {
    /// The connection, with TLS or without.
    stream: S,
    /// Knows whether a request is in progress.
    connection: Arc<Connection>,
    /// The limit, for the message.
    max_header_bytes: usize,
    /// How many requests had begun when all answers were sent.
    answered: u64,
    /// The answer that replaces that of hyper, and is not sent yet.
    answer: Bytes,
}

impl<S: AsyncWrite + Unpin> Refusals<S> {
    /// Completes the refusals of a connection.
    pub(super) fn new(stream: S, connection: Arc<Connection>, max_header_bytes: usize) -> Self {
        Self { stream, connection, max_header_bytes, answered: 0, answer: Bytes::new() }
    }

    /// Takes a refusal of hyper, which is written at once; false for everything else.
    fn take(&mut self, parts: &[IoSlice<'_>]) -> bool {
        if self.connection.idle_after() != Some(self.answered) {
            return false;
        }
        let written: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        match replacement(&written, self.max_header_bytes) {
            Some(answer) => {
                self.answer = answer;
                true
            }
            None => false,
        }
    }

    /// Sends the rest of the answer that replaces that of hyper.
    fn poll_answer(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.answer.is_empty() {
            let sent = ready!(Pin::new(&mut self.stream).poll_write(context, &self.answer))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.answer.advance(sent);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Refusals<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Refusals<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_answer(context))?;
        if self.take(&[IoSlice::new(bytes)]) {
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    /// hyper flushes after all that it has to write was written.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_answer(context))?;
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        if let Some(begun) = self.connection.idle_after() {
            self.answered = begun;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_answer(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_answer(context))?;
        if self.take(parts) {
            return Poll::Ready(Ok(parts.iter().map(|part| part.len()).sum()));
        }
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }
}

/// The response of the API that replaces an error response of hyper. `None` if the text is not one.
fn replacement(written: &[u8], max_header_bytes: usize) -> Option<Bytes> {
    let head = std::str::from_utf8(written).ok()?.strip_suffix("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?;
    let status = StatusCode::from_bytes(status.as_bytes()).ok()?;
    let error = match status {
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => headers_too_large(max_header_bytes),
        StatusCode::URI_TOO_LONG => {
            let message = format!("the target of the request is longer than {MAX_TARGET} bytes");
            ApiError::new(codes::URI_TOO_LONG, message)
        }
        StatusCode::BAD_REQUEST => {
            ApiError::new(codes::MALFORMED_REQUEST, "the request is not one of HTTP/1.1")
        }
        _ => return None,
    };
    let (before, after) = written_around(head)?;
    debug!(code = &*error.code, "a request was refused before it was read");
    let (parts, body) = refusal(error, &HeaderMap::new()).into_parts();
    let body = body.collect().now_or_never()?.ok()?.to_bytes();
    let mut answer = Vec::with_capacity(written.len() + body.len() + 512);
    answer.extend_from_slice(before.as_bytes());
    for (name, value) in &parts.headers {
        answer.extend_from_slice(name.as_str().as_bytes());
        answer.extend_from_slice(b": ");
        answer.extend_from_slice(value.as_bytes());
        answer.extend_from_slice(b"\r\n");
    }
    answer.extend_from_slice(format!("content-length: {}\r\n", body.len()).as_bytes());
    answer.extend_from_slice(after.as_bytes());
    answer.extend_from_slice(b"\r\n\r\n");
    answer.extend_from_slice(&body);
    Some(answer.into())
}

/// The head of an answer before and after its empty length. The last line has no end.
fn written_around(head: &str) -> Option<(&str, &str)> {
    head.split_once(EMPTY).or_else(|| head.strip_suffix(EMPTY.trim_end()).map(|head| (head, "")))
}

/// The error of a request whose headers are too large.
fn headers_too_large(max_header_bytes: usize) -> ApiError {
    let message = format!(
        "the headers of the request are larger than {max_header_bytes} bytes, or more than {MAX_HEADERS}"
    );
    ApiError::new(codes::HEADERS_TOO_LARGE, message)
}

/// Counted for each header in addition to its text (RFC 9113, section 6.5.2).
const OVERHEAD: usize = 32;

/// The answer to a request over HTTP/2 whose headers are larger than the limit.
pub(super) fn oversized<B>(
    request: &Request<B>,
    max_header_bytes: usize,
) -> Option<Response<Body>> {
    if request.version() != Version::HTTP_2 {
        return None;
    }
    let fields = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len());
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    let size = fields.map(|bytes| bytes + OVERHEAD).sum::<usize>() + target;
    (size > max_header_bytes)
        .then(|| refusal(headers_too_large(max_header_bytes), request.headers()))
}
