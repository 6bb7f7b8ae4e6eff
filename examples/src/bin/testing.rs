//! A workflow is tested with scripted agents on virtual time, and replayed against its journal.
#![allow(clippy::print_stdout, reason = "a program talks to its user")]

use std::{sync::Arc, time::Duration};

use aios_agents::{
    prelude::*,
    testing::{WorkflowTest, replay},
    workflow::FnWorkflow,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

async fn remind(context: WorkflowContext, name: String) -> Result<u32, WorkflowError> {
    let mut reminders = 0;
    loop {
        let answer = context.signal::<String>("answer").timeout(7 * DAY).await;
        match answer {
            Ok(_) => return Ok(reminders),
            Err(error) if error.code() == "SIGNAL_TIMEOUT" => {
                context.task::<()>("mailer", &name).await?;
                reminders += 1;
            }
            Err(error) => return Err(error),
        }
    }
}

/// A change that does not match existing journals: it sends the first mail at once.
async fn remind_sooner(context: WorkflowContext, name: String) -> Result<u32, WorkflowError> {
    context.task::<()>("mailer", &name).await?;
    remind(context, name).await
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let run = WorkflowTest::new("remind", remind)?
        .agent("mailer", |_: String| Ok(()))
        .signal(20 * DAY, "answer", "yes")
        .run("Ada")
        .await;
    let reminders: u32 = run.result().map_err(|error| error.to_string())?;
    println!("{reminders} reminders in {} days", run.elapsed().as_secs() / DAY.as_secs());

    // A journal, from a test or from production, shows whether the current code still matches it.
    let journal = run.events()?;
    replay(Arc::new(FnWorkflow::new("remind", remind)?), &journal).await?;
    println!("the code fits");
    match replay(Arc::new(FnWorkflow::new("remind", remind_sooner)?), &journal).await {
        Ok(()) => println!("the change fits"),
        Err(_) => println!("the change does not fit"),
    }
    Ok(())
}
