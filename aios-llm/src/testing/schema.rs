//! A model that generates valid arguments and output.
//!
//! Values are the smallest that the schema accepts, and always the same, so tests are repeatable.
//! Keywords that a type in Rust rarely produces, such as `pattern`, are not respected.

use async_trait::async_trait;
use serde_json::{Map, Value, json};

use crate::model::{
    Capabilities, LanguageModel, ModelError, ModelRequest, ModelResponse, ModelStream, Part, Role,
    Usage, whole,
};

/// Longest chain of references that is followed.
const MAX_DEPTH: usize = 32;

/// A model that calls every tool once, with arguments generated from its schema, and then answers
/// with output generated from the output schema, or with a text.
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
        let calls = request.tools.iter().enumerate().map(|(index, tool)| {
            let arguments = example(&tool.parameters);
            Part::tool_call(format!("call-{index}"), &tool.name, &arguments)
        });
        let content: Vec<Part> = if has_results { Vec::new() } else { calls.collect() };
        let response = match (&request.output, content.is_empty()) {
            (_, false) => ModelResponse::new(content),
            (Some(output), true) => ModelResponse::text(example(&output.schema).to_string()),
            (None, true) => ModelResponse::text("done"),
        };
        Ok(response.with_model(self.name()).with_usage(Usage::new(10, 5)))
    }

    async fn stream(&self, request: &ModelRequest) -> Result<ModelStream, ModelError> {
        Ok(whole(self.complete(request).await?))
    }
}

/// A value that the schema accepts: the smallest one, with required properties only.
fn example(schema: &Value) -> Value {
    generate(schema, schema, 0)
}

/// A value for a part of the schema. `root` is where references are looked up.
fn generate(schema: &Value, root: &Value, depth: usize) -> Value {
    if depth > MAX_DEPTH {
        return Value::Null;
    }
    let of = |schema: &Value| generate(schema, root, depth + 1);
    if let Some(value) = schema.get("const") {
        return value.clone();
    }
    if let Some(value) = schema.get("enum").and_then(Value::as_array).and_then(|all| all.first()) {
        return value.clone();
    }
    if let Some(path) = schema.get("$ref").and_then(Value::as_str) {
        let pointer = path.strip_prefix('#').unwrap_or(path);
        return root.pointer(pointer).map_or(Value::Null, of);
    }
    for choice in ["anyOf", "oneOf", "allOf"] {
        let options = schema.get(choice).and_then(Value::as_array);
        if let Some(first) = options.and_then(|options| options.first()) {
            return of(first);
        }
    }
    match type_of(schema) {
        Some("object") => Value::Object(object(schema, &of)),
        Some("array") => {
            let least = schema.get("minItems").and_then(Value::as_u64).unwrap_or(0).min(100);
            let item = schema.get("items").map_or(Value::Null, of);
            (0..least).map(|_| item.clone()).collect()
        }
        Some("integer") => {
            let integer = schema.get("minimum").or_else(|| schema.get("exclusiveMinimum"));
            let exclusive = i64::from(schema.get("minimum").is_none());
            integer.and_then(Value::as_i64).map_or(json!(0), |least| json!(least + exclusive))
        }
        Some("number") => json!(least(schema).unwrap_or(0.0)),
        Some("boolean") => json!(false),
        Some("string") => {
            let least = schema.get("minLength").and_then(Value::as_u64).unwrap_or(1).clamp(1, 1000);
            Value::String("a".repeat(usize::try_from(least).unwrap_or(1)))
        }
        _ => Value::Null,
    }
}

/// The first type of a schema.
fn type_of(schema: &Value) -> Option<&str> {
    match schema.get("type")? {
        Value::Array(types) => types.first()?.as_str(),
        one => one.as_str(),
    }
}

/// The lower bound of a number.
fn least(schema: &Value) -> Option<f64> {
    let exclusive = schema.get("exclusiveMinimum").and_then(Value::as_f64).map(|least| least + 1.0);
    exclusive.or_else(|| schema.get("minimum").and_then(Value::as_f64))
}

/// An object with the required properties.
fn object(schema: &Value, of: &dyn Fn(&Value) -> Value) -> Map<String, Value> {
    let required = schema.get("required").and_then(Value::as_array);
    let names = required.into_iter().flatten().filter_map(Value::as_str);
    let property = |name: &str| schema.get("properties").and_then(|all| all.get(name)).map(of);
    names.map(|name| (name.to_owned(), property(name).unwrap_or(Value::Null))).collect()
}

#[cfg(test)]
mod tests {
    use schemars::JsonSchema;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, JsonSchema)]
    #[allow(dead_code, reason = "only its schema matters")]
    struct Nested {
        name: String,
        kind: Kind,
        score: f64,
        count: u32,
        inner: Vec<Inner>,
        maybe: Option<Inner>,
    }

    #[derive(Debug, Deserialize, JsonSchema)]
    #[allow(dead_code, reason = "only its schema matters")]
    struct Inner {
        flag: bool,
    }

    #[derive(Debug, Deserialize, JsonSchema)]
    #[serde(rename_all = "snake_case")]
    #[allow(dead_code, reason = "only its schema matters")]
    enum Kind {
        Large { size: u8 },
        Small,
    }

    #[test]
    fn should_generate_values_that_decode() {
        let schema = schemars::schema_for!(Nested).to_value();
        let value = example(&schema);
        assert!(jsonschema::is_valid(&schema, &value), "{value}");
        serde_json::from_value::<Nested>(value).unwrap();
    }
}
