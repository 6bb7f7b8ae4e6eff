//! A model that answers from a journal.
//!
//! Requests are put together from the tasks of the journal, as the process of the model calls does
//! it, and found by their digest. So a recorded response is only given to exactly the same request:
//! a changed instruction or tool makes it an unexpected one. Equal requests get their responses in
//! the order of the journal.
//!
//! The capabilities of the model decide how an agent asks for structured output, so they are those that
//! the recorded requests show.

use std::collections::{HashMap, VecDeque};

use aios_core::{
    agent::{TaskCompleted, TaskFailed},
    event::{Event, EventError},
};
use async_trait::async_trait;
use parking_lot::Mutex;

use crate::{
    agent::{FINAL_TOOL, History, model_call},
    model::{
        Capabilities, LanguageModel, ModelError, ModelErrorKind, ModelRequest, ModelResponse,
        ModelStream, whole,
    },
};

/// A model that answers from the journal of a run: the same requests get the same responses.
///
/// It makes no requests, so any production run can be replayed offline, even with other tools. A
/// request that the journal does not contain fails with `MODEL_UNEXPECTED_REQUEST`. An agent asks it for
/// structured output as it asked the recorded model.
///
/// # Examples
///
/// ```
/// use aios_agents::prelude::*;
/// use aios_llm::{
///     LlmAgent, ModelResponse, RuntimeBuilderExt,
///     testing::{Recorded, ScriptedModel},
/// };
///
/// # async fn runtime(agent: LlmAgent) -> Result<Runtime, Box<dyn std::error::Error>> {
/// #     Ok(Runtime::builder()
/// #         .store(aios_store::connect("memory://").await?)
/// #         .broker(aios_broker::connect("memory://").await?)
/// #         .llm_agent("geographer", agent)?
/// #         .start()
/// #         .await?)
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let model = ScriptedModel::new([ModelResponse::text("Paris")]); // in production, a provider
/// let production = runtime(LlmAgent::new(model)).await?;
/// let run = production.start("geographer", "What is the capital of France?").await?;
/// run.result::<String>().await?;
///
/// // The same agent, offline, from the journal of that run.
/// let journal = run.journal(0, 1_000).await?;
/// let recorded = Recorded::from_journal(journal.iter().map(|recorded| &recorded.event))?;
/// let offline = runtime(LlmAgent::new(recorded)).await?;
/// let again = offline.start("geographer", "What is the capital of France?").await?;
/// assert_eq!(again.result::<String>().await?, "Paris");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Recorded {
    /// Those of the recorded models, in the order in which they were asked; never empty.
    names: Vec<String>,
    /// They decide how output is requested, and so the requests.
    capabilities: Capabilities,
    /// By the digest of the request; those that are left.
    responses: Mutex<HashMap<String, VecDeque<Result<ModelResponse, ModelError>>>>,
}

impl Recorded {
    /// Reads the model calls of a journal, as from
    /// [`RunHandle::journal`](aios_agents::RunHandle::journal).
    ///
    /// # Errors
    ///
    /// [`EventError`] if the data of an event about a model call cannot be decoded.
    pub fn from_journal<'e>(
        journal: impl IntoIterator<Item = &'e Event>,
    ) -> Result<Self, EventError> {
        let mut requests = HashMap::new();
        let mut history = History::default();
        let mut responses: HashMap<String, VecDeque<_>> = HashMap::new();
        let (mut names, mut capabilities) = (Vec::new(), Capabilities::none());
        for event in journal {
            let (domain, entity, action) = event.event_type.segments();
            if domain != "agents" || !entity.ends_with(crate::agent::MODEL_SUFFIX) {
                continue;
            }
            let answered = match action {
                "task_assigned" => {
                    if let Some((assigned, task)) = model_call(event)?
                        && let Some(request) = history.request(&task)
                    {
                        capabilities = shown_by(&request, capabilities);
                        requests.insert(assigned.task_id, request);
                    }
                    continue;
                }
                "task_completed" => {
                    let task: TaskCompleted = event.data()?;
                    let response: ModelResponse = task.output.decode()?;
                    let billed = response.billed.iter().map(|billed| &billed.model);
                    for name in billed.chain([&response.model]) {
                        if !name.is_empty() && !names.contains(name) {
                            names.push(name.clone());
                        }
                    }
                    (task.task_id, Ok(response))
                }
                "task_failed" => {
                    let task: TaskFailed = event.data()?;
                    // Failures that no model reported, such as timeouts, can't be its answer.
                    let Some(error) = ModelError::from_failure(&task.failure) else { continue };
                    (task.task_id, Err(error))
                }
                _ => continue,
            };
            if let Some(request) = requests.remove(&answered.0) {
                responses.entry(request.digest()).or_default().push_back(answered.1);
            }
        }
        if names.is_empty() {
            names.push("test:recorded".to_owned());
        }
        Ok(Self { names, capabilities, responses: Mutex::new(responses) })
    }

    /// Sets the capabilities. By default they are those that the recorded requests show: how they ask for
    /// structured output.
    #[must_use]
    pub fn with_capabilities(mut self, capabilities: Capabilities) -> Self {
        self.capabilities = capabilities;
        self
    }
}

/// The capabilities with those that a request shows. A tool for the output is the only sign that tools are
/// supported: an agent has its tools in any case.
fn shown_by(request: &ModelRequest, capabilities: Capabilities) -> Capabilities {
    let Capabilities { native_output, native_output_with_tools, tools, .. } = capabilities;
    let is_native = request.output.is_some();
    let is_tool = request.tools.iter().any(|tool| tool.name == FINAL_TOOL);
    capabilities
        .with_native_output(native_output || is_native)
        .with_native_output_with_tools(
            native_output_with_tools || (is_native && !request.tools.is_empty()),
        )
        .with_tools(tools || is_tool)
}

#[async_trait]
impl LanguageModel for Recorded {
    fn name(&self) -> &str {
        self.names.first().map_or("", String::as_str)
    }

    fn names(&self) -> Vec<&str> {
        self.names.iter().map(String::as_str).collect()
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    async fn complete(&self, request: &ModelRequest) -> Result<ModelResponse, ModelError> {
        let mut responses = self.responses.lock();
        let next = responses.get_mut(&request.digest()).and_then(VecDeque::pop_front);
        drop(responses);
        next.unwrap_or_else(|| {
            let reason = "the journal has no response for this request, or no further one";
            Err(ModelError::new(ModelErrorKind::UnexpectedRequest, reason))
        })
    }

    async fn stream(&self, request: &ModelRequest) -> Result<ModelStream, ModelError> {
        Ok(whole(self.complete(request).await?))
    }
}
