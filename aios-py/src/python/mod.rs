//! Execution of Python code: callbacks on the event loop, plain functions in threads, and the polling
//! of workflow runs.

mod event_loop;
mod executors;
mod run_executor;
mod threads;

pub(crate) use self::{
    event_loop::{Bridge, LoopBridge, LoopPulse},
    executors::{MakeArguments, PyFunction, PythonExecutors, Reply, TaskHooks},
    run_executor::LoopExecutor,
    threads::{CallQueue, ThreadPool},
};
