//! Traces of runs, computed from their journals.
//!
//! ```
//! use aios_core::store::RecordedEvent;
//! use aios_service::telemetry::traces::spans_of;
//!
//! # fn example(journal: &[RecordedEvent]) {
//! let trace = spans_of(journal);
//! for span in &trace.spans {
//!     println!("{} {} {:?}", span.span_id, span.name, span.end);
//! }
//! # }
//! ```
//!
//! The ids of the spans are derived, and all times are those of the journal; see
//! [`aios_agents::trace`]. So a run that takes days, whose engine is killed and that moves to other
//! engines, is one whole trace, and the trace of a run can be made again at any time.
//!
//! A journal does not say when a step began. Its span begins with the event after which the code
//! requested it, which is exact while one operation follows the other, and may be late for some of
//! several steps that run together.

mod gen_ai;
mod open;
#[cfg(feature = "otlp")]
mod otlp;
mod record;
mod requests;
mod span;
mod tracer;

use aios_agents::trace::TraceParent;
use aios_core::store::RecordedEvent;
use serde::Serialize;

#[cfg(feature = "otlp")]
#[cfg_attr(docsrs, doc(cfg(feature = "otlp")))]
pub use self::otlp::{RequestExporter, TraceExporter};
pub use self::requests::RequestSpans;
pub use self::span::{AttributeValue, Span, SpanKind, SpanLink, SpanStatus};
use self::tracer::Tracer;

/// Response header with the trace of a request.
pub(crate) const TRACE_RESPONSE: &str = "traceresponse";

/// The trace of a run, as far as its journal goes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct RunTrace {
    /// The span of the run, in the trace to which it belongs. `None` if the journal does not begin with
    /// the start of a run.
    #[serde(skip)]
    pub context: Option<TraceParent>,
    /// The spans that have ended, in the order in which they ended.
    pub spans: Vec<Span>,
    /// The spans in progress. A step is not among them: its journal has it when it has ended.
    pub open: Vec<Span>,
}

/// The spans of a run, from the events of its journal in their order.
///
/// A span is in [`RunTrace::spans`] once the journal has its end. A longer journal adds spans and changes
/// none.
///
/// # Examples
///
/// The trace of a run that has ended, from a store:
///
/// ```
/// use aios_agents::prelude::*;
/// use aios_service::telemetry::traces::{SpanKind, SpanStatus, spans_of};
///
/// async fn welcome(_: WorkflowContext, name: String) -> Result<String, WorkflowError> {
///     Ok(format!("Welcome, {name}!"))
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let store = aios_store::connect("memory://").await?;
/// let runtime = Runtime::builder()
///     .store(store.clone())
///     .broker(aios_broker::connect("memory://").await?)
///     .workflow("welcome", welcome)
///     .start()
///     .await?;
/// let run = runtime.start("welcome", "Ada").id("welcome-ada").await?;
/// run.result::<String>().await?;
///
/// let journal = aios_core::store::StreamId::of_run("welcome-ada")?;
/// let trace = spans_of(&store.read_stream(&journal, 0, 1_000).await?);
/// let span = trace.spans.last().ok_or("the run has not ended")?;
/// assert_eq!(span.name, "workflow welcome");
/// assert_eq!((span.kind, &span.status), (SpanKind::Internal, &SpanStatus::Ok));
/// assert!(trace.open.is_empty());
/// # Ok(())
/// # }
/// ```
#[must_use]
pub fn spans_of(journal: &[RecordedEvent]) -> RunTrace {
    let mut tracer = Tracer::default();
    let mut spans = Vec::new();
    journal.iter().for_each(|recorded| tracer.apply(recorded, &mut spans));
    RunTrace { context: tracer.context(), spans, open: tracer.open() }
}
