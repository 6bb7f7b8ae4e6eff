//! Output streams over HTTP, and what is registered in the OpenAPI document.

use std::{borrow::Cow, sync::Arc};

use aios_agents::{prelude::*, workflow::FnWorkflow};
use aios_broker::memory::MemoryBroker;
use aios_service::http::ApiOptions;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{document::collect, support::Service};

#[derive(Deserialize, Serialize, JsonSchema)]
struct Item {
    name: String,
    count: u32,
}

#[derive(Deserialize, Serialize, JsonSchema)]
struct Order {
    items: Vec<Item>,
}

/// Greets, in the way that its config says.
pub(crate) struct Talker(Talking);

#[derive(Deserialize, JsonSchema)]
pub(crate) struct Talking {
    greeting: String,
}

impl Agent for Talker {
    type Parameters = String;
    type Output = String;

    async fn process_task(&self, context: &TaskContext, name: String) -> Result<String, TaskError> {
        let words = context.stream("words")?;
        words.write(&self.0.greeting)?;
        words.write(&json!({ "name": name }))?;
        words.write(&None::<u32>)?;
        Ok(format!("{}, {name}!", self.0.greeting))
    }
}

async fn order(_: WorkflowContext, order: Order) -> Result<u32, WorkflowError> {
    Ok(order.items.iter().map(|item| item.count).sum())
}

/// Has a schema with all that OpenAPI 3.0 knows in another form, or not at all.
#[derive(Deserialize, Serialize)]
struct Odd;

impl JsonSchema for Odd {
    fn schema_name() -> Cow<'static, str> {
        "Odd".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "$id": "https://schemas.example/odd",
            "type": "object",
            "required": [],
            "properties": {
                "any": true,
                "never": false,
                "pair": { "type": "array", "prefixItems": [{ "type": "string" }, true], "maxItems": 2 },
                "list": { "type": "array" },
                "share": { "type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 10 },
                "const": { "type": "string" },
                "nothing": { "type": "null" },
                "labels": { "patternProperties": { "^x": { "type": "string" } } },
                "same": { "$ref": "#/properties/share" },
                "size": { "$ref": "#/$defs/Gr%C3%B6%C3%9Fe" },
                "half": { "$ref": "#/$defs/a~1b/properties/c" },
                "old": { "$ref": "#/definitions/Old" },
            },
            "if": { "required": ["any"] },
            "then": { "required": ["pair"] },
            "default": { "const": true, "type": ["left", "alone"] },
            "$defs": {
                "Größe": { "const": "big" },
                "a/b": { "properties": { "c": { "type": ["string", "null"] } } },
            },
            "definitions": { "Old": { "type": "boolean" } },
        })
    }
}

async fn odd(_: WorkflowContext, odd: Odd) -> Result<Odd, WorkflowError> {
    Ok(odd)
}

/// A service with a factory of agents and a workflow with schemas.
pub(crate) async fn service() -> Service {
    let workflow = FnWorkflow::new("order", order).unwrap().with_schemas();
    let odd = FnWorkflow::new("odd", odd).unwrap().with_schemas();
    let runtime = Runtime::builder()
        .store(aios_store::connect("memory://").await.unwrap())
        .broker(Arc::new(MemoryBroker::new()))
        .agent_factory("talker", |config: Talking| Ok::<_, TaskError>(Talker(config)))
        .workflow_dyn(Arc::new(workflow))
        .workflow_dyn(Arc::new(odd))
        .start()
        .await
        .unwrap();
    Service::of(Arc::new(runtime), ApiOptions::new())
}

/// Lets a new talker greet, and returns the id of the run once it has ended.
async fn greet(service: &Service) -> String {
    let body = json!({ "agent_type": "talker", "name": "Ada", "config": { "greeting": "Hi" } });
    assert_eq!(service.post("/agents", &body).await.status, 201);
    let body = json!({ "agent_type": "talker", "parameters": "Grace", "run_id": "r1" });
    assert_eq!(service.post("/tasks", &body).await.status, 202);
    assert_eq!(service.result("r1").await.attributes()["result"], "Hi, Grace!");
    "r1".to_owned()
}

/// The messages of a stream of a run that has ended: their kinds, ids and data.
async fn messages(service: &Service, path: &str) -> Vec<(String, u64, serde_json::Value)> {
    let answer = service.get(path).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.headers["content-type"], "text/event-stream");
    let text = answer.body.as_str().unwrap().to_owned();
    let field = |message: &str, name: &str| {
        let line = message.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_default().trim_start_matches(':').trim().to_owned()
    };
    text.split("\n\n")
        .filter(|message| message.contains("data"))
        .map(|message| {
            let data = serde_json::from_str(&field(message, "data")).unwrap();
            (field(message, "event"), field(message, "id").parse().unwrap(), data)
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn should_follow_an_output_stream_and_continue_after_an_offset() {
    let service = service().await;
    let path = format!("/runs/{}/streams/words", greet(&service).await);
    let all = messages(&service, &path).await;
    let kinds: Vec<_> = all.iter().map(|message| message.0.as_str()).collect();
    assert_eq!(kinds, ["item", "item", "item", "end"]);
    let items: Vec<_> = all.iter().take(3).map(|message| &message.2["item"]).collect();
    assert_eq!(items, [&json!("Hi"), &json!({ "name": "Grace" }), &json!(null)]);
    assert!(all.iter().take(3).all(|message| message.2["writer"] == "r1/1"), "{all:?}");
    assert!(all.is_sorted_by_key(|message| message.1));
    for (index, (_, offset, _)) in all.iter().take(3).enumerate() {
        let rest = messages(&service, &format!("{path}?after={offset}")).await;
        assert_eq!(rest, all[index + 1..], "after {offset}");
    }
    for (path, fault) in [
        ("/runs/gone/streams/words", (404, "RUN_NOT_FOUND")),
        ("/runs/r1/streams/Words", (400, "INVALID_OUTPUT_STREAM")),
        ("/runs/r1/streams/words?after=-1", (400, "MALFORMED_REQUEST")),
    ] {
        assert_eq!(service.get(path).await.fault(), fault, "{path}");
    }
    let nothing = messages(&service, "/runs/r1/streams/other").await;
    assert_eq!(nothing.len(), 1, "a stream without a writer ends with its run");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_serve_the_schemas_of_what_is_registered() {
    let service = service().await;
    for version in ["3.1", "3.0"] {
        let document = service.get(&format!("/openapi.json?version={version}")).await.body;
        let schemas = &document["components"]["schemas"];
        let schema = |name: &str| &schemas[name];
        assert_eq!(schema("AgentConfig.talker")["required"], json!(["greeting"]), "{version}");
        let items = &schema("WorkflowInput.order")["properties"]["items"]["items"]["$ref"];
        assert_eq!(items, "#/components/schemas/WorkflowInput.order.Item");
        assert_eq!(schema("WorkflowInput.order.Item")["required"], json!(["name", "count"]));
        assert_eq!(schema("WorkflowOutput.order")["type"], "integer");
    }
    greet(&service).await;
    let registered = service.get("/openapi.json").await.body;
    assert_eq!(registered["components"]["schemas"]["AgentConfig.talker"]["type"], "object");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_serve_odd_schemas_in_a_valid_form() {
    let service = service().await;
    for version in ["3.1", "3.0"] {
        let document = service.get(&format!("/openapi.json?version={version}")).await.body;
        let mut references = Vec::new();
        collect(&document, &mut references);
        for reference in references {
            let pointer = reference.strip_prefix('#').unwrap();
            assert!(document.pointer(pointer).is_some(), "{version}: {reference} leads nowhere");
        }
        for (name, schema) in document["components"]["schemas"].as_object().unwrap() {
            let is_plain = |it: char| it.is_ascii_alphanumeric() || "._-".contains(it);
            assert!(name.chars().all(is_plain), "{version}: {name}");
            if version == "3.0" {
                check_3_0(schema, name);
            }
        }
    }
    let old = service.get("/openapi.json?version=3.0").await.body;
    let odd = &old["components"]["schemas"]["WorkflowInput.odd"];
    let expected = json!({
        "any": {},
        "never": { "not": {} },
        "pair": {
            "type": "array", "items": { "anyOf": [{ "type": "string" }, {}] }, "maxItems": 2,
        },
        "list": { "type": "array", "items": {} },
        "share": {
            "type": "number", "minimum": 0, "exclusiveMinimum": true, "maximum": 10,
            "exclusiveMaximum": true,
        },
        "const": { "type": "string" },
        "nothing": { "nullable": true, "enum": [null] },
        "labels": {},
        "same": { "$ref": "#/components/schemas/WorkflowInput.odd/properties/share" },
        "size": { "$ref": "#/components/schemas/WorkflowInput.odd.Gr_f6__df_e" },
        "half": { "$ref": "#/components/schemas/WorkflowInput.odd.a_2f_b/properties/c" },
        "old": { "$ref": "#/components/schemas/WorkflowInput.odd.Old" },
    });
    assert_eq!(odd["properties"], expected);
    assert_eq!(odd["default"], json!({ "const": true, "type": ["left", "alone"] }));
}

/// Checks that a schema has nothing but what OpenAPI 3.0 knows.
fn check_3_0(schema: &Value, path: &str) {
    /// Keywords of which this test checks no more than the name.
    const OTHERS: &str = "title multipleOf maximum minimum maxLength minLength pattern maxItems \
        minItems uniqueItems maxProperties minProperties description format default example \
        readOnly writeOnly externalDocs xml";
    let fields = schema.as_object().unwrap_or_else(|| panic!("{path} is {schema}"));
    assert!(!fields.contains_key("$ref") || fields.len() == 1, "{path}: {schema}");
    for (keyword, value) in fields {
        let path = format!("{path}/{keyword}");
        let list =
            || value.as_array().filter(|it| !it.is_empty()).unwrap_or_else(|| panic!("{path}"));
        match keyword.as_str() {
            "$ref" => assert!(value.is_string(), "{path}"),
            "type" => {
                let types = ["string", "number", "integer", "boolean", "array", "object"];
                assert!(value.as_str().is_some_and(|it| types.contains(&it)), "{path}: {value}");
            }
            "allOf" | "anyOf" | "oneOf" => list().iter().for_each(|it| check_3_0(it, &path)),
            "required" | "enum" => assert!(!list().is_empty()),
            "properties" => {
                let properties = value.as_object().unwrap().iter();
                properties.for_each(|(name, it)| check_3_0(it, &format!("{path}/{name}")));
            }
            "items" | "not" => check_3_0(value, &path),
            "additionalProperties" if !value.is_boolean() => check_3_0(value, &path),
            "additionalProperties" => {}
            "nullable" | "exclusiveMinimum" | "exclusiveMaximum" | "deprecated" => {
                assert!(value.is_boolean(), "{path}: {value}");
            }
            "discriminator" => assert!(value.is_object(), "{path}: {value}"),
            other => {
                let is_known =
                    other.starts_with("x-") || OTHERS.split_whitespace().any(|it| it == other);
                assert!(is_known, "{path} is not in 3.0");
            }
        }
    }
}

#[cfg(feature = "swagger")]
#[tokio::test]
async fn should_serve_a_page_without_files_from_elsewhere() {
    use aios_service::auth::ApiKeys;
    use axum::{body::Body, http::Request};
    use tower::ServiceExt;

    let options = ApiOptions::new().with_authenticator(ApiKeys::new([]));
    let service = Service::with(options).await;
    let get = async |path: &str| {
        let request = Request::get(format!("/api/v1{path}")).header("host", "localhost");
        let response = service.router.clone().oneshot(request.body(Body::empty()).unwrap()).await;
        let (parts, body) = response.unwrap().into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        (parts, String::from_utf8_lossy(&body).into_owned())
    };
    let (moved, _) = get("/docs").await;
    assert_eq!(
        (moved.status.as_u16(), &moved.headers["location"]),
        (308, &"docs/".parse().unwrap())
    );
    let (page, text) = get("/docs/").await;
    assert_eq!(page.status, 200);
    assert!(
        page.headers["content-security-policy"].to_str().unwrap().contains("default-src 'self'")
    );
    assert!(!text.contains("http://") && !text.contains("https://"), "{text}");
    for part in text.split(['"', '\'']).filter_map(|part| part.strip_prefix("./")) {
        let (file, _) = get(&format!("/docs/{part}")).await;
        assert_eq!(file.status, 200, "{part}");
    }
    let (_, settings) = get("/docs/swagger-initializer.js").await;
    assert!(settings.contains("openapi.json"), "{settings}");
    let (document, text) = get("/docs/openapi.json").await;
    assert_eq!(document.status, 200);
    let mut document: serde_json::Value = serde_json::from_str(&text).unwrap();
    // The page resolves the server against the URL of its document, which is below `/docs`.
    let api = document["servers"][0]["url"].take();
    assert_eq!(api, "..", "`/api/v1/docs/openapi.json` is about `/api/v1`");
    document["servers"][0]["url"] = json!(".");
    let described: serde_json::Value =
        serde_json::from_str(&aios_service::http::openapi()).unwrap();
    assert_eq!(document, described);
    assert_eq!(get("/docs/nothing.js").await.0.status, 404);
    assert_eq!(get("/openapi.json").await.0.status, 401);
}
