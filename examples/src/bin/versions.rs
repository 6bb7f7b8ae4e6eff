//! A workflow changes while runs of the old code are in progress.
//!
//! The first start of the program runs the old code and stops in the middle of a run. The second
//! one runs the new code: the old run keeps its branch, and a new run takes the new one.
#![allow(clippy::print_stdout, reason = "a program talks to its user")]

use std::{sync::Arc, time::Duration};

use aios_agents::{prelude::*, runtime::RuntimeError};
use aios_core::store::Store;

async fn ship_v1(context: WorkflowContext, order: String) -> Result<String, WorkflowError> {
    context.run("pack", || async {}).await?;
    let address: String = context.signal("address").await?;
    Ok(format!("{order} shipped to {address}"))
}

/// The same, with a check that earlier runs do not have.
async fn ship_v2(context: WorkflowContext, order: String) -> Result<String, WorkflowError> {
    let checked = context.version("check_stock", 1..=2)? >= 2;
    if checked {
        context.run("check stock", || async {}).await?;
    }
    context.run("pack", || async {}).await?;
    let address: String = context.signal("address").await?;
    let how = if checked { "checked and shipped" } else { "shipped" };
    Ok(format!("{order} {how} to {address}"))
}

async fn runtime(
    store: &Arc<dyn Store>,
    is_new: bool,
) -> Result<Runtime, Box<dyn std::error::Error>> {
    let builder = Runtime::builder()
        .store(Arc::clone(store))
        .broker(aios_broker::connect("memory://").await?);
    let builder =
        if is_new { builder.workflow("ship", ship_v2) } else { builder.workflow("ship", ship_v1) };
    Ok(builder.start().await?)
}

/// The previous deployment: it starts a run, which waits for an address.
async fn before() -> Result<(), Box<dyn std::error::Error>> {
    let store = aios_store::connect("sqlite://versions.db").await?;
    let old = runtime(&store, false).await?;
    let run = old.start("ship", "order 1").id("ship-1").await?;
    // Wait until the run has passed the point of the change.
    let mut events = run.events(0);
    while let Some(recorded) = events.next().await? {
        if recorded.event.event_type.action() == "step_completed" {
            break;
        }
    }
    old.shutdown(Duration::from_secs(5)).await?;
    // The next deployment opens the same file.
    Ok(store.close().await?)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    before().await?;
    println!("deployed");

    let store = aios_store::connect("sqlite://versions.db").await?;
    let new = runtime(&store, true).await?;
    new.start("ship", "order 2").id("ship-2").await?;
    for id in ["ship-1", "ship-2"] {
        let run = new.handle(id).await?;
        match run.signal("address", "Paris").await {
            // The program has run before.
            Ok(()) | Err(RuntimeError::RunEnded { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        println!("{}", run.result::<String>().await?);
    }
    new.shutdown(Duration::from_secs(5)).await?;
    Ok(store.close().await?)
}
