use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Wake, Waker},
};

use futures_util::task::AtomicWaker;

use super::turn::Turn;

/// Remembers that the code of a run was woken until the code has run, and by what.
///
/// A driver awaits other things too, and a wake of its task that comes meanwhile is used up by
/// them. So the code has a waker of its own, which wakes the task and leaves a note.
pub(super) struct Alarm {
    bell: Arc<Bell>,
    waker: Waker,
    /// Whether there may be a task that it wakes.
    is_set: bool,
}

struct Bell {
    /// The run whose code it wakes.
    run: usize,
    /// Woken by an entry, by a step, or by the code itself. They are not told apart: what is
    /// between, as `FuturesUnordered`, makes one wake of several.
    code: AtomicBool,
    /// Woken by anything else.
    foreign: AtomicBool,
    /// Whether wakes from outside are ones that the code asked for, put off by the scheduler.
    deferred: AtomicBool,
    task: AtomicWaker,
}

impl Alarm {
    /// An alarm of a run, which is silent.
    pub(super) fn new(run: usize) -> Self {
        let bell = Arc::new(Bell {
            run,
            code: AtomicBool::new(false),
            foreign: AtomicBool::new(false),
            deferred: AtomicBool::new(false),
            task: AtomicWaker::new(),
        });
        Self { waker: Waker::from(Arc::clone(&bell)), bell, is_set: false }
    }

    /// Whether an entry, a step or the code itself woke the code since this was last asked.
    pub(super) fn take_code(&self) -> bool {
        take(&self.bell.code)
    }

    /// Whether anything else woke the code since this was last asked.
    pub(super) fn take_foreign(&self) -> bool {
        take(&self.bell.foreign)
    }

    /// Lets the alarm go off without waking the task, until it is set again: for wakes of code that
    /// is about to be polled anyway.
    pub(super) fn mute(&mut self) {
        if std::mem::take(&mut self.is_set) {
            drop(self.bell.task.take());
        }
    }

    /// Sets the alarm for the task of `context`, and says whether it has already gone off.
    pub(super) fn set(&mut self, context: &Context<'_>) -> bool {
        self.is_set = true;
        self.bell.task.register(context.waker());
        let rung = |flag: &AtomicBool| flag.load(Ordering::Acquire);
        rung(&self.bell.code) || rung(&self.bell.foreign)
    }

    /// Says whether wakes from outside are ones that the code asked for.
    pub(super) fn expect_deferred(&self, expected: bool) {
        self.bell.deferred.store(expected, Ordering::Release);
    }

    /// How many wakers of the code there are outside of here.
    pub(super) fn wakers(&self) -> usize {
        Arc::strong_count(&self.bell).saturating_sub(2)
    }

    /// What the code is to be polled with.
    pub(super) fn waker(&self) -> &Waker {
        &self.waker
    }
}

/// Whether a flag is raised; lowers it. It is mostly not, and a look costs less than a swap.
fn take(flag: &AtomicBool) -> bool {
    flag.load(Ordering::Acquire) && flag.swap(false, Ordering::AcqRel)
}

impl Bell {
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

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.flag().store(true, Ordering::Release);
        self.task.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: usize = 7;

    /// A task that says whether it was woken.
    #[derive(Default)]
    struct Task(AtomicBool);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Release);
        }
    }

    /// What rang: code, foreign.
    fn take(alarm: &Alarm) -> [bool; 2] {
        [alarm.take_code(), alarm.take_foreign()]
    }

    #[test]
    fn should_go_off_once_for_each_wake() {
        let alarm = Alarm::new(RUN);
        assert_eq!(take(&alarm), [false; 2]);
        alarm.waker().wake_by_ref();
        assert_ne!(take(&alarm), [false; 2]);
        assert_eq!(take(&alarm), [false; 2]);
    }

    #[test]
    fn should_tell_by_what_it_was_rung() {
        let alarm = Alarm::new(RUN);
        for (turn, rung) in [
            (Turn::Code(RUN), [true, false]),
            (Turn::Engine(RUN), [true, false]),
            (Turn::Waking(RUN), [true, false]),
            (Turn::Step(RUN), [false, true]),
            (Turn::Code(RUN + 1), [false, true]),
            (Turn::ExternalEvent, [false, true]),
        ] {
            let _turn = turn.begin();
            alarm.waker().wake_by_ref();
            assert_eq!(take(&alarm), rung, "{turn:?}");
        }
    }

    #[test]
    fn should_take_deferred_wakes_for_its_own() {
        let alarm = Alarm::new(RUN);
        alarm.expect_deferred(true);
        alarm.waker().wake_by_ref();
        assert_eq!(take(&alarm), [true, false]);
    }

    #[test]
    fn should_wake_the_task_only_while_it_is_set() {
        let (mut alarm, task) = (Alarm::new(RUN), Arc::new(Task::default()));
        let waker = Waker::from(Arc::clone(&task));
        alarm.waker().wake_by_ref();
        assert!(alarm.set(&Context::from_waker(&waker)), "a wake that came before is remembered");
        alarm.mute();
        alarm.waker().wake_by_ref();
        assert!(!task.0.load(Ordering::Acquire), "the task is left alone");
        alarm.set(&Context::from_waker(&waker));
        alarm.waker().wake_by_ref();
        assert!(task.0.load(Ordering::Acquire));
    }
}
