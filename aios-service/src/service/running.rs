//! A running service, and its end.
//!
//! The end has a fixed order. Each part is ended before the parts that it uses:
//!
//! ```text
//! shutdown begins ─► requests end ─► spans are sent ─► metrics let go of the runtime
//!   ─► tasks and steps end ─► broker closes, last metrics are sent ─► store closes
//! ```
//!
//! A failure of one step does not skip the next ones: each is logged, and the first one is returned
//! at the end.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use aios_agents::Runtime;
use aios_core::{
    Chain,
    broker::Broker,
    clock::{Clock, SystemClock},
    store::{Store, StoreError},
};
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use super::{
    ServiceError,
    metrics::MetricsExport,
    reload::{Reload, Task},
    traces::Traces,
};
use crate::{
    config::{Change, SettingsError},
    http::Shutdown,
    telemetry::TelemetryGuard,
};

/// How often to check whether the runtime is still in use.
const PAUSE: Duration = Duration::from_millis(10);
/// How long the broker and the store may each take to close, and the runtime after its deadline.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long sending traces and metrics may take at the end, together.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);
/// The part of it that traces leave to the metrics, whose last values come later.
const METRICS_FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// A service that runs. Dropping it ends the runtime without an orderly shutdown.
///
/// # Examples
///
/// A test that starts the whole service on a free port:
///
/// ```
/// use aios_agents::prelude::*;
/// use aios_service::{Service, config::Settings};
///
/// async fn welcome(_: WorkflowContext, name: String) -> Result<String, WorkflowError> {
///     Ok(format!("Welcome, {name}!"))
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let settings = Settings::builder()
///     .environment([("AIOS_HTTP_LISTEN", "127.0.0.1:0"), ("AIOS_METRICS_ENABLED", "false")])
///     .load()?;
/// let service = Service::from_settings(&settings)
///     .store(aios_store::connect("memory://").await?)
///     .broker(aios_broker::connect("memory://").await?)
///     .without_telemetry()
///     .workflow("welcome", welcome)
///     .start()
///     .await?;
/// assert_ne!(service.address().port(), 0);
/// let run = service.runtime().start("welcome", "Ada").await?;
/// assert_eq!(run.result::<String>().await?, "Welcome, Ada!");
///
/// drop(run);
/// service.shutdown().begin();
/// service.stopped().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct RunningService {
    pub(super) runtime: Arc<Runtime>,
    /// The store, if this service opened it.
    pub(super) store: Option<Arc<dyn Store>>,
    /// The broker, if this service connected to it.
    pub(super) broker: Option<Arc<dyn Broker>>,
    /// Where requests are taken; the port is known here even if 0 was configured.
    pub(super) address: SocketAddr,
    /// Begins the end, and tells the API of it.
    pub(super) shutdown: Shutdown,
    /// The server.
    pub(super) serving: Serving,
    /// The exporter of traces, if there is a collector.
    pub(super) traces: Option<Traces>,
    /// The exporter of metrics, if there is a collector.
    pub(super) metrics: Option<MetricsExport>,
    /// How long tasks and steps in progress may take to end.
    pub(super) deadline: Duration,
    /// The settings, and what takes new values.
    pub(super) reload: Arc<Reload>,
    /// Reloads at SIGHUP.
    pub(super) _reloading: Option<Task>,
    /// Dropped last, so that the log has the end of everything else.
    pub(super) _telemetry: Option<TelemetryGuard>,
}

/// The server, which ends with the service.
#[derive(Debug)]
pub(super) struct Serving(pub(super) JoinHandle<io::Result<()>>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl RunningService {
    /// The runtime. A clone that is in use at the end of the shutdown delays it; see
    /// [`stopped`](Self::stopped).
    #[must_use]
    pub fn runtime(&self) -> &Arc<Runtime> {
        &self.runtime
    }

    /// The address on which requests are taken.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The shutdown of the service; [`begin`](Shutdown::begin) it to end the service.
    #[must_use]
    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// Reads the settings again, as at SIGHUP, and returns what has changed.
    ///
    /// # Errors
    ///
    /// [`SettingsError`] with all faults. No value is changed then.
    ///
    /// # Cancel safety
    ///
    /// A cancelled call applies no new values.
    pub async fn reload(&self) -> Result<Vec<Change>, SettingsError> {
        self.reload.reload().await
    }

    /// Waits until the shutdown begins or the runtime fails, then ends the service: requests, then
    /// traces that were not sent, then tasks and steps in progress, then the last values of the
    /// metrics, and the connections to the broker and the store. Collectors that do not answer delay
    /// this by at most 5 s in total: traces by at most 4 s, and metrics by what they leave.
    ///
    /// # Errors
    ///
    /// [`ServiceError::Runtime`] if the runtime failed, or tasks did not end within
    /// `shutdown.deadline`. [`ServiceError::RuntimeInUse`] if clones of the runtime were not dropped
    /// within this time. [`ServiceError::Unresponsive`] if the store or the broker did not answer.
    /// [`ServiceError::Broker`] if the broker did not accept all settlements, and
    /// [`ServiceError::Store`] if the store did not close. The service has ended in all cases.
    ///
    /// # Cancel safety
    ///
    /// A cancelled call ends the service without an orderly shutdown: unfinished tasks and runs are
    /// taken over by other processes, or resume on the next start.
    pub async fn stopped(mut self) -> Result<(), ServiceError> {
        tokio::select! {
            biased;
            () = self.shutdown.begun() => info!("the shutdown begins"),
            failure = self.runtime.failed() => {
                error!(code = &*failure.code, %failure, "the runtime failed; the shutdown begins");
                self.shutdown.begin();
            }
        }
        if let Err(error) = (&mut self.serving.0).await {
            error!(%error, "the server failed");
        }
        let flush_timeout = end_traces(self.traces.as_ref()).await;
        if let Some(metrics) = &self.metrics {
            metrics.detach();
        }
        let ended = end_runtime(self.runtime, self.deadline).await;
        let closing = async {
            match &self.broker {
                Some(broker) => broker.close(CLOSE_TIMEOUT).await,
                None => Ok(()),
            }
        };
        let sending = async {
            if let Some(metrics) = &self.metrics {
                metrics.end(flush_timeout).await;
            }
        };
        let (closed, ()) = tokio::join!(closing, sending);
        if let Err(error) = &closed {
            warn!(error = %Chain(error), "the broker did not close");
        }
        let released = match &self.store {
            Some(store) => close(&**store).await,
            None => Ok(()),
        };
        if let Err(error) = &released {
            warn!(error = %Chain(error), "the store did not close");
        }
        ended?;
        closed.map_err(ServiceError::Broker)?;
        released.map_err(ServiceError::Store)?;
        info!("the service has stopped");
        Ok(())
    }
}

/// Sends the traces that are left, and returns how long the metrics may take.
async fn end_traces(traces: Option<&Traces>) -> Duration {
    let begun = SystemClock.elapsed();
    if let Some(traces) = traces {
        traces.end(FLUSH_TIMEOUT.saturating_sub(METRICS_FLUSH_TIMEOUT)).await;
    }
    let took = SystemClock.elapsed().saturating_sub(begun);
    FLUSH_TIMEOUT.saturating_sub(took).max(METRICS_FLUSH_TIMEOUT)
}

/// Shuts the runtime down once it is no longer in use: requests that were abandoned hold it for a
/// moment.
async fn end_runtime(mut runtime: Arc<Runtime>, deadline: Duration) -> Result<(), ServiceError> {
    let clock = SystemClock;
    let begun = clock.elapsed();
    loop {
        match Arc::try_unwrap(runtime) {
            Ok(runtime) => return shut_down(runtime, deadline).await,
            Err(_) if clock.elapsed().saturating_sub(begun) >= deadline => {
                return Err(ServiceError::RuntimeInUse);
            }
            Err(shared) => runtime = shared,
        }
        clock.sleep(PAUSE).await;
    }
}

/// Shuts a runtime down. What its store and broker do not answer holds it only for a limited time.
async fn shut_down(runtime: Runtime, deadline: Duration) -> Result<(), ServiceError> {
    let after = deadline + deadline.clamp(Duration::from_secs(1), CLOSE_TIMEOUT);
    tokio::select! {
        biased;
        ended = runtime.shutdown(deadline) => Ok(ended?),
        () = SystemClock.sleep(after) => Err(ServiceError::Unresponsive { after }),
    }
}

/// Closes the store, which may not answer.
async fn close(store: &dyn Store) -> Result<(), StoreError> {
    tokio::select! {
        biased;
        closed = store.close() => closed,
        () = SystemClock.sleep(CLOSE_TIMEOUT) => {
            Err(StoreError::Timeout { operation: "close", after: CLOSE_TIMEOUT })
        }
    }
}
