//! Conversations that go back to providers, which do not accept all that they have sent.

use aios_llm::{
    LanguageModel, ModelRequest, ModelResponse,
    model::{Message, Part, StreamEvent, ToolCall, ToolResult, ToolSpec},
    providers::{BedrockModel, OpenAiResponsesModel, ProviderOptions, connect},
    testing::{FakeProvider, FakeReply},
};
use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::{
    providers::{STREAM, raw},
    servers::whole,
    support::{in_time, models, text},
};

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

/// Bedrock has redacted reasoning as well. A stream has it as a piece of its own.
#[tokio::test]
async fn should_send_redacted_reasoning_of_bedrock_back_as_it_came() {
    let redacted = json!({"reasoningContent": {"redactedContent": "ZW5jcnlwdGVk"}});
    let readable =
        json!({"reasoningContent": {"reasoningText": {"text": "Hm.", "signature": "c2ln"}}});
    let content = json!([redacted, readable, {"text": "ok"}]);
    let message = json!({"role": "assistant", "content": content});
    let body = json!({"stopReason": "end_turn", "output": {"message": message}}).to_string();
    let url = raw(whole(&body, body.len())).await;
    let options = ProviderOptions::new("m").with_api_key("key").with_region("eu-west-1");
    let model = BedrockModel::new(options.with_base_url(url)).unwrap();
    let response = in_time(model.complete(&ModelRequest::new("go"))).await.unwrap();
    assert_eq!(response.content.len(), 3, "{response:?}");

    let again = ModelRequest::new("again").with_message(response.to_message());
    let provider = FakeProvider::start([]).await.unwrap();
    for other in models(&provider) {
        provider.push(FakeReply::response(text("ok")));
        in_time(other.complete(&again)).await.unwrap();
        let sent = provider.requests().pop().unwrap().body;
        if other.name().starts_with("bedrock") {
            assert_eq!(sent["messages"][1]["content"], content);
        } else {
            assert!(!sent.to_string().contains("ZW5jcnlwdGVk"), "{}: {sent}", other.name());
        }
    }
}

/// Newer models of `OpenAI` comment on what they do before they answer.
#[tokio::test]
async fn should_keep_comments_of_openai_apart_from_the_answer() {
    let message = |phase: &str, text: &str| {
        let content = json!([{"type": "output_text", "text": text, "annotations": []}]);
        json!({"type": "message", "role": "assistant", "phase": phase, "content": content})
    };
    let (comment, answer) = (message("commentary", "I look."), message("final_answer", "Paris"));
    let whole_body = json!({"status": "completed", "output": [comment, answer]});
    let body = whole_body.to_string();
    let url = raw(whole(&body, body.len())).await;
    let options = |url: &str| ProviderOptions::new("m").with_api_key("key").with_base_url(url);
    let model = OpenAiResponsesModel::new(options(&url)).unwrap();
    let response = in_time(model.complete(&ModelRequest::new("go"))).await.unwrap();
    assert_eq!(response.output_text(), "Paris");

    let delta = |place: u32, text: &str| json!({"type": "response.output_text.delta", "output_index": place, "delta": text});
    let added = |place: u32, item: &Value| json!({"type": "response.output_item.added", "output_index": place, "item": item});
    let events = [
        added(0, &comment),
        delta(0, "I look."),
        added(1, &answer),
        delta(1, "Paris"),
        json!({"type": "response.completed", "response": whole_body}),
    ];
    let events: String = events.iter().map(|event| format!("data: {event}\n\n")).collect();
    let url = raw(vec![STREAM.into(), events.into_bytes()]).await;
    let streaming = OpenAiResponsesModel::new(options(&url)).unwrap();
    let mut pieces = in_time(streaming.stream(&ModelRequest::new("go"))).await.unwrap();
    let mut shown = Vec::new();
    while let Some(piece) = in_time(pieces.next()).await {
        shown.push(piece.unwrap());
    }
    let expected =
        [StreamEvent::Reasoning("I look.".to_owned()), StreamEvent::Text("Paris".to_owned())];
    assert_eq!(shown[..2], expected);
    let Some(StreamEvent::Finished(streamed)) = shown.pop() else { panic!("{shown:?}") };
    assert_eq!(streamed.output_text(), "Paris");

    // Both are sent back with their phases, to the same host.
    let provider = FakeProvider::start([]).await.unwrap();
    let again = ModelRequest::new("again").with_message(response.to_message());
    for other in models(&provider) {
        provider.push(FakeReply::response(text("ok")));
        in_time(other.complete(&again)).await.unwrap();
        let sent = provider.requests().pop().unwrap();
        if sent.path.ends_with("/responses") {
            assert_eq!(sent.body["input"][1], comment);
            assert_eq!(sent.body["input"][2]["phase"], "final_answer");
        } else {
            assert!(!sent.body.to_string().contains("I look."), "{}", other.name());
        }
    }
}
