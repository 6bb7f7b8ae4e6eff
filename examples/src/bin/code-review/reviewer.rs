//! Reviews of files by a language model.

use std::{env, error::Error, sync::Arc};

use aios_agents::{prelude::*, runtime::RuntimeBuilder};
use aios_llm::{
    LanguageModel, LlmAgent, LlmAgentError, ModelResponse, Prompt,
    agent::BuiltAgent,
    budget::Budget,
    providers::{OpenAiModel, ProviderOptions, connect},
    testing::{FakeProvider, FakeReply, FakeRequest},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::task::spawn_blocking;

use crate::{
    agents::FileOf,
    analysis::{Analysis, FileReview},
    cli::ModelName,
    read,
    scan::{SkipReason, Skipped},
};

/// Name of the agent that reviews a file.
const REVIEWER: &str = "reviewer";
/// Type of the agents that read a file for it.
const READER: &str = "reader";
/// The model that stands for a provider on this machine.
const OFFLINE: &str = "offline";
/// The largest file that a model gets, in bytes.
const MAX_BYTES: u64 = 64 * 1024;
/// The most remarks that are kept for a file.
const MAX_REMARKS: usize = 20;

const INSTRUCTIONS: &str = "You review source code. Name bugs and risks, each with the number of its \
    line, in one sentence. Leave out matters of style. If there are none, return no remarks.";

/// A remark of the model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Remark {
    /// Its line, from 1.
    pub(crate) line: u64,
    /// One sentence.
    pub(crate) text: String,
}

/// The output of the model.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Remarks {
    /// Bugs and risks.
    remarks: Vec<Remark>,
}

/// Reads a file with the numbers of its lines.
struct Reader;

impl Agent for Reader {
    type Parameters = FileOf;
    type Output = String;

    async fn process_task(&self, _: &TaskContext, file: FileOf) -> Result<String, TaskError> {
        let content = spawn_blocking(move || read::read(&file.root, &file.path)).await?;
        let content = content.map_err(|skipped| {
            let reason = format!("{} can't be read", skipped.path);
            TaskError::terminal(Failure::new("FILE_UNREADABLE", reason))
        })?;
        let lines = content.text().lines().enumerate();
        Ok(lines.map(|(index, line)| format!("{}: {line}\n", index + 1)).collect())
    }
}

/// A model, and the provider on this machine if it is that one.
pub(crate) struct Model {
    model: Arc<dyn LanguageModel>,
    _offline: Option<FakeProvider>,
}

impl Model {
    /// The model of the command line, if it names one.
    pub(crate) async fn connect(model: &ModelName) -> Result<Option<Self>, Box<dyn Error>> {
        match &model.name {
            Some(name) => Ok(Some(Self::named(name).await?)),
            None => Ok(None),
        }
    }

    /// The model `<provider>:<model>`, with the key `AIOS_LLM_API_KEY` and the base URL
    /// `AIOS_LLM_BASE_URL`, or `offline`.
    #[allow(clippy::disallowed_methods, reason = "a program reads its environment")]
    async fn named(name: &str) -> Result<Self, Box<dyn Error>> {
        if name == OFFLINE {
            let provider = FakeProvider::respond_with(respond).await?;
            let options = ProviderOptions::new(name).with_base_url(provider.openai_url());
            let model = Arc::new(OpenAiModel::new(options)?);
            return Ok(Self { model, _offline: Some(provider) });
        }
        let (protocol, model) = name
            .split_once(':')
            .ok_or_else(|| format!("{name} is no model: write <provider>:<model>, or offline"))?;
        let key = env::var("AIOS_LLM_API_KEY").map_err(|_| "set AIOS_LLM_API_KEY to the key")?;
        let mut options = ProviderOptions::new(model).with_api_key(key).with_name(name);
        if let Ok(url) = env::var("AIOS_LLM_BASE_URL") {
            options = options.with_base_url(url);
        }
        Ok(Self { model: connect(protocol, options)?, _offline: None })
    }

    /// Lets a runtime run the reviews of files.
    pub(crate) fn run(&self, builder: RuntimeBuilder) -> Result<RuntimeBuilder, LlmAgentError> {
        Ok(builder.workflow_dyn(self.reviewer()?.workflow()?))
    }

    /// Lets a runtime read the files and make the requests to the model.
    pub(crate) fn host(&self, builder: RuntimeBuilder) -> Result<RuntimeBuilder, LlmAgentError> {
        let agents = self.reviewer()?.agents();
        Ok(agents.into_iter().fold(builder.agent(READER, Reader), RuntimeBuilder::agents))
    }

    /// The agent that reviews a file.
    fn reviewer(&self) -> Result<BuiltAgent, LlmAgentError> {
        LlmAgent::new(Arc::clone(&self.model))
            .instructions(INSTRUCTIONS)
            .output::<Remarks>()
            .budget(Budget::new().with_requests(5).with_output_tokens(10_000))
            .build(REVIEWER)
    }
}

/// The provider on this machine: it remarks calls of `unwrap`.
fn respond(request: &FakeRequest) -> FakeReply {
    let messages = request.body.get("messages").and_then(serde_json::Value::as_array);
    let asked = messages.and_then(|messages| messages.last()).map(ToString::to_string);
    let asked = asked.unwrap_or_default();
    let lines = asked.split("\\n").filter(|line| line.contains(".unwrap()"));
    let remarks = lines.filter_map(|line| {
        let line: u64 = line.split(':').next()?.parse().ok()?;
        Some(json!({"line": line, "text": "`unwrap` may panic."}))
    });
    let output = json!({"remarks": remarks.collect::<Vec<_>>()});
    FakeReply::response(ModelResponse::text(output.to_string()))
}

/// Lets the model review a file that was analysed, in a run of its own. Returns the analysis with the
/// remarks, and why there are none.
pub(crate) async fn review(
    context: &WorkflowContext,
    file: &FileOf,
    analysis: Analysis,
) -> (Analysis, Option<Skipped>) {
    let Analysis::Reviewed(mut review) = analysis else { return (analysis, None) };
    let unfit = |reason: &str| {
        let skipped = Skipped::new(&file.path, SkipReason::NotReviewedByModel);
        Some(skipped.because(reason))
    };
    if !review.findings.secrets.is_empty() {
        return (Analysis::Reviewed(review), unfit("it has likely secrets"));
    }
    if review.bytes > MAX_BYTES {
        return (Analysis::Reviewed(review), unfit("it is too large"));
    }
    let failed = match remarks(context, file, &review).await {
        Ok(Remarks { mut remarks }) => {
            remarks.truncate(MAX_REMARKS);
            review.findings.remarks = remarks;
            None
        }
        Err(error) => unfit(error.code()),
    };
    (Analysis::Reviewed(review), failed)
}

async fn remarks(
    context: &WorkflowContext,
    file: &FileOf,
    review: &FileReview,
) -> Result<Remarks, WorkflowError> {
    let source: String = context.task(READER, file).await?;
    let prompt = Prompt::new(format!("{} ({})\n\n{source}", review.path, review.language));
    context.child(REVIEWER, &prompt).await
}
