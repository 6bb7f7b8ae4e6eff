use std::{sync::Arc, time::Duration};

use aios_agents::Runtime;
use aios_broker::memory::MemoryBroker;
use aios_core::broker::{BrokerExt, Health};
use aios_service::{Service, ServiceError, config::Settings};
use aios_store::memory::MemoryStore;
use axum::{Router, routing::get};

use super::{ask, service, settings};
use crate::faulty::{Fault, FaultyBroker, FaultyStore};

#[tokio::test(flavor = "multi_thread")]
async fn should_make_a_whole_service_from_settings() {
    let settings = settings().load().unwrap();
    let routes = |_: Arc<Runtime>| Router::new().route("/own", get(async || "mine"));
    let running = service(&settings).routes(routes).start().await.unwrap();
    let run = running.runtime().start("welcome", "Ada").id("r1").await.unwrap();
    assert_eq!(run.result::<String>().await.unwrap(), "Hello, Ada!");
    drop(run);
    for (path, part) in
        [("/own", "mine"), ("/health/ready", "200"), ("/api/v1/runs/r1", "\"completed\"")]
    {
        let answer = ask(running.address(), "GET", path).await;
        assert!(answer.contains(part), "{path}: {answer}");
    }
    let broker = Arc::clone(running.runtime().broker());
    running.shutdown().begin();
    running.stopped().await.unwrap();
    assert!(matches!(broker.health_now(), Health::Closed), "the service closes what it opened");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_answer_what_no_route_takes_in_the_shape_of_the_api() {
    let settings = settings().load().unwrap();
    let routes = |_: Arc<Runtime>| {
        let empty = async || axum::http::StatusCode::NOT_FOUND;
        Router::new()
            .route("/own", get(empty))
            .fallback(async || (axum::http::StatusCode::NOT_FOUND, "mine"))
    };
    let bare = service(&settings).start().await.unwrap();
    let own = service(&settings).routes(routes).start().await.unwrap();
    for path in ["/", "/favicon.ico", "/api", "/api/v1/", "/api/v2/runs", "//api/v1/runs"] {
        let answer = ask(bare.address(), "GET", path).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert!(head.starts_with("HTTP/1.1 404"), "{path}: {head}");
        assert_eq!(body["error"]["code"], "ROUTE_NOT_FOUND");
        assert_eq!(body["error"]["details"], serde_json::json!({ "path": path, "api": "/api/v1" }));
        assert!(head.contains(body["meta"]["request_id"].as_str().unwrap()), "{head}");
        assert!(ask(own.address(), "GET", path).await.ends_with("\r\n\r\nmine"), "{path}");
    }
    for path in ["/health/live", "/metrics"] {
        let answer = ask(bare.address(), "POST", path).await;
        assert!(answer.contains("allow: GET,HEAD") && answer.contains("METHOD_NOT_ALLOWED"));
    }
    assert!(ask(own.address(), "GET", "/own").await.ends_with("\r\n\r\n"), "it is not changed");
    assert!(ask(bare.address(), "GET", "/api/v1/x").await.contains("/api/v1/x"));
    for running in [bare, own] {
        running.shutdown().begin();
        running.stopped().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_let_no_browser_guess_a_content_type() {
    let running = service(&settings().load().unwrap()).start().await.unwrap();
    for path in [
        "/",
        "/api",
        "/api/v1/x",
        "/api/v1/me",
        "/api/v1/docs",
        "/api/v1/docs/",
        "/api/v1/docs/x",
        "/health/live",
        "/health/ready",
        "/health/startup",
        "/health/x",
        "/metrics",
    ] {
        for method in ["GET", "PUT"] {
            let answer = ask(running.address(), method, path).await;
            let (head, _) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.contains("x-content-type-options: nosniff"), "{method} {path}: {head}");
        }
    }
    running.shutdown().begin();
    running.stopped().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn should_apply_the_limits_of_the_settings() {
    let settings = settings()
        .value("agent.timeout", "1ms")
        .value("http.max_body_bytes", 10)
        .value("http.rate_limit.requests", 2)
        .value("http.rate_limit.per", "1h")
        .load()
        .unwrap();
    let running = service(&settings).start().await.unwrap();
    let run = running.runtime().start("welcome", "silent").await.unwrap();
    let failure = run.result::<String>().await.unwrap_err();
    assert_eq!(failure.code(), "TASK_TIMEOUT");
    drop(run);
    let mut statuses = Vec::new();
    for _ in 0..3 {
        let answer = ask(running.address(), "GET", "/api/v1/me").await;
        statuses.push(answer.split(' ').nth(1).unwrap().to_owned());
    }
    assert_eq!(statuses, ["200", "200", "429"]);
    running.shutdown().begin();
    running.stopped().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn should_take_parts_of_the_program_instead_of_settings() {
    let settings = Settings::builder()
        .environment::<&str, &str>([])
        .value("http.listen", "127.0.0.1:0")
        .load()
        .unwrap();
    let broker = Arc::new(MemoryBroker::new());
    let running = Service::from_settings(&settings)
        .broker(Arc::clone(&broker) as _)
        .agent("greeter", super::Greeter)
        .runtime(|builder| builder.source("shop"))
        .without_api()
        .without_telemetry()
        .start()
        .await
        .unwrap();
    assert!(running.runtime().store().is_none());
    assert!(ask(running.address(), "GET", "/api/v1/me").await.starts_with("HTTP/1.1 404"));
    running.shutdown().begin();
    running.stopped().await.unwrap();
    assert!(matches!(broker.health_now(), Health::Connected), "the broker is the program's");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_name_the_part_that_is_missing_or_refused() {
    let empty = Settings::builder().environment::<&str, &str>([]);
    let empty = empty.value("http.listen", "127.0.0.1:0").load().unwrap();
    let error = service(&empty).start().await.unwrap_err();
    assert!(error.to_string().contains("set it in a file or as AIOS_DATABASE_URL"), "{error}");
    assert_eq!(error.code(), "INVALID_SETTINGS");
    let error = Service::from_settings(&empty).without_telemetry().start().await.unwrap_err();
    assert!(matches!(error, ServiceError::NoBroker), "{error}");

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let listening = settings().value("http.listen", address.clone()).load().unwrap();
    let error = service(&listening).start().await.unwrap_err();
    assert_eq!(error.code(), "LISTEN_FAILED");
    assert!(error.to_string().contains(&address), "{error}");

    let unknown = settings().value("database.url", "mysql://db").load().unwrap();
    let error = service(&unknown).start().await.unwrap_err();
    assert_eq!((error.code(), error.is_retryable()), ("INVALID_STORE_CONFIGURATION", false));
    let fast = settings().value("http.rate_limit.requests", 1).value("http.rate_limit.per", "2d");
    let error = fast.load().unwrap_err();
    assert!(error.to_string().contains("http.rate_limit"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_end_although_the_store_or_the_broker_never_answers() {
    for (store_hangs, broker_hangs) in [(true, false), (false, true), (true, true)] {
        let settings = settings().value("shutdown.deadline", "200ms").load().unwrap();
        let store = FaultyStore::new(Arc::new(MemoryStore::new()));
        let broker = FaultyBroker::new(Arc::new(MemoryBroker::new()));
        let service = service(&settings).store(Arc::clone(&store) as _);
        let running = service.broker(Arc::clone(&broker) as _).start().await.unwrap();
        let run = running.runtime().start("welcome", "silent").await.unwrap();
        drop(run);
        if store_hangs {
            store.on_append(|_| Some(Fault::Hang));
            store.on_call(|_| Some(Fault::Hang));
        }
        if broker_hangs {
            broker.on_publish(|_| Some(Fault::Hang));
            broker.on_subscribe(|_| Some(Fault::Hang));
        }
        running.shutdown().begin();
        let stopped = tokio::time::timeout(Duration::from_secs(30), running.stopped()).await;
        assert!(stopped.is_ok(), "it ends: {store_hangs} {broker_hangs}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_say_that_the_runtime_is_still_in_use() {
    let settings = settings().value("shutdown.deadline", "50ms").load().unwrap();
    let running = service(&settings).start().await.unwrap();
    let held = Arc::clone(running.runtime());
    running.shutdown().begin();
    let error = running.stopped().await.unwrap_err();
    assert!(matches!(error, ServiceError::RuntimeInUse), "{error}");
    drop(held);
}
