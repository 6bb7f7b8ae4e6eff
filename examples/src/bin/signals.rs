//! A run waits for a signal that another process sends.
//!
//!     cargo run --bin signals -- wait postgres://…      starts the run, and waits for its result
//!     cargo run --bin signals -- send postgres://…      sends the signal, from any machine
//!
//! Both need only the store: a signal is an event in the stream of its run. It may be sent before
//! the run waits for it, and while no engine is running.
#![allow(clippy::print_stdout, reason = "a program talks to its user")]

use std::time::Duration;

use aios_agents::prelude::*;

async fn order(context: WorkflowContext, item: String) -> Result<String, WorkflowError> {
    context.set_status("waits for the payment");
    let cents: u64 = context.signal("paid").timeout(Duration::from_secs(24 * 60 * 60)).await?;
    Ok(format!("{item} was paid with {cents}"))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let usage = "usage: signals wait|send STORE";
    let role = std::env::args().nth(1).ok_or(usage)?;
    let store = aios_store::connect(&std::env::args().nth(2).ok_or(usage)?).await?;
    let builder = Runtime::builder()
        .store(store)
        .broker(aios_broker::connect("memory://").await?)
        .workflow("order", order);
    match role.as_str() {
        "wait" => {
            let runtime = builder.start().await?;
            let run = runtime.start("order", "tea").id("order-7").await?;
            println!("{}", run.result::<String>().await?);
            runtime.shutdown(Duration::from_secs(5)).await?;
        }
        // Without an engine, this process advances no runs.
        "send" => {
            let runtime = builder.client_only().start().await?;
            // If this process starts first, it starts the run together with its signal.
            runtime
                .signal_with_start("order", "order-7", "tea", "paid", &500)
                .signal_id("payment-1") // sent once, however often this program runs
                .await?;
            println!("sent");
        }
        _ => return Err(usage.into()),
    }
    Ok(())
}
