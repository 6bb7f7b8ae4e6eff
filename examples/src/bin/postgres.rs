//! The store in PostgreSQL: a separate schema, limits, and the removal of old runs.
//!
//!     cargo run --bin postgres -- postgres://user:password@host/database
#![allow(clippy::print_stdout, reason = "a program talks to its user")]

use std::{sync::Arc, time::Duration};

use aios_agents::prelude::*;
use aios_store::{
    Retention,
    postgres::{PostgresOptions, PostgresStore},
};

async fn report(context: WorkflowContext, month: u32) -> Result<String, WorkflowError> {
    context.run("write", || async { format!("the report of month {month}") }).await
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).ok_or("usage: postgres URL")?;
    // Several installations can share a database if each has its own schema.
    let options = PostgresOptions::new(&url)
        .with_schema("reports")
        .with_max_connections(5)
        .with_statement_timeout(Duration::from_secs(10));
    let store = PostgresStore::connect_with(options).await?;
    let runtime = Runtime::builder()
        .store(Arc::new(store.clone()))
        .broker(aios_broker::connect("memory://").await?)
        .workflow("report", report)
        .start()
        .await?;

    // A run for each month: starting it again returns the stored result.
    for month in 1..=3 {
        let run = runtime.start("report", &month).id(format!("report-{month}")).await?;
        println!("{}", run.result::<String>().await?);
    }

    // Runs that ended more than a year ago are removed. Call it from a timer.
    let year = Duration::from_secs(365 * 24 * 60 * 60);
    println!("{} runs removed", store.expire_runs(&Retention::new(year)).await?);
    runtime.shutdown(Duration::from_secs(5)).await?;
    Ok(())
}
