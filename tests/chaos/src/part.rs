//! The processes under test: an engine, or an agent service.

use std::{error::Error, io::Read, process::ExitCode, sync::Arc, time::Duration};

use aios_agents::{
    agent::{AgentDefinition, HostOptions},
    prelude::*,
    runtime::{EngineOptions, RuntimeBuilder},
};
use aios_core::{Chain, retry::Backoff};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::{
    counting,
    effect::Reporter,
    options::PartOptions,
    plan::{AGENT, CHAIN, CHILD, Plan, WORKFLOW, Work},
    plant::Plants,
    work::{Worker, chain, child, round},
};

/// How long running work has to end after SIGTERM.
const DRAIN: Duration = Duration::from_secs(3);
/// Tasks that an agent service runs concurrently.
const CONCURRENCY: u16 = 32;
/// The exit code of a process whose harness is gone.
const ORPHAN: i32 = 4;

/// Runs until SIGTERM.
pub(crate) fn run(options: PartOptions) -> ExitCode {
    log(options.verbose);
    counting::begin();
    std::thread::spawn(end_with_harness);
    let tokio = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let ended = tokio.map_err(Into::into).and_then(|tokio| {
        let ended = tokio.block_on(serve(options));
        tokio.shutdown_timeout(Duration::from_secs(1));
        ended
    });
    match ended {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ended: {}", Chain(&*error));
            ExitCode::FAILURE
        }
    }
}

fn log(verbose: bool) {
    let ours = if verbose { LevelFilter::DEBUG } else { LevelFilter::INFO };
    let levels = Targets::new()
        .with_default(LevelFilter::INFO)
        .with_target("lapin", LevelFilter::OFF)
        .with_target("aios", ours);
    let printed = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
    tracing_subscriber::registry().with(printed.with_filter(levels)).init();
}

/// The harness holds the other end of the standard input.
fn end_with_harness() {
    std::io::stdin().read_to_end(&mut Vec::new()).ok();
    std::process::exit(ORPHAN);
}

async fn serve(options: PartOptions) -> Result<ExitCode, Box<dyn Error>> {
    let mut terminated = signal(SignalKind::terminate())?;
    let reporter = Reporter { process: options.name.clone(), socket: options.socket.clone() };
    let plants = Plants(options.plant.clone());
    let broker = aios_broker::connect(&options.broker).await?;
    let builder = Runtime::builder().source(options.name.clone()).broker(Arc::clone(&broker));
    let runtime = match &options.store {
        Some(store) => {
            let store = aios_store::connect(store).await?;
            engine(builder.store(store), &reporter, options.lease(), &plants).start().await?
        }
        None => agent(builder, reporter, plants.clone()).start().await?,
    };
    plants.begin(&options.name, &*broker).await;
    println!("ready");
    tokio::select! {
        Some(()) = terminated.recv(), if plants.hears(&options.name) => {}
        failure = runtime.failed() => {
            eprintln!("the engine stopped: {failure}");
            return Ok(ExitCode::from(3));
        }
    }
    if let Err(error) = runtime.shutdown(DRAIN).await {
        eprintln!("handed back what ran: {}", Chain(&error));
    }
    broker.close(DRAIN).await?;
    Ok(ExitCode::SUCCESS)
}

fn engine(
    builder: RuntimeBuilder,
    reporter: &Reporter,
    lease: Duration,
    plants: &Plants,
) -> RuntimeBuilder {
    let (of_round, of_child, plants) = (reporter.clone(), reporter.clone(), plants.clone());
    builder
        .workflow(WORKFLOW, move |context, plan: Plan| {
            round(context, plan, of_round.clone(), plants.clone())
        })
        .workflow(CHAIN, chain)
        .workflow(CHILD, move |context, work: Work| child(context, work, of_child.clone()))
        .engine_options(
            EngineOptions::new()
                .with_lease_time(lease)
                .with_heartbeat_timeout(Duration::from_secs(6))
                .with_child_poll_interval(Duration::from_secs(5))
                .with_dead_letter_check(Duration::from_secs(2))
                .with_unclaimed_after(Duration::from_secs(5))
                .with_redispatch_after(Some(Duration::from_secs(5))),
        )
}

fn agent(builder: RuntimeBuilder, reporter: Reporter, plants: Plants) -> RuntimeBuilder {
    let worker =
        AgentDefinition::instance(AGENT, Worker(reporter, plants)).with_concurrency(CONCURRENCY);
    let options = HostOptions::new()
        .with_heartbeat_interval(Duration::from_secs(2))
        .with_backoff(Backoff::new(Duration::from_millis(200), Duration::from_secs(2)));
    builder.agents(worker).host_options(options)
}
