//! The parts that run until they are stopped.

use std::{error::Error, process::ExitCode, sync::Arc};

use aios_agents::{prelude::*, runtime::RuntimeBuilder};

use crate::{
    agents,
    cli::{Agent, Engine},
    interrupt::Interrupts,
    review::{DRAIN, builder},
    reviewer::Model,
};

/// Advances the runs of a store; agents in other processes run the tasks.
pub(crate) async fn engine(engine: &Engine) -> Result<ExitCode, Box<dyn Error>> {
    let store = aios_store::connect(&engine.store).await?;
    let mut builder = builder().store(store);
    let model = Model::connect(&engine.model).await?;
    if let Some(model) = &model {
        builder = model.run(builder)?;
    }
    serve("engine", builder, &engine.broker).await
}

/// Runs tasks for engines in other processes; it needs no store.
pub(crate) async fn agent(agent: &Agent) -> Result<ExitCode, Box<dyn Error>> {
    let builder = Runtime::builder().source("code-review");
    let mut builder = agents::host(builder, agent.concurrency, &agent.trace)?;
    let model = Model::connect(&agent.model).await?;
    if let Some(model) = &model {
        builder = model.host(builder)?;
    }
    serve("agent", builder, &agent.broker).await
}

/// Runs until a signal arrives, then finishes or returns the tasks in progress.
async fn serve(
    part: &str,
    builder: RuntimeBuilder,
    broker: &str,
) -> Result<ExitCode, Box<dyn Error>> {
    let mut interrupts = Interrupts::new()?;
    let broker = aios_broker::connect(broker).await?;
    let runtime = builder.broker(Arc::clone(&broker)).start().await?;
    println!("{part} is ready");
    interrupts.next().await;
    let draining = async {
        if let Err(error) = runtime.shutdown(DRAIN).await {
            // Tasks that took too long were returned, and are run by another process.
            eprintln!("code-review: {error}");
        }
        broker.close(DRAIN).await
    };
    tokio::select! {
        closed = draining => closed?,
        signal = interrupts.next() => return Ok(signal.exit_code()),
    }
    println!("{part} has stopped");
    Ok(ExitCode::SUCCESS)
}
