//! Conversations that go back to providers, which do not accept all that they have sent.

use aios_llm::{
    ModelRequest, ModelResponse,
    model::{Message, Part},
    testing::{FakeProvider, FakeReply},
};
use serde_json::json;

use crate::support::{in_time, models, text};

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
        format!("openai:{item}"),
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
