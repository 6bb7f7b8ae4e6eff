use std::{
    collections::VecDeque,
    sync::{Arc, MutexGuard},
    task::Context,
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
    error::Kind,
    journal::{Completed, Continued, Entry, Failed},
    machine::Machine,
};

/// The code of a run and its machine, without any I/O: applies entries and lets the code run.
pub(crate) struct Execution {
    pub(crate) cell: Arc<Cell>,
    body: Body,
    /// Entries that came while the run was paused.
    held: VecDeque<(Entry, Timestamp)>,
    alarm: Alarm,
}

impl Execution {
    /// An execution that expects the code to ask for what `journal` says; nothing is applied yet.
    pub(crate) fn new<'a>(
        run_id: Arc<str>,
        journal: impl IntoIterator<Item = &'a Entry>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let cell = Arc::new(Cell::new(Machine::new(run_id, journal), clock));
        Self { cell, body: Body::absent(), held: VecDeque::new(), alarm: Alarm::new() }
    }

    /// Gives the run its code.
    pub(crate) fn enter(&mut self, workflow: &dyn Workflow, info: RunInfo, input: Payload) {
        let context = WorkflowContext::new(Arc::clone(&self.cell), Arc::new(info));
        self.body = Body::new(workflow, context, input);
    }

    /// Ends the run before its code began.
    pub(crate) fn cancel(&mut self, reason: String) {
        let failure = Failure::new(WorkflowError::CANCELLED, reason);
        self.body = Body::ended(Err(WorkflowError::cancelled(failure)));
    }

    /// Applies one entry and lets the code run, if that is news to it.
    pub(crate) fn apply(&mut self, entry: &Entry, at: Timestamp, context: &Context<'_>) {
        let applied = self.machine().apply(entry, at);
        match applied {
            Err(mismatch) => return self.cell.refuse(mismatch),
            Ok(Some(operation)) => {
                self.alarm.mute();
                self.cell.wake(operation);
            }
            Ok(None) => match entry {
                Entry::CancelRequested(_) => {
                    // A result that is not in the journal yet comes too late.
                    self.body.cancel();
                    self.cell.wake_cancelled();
                }
                Entry::Resumed => self.cell.wake_all(),
                Entry::Started(_) => {}
                _ => return,
            },
        }
        self.alarm.reset(context);
        self.run_code();
    }

    /// Applies an entry, or holds it while the run is paused. Live and in a replay alike.
    ///
    /// A cancellation wins over a pause: what was held is applied before it, so that the code has
    /// seen all that there is to compensate, but nothing is begun that it asks for meanwhile.
    pub(crate) fn feed(&mut self, entry: Entry, at: Timestamp, context: &Context<'_>) {
        if self.machine().is_paused() {
            match &entry {
                Entry::Resumed => {}
                Entry::CancelRequested(_) => {
                    let recorded = self.machine().recorded();
                    while let Some((held, at)) = self.held.pop_front() {
                        self.apply(&held, at, context);
                    }
                    self.machine().forget_after(recorded);
                }
                _ => return self.held.push_back((entry, at)),
            }
        }
        self.apply(&entry, at, context);
        while !self.machine().is_paused() {
            let Some((entry, at)) = self.held.pop_front() else { return };
            self.apply(&entry, at, context);
        }
    }

    /// Ends the replay.
    pub(crate) fn go_live(&mut self) -> Result<(), Failure> {
        if let Some(failure) = self.misfit() {
            return Err(failure);
        }
        self.machine().go_live().map_err(|mismatch| mismatch.to_failure())?;
        self.cell.wake_all();
        Ok(())
    }

    /// Lets the code run if it was woken since it ran last, unless it has ended. Whatever wakes it
    /// later wakes the task that polls here. In a paused run that is a step that was begun before:
    /// it ends, but the code does not go on.
    pub(crate) fn poll(&mut self, context: &Context<'_>) {
        if self.alarm.reset(context) {
            self.run_code();
        }
    }

    fn run_code(&mut self) {
        self.body.poll(&mut Context::from_waker(self.alarm.waker()));
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
                    Entry::Continued(Continued { run_id: successor(), input })
                }
            },
        })
    }

    /// What of the code does not fit: a mismatch with the journal, or a panic.
    pub(crate) fn misfit(&self) -> Option<Failure> {
        let mismatch = self.cell.mismatch().map(|mismatch| mismatch.to_failure());
        mismatch.or_else(|| self.body.panic().cloned())
    }

    pub(crate) fn machine(&self) -> MutexGuard<'_, Machine> {
        self.cell.machine()
    }
}
