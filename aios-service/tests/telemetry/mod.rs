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
};

use serde_json::Value;

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
