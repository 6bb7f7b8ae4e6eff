//! Agents as resources, output streams, lists by time and tokens of a token endpoint.

use aios_core::event::{Payload, Timestamp};
use aios_service::{
    client::{Client, ClientError, EventQuery, RunQuery, TaskQuery, VersionedAgent},
    http::{ApiOptions, Shutdown, api},
};
use axum::Router;
use serde_json::json;
use std::sync::Arc;

use super::server::{client, listen};
use crate::outputs::service;

async fn start() -> Client {
    let service = service().await;
    let router =
        Router::new().nest("/api/v1", api(Arc::clone(&service.runtime), ApiOptions::new()));
    client(listen(router, Shutdown::new()).await)
}

fn code(error: &ClientError) -> &str {
    error.code()
}

#[tokio::test(flavor = "multi_thread")]
async fn should_create_replace_restart_and_delete_an_agent() {
    let client = start().await;
    let created = client.create_agent("talker", "Ada", &json!({ "greeting": "Hi" })).await.unwrap();
    let VersionedAgent { agent, version, .. } = created;
    assert_eq!((agent.agent_type.as_str(), agent.name.as_str()), ("talker", "Ada"));
    let config = json!({ "greeting": "Hey" });
    let replaced = client.replace_agent(&agent.id, "Grace", &config, &version).await.unwrap();
    assert_eq!(replaced.agent.name, "Grace");
    assert_ne!(replaced.version, version);
    let stale = client.delete_agent(&agent.id, &version).await.unwrap_err();
    assert_eq!(code(&stale), "PRECONDITION_FAILED");
    client.restart_agent(&agent.id).await.unwrap();
    let current = client.versioned_agent(&agent.id).await.unwrap();
    assert_eq!(current.version, "\"3\"");
    let deleted = client.delete_agent(&agent.id, &current.version).await.unwrap();
    assert!(deleted.deleted_at.is_some());
    assert_eq!(code(&client.restart_agent(&agent.id).await.unwrap_err()), "AGENT_DELETED");
    let types = client.agent_types().await.unwrap();
    assert!(types.iter().any(|known| known.id == "talker" && known.config_schema.is_some()));
    let invalid = client.create_agent("talker", "Bob", &json!({})).id("bob").await.unwrap_err();
    assert_eq!(code(&invalid), "INVALID_AGENT_CONFIG");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_follow_an_output_stream_to_its_end() {
    let client = start().await;
    client.create_agent("talker", "Ada", &json!({ "greeting": "Hi" })).await.unwrap();
    let run = client.task("talker", &"Grace").id("r1").await.unwrap();
    let (mut items, mut stream) = (Vec::new(), run.stream("words", 0));
    while let Some(item) = stream.next().await {
        items.push(item.unwrap());
    }
    let texts: Vec<_> = items.iter().map(|item| item.item.as_ref().unwrap().as_str()).collect();
    assert_eq!(texts, ["\"Hi\"", "{\"name\":\"Grace\"}", "null"]);
    assert!(stream.next().await.is_none());
    let mut rest = run.stream("words", items[1].offset);
    let last = rest.next().await.unwrap().unwrap();
    assert_eq!((&last, last.item.as_ref()), (&items[2], Some(&Payload::null())));
    assert!(rest.next().await.is_none());
    let mut missing = client.run("nothing").stream("words", 0);
    assert_eq!(code(&missing.next().await.unwrap().unwrap_err()), "RUN_NOT_FOUND");
    assert!(missing.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn should_list_what_was_created_in_a_time() {
    let client = start().await;
    let before = Timestamp::now();
    let order = json!({ "items": [{ "name": "tea", "count": 2 }] });
    let run = client.start("order", &order).id("r1").await.unwrap();
    assert_eq!(run.result::<u32>().await.unwrap(), 2);
    let after = Timestamp::now() + std::time::Duration::from_secs(60);
    let of_now = RunQuery::new().with_created_after(before).with_created_before(after);
    assert_eq!(client.runs(&of_now).await.unwrap().items.len(), 1);
    let later = RunQuery::new().with_created_after(after);
    assert!(client.runs(&later).await.unwrap().items.is_empty());
    let tasks = TaskQuery::new().with_created_before(after);
    assert!(client.tasks(&tasks).await.unwrap().items.is_empty());
    let started = EventQuery::new().with_pattern("workflows.*.started");
    let events = started.clone().with_created_after(before);
    assert_eq!(client.log(&events, 10).await.unwrap().items.len(), 1);
    let events = started.with_created_before(before);
    assert!(client.log(&events, 10).await.unwrap().items.is_empty());
}

#[cfg(feature = "token-endpoint")]
#[tokio::test(flavor = "multi_thread")]
async fn should_get_tokens_and_another_one_when_the_service_refuses_the_last() {
    use std::time::Duration;

    use aios_core::clock::VirtualClock;
    use aios_service::{
        auth::{Permissions, TokenEndpoint},
        client::{ClientOptions, TokenGrant},
    };

    let service = service().await;
    let clock = VirtualClock::new(Timestamp::now());
    let issuer = TokenEndpoint::new("http://127.0.0.1/oauth", "aios").unwrap();
    let issuer = issuer.with_clock(Arc::new(clock.clone())).with_client(
        "console",
        "s3cret",
        Permissions::parse(["runs:read"]).unwrap(),
    );
    let options =
        ApiOptions::new().with_authenticator(issuer.tokens()).with_clock(Arc::new(clock.clone()));
    let router = Router::new()
        .nest("/oauth", issuer.router())
        .nest("/api/v1", api(Arc::clone(&service.runtime), options));
    let url = format!("http://{}", listen(router, Shutdown::new()).await);
    let with = |secret: &str| {
        let grant = TokenGrant::client_credentials(format!("{url}/oauth/token"), "console", secret);
        let options = ClientOptions::new().with_token_grant(grant.with_scope("runs:read"));
        Client::new(&format!("{url}/api/v1"), options).unwrap()
    };
    let client = with("s3cret");
    assert_eq!(client.me().await.unwrap().id, "console");
    assert!(client.runs(&RunQuery::new()).await.unwrap().items.is_empty());
    // The clock of the client is another one, so only the service notices that the token has expired.
    clock.advance(Duration::from_secs(3600));
    assert_eq!(client.me().await.unwrap().id, "console");
    let refused = with("wrong").me().await.unwrap_err();
    assert_eq!(code(&refused), "UNAUTHENTICATED");
    assert!(!format!("{client:?} {refused:?} {:?}", with("s3cret")).contains("s3cret"));
}
