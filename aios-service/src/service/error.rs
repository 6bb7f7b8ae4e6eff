//! Why a service does not start or end. Each variant tells what the operator of the service can do.

use std::time::Duration;

use aios_agents::RuntimeError;
use aios_core::{broker::BrokerError, catalog::codes, store::StoreError};

use crate::config::SettingsError;

/// Why a service could not start, or did not end in an orderly way.
///
/// | variant | code | remedy |
/// |---|---|---|
/// | `Settings` | `INVALID_SETTINGS` | correct the settings that the report lists |
/// | `Listen`, `Signals` | `LISTEN_FAILED` | choose another address, or allow it |
/// | `Interrupted` | `START_INTERRUPTED` | none: end the process |
/// | `Telemetry`, `Traces`, `Metrics` | `TELEMETRY_FAILED` | correct the section `telemetry`, or allow a thread |
/// | `Store`, `Broker`, `Runtime` | that of the error inside | as the error says; retry if it is retryable |
/// | `NoBroker` | `INVALID_RUNTIME_CONFIGURATION` | correct the program |
/// | `RuntimeInUse` | `SHUTDOWN_TIMEOUT` | drop clones of the runtime before the end |
/// | `Unresponsive` | `SHUTDOWN_TIMEOUT` | find out why the store or the broker does not answer |
///
/// # Examples
///
/// A program whose orchestrator starts it again only if that can help:
///
/// ```no_run
/// use std::process::ExitCode;
///
/// use aios_core::Chain;
/// use aios_service::Service;
///
/// async fn run(service: Service) -> ExitCode {
///     let Err(error) = service.run().await else { return ExitCode::SUCCESS };
///     eprintln!("{}: {}", error.code(), Chain(&error));
///     match error.is_retryable() {
///         true => ExitCode::from(75), // EX_TEMPFAIL
///         false => ExitCode::from(78), // EX_CONFIG
///     }
/// }
/// # let _ = run;
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServiceError {
    /// A setting that the service needs is missing or refused.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The operating system refuses the address: another program has the port, or it needs privileges.
    /// Set another one as `http.listen`.
    #[error("can't listen on {address}; choose another address with AIOS_HTTP_LISTEN")]
    #[non_exhaustive]
    Listen {
        /// The address.
        address: String,
        /// The error of the operating system.
        #[source]
        source: std::io::Error,
    },
    /// The signals of the operating system can't be handled.
    #[error("can't handle the signals of the operating system")]
    #[non_exhaustive]
    Signals {
        /// The error of the operating system.
        #[source]
        source: std::io::Error,
    },
    /// SIGTERM or Ctrl-C asked the process to end before the service had started. Nothing is left running,
    /// and later signals end the process.
    #[error("a signal ended the start of the service")]
    #[non_exhaustive]
    Interrupted {
        /// The number of the signal. Shells report 128 more as the exit status.
        signal: i32,
    },
    /// The operating system refuses the thread that writes the log.
    #[error("can't start the telemetry")]
    #[non_exhaustive]
    Telemetry {
        /// The error of the operating system.
        #[source]
        source: std::io::Error,
    },
    /// Traces can't be sent to the collector that the settings name.
    #[error("can't send traces: {reason}")]
    #[non_exhaustive]
    Traces {
        /// The reason.
        reason: String,
    },
    /// Metrics can't be sent to the collector that the settings name.
    #[error("can't send metrics: {reason}")]
    #[non_exhaustive]
    Metrics {
        /// The reason.
        reason: String,
    },
    /// The store could not be opened or closed; the [`StoreError`] says what to do.
    #[error("can't use the store")]
    Store(#[source] StoreError),
    /// The broker could not be connected to, or did not close in time; the [`BrokerError`] says what to
    /// do.
    #[error("can't use the broker")]
    Broker(#[source] BrokerError),
    /// The runtime could not start, failed, or did not end in time.
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    /// The program has no broker: call [`connect_broker`](super::Service::connect_broker) or
    /// [`broker`](super::Service::broker).
    #[error("a service needs a broker: call connect_broker or broker")]
    NoBroker,
    /// Clones of the runtime were in use when the shutdown ended, so that it was abandoned. Tasks that
    /// were running are repeated elsewhere. Drop the clones that routes or tasks of your own hold.
    #[error("the runtime is still in use; drop every clone of it before the shutdown ends")]
    RuntimeInUse,
    /// The store or the broker did not answer while the runtime shut down, so that it was abandoned. Tasks
    /// and runs are taken over by other processes, or continue on the next start.
    #[error("the store or the broker did not answer within {after:?}; the runtime was abandoned")]
    #[non_exhaustive]
    Unresponsive {
        /// How long the shutdown was waited for.
        after: Duration,
    },
}

impl ServiceError {
    /// Stable name of the error, in [`aios_core::catalog::codes`].
    #[must_use]
    pub fn code(&self) -> &str {
        match self {
            Self::Settings(error) => error.code(),
            Self::Listen { .. } | Self::Signals { .. } => codes::LISTEN_FAILED,
            Self::Interrupted { .. } => codes::START_INTERRUPTED,
            Self::Telemetry { .. } | Self::Traces { .. } | Self::Metrics { .. } => {
                codes::TELEMETRY_FAILED
            }
            Self::Store(error) => error.code(),
            Self::Broker(error) => error.code(),
            Self::Runtime(error) => error.code(),
            Self::NoBroker => codes::INVALID_RUNTIME_CONFIGURATION,
            Self::RuntimeInUse | Self::Unresponsive { .. } => codes::SHUTDOWN_TIMEOUT,
        }
    }

    /// Whether the same call may succeed later without a change of the program or its configuration.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Store(error) => error.is_retryable(),
            Self::Broker(error) => error.is_retryable(),
            Self::Runtime(error) => error.is_retryable(),
            Self::Settings(_)
            | Self::Listen { .. }
            | Self::Signals { .. }
            | Self::Interrupted { .. }
            | Self::Telemetry { .. }
            | Self::Traces { .. }
            | Self::Metrics { .. }
            | Self::NoBroker
            | Self::RuntimeInUse
            | Self::Unresponsive { .. } => false,
        }
    }
}
