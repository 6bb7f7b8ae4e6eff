//! The faults of a sweep, and the append at which one happens.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use aios_core::{
    BoxFuture,
    store::{Append, StoreError},
};
use tokio::sync::watch;

use super::{
    executions::moment,
    faulty::{self, FaultyStore, store_refuses, store_unavailable},
};

/// The events that may coincide with an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The process dies before it.
    CrashBefore,
    /// The process dies after it, without the response.
    CrashAfter,
    /// The process gets the response, and dies before the next append.
    CrashThen,
    /// The process shuts down.
    Shutdown,
    /// Another process joins, and the first one leaves a little later.
    Relieve,
    /// It is refused once.
    Refuse,
    /// It takes effect, and its response is lost.
    LoseResponse,
    /// It takes effect, and its response is late.
    Late,
    /// It is refused for good.
    Never,
}

pub(super) const FAULTS: [Fault; 9] = [
    Fault::CrashBefore,
    Fault::CrashAfter,
    Fault::CrashThen,
    Fault::Shutdown,
    Fault::Relieve,
    Fault::Refuse,
    Fault::LoseResponse,
    Fault::Late,
    Fault::Never,
];

impl Fault {
    pub(super) fn crashes(self) -> bool {
        matches!(self, Self::CrashBefore | Self::CrashAfter | Self::CrashThen)
    }

    /// Whether another process has to take over.
    pub(super) fn ends_process(self) -> bool {
        self.crashes() || matches!(self, Self::Shutdown | Self::Relieve)
    }

    /// The behaviour of the store at the append. Polling `reach` signals that it is reached.
    pub(super) fn of_store(self, reach: BoxFuture<'static, ()>) -> faulty::Fault<StoreError> {
        let die = |reach: BoxFuture<'static, ()>| async {
            reach.await;
            std::future::pending().await
        };
        match self {
            Self::CrashBefore => faulty::Fault::After(Box::pin(die(reach))),
            // A driver that awaits another call, which hangs, does not poll the append.
            Self::CrashAfter => faulty::Fault::Detached(Box::pin(die(reach))),
            Self::CrashThen => faulty::Fault::Detached(reach),
            Self::Shutdown | Self::Relieve => faulty::Fault::After(reach),
            Self::Refuse => faulty::Fault::Refuse(store_unavailable()),
            Self::LoseResponse => faulty::Fault::LoseResponse(store_unavailable()),
            Self::Late => faulty::Fault::Until(Box::pin(async {
                for _ in 0..50 {
                    moment().await;
                }
            })),
            Self::Never => faulty::Fault::Refuse(store_refuses()),
        }
    }
}

/// An append at which something happens.
pub(super) struct Point {
    /// How many appends there were from that one on.
    reached: watch::Receiver<usize>,
    dead: Arc<AtomicBool>,
}

impl Point {
    /// Sets what happens at the append with a number, from 1, of those that count, and whether it ends
    /// the process.
    pub(super) fn set(
        faulty: &FaultyStore,
        number: usize,
        kills: bool,
        counts: impl Fn(&Append) -> bool + Send + Sync + 'static,
        happens: impl Fn(BoxFuture<'static, ()>) -> faulty::Fault<StoreError> + Send + Sync + 'static,
    ) -> Self {
        let (sender, reached) = watch::channel(0);
        let (appends, dead) = (AtomicUsize::new(0), Arc::new(AtomicBool::new(false)));
        let (is_dead, dies) = (Arc::clone(&dead), Arc::clone(&dead));
        faulty.on_call(move |_| is_dead.load(Ordering::SeqCst).then_some(faulty::Fault::Hang));
        faulty.on_append(move |append| {
            if dies.load(Ordering::SeqCst) {
                return Some(faulty::Fault::Hang);
            }
            if !counts(append) {
                return None;
            }
            let this = appends.fetch_add(1, Ordering::SeqCst) + 1;
            if this != number {
                sender.send_replace((this + 1).saturating_sub(number));
                return None;
            }
            dies.store(kills, Ordering::SeqCst);
            let reach = Reach(sender.clone());
            Some(happens(Box::pin(async move { drop(reach) })))
        });
        Self { reached, dead }
    }

    /// Waits until this number of appends was reached, this one included.
    pub(super) async fn reached(&mut self, count: usize) {
        drop(self.reached.wait_for(|reached| *reached >= count).await);
    }

    /// Whether the process is dead.
    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }
}

/// Counts the append as reached when it is dropped, so that one whose caller gives up counts as well.
struct Reach(watch::Sender<usize>);

impl Drop for Reach {
    fn drop(&mut self) {
        self.0.send_modify(|reached| *reached = (*reached).max(1));
    }
}
