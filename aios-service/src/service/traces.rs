//! The traces of a service.
//!
//! Spans of runs come from the log, and one engine of all processes sends them. Spans of requests
//! exist only in the process that handles the request, and wait in its own queue.
//!
//! As with the metrics, the type exists with and without the feature `otlp`; without it, it has no
//! values.

#[cfg(feature = "otlp")]
pub(super) use self::sending::Traces;
#[cfg(not(feature = "otlp"))]
pub(super) use self::unavailable::Traces;

#[cfg(feature = "otlp")]
mod sending {
    use std::time::Duration;

    use aios_agents::Runtime;
    use tracing::warn;

    use crate::{
        config::{Role, Settings},
        service::ServiceError,
        telemetry::{
            otlp::{Collector, CollectorError},
            traces::{RequestExporter, RequestSpans, TraceExporter},
        },
    };

    /// Sends traces.
    #[derive(Debug)]
    pub(in crate::service) struct Traces {
        collector: Collector,
        /// Only engines send the spans of runs.
        exporter: Option<TraceExporter>,
        requests: RequestExporter,
    }

    impl Traces {
        /// `None` if the settings name no collector.
        pub(in crate::service) fn of(settings: &Settings) -> Result<Option<Self>, ServiceError> {
            let found = collector(settings).map_err(|error| invalid(&error))?;
            let Some(collector) = found else { return Ok(None) };
            let requests = RequestExporter::start(collector.clone());
            Ok(Some(Self { collector, exporter: None, requests }))
        }

        /// Sends the spans of runs, if this process has an engine.
        pub(in crate::service) async fn follow(
            &mut self,
            runtime: &Runtime,
            settings: &Settings,
        ) -> Result<(), ServiceError> {
            if settings.process().has(Role::Engine) && runtime.store().is_some() {
                let exporter = TraceExporter::start(runtime, self.collector.clone()).await?;
                self.exporter = Some(exporter);
            }
            Ok(())
        }

        pub(in crate::service) fn requests(&self) -> RequestSpans {
            self.requests.spans()
        }

        /// Sends what is left, and then nothing more.
        pub(in crate::service) async fn end(&self, timeout: Duration) {
            let exported = async {
                match &self.exporter {
                    Some(exporter) => exporter.flush(timeout).await,
                    None => true,
                }
            };
            let (requests, runs) = tokio::join!(self.requests.flush(timeout), exported);
            if !requests {
                warn!("spans of requests were not sent before the end");
            }
            if !runs {
                warn!(
                    "spans of runs were not sent before the end; they are sent after the next start"
                );
            }
            if let Some(exporter) = &self.exporter {
                exporter.stop();
            }
        }
    }

    fn collector(settings: &Settings) -> Result<Option<Collector>, CollectorError> {
        let telemetry = settings.telemetry();
        let Some(endpoint) = &telemetry.traces.endpoint else { return Ok(None) };
        let collector = Collector::new(endpoint.expose(), &telemetry.service_name)?
            .try_with_protocol(telemetry.traces.protocol)?;
        Ok(Some(collector.try_with_secret_headers(&telemetry.traces.headers)?))
    }

    fn invalid(error: &CollectorError) -> ServiceError {
        ServiceError::Traces { reason: error.to_string() }
    }
}

#[cfg(not(feature = "otlp"))]
mod unavailable {
    use std::time::Duration;

    use aios_agents::Runtime;

    use crate::{config::Settings, service::ServiceError, telemetry::traces::RequestSpans};

    /// A service that sends no traces.
    #[derive(Debug)]
    pub(in crate::service) enum Traces {}

    impl Traces {
        pub(in crate::service) fn of(settings: &Settings) -> Result<Option<Self>, ServiceError> {
            match settings.telemetry().traces.endpoint {
                None => Ok(None),
                Some(_) => {
                    let reason =
                        "telemetry.traces.endpoint is set, and the program is built without \
                                  the feature `otlp` of aios-service"
                            .to_owned();
                    Err(ServiceError::Traces { reason })
                }
            }
        }

        #[allow(clippy::unused_async, reason = "as with the feature")]
        pub(in crate::service) async fn follow(
            &mut self,
            _: &Runtime,
            _: &Settings,
        ) -> Result<(), ServiceError> {
            match *self {}
        }

        pub(in crate::service) fn requests(&self) -> RequestSpans {
            match *self {}
        }

        #[allow(clippy::unused_async, reason = "as with the feature")]
        pub(in crate::service) async fn end(&self, _: Duration) {
            match *self {}
        }
    }
}
