//! A service, and requests to it.

use std::{
    fmt::{self, Debug, Formatter},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use aios_agents::prelude::*;
use aios_broker::memory::MemoryBroker;
use aios_core::{
    BoxFuture,
    clock::{Clock, SystemClock},
    event::Timestamp,
    store::Store,
};
use aios_service::http::{ApiOptions, api};
use axum::{
    Router,
    body::{Body, to_bytes},
    extract::connect_info::MockConnectInfo,
    http::{HeaderMap, Method, Request, StatusCode},
};
use serde_json::Value;
use tokio::runtime::Handle;
use tower::ServiceExt;

/// Runs a test on every store.
macro_rules! on_every_store {
    ($($name:ident)+) => {
        mod memory {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name($crate::support::Service::in_memory().await).await;
            })+
        }

        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name($crate::support::Service::on_sqlite().await).await;
            })+
        }
    };
}
pub(crate) use on_every_store;

struct Greeter;

impl Agent for Greeter {
    type Parameters = String;
    type Output = String;

    async fn process_task(&self, _: &TaskContext, name: String) -> Result<String, TaskError> {
        Ok(format!("Hello, {name}!"))
    }
}

async fn welcome(context: WorkflowContext, name: String) -> Result<String, WorkflowError> {
    context.task("greeter", &name).await
}

async fn approval(context: WorkflowContext, _: Value) -> Result<Value, WorkflowError> {
    context.signal("approval").await
}

async fn parent(context: WorkflowContext, _: Value) -> Result<Value, WorkflowError> {
    context.child("approval", &()).id("child").await
}

async fn failing(_: WorkflowContext, _: Value) -> Result<Value, WorkflowError> {
    Err(WorkflowError::failed(Failure::new("CARD_DECLINED", "no money")))
}

async fn refused(context: WorkflowContext, _: Value) -> Result<Value, WorkflowError> {
    let refuse = || async { Err(TaskError::terminal(Failure::new("REFUSED", "never"))) };
    context.step("refuse", refuse).await
}

/// A runtime and the API on it.
pub(crate) struct Service {
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) router: Router,
    folder: Option<tempfile::TempDir>,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    /// The code of the error.
    pub(crate) fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_else(|| panic!("no error: {self:?}"))
    }

    /// Checks the shape of an error, and returns its status and code.
    pub(crate) fn fault(&self) -> (u16, &str) {
        let body = self.body.as_object().unwrap();
        assert_eq!(body.keys().collect::<Vec<_>>(), ["error", "meta"], "{body:?}");
        let keys = |name: &str| {
            let mut keys: Vec<_> = body[name].as_object().unwrap().keys().cloned().collect();
            keys.sort_unstable();
            keys
        };
        assert_eq!(keys("error"), ["code", "details", "message"]);
        assert_eq!(keys("meta"), ["request_id", "timestamp"]);
        assert_eq!(body["meta"]["request_id"], self.headers["x-request-id"].to_str().unwrap());
        assert!(body["error"]["details"].is_object());
        assert_eq!(self.headers["content-type"], "application/json");
        (self.status.as_u16(), self.code())
    }

    pub(crate) fn attributes(&self) -> &Value {
        &self.body["data"]["attributes"]
    }
}

impl Service {
    pub(crate) async fn in_memory() -> Self {
        Self::on(aios_store::connect("memory://").await.unwrap(), None, ApiOptions::new()).await
    }

    pub(crate) async fn on_sqlite() -> Self {
        Self::on_sqlite_with(ApiOptions::new()).await
    }

    pub(crate) async fn on_sqlite_with(options: ApiOptions) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("aios.db").display());
        let store = aios_store::connect(&url).await.unwrap();
        Self::on(store, Some(folder), options).await
    }

    pub(crate) async fn with(options: ApiOptions) -> Self {
        Self::on(aios_store::connect("memory://").await.unwrap(), None, options).await
    }

    pub(crate) async fn on(
        store: Arc<dyn Store>,
        folder: Option<tempfile::TempDir>,
        options: ApiOptions,
    ) -> Self {
        let runtime = Runtime::builder()
            .store(store)
            .broker(Arc::new(MemoryBroker::new()))
            .agent("greeter", Greeter)
            .workflow("welcome", welcome)
            .workflow("approval", approval)
            .workflow("failing", failing)
            .workflow("parent", parent)
            .workflow("refused", refused)
            .start()
            .await
            .unwrap();
        Self { folder, ..Self::of(Arc::new(runtime), options) }
    }

    /// The API on a runtime.
    pub(crate) fn of(runtime: Arc<Runtime>, options: ApiOptions) -> Self {
        let router = Router::new()
            .nest("/api/v1", api(Arc::clone(&runtime), options))
            .layer(MockConnectInfo(SocketAddr::from(([127, 0, 0, 1], 4711))));
        Self { runtime, router, folder: None }
    }

    /// The database of a service on SQLite.
    pub(crate) fn database(&self) -> std::path::PathBuf {
        self.folder.as_ref().unwrap().path().join("aios.db")
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(request(Method::GET, path, None)).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(request(Method::POST, path, Some(body.to_string()))).await
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        answer(&self.router, request).await
    }

    /// Waits for the end of a run, and returns the answer.
    pub(crate) async fn result(&self, run_id: &str) -> Answer {
        self.get(&format!("/runs/{run_id}/result?wait=20s")).await
    }
}

/// The text of a response.
pub(crate) async fn text(router: &Router, path: &str) -> String {
    let response = router.clone().oneshot(request(Method::GET, path, None)).await.unwrap();
    let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    String::from_utf8(body.to_vec()).unwrap()
}

/// Sends a request to a router.
pub(crate) async fn answer(router: &Router, request: Request<Body>) -> Answer {
    let response = router.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap();
    let body = serde_json::from_slice(&body)
        .unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&body).into_owned()));
    Answer { status: parts.status, headers: parts.headers, body }
}

/// A request to a path of the API.
pub(crate) fn request(method: Method, path: &str, body: Option<String>) -> Request<Body> {
    let request =
        Request::builder().method(method).uri(format!("/api/v1{path}")).header("host", "localhost");
    match body {
        Some(body) => {
            request.header("content-type", "application/json").body(Body::from(body)).unwrap()
        }
        None => request.body(Body::empty()).unwrap(),
    }
}

/// Waits before something is looked at again.
#[allow(clippy::disallowed_methods, reason = "the service works in real time")]
pub(crate) async fn pause() {
    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
}

/// Pseudo-random numbers from a seed, which must not be zero (xorshift64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// A number below a bound.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Work of a [`Jump`] before its wait is over.
pub(crate) type Work = Box<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

/// A clock on which one length of waits is over at once, after some work, in the same poll in which the
/// wait began. Other waits take their time.
pub(crate) struct Jump {
    wait: Duration,
    work: Mutex<Option<Work>>,
}

impl Jump {
    pub(crate) fn over(wait: Duration) -> Arc<Self> {
        Arc::new(Self { wait, work: Mutex::default() })
    }

    pub(crate) fn set(&self, work: Work) {
        *self.work.lock().unwrap() = Some(work);
    }
}

impl Debug for Jump {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Jump").field("wait", &self.wait).finish_non_exhaustive()
    }
}

impl Clock for Jump {
    fn now(&self) -> Timestamp {
        SystemClock.now()
    }

    fn elapsed(&self) -> Duration {
        SystemClock.elapsed()
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        if duration != self.wait {
            return SystemClock.sleep(duration);
        }
        let work = self.work.lock().unwrap().as_ref().map(|work| work());
        Box::pin(async move {
            if let Some(work) = work {
                tokio::task::block_in_place(|| Handle::current().block_on(work));
            }
        })
    }

    fn sleep_until(&self, deadline: Timestamp) -> BoxFuture<'static, ()> {
        SystemClock.sleep_until(deadline)
    }
}
