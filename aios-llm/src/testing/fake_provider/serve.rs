use std::{future::pending, io, sync::Arc};

use serde_json::Value;
use tokio::{
    io::BufReader,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::{FakeRequest, Script, anthropic, http, openai, reply::Kind, seconds};

/// The protocol of a request.
#[derive(Clone, Copy)]
enum Protocol {
    OpenAi,
    Anthropic,
}

impl Protocol {
    fn of(path: &str) -> Option<Self> {
        match path {
            "/v1/chat/completions" => Some(Self::OpenAi),
            "/v1/messages" => Some(Self::Anthropic),
            _ => None,
        }
    }

    fn error(self, status: u16, message: &str) -> Value {
        match self {
            Self::OpenAi => openai::error(status, message),
            Self::Anthropic => anthropic::error(status, message),
        }
    }

    /// Rejects what the real provider rejects.
    fn check(self, request: &FakeRequest) -> Result<(), (u16, String)> {
        let key = match self {
            Self::OpenAi => request.header("authorization").is_some(),
            Self::Anthropic => {
                request.header("x-api-key").or(request.header("authorization")).is_some()
            }
        };
        if !key {
            return Err((401, "the API key is missing".to_owned()));
        }
        let required: &[&str] = match self {
            Self::OpenAi => &["model", "messages"],
            Self::Anthropic => &["model", "messages", "max_tokens"],
        };
        if let Some(name) = required.iter().find(|name| request.body.get(**name).is_none()) {
            return Err((400, format!("{name}: field required")));
        }
        if matches!(self, Self::Anthropic) && request.header("anthropic-version").is_none() {
            return Err((400, "anthropic-version: header is required".to_owned()));
        }
        Ok(())
    }
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
        while connections.try_join_next().is_some() {}
    }
}

async fn converse(connection: TcpStream, script: &Script) -> io::Result<()> {
    let mut connection = BufReader::new(connection);
    while let Some((method, request)) = http::read(&mut connection).await? {
        let protocol = Protocol::of(&request.path).filter(|_| method == "POST");
        let Some(protocol) = protocol else {
            let body = openai::error(404, "there is no such resource").to_string();
            http::write(&mut connection, 404, &[json_type()], &body, false).await?;
            continue;
        };
        script.record(request.clone());
        if let Err((status, message)) = protocol.check(&request) {
            let body = protocol.error(status, &message).to_string();
            http::write(&mut connection, status, &[json_type()], &body, false).await?;
            continue;
        }
        let missing = || Kind::Status {
            status: 500,
            message: "the script of the fake provider has no reply left".to_owned(),
            retry_after: None,
        };
        let kind = script.next(&request).map_or_else(missing, |reply| reply.0);
        if !reply(&mut connection, protocol, &request.body, kind).await? {
            return Ok(());
        }
    }
    Ok(())
}

/// Sends a reply. Returns whether the connection can be used again.
async fn reply(
    connection: &mut BufReader<TcpStream>,
    protocol: Protocol,
    request: &Value,
    kind: Kind,
) -> io::Result<bool> {
    match kind {
        Kind::Hang => pending().await,
        Kind::Text(text) => http::write(connection, 200, &[json_type()], &text, false).await?,
        Kind::Status { status, message, retry_after } => {
            let body = protocol.error(status, &message).to_string();
            let delay = retry_after.map(|delay| ("retry-after", seconds(delay).to_string()));
            let headers: Vec<_> = std::iter::once(json_type()).chain(delay).collect();
            http::write(connection, status, &headers, &body, false).await?;
        }
        Kind::Response { response, cut_after } => {
            let is_stream = request.get("stream").and_then(Value::as_bool).unwrap_or(false);
            if is_stream {
                let events = match protocol {
                    Protocol::OpenAi => openai::events(&response, request),
                    Protocol::Anthropic => anthropic::events(&response, request),
                };
                http::write_events(connection, &events, cut_after).await?;
            } else {
                let body = match protocol {
                    Protocol::OpenAi => openai::body(&response, request),
                    Protocol::Anthropic => anthropic::body(&response, request),
                };
                let is_cut = cut_after.is_some();
                http::write(connection, 200, &[json_type()], &body.to_string(), is_cut).await?;
            }
            return Ok(cut_after.is_none());
        }
    }
    Ok(true)
}

fn json_type() -> (&'static str, String) {
    ("content-type", "application/json".to_owned())
}
