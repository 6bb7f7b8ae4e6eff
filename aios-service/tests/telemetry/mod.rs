//! Logs and metrics.

#[cfg(feature = "otlp")]
mod export;
#[cfg(feature = "otlp")]
mod export_metrics;
#[cfg(feature = "otlp-grpc")]
mod grpc;
mod logs;
mod metrics;
mod traces;

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
    time::Duration,
};

use aios_service::{
    RunningService, Service,
    config::{Settings, SettingsBuilder},
    http::Shutdown,
};
use serde_json::Value;

/// The machine may be busy; a shutdown takes a fraction of a second, and without a collector that answers
/// some seconds.
pub(crate) const GENEROUS: Duration = Duration::from_secs(60);

/// Settings of a service in memory, on a free port.
pub(crate) fn settings() -> SettingsBuilder {
    Settings::builder()
        .environment::<&str, &str>([])
        .value("database.url", "memory://")
        .value("broker.url", "memory://")
        .value("http.listen", "127.0.0.1:0")
}

/// A service with these settings, which writes no log.
pub(crate) fn service(settings: SettingsBuilder) -> Service {
    Service::from_settings(&settings.load().unwrap())
        .connect_store(aios_store::connect)
        .connect_broker(aios_broker::connect)
        .shutdown(Shutdown::new())
        .without_telemetry()
}

pub(crate) async fn stop(service: RunningService) {
    service.shutdown().begin();
    tokio::time::timeout(GENEROUS, service.stopped()).await.unwrap().unwrap();
}

/// A log in memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Output(Arc<Mutex<Vec<u8>>>);

impl Output {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    pub(crate) fn lines(&self) -> Vec<Value> {
        let text = self.text();
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
        text.lines().map(parse).collect()
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
