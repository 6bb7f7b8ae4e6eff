//! A run without a fixed end, whose journal stays short.
//!
//! Each iteration of the loop adds to the journal, which is read again after a crash. After some
//! iterations the run continues as a new one with its current state; handles of the first run
//! follow it.
#![allow(clippy::print_stdout, reason = "a program talks to its user")]

use aios_agents::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Default, Serialize, Deserialize)]
struct Account {
    balance: i64,
}

const TURNS: u32 = 10;

async fn account(context: WorkflowContext, mut account: Account) -> Result<i64, WorkflowError> {
    for _ in 0..TURNS {
        // 0 closes the account.
        match context.signal::<i64>("deposit").await? {
            0 => return Ok(account.balance),
            amount => account.balance += amount,
        }
    }
    // Signals that have arrived and were not taken follow the run.
    Err(WorkflowError::continue_as_new(&account))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let runtime = Runtime::builder()
        .store(aios_store::connect("memory://").await?)
        .broker(aios_broker::connect("memory://").await?)
        .workflow("account", account)
        .start()
        .await?;
    let run = runtime.start("account", &Account::default()).id("account-ada").await?;
    for amount in (1..=25).chain([0]) {
        run.signal("deposit", &amount).await?;
    }
    println!("balance {}", run.result::<i64>().await?);
    println!("{} events in the last journal", run.journal(0, 100).await?.len());
    Ok(())
}
