//! Tasks on their way to agents: publishes them, and notices those that got lost.
//!
//! | module | contents |
//! |---|---|
//! | `dispatch` | publish tasks; fail an attempt with `AGENT_NOT_FOUND` if no queue takes it |
//! | `activity` | how far the queues of agents have moved, and which tasks they may have lost |
//! | `dead_letters` | find tasks that became dead letters |
//! | `suspicion` | check for lost tasks after the broker was away |

mod activity;
pub(super) mod dead_letters;
pub(super) mod dispatch;
pub(super) mod suspicion;

pub(crate) use self::activity::{Activity, Queued, lost_after};
pub(crate) use self::dead_letters::SEEK;
pub(crate) use self::dispatch::{Attempt, Dispatch};
pub(crate) use self::suspicion::{Audibility, WINDOW};
