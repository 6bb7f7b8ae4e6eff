//! A service that is dropped, at whatever moment, ends everything that it has begun, and another one can
//! start in its place.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aios_agents::{prelude::*, runtime::EngineOptions};
use aios_broker::memory::MemoryBroker;
use aios_core::{
    broker::{Broker, BrokerError},
    store::{Store, StoreError},
};
use aios_service::Service;
use aios_store::memory::MemoryStore;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Notify, watch},
};

use crate::{
    faulty::{Fault, FaultyBroker, FaultyStore},
    support::pause,
};

/// The headers of a request that changes an agent.
const MATCH: &str = "if-match: *\r\ncontent-type: application/json\r\n";
/// The distance between the moments that are tried, unless `AIOS_SWEEP=all` asks for every one.
const SAMPLE: usize = 13;
/// How often something is looked at: for 20 s.
const LOOKS: usize = 2_000;

/// An agent that answers with its configuration.
struct Kept(String);

impl Kept {
    fn new(config: String) -> Result<Self, TaskError> {
        Ok(Self(config))
    }
}

impl Agent for Kept {
    type Parameters = String;
    type Output = String;

    async fn process_task(&self, _: &TaskContext, _: String) -> Result<String, TaskError> {
        Ok(self.0.clone())
    }
}

/// Counts the calls of the store and the broker. The service is dropped during one of them.
#[derive(Clone)]
struct Calls {
    count: Arc<AtomicUsize>,
    last: usize,
    reached: Arc<Notify>,
    /// Whether the service was dropped.
    dropped: watch::Sender<bool>,
}

impl Calls {
    fn new(last: usize) -> Self {
        let (count, reached) = (Arc::default(), Arc::default());
        Self { count, last, reached, dropped: watch::Sender::new(false) }
    }

    /// The last call, and those after it, have their effect after the service was dropped.
    fn fault<E>(&self) -> Option<Fault<E>> {
        let number = self.count.fetch_add(1, Ordering::SeqCst) + 1;
        if number < self.last {
            return None;
        }
        self.reached.notify_one();
        let mut dropped = self.dropped.subscribe();
        Some(Fault::After(Box::pin(
            async move { drop(dropped.wait_for(|dropped| *dropped).await) },
        )))
    }

    /// A call that has no effect.
    async fn pass(&self) {
        if let Some(Fault::After(first)) = self.fault::<()>() {
            first.await;
        }
    }
}

/// A service whose store and broker count their calls.
struct Trial {
    calls: Calls,
    store: Mutex<Option<Arc<FaultyStore>>>,
    broker: Mutex<Option<Arc<FaultyBroker>>>,
    address: SocketAddr,
    /// The connections of clients, which stay open.
    clients: Mutex<Vec<TcpStream>>,
}

impl Trial {
    fn new(last: usize, inner: &MemoryStore, address: SocketAddr) -> Self {
        let calls = Calls::new(last);
        let store = FaultyStore::new(Arc::new(inner.clone()));
        let broker = FaultyBroker::new(Arc::new(MemoryBroker::new()));
        let (of_append, of_call) = (calls.clone(), calls.clone());
        store.on_append(move |_| of_append.fault());
        store.on_call(move |_| of_call.fault());
        let (of_publish, of_subscribe) = (calls.clone(), calls.clone());
        broker.on_publish(move |_| of_publish.fault());
        broker.on_subscribe(move |_| of_subscribe.fault());
        let (store, broker) = (Mutex::new(Some(store)), Mutex::new(Some(broker)));
        Self { calls, store, broker, address, clients: Mutex::default() }
    }

    /// The service, which takes the store and the broker when it opens them.
    fn service(&self) -> Service {
        let listen = self.address.to_string();
        let settings = super::settings().value("http.listen", listen).load().unwrap();
        let store = self.store.lock().unwrap().take().unwrap();
        let broker = self.broker.lock().unwrap().take().unwrap();
        let (opens, connects) = (self.calls.clone(), self.calls.clone());
        let options = EngineOptions::new().with_lease_time(Duration::from_secs(1));
        super::service(&settings)
            .connect_store(move |_: &str| async move {
                opens.pass().await;
                Ok::<_, StoreError>(store as Arc<dyn Store>)
            })
            .connect_broker(move |_: &str| async move {
                connects.pass().await;
                Ok::<_, BrokerError>(broker as Arc<dyn Broker>)
            })
            .runtime(|builder| builder.engine_options(options).agent_factory("kept", Kept::new))
    }

    /// Starts the service, sends requests on connections that stay open, and ends it. The requests create,
    /// use, replace, restart and delete an agent with this id.
    async fn live(&self, id: &str) {
        let running = self.service().start().await.unwrap();
        // It is open until the end.
        self.ask("GET /api/v1/events/stream?after=0", "", "", "id: 0").await;
        let key = |kind: &str| {
            format!("idempotency-key: {kind}-{id}\r\ncontent-type: application/json\r\n")
        };
        let start = "POST /api/v1/workflows/welcome/actions/execute";
        let run = format!("run-{id}");
        let body = json!({ "input": "Ada", "run_id": run }).to_string();
        self.ask(start, &key("start"), &body, "202 Accepted").await;
        assert!(self.result(&run).await.contains("Hello, Ada!"));
        let agent = format!("/api/v1/agents/{id}");
        let body = json!({ "agent_type": "kept", "name": id, "id": id, "config": "one" });
        self.ask("POST /api/v1/agents", &key("create"), &body.to_string(), "201 Created").await;
        self.perform(id, "first", "one").await;
        let body = json!({ "name": id, "config": "two" }).to_string();
        self.ask(&format!("PUT {agent}"), MATCH, &body, "200 OK").await;
        let restart = format!("POST {agent}/actions/restart");
        self.ask(&restart, &key("restart"), "{}", "202 Accepted").await;
        self.perform(id, "second", "two").await;
        self.ask(&format!("DELETE {agent}"), MATCH, "", "200 OK").await;
        running.shutdown().begin();
        running.stopped().await.unwrap();
    }

    /// Has an agent perform tasks until it has this configuration.
    async fn perform(&self, id: &str, task: &str, config: &str) {
        let path = format!("POST /api/v1/agents/{id}/tasks");
        for number in 0.. {
            let run = format!("{task}-{id}-{number}");
            let body = json!({ "parameters": "", "run_id": run }).to_string();
            self.ask(&path, "content-type: application/json\r\n", &body, "202 Accepted").await;
            if self.result(&run).await.contains(&format!("\"result\":\"{config}\"")) {
                return;
            }
        }
    }

    async fn result(&self, run: &str) -> String {
        self.ask(&format!("GET /api/v1/runs/{run}/result?wait=20s"), "", "", "}}").await
    }

    /// Sends a request, and reads until the answer has this text. Returns what was read.
    async fn ask(&self, line: &str, headers: &str, body: &str, until: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let length = body.len();
        let head = format!("{line} HTTP/1.1\r\nhost: localhost\r\n{headers}");
        let request = format!("{head}content-length: {length}\r\n\r\n{body}");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !String::from_utf8_lossy(&answer).contains(until) {
            let read = stream.read_buf(&mut answer).await.unwrap();
            let text = String::from_utf8_lossy(&answer);
            assert_ne!(read, 0, "{line}: {text}");
            assert!(text.starts_with("HTTP/1.1 2") || text.len() < 10, "{line}: {text}");
        }
        self.clients.lock().unwrap().push(stream);
        String::from_utf8_lossy(&answer).into_owned()
    }
}

/// Waits until something holds.
async fn eventually(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..LOOKS {
        if holds() {
            return;
        }
        pause().await;
    }
    panic!("{what}");
}

fn alive_tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

async fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// A service hosts what the log says: an agent of the service that was dropped works, unless it is deleted.
async fn converge(last: usize, inner: &MemoryStore, address: SocketAddr) {
    let trial = Trial::new(usize::MAX, inner, address);
    let running = trial.service().start().await.unwrap();
    let agent = super::ask(address, "GET", "/api/v1/agents/a1").await;
    if agent.starts_with("HTTP/1.1 200") {
        let config = if agent.contains(r#""config":"two""#) { "two" } else { "one" };
        trial.perform("a1", &format!("after-{last}"), config).await;
    }
    running.shutdown().begin();
    running.stopped().await.unwrap();
}

/// Lets a service live until a call, and looks for what is left. Returns whether it ended before the call.
async fn ends_before(last: usize, inner: &MemoryStore, address: SocketAddr) -> bool {
    let trial = Trial::new(last, inner, address);
    let store = Arc::downgrade(trial.store.lock().unwrap().as_ref().unwrap());
    let broker = Arc::downgrade(trial.broker.lock().unwrap().as_ref().unwrap());
    let has_ended = tokio::select! {
        () = trial.live("a1") => true,
        () = trial.calls.reached.notified() => false,
    };
    trial.calls.dropped.send_replace(true);
    let left = || (store.strong_count(), broker.strong_count(), alive_tasks());
    eventually(&format!("something is left after call {last}"), || left() == (0, 0, 0)).await;
    let clients = std::mem::take(&mut *trial.clients.lock().unwrap());
    for mut client in clients {
        // The rest of an answer, and then the end of the connection or an error.
        let mut rest = Vec::new();
        let ended = client.read_to_end(&mut rest);
        let ended = tokio::time::timeout(Duration::from_secs(20), ended).await;
        assert!(ended.is_ok(), "a connection is open after call {last}");
    }
    has_ended
}

/// A service on the same address and store performs the work of the one that was dropped.
async fn succeed(last: usize, inner: &MemoryStore, address: SocketAddr) {
    let trial = Trial::new(usize::MAX, inner, address);
    let lived = tokio::time::timeout(Duration::from_secs(60), trial.live("a2")).await;
    lived.unwrap_or_else(|_| panic!("the next service works after call {last}"));
    let converged = tokio::time::timeout(Duration::from_secs(60), converge(last, inner, address));
    converged.await.unwrap_or_else(|_| panic!("the agent works after call {last}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn should_leave_nothing_running_whenever_it_is_dropped() {
    #[allow(clippy::disallowed_methods, reason = "a person asks for every case")]
    let takes_all = std::env::var("AIOS_SWEEP").is_ok_and(|which| which == "all");
    let (mut last, step) = (1, if takes_all { 1 } else { SAMPLE });
    loop {
        let (inner, address) = (MemoryStore::new(), free_address().await);
        let has_ended = ends_before(last, &inner, address).await;
        if takes_all || last % (4 * SAMPLE) == 1 {
            succeed(last, &inner, address).await;
        }
        if has_ended {
            break;
        }
        last += step;
    }
    assert!(last > 30, "only {last} calls");
}
