//! The execution of the code of a run, without I/O, in one loop for live runs, replays and tests.
//!
//! The loop applies one entry and polls the code until it is idle; then it applies the next. The code
//! therefore sees the outcomes of its operations one at a time, in the order of the journal, and makes
//! the same choices in every replay. It is polled outside tokio's cooperative budget, because a budget
//! that ends at another place would change the order.
//!
//! Code that breaks the rules is stopped, and `block_reason` tells why: it asks for something else than
//! its journal has, panics, awaits something that is not recorded (`FOREIGN_AWAIT`), or wakes itself or
//! makes requests without end (`WORKFLOW_BUSY`).
//!
//! # The loop
//!
//! ```text
//! poll ──► wake steps that were woken from outside
//!      ──► run the code until it is idle ◄──────────────┐
//!      ──► blocked? then drop the queue                 │
//!      ──► next entry of the queue ──► apply it ────────┘
//!      ──► nothing left: check that the code waits for an operation, register the task
//! ```
//!
//! "Idle" means: nothing has woken the code, no wake of it is deferred by the scheduler, and no
//! recorded outcome is left that it waits for. Within `run_until_idle` the sources of a further poll
//! are tried in this order, and each of them has its reason to come before the next: a foreign wake
//! blocks the run, deferred wakes have no defined order relative to anything else, wakes of the code
//! are its reaction to the entry, and an outcome that was recorded earlier is released only to code
//! that waits.
//!
//! # Who calls it
//!
//! The driver of a run (`engine/driver`) owns one and polls it together with its inbox and timers.
//! Tests of workflows and the replay of journals (`testing`) own one without a driver. Everything that
//! both the code and the driver touch is in `SharedRun`, behind two locks: first that of `waiting`,
//! then that of the machine.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll, ready},
};

use aios_core::{
    catalog::codes,
    clock::Clock,
    event::{EventId, Payload, Timestamp},
    failure::Failure,
};
use parking_lot::MutexGuard;

use super::{
    RunInfo, Workflow, WorkflowContext, WorkflowError,
    context::SharedRun,
    deferred::Deferred,
    error::Kind,
    journal::{Completed, Continued, Entry, Failed, Seed},
    machine::Machine,
    polling::Polling,
    probe::Probe,
    turn::Turn,
    wake_flag::WakeFlag,
    workflow_future::WorkflowFuture,
};

/// Maximum number of polls without a new operation or entry.
///
/// The count begins again when the code is idle and when it requests an operation, so only code that
/// does neither reaches the limit.
const MAX_BUSY_POLLS: u32 = 100_000;
/// Maximum number of polls in which the code gets no outcome, whatever it requests.
///
/// Nothing is applied or recorded while the code is not idle, so code that requests an operation in
/// each poll and waits for none of them would never end. The limit is higher than [`MAX_BUSY_POLLS`],
/// because code may request many operations at once.
const MAX_UNFED_POLLS: u32 = 200_000;
/// Number of polls that a deferred wake counts for, because it costs a round of the scheduler.
const DEFERRED_WAKE_COST: u32 = 20;
/// Maximum number of polls before the task yields.
///
/// Other runs of the same thread, and the timers of the runtime, get their turn then. It doesn't matter
/// to the run where it happens, because no entry is applied in between.
const MAX_BURST_POLLS: u32 = 1_000;

/// The code of a run and its machine, without any I/O: applies entries and polls the code.
///
/// Live runs, replays and tests share one loop: apply an entry, poll the code until it is idle, apply
/// the next entry.
pub(crate) struct Execution {
    /// State shared by the code and the driver: the machine and the wakers of operations.
    pub(crate) shared: Arc<SharedRun>,
    /// Shows other threads whether the code is being polled, to notice code that blocks.
    pub(crate) polling: Arc<Polling>,
    /// The code; none until `attach_code`, and none after the run has left memory.
    code: WorkflowFuture,
    /// Entries to apply.
    queue: VecDeque<(Entry, Timestamp)>,
    /// Entries that arrived while the run was paused.
    held: VecDeque<(Entry, Timestamp)>,
    /// Whether no step begins until entries that are here already are applied: those that were held, which
    /// may have its outcome, and a request to pause or to cancel, which has been answered.
    defers_steps: bool,
    /// Whether held entries are being applied before a cancellation. What the code requests during that
    /// does not begin.
    flushing: bool,
    /// The waker that the code is polled with.
    wake_flag: WakeFlag,
    /// Whether something outside of the engine holds a clone of the code's waker.
    is_watched: bool,
    /// Number of clones of the code's waker that the workflow itself keeps; see
    /// `Workflow::kept_wakers`.
    kept: usize,
    /// Wakes of the code that the scheduler has deferred. Until they have arrived, the code is not
    /// polled and nothing is applied.
    deferred: Option<Deferred>,
    /// Polls since the code was idle or reserved an operation.
    polls: u32,
    /// Polls since the code was idle or got an outcome.
    unfed: u32,
    /// Number of operations that the code had reserved at its last poll.
    reserved: u64,
    /// The runtime in which the code is polled to find out whether it awaits something that is not
    /// recorded.
    probe: Option<Probe>,
    /// A violation by the code other than a journal mismatch or a panic.
    violation: Option<Failure>,
    /// Whether the code was idle after its last poll, so that only a wake can change that.
    is_idle: bool,
    /// Number of applied entries.
    applied: usize,
    /// Number of entries of the journal after which an engine has polled the code before. Up to there,
    /// what the code logs is a repetition.
    seen: usize,
}

impl Execution {
    /// Creates an execution that expects the requests recorded in `journal`. No entry is applied yet.
    /// `incarnation` is the id of the event that started the run, and `seed` the seed of its UUIDs.
    pub(crate) fn new<'a>(
        run_id: Arc<str>,
        incarnation: EventId,
        seed: Seed,
        journal: impl IntoIterator<Item = &'a Entry, IntoIter: Clone>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let journal = journal.into_iter();
        let seen = seen(journal.clone());
        let mut machine = Machine::new(run_id, journal);
        machine.set_start(incarnation, seed);
        let shared = Arc::new(SharedRun::new(machine, clock));
        let wake_flag = WakeFlag::new(shared.run());
        shared.set_code(wake_flag.waker().clone());
        shared.set_step_signal(wake_flag.step_signal());
        Self {
            shared,
            polling: Arc::default(),
            code: WorkflowFuture::none(),
            queue: VecDeque::new(),
            held: VecDeque::new(),
            defers_steps: false,
            flushing: false,
            wake_flag,
            is_watched: false,
            kept: 0,
            deferred: None,
            polls: 0,
            unfed: 0,
            reserved: 0,
            probe: None,
            violation: None,
            is_idle: false,
            applied: 0,
            seen,
        }
    }

    /// Creates the future of the run's code.
    ///
    /// The closure that creates the future may already use the context, so it runs in the turn of the
    /// code. `info` names the span in which the code is polled.
    pub(crate) fn attach_code(&mut self, workflow: &dyn Workflow, info: RunInfo, input: Payload) {
        self.shared.set_span(&info);
        let context = WorkflowContext::new(Arc::clone(&self.shared), Arc::new(info));
        let _turn = Turn::Code(self.shared.run()).begin();
        let _runtime = self.probe.as_ref().map(Probe::enter);
        self.is_idle = false;
        self.kept = workflow.kept_wakers();
        self.code = self.shared.in_span(true, || WorkflowFuture::new(workflow, context, input));
    }

    /// Cancels a run whose code has not begun.
    pub(crate) fn cancel(&mut self, reason: String) {
        let failure = Failure::new(WorkflowError::CANCELLED, reason);
        self.is_idle = false;
        self.code = WorkflowFuture::finished(Err(WorkflowError::cancelled(failure)));
    }

    /// Adds an entry to those that [`poll`](Self::poll) applies.
    pub(crate) fn feed(&mut self, entry: Entry, at: Timestamp) {
        self.queue.push_back((entry, at));
    }

    /// Applies all queued entries in order, and polls the code until it is idle after each of them.
    /// Completes when nothing is left to do. Later wakes of the code wake the polling task.
    ///
    /// `Pending` means that the task yielded after many polls, or waits for deferred wakes of the code;
    /// the task is woken in both cases. If the run must be blocked, the rest of the queue is dropped: a
    /// later load reads those entries from the journal.
    pub(crate) fn poll(&mut self, context: &Context<'_>) -> Poll<()> {
        if self.wake_flag.take_steps() {
            self.wake_flag.detach();
            self.shared.wake_steps();
        }
        let mut is_settled = self.is_idle && !self.wake_flag.attach(context);
        if is_settled && self.queue.is_empty() {
            return Poll::Ready(());
        }
        self.is_idle = false;
        if self.queue.iter().any(|(entry, _)| stops_steps(entry)) {
            self.defer_steps();
        }
        loop {
            // Code that was idle before the first entry need not be polled again to find that out.
            if !std::mem::take(&mut is_settled) {
                ready!(self.run_until_idle(context));
            }
            if self.must_block() {
                self.queue.clear();
                return Poll::Ready(());
            }
            let Some((entry, at)) = self.next() else { break };
            self.apply(&entry, at);
            self.begin_deferred_steps();
        }
        // Only now: between two entries code may wait for an outcome that stands later in the queue.
        self.check_waits();
        self.is_idle = self.violation.is_none();
        // A wake between the last check and the registration of the task has woken no task.
        if self.wake_flag.attach(context) && self.is_idle {
            context.waker().wake_by_ref();
        }
        Poll::Ready(())
    }

    /// The next entry to apply. While a client has paused the run, entries that do not end the pause
    /// are held. A run that its host holds sees what was already on its way into the journal, so that
    /// the tasks among it are dispatched before the run leaves.
    ///
    /// A cancellation overrides a pause. The held entries are applied before it, so that the code has
    /// seen everything that needs compensation. Operations that it requests during that are not begun.
    fn next(&mut self) -> Option<(Entry, Timestamp)> {
        if self.flushing {
            if let Some(held) = self.held.pop_front() {
                return Some(held);
            }
            self.flushing = false;
            self.machine().end_flush();
            return self.queue.pop_front();
        }
        if !self.machine().is_paused_by_client() {
            return self.held.pop_front().or_else(|| self.queue.pop_front());
        }
        while let Some((entry, at)) = self.queue.pop_front() {
            match entry {
                // A repeated pause has no effect, so that one request to resume ends it.
                Entry::Resumed | Entry::Paused => return Some((entry, at)),
                Entry::CancelRequested(_) => {
                    self.queue.push_front((entry, at));
                    self.flushing = true;
                    self.machine().begin_flush();
                    return self.next();
                }
                entry => {
                    self.machine().hold_back(&entry);
                    self.held.push_back((entry, at));
                }
            }
        }
        None
    }

    /// Applies one entry and wakes the code, if the entry concerns it.
    fn apply(&mut self, entry: &Entry, at: Timestamp) {
        self.applied += 1;
        // The loop polls the code after this anyway, so a wake of the task would be one too many.
        self.wake_flag.detach();
        let applied = self.machine().apply(entry, at);
        match applied {
            Err(mismatch) => self.shared.set_mismatch(mismatch),
            Ok(Some(operation)) => self.shared.release(operation),
            Ok(None) => match entry {
                Entry::CancelRequested(_) => {
                    // A result that is not in the journal yet is dropped.
                    self.code.cancel();
                    self.shared.set_ended(!self.code.is_running());
                    self.shared.wake_cancelled();
                }
                Entry::Resumed => {
                    if !self.held.is_empty() {
                        self.defer_steps();
                    }
                    self.shared.wake_all();
                }
                Entry::Started(_) => self.wake_code(),
                _ => {}
            },
        }
    }

    /// Lets no step of a live run begin until the entries that are here are applied.
    fn defer_steps(&mut self) {
        let mut machine = self.shared.machine();
        if machine.is_live() {
            self.defers_steps = true;
            machine.look_ahead();
        }
    }

    /// Lets deferred steps begin once the entries are applied for which they waited.
    fn begin_deferred_steps(&mut self) {
        let is_due =
            self.held.is_empty() && !self.queue.iter().any(|(entry, _)| stops_steps(entry));
        if self.defers_steps && is_due {
            self.defers_steps = false;
            let steps = self.machine().end_lookahead();
            steps.into_iter().for_each(|operation| self.shared.wake_step(operation));
        }
    }

    /// Ends the replay. All queued entries must have been applied.
    pub(crate) fn go_live(&mut self) -> Result<(), Failure> {
        if let Some(failure) = self.block_reason() {
            return Err(failure);
        }
        self.is_idle = false;
        self.machine().go_live().map_err(|mismatch| mismatch.to_failure())?;
        self.shared.wake_all();
        Ok(())
    }

    /// Holds the run for its host. The next poll of the code shows which of its steps can still end.
    pub(crate) fn hold(&self) {
        let steps = self.machine().hold();
        steps.into_iter().for_each(|operation| self.shared.wake_step(operation));
    }

    /// Resumes a run that its host held.
    pub(crate) fn release(&self) {
        self.machine().release();
        self.shared.wake_all();
    }

    /// The entries that are applied next are not durable yet: no step begins, and no output is stored.
    pub(crate) fn look_ahead(&self) {
        self.shared.outputs().hold();
        self.machine().look_ahead();
    }

    /// The entries that were applied ahead of the journal are durable: steps may begin.
    pub(crate) fn end_lookahead(&self) {
        self.shared.outputs().release();
        let steps = self.machine().end_lookahead();
        steps.into_iter().for_each(|operation| self.shared.wake_step(operation));
    }

    /// Wakes the code in the turn of the engine, so that it does not count as foreign.
    fn wake_code(&self) {
        let _turn = Turn::Engine(self.shared.run()).begin();
        self.wake_flag.waker().wake_by_ref();
    }

    /// Polls the code until it is idle and has seen every recorded outcome that it waits for. `Pending`
    /// if it yields or waits for deferred wakes; it then continues where it stopped.
    fn run_until_idle(&mut self, context: &Context<'_>) -> Poll<()> {
        let mut polls = 0;
        while self.violation.is_none() {
            if polls == MAX_BURST_POLLS {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            polls += 1;
            self.wake_flag.detach();
            if self.wake_flag.take_foreign() {
                self.violation = Some(foreign_await());
            } else if self.deferred.is_some() {
                // Comes first: the order of other polls and these wakes depends on the scheduler.
                ready!(self.await_deferred(context));
            } else if self.wake_flag.take_code() {
                self.run_code();
            } else if self.shared.release_next() {
                self.unfed = 0;
            } else {
                break;
            }
        }
        self.polls = 0;
        self.unfed = 0;
        Poll::Ready(())
    }

    /// Polls the code once and checks that it makes progress. An entry counts as progress, because both
    /// counts are reset when the code is idle. A new operation does for a while.
    fn run_code(&mut self) {
        self.poll_code();
        let reserved = self.shared.reserved();
        self.polls = if reserved > self.reserved { 0 } else { self.polls + 1 };
        self.reserved = reserved;
        self.unfed += 1;
        if self.polls > MAX_BUSY_POLLS || self.unfed > MAX_UNFED_POLLS {
            self.violation = Some(busy());
        }
    }

    /// Polls the code once, within its turn and span, and notes whether a wake of it was deferred.
    ///
    /// Watching costs a probe in the scheduler for each poll. It is therefore switched on only if,
    /// after the previous poll, there were more clones of the code's waker than the engine and the
    /// workflow keep themselves. The first such poll was not watched, so it assumes a deferred wake and
    /// waits for one round of the scheduler.
    fn poll_code(&mut self) {
        let watches = self.is_watched;
        if watches {
            self.shared.watch(Some(Deferred::watch()));
        }
        {
            let _turn = Turn::Code(self.shared.run()).begin();
            let _poll = self.polling.begin(self.reserved);
            self.shared.begin_poll();
            let _runtime = self.probe.as_ref().map(Probe::enter);
            let code = &mut self.code;
            let waker = self.wake_flag.waker();
            let is_seen = self.applied <= self.seen;
            self.shared.in_span(is_seen, || code.poll(&mut Context::from_waker(waker)));
        }
        if !self.code.is_running() {
            self.shared.set_ended(true);
        }
        let deferred = if watches { self.shared.watch(None) } else { None };
        // A waker that the engine does not hold may be in the scheduler's list of deferred wakes.
        self.is_watched = self.wake_flag.wakers() > self.shared.wakers() + self.kept;
        let deferred = match deferred {
            None => self.is_watched.then(|| Deferred::watch().assume()),
            Some(mut deferred) => {
                deferred.check();
                Some(deferred)
            }
        };
        if let Some(deferred) = deferred.filter(Deferred::is_outstanding) {
            self.wake_flag.expect_deferred(true);
            self.deferred = Some(deferred);
        }
    }

    /// Waits for the deferred wakes of the code. They count as wakes of the code itself until they have
    /// all arrived.
    fn await_deferred(&mut self, context: &Context<'_>) -> Poll<()> {
        if self.deferred.as_ref().is_some_and(|deferred| deferred.poll(context).is_pending()) {
            self.wake_flag.attach(context);
            return Poll::Pending;
        }
        self.deferred = None;
        self.wake_flag.expect_deferred(false);
        self.polls += DEFERRED_WAKE_COST;
        self.unfed += DEFERRED_WAKE_COST / 4;
        Poll::Ready(())
    }

    /// Reports code that waits without an operation: nothing would ever wake it. During a replay and a
    /// pause an operation may be missing for another reason, so nothing is reported then.
    fn check_waits(&mut self) {
        let machine = self.shared.machine();
        let waits = machine.waits() || !machine.is_live() || machine.is_paused();
        if !waits && self.code.is_running() && self.violation.is_none() {
            self.violation = Some(foreign_await());
        }
    }

    /// Whether something other than an entry may wake the code. Such a run stays in memory for a
    /// while: a wake would not find it anywhere else.
    pub(crate) fn is_watched(&self) -> bool {
        self.is_watched && self.code.is_running()
    }

    /// Whether a replay can tell what may wake the code, apart from entries. Code of other languages
    /// keeps wakers for reasons of its own, and awaits nothing of tokio.
    pub(crate) fn can_be_probed(&self) -> bool {
        self.kept == 0 && self.is_watched()
    }

    /// Lets the replay that follows block the run if its code creates a timer or does I/O.
    pub(crate) fn begin_probe(&mut self) {
        // Without a runtime nothing is found out, as before.
        self.probe = Probe::new().ok();
    }

    /// Ends the probe after the replay. Returns whether the code has spawned a task, which it may await.
    pub(crate) fn end_probe(&mut self) -> bool {
        self.probe.take().is_some_and(|probe| probe.has_tasks())
    }

    /// The outcome of the code, if it has ended.
    pub(crate) fn outcome(&self) -> Option<&Result<Payload, WorkflowError>> {
        self.code.outcome()
    }

    /// The entry that ends the run, once its code has ended. `successor` returns the id of the run that
    /// continues this one.
    ///
    /// A successor gets the signals that this run has not taken, by their numbers. A result names them.
    pub(crate) fn ending(&self, successor: impl FnOnce() -> String) -> Option<Entry> {
        Some(match self.outcome()?.clone() {
            Ok(result) => {
                let mut completed = Completed::new(result);
                completed.untaken_signals = self.machine().untaken_signals();
                Entry::Completed(completed)
            }
            Err(error) => match (error.operation(), error.into_kind()) {
                (operation, Kind::Failed(failure)) => {
                    let mut failed = Failed::new(failure);
                    failed.operation = operation;
                    Entry::Failed(failed)
                }
                (_, Kind::Cancelled(failure)) => Entry::Cancelled(Failed::new(failure)),
                (_, Kind::ContinueAsNew(input)) => {
                    let signals = self.machine().untaken_signals();
                    Entry::Continued(Continued::new(successor(), input, signals))
                }
            },
        })
    }

    /// Why the run must be blocked: a version or an operation that does not match the journal, an
    /// operation that was dropped outside of the code, a panic, or an await of something that is not
    /// recorded.
    pub(crate) fn block_reason(&self) -> Option<Failure> {
        if !self.must_block() {
            return None;
        }
        let unfit = self.shared.block_reason();
        // Outside of the probe the code has not panicked.
        let panic = self.code.panic().map(|panic| match &self.probe {
            Some(_) => foreign_await(),
            None => panic.clone(),
        });
        // A mismatch comes first, because it often makes the code panic.
        unfit.or(panic).or_else(|| self.violation.clone())
    }

    /// Whether the code was interrupted: nothing that it has requested is recorded, and the run must be
    /// loaded again.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.code.is_interrupted()
    }

    /// Whether the run must be blocked, or was interrupted.
    pub(crate) fn must_block(&self) -> bool {
        self.shared.is_mismatched() || self.code.panic().is_some() || self.violation.is_some()
    }

    /// Locks the machine. Never hold the guard across a poll or a wake of the code, which lock it too.
    pub(crate) fn machine(&self) -> MutexGuard<'_, Machine> {
        self.shared.machine()
    }
}

impl Drop for Execution {
    /// Closes the run before its code is dropped, even if its driver is dropped or aborted.
    ///
    /// Destructors of the user's code may call the context. In the turn `Leaving` such calls have no
    /// effect, and no operation is abandoned: the run continues elsewhere, or later.
    fn drop(&mut self) {
        // Nothing is left that a panic of a destructor could block.
        let _ = self.shared.close();
        let _turn = Turn::Leaving(self.shared.run()).begin();
        // Destructors may block the thread as any other code.
        let _poll = self.polling.begin(self.reserved);
        self.code = WorkflowFuture::none();
    }
}

/// Whether no step may begin once a client has requested this.
fn stops_steps(entry: &Entry) -> bool {
    matches!(entry, Entry::Paused | Entry::CancelRequested(_))
}

/// The number of entries up to the last one that an engine wrote. That engine has polled the code
/// after it. Entries after it come from other processes, and the code may not have seen them.
fn seen<'a>(journal: impl Iterator<Item = &'a Entry>) -> usize {
    let is_foreign = |entry: &Entry| {
        matches!(
            entry,
            Entry::Started(_)
                | Entry::Signaled(_)
                | Entry::CancelRequested(_)
                | Entry::Paused
                | Entry::Resumed
        )
    };
    let own = journal.enumerate().filter(|(_, entry)| !is_foreign(entry));
    own.last().map_or(0, |(index, _)| index + 1)
}

/// The failure of code that awaits something other than its operations. No journal records when such a
/// thing completed, so a replay could not repeat it.
fn foreign_await() -> Failure {
    Failure::new(
        codes::FOREIGN_AWAIT,
        "the workflow awaits something that is not recorded, such as a tokio timer, a spawned task \
         or a channel to a step; it can only await operations of its context and futures that depend \
         on them: move everything else into a step",
    )
}

/// The failure of code that never becomes idle.
fn busy() -> Failure {
    Failure::new(
        WorkflowError::BUSY,
        "the workflow wakes itself repeatedly and waits for nothing: it must await an operation \
         instead of polling a condition",
    )
}
