//! Receives what engines and clients say about tasks: cancellations, and answers and questions
//! about attempts.
//!
//! All of it goes to every process, because the sender does not know which process has the task. So
//! each host subscribes with a temporary group of its own, whose name is new at each start. Nothing
//! is kept while the host is away: a process that starts has no task to cancel. Each event is
//! handled by setting a flag or by spawning a task, so that one of them does not delay the others.

use std::sync::Arc;

use aios_core::{
    agent::TaskCancelled,
    broker::{BrokerError, Delivery, Group, OnExhausted, Subscription},
    catalog::agent::{ATTEMPT_CANCELLED, ATTEMPT_CONFIRMED, ATTEMPT_SOUGHT},
    event::{EventId, Pattern},
    failure::Failure,
};

use super::{answer::log_unsettled, attempt_cache::TaskKey, sought};
use crate::agent::{
    AgentError,
    host::{Shared, hosted::HostedType},
    subscriber::Subscriber,
};

/// Subscribes to cancellations, and to answers and questions about attempts. Returns a future that handles them
/// until the broker is closed or refuses the subscription permanently. That future subscribes again
/// after a transient failure, even if it is the first one.
pub(crate) async fn listen(
    shared: &Arc<Shared>,
    types: &[Arc<HostedType>],
) -> Result<impl Future<Output = ()> + Send + 'static, AgentError> {
    let group = Group::new(format!("agents.cancelled.{}", EventId::generate()))?;
    let patterns = types.iter().flat_map(|hosted| {
        let names = &hosted.names;
        let about_attempts =
            [&names.attempt_confirmed, &names.attempt_cancelled, &names.attempt_sought];
        about_attempts.into_iter().chain([&names.cancelled]).map(Pattern::from)
    });
    let subscription =
        Subscription::group(group, patterns).with_on_exhausted(OnExhausted::Discard).temporary();
    let (broker, clock) = (Arc::clone(&shared.broker), Arc::clone(&shared.clock));
    let what = "cancellations and answers about attempts";
    let mut subscriber =
        Subscriber::new(broker, clock, subscription, what).with_backoff(shared.options.backoff);
    // A subscription without patterns is invalid.
    if !types.is_empty()
        && let Err(error) = subscriber.subscribe().await
        && !error.is_retryable()
    {
        return Err(error.into());
    }
    let shared = Arc::clone(shared);
    let types = types.to_vec();
    Ok(async move {
        if !types.is_empty() {
            handle_cancellations(&shared, &types, subscriber).await;
        }
    })
}

/// Handles events until the broker is closed. A permanent refusal impairs the host, because its
/// tasks could no longer be cancelled.
async fn handle_cancellations(
    shared: &Shared,
    types: &[Arc<HostedType>],
    mut subscriber: Subscriber,
) {
    loop {
        match subscriber.next().await {
            Ok(delivery) => take(shared, types, delivery).await,
            Err(BrokerError::Closed) => return,
            Err(error) => return shared.fail("receive cancellations", &error.into()),
        }
    }
}

/// Handles one event by its action. The default is a cancellation.
async fn take(shared: &Shared, types: &[Arc<HostedType>], delivery: Delivery) {
    let is_open = match delivery.event.event_type.action() {
        ATTEMPT_SOUGHT => {
            sought::report(types, &delivery.event);
            return log_unsettled(delivery.ack().await);
        }
        ATTEMPT_CONFIRMED => true,
        ATTEMPT_CANCELLED => false,
        _ => return cancel(shared, delivery).await,
    };
    shared.questions.answer(&delivery.event, is_open);
    log_unsettled(delivery.ack().await);
}

/// Cancels a task here, if this process has it, and remembers it in case it arrives later.
async fn cancel(shared: &Shared, delivery: Delivery) {
    let settled = match delivery.event.data::<TaskCancelled>() {
        Ok(cancelled) => {
            let task = TaskKey::new(cancelled.task_id, &delivery.event.metadata);
            shared.attempt_cache.cancel(&task);
            delivery.ack().await
        }
        Err(error) => {
            let failure = Failure::from_error(error.code(), &error);
            delivery.dead_letter(failure.to_string()).await
        }
    };
    log_unsettled(settled);
}
