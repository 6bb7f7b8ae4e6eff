//! Receives what engines and clients say about tasks: cancellations, and answers and questions
//! about attempts.
//!
//! All of it goes to every process, because the sender does not know which process has the task. So
//! each host subscribes with a temporary group of its own, whose name is new at each start. Nothing
//! is kept while the host is away: a process that starts has no task to cancel. Each event is
//! handled by setting a flag or by spawning a task, so that one of them does not delay the others.

use std::sync::Arc;

use aios_core::{
    Chain,
    agent::TaskCancelled,
    broker::{BrokerError, Deliveries, Delivery, Group, OnExhausted, Subscription},
    catalog::agent::{ATTEMPT_CANCELLED, ATTEMPT_CONFIRMED, ATTEMPT_SOUGHT},
    event::{EventId, Pattern},
    failure::Failure,
};

use super::{answer::log_unsettled, attempt_cache::TaskKey, sought};
use crate::agent::{
    AgentError,
    backoff::BackoffTimer,
    host::{Shared, hosted::HostedType},
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
    // A subscription without patterns is invalid.
    let subscribed = match types.is_empty() {
        true => None,
        false => Some(shared.broker.subscribe(subscription.clone()).await),
    };
    let subscribed = match subscribed {
        Some(Err(error)) if !error.is_retryable() => return Err(error.into()),
        subscribed => subscribed,
    };
    let shared = Arc::clone(shared);
    let types = types.to_vec();
    Ok(async move {
        if let Some(subscribed) = subscribed {
            handle_cancellations(&shared, &types, subscription, subscribed).await;
        }
    })
}

/// Handles events until the broker is closed. A permanent refusal impairs the host, because its
/// tasks could no longer be cancelled.
async fn handle_cancellations(
    shared: &Shared,
    types: &[Arc<HostedType>],
    subscription: Subscription,
    mut subscribed: Result<Deliveries, BrokerError>,
) {
    let mut backoff = BackoffTimer::new(shared.options.backoff);
    loop {
        let mut deliveries = match subscribed {
            Ok(deliveries) => deliveries,
            Err(error) => match resubscribe(shared, &subscription, error, &mut backoff).await {
                Ok(again) => again,
                Err(BrokerError::Closed) => return,
                Err(error) => return shared.fail("receive cancellations", &error.into()),
            },
        };
        subscribed = loop {
            match deliveries.next().await {
                Some(Ok(delivery)) => {
                    backoff.reset();
                    take(shared, types, delivery).await;
                }
                None => return,
                Some(Err(error)) => break Err(error),
            }
        };
    }
}

/// Subscribes until it succeeds or fails permanently.
async fn resubscribe(
    shared: &Shared,
    subscription: &Subscription,
    mut error: BrokerError,
    backoff: &mut BackoffTimer,
) -> Result<Deliveries, BrokerError> {
    while error.is_retryable() {
        tracing::warn!(
            code = error.code(), error = %Chain(&error),
            "failed to receive cancellations and answers about attempts; subscribing again"
        );
        backoff.wait(&*shared.clock).await;
        match shared.broker.subscribe(subscription.clone()).await {
            Ok(deliveries) => return Ok(deliveries),
            Err(again) => error = again,
        }
    }
    Err(error)
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
