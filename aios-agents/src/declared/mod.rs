//! Typed declarations of agents and workflows.
//!
//! A declaration is a constant that callers and implementations share. The compiler checks that the
//! function has the declared types, and so do inputs and results. Names as text remain possible
//! everywhere; they are checked at run time.
//!
//! ```
//! use aios_agents::{AgentRef, WorkflowRef, prelude::*};
//!
//! const GREETER: AgentRef<String, String> = AgentRef::new("greeter");
//! const WELCOME: WorkflowRef<String, usize> = WorkflowRef::new("welcome");
//!
//! struct Greeter;
//!
//! impl Agent for Greeter {
//!     type Parameters = String;
//!     type Output = String;
//!
//!     async fn process_task(&self, _: &TaskContext, name: String) -> Result<String, TaskError> {
//!         Ok(format!("Hello, {name}!"))
//!     }
//! }
//!
//! async fn welcome(context: WorkflowContext, name: String) -> Result<usize, WorkflowError> {
//!     let greeting = GREETER.task(&context, &name).await?;
//!     Ok(greeting.len())
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let store = std::sync::Arc::new(aios_store::memory::MemoryStore::new());
//! # let broker = std::sync::Arc::new(aios_broker::memory::MemoryBroker::new());
//! let runtime = Runtime::builder()
//!     .store(store)
//!     .broker(broker)
//!     .agents(GREETER.instance(Greeter))
//!     .workflow(WELCOME, welcome)
//!     .start()
//!     .await?;
//! let run = runtime.start(WELCOME, "Ada").await?;
//! assert_eq!(run.result().await?, 11);
//! # Ok(())
//! # }
//! ```
//!
//! A function with other types does not compile:
//!
//! ```compile_fail
//! use aios_agents::{Runtime, WorkflowRef, prelude::*};
//!
//! const WELCOME: WorkflowRef<String, usize> = WorkflowRef::new("welcome");
//!
//! async fn welcome(_: WorkflowContext, name: String) -> Result<String, WorkflowError> {
//!     Ok(name)
//! }
//!
//! let builder = Runtime::builder().workflow(WELCOME, welcome);
//! ```
//!
//! nor does a start with another input:
//!
//! ```compile_fail
//! # use aios_agents::{Runtime, WorkflowRef};
//! # const WELCOME: WorkflowRef<String, usize> = WorkflowRef::new("welcome");
//! # fn example(runtime: &Runtime) {
//! let run = runtime.start(WELCOME, &7_u32);
//! # }
//! ```
//!
//! nor a task with other parameters, or an answer of another type:
//!
//! ```compile_fail
//! # use aios_agents::{AgentRef, prelude::*};
//! # const GREETER: AgentRef<String, String> = AgentRef::new("greeter");
//! # fn example(context: &WorkflowContext) {
//! let call = GREETER.task(context, &7_u32);
//! # }
//! ```
//!
//! ```compile_fail
//! # use aios_agents::{AgentRef, prelude::*};
//! # const GREETER: AgentRef<String, String> = AgentRef::new("greeter");
//! # async fn example(context: &WorkflowContext) -> Result<(), WorkflowError> {
//! let length: usize = GREETER.task(context, "Ada").await?;
//! # Ok(())
//! # }
//! ```
//!
//! nor an agent with other parameters or another output:
//!
//! ```compile_fail
//! # use aios_agents::{AgentRef, prelude::*};
//! # const GREETER: AgentRef<String, String> = AgentRef::new("greeter");
//! # struct Counter;
//! # impl Agent for Counter {
//! #     type Parameters = u32;
//! #     type Output = u32;
//! #     async fn process_task(&self, _: &TaskContext, n: u32) -> Result<u32, TaskError> { Ok(n) }
//! # }
//! let definition = GREETER.instance(Counter);
//! ```

mod agent;
mod run;
mod workflow;

pub use self::{
    agent::{AgentRef, StartAgentTask},
    run::{StartTyped, TypedRun},
    workflow::{WorkflowName, WorkflowRef},
};
pub use crate::runtime::StartWorkflow;
