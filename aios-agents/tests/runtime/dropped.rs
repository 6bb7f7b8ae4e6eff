//! A runtime that is dropped, at whatever moment, ends everything that it has begun.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use aios_agents::prelude::*;
use aios_broker::memory::MemoryBroker;
use aios_core::{broker::Broker, store::Store};
use aios_store::memory::MemoryStore;
use tokio::sync::{Notify, watch};

use crate::support::{
    faulty::{Fault, FaultyBroker, FaultyStore},
    workflows::{Doubler, eventually, result},
};

/// Counts the calls of the store and the broker. The process is dropped during one of them.
#[derive(Clone)]
struct Calls {
    count: Arc<AtomicUsize>,
    last: usize,
    reached: Arc<Notify>,
    /// Whether the process was dropped.
    dropped: watch::Sender<bool>,
}

impl Calls {
    /// The last call, and those after it, return after the process was dropped: tasks that have to finish
    /// their call do so then.
    fn fault<E>(&self) -> Option<Fault<E>> {
        let number = self.count.fetch_add(1, Ordering::SeqCst) + 1;
        if number < self.last {
            return None;
        }
        self.reached.notify_one();
        let mut dropped = self.dropped.subscribe();
        Some(Fault::After(Box::pin(
            async move { drop(dropped.wait_for(|dropped| *dropped).await) },
        )))
    }
}

async fn both(context: WorkflowContext, number: u64) -> Result<u64, WorkflowError> {
    let doubled: u64 = context.task("doubler", &number).await?;
    context.step("add", || async { Ok::<_, TaskError>(doubled + 1) }).await
}

/// Starts a runtime and performs a run. Returns whether it ended before the call with this number.
async fn ends_before(last: usize) -> bool {
    let (count, reached) = (Arc::default(), Arc::default());
    let calls = Calls { count, last, reached, dropped: watch::Sender::new(false) };
    let store = FaultyStore::new(Arc::new(MemoryStore::new()));
    let broker = FaultyBroker::new(Arc::new(MemoryBroker::new()));
    let (of_append, of_call) = (calls.clone(), calls.clone());
    store.on_append(move |_| of_append.fault());
    store.on_call(move |_| of_call.fault());
    let (of_publish, of_subscribe) = (calls.clone(), calls.clone());
    broker.on_publish(move |_| of_publish.fault());
    broker.on_subscribe(move |_| of_subscribe.fault());
    let (weak_store, weak_broker) = (Arc::downgrade(&store), Arc::downgrade(&broker));
    let life = async move {
        let builder = Runtime::builder().store(store as Arc<dyn Store>);
        let builder = builder.broker(broker as Arc<dyn Broker>);
        let builder = builder.agent("doubler", Doubler::default()).workflow("both", both);
        let runtime = builder.start().await.unwrap();
        let run = runtime.start("both", &20).await.unwrap();
        assert_eq!(result::<u64>(&run).await.unwrap(), 41);
    };
    let has_ended = tokio::select! {
        () = life => true,
        () = calls.reached.notified() => false,
    };
    calls.dropped.send_replace(true);
    eventually(&format!("nothing is left after call {last}"), || async {
        weak_store.strong_count() + weak_broker.strong_count() == 0
    })
    .await;
    has_ended
}

#[tokio::test(flavor = "multi_thread")]
async fn should_leave_nothing_running_whenever_it_is_dropped() {
    let mut last = 1;
    while !ends_before(last).await {
        last += 1;
    }
    assert!(last > 20, "only {last} calls");
}
