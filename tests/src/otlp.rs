//! A collector of traces and metrics, which decodes what it gets with the official protobuf definitions.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

pub use opentelemetry_proto::tonic::trace::v1::Span;
pub use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    metrics::v1::{Metric, metric::Data, number_data_point},
};
use opentelemetry_proto::tonic::{
    collector::{
        metrics::v1::{ExportMetricsPartialSuccess, ExportMetricsServiceResponse},
        trace::v1::{
            ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
        },
    },
    common::v1::any_value::Value,
};
use prost::Message;

/// How often the spans are looked at, and the pause between two looks.
const LOOKS: u32 = 3000;
const PAUSE: Duration = Duration::from_millis(20);

/// How a collector answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// With this status. Spans and metrics are kept with status 200 only.
    Status(u16),
    /// With this status, and how many seconds to wait.
    Later(u16, u64),
    /// With status 200, and says that it rejects this many spans or data points.
    Rejects(i64),
    /// Never, although it takes the request.
    Nothing,
}

/// A collector on a free port of this machine. It runs until the process ends.
#[derive(Clone, Debug)]
pub struct Collector {
    address: SocketAddr,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    answer: Mutex<Answer>,
    requests: AtomicU64,
    spans: Mutex<Vec<Span>>,
    exports: Mutex<Vec<ExportMetricsServiceRequest>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Collector {
    /// Starts a collector.
    ///
    /// # Panics
    ///
    /// If no port is free.
    #[must_use]
    pub fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("a listener has an address");
        let state = Arc::new(State {
            answer: Mutex::new(answer),
            requests: AtomicU64::new(0),
            spans: Mutex::default(),
            exports: Mutex::default(),
        });
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                thread::spawn(move || serve(&stream, &state));
            }
        });
        Self { address, state }
    }

    /// Its URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers differently from now on.
    pub fn set_answer(&self, answer: Answer) {
        *locked(&self.state.answer) = answer;
    }

    /// How many requests came.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.state.requests.load(Ordering::SeqCst)
    }

    /// The spans that were taken, in the order in which they came.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        locked(&self.state.spans).clone()
    }

    /// The exports of metrics that were taken, in the order in which they came.
    #[must_use]
    pub fn exports(&self) -> Vec<ExportMetricsServiceRequest> {
        locked(&self.state.exports).clone()
    }

    /// Waits until the spans have a property, for at most a minute.
    ///
    /// # Panics
    ///
    /// If they do not get it.
    #[must_use]
    pub fn wait_for(&self, what: &str, have: impl Fn(&[Span]) -> bool) -> Vec<Span> {
        for _ in 0..LOOKS {
            let spans = self.spans();
            if have(&spans) {
                return spans;
            }
            thread::sleep(PAUSE);
        }
        let names: Vec<_> = self.spans().into_iter().map(|span| span.name).collect();
        panic!("no {what}: {names:?}");
    }
}

/// The text of an attribute.
#[must_use]
pub fn text<'s>(span: &'s Span, name: &str) -> Option<&'s str> {
    let found = span.attributes.iter().find(|attribute| attribute.key == name)?;
    match found.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text),
        _ => None,
    }
}

/// A metric of an export.
#[must_use]
pub fn metric<'e>(export: &'e ExportMetricsServiceRequest, name: &str) -> Option<&'e Metric> {
    let scopes = export.resource_metrics.iter().flat_map(|it| &it.scope_metrics);
    scopes.flat_map(|scope| &scope.metrics).find(|metric| metric.name == name)
}

/// Answers the requests of a connection.
fn serve(stream: &TcpStream, state: &State) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let (path, body) = read(&mut reader).ok()??;
        state.requests.fetch_add(1, Ordering::SeqCst);
        let answer = *locked(&state.answer);
        let mut header = String::new();
        let (status, rejected) = match answer {
            Answer::Status(status) => (status, 0),
            Answer::Later(status, seconds) => {
                header = format!("retry-after: {seconds}\r\n");
                (status, 0)
            }
            Answer::Rejects(rejected) => (200, rejected),
            Answer::Nothing => {
                // Until the other side gives up.
                let _ = reader.read(&mut [0]);
                return None;
            }
        };
        let answer = if status == 200 { take(state, &path, &body, rejected) } else { Vec::new() };
        let mut writer = stream;
        let length = answer.len();
        write!(writer, "HTTP/1.1 {status} Status\r\n{header}content-length: {length}\r\n\r\n")
            .ok()?;
        writer.write_all(&answer).ok()?;
    }
}

/// Keeps what a request has, and returns the answer.
fn take(state: &State, path: &str, body: &[u8], rejected: i64) -> Vec<u8> {
    let error_message = if rejected > 0 { "too old".to_owned() } else { String::new() };
    if path == "/v1/metrics" {
        let request = ExportMetricsServiceRequest::decode(body).expect("a request of OTLP");
        locked(&state.exports).push(request);
        let partial = ExportMetricsPartialSuccess { rejected_data_points: rejected, error_message };
        return ExportMetricsServiceResponse { partial_success: Some(partial) }.encode_to_vec();
    }
    let request = ExportTraceServiceRequest::decode(body).expect("a request of OTLP");
    let scopes = request.resource_spans.into_iter().flat_map(|it| it.scope_spans);
    locked(&state.spans).extend(scopes.flat_map(|scope| scope.spans));
    let partial = ExportTracePartialSuccess { rejected_spans: rejected, error_message };
    ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec()
}

/// The path and the body of the next request; `None` at the end of the connection.
fn read(reader: &mut BufReader<&TcpStream>) -> io::Result<Option<(String, Vec<u8>)>> {
    let mut first = String::new();
    if reader.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut length = None;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let line = line.trim().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok();
        }
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body)?;
    Ok(Some((path, body)))
}
