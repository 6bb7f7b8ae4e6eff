//! An attempt of a step: what its code gets, and what wakes it.

use std::{
    cell::OnceCell,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    task::Wake,
};

use aios_core::{
    agent::TaskQueued,
    output::{OutputError, OutputStream, Outputs},
    store::Store,
};
use parking_lot::Mutex;

use crate::{
    output::Hub,
    workflow::{context::SharedRun, turn::Turn},
};

/// Information about an attempt of a step; see
/// [`step_with`](crate::workflow::WorkflowContext::step_with).
///
/// # Examples
///
/// ```
/// use aios_agents::prelude::*;
///
/// # async fn charge_card(_key: &str, cents: u64) -> Result<String, std::io::Error> {
/// #     Ok(format!("receipt for {cents}"))
/// # }
/// async fn buy(context: WorkflowContext, cents: u64) -> Result<String, WorkflowError> {
///     context
///         .step_with("charge", |step| async move {
///             // The provider recognises the key, so a repeated attempt charges the card only once.
///             charge_card(step.idempotency_key(), cents).await
///         })
///         .await
/// }
/// # let _ = Runtime::builder().workflow("buy", buy);
/// ```
#[derive(Clone, Debug)]
pub struct StepContext {
    /// Number of the attempt, from 1.
    attempt: u32,
    /// The idempotency key.
    key: Box<str>,
    /// The run whose output streams it may open.
    run_id: Arc<str>,
    /// The streams that this attempt has opened, shared by clones.
    outputs: Arc<StepOutputs>,
    /// Tells the call that queued code begins.
    waker: Arc<StepWaker>,
}

/// The output streams that an attempt of a step has opened.
#[derive(Debug, Default)]
pub(super) struct StepOutputs {
    /// Where output is stored; `None` in tests of workflows.
    hub: Option<Hub>,
    /// The opened streams, by name: opening one again returns the same writer.
    opened: Mutex<Vec<(Box<str>, OutputStream)>>,
}

impl StepOutputs {
    /// Waits until what the attempt wrote is stored, within the time limit of the hub.
    pub(super) async fn flush(&self) {
        let opened = std::mem::take(&mut *self.opened.lock());
        if let Some(hub) = self.hub.as_ref().filter(|_| !opened.is_empty()) {
            let flushing = async {
                for (_, stream) in opened {
                    stream.flush().await?;
                }
                Ok(())
            };
            hub.flushed("a step", flushing).await;
        }
    }
}

impl StepContext {
    /// Number of the attempt, from 1.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Idempotency key of the step: the same in all its attempts, and different from the key of every
    /// other step, even if a later run reuses the id of this run. Pass it to external systems, so that
    /// they recognise repeated calls.
    #[must_use]
    pub fn idempotency_key(&self) -> &str {
        &self.key
    }

    /// Reports that the work of this attempt is queued, for a thread say, and has not begun: its timeout
    /// does not elapse until it [begins](TaskQueued::begin). Work that is not reported as queued counts
    /// as begun. To be called before the code waits for the first time.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use aios_agents::prelude::*;
    ///
    /// # fn thumbnail(_: &str) -> usize { 0 }
    /// async fn resize(context: WorkflowContext, image: String) -> Result<usize, WorkflowError> {
    ///     let step = context.step_with("resize", |step| {
    ///         let (queued, image) = (step.queued(), image.clone());
    ///         async move {
    ///             let work = move || queued.begin().then(|| thumbnail(&image));
    ///             // The result of an attempt that is over is discarded.
    ///             let size = tokio::task::spawn_blocking(work).await?.unwrap_or_default();
    ///             Ok::<_, TaskError>(size)
    ///         }
    ///     });
    ///     // However many other functions the threads have to run first.
    ///     step.timeout(Duration::from_secs(10)).await
    /// }
    /// # let _ = resize;
    /// ```
    pub fn queued(&self) -> TaskQueued {
        self.waker.exchange(RUNS, QUEUED);
        let waker = Arc::clone(&self.waker);
        TaskQueued::new(move || waker.begin())
    }

    /// The store of the process; `None` in a test of a workflow.
    #[must_use]
    pub fn store(&self) -> Option<&Arc<dyn Store>> {
        self.outputs.hub.as_ref().map(Hub::store)
    }

    /// An output stream of the run, named `[a-z][a-z0-9_]*` with at most 40 bytes. The step is its
    /// writer. What it writes is stored before the result of the step is recorded.
    ///
    /// # Errors
    ///
    /// [`OutputError::InvalidName`]; [`OutputError::Unavailable`] in a test of a workflow.
    ///
    /// # Examples
    ///
    /// ```
    /// use aios_agents::prelude::*;
    ///
    /// async fn fetch(context: WorkflowContext, urls: Vec<String>) -> Result<usize, WorkflowError> {
    ///     context
    ///         .step_with("fetch", |step| {
    ///             let urls = urls.clone();
    ///             async move {
    ///                 let fetched = step.stream("fetched")?;
    ///                 for url in &urls {
    ///                     // Readers of the stream see each address before the step has ended.
    ///                     fetched.write(url)?;
    ///                 }
    ///                 Ok::<_, TaskError>(urls.len())
    ///             }
    ///         })
    ///         .await
    /// }
    /// # let _ = fetch;
    /// ```
    pub fn stream(&self, name: &str) -> Result<OutputStream, OutputError> {
        let mut opened = self.outputs.opened.lock();
        if let Some((_, stream)) = opened.iter().find(|(known, _)| **known == *name) {
            return Ok(stream.clone());
        }
        let hub = self.outputs.hub.as_ref();
        let hub = hub.ok_or(OutputError::Unavailable { reason: "no runtime advances the run" })?;
        let stream = hub.of_attempt(self.attempt).open(&self.run_id, name, &self.key)?;
        opened.push((name.into(), stream.clone()));
        Ok(stream)
    }
}

/// The start of an attempt.
pub(in super::super) struct AttemptStart<'c> {
    /// The run that the step belongs to.
    pub(super) shared: &'c SharedRun,
    /// Number of the operation.
    pub(super) operation: u64,
    /// Number of the attempt, from 1.
    pub(super) attempt: u32,
    /// Set when the code gets a context, with which it can open output streams.
    pub(super) outputs: Option<&'c OnceCell<Arc<StepOutputs>>>,
    /// Wakes the code.
    pub(super) waker: &'c Arc<StepWaker>,
}

impl AttemptStart<'_> {
    /// The streams of this attempt, created when the code asks for a context: most steps have no
    /// output.
    fn outputs(&self) -> Arc<StepOutputs> {
        let hub = self.shared.outputs().hub();
        let new = || Arc::new(StepOutputs { hub: hub.cloned(), opened: Mutex::default() });
        self.outputs.map_or_else(new, |outputs| Arc::clone(outputs.get_or_init(new)))
    }

    /// The context passed to the code.
    pub(in super::super) fn context(&self) -> StepContext {
        StepContext {
            attempt: self.attempt,
            key: self.shared.key(self.operation).into(),
            run_id: self.shared.run_id(),
            outputs: self.outputs(),
            waker: Arc::clone(self.waker),
        }
    }
}

/// States of the work of an attempt: it runs in the code of the attempt; it is queued; it was queued and
/// has begun; or the attempt is over.
const RUNS: u8 = 0;
const QUEUED: u8 = 1;
const BEGUN: u8 = 2;
const OVER: u8 = 3;

/// Wakes the code of a step only. The code of the workflow is woken by journal entries.
#[derive(Debug)]
pub(super) struct StepWaker {
    /// Weak, because the code may keep its waker for longer than the run is in memory.
    shared: Weak<SharedRun>,
    /// Number of the operation, to find the waker of its call.
    operation: u64,
    /// Whether the step was woken since its code was last polled.
    woken: AtomicBool,
    /// Whether the work was queued.
    work: AtomicU8,
}

impl StepWaker {
    /// A waker that is woken already, so that the code is polled a first time.
    pub(super) fn new(shared: &Arc<SharedRun>, operation: u64) -> Arc<Self> {
        Arc::new(Self {
            shared: Arc::downgrade(shared),
            operation,
            woken: AtomicBool::new(true),
            work: AtomicU8::new(RUNS),
        })
    }

    /// Whether the step was woken since its code was last polled.
    pub(super) fn is_woken(&self) -> bool {
        self.woken.load(Ordering::Acquire)
    }

    /// The same; the code is about to be polled.
    pub(super) fn take_wake(&self) -> bool {
        self.woken.swap(false, Ordering::AcqRel)
    }

    /// Whether the work is queued and has not begun.
    pub(super) fn is_queued(&self) -> bool {
        self.work.load(Ordering::Acquire) == QUEUED
    }

    /// Whether the work was queued and has begun.
    pub(super) fn has_begun(&self) -> bool {
        self.work.load(Ordering::Acquire) == BEGUN
    }

    /// Ends the attempt. Work that is still queued does not begin: `begin` returns false.
    pub(super) fn end(&self) {
        self.work.store(OVER, Ordering::Release);
    }

    /// Replaces the state of the work if it is the current one. Returns whether it was.
    fn exchange(&self, current: u8, new: u8) -> bool {
        self.work.compare_exchange(current, new, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Begins queued work, and wakes the step, which sets its timer. Returns whether the attempt still
    /// counts.
    fn begin(self: &Arc<Self>) -> bool {
        let has_begun = self.exchange(QUEUED, BEGUN);
        if has_begun {
            self.wake_by_ref();
        }
        has_begun || self.has_begun()
    }
}

impl Wake for StepWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // It is noted already, and will be polled.
        if self.woken.swap(true, Ordering::AcqRel) {
            return;
        }
        let Some(shared) = self.shared.upgrade() else { return };
        match Turn::current() {
            Turn::Step(run) if run == shared.run() => shared.defer_step(self.operation),
            Turn::Code(run) if run == shared.run() => shared.wake_step(self.operation),
            _ => shared.signal_step(self.operation),
        }
    }
}
