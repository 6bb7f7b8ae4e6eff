//! Traces of runs: ids of their spans, and trace contexts (W3C Trace Context).
//!
//! The ids of the spans of a run are derived from the run's incarnation, which is the id of the event
//! that started it. Every reader of the journal computes the same ids: the engine that assigns a task, the
//! one that takes over after a crash, and a program that exports the trace again years later.
//!
//! | span | derived from | parent |
//! |---|---|---|
//! | the run | incarnation | the span of `traceparent` with which it was started; the operation of its parent if it is a child |
//! | an operation: step, task, child, timer, wait | incarnation, operation | the run |
//! | an attempt of a task or step | incarnation, operation, attempt | the operation |
//!
//! The engine gives every task the `traceparent` of its attempt, and every child that of the operation
//! which started it. Spans that an agent makes itself belong to the same trace, under the attempt.
//!
//! These spans are not created while a run works. A program that exports traces computes them from the
//! journal afterwards.

use std::{cell::Cell, fmt, str::FromStr};

use aios_core::event::{EventId, Metadata};
use sha2::{Digest, Sha256};

/// The flag of a trace context that says that the trace is recorded.
const SAMPLED: u8 = 1;

/// The id of a trace: 16 bytes, not all zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TraceId([u8; 16]);

/// The id of a span: 8 bytes, not all zero.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpanId([u8; 8]);

impl TraceId {
    /// The trace of a run that was started without one.
    #[must_use]
    pub fn of_run(incarnation: &EventId) -> Self {
        Self(derive("trace", incarnation, &[]))
    }

    /// The trace with this id; `None` if all bytes are zero.
    ///
    /// All zeros are invalid in W3C Trace Context.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Option<Self> {
        (bytes != [0; 16]).then_some(Self(bytes))
    }

    /// The bytes of the id.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        self.0
    }
}

impl SpanId {
    /// The span of a run.
    #[must_use]
    pub fn of_run(incarnation: &EventId) -> Self {
        Self(derive("run", incarnation, &[]))
    }

    /// The span of an operation of a run.
    #[must_use]
    pub fn of_operation(incarnation: &EventId, operation: u64) -> Self {
        Self(derive("operation", incarnation, &[operation]))
    }

    /// The span of an attempt, from 1, of a task or step.
    ///
    /// # Examples
    ///
    /// A program that exports spans finds the same ids as the engine that assigned the task:
    ///
    /// ```
    /// use aios_agents::trace::{SpanId, TraceId};
    /// use aios_core::event::EventId;
    ///
    /// let incarnation = EventId::derive("the event that started the run");
    /// let (trace, span) = (TraceId::of_run(&incarnation), SpanId::of_attempt(&incarnation, 3, 1));
    /// assert_eq!(trace, TraceId::of_run(&incarnation));
    /// assert_ne!(span, SpanId::of_attempt(&incarnation, 3, 2));
    /// ```
    #[must_use]
    pub fn of_attempt(incarnation: &EventId, operation: u64, attempt: u32) -> Self {
        Self(derive("attempt", incarnation, &[operation, attempt.into()]))
    }

    /// The span with this id; `None` if all bytes are zero.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 8]) -> Option<Self> {
        (bytes != [0; 8]).then_some(Self(bytes))
    }

    /// The bytes of the id.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 8] {
        self.0
    }
}

/// The beginning of the SHA-256 of the kind, the key of the incarnation and the numbers, as 8 bytes each
/// in big-endian order. All zeros are not an id.
fn derive<const N: usize>(kind: &str, incarnation: &EventId, numbers: &[u64]) -> [u8; N] {
    let mut hash = Sha256::new_with_prefix(kind);
    hash.update(incarnation.key());
    numbers.iter().for_each(|number| hash.update(number.to_be_bytes()));
    let mut id = [0; N];
    // A hash of 32 bytes is longer than any id, so all bytes are set.
    id.iter_mut().zip(hash.finalize()).for_each(|(to, from)| *to = from);
    if id.iter().all(|byte| *byte == 0) {
        id.iter_mut().for_each(|byte| *byte = 1);
    }
    id
}

/// A trace context: the span under which others are made.
///
/// ```
/// use aios_agents::trace::TraceParent;
///
/// let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
/// let parent: TraceParent = text.parse()?;
/// assert!(parent.is_sampled());
/// assert_eq!(parent.to_string(), text);
/// # Ok::<(), aios_agents::trace::InvalidTraceParent>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceParent {
    /// The trace.
    pub trace_id: TraceId,
    /// The span.
    pub span_id: SpanId,
    /// The flags. Bit 0 says that the trace is recorded.
    pub flags: u8,
}

impl TraceParent {
    /// The span of a run. `started` is the metadata of the event that started it, whose id is the
    /// incarnation.
    #[must_use]
    pub fn of_run(started: &Metadata, incarnation: &EventId) -> Self {
        let span_id = SpanId::of_run(incarnation);
        // A caller's trace is continued, even if it is not sampled.
        match Self::caller(started) {
            Some(caller) => Self { span_id, ..caller },
            None => Self { trace_id: TraceId::of_run(incarnation), span_id, flags: SAMPLED },
        }
    }

    /// The span in whose context an event was recorded; `None` if it has no valid trace context.
    #[must_use]
    pub fn caller(metadata: &Metadata) -> Option<Self> {
        metadata.traceparent.as_deref()?.parse().ok()
    }

    /// Another span of the same trace.
    #[must_use]
    pub fn with_span(self, span_id: SpanId) -> Self {
        Self { span_id, ..self }
    }

    /// Calls a function, in which [`current`](Self::current) is this. The metrics that the engine and the
    /// agents report about a run are reported so: a recorder may keep the trace as an exemplar.
    pub fn in_scope<T>(self, function: impl FnOnce() -> T) -> T {
        let _outer = Outer(CURRENT.replace(Some(self)));
        function()
    }

    /// The trace context of the innermost [`in_scope`](Self::in_scope) on this thread.
    #[must_use]
    pub fn current() -> Option<Self> {
        CURRENT.get()
    }

    /// Whether the trace is recorded.
    #[must_use]
    pub fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }
}

thread_local! {
    /// Only set within `in_scope`, which does not await, so a thread has one at a time.
    static CURRENT: Cell<Option<TraceParent>> = const { Cell::new(None) };
}

/// Restores the trace context of the outer scope when dropped, even after a panic.
struct Outer(Option<TraceParent>);

impl Drop for Outer {
    fn drop(&mut self) {
        CURRENT.set(self.0);
    }
}

/// A text that is not a valid `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a traceparent has the form 00-<32 hexadecimal digits>-<16>-<2>, in lower case")]
pub struct InvalidTraceParent;

impl FromStr for TraceParent {
    type Err = InvalidTraceParent;

    fn from_str(text: &str) -> Result<Self, InvalidTraceParent> {
        let mut fields = text.split('-');
        let mut next = || fields.next().ok_or(InvalidTraceParent);
        let version = next()?;
        let trace = next()?;
        let span = next()?;
        let flags = next()?;
        // Later versions may have more fields.
        if bytes::<1>(version)? == [0xff] || (version == "00" && fields.next().is_some()) {
            return Err(InvalidTraceParent);
        }
        let [flags] = bytes(flags)?;
        Ok(Self {
            trace_id: TraceId::from_bytes(bytes(trace)?).ok_or(InvalidTraceParent)?,
            span_id: SpanId::from_bytes(bytes(span)?).ok_or(InvalidTraceParent)?,
            flags,
        })
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trace_id, span_id, flags } = self;
        write!(formatter, "00-{trace_id}-{span_id}-")?;
        write_digits(formatter, [*flags])
    }
}

/// Writes bytes as hexadecimal digits in lower case. Every run and every task writes a trace context, for
/// which a call of the formatter for each digit takes too long.
fn write_digits<const N: usize>(formatter: &mut fmt::Formatter<'_>, bytes: [u8; N]) -> fmt::Result {
    let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
    let digits = bytes.map(|byte| [digit(byte >> 4), digit(byte & 0xf)]);
    formatter.write_str(str::from_utf8(digits.as_flattened()).map_err(|_| fmt::Error)?)
}

/// Reads hexadecimal digits in lower case.
fn bytes<const N: usize>(text: &str) -> Result<[u8; N], InvalidTraceParent> {
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if text.len() != 2 * N || !text.bytes().all(is_digit) {
        return Err(InvalidTraceParent);
    }
    let mut bytes = [0; N];
    for (index, byte) in bytes.iter_mut().enumerate() {
        let digits = text.get(2 * index..2 * index + 2).ok_or(InvalidTraceParent)?;
        *byte = u8::from_str_radix(digits, 16).map_err(|_| InvalidTraceParent)?;
    }
    Ok(bytes)
}

/// Writes ids as hexadecimal digits, as tools for traces do.
macro_rules! hexadecimal {
    ($($id:ident),+) => {$(
        impl fmt::Display for $id {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_digits(formatter, self.0)
            }
        }

        impl fmt::Debug for $id {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, concat!(stringify!($id), "({})"), self)
            }
        }

        impl serde::Serialize for $id {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )+};
}

hexadecimal!(TraceId, SpanId);

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn should_read_valid_trace_contexts_and_refuse_others() {
        let later = "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more";
        for text in [PARENT, later] {
            assert_eq!(text.parse::<TraceParent>().unwrap().to_string(), PARENT, "{text}");
        }
        for text in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(text.parse::<TraceParent>(), Err(InvalidTraceParent), "{text:?}");
        }
    }

    /// Traces of earlier versions are exported again with the same ids.
    #[test]
    fn should_derive_the_same_ids_in_every_version() {
        let incarnation: EventId = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        let ids = [
            TraceId::of_run(&incarnation).to_string(),
            SpanId::of_run(&incarnation).to_string(),
            SpanId::of_operation(&incarnation, 1).to_string(),
            SpanId::of_attempt(&incarnation, 1, 1).to_string(),
        ];
        let expected = [
            "47c8187f09c1ef01ea401bb2b45f55fa",
            "c667f7f87800aaf3",
            "372d7bc488208f02",
            "486e3d6309edc677",
        ];
        assert_eq!(ids, expected);
    }

    #[test]
    fn should_leave_a_scope_also_after_a_panic() {
        let outer: TraceParent = PARENT.parse().unwrap();
        let inner = outer.with_span(SpanId([1; 8]));
        outer.in_scope(|| {
            let panicked = std::panic::catch_unwind(|| inner.in_scope(|| panic!("inside")));
            assert!(panicked.is_err());
            assert_eq!(TraceParent::current(), Some(outer));
            assert_eq!(inner.in_scope(TraceParent::current), Some(inner));
        });
        assert_eq!(TraceParent::current(), None);
    }

    #[test]
    fn should_continue_the_trace_of_the_caller_or_begin_one() {
        let incarnation = EventId::generate();
        let own = TraceParent::of_run(&Metadata::default(), &incarnation);
        assert_eq!((own.trace_id, own.flags), (TraceId::of_run(&incarnation), 1));
        let unsampled = PARENT.replace("-01", "-00");
        let started = Metadata { traceparent: Some(unsampled.into()), ..Metadata::default() };
        let run = TraceParent::of_run(&started, &incarnation);
        assert_eq!(run.trace_id.to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!((run.span_id, run.is_sampled()), (SpanId::of_run(&incarnation), false));
    }
}
