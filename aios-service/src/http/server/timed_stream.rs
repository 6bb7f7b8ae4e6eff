//! A connection whose client has to take what it asked for.
//!
//! A client that asks for much and reads nothing would keep the answer in memory. The clock runs
//! while the socket accepts nothing. The stream also reports when the client sends something, because headers
//! may begin then.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use aios_core::{BoxFuture, clock::Clock};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::connections::Connection;

/// A connection that fails if the client takes no bytes for some time.
pub(super) struct TimedStream {
    /// The socket.
    stream: TcpStream,
    /// The longest wait for the client.
    timeout: Duration,
    /// The clock of the server.
    clock: Arc<dyn Clock>,
    /// Notes when the client sends something.
    connection: Arc<Connection>,
    /// While the client is waited for.
    late: Option<BoxFuture<'static, ()>>,
}

impl TimedStream {
    /// Limits the waits of a socket.
    pub(super) fn new(
        stream: TcpStream,
        timeout: Duration,
        clock: Arc<dyn Clock>,
        connection: Arc<Connection>,
    ) -> Self {
        Self { stream, timeout, clock, connection, late: None }
    }

    /// Resets the clock after progress, and fails when it has run out.
    fn timed<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.late = None;
            return written;
        }
        let Self { timeout, clock, late, .. } = self;
        ready!(late.get_or_insert_with(|| clock.sleep(*timeout)).as_mut().poll(context));
        let message = format!("the client took nothing for {timeout:?}");
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, message)))
    }
}

impl AsyncRead for TimedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if buffer.filled().len() > before {
            self.connection.on_received();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for TimedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.timed(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.timed(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
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
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.timed(context, written)
    }
}
