//! The validity of requests, which is checked before they become operations.
//!
//! A request that is refused here never gets into a journal. `OperationCall` checks again after an
//! option was set.

use std::time::Duration;

use aios_core::{catalog::codes, failure::Failure};

use crate::{
    agent::mailbox_of,
    options::{check_named, check_retry, check_span, check_timeout, refused},
    workflow::{
        InvalidSignalName, WorkflowError,
        machine::Request,
        run_id::{self, InvalidRunId},
    },
};

/// Validates a request. Rejects durations that are too short or too long, a task for an agent whose id
/// cannot be part of a mailbox name, a child with an invalid run id, and a wait for a signal that no
/// caller can send.
pub(super) fn checked(request: Request) -> Result<Request, WorkflowError> {
    // A derived id contains a character that is refused here, so only a chosen one is checked.
    if let Request::Child(child) = &request
        && let Some(Err(invalid)) = child.run_id.as_deref().map(run_id::check_chosen)
    {
        return Err(WorkflowError::failed(Failure::from_error(InvalidRunId::CODE, &invalid)));
    }
    if let Request::Task(task) = &request
        && let Some(agent_id) = &task.agent_id
        && let Err(invalid) = mailbox_of(&task.agent_type, agent_id)
    {
        return Err(WorkflowError::failed(Failure::from_error(codes::AGENT_NOT_FOUND, &invalid)));
    }
    if let Request::Signal { name, .. } = &request
        && let Err(invalid) = InvalidSignalName::check(name)
    {
        return Err(WorkflowError::failed(Failure::from_error(InvalidSignalName::CODE, &invalid)));
    }
    let spans = match &request {
        Request::Task(task) => check_timeout(task.timeout)
            .and_then(|()| check_named("total_timeout", task.total_timeout))
            .and_then(|()| check_retry("retry", &task.retry)),
        Request::Signal { timeout: Some(timeout), .. } => {
            check_span("timeout", *timeout, Duration::ZERO)
        }
        Request::Sleep { duration } => check_span("sleep", *duration, Duration::ZERO),
        _ => Ok(()),
    };
    spans.map_err(|reason| WorkflowError::failed(refused(reason)))?;
    Ok(request)
}
