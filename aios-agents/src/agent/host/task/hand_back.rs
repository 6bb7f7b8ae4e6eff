//! Hands back tasks that this process abandons.

use aios_core::{
    Chain,
    agent::{Name, TaskAssigned},
    broker::{Delivery, Publish},
    catalog::agent,
    event::Event,
};

use super::{answer::log_unsettled, publish::Unpublished};
use crate::agent::{host::hosted::HostedType, mailbox_of};

/// Metadata field of a task that the process which had it has published again.
const HANDED_BACK: &str = "handed_back";

impl HostedType {
    /// Returns an abandoned task to its agents, at the same attempt.
    ///
    /// The delivery is released. If it was acknowledged early, the broker has nothing to deliver again, so
    /// the task itself is published again, under the same id. The process that gets it asks the
    /// engine first, as it does about any task that may have begun.
    pub(super) async fn hand_back(&self, task: &Event, delivery: Option<Delivery>) {
        match delivery {
            Some(delivery) => log_unsettled(delivery.release().await),
            None => self.publish_back(task).await,
        }
    }

    /// Publishes the task to the group or the mailbox that it came from.
    async fn publish_back(&self, task: &Event) {
        let id = &task.id;
        let Some(publish) = again(&self.agent_type, task) else {
            return tracing::warn!(%id, "can't hand back a task, because it is not readable");
        };
        match self.publish(vec![publish], None).await {
            Ok(()) => tracing::info!(%id, "handed back a task that was acknowledged early"),
            Err(Unpublished::Refused(error) | Unpublished::Abandoned(error)) => {
                tracing::warn!(error = %Chain(&error), %id, "failed to hand back a task");
            }
        }
    }
}

/// Whether another process had the task and handed it back.
pub(super) fn is_handed_back(task: &Event) -> bool {
    task.metadata.extra.contains(HANDED_BACK)
}

/// The task as it is published again.
fn again(agent_type: &Name, task: &Event) -> Option<Publish> {
    let mut event = task.clone();
    event.metadata_mut().extra.insert(HANDED_BACK, &true).ok()?;
    let to = match task.event_type.action() {
        agent::TASK_DIRECTED => {
            let assigned: TaskAssigned = task.data().ok()?;
            Some(mailbox_of(agent_type, &assigned.agent_id?).ok()?)
        }
        _ => None,
    };
    Some(Publish { event, to, require_route: true })
}
