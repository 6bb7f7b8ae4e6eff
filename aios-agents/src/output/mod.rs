//! Output streams of runs: tokens, partial results and progress, written while a run works and read
//! from any offset by any number of readers.
//!
//! A task writes with [`TaskContext::stream`](aios_core::agent::TaskContext::stream), a step with
//! [`StepContext::stream`](crate::workflow::StepContext::stream), the code of a workflow with
//! [`WorkflowContext::stream`](crate::workflow::WorkflowContext::stream). Readers use
//! [`RunHandle::stream`](crate::RunHandle::stream), in any process with the same store.
//!
//! ```
//! use aios_agents::{output::OutputContent, prelude::*};
//! use futures_util::StreamExt;
//!
//! struct Writer;
//!
//! impl Agent for Writer {
//!     type Parameters = String;
//!     type Output = usize;
//!
//!     async fn process_task(&self, context: &TaskContext, text: String) -> Result<usize, TaskError> {
//!         let words = context.stream("words")?;
//!         for word in text.split(' ') {
//!             words.write(word)?;
//!         }
//!         Ok(text.len())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let runtime = Runtime::builder()
//!     .store(aios_store::connect("memory://").await?)
//!     .broker(aios_broker::connect("memory://").await?)
//!     .agent("writer", Writer)
//!     .start()
//!     .await?;
//! let run = runtime.task("writer", "Hello from afar").await?;
//! let mut items = run.stream("words").read_from(0);
//! let mut words = Vec::new();
//! while let Some(item) = items.next().await {
//!     match item?.content {
//!         OutputContent::Item(word) => words.push(word.decode::<String>()?),
//!         OutputContent::Reset => words.clear(),
//!         _ => {}
//!     }
//! }
//! assert_eq!(words, ["Hello", "from", "afar"]);
//! # Ok(())
//! # }
//! ```
//!
//! # Guarantees
//!
//! - A reader gets every stored item once and in order. One that reconnects with the offset of the
//!   last item that it has handled misses none.
//! - What a task or a step writes is stored before its result is recorded, if the store accepts it
//!   within ten seconds.
//! - What an attempt writes that its run no longer waits for, because it was cancelled or timed out,
//!   is stored as well, perhaps after the end of the run.
//! - A further attempt of a task or step writes its output again. Readers get
//!   [`OutputContent::Reset`] first.
//! - A resumed run continues a stream after what its code wrote before: the same items are not
//!   stored again.
//!
//! # Storage
//!
//! Each stream is an event stream of the log, outside of the journal of its run. Writers of one
//! process are stored together in short intervals. Nothing about output is part of a replay, except
//! that the code of a workflow writes the same items again.

mod batch;
mod hub;
mod reader;
mod writer;

pub use aios_core::output::{OutputError, OutputStream};

pub(crate) use self::hub::{Hub, RunOutputs};
pub use self::reader::{OutputContent, OutputItem, OutputReader, RunStream};
