//! Runs one review, from the command line to the report.

use std::{error::Error, fs::File, path::Path, process::ExitCode, sync::Arc, time::Duration};

use aios_agents::{agent::AgentDefinition, prelude::*, runtime::RuntimeBuilder};
use aios_broker::memory::MemoryBroker;

use crate::{
    agents::{Analyzer, Reporter, Scanner},
    cli::Arguments,
    interrupt::{Interrupts, Signal},
    progress,
    report::MARKDOWN,
    request::Request,
    runs::{self, Before, Choice},
    workflow::{self, Outcome, code_review},
};

/// How long tasks that run may go on when the program is told to stop.
const DRAIN: Duration = Duration::from_secs(5);

/// Reviews the tree, or goes on with a review that was interrupted.
pub(crate) async fn review(
    arguments: &Arguments,
    request: &Request,
) -> Result<ExitCode, Box<dyn Error>> {
    let mut interrupts = Interrupts::new()?;
    let store = aios_store::connect(&arguments.store).await?;
    let choice = choose(arguments, request, &store).await?;
    announce(&choice, request);

    let runtime = workers(arguments, &store)?.start().await?;
    let run = match &choice.before {
        Before::Unfinished { .. } => runtime.run(&choice.run_id).await?,
        _ => runtime.start(workflow::NAME, request).with_id(&choice.run_id).await?,
    };
    let ended = tokio::select! {
        outcome = progress::watch(&run) => outcome.map(Ended::Done),
        signal = interrupts.next() => Ok(Ended::Stopped(signal)),
    };
    tokio::select! {
        stopped = runtime.shutdown(DRAIN) => {
            if let Err(error) = stopped {
                // They are done again when the review goes on.
                eprintln!("code-review: some files took too long to wait for: {error}");
            }
        }
        signal = interrupts.next() => return Ok(signal.exit_code()),
    }
    match ended? {
        Ended::Done(outcome) => Ok(done(&outcome)),
        Ended::Stopped(signal) => {
            println!("{}", stopped(&store, &choice.run_id).await?);
            Ok(signal.exit_code())
        }
    }
}

/// How the program got to its end.
enum Ended {
    Done(Outcome),
    Stopped(Signal),
}

/// What every runtime of this program has: here two URLs would name a server instead.
fn builder(store: &Arc<dyn Store>) -> RuntimeBuilder {
    Runtime::builder()
        .source("code-review")
        .store(Arc::clone(store))
        .broker(Arc::new(MemoryBroker::new()))
        .workflow(workflow::NAME, code_review)
}

/// A runtime that does the work.
fn workers(
    arguments: &Arguments,
    store: &Arc<dyn Store>,
) -> Result<RuntimeBuilder, Box<dyn Error>> {
    let trace = arguments.trace_executions.as_deref().map(open_trace).transpose()?;
    let analyzer = AgentDefinition::instance("analyzer", Analyzer { trace })
        .with_concurrency(arguments.concurrency.get());
    Ok(builder(store).agent("scanner", Scanner).agents(analyzer).agent("reporter", Reporter))
}

fn open_trace(path: &Path) -> std::io::Result<File> {
    File::options().create(true).append(true).open(path)
}

/// Chooses the run while nothing goes on yet, so that what was done before is counted exactly.
async fn choose(
    arguments: &Arguments,
    request: &Request,
    store: &Arc<dyn Store>,
) -> Result<Choice, Box<dyn Error>> {
    let runtime = builder(store).without_engine().start().await?;
    let choice = runs::choose(&runtime, store, &request.tree, arguments.fresh).await?;
    let others = runs::others(store, &request.tree).await?;
    if others > 0 {
        println!("unfinished reviews of other trees in {} go on too: {others}", arguments.store);
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

async fn stopped(store: &Arc<dyn Store>, run_id: &str) -> Result<String, Box<dyn Error>> {
    let done = runs::done(store, run_id).await?;
    Ok(format!("stopped: {done} files are done; run the same command again to go on"))
}
