//! The changing requests of the API, what they need, and what happens between two attempts.

use std::sync::Arc;

use aios_agents::{prelude::*, runtime::RuntimeBuilder};
use aios_core::{
    broker::{Broker, Group, Subscription},
    event::Pattern,
    store::Store,
};
use aios_service::http::ApiOptions;
use axum::http::{HeaderValue, Method};

use serde_json::{Value, json};

use crate::support::{Service, pause, request};

/// A request, and what another client does after its first attempt.
pub(super) struct Scene {
    pub(super) name: &'static str,
    pub(super) path: &'static str,
    pub(super) body: &'static str,
    /// The type of the event that it leaves; empty if its effect is in the broker.
    pub(super) effect: &'static str,
    /// Requests of another client in between: method, path, body. Or a status of a run to wait for.
    pub(super) meanwhile: &'static [(&'static str, &'static str, &'static str)],
}

const fn scene(
    name: &'static str,
    path: &'static str,
    body: &'static str,
    effect: &'static str,
) -> Scene {
    Scene { name, path, body, effect, meanwhile: &[] }
}

impl Scene {
    const fn meanwhile(
        self,
        meanwhile: &'static [(&'static str, &'static str, &'static str)],
    ) -> Self {
        Self { meanwhile, ..self }
    }
}

const STARTED: &str = "workflows.approval.started";
const SIGNALED: &str = "workflows.approval.signaled";
const CANCEL: (&str, &str, &str) = ("POST", "/runs/r1/actions/cancel", "");
const APPROVE: (&str, &str, &str) = ("POST", "/runs/r1/actions/signal", r#"{"name":"approval"}"#);
const END: (&str, &str, &str) = ("GET", "/runs/r1/result?wait=10s", "");
const DELETE: (&str, &str, &str) = ("DELETE", "/agents/a1", "");

pub(super) const SCENES: &[Scene] = &[
    scene("start", "/workflows/approval/actions/execute", r#"{"input":1}"#, STARTED),
    scene("start of a name", "/workflows/approval/actions/execute", r#"{"run_id":"n"}"#, STARTED)
        .meanwhile(&[("POST", "/runs/n/actions/cancel", "")]),
    scene(
        "delayed start",
        "/workflows/approval/actions/execute",
        r#"{"run_id":"n","delay_seconds":60}"#,
        STARTED,
    ),
    scene("signal", "/runs/r1/actions/signal", r#"{"name":"other","payload":1}"#, SIGNALED)
        .meanwhile(&[CANCEL, END]),
    scene("last signal", "/runs/r1/actions/signal", r#"{"name":"approval","payload":1}"#, SIGNALED)
        .meanwhile(&[END]),
    scene(
        "signal of a chain",
        "/runs/c1/actions/signal",
        r#"{"name":"kept","payload":1}"#,
        "workflows.chain.signaled",
    )
    .meanwhile(&[
        ("POST", "/runs/c1/actions/signal", r#"{"name":"next"}"#),
        ("CONTINUED", "c1", ""),
    ]),
    scene(
        "signal with start",
        "/workflows/approval/actions/signal-with-start",
        r#"{"run_id":"n","signal":{"name":"other"}}"#,
        SIGNALED,
    )
    .meanwhile(&[("POST", "/runs/n/actions/cancel", ""), ("GET", "/runs/n/result?wait=1s", "")]),
    scene(
        "signal with start of a run",
        "/workflows/approval/actions/signal-with-start",
        r#"{"run_id":"r1","signal":{"name":"approval"}}"#,
        SIGNALED,
    )
    .meanwhile(&[END]),
    scene("cancel", "/runs/r1/actions/cancel", "", "workflows.approval.cancel_requested")
        .meanwhile(&[END]),
    scene("pause", "/runs/r1/actions/pause", "", "workflows.approval.paused").meanwhile(&[CANCEL]),
    scene("pause before a cancellation", "/runs/s1/actions/pause", "", "workflows.slow.paused")
        .meanwhile(&[("POST", "/runs/s1/actions/cancel", ""), ("CANCELLING", "s1", "")]),
    scene("pause and resume", "/runs/r1/actions/pause", "", "workflows.approval.paused")
        .meanwhile(&[("POST", "/runs/r1/actions/resume", "")]),
    scene("pause of a run that ends", "/runs/r1/actions/pause", "", "workflows.approval.paused")
        .meanwhile(&[("POST", "/runs/r1/actions/resume", ""), APPROVE, END]),
    scene("resume", "/runs/p1/actions/resume", "", "workflows.approval.resumed").meanwhile(&[(
        "POST",
        "/runs/p1/actions/pause",
        "",
    )]),
    scene("resume and cancel", "/runs/p1/actions/resume", "", "workflows.approval.resumed")
        .meanwhile(&[("POST", "/runs/p1/actions/cancel", "")]),
    scene("fork", "/runs/f1/actions/fork", r#"{"operation":1}"#, "workflows.broken.started"),
    scene(
        "fork of a chain",
        "/runs/c1/actions/fork",
        r#"{"operation":1,"run_id":"n"}"#,
        "workflows.chain.started",
    )
    .meanwhile(&[
        ("POST", "/runs/c1/actions/signal", r#"{"name":"next"}"#),
        ("CONTINUED", "c1", ""),
    ]),
    scene("retry", "/runs/f1/actions/retry", "", "workflows.broken.started"),
    scene(
        "retry by name",
        "/runs/f1/actions/retry",
        r#"{"run_id":"n"}"#,
        "workflows.broken.started",
    ),
    scene(
        "task",
        "/tasks",
        r#"{"agent_type":"absent","parameters":"Ada"}"#,
        "workflows.single_task.started",
    ),
    scene(
        "task of an agent",
        "/agents/a1/tasks",
        r#"{"parameters":1}"#,
        "workflows.single_task.started",
    )
    .meanwhile(&[DELETE]),
    scene(
        "cancel task",
        "/tasks/TASK/actions/cancel",
        "",
        "workflows.single_task.cancel_requested",
    )
    .meanwhile(&[("GET", "/runs/t1/result?wait=10s", "")]),
    scene(
        "create agent",
        "/agents",
        r#"{"agent_type":"absent","name":"b","id":"b1"}"#,
        "agents.absent.created",
    )
    .meanwhile(&[("DELETE", "/agents/b1", "")]),
    scene(
        "create an agent that is replaced",
        "/agents",
        r#"{"agent_type":"absent","name":"b","id":"b1"}"#,
        "agents.absent.created",
    )
    .meanwhile(&[("PUT", "/agents/b1", r#"{"name":"c"}"#)]),
    scene("restart agent", "/agents/a1/actions/restart", "", "agents.absent.restart_requested")
        .meanwhile(&[DELETE]),
    scene("publish", "/events", r#"{"type":"orders.order.paid"}"#, ""),
    scene("redrive", "/dead-letters/groups/orders/actions/redrive", r#"{"ids":["order-1"]}"#, ""),
    scene("purge", "/dead-letters/groups/orders/actions/purge", r#"{"ids":["order-1"]}"#, ""),
    scene("purge all", "/dead-letters/groups/orders/actions/purge", r#"{"all":true}"#, ""),
    scene("refused signal", "/runs/unknown/actions/signal", r#"{"name":"a"}"#, ""),
    scene("refused body", "/tasks", r#"{"agent_type":7}"#, ""),
    scene("refused agent", "/agents", r#"{"agent_type":"absent","name":"a","id":"a1"}"#, ""),
    scene("refused retry", "/runs/r1/actions/retry", "", ""),
];

async fn approval(context: WorkflowContext, _: Value) -> Result<Value, WorkflowError> {
    context.signal("approval").await
}

async fn broken(context: WorkflowContext, _: Value) -> Result<Value, WorkflowError> {
    let failure = || TaskError::terminal(Failure::new("CARD_DECLINED", "no money"));
    let fails = move || async move { Err::<Value, _>(failure()) };
    context.step("pay", fails).await
}

async fn chain(context: WorkflowContext, round: u32) -> Result<Value, WorkflowError> {
    if round == 0 {
        context.run("first", async || 1).await?;
        let _: Value = context.signal("next").await?;
        return Err(WorkflowError::continue_as_new(&1));
    }
    context.signal("approval").await
}

/// Its cancellation does not end.
async fn slow(context: WorkflowContext, _: Value) -> Result<Value, WorkflowError> {
    context.compensate("wait", |context| async move {
        context.signal::<Value>("never").await?;
        Ok(())
    });
    context.run("first", async || 1).await?;
    context.signal("approval").await
}

fn workflows(builder: RuntimeBuilder) -> RuntimeBuilder {
    let builder = builder.workflow("approval", approval).workflow("broken", broken);
    builder.workflow("chain", chain).workflow("slow", slow)
}

/// A process that sends commands alone.
pub(super) async fn client(
    store: Arc<dyn Store>,
    broker: &Arc<dyn Broker>,
    options: ApiOptions,
) -> Service {
    let builder = Runtime::builder().store(store).broker(Arc::clone(broker));
    let runtime = workflows(builder).client_only().start().await.unwrap();
    Service::of(Arc::new(runtime), options)
}

/// A process with an engine, in which everything exists that the requests need.
pub(super) async fn engine(store: Arc<dyn Store>, broker: &Arc<dyn Broker>) -> Service {
    let builder = Runtime::builder().store(store).broker(Arc::clone(broker));
    let runtime = workflows(builder).start().await.unwrap();
    let service = Service::of(Arc::new(runtime), ApiOptions::new());
    for (path, body) in [
        ("/workflows/approval/actions/execute", json!({ "run_id": "r1" })),
        ("/workflows/approval/actions/execute", json!({ "run_id": "p1" })),
        ("/workflows/broken/actions/execute", json!({ "run_id": "f1" })),
        ("/workflows/chain/actions/execute", json!({ "run_id": "c1", "input": 0 })),
        ("/workflows/slow/actions/execute", json!({ "run_id": "s1" })),
        ("/tasks", json!({ "run_id": "t1", "agent_type": "absent" })),
        ("/agents", json!({ "agent_type": "absent", "name": "a", "id": "a1" })),
        ("/runs/p1/actions/pause", json!({})),
    ] {
        let answer = service.post(path, &body).await;
        assert!(answer.status.is_success(), "{path}: {answer:?}");
    }
    dead_letter(broker).await;
    service.result("f1").await;
    until(&service, "/runs/c1/journal", "workflows.chain.step_completed").await;
    until(&service, "/runs/s1/journal", "workflows.slow.step_completed").await;
    until(&service, "/runs/t1/journal", "agents.absent.task_assigned").await;
    service
}

/// Waits for an event of a journal.
pub(super) async fn until(service: &Service, path: &str, event_type: &str) {
    while !service.get(path).await.body.to_string().contains(event_type) {
        pause().await;
    }
}

async fn dead_letter(broker: &Arc<dyn Broker>) {
    let group: Group = "orders".parse().unwrap();
    let subscription = Subscription::group(group, ["orders.#".parse::<Pattern>().unwrap()]);
    let mut deliveries = broker.subscribe(subscription).await.unwrap();
    let event = aios_core::event::Event::new("orders.order.placed".parse().unwrap(), "test", &1);
    let event = event.unwrap().with_id("order-1".parse().unwrap());
    broker.publish_event(event).await.unwrap();
    deliveries.next().await.unwrap().unwrap().dead_letter("no tea".to_owned()).await.unwrap();
}

/// Lets another client do what the scene tells. What it does must succeed if the effect was there before.
pub(super) async fn interfere(service: &Service, scene: &Scene, must: bool) {
    for (method, path, body) in scene.meanwhile {
        // Without the effect, a run may not end.
        if *method == "GET" && !must {
            continue;
        }
        if ["CONTINUED", "CANCELLING"].contains(method) {
            let status = method.to_lowercase();
            while service.get(&format!("/runs/{path}")).await.attributes()["status"] != status {
                pause().await;
            }
            continue;
        }
        let body = (!body.is_empty()).then(|| (*body).to_owned());
        let mut call = request(method.parse::<Method>().unwrap(), path, body);
        if matches!(*method, "PUT" | "DELETE") {
            call.headers_mut().insert("if-match", HeaderValue::from_static("*"));
        }
        let answer = service.send(call).await;
        assert!(!must || answer.status.is_success(), "{method} {path}: {answer:?}");
    }
}
