//! Agents as resources, changed by several callers at once.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use aios_agents::agent::Change;
use aios_core::{
    event::{Event, Payload},
    store::{Append, EventStoreExt, Store},
};
use serde_json::json;

use crate::support::{
    faulty::{Fault, FaultyStore},
    workflows::{PATIENCE, runtime, store},
};

tokio::task_local! {
    /// The calls of this task, and not those of the runtime.
    static OWN: ();
}

/// The change of someone else to the name of the agent `a`.
async fn rename(store: &dyn Store, name: &str) {
    let data = json!({ "agent_id": "a", "name": name, "config": null });
    let event = Event::new("agents.greeter.replaced".parse().unwrap(), "other", &data).unwrap();
    let append = Append::new("agents/a/desired".parse().unwrap(), vec![event]);
    store.append_one(append).await.unwrap();
}

/// An agent is read twice: its row, and the version of its desired state. Someone else changes it in between.
#[tokio::test(flavor = "multi_thread")]
async fn should_not_overwrite_a_change_that_was_made_while_the_agent_was_read() {
    let inner = store();
    let faulty = FaultyStore::new(Arc::clone(&inner));
    let store: Arc<dyn Store> = faulty.clone();
    let runtime = runtime(&store).start().await.unwrap();
    let agents = runtime.managed_agents().unwrap();
    let create = agents.create("greeter", "first", Some("a"), Payload::null(), Change::default());
    create.await.unwrap();
    let is_changed = Arc::new(AtomicBool::new(false));
    let changed = Arc::clone(&is_changed);
    faulty.on_call(move |method| {
        let is_read = ["agents", "read_stream"].contains(method) && OWN.try_with(|()| ()).is_ok();
        let is_first = is_read && !changed.swap(true, Ordering::SeqCst);
        let inner = Arc::clone(&inner);
        is_first.then(|| Fault::Until(Box::pin(async move { rename(&*inner, "theirs").await })))
    });
    let read = OWN.scope((), agents.get("a")).await.unwrap();
    assert!(is_changed.load(Ordering::SeqCst));
    let expected = read.version.unwrap().into();
    let mine = Change { expected, ..Change::default() };
    let refused = agents.replace("a", "mine", Payload::null(), mine).await.unwrap_err();
    assert_eq!(refused.code(), "PRECONDITION_FAILED");
    assert_eq!(agents.get("a").await.unwrap().record.name, "theirs");
    runtime.shutdown(PATIENCE).await.unwrap();
}
