//! The parts that a deterministic simulation replaces on its thread: ids, randomness, and the
//! choice of the task that is polled next.
//!
//! Without the feature `simulation` none of this is compiled. With it, nothing changes on a thread
//! on which no simulation was [entered](enter).

use std::{
    cell::RefCell,
    fmt,
    marker::PhantomData,
    sync::Arc,
    task::{Context, Poll},
};

use uuid::Uuid;

thread_local! {
    static CURRENT: RefCell<Option<Arc<dyn Simulation>>> = const { RefCell::new(None) };
}

/// The source of everything that differs from run to run.
pub trait Simulation: Send + Sync + 'static {
    /// A fresh id.
    fn id(&self) -> Uuid;

    /// A number from 0 to 1.
    fn chance(&self) -> f64;

    /// Admits a task that is being spawned.
    fn admit(&self) -> Box<dyn Turns>;

    /// Whether a fault is planted, to verify that it is found.
    fn plants(&self, fault: &str) -> bool;
}

/// The turns of one task.
pub trait Turns: Send {
    /// Polls the task if it is its turn. The task is ready if it was polled and is ready.
    ///
    /// The caller is woken through `context`; the task may get another context.
    fn poll(
        &mut self,
        context: &mut Context<'_>,
        task: &mut dyn FnMut(&mut Context<'_>) -> Poll<()>,
    ) -> Poll<()>;
}

/// Leaves the simulation when it is dropped.
#[must_use = "dropping it leaves the simulation"]
pub struct Entered {
    before: Option<Arc<dyn Simulation>>,
    /// A simulation belongs to its thread.
    thread: PhantomData<*const ()>,
}

/// Enters a simulation on this thread.
pub fn enter(simulation: Arc<dyn Simulation>) -> Entered {
    let before = CURRENT.with_borrow_mut(|current| current.replace(simulation));
    Entered { before, thread: PhantomData }
}

/// The simulation of this thread, if there is one.
#[must_use]
pub fn current() -> Option<Arc<dyn Simulation>> {
    CURRENT.with_borrow(Clone::clone)
}

/// Whether the simulation of this thread plants a fault.
#[must_use]
pub fn plants(fault: &str) -> bool {
    CURRENT.with_borrow(|current| current.as_ref().is_some_and(|it| it.plants(fault)))
}

impl Drop for Entered {
    fn drop(&mut self) {
        let before = self.before.take();
        drop(CURRENT.with_borrow_mut(|current| std::mem::replace(current, before)));
    }
}

impl fmt::Debug for Entered {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Entered").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventId;

    struct Fixed;

    impl Simulation for Fixed {
        fn id(&self) -> Uuid {
            Uuid::from_u128(7)
        }

        fn chance(&self) -> f64 {
            0.5
        }

        fn admit(&self) -> Box<dyn Turns> {
            unreachable!("nothing is spawned")
        }

        fn plants(&self, fault: &str) -> bool {
            fault == "this one"
        }
    }

    #[test]
    fn should_replace_ids_until_it_is_left_and_only_on_its_thread() {
        let entered = enter(Arc::new(Fixed));
        assert_eq!(EventId::generate().key(), Uuid::from_u128(7));
        let elsewhere = std::thread::spawn(|| EventId::generate().key()).join().unwrap();
        assert_ne!(elsewhere, Uuid::from_u128(7));
        assert!(plants("this one") && !plants("another one"));
        drop(entered);
        assert!(current().is_none() && !plants("this one"));
        assert_ne!(EventId::generate().key(), Uuid::from_u128(7));
    }
}
