//! The shutdown of a service, as a signal that many parts wait for.
//!
//! The parts end in this order: readiness fails, then the server takes no more connections, streams
//! and waits end, requests end, and last the runtime.

use std::{sync::Arc, time::Duration};

use tokio::sync::{oneshot, watch};

/// Exit status of a process that a signal ends, without the number of the signal.
const ENDED_BY_SIGNAL: i32 = 128;

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
    /// `true` from the beginning on.
    begun: Arc<watch::Sender<bool>>,
    /// For how long connections are still accepted.
    accept_delay: Duration,
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
        Self { begun: Arc::new(watch::Sender::new(false)), accept_delay: Duration::ZERO }
    }

    /// Creates a shutdown that begins at SIGTERM (on Unix) or Ctrl-C.
    ///
    /// The handlers replace the default effect of the signals for the rest of the process: a second
    /// Ctrl-C does not end a process that is stuck in its shutdown. Limit the time of the shutdown
    /// instead.
    ///
    /// # Errors
    ///
    /// An error of the operating system if the signals can't be handled.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with I/O enabled.
    pub fn on_signals() -> std::io::Result<Self> {
        let (shutdown, starting) = Self::on_signals_of_start()?;
        starting.succeeded();
        Ok(shutdown)
    }

    /// Like [`on_signals`](Self::on_signals), for a start that may fail.
    pub(crate) fn on_signals_of_start() -> std::io::Result<(Self, Starting)> {
        let shutdown = Self::new();
        let begun = shutdown.clone();
        let signals = signals()?;
        let (sender, started) = oneshot::channel();
        tokio::spawn(async move {
            let signal = signals.await;
            match started.await {
                Ok(()) => begun.begin(),
                // The program does not know of the signal, and its default effect cannot be restored.
                Err(_) => std::process::exit(ENDED_BY_SIGNAL + signal),
            }
        });
        Ok((shutdown, Starting(sender)))
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

    /// For how long connections are still accepted.
    pub(super) fn accept_delay(&self) -> Duration {
        self.accept_delay
    }

    /// Begins the shutdown. It cannot be undone.
    pub fn begin(&self) {
        self.begun.send_replace(true);
    }

    /// Whether the shutdown has begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        *self.begun.borrow()
    }

    /// Completes when the shutdown begins.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn begun(&self) {
        // The sender lives as long as `self`.
        let _ = self.begun.subscribe().wait_for(|has_begun| *has_begun).await;
    }
}

/// A start whose signals are handled. If it is dropped because the start fails or is cancelled, the
/// signals end the process as they do without handlers, also one that came during the start.
#[derive(Debug)]
pub(crate) struct Starting(oneshot::Sender<()>);

impl Starting {
    /// From now on the signals begin the shutdown, as does one that came during the start.
    pub(crate) fn succeeded(self) {
        // Without a runtime, no task waits for signals.
        let _ = self.0.send(());
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

/// Registers the handlers at once, so that a signal right after the start is not missed. Completes
/// with the number of the first signal.
#[cfg(unix)]
fn signals() -> std::io::Result<impl Future<Output = i32> + Send> {
    use tokio::signal::unix::{SignalKind, signal};

    let (terminate, interrupt) = (SignalKind::terminate(), SignalKind::interrupt());
    let mut terminated = signal(terminate)?;
    let mut interrupted = signal(interrupt)?;
    Ok(async move {
        tokio::select! {
            biased;
            _ = terminated.recv() => terminate.as_raw_value(),
            _ = interrupted.recv() => interrupt.as_raw_value(),
        }
    })
}

#[cfg(not(unix))]
fn signals() -> std::io::Result<impl Future<Output = i32> + Send> {
    /// The number of SIGINT.
    const INTERRUPT: i32 = 2;

    Ok(async {
        match tokio::signal::ctrl_c().await {
            Ok(()) => INTERRUPT,
            Err(_) => std::future::pending().await,
        }
    })
}
