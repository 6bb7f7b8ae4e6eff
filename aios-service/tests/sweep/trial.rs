//! One trial: a request with a key, a fault at one append, and the request again.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use aios_broker::memory::MemoryBroker;
use aios_core::{
    broker::Broker,
    catalog::system::ApiCalled,
    clock::{Clock, SystemClock, VirtualClock},
    store::{RecordedEvent, Store},
};
use aios_service::http::ApiOptions;
use axum::{
    body::Body,
    http::{HeaderValue, Method, Request},
};
use serde_json::Value;

use super::{
    scenes::{Scene, client, engine, interfere},
    store::{Fault, FaultyStore},
};
use crate::support::{Answer, Service, answer, request};

/// Time after which a claim of another process has ended.
const AFTER_CLAIM: Duration = Duration::from_secs(60);
/// Longest time of a request that meets a fault.
const TIMEOUT: Duration = Duration::from_millis(150);

/// An undisturbed request.
#[derive(Debug)]
pub(super) struct Baseline {
    /// How many appends it makes.
    pub(super) appends: usize,
    answer: Seen,
    effects: usize,
}

/// The part of an answer that does not depend on time.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    status: u16,
    location: Option<String>,
    body: Value,
}

impl Seen {
    fn of(answer: &Answer) -> Self {
        let location = answer.headers.get("location").map(|it| it.to_str().unwrap().to_owned());
        let body = match answer.status.is_success() {
            true => serde_json::json!([answer.body["data"]["id"], answer.body["data"]["type"]]),
            false => answer.body["error"].clone(),
        };
        Self { status: answer.status.as_u16(), location, body }
    }
}

pub(super) struct Trial<'t> {
    pub(super) scene: &'t Scene,
    pub(super) fault: Option<Fault>,
    pub(super) point: usize,
}

/// The processes of a trial.
struct World {
    store: Arc<dyn Store>,
    faulty: Arc<FaultyStore>,
    broker: Arc<dyn Broker>,
    /// Works throughout.
    engine: Service,
    /// Meets the fault.
    first: Service,
    task: String,
}

impl World {
    async fn new(store: Arc<dyn Store>, trial: &Trial<'_>) -> Self {
        let broker: Arc<dyn Broker> = Arc::new(MemoryBroker::new());
        let engine = engine(Arc::clone(&store), &broker).await;
        let tasks = engine.get("/tasks?run_id=t1").await;
        let task = tasks.body["data"][0]["id"].as_str().unwrap().replace('/', "%2F");
        let faulty = FaultyStore::new(&store, trial.fault, trial.point);
        let waits = matches!(trial.fault, Some(Fault::Hang | Fault::HangAfter));
        let options = ApiOptions::new();
        let options = if waits { options.with_request_timeout(TIMEOUT) } else { options };
        let first = client(Arc::clone(&faulty) as _, &broker, options).await;
        Self { store, faulty, broker, engine, first, task }
    }

    fn request(&self, scene: &Scene, body: &str) -> Request<Body> {
        let body = (!body.is_empty()).then(|| body.to_owned());
        let mut post = request(Method::POST, &scene.path.replace("TASK", &self.task), body);
        post.headers_mut().insert("idempotency-key", HeaderValue::from_static("k1"));
        post
    }

    async fn log(&self) -> Vec<RecordedEvent> {
        self.store.read_log(0, 1000).await.unwrap()
    }

    /// How often the request has taken effect, if its effect is an event.
    async fn effects(&self, scene: &Scene, before: u64) -> usize {
        let log = self.log().await;
        let is_effect = |it: &&RecordedEvent| {
            it.position > before && it.event.event_type.as_str() == scene.effect
        };
        log.iter().filter(is_effect).count()
    }
}

pub(super) async fn baseline(store: Arc<dyn Store>, scene: &Scene) -> Baseline {
    let trial = Trial { scene, fault: None, point: 0 };
    let world = World::new(store, &trial).await;
    let (head, before) = (world.store.head().await.unwrap(), world.faulty.appends());
    let answer = answer(&world.first.router, world.request(scene, scene.body)).await;
    let effects = world.effects(scene, head).await;
    assert_eq!(effects > 0, !scene.effect.is_empty(), "{}: {answer:?}", scene.name);
    assert_eq!(answer.status.is_success(), !scene.name.starts_with("refused"), "{answer:?}");
    Baseline { appends: world.faulty.appends() - before, answer: Seen::of(&answer), effects }
}

impl Trial<'_> {
    /// Returns what is wrong.
    pub(super) async fn run(&self, store: Arc<dyn Store>, baseline: &Baseline) -> Vec<String> {
        let (scene, world) = (self.scene, World::new(store, self).await);
        let head = world.store.head().await.unwrap();
        let mut found = Vec::new();
        let ends = self.fault.is_some_and(Fault::ends_request);
        let first = tokio::select! {
            biased;
            answer = answer(&world.first.router, world.request(scene, scene.body)) => Some(answer),
            () = world.faulty.reached(), if ends => None,
        };
        if let Some(first) = &first {
            found.extend(misshapen(first));
        }
        if matches!(self.fault, Some(Fault::LeaveBefore | Fault::LeaveAfter)) {
            settle().await;
        }
        let was_done = world.effects(scene, head).await > 0;
        interfere(&world.engine, scene, was_done).await;

        let clock = VirtualClock::new(SystemClock.now());
        let options = ApiOptions::new().with_clock(Arc::new(clock.clone()));
        let second = client(Arc::clone(&world.store), &world.broker, options).await;
        let last = self.insist(&world, &second, &clock, &mut found).await;
        self.check(&world, baseline, &last, was_done, head, &mut found).await;
        let replay = answer(&second.router, world.request(scene, scene.body)).await;
        // A refusal of a request that was not understood is not recorded.
        let is_recorded = last.body["error"]["code"] != "INVALID_REQUEST";
        if Seen::of(&replay) != Seen::of(&last)
            || replay.headers.contains_key("idempotent-replayed") != is_recorded
        {
            found.push(format!("repeated as {:?}, not {:?}", Seen::of(&replay), Seen::of(&last)));
        }
        let other = answer(&second.router, world.request(scene, r#"{"other":1}"#)).await;
        // A refusal frees the key, unless the fault has left an attempt whose end is unknown.
        let is_free = !is_recorded && other.code() == "INVALID_REQUEST";
        if !is_free && (other.status != 409 || other.code() != "IDEMPOTENCY_KEY_REUSED") {
            found.push(format!("another body got {:?}", Seen::of(&other)));
        }
        if let Some(first) = first.filter(|it| it.status.as_u16() < 500)
            && Seen::of(&first) != Seen::of(&last)
        {
            found.push(format!("first {:?}, then {:?}", Seen::of(&first), Seen::of(&last)));
        }
        found
    }

    /// Repeats the request with another process, at once and after the time of a claim, until it is answered.
    async fn insist(
        &self,
        world: &World,
        second: &Service,
        clock: &VirtualClock,
        found: &mut Vec<String>,
    ) -> Answer {
        // Only the death of a process leaves a claim that no process handles.
        let is_alive = self.fault.is_some_and(|it| !it.crashes());
        for attempt in 1.. {
            let again = answer(&second.router, world.request(self.scene, self.scene.body)).await;
            found.extend(misshapen(&again));
            let is_open = again.status == 409 && again.code() == "REQUEST_IN_PROGRESS";
            if !is_open && !again.status.is_server_error() {
                return again;
            }
            let is_late = attempt > 20;
            if is_alive && is_late && self.fault != Some(Fault::Never) {
                found.push(format!("a live process holds the key: {:?}", Seen::of(&again)));
            }
            match is_alive && !is_late {
                true => settle().await,
                false => clock.advance(AFTER_CLAIM),
            }
        }
        unreachable!()
    }

    async fn check(
        &self,
        world: &World,
        baseline: &Baseline,
        last: &Answer,
        was_done: bool,
        head: u64,
        found: &mut Vec<String>,
    ) {
        let scene = self.scene;
        let effects = world.effects(scene, head).await;
        let expects = was_done || scene.meanwhile.is_empty();
        if expects && Seen::of(last) != baseline.answer {
            found.push(format!("answered {:?}, not {:?}", Seen::of(last), baseline.answer));
        }
        // What happens in between to a chain leaves up to two events of the same kind.
        let others = 2 * usize::from(scene.meanwhile.iter().any(|it| it.0 == "CONTINUED"));
        if effects > baseline.effects + others {
            found.push(format!("took effect {effects} times"));
        }
        if expects && effects < baseline.effects {
            found.push(format!("took effect {effects} times, not {}", baseline.effects));
        }
        let met = world.faulty.met.lock().unwrap().clone();
        let spares = met.is_none_or(|it| !it.as_str().starts_with("system/audit/"));
        // Of an audit event that is refused once, the effect has to wait.
        let ordered = spares || matches!(self.fault, Some(Fault::Refuse | Fault::LoseResponse));
        if spares || self.fault != Some(Fault::Never) {
            settle().await;
            found.extend(unaudited(&world.log().await, scene, head, ordered));
        }
    }
}

/// Whether an effect has no audit event before it, or an audit event has no cause.
fn unaudited(log: &[RecordedEvent], scene: &Scene, head: u64, ordered: bool) -> Vec<String> {
    let mut found = Vec::new();
    let mut announced = BTreeMap::new();
    let path = scene.path.split("TASK").next().unwrap();
    let mut calls = 0;
    for it in log.iter().filter(|it| it.position > head) {
        match it.event.event_type.as_str() {
            "system.api.requested" => {
                let data: ApiCalled = it.event.data().unwrap();
                calls += usize::from(data.path.contains(path));
                announced.insert(it.event.id.to_string(), data.path);
            }
            "system.api.called" => {
                let cause = it.event.metadata.causation_id.as_deref().unwrap_or_default();
                if announced.remove(cause).is_none() {
                    found.push(format!("an outcome without a request at {}", it.position));
                }
            }
            effect if effect == scene.effect && calls == 0 && ordered => {
                found.push(format!("an effect at {} without an audit event", it.position));
            }
            _ => {}
        }
    }
    found
}

/// Whether an answer has a shape that is not documented.
fn misshapen(answer: &Answer) -> Option<String> {
    if answer.status.is_success() {
        return None;
    }
    let (status, code) = answer.fault();
    let is_known = status == 503 || status < 500 || code == "STORE_BACKEND";
    (!is_known).then(|| format!("answered {status} {code}"))
}

#[allow(clippy::disallowed_methods, reason = "the service works in real time")]
async fn settle() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}
