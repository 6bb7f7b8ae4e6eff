//! Reads the conversation of a run from its journal, event by event.

use aios_core::{
    agent::{TaskCompleted, TaskId},
    catalog::workflow::Started,
    event::{Event, EventError},
};
use serde::Deserialize;

use super::Conversation;
use crate::{
    agent::{
        Answered, Edited, HandedOver, History, MODEL_SUFFIX, Prompt, Refused, TOOLS_SUFFIX,
        model_call,
    },
    budget::Spent,
    model::ModelRequest,
};

/// The part of the event `llm.budget.settled` that is read.
#[derive(Deserialize)]
struct Settled {
    /// The sum of the run after the settlement.
    spent: Spent,
}

/// Reads the events of a journal, in order.
#[derive(Default)]
pub(super) struct Reader {
    /// The conversation so far.
    pub(super) conversation: Conversation,
    /// Restores the requests of model calls, which the journal has as differences.
    history: History,
    /// The model call that has no answer yet, with its whole request, and whether it asks for a summary. A
    /// run makes one at a time.
    open: Option<(TaskId, ModelRequest, bool)>,
}

impl Reader {
    /// Reads an event.
    pub(super) fn read(&mut self, event: &Event) -> Result<(), EventError> {
        let (domain, entity, action) = event.event_type.segments();
        match (domain, action) {
            ("workflows", "started") => self.begin(event),
            ("workflows", "completed") => {
                self.conversation.results.is_complete = true;
                Ok(())
            }
            ("agents", "task_assigned") if entity.ends_with(MODEL_SUFFIX) => self.request(event),
            ("agents", "task_completed") if entity.ends_with(MODEL_SUFFIX) => self.respond(event),
            ("agents", _) if entity.ends_with(TOOLS_SUFFIX) => {
                self.conversation.results.take(action, event)
            }
            ("llm", _) => self.apply(entity, action, event),
            _ => Ok(()),
        }
    }

    /// Takes the input of the run. Another workflow has other input, and no conversation.
    fn begin(&mut self, event: &Event) -> Result<(), EventError> {
        let prompt = event.data::<Started>()?.input.decode::<Prompt>().unwrap_or_default();
        self.conversation.latest.clone_from(&prompt.messages);
        self.conversation.handovers.clone_from(&prompt.handovers);
        self.conversation.prompt = Prompt { messages: Vec::new(), delegation: None, ..prompt };
        Ok(())
    }

    /// Takes the request of a model call, unless the journal lacks an earlier one.
    fn request(&mut self, event: &Event) -> Result<(), EventError> {
        let Some((assigned, task)) = model_call(event)? else { return Ok(()) };
        let request = self.history.request(&task);
        self.open = request.map(|it| (assigned.task_id, it, task.is_summary));
        if let Some((_, request, false)) = &self.open {
            self.conversation.ask(&request.messages);
        }
        Ok(())
    }

    /// Takes the response of a model call.
    fn respond(&mut self, event: &Event) -> Result<(), EventError> {
        let task: TaskCompleted = event.data()?;
        let Some((id, request, is_summary)) = self.open.take() else { return Ok(()) };
        if id == task.task_id && is_summary {
            self.conversation.summarize(request.messages);
        } else if id == task.task_id {
            self.conversation.answer(request.messages, task.output.decode()?);
        }
        Ok(())
    }

    /// Takes an event of the agent itself.
    fn apply(&mut self, entity: &str, action: &str, event: &Event) -> Result<(), EventError> {
        let conversation = &mut self.conversation;
        match (entity, action) {
            ("budget", "settled") => conversation.spent = event.data::<Settled>()?.spent,
            ("agent", "handed_over") => {
                event.data::<HandedOver>()?.apply(&mut conversation.handovers);
            }
            ("conversation", "compacted") => {
                if let Some(summarized) = &mut conversation.summarized {
                    summarized.is_replaced = true;
                }
            }
            ("tool", "refused") => {
                let Refused { call_id, reason, .. } = event.data()?;
                conversation.results.ended.insert(call_id, (reason, true));
            }
            ("tool", "edited") => {
                let edited: Edited = event.data()?;
                conversation.results.edited.insert(edited.call_id.clone(), edited);
            }
            ("tool", "answered") => {
                let Answered { call_id, result, is_error, .. } = event.data()?;
                conversation.results.ended.insert(call_id, (result, is_error));
            }
            _ => {}
        }
        Ok(())
    }
}
