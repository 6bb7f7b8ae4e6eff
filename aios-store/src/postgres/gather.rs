use std::{
    future::poll_fn,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use aios_core::clock::Clock;
use tokio::sync::mpsc;

use super::{
    callers::{Caller, Pending, too_late},
    load::Load,
};

/// Gathers the next load while the last one is on its way.
pub(super) struct Gathering {
    queue: mpsc::Receiver<Pending>,
    load: Load,
    /// Did not fit into the load, which is full.
    next: Option<Pending>,
    clock: Arc<dyn Clock>,
    append_timeout: Duration,
}

impl Gathering {
    pub(super) fn new(
        queue: mpsc::Receiver<Pending>,
        clock: Arc<dyn Clock>,
        append_timeout: Duration,
    ) -> Self {
        Self { queue, load: Load::default(), next: None, clock, append_timeout }
    }

    /// Whether there is nothing to send.
    pub(super) fn is_empty(&self) -> bool {
        self.load.callers.is_empty() && self.next.is_none()
    }

    /// Waits for an append; `false` when none will come any more.
    pub(super) async fn wait(&mut self) -> bool {
        let pending = self.queue.recv().await;
        pending.map(|pending| self.add(pending)).is_some()
    }

    /// What has gathered; empty where nobody waits for an answer any more.
    pub(super) fn take(&mut self) -> Load {
        self.take_queued();
        let load = std::mem::take(&mut self.load);
        self.without_unwanted(load)
    }

    /// Gathers until some work is done.
    pub(super) async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        poll_fn(|context| {
            let done = work.as_mut().poll(context);
            if done.is_pending() {
                self.gather(context);
            }
            done
        })
        .await
    }

    fn gather(&mut self, context: &mut Context<'_>) {
        if self.take_queued() {
            // Those who are just about to append go first, so that they don't wake this task one by one.
            context.waker().wake_by_ref();
        } else if self.next.is_none()
            && let Poll::Ready(Some(pending)) = self.queue.poll_recv(context)
        {
            self.add(pending);
            context.waker().wake_by_ref();
        }
    }

    /// Takes what has queued up as far as there is room, and returns whether there was any.
    fn take_queued(&mut self) -> bool {
        let before = self.load.callers.len();
        let mut pending = self.next.take();
        while self.next.is_none()
            && let Some(next) = pending.take().or_else(|| self.queue.try_recv().ok())
        {
            self.add(next);
        }
        self.load.callers.len() > before
    }

    fn add(&mut self, pending: Pending) {
        if self.load.batch.takes(&pending.admitted.append) {
            self.load.push(pending);
        } else {
            self.next = Some(pending);
        }
    }

    /// Leaves out whose time is up, and who is gone.
    fn without_unwanted(&self, mut load: Load) -> Load {
        let now = self.clock.now();
        let is_wanted = |caller: &mut Caller| caller.waits(now, || too_late(self.append_timeout));
        let wanted: Vec<bool> = load.callers.iter_mut().map(is_wanted).collect();
        if wanted.iter().all(|wanted| *wanted) { load } else { load.only(&wanted) }
    }
}

#[cfg(test)]
mod tests {
    use aios_core::{
        clock::VirtualClock,
        event::Event,
        store::{Append, Expected},
    };

    use super::{super::batch::Admitted, *};

    const TIMEOUT: Duration = Duration::from_secs(1);

    /// Gathers appends to one stream, each of which expects a version, or nothing.
    fn gathering(expected: &[Expected]) -> (Gathering, Vec<impl Drop + use<>>) {
        let (clock, (queue, receiver)) = (VirtualClock::default(), mpsc::channel(10));
        let mut answers = Vec::new();
        for expected in expected {
            let event = Event::new("orders.order.placed".parse().unwrap(), "test", &1).unwrap();
            let append = Append::new("a".parse().unwrap(), vec![event]).with_expected(*expected);
            let (caller, answer) = Caller::new(clock.now() + TIMEOUT);
            let admitted = Admitted::new(append, 100).unwrap();
            queue.try_send(Pending { admitted, caller }).unwrap();
            answers.push(answer);
        }
        (Gathering::new(receiver, Arc::new(clock), TIMEOUT), answers)
    }

    fn expected(load: &Load) -> Vec<Expected> {
        load.batch.appends().map(|(append, _)| append.expected).collect()
    }

    #[test]
    fn should_begin_the_next_load_with_what_did_not_fit() {
        let appends = [Expected::Empty, Expected::Any, Expected::Exact(2), Expected::Any];
        let (mut gathering, _answers) = gathering(&appends);
        assert_eq!(expected(&gathering.take()), [Expected::Empty, Expected::Any]);
        assert!(!gathering.is_empty());
        assert_eq!(expected(&gathering.take()), [Expected::Exact(2), Expected::Any]);
        assert!(gathering.is_empty());
    }

    #[test]
    fn should_leave_out_who_is_gone() {
        let (mut gathering, mut answers) = gathering(&[Expected::Empty, Expected::Any]);
        answers.remove(0);
        let load = gathering.take();
        assert_eq!((expected(&load), load.callers.len()), (vec![Expected::Any], 1));
    }
}
