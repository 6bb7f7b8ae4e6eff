//! A workflow that waits for a person, for a day at most.
//!
//!     cargo run --bin approval -- yes      with an approval
//!     cargo run --bin approval -- no       with a refusal
//!     cargo run --bin approval             without an answer; the day is a second here
#![allow(clippy::print_stdout, reason = "a program talks to its user")]

use std::time::Duration;

use aios_agents::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Request {
    release: String,
    /// How long to wait for an answer.
    patience: Duration,
}

#[derive(Serialize, Deserialize)]
struct Approval {
    by: String,
    approved: bool,
}

async fn release(context: WorkflowContext, request: Request) -> Result<String, WorkflowError> {
    context.set_status(format!("{} waits for an approval", request.release));
    // While it waits, the run uses no memory and the process may stop: an answer that arrives
    // before the process runs again is kept.
    let answer = context.signal::<Approval>("approval").timeout(request.patience).await;
    let approval = match answer {
        Ok(approval) => approval,
        Err(error) if error.code() == "SIGNAL_TIMEOUT" => return Ok("no answer".to_owned()),
        Err(error) => return Err(error),
    };
    if !approval.approved {
        return Ok(format!("{} was refused by {}", request.release, approval.by));
    }
    context
        .step("publish", || async {
            // External effects belong in a step: its result is recorded, and it never runs again.
            Ok::<_, TaskError>(format!("{} was approved by {}", request.release, approval.by))
        })
        .await
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let answer = std::env::args().nth(1);
    let patience = Duration::from_secs(if answer.is_some() { 24 * 60 * 60 } else { 1 });
    let runtime = Runtime::builder()
        .store(aios_store::connect("sqlite::memory:").await?)
        .broker(aios_broker::connect("memory://").await?)
        .workflow("release", release)
        .start()
        .await?;

    let request = Request { release: "release 1.2".to_owned(), patience };
    let run = runtime.start("release", &request).id("release-1.2").await?;
    println!("waiting for an approval of {}", request.release);

    // Anyone who knows the run's id may answer: another task, another process, another machine.
    if let Some(answer) = answer {
        let approval = Approval { by: "Grace".to_owned(), approved: answer == "yes" };
        runtime.handle("release-1.2").await?.signal("approval", &approval).await?;
    }
    println!("{}", run.result::<String>().await?);
    Ok(())
}
