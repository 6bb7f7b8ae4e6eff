//! The life of a task in this process: received, begun, watched, answered.
//!
//! | modules | contents |
//! |---|---|
//! | `held` | tasks that wait for a slot |
//! | `questions`, `attempt_cache`, `sought` | recognise attempts that have ended or were delivered before |
//! | `attempt` | runs one attempt, from its delivery to its settlement |
//! | `supervisor`, `task_state` | enforce the timeout of an attempt, send its heartbeats and cancel it |
//! | `watchdog` | notice code that blocks its thread or event loop |
//! | `answer`, `publish`, `cancel` | publish the answer; receive cancellations |
//! | `hand_back` | return abandoned tasks to their agents |

mod answer;
mod attempt;
mod attempt_cache;
pub(super) mod cancel;
mod hand_back;
mod held;
mod publish;
mod questions;
mod sought;
mod supervisor;
mod task_state;
mod watchdog;

pub(crate) use self::{
    answer::log_unsettled,
    attempt::panicked,
    attempt_cache::AttemptCache,
    held::Held,
    questions::Questions,
    sought::{HeldAssignments, NewMailboxes},
    supervisor::FIRST_BEAT,
    watchdog::Watchdog,
};
