//! Reads output streams: pages of events, expanded to items with offsets.
//!
//! An event has up to 1,000 items. An offset is the version of the event, shifted by ten bits, plus
//! the number of the item from 1; number 0 is the reset before them. So an offset tells which event
//! to read again, and a reader needs no state in the store.
//!
//! The reader alternates between pages and waiting:
//!
//! ```text
//! page ──full──► page
//!  └──not full──► wait for the log to grow, or for the end of the run ──► page
//! ```
//!
//! A reader from a later offset has not read the events before it. It does so only when an event of a
//! writer follows that it does not know: the event may belong to an attempt that was replaced.
//!
//! After it has learnt that the run has ended, it reads until a page is not full, because
//! everything that a run writes is stored before its end.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use aios_core::{
    catalog::system::{self, OutputAppended},
    event::Payload,
    output::stream_of,
    store::{EventStore, RecordedEvent, StreamId},
};
use futures_core::Stream;
use futures_util::{StreamExt, stream};

use super::writer::{MAX_ITEMS, is_later};
use crate::{runtime::RuntimeError, workflow::journal::Journals};

/// How many events are read at once.
const PAGE: usize = 100;
/// Minimum and maximum pause after the log has grown. It doubles with every growth, and is halved when
/// the growth has an item of the stream.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));
/// Initial and maximum interval of checking whether the run has ended.
const CHECK: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// The offsets of an event's items begin at its version, shifted by this. [`MAX_ITEMS`] fit.
const SHIFT: u32 = 10;
const _: () = assert!(MAX_ITEMS < 1 << SHIFT);

/// One output stream of a run, from [`RunHandle::stream`](crate::RunHandle::stream).
///
/// # Examples
///
/// ```no_run
/// use aios_agents::{RuntimeError, output::OutputContent, prelude::*};
///
/// async fn print(run: &RunHandle) -> Result<(), RuntimeError> {
///     let mut items = run.stream("words").read_from(0);
///     while let Some(item) = items.next().await {
///         let item = item?;
///         if let OutputContent::Item(word) = item.content {
///             println!("{}: {}", item.offset, word.as_str());
///         }
///     }
///     Ok(())
/// }
/// # let _ = print;
/// ```
#[derive(Clone, Debug)]
pub struct RunStream {
    /// Access to the store.
    journals: Journals,
    /// Exactly this run, not the one that it continues as.
    run_id: Arc<str>,
    name: Arc<str>,
}

/// An item of an output stream, or a reset.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OutputItem {
    /// Place in the stream. Offsets increase, with gaps. Pass the offset of the last item that was
    /// handled to [`RunStream::read_from`] to continue after it.
    pub offset: u64,
    /// The writer: the id of a task, the idempotency key of a step, or `workflow`.
    pub writer: Arc<str>,
    /// The item, or a reset.
    pub content: OutputContent,
}

/// The content of an [`OutputItem`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OutputContent {
    /// An item, as JSON.
    Item(Payload),
    /// The earlier items of this writer are void: it begins again. A reader that has not read the
    /// stream from its beginning also gets this for a writer that has written nothing before.
    Reset,
}

/// Reads an output stream: first the items that are stored, then new ones. Ends where the stream was
/// ended, or with its run.
///
/// After an error of the store, the next item is read from the same place.
///
/// Implements [`Stream`], and has a [`next`](Self::next) of its own for callers without that trait.
pub struct OutputReader(Pin<Box<dyn Stream<Item = Result<OutputItem, RuntimeError>> + Send>>);

impl RunStream {
    /// The stream need not exist yet.
    pub(crate) fn new(journals: Journals, run_id: Arc<str>, name: &str) -> Self {
        Self { journals, run_id, name: name.into() }
    }

    /// Reads the items after an offset; 0 reads from the beginning. Readers are independent of each
    /// other, and of the process that writes.
    ///
    /// The items are those of the run with exactly the id of the handle, and end with it. A run that it
    /// continues as has its own streams; its id is that of [`RunHandle::status`](crate::RunHandle::status).
    ///
    /// The first item is an error if the name of the stream is invalid
    /// ([`RuntimeError::Output`]) or if there is no such run
    /// ([`RuntimeError::UnknownRun`]).
    #[must_use]
    pub fn read_from(&self, offset: u64) -> OutputReader {
        let opened = stream_of(&self.run_id, &self.name);
        let first = match opened {
            Ok(stream) => Ok(Following::new(self, stream, offset)),
            Err(error) => Err(RuntimeError::from(error)),
        };
        let items = stream::once(std::future::ready(first)).flat_map(|first| match first {
            Ok(following) => stream::unfold(following, Following::next).boxed(),
            Err(error) => stream::once(std::future::ready(Err(error))).boxed(),
        });
        OutputReader(Box::pin(items))
    }
}

impl OutputReader {
    /// The next item; `None` at the end.
    ///
    /// # Errors
    ///
    /// See [`RunStream::read_from`]; errors of the store.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe: no item is lost.
    pub async fn next(&mut self) -> Option<Result<OutputItem, RuntimeError>> {
        self.0.next().await
    }
}

impl Stream for OutputReader {
    type Item = Result<OutputItem, RuntimeError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(context)
    }
}

impl fmt::Debug for OutputReader {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("OutputReader").finish_non_exhaustive()
    }
}

/// The state of a reader.
struct Following {
    /// Access to the store and the clock.
    journals: Journals,
    run_id: Arc<str>,
    stream: StreamId,
    /// Items up to this offset are not wanted.
    after: u64,
    /// Version of the event that was read last.
    version: u64,
    /// Items that were read and not returned yet.
    page: VecDeque<OutputItem>,
    /// Where the run begins in the log. What is before that was written by an earlier run with this id,
    /// which was removed. `None` until it is known.
    begins_at: Option<u64>,
    /// The latest attempt of each writer.
    attempts: HashMap<Arc<str>, Arc<str>>,
    /// Whether `attempts` has every writer of the events that were read, and of those before them.
    knows_attempts: bool,
    /// The log was read up to this position.
    seen: Option<u64>,
    /// Whether the last page had everything that was stored, so that nothing is read before the log
    /// grows.
    is_current: bool,
    /// The pause before the next page, which follows the pace of the writers.
    pause: Duration,
    /// When to look next whether the run has ended, on the monotonic clock.
    next_check: Duration,
    /// The interval after that; it doubles.
    check: Duration,
    /// The run had ended when that was checked last.
    run_has_ended: bool,
    /// Nothing more is read.
    has_ended: bool,
}

impl Following {
    /// Begins with the event that has the offset `after`, because some of its items may be wanted.
    fn new(of: &RunStream, stream: StreamId, after: u64) -> Self {
        let version = (after >> SHIFT).saturating_sub(1);
        Self {
            journals: of.journals.clone(),
            run_id: Arc::clone(&of.run_id),
            stream,
            after,
            version,
            page: VecDeque::new(),
            begins_at: None,
            attempts: HashMap::new(),
            knows_attempts: version == 0,
            seen: None,
            is_current: false,
            pause: PAUSE.0,
            next_check: Duration::ZERO,
            check: CHECK.0,
            run_has_ended: false,
            has_ended: false,
        }
    }

    /// The next item and the state after it. A transient error is returned as an item, and the
    /// reader continues when it is polled again.
    async fn next(mut self) -> Option<(Result<OutputItem, RuntimeError>, Self)> {
        loop {
            if let Some(item) = self.page.pop_front() {
                return Some((Ok(item), self));
            }
            if self.has_ended {
                return None;
            }
            if let Err(error) = self.read_more().await {
                self.has_ended = !error.is_retryable();
                return Some((Err(error), self));
            }
        }
    }

    /// Reads the next page, or waits until there may be one.
    async fn read_more(&mut self) -> Result<(), RuntimeError> {
        if std::mem::take(&mut self.is_current) {
            return self.wait().await;
        }
        if self.begins_at.is_none() {
            let first = self.journals.first(&self.run_id).await?;
            self.begins_at = Some(first.map_or(0, |first| first.position));
        }
        // Everything that a run writes is stored before its end.
        let is_last = self.run_has_ended;
        let page = self.journals.store.read_stream(&self.stream, self.version, PAGE).await?;
        let Some(last) = page.last() else {
            self.has_ended = is_last;
            return if is_last { Ok(()) } else { self.wait().await };
        };
        // A page may be ahead of the head that was known.
        self.seen = self.seen.map(|seen| seen.max(last.position));
        self.pause = (self.pause / 2).max(PAUSE.0);
        for recorded in &page {
            self.expand(recorded).await?;
            self.version = recorded.version;
        }
        self.is_current = page.len() < PAGE;
        self.has_ended |= is_last && self.is_current;
        Ok(())
    }

    /// Adds the items of an event to the page. Items of an attempt that was replaced are dropped; a
    /// new attempt of a writer begins with a reset.
    async fn expand(&mut self, recorded: &RecordedEvent) -> Result<(), RuntimeError> {
        if self.has_ended || Some(recorded.position) < self.begins_at {
            return Ok(());
        }
        if recorded.event.event_type.action() == system::OUTPUT_ENDED {
            self.has_ended = true;
            return Ok(());
        }
        let OutputAppended { writer, attempt, items, .. } = recorded.event.data()?;
        let base = recorded.version << SHIFT;
        // The caller has read the first event before, up to an item of it.
        let is_first = recorded.version == self.after >> SHIFT;
        if !self.knows_attempts && !is_first && !self.attempts.contains_key(&writer) {
            self.look_back().await?;
        }
        let latest = self.attempts.get(&writer);
        // An attempt that has been replaced, in a process that does not know it yet.
        if latest.is_some_and(|latest| is_later(latest, &attempt)) {
            return Ok(());
        }
        if latest != Some(&attempt) {
            let is_replaced = latest.is_some();
            self.attempts.insert(Arc::clone(&writer), attempt);
            if is_replaced {
                self.push(base, &writer, OutputContent::Reset);
            }
        }
        for (index, item) in (1..).zip(items) {
            self.push(base + index, &writer, OutputContent::Item(item));
        }
        Ok(())
    }

    /// Learns the attempts of the events that a reader from a later offset has not read.
    async fn look_back(&mut self) -> Result<(), RuntimeError> {
        let (mut attempts, mut after) = (HashMap::new(), 0);
        while after < self.version {
            let page = self.journals.store.read_stream(&self.stream, after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = last.version;
            for recorded in page.iter().filter(|recorded| recorded.version <= self.version) {
                // The end of a stream has no writer.
                let Ok(OutputAppended { writer, attempt, .. }) = recorded.event.data() else {
                    continue;
                };
                let latest = attempts.entry(writer).or_insert_with(|| Arc::clone(&attempt));
                if is_later(&attempt, latest) {
                    *latest = attempt;
                }
            }
        }
        self.attempts.extend(attempts);
        self.knows_attempts = true;
        Ok(())
    }

    /// Adds an item, unless the caller has it already.
    fn push(&mut self, offset: u64, writer: &Arc<str>, content: OutputContent) {
        if offset > self.after {
            self.page.push_back(OutputItem { offset, writer: Arc::clone(writer), content });
        }
    }

    /// Waits until the log has grown, and checks from time to time whether the run has ended.
    async fn wait(&mut self) -> Result<(), RuntimeError> {
        let Journals { store, clock, .. } = &self.journals;
        // The stream is read once more after this, so nothing between the last page and the head is
        // missed.
        let Some(seen) = self.seen else {
            self.seen = Some(store.head().await?);
            return Ok(());
        };
        let now = clock.elapsed();
        if now >= self.next_check {
            self.run_has_ended = self.journals.row(&self.run_id).await?.status.is_final();
            self.next_check = now.saturating_add(self.check);
            self.check = (self.check * 2).min(CHECK.1);
            return Ok(());
        }
        tokio::select! {
            biased;
            grown = store.wait_for(seen) => {
                self.seen = Some(grown?);
                // Items that are appended in quick succession are read together.
                clock.sleep(self.pause).await;
                self.pause = (self.pause * 2).min(PAUSE.1);
            }
            () = clock.sleep(self.next_check.saturating_sub(now)) => {}
        }
        Ok(())
    }
}
