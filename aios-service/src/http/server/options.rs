//! Options of the server.

use std::time::Duration;

#[cfg(feature = "tls")]
use super::Tls;

/// Options of [`serve_with`](super::serve_with).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use aios_service::http::ServeOptions;
///
/// let options = ServeOptions::new()
///     .with_max_connections(1_000)
///     .with_drain_timeout(Duration::from_secs(20));
/// # drop(options);
/// ```
///
/// # Limits
///
/// | a client that | is | after |
/// |---|---|---|
/// | sends the headers or a handshake slowly, or nothing after it has connected | disconnected | `header_timeout`, 30 s |
/// | sends a body slowly | an error for the handler that reads it | `body_timeout`, 30 s for each part |
/// | takes no bytes of its answer | disconnected | `write_timeout`, 30 s |
/// | keeps a connection without a further request | disconnected | `idle_timeout`, 75 s |
/// | is busy at the shutdown | cut off | `drain_timeout`, 30 s |
///
/// A number outside the range of its setter is replaced by the nearest number in the range, so no setter
/// fails.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// At least 1.
    pub(super) max_connections: usize,
    /// 8 KiB to 16 MiB.
    pub(super) max_header_bytes: usize,
    /// For the TLS handshake and the headers of a request.
    pub(super) header_timeout: Duration,
    /// For each part of a body.
    pub(super) body_timeout: Duration,
    /// Without a byte that the client takes.
    pub(super) write_timeout: Duration,
    /// Without a request.
    pub(super) idle_timeout: Duration,
    /// For requests in progress at the end.
    pub(super) drain_timeout: Duration,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<Tls>,
}

impl ServeOptions {
    /// Default of [`with_max_connections`](Self::with_max_connections).
    pub const DEFAULT_MAX_CONNECTIONS: usize = 16_384;
    /// Default of [`with_max_header_bytes`](Self::with_max_header_bytes).
    pub const DEFAULT_MAX_HEADER_BYTES: usize = 64 * 1024;
    /// Default of [`with_header_timeout`](Self::with_header_timeout).
    pub const DEFAULT_HEADER_TIMEOUT: Duration = Duration::from_secs(30);
    /// Default of [`with_body_timeout`](Self::with_body_timeout).
    pub const DEFAULT_BODY_TIMEOUT: Duration = Duration::from_secs(30);
    /// Default of [`with_write_timeout`](Self::with_write_timeout).
    pub const DEFAULT_WRITE_TIMEOUT: Duration = Duration::from_secs(30);
    /// Default of [`with_idle_timeout`](Self::with_idle_timeout).
    pub const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(75);
    /// Default of [`with_drain_timeout`](Self::with_drain_timeout).
    pub const DEFAULT_DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

    /// Creates the default options: HTTP/1.1 without TLS.
    #[must_use]
    pub fn new() -> Self {
        Self {
            max_connections: Self::DEFAULT_MAX_CONNECTIONS,
            max_header_bytes: Self::DEFAULT_MAX_HEADER_BYTES,
            header_timeout: Self::DEFAULT_HEADER_TIMEOUT,
            body_timeout: Self::DEFAULT_BODY_TIMEOUT,
            write_timeout: Self::DEFAULT_WRITE_TIMEOUT,
            idle_timeout: Self::DEFAULT_IDLE_TIMEOUT,
            drain_timeout: Self::DEFAULT_DRAIN_TIMEOUT,
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// Serves HTTP/2 and HTTP/1.1 over TLS, which a client chooses between by ALPN. Connections
    /// without TLS are closed.
    #[cfg(feature = "tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
    #[must_use]
    pub fn with_tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Sets how many connections are open at the same time, at least 1. When there are more, the
    /// connection that has been idle for the longest time is closed; a new connection waits only if
    /// all of them are handling requests. Each needs a file descriptor of the process.
    /// The default is 16,384.
    #[must_use]
    pub fn with_max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections.max(1);
        self
    }

    /// Sets the maximum size of the headers of a request, in bytes, from 8 KiB to 16 MiB. A request with
    /// larger headers, or with more than 100 over HTTP/1.1, is answered with 431. The default is 64 KiB.
    #[must_use]
    pub fn with_max_header_bytes(mut self, bytes: usize) -> Self {
        self.max_header_bytes = bytes.clamp(8 * 1024, 16 * 1024 * 1024);
        self
    }

    /// Sets how long a client may take for the TLS handshake, and for the headers of each request of
    /// an HTTP/1.1 connection: of the first one from the beginning of the connection, and of a later one from
    /// its first byte. The default is 30 s.
    #[must_use]
    pub fn with_header_timeout(mut self, timeout: Duration) -> Self {
        self.header_timeout = timeout;
        self
    }

    /// Sets how long a client may take for the next part of the body of a request, while a handler
    /// reads it. The router of [`api`](crate::http::api) also limits the time of the whole request.
    /// The default is 30 s.
    #[must_use]
    pub fn with_body_timeout(mut self, timeout: Duration) -> Self {
        self.body_timeout = timeout;
        self
    }

    /// Sets after which time a connection is closed whose client takes no bytes of an answer. The
    /// default is 30 s.
    #[must_use]
    pub fn with_write_timeout(mut self, timeout: Duration) -> Self {
        self.write_timeout = timeout;
        self
    }

    /// Sets after which time a connection without a request is closed. The default is 75 s, which is longer
    /// than proxies usually keep their connections, so that no request is sent into one that is being closed.
    #[must_use]
    pub fn with_idle_timeout(mut self, timeout: Duration) -> Self {
        self.idle_timeout = timeout;
        self
    }

    /// Sets how long requests may take to end once no more connections are accepted. The default is
    /// 30 s.
    #[must_use]
    pub fn with_drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// How long busy connections may take at the shutdown.
    pub(crate) fn drain_timeout(&self) -> Duration {
        self.drain_timeout
    }
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self::new()
    }
}
