//! The load of agents for autoscalers.

use std::sync::Arc;

use aios_agents::prelude::*;
use aios_broker::memory::MemoryBroker;
use aios_service::http::ApiOptions;
use serde_json::json;
use tokio::sync::Semaphore;

use crate::support::{Service, pause};

/// Works on a task until it gets a permit.
struct Slow(Arc<Semaphore>);

impl Agent for Slow {
    type Parameters = u32;
    type Output = u32;

    async fn process_task(&self, _: &TaskContext, number: u32) -> Result<u32, TaskError> {
        self.0.acquire().await?.forget();
        Ok(number)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_count_tasks_that_wait_and_those_in_progress() {
    let permits = Arc::new(Semaphore::new(0));
    let runtime = Runtime::builder()
        .store(aios_store::connect("memory://").await.unwrap())
        .broker(Arc::new(MemoryBroker::new()))
        .agent("slow", Slow(Arc::clone(&permits)))
        .agent("idle", Slow(Arc::clone(&permits)))
        .start()
        .await
        .unwrap();
    let service = Service::of(Arc::new(runtime), ApiOptions::new());
    for number in 0..7 {
        let body = json!({ "agent_type": "slow", "parameters": number });
        assert_eq!(service.post("/tasks", &body).await.status, 202);
    }
    let of_slow = "/metrics/scaling?agent_type=slow";
    loop {
        let load = service.get(of_slow).await;
        let attributes = load.body["data"][0]["attributes"].clone();
        if attributes["tasks"] == 7 {
            assert_eq!(attributes["has_more"], false);
            assert!(attributes["oldest_at"].is_string(), "{attributes}");
            break;
        }
        pause().await;
    }
    loop {
        let all = service.get("/metrics/scaling").await;
        let loads = all.body["data"].as_array().unwrap().clone();
        let tasks = |id: &str| {
            let found = loads.iter().find(|load| load["id"] == id)?;
            found["attributes"]["tasks"].as_u64()
        };
        if (tasks("slow"), tasks("idle")) == (Some(7), Some(0)) {
            break;
        }
        pause().await;
    }
    permits.add_permits(7);
    while service.get(of_slow).await.body["data"][0]["attributes"]["tasks"] != 0 {
        pause().await;
    }
    let unknown = service.get("/metrics/scaling?agent_type=unknown").await;
    assert_eq!(unknown.body["data"][0]["attributes"]["tasks"], 0);
    assert_eq!(service.get("/metrics/scaling?type=slow").await.fault().0, 400);
}
