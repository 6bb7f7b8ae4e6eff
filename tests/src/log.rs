//! The log of single tests.

use std::{
    fmt::{Debug, Write},
    sync::{Arc, Mutex},
};

use tracing::{
    Dispatch, Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
    subscriber::{DefaultGuard, NoSubscriber},
};

/// Returns a subscriber that takes nothing. Keep it while a test has a subscriber for its own thread.
///
/// While a process has just one subscriber, `tracing` asks the thread that first reaches a log statement
/// whether it is wanted, and caches the answer for all threads. That thread may belong to another test,
/// which has no subscriber. With a second one, `tracing` asks all subscribers.
#[must_use]
pub fn second_subscriber() -> Dispatch {
    Dispatch::new(NoSubscriber::default())
}

/// Keeps the log at INFO and above of its own thread while it exists, one line for each event.
#[derive(Debug)]
pub struct Logged {
    lines: Arc<Mutex<Vec<String>>>,
    _guard: DefaultGuard,
    _second: Dispatch,
}

impl Logged {
    /// Begins to keep the log of this thread. The test needs a single-threaded runtime.
    #[must_use]
    pub fn here() -> Self {
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let second = second_subscriber();
        let guard = tracing::subscriber::set_default(Keeper(Arc::clone(&lines)));
        Self { lines, _guard: guard, _second: second }
    }

    /// Returns the lines that contain all these words.
    #[must_use]
    pub fn lines(&self, words: &[&str]) -> Vec<String> {
        let lines = self.lines.lock().expect("no test panics while it logs");
        let has_all = |line: &&String| words.iter().all(|word| line.contains(word));
        lines.iter().filter(has_all).cloned().collect()
    }
}

struct Keeper(Arc<Mutex<Vec<String>>>);

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {field}={value:?}").expect("a string takes all text");
    }
}

impl Subscriber for Keeper {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        self.0.lock().expect("no test panics while it logs").push(line.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
