//! Engines and their shards.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::{Service, on_every_store};

on_every_store! {
    should_list_the_engine_and_its_shards
}

/// The engine of the service, once it owns all shards, which it takes soon after it has started.
async fn engine(service: &Service) -> Value {
    loop {
        let list = service.get("/engines").await;
        let engines = list.body["data"].as_array().unwrap();
        let shards = engines.first().map(|engine| &engine["attributes"]["shards"]);
        if shards.and_then(Value::as_array).is_some_and(|shards| shards.len() == 64) {
            assert_eq!((engines.len(), &list.body["meta"]["next"]), (1, &Value::Null));
            return engines[0].clone();
        }
        tokio::task::yield_now().await;
    }
}

async fn should_list_the_engine_and_its_shards(service: Service) {
    let engine = engine(&service).await;
    assert_eq!((&engine["type"], &engine["attributes"]["slot"]), (&json!("engine"), &json!(0)));
    assert!(engine["attributes"]["is_relay"].is_boolean());
    assert!(engine["attributes"]["expires_at"].as_str().unwrap().ends_with('Z'));
    let list = service.get("/shards").await;
    let shards = list.body["data"].as_array().unwrap();
    let ids: BTreeSet<_> = shards.iter().map(|shard| shard["id"].as_str().unwrap()).collect();
    assert_eq!((ids.len(), shards.len()), (64, 64));
    for shard in shards {
        assert_eq!(shard["type"], "shard");
        assert_eq!(shard["attributes"]["engine_id"], engine["id"], "{shard}");
        assert_eq!(shard["attributes"]["epoch"], 1);
    }
    assert_eq!(service.get("/engines?limit=0").await.fault(), (400, "MALFORMED_REQUEST"));
    assert_eq!(service.get("/engines?after=x").await.fault(), (400, "INVALID_CURSOR"));
}
