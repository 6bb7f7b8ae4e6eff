//! The layers of every request: ids, limits, origins, credentials, audit and idempotency.

mod append;
mod audit;
mod authorize;
mod cors;
pub(super) mod finish;
mod guard;
pub(super) mod idempotency;
mod limits;
mod rate_limit;
mod request_id;
mod spans;
mod trace;

pub(crate) use self::{
    audit::{AuditLog, AuditStored},
    authorize::{
        AgentsCreate, AgentsDelete, AgentsRead, AgentsReplace, AgentsRestart, Caller,
        DeadLettersPurge, DeadLettersRead, DeadLettersRedrive, EnginesRead, EventsPublish,
        EventsRead, ProjectionsRead, ProjectionsRedrive, ProjectionsRetire, RunsCancel, RunsFork,
        RunsPause, RunsRead, RunsResume, RunsRetry, RunsSignal, RunsStart, TasksCancel,
        TasksCreate, TasksRead, WorkflowsRead,
    },
    finish::{finish, not_found, refusal},
    guard::guard,
    idempotency::RequestIds,
    rate_limit::Limiter,
    spans::trace as trace_request,
    trace::metadata,
};
pub use self::{
    cors::{Cors, InvalidOrigin},
    finish::answer_unrouted,
    limits::Limits,
    rate_limit::{InvalidRateLimit, RateLimit},
};
