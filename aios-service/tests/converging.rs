//! Agents as resources that several processes change and host at once: what is hosted becomes what the log
//! says, and no change is lost.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use aios_agents::prelude::*;
use aios_broker::memory::MemoryBroker;
use aios_core::{broker::Broker, store::Store};
use aios_service::http::ApiOptions;
use axum::http::{HeaderValue, Method};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use crate::support::{Answer, Random, Service, pause, request};

/// The configurations of the agents that a process hosts, with the number of instances.
type Hosted = Arc<Mutex<BTreeMap<String, usize>>>;

#[derive(Deserialize, JsonSchema)]
struct Config {
    text: String,
}

/// Is hosted until it is dropped.
struct Instance(String, Hosted);

impl Instance {
    fn new(text: String, hosted: Hosted) -> Self {
        *hosted.lock().unwrap().entry(text.clone()).or_default() += 1;
        Self(text, hosted)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let mut hosted = self.1.lock().unwrap();
        let count = hosted.get_mut(&self.0).unwrap();
        *count -= 1;
        if *count == 0 {
            hosted.remove(&self.0);
        }
    }
}

impl Agent for Instance {
    type Parameters = String;
    type Output = String;

    async fn process_task(&self, _: &TaskContext, _: String) -> Result<String, TaskError> {
        Ok(self.0.clone())
    }
}

/// A process that hosts agents.
struct Host {
    runtime: Runtime,
    hosted: Hosted,
}

struct World {
    store: Arc<dyn Store>,
    broker: Arc<dyn Broker>,
}

impl World {
    async fn host(&self, has_store: bool) -> Host {
        let hosted = Hosted::default();
        let kept = Arc::clone(&hosted);
        let builder = Runtime::builder().broker(Arc::clone(&self.broker));
        let builder = if has_store { builder.store(Arc::clone(&self.store)) } else { builder };
        let builder =
            builder.agent_factory("kind", move |config: Config| -> Result<_, TaskError> {
                Ok(Instance::new(config.text, Arc::clone(&kept)))
            });
        Host { runtime: builder.start().await.unwrap(), hosted }
    }
}

/// Makes changes with one process, and returns how many changes of each agent have succeeded.
async fn change(service: &Service, seed: u64, count: usize) -> BTreeMap<String, u64> {
    let (mut random, mut done) = (Random(seed), BTreeMap::new());
    for number in 0..count {
        let id = format!("a{}", random.below(4));
        let config = json!({ "text": format!("{id} {seed} {number}") });
        let body = json!({ "agent_type": "kind", "name": id, "id": id, "config": config });
        let answer = match random.below(5) {
            0 | 1 => service.post("/agents", &body).await,
            2 => {
                conditional(service, Method::PUT, &id, &json!({ "name": id, "config": config }))
                    .await
            }
            3 => conditional(service, Method::DELETE, &id, &json!(null)).await,
            _ => service.post(&format!("/agents/{id}/actions/restart"), &json!({})).await,
        };
        match answer.status.as_u16() {
            200..300 => *done.entry(id).or_default() += 1,
            404 | 409 | 410 | 412 => {}
            status => panic!("{status}: {answer:?}"),
        }
    }
    done
}

/// Changes an agent as it is read.
async fn conditional(
    service: &Service,
    method: Method,
    id: &str,
    body: &serde_json::Value,
) -> Answer {
    let found = service.get(&format!("/agents/{id}")).await;
    let Some(etag) = found.headers.get("etag").cloned() else { return found };
    let body = (!body.is_null()).then(|| body.to_string());
    let mut request = request(method, &format!("/agents/{id}"), body);
    request.headers_mut().insert("if-match", HeaderValue::from_bytes(etag.as_bytes()).unwrap());
    service.send(request).await
}

/// Lets processes that host agents come and go.
async fn come_and_go(world: &World, seed: u64) -> Vec<Host> {
    let (mut random, mut hosts) = (Random(seed), Vec::new());
    for _ in 0..6 {
        match random.below(3) {
            0 if !hosts.is_empty() => {
                let at = usize::try_from(random.below(hosts.len() as u64)).unwrap();
                let gone: Host = hosts.swap_remove(at);
                match random.below(2) {
                    0 => gone.runtime.shutdown(Duration::from_secs(10)).await.unwrap(),
                    _ => drop(gone),
                }
            }
            kind => hosts.push(world.host(kind != 1).await),
        }
        for _ in 0..random.below(4) {
            pause().await;
        }
    }
    hosts.push(world.host(true).await);
    hosts.push(world.host(false).await);
    hosts
}

/// The configurations of the agents that must be hosted, according to the log.
async fn desired(service: &Service) -> BTreeMap<String, usize> {
    let list = service.get("/agents?agent_type=kind").await;
    let agents = list.body["data"].as_array().unwrap().clone();
    let text =
        |it: &serde_json::Value| it["attributes"]["config"]["text"].as_str().unwrap().to_owned();
    agents.iter().map(|it| (text(it), 1)).collect()
}

async fn trial(seed: u64) {
    let (store, broker) = (aios_store::connect("memory://").await.unwrap(), MemoryBroker::new());
    let world = World { store, broker: Arc::new(broker) };
    let process = async || {
        let builder = Runtime::builder().store(Arc::clone(&world.store));
        let runtime = builder.broker(Arc::clone(&world.broker)).start().await.unwrap();
        Service::of(Arc::new(runtime), ApiOptions::new())
    };
    let (one, two) = (process().await, process().await);
    let (first, second, hosts) = tokio::join!(
        change(&one, 2 * seed + 1, 30),
        change(&two, 2 * seed + 2, 30),
        come_and_go(&world, seed + 1),
    );
    for id in ["a0", "a1", "a2", "a3"] {
        let count = |done: &BTreeMap<_, _>| done.get(id).copied().unwrap_or_default();
        let agents = one.runtime.managed_agents().unwrap();
        let version = agents.get(id).await.ok().and_then(|it| it.version).unwrap_or_default();
        assert_eq!(count(&first) + count(&second), version, "{id} with seed {seed}");
    }
    let desired = desired(&two).await;
    for (number, host) in hosts.iter().enumerate() {
        let converged = async {
            while *host.hosted.lock().unwrap() != desired {
                pause().await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(30), converged).await;
        let hosted = host.hosted.lock().unwrap().clone();
        assert!(waited.is_ok(), "host {number}, seed {seed}: {hosted:?}, not {desired:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_host_what_the_log_says_after_changes_of_several_processes() {
    #[allow(clippy::disallowed_methods, reason = "a person asks for more seeds")]
    let seeds = std::env::var("AIOS_SEEDS").map_or(4, |count| count.parse().unwrap());
    futures_util::future::join_all((0..seeds).map(trial)).await;
}
