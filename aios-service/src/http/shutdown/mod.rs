//! The shutdown of a service, as a signal that many parts wait for.
//!
//! The parts end in this order: readiness fails, then the server accepts no more connections, streams
//! and waits end, requests end, and last the runtime.

mod signals;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::watch;

use self::signals::{Attendant, Starting};

/// Tells the parts of a service that it shuts down. Clones share their state.
///
/// # Examples
///
/// ```no_run
/// use std::{sync::Arc, time::Duration};
///
/// use aios_agents::Runtime;
/// use aios_service::http::{Shutdown, health, serve};
/// use axum::Router;
/// use tokio::net::TcpListener;
///
/// # async fn example(runtime: Runtime) -> Result<(), Box<dyn std::error::Error>> {
/// // Kubernetes stops sending requests within the delay, so none is refused.
/// let shutdown = Shutdown::on_signals()?.with_accept_delay(Duration::from_secs(5));
/// let runtime = Arc::new(runtime);
/// let router = Router::new().merge(health(Arc::clone(&runtime), shutdown.clone()));
/// serve(TcpListener::bind("0.0.0.0:8080").await?, router, shutdown).await?;
/// // Every connection has ended; now the tasks and steps end.
/// if let Some(runtime) = Arc::into_inner(runtime) {
///     runtime.shutdown(Duration::from_secs(30)).await?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Shutdown {
    /// Shared by the clones.
    state: Arc<State>,
    /// For how long connections are still accepted.
    accept_delay: Duration,
}

/// The state of a shutdown.
#[derive(Debug, Default)]
struct State {
    /// `true` from the beginning on.
    begun: watch::Sender<bool>,
    /// Waits for signals; ends with the last clone.
    attendant: OnceLock<Attendant>,
    /// How long after the signal the process may still run.
    exit_after: Mutex<Option<Duration>>,
}

impl State {
    fn begin(&self) {
        self.begun.send_replace(true);
    }
}

impl Shutdown {
    /// Creates a shutdown that has not begun.
    ///
    /// # Examples
    ///
    /// A test, or a program that ends for a reason of its own:
    ///
    /// ```
    /// use aios_service::http::Shutdown;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let shutdown = Shutdown::new();
    /// let waiting = tokio::spawn({
    ///     let shutdown = shutdown.clone();
    ///     async move { shutdown.begun().await }
    /// });
    /// assert!(!shutdown.has_begun());
    /// shutdown.begin();
    /// assert!(waiting.await.is_ok()); // clones share the state
    /// # }
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self { state: Arc::default(), accept_delay: Duration::ZERO }
    }

    /// Creates a shutdown that begins at SIGTERM (on Unix) or Ctrl-C.
    ///
    /// The handlers replace the default effect of the signals for the rest of the process: a second
    /// Ctrl-C does not end a process that is stuck in its shutdown. Limit the time of the shutdown
    /// instead, and use [`with_exit_after`](Self::with_exit_after) if code of the program may block. A
    /// thread of its own waits for the signals, so that blocked code does not delay it.
    ///
    /// # Errors
    ///
    /// An error of the operating system if the signals can't be handled, or the thread can't be started.
    pub fn on_signals() -> std::io::Result<Self> {
        let (shutdown, starting) = Self::on_signals_of_start()?;
        starting.succeeded(&shutdown);
        Ok(shutdown)
    }

    /// Like [`on_signals`](Self::on_signals), for a start that may fail.
    pub(crate) fn on_signals_of_start() -> std::io::Result<(Self, Starting)> {
        let shutdown = Self::new();
        let starting = Starting::begin(&shutdown)?;
        Ok((shutdown, starting))
    }

    /// Sets for how long [`serve`](super::serve) accepts connections after the shutdown has begun. In
    /// this time [`health`](super::health) reports that the process is not ready, so that a load
    /// balancer stops sending requests to it. The default is 0.
    ///
    /// Clones that were made before keep their delay.
    #[must_use]
    pub fn with_accept_delay(mut self, delay: Duration) -> Self {
        self.accept_delay = delay;
        self
    }

    /// Ends the process with status 75 if it still runs this long after a signal began the shutdown,
    /// whatever its code does: a thread of the runtime may be blocked, or the runtime may wait for a
    /// blocked thread at its end. The default is no limit. It has no effect on a shutdown that
    /// [`begin`](Self::begin) begins, and counts for all clones. If several shutdowns of a process have
    /// limits, the last one counts.
    #[must_use]
    pub fn with_exit_after(self, limit: Duration) -> Self {
        *self.state.exit_after.lock() = Some(limit);
        self
    }

    /// For how long connections are still accepted.
    pub(super) fn accept_delay(&self) -> Duration {
        self.accept_delay
    }

    /// Begins the shutdown. It cannot be undone.
    pub fn begin(&self) {
        self.state.begin();
    }

    /// Whether the shutdown has begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        *self.state.begun.borrow()
    }

    /// Completes when the shutdown begins.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn begun(&self) {
        // The sender lives as long as `self`.
        let _ = self.state.begun.subscribe().wait_for(|has_begun| *has_begun).await;
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}
