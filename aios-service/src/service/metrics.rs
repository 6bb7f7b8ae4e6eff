//! The metrics of a service.
//!
//! There is one recorder per process (the `metrics` facade allows one). If the program has
//! installed its own, the service records into that one and serves no `/metrics`.
//!
//! The type `MetricsExport` exists with and without the feature `otlp`. Without it, the type has no
//! values, so that the code that uses it compiles and can never run; a setting that asks for an
//! export is then an error and not ignored.

use parking_lot::Mutex;
use tracing::debug;

#[cfg(feature = "otlp")]
pub(super) use self::sending::MetricsExport;
#[cfg(not(feature = "otlp"))]
pub(super) use self::unavailable::MetricsExport;
use crate::{config::Settings, telemetry::Metrics};

/// The metrics that a service of this process has installed. The `metrics` facade keeps its recorder for
/// the rest of the process, so a service that starts later has the same ones.
static INSTALLED: Mutex<Option<Metrics>> = Mutex::new(None);

/// The metrics of the process, if the settings want them and the program has no recorder of its own.
pub(super) fn installed(settings: &Settings) -> Option<Metrics> {
    if !settings.metrics().enabled {
        return None;
    }
    let mut installed = INSTALLED.lock();
    if installed.is_none() {
        let metrics = Metrics::new();
        match metrics.install() {
            true => *installed = Some(metrics),
            false => debug!("the program has a recorder of its own, which gets all metrics"),
        }
    }
    installed.clone()
}

#[cfg(feature = "otlp")]
mod sending {
    use std::{sync::Arc, time::Duration};

    use aios_agents::Runtime;
    use tracing::warn;

    use crate::{
        config::Settings,
        service::ServiceError,
        telemetry::{
            Metrics, MetricsExporter,
            otlp::{Collector, CollectorError},
        },
    };

    /// Sends metrics.
    #[derive(Debug)]
    pub(in crate::service) struct MetricsExport {
        metrics: Metrics,
        collector: Collector,
        interval: Duration,
        /// Runs once the runtime has started.
        exporter: Option<MetricsExporter>,
    }

    impl MetricsExport {
        /// `None` if the settings name no collector.
        pub(in crate::service) fn of(
            settings: &Settings,
            metrics: Option<&Metrics>,
        ) -> Result<Option<Self>, ServiceError> {
            let telemetry = settings.telemetry();
            let Some(endpoint) = &telemetry.metrics.endpoint else { return Ok(None) };
            let Some(metrics) = metrics else { return Err(no_metrics(settings)) };
            let collector = Collector::new(endpoint.expose(), &telemetry.service_name)
                .and_then(|it| it.try_with_protocol(telemetry.metrics.protocol))
                .and_then(|it| it.try_with_secret_headers(&telemetry.metrics.headers))
                .map_err(|error| invalid(&error))?;
            let interval = telemetry.metrics.interval.get();
            Ok(Some(Self { metrics: metrics.clone(), collector, interval, exporter: None }))
        }

        pub(in crate::service) fn start(
            &mut self,
            runtime: &Arc<Runtime>,
        ) -> Result<(), ServiceError> {
            let collector = self.collector.clone();
            let started = MetricsExporter::start(&self.metrics, runtime, collector, self.interval);
            self.exporter = Some(started.map_err(|error| invalid(&error))?);
            Ok(())
        }

        /// Stops reading the state of the runtime.
        pub(in crate::service) fn detach(&self) {
            self.exporter.iter().for_each(MetricsExporter::detach);
        }

        /// Sends the last values.
        pub(in crate::service) async fn end(&self, timeout: Duration) {
            if let Some(exporter) = &self.exporter
                && !exporter.flush(timeout).await
            {
                warn!("the last values of the metrics were not sent before the end");
            }
        }
    }

    /// The error of a collector that can't be used.
    fn invalid(error: &CollectorError) -> ServiceError {
        ServiceError::Metrics { reason: error.to_string() }
    }

    /// The error of an export without metrics.
    fn no_metrics(settings: &Settings) -> ServiceError {
        let reason = match settings.metrics().enabled {
            false => "metrics.enabled is false",
            true => {
                "the program has a recorder of metrics of its own; pass it to `Service::metrics` if \
                 it is one of aios-service"
            }
        };
        ServiceError::Metrics { reason: format!("telemetry.metrics.endpoint is set, and {reason}") }
    }
}

#[cfg(not(feature = "otlp"))]
mod unavailable {
    use std::{sync::Arc, time::Duration};

    use aios_agents::Runtime;

    use crate::{config::Settings, service::ServiceError, telemetry::Metrics};

    /// A service that sends no metrics.
    #[derive(Debug)]
    pub(in crate::service) enum MetricsExport {}

    impl MetricsExport {
        pub(in crate::service) fn of(
            settings: &Settings,
            _: Option<&Metrics>,
        ) -> Result<Option<Self>, ServiceError> {
            match settings.telemetry().metrics.endpoint {
                None => Ok(None),
                Some(_) => {
                    let reason = "telemetry.metrics.endpoint is set, and the program is built \
                                  without the feature `otlp` of aios-service";
                    Err(ServiceError::Metrics { reason: reason.to_owned() })
                }
            }
        }

        pub(in crate::service) fn start(&mut self, _: &Arc<Runtime>) -> Result<(), ServiceError> {
            match *self {}
        }

        pub(in crate::service) fn detach(&self) {
            match *self {}
        }

        #[allow(clippy::unused_async, reason = "as with the feature")]
        pub(in crate::service) async fn end(&self, _: Duration) {
            match *self {}
        }
    }
}
