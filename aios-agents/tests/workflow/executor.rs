//! Runs that are polled by an executor other than the runtime's threads.

use std::{
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aios_agents::{prelude::*, runtime::RunExecutor};
use aios_core::BoxFuture;
use aios_store::sqlite::{SqliteOptions, SqliteStore};

use crate::support::workflows::{result, runtime};

const STEPS: usize = 100;

/// Polls of a run in addition to those for its steps: for its start, its end, and spurious wakes.
const OTHERS: usize = 10;

/// Counts how often runs are polled.
#[derive(Clone, Debug, Default)]
struct Counting(Arc<AtomicUsize>);

impl RunExecutor for Counting {
    fn drive(&self, mut run: BoxFuture<'static, ()>) -> BoxFuture<'static, ()> {
        let polls = Arc::clone(&self.0);
        Box::pin(poll_fn(move |context| {
            polls.fetch_add(1, Ordering::SeqCst);
            run.as_mut().poll(context)
        }))
    }

    fn on_blocking(&self, _: &str, _: Duration) {}
}

async fn count(context: WorkflowContext, steps: usize) -> Result<usize, WorkflowError> {
    for number in 0..steps {
        context.step("count", || async move { Ok::<_, TaskError>(number) }).await?;
    }
    Ok(steps)
}

/// A step whose result is being written to disk needs one poll: the one that its answer causes.
#[tokio::test(flavor = "multi_thread")]
async fn should_be_polled_once_for_each_step() {
    let polls = Counting::default();
    let folder = tempfile::tempdir().unwrap();
    let file = SqliteOptions::file(folder.path().join("runs.db"));
    let store: Arc<dyn Store> = Arc::new(SqliteStore::connect_with(file).await.unwrap());
    let builder = runtime(&store).executor(Arc::new(polls.clone()));
    let runtime = builder.workflow("count", count).start().await.unwrap();
    let run = runtime.start("count", &STEPS).await.unwrap();
    assert_eq!(result::<usize>(&run).await.unwrap(), STEPS);
    let polls = polls.0.load(Ordering::SeqCst);
    assert!((1..=STEPS + OTHERS).contains(&polls), "{polls} polls for {STEPS} steps");
}
