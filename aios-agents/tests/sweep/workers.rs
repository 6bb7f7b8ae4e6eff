//! The workers that take the cases of a sweep.

use std::{
    cell::Cell,
    sync::{Arc, Mutex},
};

use aios_core::{
    BoxFuture,
    store::{Store, StreamId},
};
use futures_util::future::join_all;

use super::{PATIENCE, journals::Journals};

/// Opens a store for one of the workers, which have trials at the same time.
pub(super) type Open = dyn Fn() -> BoxFuture<'static, Arc<dyn Store>>;

tokio::task_local! {
    /// The stage of the trial, for the report of one that does not end.
    static STAGE: Cell<&'static str>;
}

/// Notes what the trial does next.
pub(super) fn begin(stage: &'static str) {
    STAGE.with(|current| current.set(stage));
}

#[allow(clippy::disallowed_methods, reason = "a person asks for every case")]
pub(super) fn takes_all() -> bool {
    std::env::var("AIOS_SWEEP").is_ok_and(|which| which == "all")
}

/// Lets workers, each with a store, take the cases. `find` returns what is wrong with a case, whose runs
/// have ids that begin with `id`.
pub(super) async fn share<C>(
    open: &Open,
    workers: usize,
    cases: Vec<C>,
    find: impl AsyncFn(Arc<dyn Store>, String, &C) -> Vec<String>,
    describe: impl Fn(&C) -> String,
) {
    let left = Mutex::new(cases.into_iter().enumerate());
    let failed = Mutex::new(Vec::new());
    let next = || left.lock().unwrap().next();
    let work = (0..workers).map(|_| async {
        let mut store = open().await;
        while let Some((number, case)) = next() {
            let id = format!("t{number}");
            let finding = find(Arc::clone(&store), id.clone(), &case);
            let trial = async {
                // A process that waits for a dead engine gives a task back after a minute.
                match tokio::time::timeout(PATIENCE * 4, finding).await {
                    Ok(found) => found,
                    Err(_) => unfinished(&*store, &id).await,
                }
            };
            let found = STAGE.scope(Cell::new("the trial begins"), trial).await;
            if !found.is_empty() {
                failed.lock().unwrap().push(format!("{}: {found:#?}", describe(&case)));
                // A process that has not ended keeps its leases.
                store = open().await;
            }
        }
    });
    join_all(work).await;
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{} cases fail:\n{}", failed.len(), failed.join("\n"));
}

/// Why a trial has not ended: what it does, and its open runs with their journals.
async fn unfinished(store: &dyn Store, id: &str) -> Vec<String> {
    let mut found = vec![format!("it does not end: {}", STAGE.with(Cell::get))];
    for (run_id, status) in (Journals { store, id, from: 0 }).open().await {
        let stream = StreamId::of_run(&run_id).unwrap();
        let journal = store.read_stream(&stream, 0, 1000).await.unwrap();
        let actions: Vec<_> =
            journal.iter().map(|it| it.event.event_type.action().to_owned()).collect();
        found.push(format!("{run_id} is {status}: {}", actions.join(", ")));
    }
    found
}
