//! Runs one review, from the command line to the report.

use std::{error::Error, process::ExitCode, sync::Arc, time::Duration};

use aios_agents::{prelude::*, runtime::RuntimeBuilder};
use aios_broker::memory::MemoryBroker;
use aios_core::{
    clock::{Clock, SystemClock},
    store::StoreError,
};

use crate::{
    agents,
    cli::{Job, Whole},
    interrupt::{Interrupts, Signal},
    progress,
    report::MARKDOWN,
    request::Request,
    reviewer::Model,
    runs::{self, Before, Choice},
    workflow::{self, Outcome, code_review},
};

/// Time for tasks in progress to finish when the program is told to stop.
pub(crate) const DRAIN: Duration = Duration::from_secs(5);
/// How often, and at which interval, the program checks whether another process has released the
/// store.
const LOOKS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(100);

/// Reviews the tree in this process, or resumes a review that was interrupted.
pub(crate) async fn whole(whole: &Whole, request: &Request) -> Result<ExitCode, Box<dyn Error>> {
    let mut interrupts = Interrupts::new()?;
    let store = open(&whole.job.store).await?;
    let choice = choose(&whole.job, request, &store).await?;
    announce(&choice, request);

    let broker = aios_broker::connect(&whole.broker).await?;
    let workers = builder().store(Arc::clone(&store)).broker(Arc::clone(&broker));
    let model = Model::connect(&whole.job.model).await?;
    let mut hosting = agents::host(workers, whole.job.concurrency, &whole.trace)?;
    if let Some(model) = &model {
        hosting = model.run(model.host(hosting)?)?;
    }
    let runtime = hosting.start().await?;
    let ended = attend(&runtime, &choice, request, &mut interrupts).await;
    let draining = async {
        let drained = runtime.shutdown(DRAIN).await;
        (drained, broker.close(DRAIN).await)
    };
    tokio::select! {
        (drained, closed) = draining => {
            if let Err(error) = drained {
                // They are analysed again when the review resumes.
                eprintln!("code-review: some files took too long to wait for: {error}");
            }
            closed?;
        }
        signal = interrupts.next() => return Ok(signal.exit_code()),
    }
    match ended? {
        Ended::Done(outcome) => Ok(done(&outcome)),
        Ended::Stopped(signal) => {
            let done = runs::done(&store, &choice.run_id).await?;
            println!("stopped: {done} files are done; run the same command again to resume");
            Ok(signal.exit_code())
        }
    }
}

/// Has the tree reviewed by other processes, or waits for their review.
pub(crate) async fn start(job: &Job, request: &Request) -> Result<ExitCode, Box<dyn Error>> {
    let mut interrupts = Interrupts::new()?;
    let store = open(&job.store).await?;
    let choice = choose(job, request, &store).await?;
    announce(&choice, request);
    match attend(&client(&store).start().await?, &choice, request, &mut interrupts).await? {
        Ended::Done(outcome) => Ok(done(&outcome)),
        Ended::Stopped(signal) => {
            println!("the review continues; run the same command again to see how far it is");
            Ok(signal.exit_code())
        }
    }
}

/// Opens the store. A process that was just killed may hold it for a moment.
async fn open(url: &str) -> Result<Arc<dyn Store>, StoreError> {
    for _ in 0..LOOKS {
        match aios_store::connect(url).await {
            Err(StoreError::Locked { .. }) => SystemClock.sleep(PAUSE).await,
            opened => return opened,
        }
    }
    aios_store::connect(url).await
}

/// The builder of every runtime of this program that has a store.
pub(crate) fn builder() -> RuntimeBuilder {
    Runtime::builder().source("code-review").workflow(workflow::NAME, code_review)
}

/// A runtime that starts runs and handles them, but leaves their execution to other processes.
fn client(store: &Arc<dyn Store>) -> RuntimeBuilder {
    builder().store(Arc::clone(store)).broker(Arc::new(MemoryBroker::new())).client_only()
}

/// How the program ended.
enum Ended {
    Done(Outcome),
    Stopped(Signal),
}

/// Starts the run if it has not begun, and waits for its end.
async fn attend(
    runtime: &Runtime,
    choice: &Choice,
    request: &Request,
    interrupts: &mut Interrupts,
) -> Result<Ended, Box<dyn Error>> {
    let run = match &choice.before {
        Before::Unfinished { .. } => runtime.handle(&choice.run_id).await?,
        _ => runtime.start(workflow::NAME, request).id(&choice.run_id).await?,
    };
    let before = match choice.before {
        Before::Unfinished { done, .. } => done,
        _ => 0,
    };
    tokio::select! {
        outcome = progress::watch(&run, before) => outcome.map(Ended::Done),
        signal = interrupts.next() => Ok(Ended::Stopped(signal)),
    }
}

/// Chooses the run before this process has an engine, so that earlier progress is counted exactly.
async fn choose(
    job: &Job,
    request: &Request,
    store: &Arc<dyn Store>,
) -> Result<Choice, Box<dyn Error>> {
    let runtime = client(store).start().await?;
    let choice = runs::choose(&runtime, store, &request.tree, job.fresh).await?;
    let others = runs::others(store, &request.tree).await?;
    if others > 0 {
        println!("unfinished reviews of other trees in {} resume too: {others}", job.store);
    }
    runtime.shutdown(DRAIN).await?;
    Ok(choice)
}

fn announce(choice: &Choice, request: &Request) {
    let root = request.tree.root.display();
    match &choice.before {
        Before::Nothing => println!("reviewing {root}"),
        Before::Unfinished { done, total: Some(total) } => {
            println!("resuming: {done} of {total} files were done");
        }
        Before::Unfinished { .. } => println!("resuming: the files were not listed yet"),
        Before::Completed => {
            let report = request.tree.own_files.out().join(MARKDOWN);
            println!("the last review is done, see {}; reviewing {root} again", report.display());
        }
        Before::GivenUp(reason) => println!("the last review failed ({reason}); starting over"),
        Before::Abandoned => println!("the unfinished review is given up; starting over"),
    }
}

fn done(outcome: &Outcome) -> ExitCode {
    println!("{} files reviewed: {}", outcome.files, outcome.markdown.display());
    ExitCode::SUCCESS
}
