//! Creates agents, and retries failed factories.
//!
//! At the start, every factory is called once, all at the same time. The host then subscribes for
//! the agents that exist, and returns. An agent whose factory failed is created again in the
//! background with back-off, until it succeeds or fails terminally. The group of the type is
//! consumed as soon as one agent exists.
//!
//! A failed agent has the status `failed` in the store. Its mailbox is not read, so tasks for it
//! alone wait there.

use std::sync::Arc;

use aios_core::{
    Chain,
    agent::{DynAgent, TaskError},
    broker::Subscription,
    catalog::codes,
    failure::Failure,
    store::AgentStatus,
};
use futures_util::{FutureExt, future::join_all};

use super::{consumer::Consumer, hosted::HostedType, task::panicked};
use crate::{
    agent::{
        AgentError, RegisteredAgent,
        backoff::BackoffTimer,
        names::{group_of, mailbox_of},
    },
    task::JoinSet,
};

impl HostedType {
    /// Calls every factory once and subscribes for the agents that were created.
    pub(super) async fn start(self: &Arc<Self>, tasks: &mut JoinSet<()>) -> Result<(), AgentError> {
        let agents = &self.definition.agents;
        let created = join_all(agents.iter().map(|agent| self.create(agent))).await;
        let any = created.iter().any(Result::is_ok);
        for (agent, created) in agents.iter().zip(created) {
            self.start_agent(agent, created, tasks).await?;
        }
        // The prefetch of the group is that of all agents of the type together: they share the
        // slots.
        let consumer = Consumer::new(self, self.subscription()?, None);
        if any {
            tasks.spawn(consumer.start().await?);
        } else {
            // Not started here: without an agent, it would hold tasks that others could do.
            tasks.spawn(consumer.run(None));
        }
        Ok(())
    }

    /// Subscribes for an agent that was created, or retries one that was not.
    async fn start_agent(
        self: &Arc<Self>,
        agent: &RegisteredAgent,
        created: Result<Arc<dyn DynAgent>, TaskError>,
        tasks: &mut JoinSet<()>,
    ) -> Result<(), AgentError> {
        let subscription = self.mailbox_subscription(agent)?;
        match created {
            Ok(created) => {
                let created = self.add(&agent.id, created);
                tasks.spawn(Consumer::new(self, subscription, Some(created)).start().await?);
            }
            Err(failure) => {
                let hosted = Arc::clone(self);
                let agent = agent.clone();
                tasks.spawn(hosted.recreate(agent, subscription, failure));
            }
        }
        Ok(())
    }

    /// Creates an agent and takes its tasks, until it is dropped.
    pub(super) async fn host(self: Arc<Self>, agent: RegisteredAgent) {
        let subscription = match self.mailbox_subscription(&agent) {
            Ok(subscription) => subscription,
            Err(error) => {
                let agent_type = &*self.type_name;
                let agent_id = agent.id;
                tracing::error!(agent_type, agent_id, error = %Chain(&error), "an agent has no mailbox");
                return;
            }
        };
        match self.create(&agent).await {
            Ok(created) => {
                let created = self.add(&agent.id, created);
                let seen = self.seen_now(&agent.id);
                self.shared.announce_or_warn(seen.into_iter().collect()).await;
                Consumer::new(&self, subscription, Some(created)).run(None).await;
            }
            Err(failure) => self.recreate(agent, subscription, failure).await,
        }
    }

    /// Retries a failed factory. Returns after a terminal failure, or when the broker closes.
    async fn recreate(
        self: Arc<Self>,
        agent: RegisteredAgent,
        subscription: Subscription,
        mut failure: TaskError,
    ) {
        let mut backoff = BackoffTimer::new(self.shared.options.backoff);
        loop {
            self.report_failure(&agent, &failure).await;
            if !failure.retryable {
                return;
            }
            backoff.wait(&*self.shared.clock).await;
            match self.create(&agent).await {
                Ok(created) => {
                    let created = self.add(&agent.id, created);
                    let status = self.status_of(&agent.id, AgentStatus::Running);
                    self.shared.announce_or_warn(status.into_iter().collect()).await;
                    // The task that retried becomes the consumer of the mailbox.
                    return Consumer::new(&self, subscription, Some(created)).run(None).await;
                }
                Err(again) => failure = again,
            }
        }
    }

    /// Records and logs that an agent could not be created.
    async fn report_failure(&self, agent: &RegisteredAgent, failure: &TaskError) {
        tracing::error!(
            agent_type = &*self.type_name, agent_id = agent.id, %failure,
            retryable = failure.retryable, "failed to create an agent"
        );
        self.set_failed(&agent.id, true);
        self.announce_failures().await;
    }

    /// Runs the factory, and wraps what it has created. A panic or timeout counts as a failure.
    async fn create(&self, agent: &RegisteredAgent) -> Result<Arc<dyn DynAgent>, TaskError> {
        let timeout = self.shared.options.create_timeout;
        let config = agent.config.clone();
        // Called within the future, so that a panic of the function itself is caught as well.
        let created = async {
            let created = (self.definition.factory)(config).await;
            created.map(|agent| self.wrapped(agent))
        };
        let created = std::panic::AssertUnwindSafe(created).catch_unwind();
        tokio::select! {
            biased;
            created = created => created.unwrap_or_else(|panic| Err(panicked(&*panic))),
            () = self.shared.clock.sleep(timeout) => {
                let message = format!("the factory did not complete within {timeout:?}");
                Err(TaskError::retryable(Failure::new(codes::AGENT_FACTORY_TIMEOUT, message)))
            }
        }
    }

    /// The subscription to the tasks for any agent of the type.
    fn subscription(&self) -> Result<Subscription, AgentError> {
        let patterns = [(&self.names.assigned).into()];
        let subscription = Subscription::group(group_of(&self.agent_type)?, patterns);
        Ok(subscription.with_prefetch(self.definition.concurrency))
    }

    /// The subscription to the tasks for one agent.
    fn mailbox_subscription(&self, agent: &RegisteredAgent) -> Result<Subscription, AgentError> {
        let mailbox = mailbox_of(&self.agent_type, &agent.id).map_err(|invalid| invalid.0)?;
        Ok(Subscription::mailbox(mailbox).with_prefetch(self.definition.concurrency))
    }
}
