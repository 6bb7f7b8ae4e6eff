//! The start of a service.
//!
//! The order is such that a fault is found before anything is visible outside. Settings are checked
//! first, then the address is taken, so that a second instance on the same port fails before it
//! opens a store. The store and the broker are opened next, then the runtime starts, and only then
//! are connections accepted. If a step fails, the values that were made so far are dropped, which
//! closes them.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use aios_agents::{Runtime, RuntimeBuilder};
use aios_core::{broker::Broker, store::Store};
use axum::Router;
use tokio::net::TcpListener;
use tracing::info;

use super::{
    Configure, Routes, RunningService, Service, ServiceError,
    connect::Part,
    metrics::{MetricsExport, installed},
    reload::{HangUps, Reload, rate_limit},
    running::{CLOSE_TIMEOUT, Serving},
    traces::Traces,
};
use crate::{
    config::{HttpSettings, SecretUrl, Settings, SettingsError},
    http::{ApiOptions, RateLimit, Shutdown, answer_unrouted, api, health, serve_with},
    telemetry::{Metrics, Telemetry, TelemetryGuard, measure_requests},
};

/// Where a service has its API.
const API_PATH: &str = "/api/v1";

impl Service {
    /// Starts the service: takes its address, opens the store, connects to the broker, starts the
    /// runtime and serves.
    ///
    /// SIGTERM and Ctrl-C begin the shutdown, unless the program has set [one](Self::shutdown). If the
    /// process still runs later than the accept delay, the time that connections may take, the deadline
    /// and 10 s after the signal, because its code blocks or because the store or the broker does not
    /// answer, then it exits with status 75.
    ///
    /// # Errors
    ///
    /// [`ServiceError`] names the part that failed. Nothing is left running, and SIGTERM and Ctrl-C
    /// end the process again, with the exit status of a process that they kill, unless another service of
    /// the process waits for them. [`ServiceError::Interrupted`] if one of them came during the start.
    ///
    /// # Panics
    ///
    /// If a route of [`routes`](Self::routes) exists already, or outside a tokio runtime.
    ///
    /// # Cancel safety
    ///
    /// A cancelled start leaves nothing running. Signals end the process as after an error.
    pub async fn start(mut self) -> Result<RunningService, ServiceError> {
        let telemetry = self.telemetry.take().map(Telemetry::start).transpose();
        let telemetry = telemetry.map_err(|source| ServiceError::Telemetry { source })?;
        let Some(shutdown) = self.shutdown.take() else {
            return self.start_with_signals(telemetry).await;
        };
        Box::pin(self.start_parts(telemetry, shutdown, None)).await
    }

    /// Starts a service that signals end, even during its start.
    async fn start_with_signals(
        self,
        telemetry: Option<TelemetryGuard>,
    ) -> Result<RunningService, ServiceError> {
        let failed = |source| ServiceError::Signals { source };
        let (shutdown, mut starting) = Shutdown::on_signals_of_start().map_err(failed)?;
        let hangups = HangUps::listen().map_err(failed)?;
        let delay = self.settings.shutdown().accept_delay.get();
        let shutdown = shutdown.with_accept_delay(delay).with_exit_after(self.time_to_end());
        let started = tokio::select! {
            biased;
            signal = starting.interrupted() => Err(ServiceError::Interrupted { signal }),
            started = Box::pin(self.start_parts(telemetry, shutdown, Some(hangups))) => started,
        };
        match &started {
            Ok(running) => starting.succeeded(running.shutdown()),
            Err(ServiceError::Interrupted { .. }) => starting.was_interrupted(),
            Err(_) => drop(starting),
        }
        started
    }

    /// How long the process may run after a signal. Its parts need no longer if the store and the broker
    /// answer, and no code blocks.
    fn time_to_end(&self) -> Duration {
        let settings = self.settings.shutdown();
        let parts =
            [settings.accept_delay.get(), self.serving.drain_timeout(), settings.deadline.get()];
        parts.into_iter().fold(CLOSE_TIMEOUT, Duration::saturating_add)
    }

    /// Starts the parts, in the order in which they use each other.
    async fn start_parts(
        self,
        telemetry: Option<TelemetryGuard>,
        shutdown: Shutdown,
        hangups: Option<HangUps>,
    ) -> Result<RunningService, ServiceError> {
        let http = self.settings.http();
        let needs_store = self.needs_store();
        let metrics = self.metrics.or_else(|| installed(&self.settings));
        let mut traces = Traces::of(&self.settings)?;
        let mut export = MetricsExport::of(&self.settings, metrics.as_ref())?;
        let limit = rate_limit(&self.settings)?;
        let (listener, address) = listen(http).await?;
        let (store, owned_store) =
            open_store(self.store, needs_store, &self.settings).await?.unzip();
        let (broker, owned_broker) = open_broker(self.broker, &self.settings).await?;
        let runtime = start_runtime(self.runtime, self.configure, broker, store).await?;
        if let Some(traces) = &mut traces {
            traces.follow(&runtime, &self.settings).await?;
        }
        if let Some(export) = &mut export {
            export.start(&runtime)?;
        }
        let mut options = with_settings(self.options, http, limit, &shutdown);
        if let (Some(traces), None) = (&traces, &options.request_spans) {
            options = options.with_request_spans(traces.requests());
        }
        let log = telemetry.as_ref().and_then(TelemetryGuard::log_control).or(self.log_control);
        let reload = Arc::new(Reload::new(self.settings.clone(), options.limits(), log));
        let reloading = hangups.map(|hangups| hangups.reload(&reload));
        let options = self.has_api.then_some(options);
        let router = router(&runtime, &shutdown, self.routes, options, metrics);
        info!(%address, "the service has started");
        let serving =
            Serving(tokio::spawn(serve_with(listener, router, self.serving, shutdown.clone())));
        let deadline = self.settings.shutdown().deadline.get();
        Ok(RunningService {
            runtime,
            store: owned_store.flatten(),
            broker: owned_broker,
            address,
            shutdown,
            serving,
            traces,
            metrics: export,
            deadline,
            reload,
            _reloading: reloading,
            _telemetry: telemetry,
        })
    }
}

/// Starts the runtime with the changes of the program.
async fn start_runtime(
    builder: RuntimeBuilder,
    configure: Vec<Configure>,
    broker: Arc<dyn Broker>,
    store: Option<Arc<dyn Store>>,
) -> Result<Arc<Runtime>, ServiceError> {
    let builder = match store {
        Some(store) => builder.broker(broker).store(store),
        None => builder.broker(broker),
    };
    let builder = configure.into_iter().fold(builder, |builder, configure| configure(builder));
    Ok(Arc::new(builder.start().await?))
}

/// Health, the routes of the program, the API and the metrics.
fn router(
    runtime: &Arc<Runtime>,
    shutdown: &Shutdown,
    routes: Vec<Routes>,
    api_options: Option<ApiOptions>,
    metrics: Option<Metrics>,
) -> Router {
    let mut router = health(Arc::clone(runtime), shutdown.clone());
    for routes in routes {
        router = router.merge(routes(Arc::clone(runtime)));
    }
    let api_path = api_options.is_some().then_some(API_PATH);
    if let Some(options) = api_options {
        router = router.nest(API_PATH, api(Arc::clone(runtime), options));
    }
    match metrics {
        Some(metrics) => {
            let router = router.merge(metrics.routes(Arc::clone(runtime)));
            measure_requests(answer_unrouted(router, api_path))
        }
        None => answer_unrouted(router, api_path),
    }
}

/// The options of the API with the limits of the settings.
fn with_settings(
    options: ApiOptions,
    http: &HttpSettings,
    limit: Option<RateLimit>,
    shutdown: &Shutdown,
) -> ApiOptions {
    let options = options
        .with_request_timeout(http.request_timeout.get())
        .with_max_body_bytes(usize::try_from(http.max_body_bytes).unwrap_or(usize::MAX))
        .with_shutdown(shutdown.clone());
    match limit {
        Some(limit) => options.with_rate_limit(limit),
        None => options,
    }
}

/// Takes the address, and returns the one that was taken: port 0 is any free one.
async fn listen(http: &HttpSettings) -> Result<(TcpListener, SocketAddr), ServiceError> {
    let failed = |source| ServiceError::Listen { address: http.listen.clone(), source };
    let listener = TcpListener::bind(&http.listen).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

/// The store, and again if the service closes it at the end.
async fn open_store(
    part: Option<Part<dyn Store, aios_core::store::StoreError>>,
    is_needed: bool,
    settings: &Settings,
) -> Result<Option<(Arc<dyn Store>, Option<Arc<dyn Store>>)>, ServiceError> {
    Ok(match part {
        None => None,
        Some(Part::Connect(_)) if !is_needed && settings.database().url.is_none() => None,
        Some(Part::Ready(store)) => Some((store, None)),
        Some(Part::Connect(connect)) => {
            let url = url(settings.database().url.as_ref(), "database.url", "AIOS_DATABASE_URL")?;
            let store = connect(url).await.map_err(ServiceError::Store)?;
            Some((Arc::clone(&store), Some(store)))
        }
    })
}

/// The broker, and again if the service closes it at the end.
async fn open_broker(
    part: Option<Part<dyn Broker, aios_core::broker::BrokerError>>,
    settings: &Settings,
) -> Result<(Arc<dyn Broker>, Option<Arc<dyn Broker>>), ServiceError> {
    match part.ok_or(ServiceError::NoBroker)? {
        Part::Ready(broker) => Ok((broker, None)),
        Part::Connect(connect) => {
            let url = url(settings.broker().url.as_ref(), "broker.url", "AIOS_BROKER_URL")?;
            let broker = connect(url).await.map_err(ServiceError::Broker)?;
            Ok((Arc::clone(&broker), Some(broker)))
        }
    }
}

/// The URL of a part that the service opens, which has to be set then.
fn url(url: Option<&SecretUrl>, key: &str, variable: &str) -> Result<String, SettingsError> {
    let missing = || SettingsError::missing(key, "a URL such as memory://", variable);
    url.map(|url| url.expose().to_owned()).ok_or_else(missing)
}
