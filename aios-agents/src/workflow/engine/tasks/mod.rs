//! Tasks on their way to agents: publishes them, and notices those that got lost.

mod activity;
pub(super) mod dead_letters;
pub(super) mod dispatch;
pub(super) mod suspicion;

pub(crate) use self::{
    activity::{Activity, Queued, lost_after},
    dead_letters::SEEK,
    dispatch::{Attempt, Dispatch},
    suspicion::WINDOW,
};
