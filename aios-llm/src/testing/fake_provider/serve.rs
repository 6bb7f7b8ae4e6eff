//! Connections of the fake provider. One task accepts, and each connection has a task of its own,
//! so a reply that hangs does not block others. All of them end when the provider is dropped.

use std::{future::pending, io, sync::Arc, time::Duration};

use serde_json::Value;
use tokio::{
    io::BufReader,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::{
    FakeRequest, Script, anthropic, bedrock, gemini, http, openai, reply::Kind, responses, seconds,
};
use crate::model::ModelResponse;

/// The protocol of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    /// Chat completions.
    OpenAi,
    /// Responses.
    Responses,
    /// Messages.
    Anthropic,
    /// `generateContent`.
    Gemini,
    /// Converse.
    Bedrock,
}

impl Protocol {
    /// The protocol of a path.
    fn of(path: &str) -> Option<Self> {
        match path {
            "/v1/chat/completions" => Some(Self::OpenAi),
            "/v1/responses" => Some(Self::Responses),
            "/v1/messages" => Some(Self::Anthropic),
            path if path.starts_with("/v1beta/models/") && path.contains(':') => Some(Self::Gemini),
            path if path.starts_with("/model/") && path.contains("/converse") => {
                Some(Self::Bedrock)
            }
            _ => None,
        }
    }

    /// The body of an error in this protocol.
    fn error(self, status: u16, message: &str) -> Value {
        match self {
            Self::OpenAi | Self::Responses => openai::error(status, message),
            Self::Anthropic => anthropic::error(status, message),
            Self::Gemini => gemini::error(status, message),
            Self::Bedrock => bedrock::error(message),
        }
    }

    /// Rejects what the real provider rejects.
    fn check(self, request: &FakeRequest) -> Result<(), (u16, String)> {
        let (keys, required): (&[&str], &[&str]) = match self {
            Self::OpenAi => (&["authorization"], &["model", "messages"]),
            Self::Responses => (&["authorization"], &["model", "input"]),
            Self::Anthropic => {
                (&["x-api-key", "authorization"], &["model", "messages", "max_tokens"])
            }
            Self::Gemini => (&["x-goog-api-key"], &["contents"]),
            Self::Bedrock => (&["authorization"], &["messages"]),
        };
        if !keys.iter().any(|key| request.header(key).is_some()) {
            return Err((401, "the API key is missing".to_owned()));
        }
        if let Some(name) = required.iter().find(|name| request.body.get(**name).is_none()) {
            return Err((400, format!("{name}: field required")));
        }
        if self == Self::Anthropic && request.header("anthropic-version").is_none() {
            return Err((400, "anthropic-version: header is required".to_owned()));
        }
        if let Some(most) = self.longest_call_id()
            && call_ids(&request.body).any(|id| id.len() > most)
        {
            let message = format!("string too long. Expected a string with maximum length {most}");
            return Err((400, message));
        }
        let checked =
            self.check_tools(&request.body).and_then(|()| self.check_blocks(&request.body));
        checked.map_err(|message| (400, message.to_owned()))
    }

    /// The longest id of a call that the real provider accepts, where it has a limit.
    fn longest_call_id(self) -> Option<usize> {
        match self {
            Self::OpenAi => Some(40),
            Self::Responses => Some(64),
            Self::Anthropic | Self::Gemini | Self::Bedrock => None,
        }
    }

    /// Rejects an empty list of tools, a choice among none, or a tool without a description, where the real
    /// provider does.
    fn check_tools(self, body: &Value) -> Result<(), &'static str> {
        let tools = body.get("tools").and_then(Value::as_array);
        let chooses = body.get("tool_choice").is_some();
        match self {
            Self::OpenAi if tools.is_some_and(Vec::is_empty) => {
                Err("Invalid 'tools': empty array. Expected an array with minimum length 1, but \
                     got an empty array instead.")
            }
            Self::OpenAi if chooses && tools.is_none() => {
                Err("Invalid value for 'tool_choice': 'tool_choice' is only allowed when 'tools' \
                     are specified.")
            }
            Self::Anthropic if chooses && tools.is_none_or(Vec::is_empty) => {
                Err("tool_choice may only be specified while providing tools")
            }
            Self::Bedrock if body.get("toolConfig").is_none() && has_calls(body) => Err(
                "The toolConfig field must be defined when using toolUse and toolResult content \
                     blocks.",
            ),
            Self::Bedrock if has_blank_description(body) => {
                Err("Value at 'toolConfig.tools.member.toolSpec.description' failed to satisfy \
                 constraint: Member must have length greater than or equal to 1")
            }
            _ => Ok(()),
        }
    }

    /// Rejects reasoning that nothing follows, and texts without a letter, where the real provider does.
    fn check_blocks(self, body: &Value) -> Result<(), &'static str> {
        match self {
            Self::Anthropic if last_blocks(body).any(|it| has_type(it, "thinking")) => {
                Err("The final block in an assistant message cannot be `thinking`.")
            }
            Self::Anthropic if last_blocks(body).any(|it| has_type(it, "redacted_thinking")) => {
                Err("The final block in an assistant message cannot be `redacted_thinking`.")
            }
            Self::Bedrock if last_blocks(body).any(|it| it.get("reasoningContent").is_some()) => {
                Err("The final block in an assistant message cannot be `thinking`.")
            }
            Self::Bedrock if texts(body).any(|text| text.trim().is_empty()) => {
                Err("The text field in the ContentBlock object is blank.")
            }
            Self::Responses if has_lone_reasoning(body) => {
                Err("Item of type 'reasoning' was provided without its required following item.")
            }
            _ => Ok(()),
        }
    }

    /// Whether a stream is requested: by a field of the body, or by the path.
    fn wants_stream(self, request: &FakeRequest) -> bool {
        match self {
            Self::OpenAi | Self::Responses | Self::Anthropic => {
                request.body.get("stream").and_then(Value::as_bool).unwrap_or(false)
            }
            Self::Gemini => request.path.ends_with(":streamGenerateContent"),
            Self::Bedrock => request.path.ends_with("/converse-stream"),
        }
    }

    /// A whole response in this protocol.
    fn body(self, response: &ModelResponse, request: &Value) -> Value {
        match self {
            Self::OpenAi => openai::body(response, request),
            Self::Responses => responses::body(response, request),
            Self::Anthropic => anthropic::body(response, request),
            Self::Gemini => gemini::body(response),
            Self::Bedrock => bedrock::body(response),
        }
    }

    /// The type of a stream, and its events.
    fn events(self, response: &ModelResponse, request: &Value) -> (&'static str, Vec<Vec<u8>>) {
        let events = match self {
            Self::OpenAi => openai::events(response, request),
            Self::Responses => responses::events(response, request),
            Self::Anthropic => anthropic::events(response, request),
            Self::Gemini => gemini::events(response),
            Self::Bedrock => {
                return ("application/vnd.amazon.eventstream", bedrock::events(response));
            }
        };
        ("text/event-stream", events.into_iter().map(String::into_bytes).collect())
    }
}

/// The ids of calls in a request of `OpenAI`, with those in results.
fn call_ids(body: &Value) -> impl Iterator<Item = &str> {
    let messages = list(body, "messages").flat_map(|message| {
        let calls = list(message, "tool_calls").map(|call| call.get("id"));
        calls.chain([message.get("tool_call_id")])
    });
    let items = list(body, "input").map(|item| item.get("call_id"));
    messages.chain(items).flatten().filter_map(Value::as_str)
}

/// The items of a list in a field.
fn list<'v>(value: &'v Value, field: &str) -> impl Iterator<Item = &'v Value> {
    value.get(field).and_then(Value::as_array).into_iter().flatten()
}

/// Whether messages of Bedrock have calls or results of tools.
fn has_calls(body: &Value) -> bool {
    let mut blocks =
        list(body, "messages").filter_map(|it| it.get("content")?.as_array()).flatten();
    blocks.any(|it| it.get("toolUse").is_some() || it.get("toolResult").is_some())
}

/// Whether a block or an item is of a type.
fn has_type(block: &Value, kind: &str) -> bool {
    block.get("type").is_some_and(|it| it == kind)
}

/// The last block of each message of the model.
fn last_blocks(body: &Value) -> impl Iterator<Item = &Value> {
    let said =
        list(body, "messages").filter(|it| it.get("role").is_some_and(|it| it == "assistant"));
    said.filter_map(|message| list(message, "content").last())
}

/// The texts of a request to Bedrock, with those of results.
fn texts(body: &Value) -> impl Iterator<Item = &str> {
    let blocks = || list(body, "messages").flat_map(|message| list(message, "content"));
    let results = blocks().filter_map(|it| it.get("toolResult"));
    let results = results.flat_map(|result| list(result, "content"));
    let all = list(body, "system").chain(blocks()).chain(results);
    all.filter_map(|block| block.get("text")?.as_str())
}

/// Whether the model's reasoning is followed by nothing of the model.
fn has_lone_reasoning(body: &Value) -> bool {
    let items: Vec<_> = list(body, "input").collect();
    let is_of_user = |item: &Value| item.get("role").is_some_and(|role| role == "user");
    items.iter().enumerate().any(|(place, item)| {
        has_type(item, "reasoning") && items.get(place + 1).is_none_or(|next| is_of_user(next))
    })
}

/// Whether a tool of Bedrock has a description without a letter.
fn has_blank_description(body: &Value) -> bool {
    let tools = body.pointer("/toolConfig/tools").and_then(Value::as_array).into_iter().flatten();
    let mut descriptions = tools.filter_map(|it| it.pointer("/toolSpec/description")?.as_str());
    descriptions.any(|it| it.trim().is_empty())
}

/// Serves connections until it is aborted.
pub(super) async fn serve(listener: TcpListener, script: Arc<Script>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((connection, _)) = listener.accept().await else { continue };
        let script = Arc::clone(&script);
        connections.spawn(async move {
            if let Err(error) = converse(connection, &script).await {
                tracing::debug!(%error, "a connection to the fake provider ended");
            }
        });
        // Otherwise the results of all connections would be kept.
        while connections.try_join_next().is_some() {}
    }
}

/// Answers the requests of one connection, in order.
async fn converse(connection: TcpStream, script: &Script) -> io::Result<()> {
    let mut connection = BufReader::new(connection);
    while let Some((method, request)) = http::read(&mut connection).await? {
        let protocol = Protocol::of(&request.path).filter(|_| method == "POST");
        let Some(protocol) = protocol else {
            let body = openai::error(404, "there is no such resource").to_string();
            http::write(&mut connection, 404, &[json_type()], &body, false).await?;
            continue;
        };
        // Recorded before it is checked, so that tests see requests that are rejected, too.
        script.record(request.clone());
        if let Err((status, message)) = protocol.check(&request) {
            refuse(&mut connection, protocol, status, &message, None).await?;
            continue;
        }
        let missing = || Kind::Status {
            status: 500,
            message: "the script of the fake provider has no reply left".to_owned(),
            retry_after: None,
        };
        let kind = script.next(&request).map_or_else(missing, |reply| reply.0);
        if !reply(&mut connection, protocol, &request, kind).await? {
            return Ok(());
        }
    }
    Ok(())
}

/// Sends a reply. Returns whether the connection can be used again.
async fn reply(
    connection: &mut BufReader<TcpStream>,
    protocol: Protocol,
    request: &FakeRequest,
    kind: Kind,
) -> io::Result<bool> {
    match kind {
        Kind::Hang => pending().await,
        Kind::Text(text) => http::write(connection, 200, &[json_type()], &text, false).await?,
        Kind::Status { status, message, retry_after } => {
            refuse(connection, protocol, status, &message, retry_after).await?;
        }
        Kind::Stalled { response, events: most } => {
            if protocol.wants_stream(request) {
                let (media_type, events) = protocol.events(&response, &request.body);
                http::write_events(connection, media_type, &events, Some(most)).await?;
            }
            pending().await
        }
        Kind::Response { response, cut_after } => {
            if protocol.wants_stream(request) {
                let (media_type, events) = protocol.events(&response, &request.body);
                http::write_events(connection, media_type, &events, cut_after).await?;
            } else {
                let body = protocol.body(&response, &request.body).to_string();
                let is_cut = cut_after.is_some();
                http::write(connection, 200, &[json_type()], &body, is_cut).await?;
            }
            return Ok(cut_after.is_none());
        }
    }
    Ok(true)
}

/// Sends an error.
async fn refuse(
    connection: &mut BufReader<TcpStream>,
    protocol: Protocol,
    status: u16,
    message: &str,
    retry_after: Option<Duration>,
) -> io::Result<()> {
    let body = protocol.error(status, message).to_string();
    let mut headers = vec![json_type()];
    if let Some(delay) = retry_after {
        headers.push(("retry-after", seconds(delay).to_string()));
    }
    if protocol == Protocol::Bedrock {
        headers.push(("x-amzn-errortype", bedrock::error_type(status).to_owned()));
    }
    http::write(connection, status, &headers, &body, false).await
}

/// The type of all bodies but streams.
fn json_type() -> (&'static str, String) {
    ("content-type", "application/json".to_owned())
}
