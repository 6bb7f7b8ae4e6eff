//! Projections over the API.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use aios_agents::{
    prelude::*,
    projection::{Batch, Projection},
};
use aios_core::{
    event::Event,
    failure::Failure,
    retry::RetryPolicy,
    store::{Append, EventStoreExt, StreamId},
};
use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Service, on_every_store, pause, request};

on_every_store! {
    should_list_projections_with_their_positions
    should_retire_a_projection_that_has_stopped
    should_redrive_what_a_projection_has_skipped
}

/// Fails until it is repaired.
struct Orders(Arc<AtomicBool>);

impl Projection for Orders {
    async fn apply(&self, batch: Batch) -> Result<(), TaskError> {
        let is_order =
            batch.events().iter().any(|it| it.event.event_type.as_str().starts_with("orders."));
        match is_order && !self.0.load(Ordering::Relaxed) {
            true => Err(TaskError::terminal(Failure::new("NO_TABLE", "the table is missing"))),
            false => Ok(()),
        }
    }
}

/// Reads a projection until a condition holds.
async fn until(service: &Service, path: &str, holds: impl Fn(&Value) -> bool) -> Value {
    loop {
        let answer = service.get(path).await;
        if holds(&answer.body) {
            return answer.body;
        }
        pause().await;
    }
}

async fn should_list_projections_with_their_positions(service: Service) {
    assert_eq!(service.get("/projections").await.body["data"], json!([]));
    let repaired = Arc::new(AtomicBool::new(true));
    for name in ["orders", "bills", "visits"] {
        service.runtime.projection(name, Orders(Arc::clone(&repaired))).await.unwrap();
    }
    let found = until(&service, "/projections", |body| {
        let data = body["data"].as_array().unwrap();
        data.len() == 3 && data.iter().all(|it| it["attributes"]["is_running"] == true)
    })
    .await;
    let names: Vec<_> =
        found["data"].as_array().unwrap().iter().map(|it| it["id"].as_str().unwrap()).collect();
    assert_eq!(names, ["bills", "orders", "visits"]);
    assert_eq!(found["data"][0]["type"], "projection");
    let first = service.get("/projections?limit=2").await.body;
    assert_eq!(first["data"].as_array().unwrap().len(), 2);
    let next = first["meta"]["next"].as_str().unwrap();
    let second = service.get(&format!("/projections?limit=2&after={next}")).await.body;
    assert_eq!(
        (second["data"][0]["id"].as_str(), &second["meta"]["next"]),
        (Some("visits"), &Value::Null)
    );
    let one =
        until(&service, "/projections/orders", |body| body["data"]["attributes"]["lag"] == 0).await;
    assert!(one["data"]["attributes"]["position"].as_u64() > Some(0), "{one}");
    let missing = service.get("/projections/nothing").await;
    assert_eq!(missing.fault(), (404, "PROJECTION_NOT_FOUND"));
    assert_eq!(missing.body["error"]["details"], json!({ "id": "nothing" }));
}

async fn should_retire_a_projection_that_has_stopped(service: Service) {
    let retire = "/projections/orders/actions/retire";
    assert_eq!(service.post(retire, &json!({})).await.fault(), (404, "PROJECTION_NOT_FOUND"));
    service.runtime.projection("orders", Orders(Arc::default())).await.unwrap();
    until(&service, "/projections/orders", |body| body["data"]["attributes"]["is_running"] == true)
        .await;
    assert_eq!(service.post(retire, &json!({})).await.fault(), (409, "PROJECTION_RUNNING"));
    // As if its process had ended before.
    let store = service.runtime.store().unwrap();
    store.save_checkpoint("projections/gone", 1).await.unwrap();
    let gone = "/projections/gone";
    assert_eq!(service.get(gone).await.attributes()["is_running"], false);
    let retired = service.post(&format!("{gone}/actions/retire"), &json!({})).await;
    assert_eq!((retired.status, &retired.body["data"]["id"]), (StatusCode::OK, &json!("gone")));
    assert_eq!(retired.attributes()["position"], 1);
    assert_eq!(service.get(gone).await.fault(), (404, "PROJECTION_NOT_FOUND"));
    assert_eq!(service.get("/projections").await.body["data"].as_array().unwrap().len(), 1);
    // Readers of other kinds are no projections.
    store.save_checkpoint("mine", 1).await.unwrap();
    for path in ["/projections/mine", "/projections/relay"] {
        assert_eq!(service.get(path).await.fault(), (404, "PROJECTION_NOT_FOUND"));
    }
    let mut get = request(Method::GET, "/projections/a%00b", None);
    get.headers_mut().remove("content-type");
    assert_eq!(service.send(get).await.fault(), (404, "PROJECTION_NOT_FOUND"));
}

async fn should_redrive_what_a_projection_has_skipped(service: Service) {
    let repaired = Arc::new(AtomicBool::new(false));
    let projection = Orders(Arc::clone(&repaired));
    let start = service.runtime.projection("orders", projection);
    start.patterns(["orders.#".parse().unwrap()]).retry(RetryPolicy::never()).await.unwrap();
    for _ in 0..2 {
        let event = Event::new("orders.order.placed".parse().unwrap(), "test", &1).unwrap();
        let append = Append::new(StreamId::new("orders").unwrap(), vec![event]);
        service.runtime.store().unwrap().append_one(append).await.unwrap();
    }
    let letters = "/projections/orders/dead-letters";
    let found =
        until(&service, letters, |body| body["data"].as_array().is_some_and(|it| it.len() == 2))
            .await;
    let letter = &found["data"][0];
    assert_eq!(
        (&letter["type"], &letter["attributes"]["failure"]["code"]),
        (&json!("projection_dead_letter"), &json!("NO_TABLE"))
    );
    assert_eq!(letter["attributes"]["event_type"], "orders.order.placed");
    let position = letter["attributes"]["position"].as_u64().unwrap();
    assert_eq!(letter["id"], position.to_string());
    let page = service.get(&format!("{letters}?limit=1")).await.body;
    assert_eq!(page["meta"]["next"], position.to_string());
    let last = service.get(&format!("{letters}?limit=1&after={position}")).await.body;
    assert_eq!(
        (&last["data"][0]["id"], &last["meta"]["next"]),
        (&found["data"][1]["id"], &Value::Null)
    );
    let redrive = "/projections/orders/actions/redrive";
    let unknown = service.post(redrive, &json!({ "position": 1 })).await;
    assert_eq!(unknown.fault(), (404, "DEAD_LETTER_NOT_FOUND"));
    repaired.store(true, Ordering::Relaxed);
    let accepted = service.post(redrive, &json!({ "position": position })).await;
    assert_eq!(accepted.status, StatusCode::ACCEPTED, "{accepted:?}");
    assert_eq!(accepted.headers["location"], "/api/v1/projections/orders");
    until(&service, letters, |body| body["data"].as_array().unwrap().len() == 1).await;
}
