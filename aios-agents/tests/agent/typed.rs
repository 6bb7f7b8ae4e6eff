use aios_agents::agent::{IntoDynAgent, TypedAgent};
use aios_core::{
    agent::{Agent, DynAgent, TaskContext, TaskError},
    event::Payload,
};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Value, json};

use crate::support::agents::{Scripted, process};

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Order {
    title: String,
    #[schemars(range(min = 1, max = 5))]
    priority: u8,
    #[schemars(inner(regex(pattern = "^[a-z/]+$")))]
    paths: Vec<String>,
    kind: Kind,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Build { target: String },
    Check,
}

struct Builder;

impl Agent for Builder {
    type Parameters = Order;
    type Output = String;

    async fn process_task(&self, _: &TaskContext, order: Order) -> Result<String, TaskError> {
        let target = match order.kind {
            Kind::Build { target } => target,
            Kind::Check => "nothing".to_owned(),
        };
        Ok(format!("{} {target}", order.title))
    }
}

fn order() -> Value {
    json!({"title": "t", "priority": 3, "paths": ["a/b"], "kind": {"build": {"target": "x"}}})
}

async fn faults(parameters: Value) -> Vec<String> {
    let agent = TypedAgent::new(Builder).unwrap();
    let error = process(&agent, "t", parameters).await.unwrap_err();
    assert!(error.has_code("INVALID_PARAMETERS") && !error.retryable, "{error}");
    let faults = error.failure.details.to_value().as_array().unwrap().clone();
    faults.iter().map(|fault| fault["path"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn should_take_and_give_json() {
    let agent = TypedAgent::new(Builder).unwrap();
    assert_eq!(process(&agent, "t", order()).await.unwrap(), json!("t x"));
    assert_eq!(agent.output_schema()["type"], "string");
    assert_eq!(agent.parameters_schema()["properties"]["priority"]["maximum"], 5);
}

#[tokio::test]
async fn should_name_every_fault() {
    let parameters = json!({
        "priority": 9, "paths": ["ok", "NO", 7], "kind": {"build": {"target": "x"}}, "extra": 1
    });
    let mut paths = faults(parameters).await;
    paths.sort();
    assert_eq!(paths, ["/extra", "/paths/1", "/paths/2", "/priority", "/title"]);
}

#[tokio::test]
async fn should_refuse_what_fits_the_type_but_not_the_schema() {
    for (path, value) in [("/priority", json!(0)), ("/paths/0", json!("UP"))] {
        let mut parameters = order();
        *parameters.pointer_mut(path).unwrap() = value;
        assert_eq!(faults(parameters).await, [path]);
    }
}

#[tokio::test]
async fn should_escape_names_in_paths() {
    let mut parameters = order();
    parameters["a/b~c"] = json!(1);
    assert_eq!(faults(parameters).await, ["/a~1b~0c"]);
}

#[derive(JsonSchema)]
struct Even(#[allow(dead_code, reason = "only its decoding matters")] u32);

impl<'de> Deserialize<'de> for Even {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u32::deserialize(deserializer)?;
        if number % 2 == 1 {
            return Err(serde::de::Error::custom("odd"));
        }
        Ok(Self(number))
    }
}

#[derive(Deserialize, JsonSchema)]
struct Pairs {
    #[allow(dead_code, reason = "only its decoding matters")]
    pairs: Vec<Even>,
}

struct Pairing;

impl Agent for Pairing {
    type Parameters = Pairs;
    type Output = ();

    async fn process_task(&self, _: &TaskContext, _: Pairs) -> Result<(), TaskError> {
        Ok(())
    }
}

#[tokio::test]
async fn should_name_the_path_of_an_error_that_only_the_type_detects() {
    let agent = TypedAgent::new(Pairing).unwrap();
    let error = process(&agent, "t", json!({"pairs": [2, 4, 5]})).await.unwrap_err();
    assert!(error.has_code("INVALID_PARAMETERS"));
    assert_eq!(error.failure.details.to_value()[0]["path"], "/pairs/2");
    assert!(error.failure.message.contains("odd"), "{error}");
}

#[tokio::test]
async fn should_take_anything_where_the_schema_says_nothing() {
    let agent = TypedAgent::new(Scripted::echo()).unwrap();
    for value in [json!(null), json!([1, "x"]), json!({"a": {"b": 1.5}})] {
        assert_eq!(process(&agent, "t", value.clone()).await.unwrap(), value);
    }
}

struct Raw;

#[async_trait::async_trait]
impl DynAgent for Raw {
    fn parameters_schema(&self) -> &Value {
        &Value::Bool(true)
    }

    fn output_schema(&self) -> &Value {
        &Value::Bool(true)
    }

    async fn process_task(&self, _: &TaskContext, given: Payload) -> Result<Payload, TaskError> {
        Ok(given)
    }
}

#[tokio::test]
async fn should_run_typed_dynamic_and_boxed_agents_alike() {
    for agent in [
        Scripted::echo().into_dyn().unwrap(),
        Raw.into_dyn().unwrap(),
        Raw.into_dyn().unwrap().into_dyn().unwrap(),
    ] {
        assert_eq!(process(&*agent, "t", json!(7)).await.unwrap(), json!(7));
    }
}
