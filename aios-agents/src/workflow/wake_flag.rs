//! The waker of the code of a run, which tells apart who wakes it.
//!
//! A wake by an entry, a step or the code itself makes the loop poll again. A wake by anything else
//! means that the code awaits something that no journal has, unless the scheduler has deferred a wake
//! of the code's own.
//!
//! | who wakes | flag | consequence |
//! |---|---|---|
//! | the code itself, an entry, a step (`Turn::Code`, `Engine`, `Waking`) | `code` | the code is polled again |
//! | the scheduler, after `yield_now` | `code`, while `deferred` is set | the code is polled again |
//! | anything else | `foreign` | the run is blocked with `FOREIGN_AWAIT` |
//!
//! A step is different: its code has a waker of its own and may wait for anything. When it is woken
//! from outside of the task, only `has_woken_steps` is set; the task then wakes the step, in a turn of
//! its own.
//!
//! Flags are set before the task is woken, and read after the task has registered its waker (`attach`),
//! so that no wake is lost between the two.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Wake, Waker},
};

use futures_util::task::AtomicWaker;

use super::turn::Turn;

/// Records wakes of the code of a run, and their source, until the code is polled.
///
/// The task of a driver awaits other things too, so a wake of the task does not show whether the code
/// was woken. The code therefore has a waker of its own, which sets a flag and wakes the task.
pub(super) struct WakeFlag {
    /// The flags, which every clone of the waker refers to.
    shared: Arc<Shared>,
    /// The waker for polls, one of the clones that `wakers` does not count.
    waker: Waker,
    /// Whether a task may be registered. Saves `detach` an atomic operation in most polls.
    is_attached: bool,
}

/// The part that wakers refer to.
struct Shared {
    /// The run whose code is woken, as in a `Turn`.
    run: usize,
    /// Woken by an entry, by a step, or by the code itself. These are not distinguished, because
    /// combinators such as `FuturesUnordered` merge several wakes into one.
    code: AtomicBool,
    /// Woken by anything else.
    foreign: AtomicBool,
    /// Whether wakes from outside are the code's own, deferred by the scheduler.
    deferred: AtomicBool,
    /// Shared with the signal for steps, which must not keep the flags alive: the number of clones of
    /// the code's waker is counted by their strong count.
    task: Arc<Task>,
}

/// The task that polls the code.
#[derive(Default)]
struct Task {
    /// The task, while it waits. None while the code is about to be polled anyway.
    waker: AtomicWaker,
    /// Whether a step was woken from outside of the task.
    has_woken_steps: AtomicBool,
}

/// Tells the task that polls the code that a step was woken from outside of it.
pub(crate) struct StepSignal(Arc<Task>);

impl StepSignal {
    /// Notes that a step must be woken, and wakes the task.
    pub(crate) fn set(&self) {
        self.0.has_woken_steps.store(true, Ordering::Release);
        self.0.waker.wake();
    }
}

impl WakeFlag {
    /// Creates an unset flag for a run.
    pub(super) fn new(run: usize) -> Self {
        let shared = Arc::new(Shared {
            run,
            code: AtomicBool::new(false),
            foreign: AtomicBool::new(false),
            deferred: AtomicBool::new(false),
            task: Arc::default(),
        });
        Self { waker: Waker::from(Arc::clone(&shared)), shared, is_attached: false }
    }

    /// Whether an entry, a step or the code itself woke the code since the last call.
    pub(super) fn take_code(&self) -> bool {
        take(&self.shared.code)
    }

    /// Whether anything else woke the code since the last call.
    pub(super) fn take_foreign(&self) -> bool {
        take(&self.shared.foreign)
    }

    /// Whether a step was woken from outside of the task since the last call.
    pub(super) fn take_steps(&self) -> bool {
        take(&self.shared.task.has_woken_steps)
    }

    /// The signal that a step was woken from outside of the task.
    pub(super) fn step_signal(&self) -> StepSignal {
        StepSignal(Arc::clone(&self.shared.task))
    }

    /// Removes the registered task, so that wakes only set the flag. For code that is about to be polled
    /// anyway.
    pub(super) fn detach(&mut self) {
        if std::mem::take(&mut self.is_attached) {
            drop(self.shared.task.waker.take());
        }
    }

    /// Registers the task of `context`, and returns whether the code or a step was already woken.
    pub(super) fn attach(&mut self, context: &Context<'_>) -> bool {
        self.is_attached = true;
        let Shared { code, foreign, task, .. } = &*self.shared;
        task.waker.register(context.waker());
        [code, foreign, &task.has_woken_steps].iter().any(|flag| flag.load(Ordering::Acquire))
    }

    /// Sets whether wakes from outside are the code's own, deferred by the scheduler.
    pub(super) fn expect_deferred(&self, expected: bool) {
        self.shared.deferred.store(expected, Ordering::Release);
    }

    /// Number of clones of the code's waker that exist elsewhere.
    pub(super) fn wakers(&self) -> usize {
        // One of the two belongs to this value, the other one to its own waker.
        Arc::strong_count(&self.shared).saturating_sub(2)
    }

    /// The waker to poll the code with.
    pub(super) fn waker(&self) -> &Waker {
        &self.waker
    }
}

/// Clears a flag and returns whether it was set. It mostly is not, and a load is cheaper than a swap.
fn take(flag: &AtomicBool) -> bool {
    flag.load(Ordering::Acquire) && flag.swap(false, Ordering::AcqRel)
}

impl Shared {
    /// The flag that a wake by this thread sets now.
    fn flag(&self) -> &AtomicBool {
        match Turn::current() {
            Turn::Code(run) | Turn::Engine(run) | Turn::Waking(run) if run == self.run => {
                &self.code
            }
            _ if self.deferred.load(Ordering::Acquire) => &self.code,
            _ => &self.foreign,
        }
    }
}

impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.flag().store(true, Ordering::Release);
        self.task.waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: usize = 7;

    /// A task that records whether it was woken.
    #[derive(Default)]
    struct Task(AtomicBool);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Release);
        }
    }

    /// Which flags were set: code, foreign.
    fn take(wake_flag: &WakeFlag) -> [bool; 2] {
        [wake_flag.take_code(), wake_flag.take_foreign()]
    }

    #[test]
    fn should_go_off_once_for_each_wake() {
        let wake_flag = WakeFlag::new(RUN);
        assert_eq!(take(&wake_flag), [false; 2]);
        wake_flag.waker().wake_by_ref();
        assert_ne!(take(&wake_flag), [false; 2]);
        assert_eq!(take(&wake_flag), [false; 2]);
    }

    #[test]
    fn should_report_what_woke_it() {
        let wake_flag = WakeFlag::new(RUN);
        for (turn, woken) in [
            (Turn::Code(RUN), [true, false]),
            (Turn::Engine(RUN), [true, false]),
            (Turn::Waking(RUN), [true, false]),
            (Turn::Step(RUN), [false, true]),
            (Turn::Code(RUN + 1), [false, true]),
            (Turn::External, [false, true]),
        ] {
            let _turn = turn.begin();
            wake_flag.waker().wake_by_ref();
            assert_eq!(take(&wake_flag), woken, "{turn:?}");
        }
    }

    #[test]
    fn should_take_deferred_wakes_for_its_own() {
        let wake_flag = WakeFlag::new(RUN);
        wake_flag.expect_deferred(true);
        wake_flag.waker().wake_by_ref();
        assert_eq!(take(&wake_flag), [true, false]);
    }

    #[test]
    fn should_report_woken_steps_without_a_wake_of_the_code() {
        let (mut wake_flag, task) = (WakeFlag::new(RUN), Arc::new(Task::default()));
        let waker = Waker::from(Arc::clone(&task));
        assert!(!wake_flag.attach(&Context::from_waker(&waker)));
        wake_flag.step_signal().set();
        assert!(task.0.load(Ordering::Acquire), "the task is woken");
        assert!(wake_flag.attach(&Context::from_waker(&waker)), "the wake is remembered");
        assert_eq!(take(&wake_flag), [false; 2]);
        assert!(wake_flag.take_steps());
        assert!(!wake_flag.take_steps());
    }

    #[test]
    fn should_wake_the_task_only_while_it_is_set() {
        let mut wake_flag = WakeFlag::new(RUN);
        let task = Arc::new(Task::default());
        let waker = Waker::from(Arc::clone(&task));
        wake_flag.waker().wake_by_ref();
        assert!(wake_flag.attach(&Context::from_waker(&waker)), "an earlier wake is remembered");
        wake_flag.detach();
        wake_flag.waker().wake_by_ref();
        assert!(!task.0.load(Ordering::Acquire), "the task is not woken");
        wake_flag.attach(&Context::from_waker(&waker));
        wake_flag.waker().wake_by_ref();
        assert!(task.0.load(Ordering::Acquire));
    }
}
