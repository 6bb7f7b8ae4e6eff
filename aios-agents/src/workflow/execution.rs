use std::{
    collections::VecDeque,
    sync::{Arc, MutexGuard},
    task::{Context, Poll, ready},
};

use aios_core::{
    clock::Clock,
    event::{Payload, Timestamp},
    failure::Failure,
};

use super::{
    RunInfo, Workflow, WorkflowContext, WorkflowError,
    alarm::Alarm,
    body::Body,
    context::Cell,
    deferred::Deferred,
    error::Kind,
    journal::{Completed, Continued, Entry, Failed, Seed},
    machine::Machine,
    turn::Turn,
};

/// How often the code may be polled without asking for anything and without an entry.
const BUSY: u32 = 100_000;
/// How many polls a wake counts for that the scheduler put off: it costs a round of the scheduler.
const DEFERRED: u32 = 20;
/// How often the code may be polled before others get a turn.
const BURST: u32 = 1_000;

/// The code of a run and its machine, without any I/O: applies entries and lets the code run.
///
/// There is one loop, for live runs, replays and tests alike: one entry is applied, then the code
/// is polled until it is quiet, then comes the next entry.
pub(crate) struct Execution {
    pub(crate) cell: Arc<Cell>,
    body: Body,
    /// Entries that are to be applied.
    queue: VecDeque<(Entry, Timestamp)>,
    /// Entries that came while the run was paused.
    held: VecDeque<(Entry, Timestamp)>,
    /// Whether what is held is applied before a cancellation, and how much there was to record
    /// before.
    flushing: Option<usize>,
    alarm: Alarm,
    /// Whether something outside of the engine has the code's waker.
    is_watched: bool,
    /// How many of the code's wakers the workflow itself keeps.
    kept: usize,
    /// Wakes of the code that the scheduler has put off.
    deferred: Option<Deferred>,
    /// Polls since the code was quiet or asked for something.
    polls: u32,
    /// How many operations the code had asked for when it was polled last.
    asked: u64,
    /// What is wrong with the code, apart from the journal and panics.
    fault: Option<Failure>,
    /// Whether the code was quiet when it was polled last, and nothing but a wake can change that.
    is_quiet: bool,
}

impl Execution {
    /// An execution that expects the code to ask for what `journal` says; nothing is applied yet.
    /// `incarnation` is the id of the event that started the run, and `seed` what the run draws from.
    pub(crate) fn new<'a>(
        run_id: Arc<str>,
        incarnation: Arc<str>,
        seed: Seed,
        journal: impl IntoIterator<Item = &'a Entry, IntoIter: Clone>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let mut machine = Machine::new(run_id, journal);
        machine.set_start(incarnation, seed);
        let cell = Arc::new(Cell::new(machine, clock));
        let alarm = Alarm::new(cell.run());
        cell.set_code(alarm.waker().clone());
        Self {
            cell,
            body: Body::absent(),
            queue: VecDeque::new(),
            held: VecDeque::new(),
            flushing: None,
            alarm,
            is_watched: false,
            kept: 0,
            deferred: None,
            polls: 0,
            asked: 0,
            fault: None,
            is_quiet: false,
        }
    }

    /// Gives the run its code.
    pub(crate) fn enter(&mut self, workflow: &dyn Workflow, info: RunInfo, input: Payload) {
        let context = WorkflowContext::new(Arc::clone(&self.cell), Arc::new(info));
        let _turn = Turn::Code(self.cell.run()).begin();
        self.is_quiet = false;
        self.kept = workflow.kept_wakers();
        self.body = Body::new(workflow, context, input);
    }

    /// Ends the run before its code began.
    pub(crate) fn cancel(&mut self, reason: String) {
        let failure = Failure::new(WorkflowError::CANCELLED, reason);
        self.is_quiet = false;
        self.body = Body::ended(Err(WorkflowError::cancelled(failure)));
    }

    /// Adds an entry to those that [`poll`](Self::poll) applies.
    pub(crate) fn feed(&mut self, entry: Entry, at: Timestamp) {
        self.queue.push_back((entry, at));
    }

    /// Applies every entry that was fed, in order, and lets the code run until it is quiet after
    /// each of them. Completes when nothing is left to do; whatever wakes the code later wakes the
    /// task that polls here.
    pub(crate) fn poll(&mut self, context: &Context<'_>) -> Poll<()> {
        let mut is_settled = self.is_quiet && !self.alarm.set(context);
        if is_settled && self.queue.is_empty() {
            return Poll::Ready(());
        }
        self.is_quiet = false;
        loop {
            if !std::mem::take(&mut is_settled) {
                ready!(self.settle(context));
            }
            if self.is_misfit() {
                self.queue.clear();
                return Poll::Ready(());
            }
            let Some((entry, at)) = self.next() else { break };
            self.apply(&entry, at);
        }
        self.check_waits();
        self.is_quiet = self.fault.is_none();
        Poll::Ready(())
    }

    /// The next entry to apply. While the run is paused, what does not end that is held.
    ///
    /// A cancellation wins over a pause: what was held is applied before it, so that the code has
    /// seen all that there is to compensate, but nothing is begun that it asks for meanwhile.
    fn next(&mut self) -> Option<(Entry, Timestamp)> {
        if let Some(recorded) = self.flushing {
            if let Some(held) = self.held.pop_front() {
                return Some(held);
            }
            self.machine().forget_after(recorded);
            self.flushing = None;
            return self.queue.pop_front();
        }
        if !self.machine().is_paused() {
            return self.held.pop_front().or_else(|| self.queue.pop_front());
        }
        while let Some((entry, at)) = self.queue.pop_front() {
            match entry {
                Entry::Resumed => return Some((entry, at)),
                Entry::CancelRequested(_) => {
                    self.queue.push_front((entry, at));
                    let recorded = self.machine().recorded();
                    self.flushing = Some(recorded);
                    return self.next();
                }
                entry => self.held.push_back((entry, at)),
            }
        }
        None
    }

    /// Applies one entry and wakes the code, if that is news to it.
    fn apply(&mut self, entry: &Entry, at: Timestamp) {
        self.alarm.mute();
        let applied = self.machine().apply(entry, at);
        match applied {
            Err(mismatch) => self.cell.refuse(mismatch),
            Ok(Some(operation)) => self.cell.release(operation),
            Ok(None) => match entry {
                Entry::CancelRequested(_) => {
                    // A result that is not in the journal yet comes too late.
                    self.body.cancel();
                    self.cell.wake_cancelled();
                }
                Entry::Resumed => self.cell.wake_all(),
                Entry::Started(_) => self.wake_code(),
                _ => {}
            },
        }
    }

    /// Ends the replay. What was fed has to be applied before.
    pub(crate) fn go_live(&mut self) -> Result<(), Failure> {
        if let Some(failure) = self.misfit() {
            return Err(failure);
        }
        self.is_quiet = false;
        self.machine().go_live().map_err(|mismatch| mismatch.to_failure())?;
        self.cell.wake_all();
        Ok(())
    }

    /// Lets a run go on that its host held.
    pub(crate) fn go_on(&self) {
        self.machine().go_on();
        self.cell.wake_all();
    }

    fn wake_code(&self) {
        let _turn = Turn::Engine(self.cell.run()).begin();
        self.alarm.waker().wake_by_ref();
    }

    /// Lets the code run until it is quiet and has seen every outcome that it waits for.
    fn settle(&mut self, context: &Context<'_>) -> Poll<()> {
        let mut polls = 0;
        while self.fault.is_none() {
            if polls == BURST {
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            polls += 1;
            self.alarm.mute();
            if self.alarm.take_foreign() {
                self.fault = Some(foreign());
            } else if self.deferred.is_some() {
                // First of all: which polls came before these wakes depends on the scheduler.
                ready!(self.await_deferred(context));
            } else if self.alarm.take_code() {
                self.run_code();
            } else if !self.cell.release_next() {
                break;
            }
        }
        self.polls = 0;
        // Steps that woke themselves get a turn now, and do not keep entries waiting.
        self.cell.wake_nudged();
        let is_rung = self.alarm.set(context);
        if is_rung && self.fault.is_none() {
            context.waker().wake_by_ref();
        }
        Poll::Ready(())
    }

    /// Lets the code run until it waits.
    fn run_code(&mut self) {
        self.poll_body();
        let asked = self.machine().reserved();
        self.polls = if asked > self.asked { 0 } else { self.polls + 1 };
        self.asked = asked;
        if self.polls > BUSY {
            self.fault = Some(busy());
        }
    }

    fn poll_body(&mut self) {
        let watches = self.is_watched;
        if watches {
            self.cell.watch(Some(Deferred::watch()));
        }
        {
            let _turn = Turn::Code(self.cell.run()).begin();
            self.body.poll(&mut Context::from_waker(self.alarm.waker()));
        }
        let deferred = if watches { self.cell.watch(None) } else { None };
        // What the engine does not hold may be in the list of the scheduler.
        self.is_watched = self.alarm.wakers() > self.cell.wakers() + self.kept;
        let deferred = match deferred {
            None => self.is_watched.then(|| Deferred::watch().assume()),
            Some(mut deferred) => {
                deferred.check();
                Some(deferred)
            }
        };
        if let Some(deferred) = deferred.filter(Deferred::is_outstanding) {
            self.alarm.expect_deferred(true);
            self.deferred = Some(deferred);
        }
    }

    /// Waits until the scheduler has woken the code where it put that off.
    fn await_deferred(&mut self, context: &Context<'_>) -> Poll<()> {
        if self.deferred.as_ref().is_some_and(|deferred| deferred.poll(context).is_pending()) {
            self.alarm.set(context);
            return Poll::Pending;
        }
        self.deferred = None;
        self.alarm.expect_deferred(false);
        self.polls += DEFERRED;
        Poll::Ready(())
    }

    /// Code that waits for nothing that the run knows would wait for ever.
    fn check_waits(&mut self) {
        let machine = self.cell.machine();
        let waits = machine.waits() || !machine.is_live() || machine.is_paused();
        if !waits && self.body.is_running() && self.fault.is_none() {
            self.fault = Some(foreign());
        }
    }

    /// Whether something may wake the code that is no entry.
    pub(crate) fn is_watched(&self) -> bool {
        self.is_watched && self.body.is_running()
    }

    /// How the code ended, if it did.
    pub(crate) fn outcome(&self) -> Option<&Result<Payload, WorkflowError>> {
        self.body.outcome()
    }

    /// The entry that ends the run, once its code has ended; `successor` is the id of the run that
    /// it continues as, if it does.
    pub(crate) fn ending(&self, successor: impl FnOnce() -> String) -> Option<Entry> {
        Some(match self.outcome()?.clone() {
            Ok(result) => Entry::Completed(Completed { result }),
            Err(error) => match error.into_kind() {
                Kind::Failed(failure) => Entry::Failed(Failed { failure }),
                Kind::Cancelled(failure) => Entry::Cancelled(Failed { failure }),
                Kind::ContinueAsNew(input) => {
                    let signals = self.machine().untaken_signals();
                    Entry::Continued(Continued { run_id: successor(), input, signals })
                }
            },
        })
    }

    /// What of the code does not fit: a version or an operation of the journal, a panic, or that it
    /// waits for what is not recorded.
    pub(crate) fn misfit(&self) -> Option<Failure> {
        if !self.is_misfit() {
            return None;
        }
        let unfit = self.cell.misfit();
        unfit.or_else(|| self.body.panic().cloned()).or_else(|| self.fault.clone())
    }

    /// Whether anything of the code does not fit.
    pub(crate) fn is_misfit(&self) -> bool {
        self.cell.is_unfit() || self.body.panic().is_some() || self.fault.is_some()
    }

    pub(crate) fn machine(&self) -> MutexGuard<'_, Machine> {
        self.cell.machine()
    }
}

/// Why code that waits for something else than operations is blocked.
fn foreign() -> Failure {
    Failure::new(
        "FOREIGN_AWAIT",
        "the code of the workflow awaits something that is not recorded, as a timer of tokio, a \
         spawned task, or a channel to a step; it can only await operations of its context, and \
         what follows from them: put everything else into a step",
    )
}

/// Why code that never gets quiet is blocked.
fn busy() -> Failure {
    Failure::new(
        "WORKFLOW_BUSY",
        "the code of the workflow wakes itself again and again and asks for nothing: it has to wait \
         for an operation, not for a condition",
    )
}
