//! Makes the spans of one run from its events, one after the other.
//!
//! The spans of a run are not recorded while it is executed: they are computed from its journal.
//! The result is the same in every process and after every restart, because ids are derived from
//! the incarnation of the run and times are those of the events. So a collector that gets a span
//! twice gets the same span.
//!
//! ```text
//! workflow checkout                    the run
//! ├─ step price                        an operation
//! │  ├─ step price attempt             only if it was retried
//! │  └─ step price attempt
//! ├─ task summarizer                   an operation that others execute
//! │  └─ task summarizer attempt        on the agent
//! └─ timer
//! ```
//!
//! An event that begins something adds it to the state, and one that ends it removes it and returns
//! the span. A step is recorded only when it ends or is retried; the start of its span is estimated
//! from the records around its request.
//!
//! The beginning of a forked run is a copy of another journal. Its events are skipped, because what
//! they tell is in the trace of that run.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use aios_agents::trace::{SpanId, TraceId, TraceParent};
use aios_core::{
    catalog::codes,
    event::{Event, EventId, Timestamp},
    store::RecordedEvent,
};

use super::{
    Span, SpanKind, SpanLink, SpanStatus,
    open::{Attempt, Numbers, Open, Requests, ended},
    record::{Record, Retry, Start, Task},
};

/// Metadata field of events that a fork copied: the id of the original.
const COPY_OF: &str = "copy_of";

/// Makes the spans of a run. A span is returned once, with the event that ends it; its id and its times
/// follow from the events up to then.
#[derive(Debug, Default)]
pub(super) struct Tracer {
    /// `None` before the event that starts the run.
    run: Option<Run>,
    /// The operations in progress.
    operations: BTreeMap<u64, Open>,
    /// Steps that have ended; their spans are made when they end.
    ended: Numbers,
    /// Operations that wait for a signal until a time. Waits without one are not recorded, so they are not
    /// known here.
    waiting: BTreeMap<Box<str>, BTreeSet<u64>>,
    /// The times at which operations were requested, as far as events tell.
    requests: Requests,
    /// The version of the last event.
    version: u64,
    /// Whether the run has ended. Later events have no spans.
    has_ended: bool,
}

/// The run.
#[derive(Debug)]
struct Run {
    /// The event that started the run, from which ids are derived.
    incarnation: EventId,
    /// The trace, and the span of the run.
    context: TraceParent,
    /// The span of the run, while it is in progress.
    span: Span,
}

impl Tracer {
    /// The version of the last event.
    #[cfg_attr(not(feature = "otlp"), allow(dead_code, reason = "the exporter uses it"))]
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// Whether the run has ended.
    #[cfg_attr(not(feature = "otlp"), allow(dead_code, reason = "the exporter uses it"))]
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// The trace context of the run, once it was started.
    pub(super) fn context(&self) -> Option<TraceParent> {
        self.run.as_ref().map(|run| run.context)
    }

    /// How many parts the state has, for a limit of memory.
    #[cfg_attr(not(feature = "otlp"), allow(dead_code, reason = "the exporter uses it"))]
    pub(super) fn weight(&self) -> usize {
        1 + self.operations.len() + self.ended.len() / 4 + self.requests.len() / 4
    }

    /// The spans that have begun and not ended.
    pub(super) fn open(&self) -> Vec<Span> {
        let run = self.run.iter().map(|run| &run.span);
        let operations = self.operations.values().flat_map(Open::spans);
        run.filter(|_| !self.has_ended).chain(operations).cloned().collect()
    }

    /// Applies the next event of the run. Adds the spans that end with it.
    pub(super) fn apply(&mut self, recorded: &RecordedEvent, spans: &mut Vec<Span>) {
        self.version = recorded.version;
        let event = &recorded.event;
        let at = recorded.event.timestamp;
        if let Some(record) = Record::of(event).filter(|_| !self.has_ended) {
            match record {
                Record::Started(start) => self.start(recorded, &start),
                // It happened in another run.
                _ if event.metadata.extra.contains(COPY_OF) => {}
                record => {
                    if let Some(operation) = record.operation() {
                        self.requests.note(operation);
                    }
                    self.apply_record(record, event, spans);
                }
            }
        }
        self.requests.last = self.requests.last.max(at);
    }

    /// Begins the span of the run. A delayed run begins when it is due.
    fn start(&mut self, recorded: &RecordedEvent, begun: &Start) {
        let event = &recorded.event;
        let metadata = &recorded.event.metadata;
        let start = begun.start_at.map_or(event.timestamp, |at| at.max(event.timestamp));
        // A fork has the times of the run whose beginning it copied.
        let start = begun.forked_from.as_ref().and_then(|_| time_of(&event.id)).unwrap_or(start);
        let context = TraceParent::of_run(metadata, &event.id);
        let caller = TraceParent::caller(metadata);
        let links = begun.predecessor.as_ref().map(|incarnation| SpanLink {
            trace_id: caller.map_or(TraceId::of_run(incarnation), |caller| caller.trace_id),
            span_id: SpanId::of_run(incarnation),
        });
        let workflow = event.event_type.entity();
        let mut attributes = vec![
            ("aios.run_id".into(), recorded.stream.run_id().unwrap_or_default().into()),
            ("aios.workflow".into(), workflow.into()),
            ("aios.workflow_version".into(), begun.version.into()),
        ];
        let forked_from = begun.forked_from.as_deref();
        attributes.extend(forked_from.map(|id| ("aios.forked_from".into(), id.into())));
        let correlation = metadata.correlation_id.as_deref();
        attributes.extend(correlation.map(|id| ("aios.correlation_id".into(), id.into())));
        let span = Span {
            trace_id: context.trace_id,
            span_id: context.span_id,
            parent: caller.map(|caller| caller.span_id),
            name: format!("workflow {workflow}"),
            kind: SpanKind::Internal,
            start,
            end: None,
            status: SpanStatus::Unset,
            attributes,
            links: links.into_iter().collect(),
        };
        self.requests.last = start;
        self.run = Some(Run { incarnation: event.id.clone(), context, span });
    }

    /// Begins or ends an operation or an attempt.
    fn apply_record(&mut self, record: Record, event: &Event, spans: &mut Vec<Span>) {
        let at = event.timestamp;
        match record {
            Record::StepCompleted { operation, name } => {
                self.end_step(operation, &name, at, &SpanStatus::Ok, spans);
            }
            Record::OperationFailed { operation, name: Some(name), code } => {
                self.end_step(operation, &name, at, &SpanStatus::Error(code), spans);
            }
            Record::OperationFailed { operation, name: None, code } => {
                self.end(operation, at, &SpanStatus::Error(code), spans);
            }
            Record::RetryScheduled(retry) => self.retry(retry, at, spans),
            Record::TimerStarted { operation } => {
                self.begin(operation, "timer".to_owned(), SpanKind::Internal, at);
            }
            Record::SignalAwaited { operation, name } => {
                self.begin(operation, format!("signal {name}"), SpanKind::Internal, at);
                self.waiting.entry(name).or_default().insert(operation);
            }
            Record::Signaled { name } => self.signal(&name, at, spans),
            Record::TimerFired { operation } => self.fire(operation, at, spans),
            Record::ChildStarted { operation, run_id, workflow } => {
                if let Some(open) =
                    self.begin(operation, format!("child {workflow}"), SpanKind::Producer, at)
                {
                    open.span.attributes.push(("aios.child_run_id".into(), (*run_id).into()));
                }
            }
            Record::ChildEnded { operation, code } => {
                self.end(operation, at, &code.map_or(SpanStatus::Ok, SpanStatus::Error), spans);
            }
            Record::TaskAssigned { task, attempt, agent_id } => {
                self.assign(&task, attempt, agent_id.as_deref(), event);
            }
            Record::TaskCompleted { task, assignment } => {
                self.complete(&task, assignment.as_deref(), event, spans);
            }
            Record::TaskFailed { task, attempt, code } => {
                self.describe(&task, attempt, event);
                self.end_attempt(task.operation, attempt, at, SpanStatus::Error(code), spans);
            }
            Record::TaskCancelled { task } => {
                self.end(task.operation, at, &SpanStatus::Unset, spans);
            }
            Record::Ended { status, code, next } => {
                self.finish((status, code, next.as_deref()), at, spans);
            }
            Record::Started(_) | Record::Noted { .. } => {}
        }
    }

    /// A span of an operation, under the run.
    fn span(&self, operation: u64, name: String, kind: SpanKind, start: Timestamp) -> Option<Span> {
        let run = self.run.as_ref()?;
        Some(Span {
            trace_id: run.context.trace_id,
            span_id: SpanId::of_operation(&run.incarnation, operation),
            parent: Some(run.context.span_id),
            name,
            kind,
            start: start.max(run.span.start),
            end: None,
            status: SpanStatus::Unset,
            attributes: vec![("aios.operation".into(), operation.into())],
            links: Vec::new(),
        })
    }

    /// Begins an operation, unless it has begun.
    fn begin(
        &mut self,
        operation: u64,
        name: String,
        kind: SpanKind,
        start: Timestamp,
    ) -> Option<&mut Open> {
        let span = self.span(operation, name, kind, start)?;
        Some(self.operations.entry(operation).or_insert_with(|| Open { span, attempt: None }))
    }

    /// Begins an attempt of an operation in progress.
    fn begin_attempt(
        &mut self,
        operation: u64,
        number: u32,
        kind: SpanKind,
        start: Timestamp,
    ) -> Option<&mut Attempt> {
        let span_id = SpanId::of_attempt(&self.run.as_ref()?.incarnation, operation, number);
        let open = self.operations.get_mut(&operation)?;
        Some(open.begin_attempt(span_id, number, kind, start))
    }

    /// The operation of a step, which begins with its first record.
    fn step(&mut self, operation: u64, name: &str) -> Option<&mut Open> {
        if self.ended.contains(operation) {
            return None;
        }
        let start = self.requests.time(operation);
        self.begin(operation, format!("step {name}"), SpanKind::Internal, start)
    }

    /// Ends a step, unless it has ended before. Its only record is its end if no attempt has failed.
    fn end_step(
        &mut self,
        operation: u64,
        name: &str,
        at: Timestamp,
        status: &SpanStatus,
        spans: &mut Vec<Span>,
    ) {
        if self.ended.contains(operation) {
            return;
        }
        if let Some(open) = self.operations.remove(&operation) {
            open.end(at, status, spans);
        } else {
            let start = self.requests.time(operation);
            let name = format!("step {name}");
            let Some(span) = self.span(operation, name, SpanKind::Internal, start) else { return };
            spans.push(ended(span, at, status.clone()));
        }
        self.ended.insert(operation);
    }

    /// An attempt of a step or task has failed, and another one follows.
    fn retry(&mut self, retry: Retry, at: Timestamp, spans: &mut Vec<Span>) {
        let Retry { operation, name, attempt, at: next_at, code } = retry;
        let failed = attempt.saturating_sub(1);
        if let Some(name) = name {
            let Some(start) = self.step(operation, &name).map(|open| open.span.start) else {
                return;
            };
            if failed == 1 {
                self.begin_attempt(operation, failed, SpanKind::Internal, start);
            }
            self.end_attempt(operation, failed, at, SpanStatus::Error(code), spans);
            self.begin_attempt(operation, attempt, SpanKind::Internal, next_at);
        } else {
            self.end_attempt(operation, failed, at, SpanStatus::Error(code), spans);
        }
    }

    /// An attempt of a task was assigned; the first one begins the operation.
    fn assign(&mut self, task: &Task, attempt: u32, agent_id: Option<&str>, event: &Event) {
        let operation = task.operation;
        let at = event.timestamp;
        let name = format!("task {}", task.agent_type);
        let Some(open) = self.begin(operation, name, SpanKind::Producer, at) else { return };
        if open.span.attribute("aios.agent_type").is_none() {
            open.span.attributes.push(("aios.agent_type".into(), (*task.agent_type).into()));
            open.span.attributes.extend(agent_id.map(|id| ("aios.agent_id".into(), id.into())));
        }
        if let Some(attempt) = self.begin_attempt(operation, attempt, SpanKind::Consumer, at) {
            attempt.assignment = Some(event.id.to_string().into());
        }
    }

    /// A task has a result.
    fn complete(
        &mut self,
        task: &Task,
        assignment: Option<&str>,
        event: &Event,
        spans: &mut Vec<Span>,
    ) {
        let Some(open) = self.operations.get_mut(&task.operation) else { return };
        // An earlier attempt may have succeeded after all; the current one is abandoned.
        let is_current =
            |attempt: &Attempt| assignment.is_none() || attempt.assignment.as_deref() == assignment;
        if let Some(attempt) = open.attempt.take_if(|attempt| !is_current(attempt)) {
            spans.push(attempt.abandoned(event.timestamp));
        }
        if let Some(attempt) = &mut open.attempt {
            attempt.describe(event, self.run.as_mut().map(|run| &mut run.span));
        }
        self.end(task.operation, event.timestamp, &SpanStatus::Ok, spans);
    }

    /// Adds what the agent tells about an attempt, if it is the one in progress.
    fn describe(&mut self, task: &Task, number: u32, answer: &Event) {
        let attempt = self.operations.get_mut(&task.operation).and_then(|it| it.attempt.as_mut());
        if let Some(attempt) = attempt.filter(|attempt| attempt.number == number) {
            attempt.describe(answer, self.run.as_mut().map(|run| &mut run.span));
        }
    }

    /// Ends an attempt if it is the one in progress.
    fn end_attempt(
        &mut self,
        operation: u64,
        number: u32,
        at: Timestamp,
        status: SpanStatus,
        spans: &mut Vec<Span>,
    ) {
        let Some(open) = self.operations.get_mut(&operation) else { return };
        let attempt = open.attempt.take_if(|attempt| attempt.number == number);
        spans.extend(attempt.map(|attempt| attempt.ended(at, status)));
    }

    /// Ends an operation, and with it the attempt in progress.
    fn end(&mut self, operation: u64, at: Timestamp, status: &SpanStatus, spans: &mut Vec<Span>) {
        if let Some(open) = self.operations.remove(&operation) {
            open.end(at, status, spans);
        }
    }

    /// A signal came: it ends the wait that was requested first among those in progress, as in the engine.
    fn signal(&mut self, name: &str, at: Timestamp, spans: &mut Vec<Span>) {
        let Some(waiting) = self.waiting.get_mut(name) else { return };
        while let Some(operation) = waiting.pop_first() {
            if self.operations.contains_key(&operation) {
                return self.end(operation, at, &SpanStatus::Ok, spans);
            }
        }
    }

    /// A timer fired, or a wait for a signal timed out.
    fn fire(&mut self, operation: u64, at: Timestamp, spans: &mut Vec<Span>) {
        let timed_out = self.waiting.values().flatten().any(|waiting| *waiting == operation);
        let status = match timed_out {
            true => SpanStatus::Error(codes::SIGNAL_TIMEOUT.into()),
            false => SpanStatus::Ok,
        };
        self.end(operation, at, &status, spans);
    }

    /// Ends the run, and what it no longer waits for. The run has a status, the code of its failure, and
    /// the run that continues it.
    fn finish(
        &mut self,
        (status, code, next): (&'static str, Option<Box<str>>, Option<&str>),
        at: Timestamp,
        spans: &mut Vec<Span>,
    ) {
        for (_, open) in std::mem::take(&mut self.operations) {
            open.abandon(at, spans);
        }
        self.has_ended = true;
        let Some(run) = &mut self.run else { return };
        run.span.end = Some(at.max(run.span.start));
        run.span.status = match (status, code) {
            ("failed", Some(code)) => SpanStatus::Error(code),
            ("cancelled", _) => SpanStatus::Unset,
            _ => SpanStatus::Ok,
        };
        run.span.attributes.push(("aios.run_status".into(), status.into()));
        run.span.attributes.extend(next.map(|id| ("aios.next_run_id".into(), id.into())));
        spans.push(run.span.clone());
    }
}

/// When an id was generated; `None` if it does not say so.
fn time_of(id: &EventId) -> Option<Timestamp> {
    let (seconds, nanoseconds) = id.key().get_timestamp()?.to_unix();
    Some(Timestamp::UNIX_EPOCH + Duration::new(seconds, nanoseconds))
}
