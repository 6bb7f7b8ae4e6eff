//! The tasks of one run: the attempts that are open, and what ends or repeats them.

mod assignment;
mod open_tasks;
mod outgoing;
mod refusal;
mod seek;
mod unclaimed;

pub(super) use self::{
    assignment::{AnonymousAnswer, Assignment},
    open_tasks::OpenTasks,
    outgoing::Outgoing,
    seek::{RecordedAttempts, recorded_attempts},
};
pub(in super::super) use self::{
    assignment::{assignment_id, recorded, recorded_anonymous},
    refusal::{ANONYMOUS, Refusal, refuse},
};
