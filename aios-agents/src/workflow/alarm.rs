use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Wake, Waker},
};

use futures_util::task::AtomicWaker;

/// Remembers that the code of a run was woken until the code has run.
///
/// A driver awaits other things too, and a wake of its task that comes meanwhile is used up by
/// them. So the code has a waker of its own, which wakes the task and leaves a note.
pub(super) struct Alarm {
    bell: Arc<Bell>,
    waker: Waker,
}

struct Bell {
    rung: AtomicBool,
    task: AtomicWaker,
}

impl Alarm {
    /// An alarm that has gone off: code that never ran is to run.
    pub(super) fn new() -> Self {
        let bell = Arc::new(Bell { rung: AtomicBool::new(true), task: AtomicWaker::new() });
        Self { waker: Waker::from(Arc::clone(&bell)), bell }
    }

    /// Sets the alarm again for the task of `context`, and says whether it had gone off.
    pub(super) fn reset(&self, context: &Context<'_>) -> bool {
        self.bell.task.register(context.waker());
        self.bell.rung.swap(false, Ordering::AcqRel)
    }

    /// Lets the alarm go off without waking the task, until it is set again: for wakes of code that
    /// is about to be polled anyway.
    pub(super) fn mute(&self) {
        drop(self.bell.task.take());
    }

    /// What the code is to be polled with.
    pub(super) fn waker(&self) -> &Waker {
        &self.waker
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.task.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_go_off_once_for_each_wake() {
        let (alarm, context) = (Alarm::new(), Context::from_waker(Waker::noop()));
        assert!(alarm.reset(&context), "code that never ran is to run");
        assert!(!alarm.reset(&context));
        alarm.waker().wake_by_ref();
        assert!(alarm.reset(&context));
        assert!(!alarm.reset(&context));
    }

    #[test]
    fn should_go_off_in_silence_while_it_is_muted() {
        let (alarm, elsewhere) =
            (Alarm::new(), Arc::new(Bell { rung: false.into(), task: AtomicWaker::new() }));
        let task = Waker::from(Arc::clone(&elsewhere));
        alarm.reset(&Context::from_waker(&task));
        alarm.mute();
        alarm.waker().wake_by_ref();
        assert!(!elsewhere.rung.load(Ordering::Acquire), "the task is left alone");
        assert!(alarm.reset(&Context::from_waker(&task)), "but the alarm has gone off");
        alarm.waker().wake_by_ref();
        assert!(elsewhere.rung.load(Ordering::Acquire), "set again, it wakes the task again");
    }

    #[test]
    fn should_remember_a_wake_that_the_task_used_up_elsewhere() {
        let (alarm, elsewhere) =
            (Alarm::new(), Arc::new(Bell { rung: false.into(), task: AtomicWaker::new() }));
        let task = Waker::from(Arc::clone(&elsewhere));
        alarm.reset(&Context::from_waker(&task));
        alarm.waker().wake_by_ref();
        assert!(elsewhere.rung.swap(false, Ordering::AcqRel), "the task is woken");
        assert!(alarm.reset(&Context::from_waker(&task)), "and the code still is");
    }
}
