//! Tests of workflows without a store, a broker or delays: scripted agents, virtual time, and the
//! replay of saved journals against the current code.
//!
//! ```
//! use std::time::Duration;
//!
//! use aios_agents::{prelude::*, testing::WorkflowTest};
//!
//! async fn remind(context: WorkflowContext, days: u64) -> Result<String, WorkflowError> {
//!     context.sleep(Duration::from_secs(days * 86_400)).await?;
//!     context.task("mailer", "time is up").await
//! }
//!
//! # futures_util::FutureExt::now_or_never(async {
//! let run = WorkflowTest::new("remind", remind)?
//!     .agent("mailer", |text: String| Ok(format!("sent: {text}")))
//!     .run(&30)
//!     .await;
//! assert_eq!(run.result::<String>().unwrap(), "sent: time is up");
//! assert_eq!(run.elapsed(), Duration::from_secs(30 * 86_400));
//! # Ok::<(), WorkflowError>(())
//! # }).unwrap().unwrap();
//! ```
//!
//! The code runs on the same machine and with the same polling as in an engine. So what a test
//! shows about the order of operations, retries, timers and cancellation is what an engine does.
//! Not simulated are a store that fails, the delivery of tasks, and several engines.
//!
//! | module | contents |
//! |---|---|
//! | `script` | the workflow under test and what surrounds it |
//! | `run` | performs the effects of the run in virtual time |
//! | `replay` | feeds a saved journal to the current code |
//! | `scheduled` | where the code is polled |
//! | `property` | generated workflows, for this crate's own tests |

#[cfg(test)]
mod property;
mod replay;
mod run;
mod scheduled;
mod script;

pub use self::{
    replay::{ReplayError, replay},
    run::TestedRun,
    script::WorkflowTest,
};
