//! A collector of traces, which decodes what it gets with the official protobuf definitions.

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
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest, common::v1::any_value::Value,
};
use prost::Message;

/// How often the spans are looked at, and the pause between two looks.
const LOOKS: u32 = 3000;
const PAUSE: Duration = Duration::from_millis(20);

/// How a collector answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// With this status. Spans are kept with status 200 only.
    Status(u16),
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
        let (requests, spans) = (AtomicU64::new(0), Mutex::default());
        let state = Arc::new(State { answer: Mutex::new(answer), requests, spans });
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

/// Answers the requests of a connection.
fn serve(stream: &TcpStream, state: &State) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let body = read(&mut reader).ok()??;
        state.requests.fetch_add(1, Ordering::SeqCst);
        let answer = *locked(&state.answer);
        let status = match answer {
            Answer::Status(status) => status,
            Answer::Nothing => {
                // Until the other side gives up.
                let _ = reader.read(&mut [0]);
                return None;
            }
        };
        if status == 200 {
            let request = ExportTraceServiceRequest::decode(&*body).expect("a request of OTLP");
            let scopes = request.resource_spans.into_iter().flat_map(|it| it.scope_spans);
            locked(&state.spans).extend(scopes.flat_map(|scope| scope.spans));
        }
        let mut writer = stream;
        write!(writer, "HTTP/1.1 {status} Status\r\ncontent-length: 0\r\n\r\n").ok()?;
    }
}

/// The body of the next request; `None` at the end of the connection.
fn read(reader: &mut BufReader<&TcpStream>) -> io::Result<Option<Vec<u8>>> {
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
    Ok(Some(body))
}
