//! The entries of a journal that a copy of its run begins with.
//!
//! | entries | a fork | a retry |
//! |---|---|---|
//! | before the cut | copied | copied |
//! | from the cut on, signals | left out | copied |
//! | from the cut on, results of operations that had begun before it | left out | copied |
//! | what a client or an engine asked of the run: to pause, to block, to move | left out | left out |
//!
//! The cut is the first entry of the operation or of a later one. Operations are numbered in the order
//! of their requests, so everything from there on may depend on it.
//!
//! A task, a timer, a step or a wait for a signal that has not ended in the copy is left out altogether.
//! The new run requests it again: the deadlines of the copied run may have passed, and its tasks belong to
//! its agents.
//!
//! A child with an id of its own that has not ended by the cut belongs to the copied run. The new run asks
//! for another one, under the id that its code chooses. A retry keeps the result of a child that has
//! succeeded since (`note_child_end`).
//!
//! The version of a change is left out if the copy has no entry of an operation after it: nothing in the
//! copy depends on it, and the code of today chooses it again.
//!
//! A request to cancel is copied if the new run begins with one of the compensations that followed. If
//! the operation was open when the run was cancelled, the new run does it again, and is not cancelled.

use std::collections::{BTreeMap, BTreeSet};

use super::{ChildStarted, Entry, Fork};

/// Chooses the entries, which must be shown to it in their order.
#[derive(Debug)]
pub(crate) struct Selection<'f> {
    /// Where the journal is cut.
    fork: &'f Fork<'f>,
    is_cut: bool,
    /// The operations with an entry before the cut.
    begun: BTreeSet<u64>,
    /// Number of entries taken so far.
    taken: usize,
    /// Whether the cancellation was requested. Only the first request has an effect.
    is_cancelled: bool,
    /// Where that request stands among the taken entries, if no operation has an entry after it.
    cancellation: Option<usize>,
    /// Where the entries of operations stand that have not ended, by operation. Of children, only those
    /// with an id of their own.
    open: BTreeMap<u64, Vec<usize>>,
    /// The waits among them, with the names of their signals, in the order of their records.
    waits: Vec<(u64, Box<str>)>,
    /// The children that had begun before the cut and have not ended.
    children: BTreeMap<u64, ChildStarted>,
    /// Where the first taken entry of each operation stands.
    first: BTreeMap<u64, usize>,
    /// Where the pinned versions of changes stand.
    marks: Vec<usize>,
    /// Whether the journal has an entry of the operation at the cut.
    has_operation: bool,
}

impl<'f> Selection<'f> {
    /// Selects what a fork begins with.
    pub(crate) fn new(fork: &'f Fork<'f>) -> Self {
        Self {
            fork,
            is_cut: false,
            begun: BTreeSet::new(),
            taken: 0,
            is_cancelled: false,
            cancellation: None,
            open: BTreeMap::new(),
            waits: Vec::new(),
            children: BTreeMap::new(),
            first: BTreeMap::new(),
            marks: Vec::new(),
            has_operation: false,
        }
    }

    /// Whether the copy gets this entry.
    pub(crate) fn takes(&mut self, entry: &Entry) -> bool {
        let operation = entry.operation();
        self.is_cut |= operation.is_some_and(|found| found >= self.fork.operation);
        self.has_operation |= operation == Some(self.fork.operation);
        let takes = match entry {
            Entry::Paused
            | Entry::Resumed
            | Entry::Blocked(_)
            | Entry::Unblocked(_)
            | Entry::Moved(_) => false,
            entry if self.is_cut => self.fork.is_retry && self.is_kept(entry),
            Entry::CancelRequested(_) => !self.is_cancelled,
            _ => true,
        };
        if takes {
            self.note(entry, operation);
        }
        takes
    }

    /// Notes an entry that was taken.
    fn note(&mut self, entry: &Entry, operation: Option<u64>) {
        if let Entry::ChildStarted(child) = entry {
            self.children.insert(child.operation, child.clone());
        }
        match entry {
            Entry::CancelRequested(_) => {
                (self.is_cancelled, self.cancellation) = (true, Some(self.taken));
            }
            Entry::VersionMarked(_) => self.marks.push(self.taken),
            Entry::ChildStarted(child) if self.fork.derives(child) => {}
            Entry::SignalAwaited(wait) => {
                self.waits.push((wait.operation, wait.name.clone()));
                self.note_open(wait.operation);
            }
            Entry::Signaled(signal) => {
                // Probably the longest wait takes it. Neither the waits without a deadline are recorded, nor
                // which ones were given up.
                let waits = |(_, name): &(u64, Box<str>)| *name == signal.name;
                let first = self.waits.iter().find(|wait| waits(wait)).map(|(wait, _)| *wait);
                first.into_iter().for_each(|it| self.note_end(it));
            }
            entry if ends(entry) => operation.into_iter().for_each(|it| self.note_end(it)),
            entry
                if entry.is_beginning()
                    || matches!(entry, Entry::RetryScheduled(_) | Entry::TaskFailed(_)) =>
            {
                operation.into_iter().for_each(|it| self.note_open(it));
            }
            _ => {}
        }
        if let Some(operation) = operation {
            self.first.entry(operation).or_insert(self.taken);
        }
        if let Some(operation) = operation.filter(|_| !self.is_cut) {
            self.begun.insert(operation);
            self.cancellation = None;
        }
        self.taken += 1;
    }

    /// Notes the next entry as one of an operation that has not ended.
    fn note_open(&mut self, operation: u64) {
        self.open.entry(operation).or_default().push(self.taken);
    }

    /// Notes that an operation has ended.
    fn note_end(&mut self, operation: u64) {
        self.open.remove(&operation);
        self.children.remove(&operation);
        self.waits.retain(|(wait, _)| *wait != operation);
    }

    /// The children whose starts were taken and whose ends were not, as the copied run started them.
    pub(crate) fn open_children(&self) -> impl Iterator<Item = &ChildStarted> {
        self.children.values()
    }

    /// Notes that the copy gets the end of a child, after all entries of the journal.
    pub(crate) fn note_child_end(&mut self, operation: u64) {
        self.note_end(operation);
    }

    /// Whether a retry gets an entry that stands after the cut: a signal, or the result of an operation
    /// that had begun before. Such an operation was requested without knowing what came after the cut.
    fn is_kept(&self, entry: &Entry) -> bool {
        let is_result = match entry {
            Entry::Signaled(_) => return true,
            Entry::StepCompleted(_) | Entry::TaskCompleted(_) | Entry::TimerFired(_) => true,
            Entry::ChildEnded(child) => child.failure.is_none(),
            _ => false,
        };
        is_result && entry.operation().is_some_and(|operation| self.begun.contains(&operation))
    }

    /// Whether the journal has the operation or a later one.
    pub(crate) fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Whether the rest of the journal makes no difference.
    pub(crate) fn is_complete(&self) -> bool {
        self.is_cut && !self.fork.is_retry && (self.cancellation.is_none() || self.has_operation)
    }

    /// Which of the taken entries the copy does not get after all.
    ///
    /// An operation that was open when the run was cancelled has no entry: its end would stand after the
    /// request, when nothing waited for it any more.
    pub(crate) fn withdrawn(&self) -> BTreeSet<usize> {
        let cancellation = self.cancellation.filter(|_| !self.has_operation);
        let open = self.open.values().flatten().copied();
        open.chain(cancellation).chain(self.unneeded_marks()).collect()
    }

    /// Where the pinned versions stand that no operation of the copy was requested after.
    fn unneeded_marks(&self) -> impl Iterator<Item = usize> {
        let kept = self.first.iter().filter(|(operation, _)| !self.open.contains_key(operation));
        let last = kept.map(|(_, place)| *place).max();
        self.marks.iter().copied().filter(move |mark| last.is_none_or(|last| *mark > last))
    }
}

/// Whether nothing of an operation is left to do after an entry: it has an outcome, or the code has given
/// up a task.
fn ends(entry: &Entry) -> bool {
    matches!(
        entry,
        Entry::StepCompleted(_)
            | Entry::OperationFailed(_)
            | Entry::TaskCompleted(_)
            | Entry::TaskCancelled(_)
            | Entry::TimerFired(_)
            | Entry::ChildEnded(_)
    )
}
