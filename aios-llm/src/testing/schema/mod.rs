//! A model that generates valid arguments and output.
//!
//! Values are small and always the same, so tests are repeatable. Every value is validated before it is
//! used, whatever the schema says.

mod merge;
mod number;
mod text;
mod value;

use async_trait::async_trait;
use serde_json::Value;

use crate::model::{
    Capabilities, LanguageModel, ModelError, ModelErrorKind, ModelRequest, ModelResponse,
    ModelStream, Part, Role, Usage, whole,
};

/// A model that calls every tool once, with arguments generated from its schema, and then answers
/// with output generated from the output schema, or with a text.
///
/// If it finds no value that a schema accepts, for example because of a complex `pattern`, it fails with
/// `MODEL_UNEXPECTED_REQUEST`, and names the schema.
///
/// # Examples
///
/// A first test of an agent, without a script: the schemas, the tools and the output fit together.
///
/// ```
/// use aios_agents::prelude::*;
/// use aios_llm::{LlmAgent, RuntimeBuilderExt, testing::SchemaModel, tool::Tool};
/// use schemars::JsonSchema;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Deserialize, JsonSchema)]
/// struct Query {
///     words: String,
/// }
///
/// #[derive(Serialize, Deserialize, JsonSchema)]
/// struct Report {
///     title: String,
/// }
///
/// async fn search(query: Query) -> Result<String, std::io::Error> {
///     Ok(format!("a page about {}", query.words))
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let agent = LlmAgent::new(SchemaModel::new())
///     .tool(Tool::read("search", "Searches the web.", search))
///     .output::<Report>();
/// let runtime = Runtime::builder()
///     .store(aios_store::connect("memory://").await?)
///     .broker(aios_broker::connect("memory://").await?)
///     .llm_agent("researcher", agent)?
///     .start()
///     .await?;
/// let run = runtime.start("researcher", "anything").await?;
/// let _: Report = run.result().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct SchemaModel;

impl SchemaModel {
    /// Creates the model.
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

#[async_trait]
impl LanguageModel for SchemaModel {
    fn name(&self) -> &'static str {
        "test:schema"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::all()
    }

    async fn complete(&self, request: &ModelRequest) -> Result<ModelResponse, ModelError> {
        let has_results = request.messages.iter().any(|message| message.role == Role::Tool);
        let mut calls = Vec::new();
        for (index, tool) in request.tools.iter().enumerate().filter(|_| !has_results) {
            let arguments = example(&format!("tool {:?}", tool.name), &tool.parameters)?;
            calls.push(Part::tool_call(format!("call-{index}"), &tool.name, &arguments));
        }
        let response = match &request.output {
            _ if !calls.is_empty() => ModelResponse::new(calls),
            Some(output) => {
                let output = example(&format!("output {:?}", output.name), &output.schema)?;
                ModelResponse::text(output.to_string())
            }
            None => ModelResponse::text("done"),
        };
        Ok(response.with_model(self.name()).with_usage(Usage::new(10, 5)))
    }

    async fn stream(&self, request: &ModelRequest) -> Result<ModelStream, ModelError> {
        Ok(whole(self.complete(request).await?))
    }
}

/// A value that a schema accepts, as JSON.
fn example(what: &str, schema: &Value) -> Result<Value, ModelError> {
    value::example(schema).ok_or_else(|| {
        let reason = format!(
            "no value is found that the schema of {what} accepts; use a `ScriptedModel`. The schema is: \
             {schema}"
        );
        ModelError::new(ModelErrorKind::UnexpectedRequest, reason)
    })
}

#[cfg(test)]
mod tests;
