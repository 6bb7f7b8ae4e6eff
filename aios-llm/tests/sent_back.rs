//! Conversations that go back to providers, which do not accept all that they have sent.

use aios_llm::{
    ModelRequest, ModelResponse,
    model::{Message, Part, ToolCall, ToolResult, ToolSpec},
    providers::{ProviderOptions, connect},
    testing::{FakeProvider, FakeReply},
};
use serde_json::json;

use crate::support::{in_time, models, text};

fn search() -> ToolSpec {
    ToolSpec {
        name: "search".to_owned(),
        description: "Searches.".to_owned(),
        parameters: json!({"type": "object", "properties": {}}),
    }
}

/// Requests that each model sends; the provider accepts all of them.
async fn accepted(request: &ModelRequest) -> Vec<String> {
    let provider = FakeProvider::start([]).await.unwrap();
    for model in models(&provider) {
        provider.push(FakeReply::response(text("ok")));
        in_time(model.complete(request)).await.unwrap();
    }
    provider.requests().into_iter().map(|request| request.body.to_string()).collect()
}

/// A response can consist of reasoning only, for example if it was cut off.
#[tokio::test]
async fn should_not_send_reasoning_that_nothing_follows() {
    let item = json!({"type": "reasoning", "id": "rs_1", "encrypted_content": "c2ln"});
    let signatures = [
        "c2ln".to_owned(),
        "anthropic-redacted:c2ln".to_owned(),
        "bedrock:c2ln".to_owned(),
        format!("openai@127.0.0.1:{item}"),
    ];
    for signature in signatures {
        let thought =
            || Part::Reasoning { text: "Hm.".to_owned(), signature: Some(signature.clone()) };
        let said = |parts| ModelResponse::new(parts).to_message();
        for parts in [vec![thought()], vec![thought(), Part::text("\n\n")]] {
            let request = ModelRequest::new("go").with_message(said(parts));
            let request = request.with_message(Message::user("The answer is empty."));
            accepted(&request).await;
        }
        // Reasoning before other parts stays.
        let request =
            ModelRequest::new("go").with_message(said(vec![thought(), Part::text("Yes.")]));
        let sent = accepted(&request.with_message(Message::user("Sure?"))).await;
        assert!(sent.iter().any(|body| body.contains("c2ln")), "{signature}");
    }
}

#[tokio::test]
async fn should_send_texts_without_a_letter_as_providers_accept_them() {
    let call =
        ToolCall { id: "c".to_owned(), name: "search".to_owned(), arguments: "{}".to_owned() };
    for content in ["", "\n "] {
        let result = ToolResult {
            call_id: "c".to_owned(),
            name: "search".to_owned(),
            content: content.to_owned(),
            is_error: false,
        };
        let request = ModelRequest::new("go")
            .with_instructions(content)
            .with_tool(search())
            .with_message(ModelResponse::new(vec![Part::ToolCall(call.clone())]).to_message())
            .with_message(Message::tool_results([result]));
        accepted(&request).await;
    }
}

/// Each server encrypts with a key of its own, also if it speaks the same protocol.
#[tokio::test]
async fn should_send_encrypted_reasoning_only_to_the_server_that_made_it() {
    let thought = Part::Reasoning { text: String::new(), signature: Some("c2ln".to_owned()) };
    let response = ModelResponse::new(vec![thought, Part::text("Yes.")]);
    let provider = FakeProvider::start(vec![FakeReply::response(response); 3]).await.unwrap();
    let near = provider.openai_url();
    let model = |url: &str| {
        let options = ProviderOptions::new("gpt-5").with_api_key("key").with_base_url(url);
        connect("openai-responses", options).unwrap()
    };
    let go = ModelRequest::new("go");
    let said = in_time(model(&near).complete(&go)).await.unwrap().to_message();
    let request = go.with_message(said).with_message(Message::user("Sure?"));
    for (url, is_sent) in [(near.clone(), true), (near.replace("127.0.0.1", "localhost"), false)] {
        in_time(model(&url).complete(&request)).await.unwrap();
        let sent = provider.requests().pop().unwrap().body["input"].to_string();
        assert_eq!(sent.contains("c2ln"), is_sent, "{url}: {sent}");
    }
}
