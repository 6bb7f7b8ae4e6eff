//! The parameters of model calls, which hold only what is new in the conversation.
//!
//! A model needs the whole conversation with each call. If each call's task held it, a journal
//! would grow with the square of the number of messages. So a task holds only the messages that the
//! calls before it did not hold, and the process that makes the call completes it:
//!
//! ```text
//! workflow (`SentMessages`)               process of the model calls (`Histories`)
//! task: epoch, kept, new messages ──► kept messages from memory, or from the journal, + new messages
//! ```
//!
//! Three numbers keep both sides in agreement. The epoch changes when earlier messages are
//! replaced. `kept` says how many messages are known. The digest shows whether the settings are
//! still the same. A process that lacks something reads the journal of the run. If it has no store, or
//! cannot read it, the call fails with `CONVERSATION_MISSING` without a request, and the workflow repeats
//! it with the whole conversation. It counts as no request.
//!
//! The memory of a process is bounded; forgotten conversations are read again.

mod compaction;

use std::sync::Arc;

use aios_core::{
    Chain,
    agent::{TaskAssigned, TaskContext, TaskError},
    catalog::codes,
    event::{Event, EventError},
    failure::Failure,
    store::{MAX_PAGE, Store, StoreError, StreamId},
};
use hashlink::LruCache;
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use self::compaction::Compaction;
pub(crate) use self::compaction::PREFIX as SUMMARY_PREFIX;
use super::MODEL_SUFFIX;
use crate::model::{ImageSource, Message, ModelRequest, Part};

/// Conversations that a process remembers, and their size.
const REMEMBERED: usize = 4096;
const REMEMBERED_BYTES: usize = 64 * 1024 * 1024;
/// Number of hexadecimal digits of a digest that are kept to distinguish settings.
const DIGEST: usize = 16;

/// The parameters of a model call.
///
/// The first `kept` messages of the conversation, and the settings if there are none, are those of
/// the earlier calls of the run with the same `epoch`. So a journal does not hold the conversation
/// again for each call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[non_exhaustive]
pub struct ModelTask {
    /// Grows whenever earlier messages are replaced. Calls with another epoch have other messages.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub epoch: u32,
    /// Number of messages that are known from earlier calls.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub kept: usize,
    /// The messages after those.
    pub messages: Vec<Message>,
    /// The request without messages, if it differs from that of the call before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<Box<ModelRequest>>,
    /// First bytes of the digest of the settings, if the settings are left out. They differ from those
    /// of earlier calls if the code of the agent has changed since, or if the run is a fork.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings_digest: Option<String>,
    /// Whether the cheaper model of the agent answers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_cheaper: bool,
    /// Whether the response is a summary that replaces the messages but the last.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_summary: bool,
    /// Whether the request before was the same and failed, so that its pieces are void.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_repeated: bool,
}

/// For `skip_serializing_if`.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(epoch: &u32) -> bool {
    *epoch == 0
}

/// For `skip_serializing_if`.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_nothing(kept: &usize) -> bool {
    *kept == 0
}

/// The conversation that the calls of a run so far tell, and the settings of the latest call.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct History {
    /// See [`ModelTask`].
    epoch: u32,
    /// All messages of the epoch so far.
    messages: Vec<Message>,
    /// The request without its messages.
    settings: ModelRequest,
    /// Beginning of the digest of the settings, if it was needed.
    digest: Option<String>,
}

impl History {
    /// Adds a call. Returns whether the history has what the call refers to.
    fn add(&mut self, task: &ModelTask) -> bool {
        // A call that holds everything needs no history.
        let is_new = task.kept == 0 && task.settings.is_some();
        let is_known = task.epoch == self.epoch && task.kept <= self.messages.len();
        let is_continued = is_known && self.has_settings(task);
        if !is_new && !is_continued {
            return false;
        }
        self.epoch = task.epoch;
        self.messages.truncate(task.kept);
        self.messages.extend(task.messages.iter().cloned());
        if let Some(settings) = &task.settings {
            self.settings = (**settings).clone();
            self.digest = None;
        }
        true
    }

    /// Whether the settings that a call refers to are those of the calls before.
    fn has_settings(&mut self, task: &ModelTask) -> bool {
        let (None, Some(wanted)) = (&task.settings, &task.settings_digest) else { return true };
        let digest = self.digest.get_or_insert_with(|| short_digest(&self.settings));
        digest == wanted
    }

    /// Adds the parameters of a call in a journal, and returns the whole request; `None` if the
    /// journal lacks an earlier call.
    pub(crate) fn request(&mut self, task: &ModelTask) -> Option<ModelRequest> {
        self.add(task).then(|| self.to_request())
    }

    /// The whole request.
    fn to_request(&self) -> ModelRequest {
        ModelRequest { messages: self.messages.clone(), ..self.settings.clone() }
    }

    /// About how many bytes it has.
    fn bytes(&self) -> usize {
        let part = |part: &Part| match part {
            Part::Text { text } | Part::Reasoning { text, .. } => text.len(),
            Part::Image { source: ImageSource::Base64 { data, .. } } => data.len(),
            Part::ToolCall(call) => call.arguments.len(),
            Part::ToolResult(result) => result.content.len(),
            _ => 0,
        };
        self.messages.iter().flat_map(|message| &message.content).map(|it| 64 + part(it)).sum()
    }
}

/// The beginning of the digest of settings.
fn short_digest(settings: &ModelRequest) -> String {
    settings.digest().chars().take(DIGEST).collect()
}

/// The part of the conversation that calls have sent so far, on the side of the workflow.
#[derive(Debug, Default)]
pub(super) struct SentMessages {
    /// The epoch of the latest call.
    epoch: u32,
    /// How many messages the calls of this epoch have sent.
    messages: usize,
    /// The latest settings with the beginning of their digest.
    settings: Option<(ModelRequest, String)>,
}

impl SentMessages {
    /// The call that makes this request. Within an epoch, messages are only added.
    pub(super) fn next(&mut self, epoch: u32, mut request: ModelRequest) -> ModelTask {
        if epoch != self.epoch {
            *self = Self { epoch, ..Self::default() };
        }
        let kept = self.messages.min(request.messages.len());
        self.messages = request.messages.len();
        let messages = request.messages.split_off(kept);
        let settings = ModelRequest { messages: Vec::new(), ..request };
        let sent = self.settings.as_ref().filter(|(sent, _)| *sent == settings);
        let settings_digest = sent.map(|(_, digest)| digest.clone());
        let settings = settings_digest.is_none().then(|| Box::new(settings));
        if let Some(settings) = &settings {
            self.settings = Some(((**settings).clone(), short_digest(settings)));
        }
        ModelTask {
            epoch,
            kept,
            messages,
            settings,
            settings_digest,
            is_cheaper: false,
            is_summary: false,
            is_repeated: false,
        }
    }

    /// Makes the next call hold the whole conversation.
    pub(super) fn forget(&mut self) {
        *self = Self { epoch: self.epoch, ..Self::default() };
    }
}

/// Conversations of runs, on the process that makes model calls.
///
/// Keyed by run and incarnation, so that a run which reuses an id gets no foreign messages.
pub(super) struct Histories(Mutex<Remembered>);

/// The content of the lock.
struct Remembered {
    /// The conversations with their sizes in bytes.
    all: LruCache<String, (usize, History)>,
    /// Sum of the sizes.
    bytes: usize,
}

impl Histories {
    /// Remembers nothing yet.
    pub(super) fn new() -> Self {
        Self(Mutex::new(Remembered { all: LruCache::new_unbounded(), bytes: 0 }))
    }

    /// The whole request of a call: from what this process remembers, else from the journal.
    pub(super) async fn request(
        &self,
        context: &TaskContext,
        task: &ModelTask,
    ) -> Result<ModelRequest, TaskError> {
        let metadata = context.metadata();
        let run_id = metadata.run_id.as_deref().unwrap_or_default();
        let key = format!("{run_id}@{}", metadata.incarnation.as_deref().unwrap_or_default());
        let mut history = self.recall(&key).unwrap_or_default();
        if !history.add(task) {
            history = match context.store() {
                Some(store) => from_store(store, run_id, context.task_id().as_str()).await?,
                None => return Err(missing("the process of the model calls has no store")),
            };
            if history.epoch != task.epoch {
                return Err(missing("the journal has no earlier call"));
            }
        }
        let request = history.to_request();
        self.remember(key, history);
        Ok(request)
    }

    /// Takes a conversation out. While its call works on it, another call of the run reads the
    /// journal.
    fn recall(&self, key: &str) -> Option<History> {
        let mut remembered = self.0.lock();
        let (bytes, history) = remembered.all.remove(key)?;
        remembered.bytes = remembered.bytes.saturating_sub(bytes);
        Some(history)
    }

    /// Remembers a conversation, and forgets those that were not used for the longest time.
    fn remember(&self, key: String, history: History) {
        let mut remembered = self.0.lock();
        let bytes = history.bytes();
        remembered.bytes += bytes;
        if let Some((replaced, _)) = remembered.all.insert(key, (bytes, history)) {
            remembered.bytes = remembered.bytes.saturating_sub(replaced);
        }
        while remembered.bytes > REMEMBERED_BYTES || remembered.all.len() > REMEMBERED {
            let Some((_, (bytes, _))) = remembered.all.remove_lru() else { break };
            remembered.bytes = remembered.bytes.saturating_sub(bytes);
        }
    }
}

/// The failure of a call that can't be completed here. Terminal, because another attempt of the
/// same task would fail as well.
fn missing(reason: &str) -> TaskError {
    TaskError::terminal(Failure::new(
        codes::CONVERSATION_MISSING,
        format!("the conversation is unknown here: {reason}"),
    ))
}

/// Reads the conversation up to a task from the journal of its run.
async fn from_store(
    store: &Arc<dyn Store>,
    run_id: &str,
    task_id: &str,
) -> Result<History, TaskError> {
    let failed =
        |error: StoreError| missing(&format!("the journal cannot be read: {}", Chain(&error)));
    let stream = StreamId::of_run(run_id).map_err(failed)?;
    let mut history = History::default();
    let mut after = 0;
    loop {
        let page = store.read_stream(&stream, after, MAX_PAGE).await.map_err(failed)?;
        let Some(last) = page.last() else {
            return Err(missing("the journal does not have the call"));
        };
        after = last.version;
        for recorded in &page {
            let Some(assigned) = model_call(&recorded.event)? else { continue };
            let is_known = history.add(&assigned.1);
            if assigned.0.task_id.as_str() == task_id {
                return match is_known {
                    true => Ok(history),
                    false => Err(missing("the journal lacks an earlier call")),
                };
            }
        }
    }
}

/// The model call that an event of a journal assigns, if it does.
pub(crate) fn model_call(event: &Event) -> Result<Option<(TaskAssigned, ModelTask)>, EventError> {
    let ("agents", entity, "task_assigned") = event.event_type.segments() else { return Ok(None) };
    if !entity.ends_with(MODEL_SUFFIX) {
        return Ok(None);
    }
    let assigned: TaskAssigned = event.data()?;
    let task = assigned.parameters.decode()?;
    Ok(Some((assigned, task)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(texts: &[&str]) -> ModelRequest {
        let messages = texts.iter().map(|text| Message::user(*text)).collect();
        ModelRequest { messages, ..ModelRequest::default() }.with_instructions("Be brief.")
    }

    #[test]
    fn should_send_only_new_messages_and_changed_settings() {
        let mut sent = SentMessages::default();
        let mut history = History::default();
        let mut send = |epoch, request: &ModelRequest| {
            let task = sent.next(epoch, request.clone());
            assert_eq!(history.request(&task).as_ref(), Some(request));
            (task.kept, task.messages.len(), task.settings.is_some())
        };
        assert_eq!(send(0, &request(&["a"])), (0, 1, true));
        assert_eq!(send(0, &request(&["a", "b", "c"])), (1, 2, false));
        // The same request again, after a failure.
        assert_eq!(send(0, &request(&["a", "b", "c"])), (3, 0, false));
        let other = request(&["a", "b", "c", "d"]).with_instructions("Finish soon.");
        assert_eq!(send(0, &other), (3, 1, true));
        // Messages were replaced.
        assert_eq!(send(1, &request(&["summary", "d"])), (0, 2, true));
        assert_eq!(send(1, &request(&["summary", "d", "e"])), (2, 1, false));
    }

    #[test]
    fn should_refuse_a_call_whose_earlier_messages_are_unknown() {
        let mut sent = SentMessages::default();
        sent.next(0, request(&["a"]));
        let second = sent.next(0, request(&["a", "b"]));
        assert_eq!(History::default().request(&second), None);
        sent.forget();
        let again = sent.next(0, request(&["a", "b"]));
        assert_eq!(History::default().request(&again), Some(request(&["a", "b"])));
    }

    #[test]
    fn should_refuse_a_call_whose_settings_differ_from_the_journal() {
        let mut history = History::default();
        let first = SentMessages::default().next(0, request(&["a"]));
        assert!(history.request(&first).is_some());
        // The same run with other instructions: its replay has sent them, but its journal has not.
        let mut sent = SentMessages::default();
        let other = |texts: &[&str]| request(texts).with_instructions("Be long.");
        sent.next(0, other(&["a"]));
        let second = sent.next(0, other(&["a", "b"]));
        assert_eq!(history.request(&second), None);
        sent.forget();
        let again = sent.next(0, other(&["a", "b"]));
        assert_eq!(history.request(&again), Some(other(&["a", "b"])));
    }

    #[test]
    fn should_forget_the_oldest_conversation_beyond_the_limit() {
        let histories = Histories::new();
        let large = "x".repeat(REMEMBERED_BYTES / 2 - 1000);
        for run in ["r1", "r2", "r3"] {
            let mut history = History::default();
            history.messages.push(Message::user(large.clone()));
            histories.remember(run.to_owned(), history);
        }
        let known = ["r1", "r2", "r3"].map(|run| histories.recall(run).is_some());
        assert_eq!(known, [false, true, true]);
    }
}
