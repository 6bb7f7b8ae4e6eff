//! How the output of an agent is requested from the model, and read from its response.
//!
//! | mode | chosen if the models | request | result |
//! |---|---|---|---|
//! | native | support structured output, even with the tools of the agent | the schema in the request | the text of the response |
//! | tool | support tools | a tool `final_result`, and a call is required | its arguments |
//! | prompt | support neither | the schema in the instructions | the text of the response |
//!
//! Providers accept only objects as the root of a schema, so other types are wrapped in an object
//! with one property. The result is checked twice: against the schema, which finds every fault, and
//! against the Rust type, which may accept less. A fault is text for the model, which gets another
//! turn.

use aios_core::event::Payload;
use schemars::JsonSchema;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::{
    model::{Capabilities, ModelRequest, OutputSchema, ToolChoice, ToolSpec},
    schema::{Schema, decode_text, is_plain_object, schema_of, split, with_properties},
};

/// Name of the tool that carries structured output, for models without native support.
pub(crate) const FINAL_TOOL: &str = "final_result";
/// The property that holds output which is not an object.
const WRAPPED: &str = "result";

/// The type of an agent's output.
#[derive(Clone, Debug)]
pub(super) struct OutputType {
    /// Name of the type, as some providers require one.
    name: String,
    /// JSON Schema of the type, not wrapped.
    schema: Value,
    /// Decodes JSON as the type; accepts everything if the type is not one of Rust.
    check: fn(&str) -> Result<(), String>,
}

/// The output of an agent and how it is requested.
pub(super) enum Output {
    /// Any text that is not empty.
    Text,
    /// A value with a schema.
    Structured(Box<Structured>),
}

/// Structured output of an agent.
pub(super) struct Structured {
    /// Name of the schema in native requests.
    name: String,
    /// How it is requested.
    mode: Mode,
    /// The schema of what the model writes: always an object.
    schema: Schema,
    /// Whether the schema is not that of the type, but of the object around it.
    is_wrapped: bool,
    /// See `OutputType`.
    check: fn(&str) -> Result<(), String>,
}

/// See the table above.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// By the provider.
    Native,
    /// As arguments of a tool.
    Tool,
    /// As text, on request.
    Prompt,
}

impl PartialEq for OutputType {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, &self.schema) == (&other.name, &other.schema)
    }
}

impl OutputType {
    /// The output of a type in Rust.
    pub(super) fn of<T: DeserializeOwned + JsonSchema>() -> Self {
        Self {
            name: T::schema_name().into_owned(),
            schema: schema_of::<T>(),
            check: |json| decode_text::<T>(json).map(drop),
        }
    }

    /// The output of a type that is known by its schema only.
    pub(super) fn from_schema(name: String, schema: Value) -> Self {
        Self { name, schema, check: |_| Ok(()) }
    }
}

impl Output {
    /// Chooses the mode. `capabilities` are those that all models of the agent share. `has_tools` says
    /// whether its requests have tools.
    pub(super) fn new(
        output: Option<OutputType>,
        capabilities: Capabilities,
        has_tools: bool,
    ) -> Result<Self, String> {
        let Some(OutputType { name, schema, check }) = output else { return Ok(Self::Text) };
        let is_native =
            capabilities.native_output && (!has_tools || capabilities.native_output_with_tools);
        let mode = match capabilities {
            _ if is_native => Mode::Native,
            Capabilities { tools: true, .. } => Mode::Tool,
            _ => Mode::Prompt,
        };
        let is_wrapped = !is_plain_object(&schema);
        let schema = if is_wrapped { wrap(schema) } else { with_properties(schema) };
        let schema = Schema::compile(schema)?;
        Ok(Self::Structured(Box::new(Structured { name, mode, schema, is_wrapped, check })))
    }

    /// Asks for the output in a request.
    pub(super) fn request_in(&self, request: &mut ModelRequest) {
        let Self::Structured(output) = self else { return };
        let schema = output.schema.value.clone();
        match output.mode {
            Mode::Native => {
                request.output = Some(OutputSchema { name: output.name.clone(), schema });
            }
            Mode::Tool => {
                let description = "Call this tool with the final result.".to_owned();
                let parameters = schema;
                let name = FINAL_TOOL.to_owned();
                request.tools.push(ToolSpec { name, description, parameters });
                // Without this, a model may answer with text only.
                request.tool_choice = ToolChoice::Required;
            }
            Mode::Prompt => {
                let ask = format!(
                    "Answer with one JSON object that has this JSON Schema, and nothing else:\n{schema}"
                );
                let instructions = request.instructions.take();
                request.instructions = Some(
                    instructions.map_or_else(|| ask.clone(), |text| format!("{text}\n\n{ask}")),
                );
            }
        }
    }

    /// Whether the output is the arguments of [`FINAL_TOOL`].
    pub(super) fn is_tool(&self) -> bool {
        matches!(self, Self::Structured(output) if output.mode == Mode::Tool)
    }

    /// Whether the output is structured and the text of a response.
    pub(super) fn is_text_of_model(&self) -> bool {
        matches!(self, Self::Structured(output) if output.mode != Mode::Tool)
    }

    /// A text, perhaps incomplete, without what models like to put around JSON.
    pub(super) fn without_decoration<'t>(&self, text: &'t str) -> &'t str {
        let text = text.trim_start();
        let Some(fenced) = text.strip_prefix("```") else { return text };
        let fenced = fenced.strip_prefix("json").unwrap_or(fenced);
        fenced.split_once("```").map_or(fenced, |(inner, _)| inner)
    }

    /// The output in what a model writes, which may not be complete.
    pub(super) fn unwrap(&self, json: Payload) -> Payload {
        match self {
            Self::Structured(output) if output.is_wrapped && json.as_str().starts_with('{') => {
                json.decode::<Wrapped>().unwrap_or_default().result
            }
            _ => json,
        }
    }

    /// Reads the output from a text. It stays JSON as it was written, so no number loses its precision.
    /// The error is for the model.
    pub(super) fn read(&self, text: &str) -> Result<Payload, String> {
        let output = match self {
            Self::Text if text.trim().is_empty() => return Err("The answer is empty.".to_owned()),
            Self::Text => return Payload::encode(text).map_err(|error| error.to_string()),
            Self::Structured(output) => output,
        };
        let text = without_fence(text);
        let value: Value = serde_json::from_str(text)
            .map_err(|error| format!("The result is not valid JSON: {error}"))?;
        output.schema.check(&value).map_err(|faults| invalid(&faults))?;
        let json = match output.is_wrapped {
            true => decode_text::<Wrapped>(text).map(|wrapped| wrapped.result),
            false => decode_text(text),
        };
        let json = json.map_err(|fault| invalid(&fault))?;
        (output.check)(json.as_str()).map_err(|fault| invalid(&fault))?;
        Ok(json)
    }
}

/// Output that is not an object, in the object around it: the property is [`WRAPPED`].
#[derive(Default, Deserialize)]
struct Wrapped {
    /// The output.
    #[serde(default)]
    result: Payload,
}

/// The fault of a result that does not match.
fn invalid(faults: &str) -> String {
    format!("The result does not match its schema:\n{faults}")
}

/// The schema of an object with one property. A schema that refers to itself becomes one of its
/// definitions.
fn wrap(schema: Value) -> Value {
    let (definitions, schema) = split(schema);
    let mut wrapped = json!({
        "type": "object",
        "properties": { WRAPPED: schema },
        "required": [WRAPPED],
        "additionalProperties": false,
    });
    if let Some(fields) = wrapped.as_object_mut() {
        fields.extend(definitions);
    }
    wrapped
}

/// The text without the code fence that models like to put around JSON.
fn without_fence(text: &str) -> &str {
    let text = text.trim();
    let Some(fenced) = text.strip_prefix("```").and_then(|rest| rest.strip_suffix("```")) else {
        return text;
    };
    fenced.strip_prefix("json").unwrap_or(fenced).trim()
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, JsonSchema)]
    #[allow(dead_code, reason = "only its schema matters")]
    struct Report {
        title: String,
    }

    #[derive(Debug, Deserialize, JsonSchema)]
    #[allow(dead_code, reason = "only its schema matters")]
    struct Item {
        id: u8,
    }

    fn output<T: DeserializeOwned + JsonSchema>(capabilities: Capabilities) -> Output {
        Output::new(Some(OutputType::of::<T>()), capabilities, false).unwrap()
    }

    #[test]
    fn should_name_the_path_of_each_fault() {
        let output = output::<Report>(Capabilities::all());
        assert!(output.read(r#"{"title":7}"#).unwrap_err().contains("/title"));
        assert!(output.read("{}").unwrap_err().contains("/title: is missing"));
        assert!(output.read("no").unwrap_err().contains("not valid JSON"));
        let fenced = output.read("```json\n{\"title\":\"x\"}\n```").unwrap();
        assert_eq!(fenced.as_str(), r#"{"title":"x"}"#);
    }

    #[test]
    fn should_wrap_output_that_is_not_an_object() {
        let output = output::<Vec<Item>>(Capabilities::all());
        assert_eq!(output.read(r#"{"result":[{"id":1}]}"#).unwrap().as_str(), r#"[{"id":1}]"#);
        assert!(output.read(r#"{"result":[{"id":"x"}]}"#).unwrap_err().contains("/result/0/id"));
    }

    #[derive(Debug, Deserialize, JsonSchema)]
    #[allow(dead_code, reason = "only its schema matters")]
    struct Labelled {
        label: String,
        #[serde(flatten)]
        kind: Kind,
    }

    #[derive(Debug, Deserialize, JsonSchema)]
    #[allow(dead_code, reason = "only its schema matters")]
    enum Kind {
        Number(f64),
        Text(String),
    }

    /// Providers reject a choice at the root of a schema.
    #[test]
    fn should_wrap_output_that_is_a_choice_of_objects() {
        let output = output::<Labelled>(Capabilities::all());
        let read = output.read(r#"{"result":{"label":"x","Number":1.0}}"#).unwrap();
        assert_eq!(read.as_str(), r#"{"label":"x","Number":1.0}"#);
    }

    #[derive(Debug, Deserialize, JsonSchema)]
    #[allow(dead_code, reason = "only its schema matters")]
    enum Expression {
        Number(f64),
        Not(Box<Self>),
    }

    #[test]
    fn should_wrap_output_that_contains_itself() {
        let output = output::<Expression>(Capabilities::all());
        let nested = json!({"Not": {"Not": {"Number": 1.0}}});
        let read = output.read(&json!({ "result": nested }).to_string()).unwrap();
        assert_eq!(read.decode::<Value>().unwrap(), nested);
        assert!(output.read(r#"{"result":{"Not":{"Number":"x"}}}"#).is_err());
        let schema = json!({
            "anyOf": [{"type": "array", "items": {"$ref": "#"}}, {"$ref": "#/definitions/output"}],
            "definitions": {"output": {"type": "integer"}},
        });
        let named = OutputType::from_schema("Tree".to_owned(), schema);
        let output = Output::new(Some(named), Capabilities::all(), false).unwrap();
        assert_eq!(output.read(r#"{"result":[[1],2]}"#).unwrap().as_str(), "[[1],2]");
        assert!(output.read(r#"{"result":[["x"]]}"#).is_err());
    }

    #[test]
    fn should_ask_for_output_as_the_model_supports_it() {
        let requested = |capabilities| {
            let mut request = ModelRequest::new("hi").with_instructions("Be brief.");
            output::<Report>(capabilities).request_in(&mut request);
            request
        };
        assert!(requested(Capabilities::all()).output.is_some());
        let tool = requested(Capabilities::none().with_tools(true));
        assert_eq!(
            (tool.tools[0].name.as_str(), tool.tool_choice),
            (FINAL_TOOL, ToolChoice::Required)
        );
        let prompt = requested(Capabilities::none()).instructions.unwrap();
        assert!(prompt.starts_with("Be brief.\n\n") && prompt.contains("JSON Schema"));
    }
}
