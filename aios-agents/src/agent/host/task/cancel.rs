//! Receives what engines and clients say about tasks: cancellations, and answers and questions
//! about attempts.
//!
//! All of it goes to every process, because the sender does not know which process has the task. So
//! each host subscribes with a temporary group of its own, whose name is new at each start. Nothing
//! is kept while the host is away: a process that starts has no task to cancel. Each event is
//! handled by setting a flag or by spawning a task, so that one of them does not delay the others.

use std::{future::poll_fn, sync::Arc, task::Poll, time::Duration};

use aios_core::{
    BoxFuture, Chain,
    agent::TaskCancelled,
    broker::{BrokerError, Deliveries, Delivery, Group, OnExhausted, Subscription},
    catalog::agent::{ATTEMPT_CANCELLED, ATTEMPT_CONFIRMED, ATTEMPT_SOUGHT},
    event::{EventId, Pattern},
    failure::Failure,
};

use super::{
    answer::log_unsettled,
    attempt_cache::TaskKey,
    questions::{LONGEST_PAUSE, first_pause},
    sought,
};
use crate::agent::{
    AgentError,
    backoff::BackoffTimer,
    host::{Shared, hosted::HostedType},
};

/// Subscribes to cancellations, and to answers and questions about attempts. Returns a future that handles them
/// until the broker is closed or refuses the subscription permanently.
pub(crate) async fn listen(
    shared: &Arc<Shared>,
    types: &[Arc<HostedType>],
) -> Result<impl Future<Output = ()> + Send + 'static, AgentError> {
    let listener = match types.is_empty() {
        true => None,
        false => Some(Listener::new(shared, types).await?),
    };
    Ok(async move {
        if let Some(listener) = listener {
            listener.run().await;
        }
    })
}

/// Subscribes with a name of its own: a broker that has lost a queue may not give its name away before it has
/// recovered it.
async fn subscribe(shared: &Shared, types: &[Arc<HostedType>]) -> Result<Deliveries, BrokerError> {
    let group = Group::new(format!("agents.cancelled.{}", EventId::generate()))?;
    let patterns = types.iter().flat_map(|hosted| {
        let names = &hosted.names;
        let about_attempts =
            [&names.attempt_confirmed, &names.attempt_cancelled, &names.attempt_sought];
        about_attempts.into_iter().chain([&names.cancelled]).map(Pattern::from)
    });
    let subscription =
        Subscription::group(group, patterns).with_on_exhausted(OnExhausted::Discard).temporary();
    shared.broker.subscribe(subscription).await
}

/// Reads the subscription, and replaces it if it seems to be lost.
///
/// A broker does not always notice that a subscription has been lost: a node of a cluster that dies can take
/// the queue with it while it is declared again. So when a question has no answer and nothing else has
/// arrived either, a new subscription takes the place of this one. The answer may be missing for another
/// reason, such as an engine that is down, so the pause before the next replacement doubles.
struct Listener {
    shared: Arc<Shared>,
    types: Vec<Arc<HostedType>>,
    deliveries: Deliveries,
    backoff: BackoffTimer,
    /// When something arrived last, or the subscription began.
    heard_at: Duration,
    /// How long nothing may arrive until an unanswered question leads to a replacement.
    patience: Duration,
}

/// What happens next.
enum Next {
    Arrived(Option<Result<Delivery, BrokerError>>),
    Unanswered,
    Renewed(Result<Deliveries, BrokerError>),
}

impl Listener {
    async fn new(shared: &Arc<Shared>, types: &[Arc<HostedType>]) -> Result<Self, BrokerError> {
        let deliveries = subscribe(shared, types).await?;
        Ok(Self {
            shared: Arc::clone(shared),
            types: types.to_vec(),
            deliveries,
            backoff: BackoffTimer::new(shared.options.backoff),
            heard_at: shared.clock.elapsed(),
            patience: first_pause(&shared.options),
        })
    }

    async fn run(mut self) {
        let mut renewal: Option<BoxFuture<'static, Result<Deliveries, BrokerError>>> = None;
        loop {
            let next = {
                let renewed = poll_fn(|context| match &mut renewal {
                    Some(renewal) => renewal.as_mut().poll(context),
                    None => Poll::Pending,
                });
                tokio::select! {
                        biased;
                        next = self.deliveries.next() => Next::Arrived(next),
                        renewed = renewed => Next::Renewed(renewed),
                        () = self.shared.questions.unanswered() => Next::Unanswered,
                }
            };
            match next {
                Next::Arrived(next) => match self.arrived(next).await {
                    Ok(()) => {}
                    Err(BrokerError::Closed) => return,
                    Err(error) => return self.shared.fail("receive cancellations", &error.into()),
                },
                Next::Unanswered if renewal.is_some() => {}
                Next::Unanswered if self.is_silent() => renewal = Some(self.renewal()),
                Next::Unanswered => self.shared.questions.checked(),
                Next::Renewed(renewed) => {
                    renewal = None;
                    self.renewed(renewed);
                    self.shared.questions.checked();
                }
            }
        }
    }

    /// Handles a delivery. Subscribes again after an error, unless it is permanent.
    async fn arrived(
        &mut self,
        next: Option<Result<Delivery, BrokerError>>,
    ) -> Result<(), BrokerError> {
        match next {
            Some(Ok(delivery)) => {
                self.backoff.reset();
                self.heard_at = self.shared.clock.elapsed();
                self.patience = first_pause(&self.shared.options);
                take(&self.shared, &self.types, delivery).await;
                Ok(())
            }
            None => Err(BrokerError::Closed),
            Some(Err(error)) => self.resubscribe(error).await,
        }
    }

    /// Subscribes until it succeeds or fails permanently.
    async fn resubscribe(&mut self, mut error: BrokerError) -> Result<(), BrokerError> {
        while error.is_retryable() {
            tracing::warn!(
                code = error.code(), error = %Chain(&error),
                "failed to receive cancellations and answers about attempts; subscribing again"
            );
            self.backoff.wait(&*self.shared.clock).await;
            match subscribe(&self.shared, &self.types).await {
                Ok(deliveries) => {
                    self.replace(deliveries);
                    return Ok(());
                }
                Err(again) => error = again,
            }
        }
        Err(error)
    }

    /// Whether nothing has arrived for so long that the subscription may be lost.
    fn is_silent(&self) -> bool {
        self.shared.clock.elapsed() >= self.heard_at + self.patience
    }

    /// Subscribes beside the current subscription.
    fn renewal(&mut self) -> BoxFuture<'static, Result<Deliveries, BrokerError>> {
        tracing::debug!(
            "a question about an attempt has no answer, and nothing else arrives; subscribing again"
        );
        self.patience = (self.patience * 2).min(LONGEST_PAUSE);
        let (shared, types) = (Arc::clone(&self.shared), self.types.clone());
        Box::pin(async move { subscribe(&shared, &types).await })
    }

    fn renewed(&mut self, renewed: Result<Deliveries, BrokerError>) {
        match renewed {
            Ok(deliveries) => self.replace(deliveries),
            // The current one may still work. If not, the next question has no answer either.
            Err(error) => tracing::warn!(
                code = error.code(), error = %Chain(&error),
                "failed to replace the subscription to answers about attempts"
            ),
        }
    }

    fn replace(&mut self, deliveries: Deliveries) {
        self.deliveries = deliveries;
        self.heard_at = self.shared.clock.elapsed();
        self.shared.questions.renewed();
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
