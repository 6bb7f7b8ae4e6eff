//! Execution of Python code: callbacks on the event loop, plain functions in threads, and the
//! polling of workflow runs.
//!
//! Three kinds of threads take part:
//!
//! | thread | number | holds the interpreter's lock |
//! |---|---|---|
//! | thread of the event loop | one for a client | while it runs a callback; not while it waits for input |
//! | Python threads of a pool | up to the concurrency of the plain functions | while they run a function; not while they wait for one |
//! | native threads, named `aios` | as many as the client has workers | never, except to execute Python code that the engine needs at once |
//!
//! The native threads do the work of the engine, the store and the broker. They hand work over to
//! Python by two queues, and neither of them needs the interpreter's lock to be filled:
//!
//! - [`Bridge`] takes jobs for the thread of the event loop, and wakes the loop with a byte in a
//!   socket pair. Answers of calls, the start and the cancellation of `async def` functions, and
//!   polls of workflow runs are jobs.
//! - [`CallQueue`] takes calls of plain functions, and wakes one of the Python threads with a
//!   condition variable.
//!
//! In the other direction Python does not wait either: [`Calls`](crate::calls::Calls) starts a Rust
//! future on the native threads, and returns an `asyncio` future that a job resolves.
//!
//! | module | contents |
//! |---|---|
//! | `event_loop` | the queue of jobs, and how the loop is woken |
//! | `executors` | calls of Python functions as Rust futures |
//! | `threads` | the queue of plain functions |
//! | `run_executor` | polls of workflow runs on the thread of the loop |
//! | `short_wait` | the wait of a native thread before it sleeps |

mod event_loop;
mod executors;
mod run_executor;
mod short_wait;
mod threads;

pub(crate) use self::{
    event_loop::{Bridge, LoopBridge, LoopPulse, ends_process},
    executors::{MakeArguments, PyFunction, PythonExecutors, Reply, TaskHooks},
    run_executor::LoopExecutor,
    short_wait::ShortWait,
    threads::{CallQueue, ThreadPool},
};
