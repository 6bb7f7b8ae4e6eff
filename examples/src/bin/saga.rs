//! A trip is booked completely or not at all: earlier bookings are cancelled, in reverse order, if
//! a later one fails.
#![allow(clippy::print_stdout, reason = "a program talks to its user")]

use std::time::Duration;

use aios_agents::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, Serialize, Deserialize, JsonSchema)]
enum Order {
    Book(String),
    Cancel(String),
}

/// Books everything except cars, which are sold out.
struct Booker;

impl Agent for Booker {
    type Parameters = Order;
    type Output = ();

    async fn process_task(&self, _: &TaskContext, order: Order) -> Result<(), TaskError> {
        match order {
            // A retry does not help, so the failure is final. Without `terminal` the task is
            // retried according to its retry policy.
            Order::Book(what) if what == "car" => {
                Err(Failure::new("SOLD_OUT", "there are no cars")).terminal()
            }
            Order::Book(what) => {
                println!("booked the {what}");
                Ok(())
            }
            Order::Cancel(what) => {
                println!("cancelled the {what}");
                Ok(())
            }
        }
    }
}

async fn trip(context: WorkflowContext, parts: Vec<String>) -> Result<(), WorkflowError> {
    for part in parts {
        // Registered before the booking: if the process dies between the two, or the answer is
        // lost, there is a booking to undo. The compensation must be harmless if nothing was
        // booked.
        let undo = Order::Cancel(part.clone());
        context.compensate(format!("cancel {part}"), |context| async move {
            context.task("booker", &undo).timeout(MINUTE).await
        });
        context.task::<()>("booker", &Order::Book(part)).timeout(MINUTE).await?;
    }
    Ok(())
}

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let runtime = Runtime::builder()
        .store(aios_store::connect("sqlite::memory:").await?)
        .broker(aios_broker::connect("memory://").await?)
        .agent("booker", Booker)
        .workflow("trip", trip)
        .start()
        .await?;
    let run = runtime.start("trip", &["flight", "hotel", "car"]).await?;
    if let Err(error) = run.result::<()>().await {
        let reason = error.failure().map_or_else(|| error.to_string(), ToString::to_string);
        println!("the trip failed: {reason}");
    }
    Ok(())
}
