//! Tasks on their way to agents: publishes them, and notices those that got lost.

mod activity;
pub(super) mod dead_letters;
pub(super) mod dispatch;
pub(super) mod suspicion;

pub(crate) use self::activity::{Activity, Queued, lost_after};
pub(crate) use self::dead_letters::SEEK;
pub(crate) use self::dispatch::{Attempt, Dispatch};
pub(crate) use self::suspicion::WINDOW;
