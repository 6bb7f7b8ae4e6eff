use std::sync::Arc;

use aios_core::{broker::Broker, store::Store};
use aios_service::{HealthCheckError, Service, check_health, config::Settings, http::Shutdown};

use super::{Greeter, ask, settings, welcome};

/// A process of a service with these roles.
fn process(roles: &str, store: &Arc<dyn Store>, broker: &Arc<dyn Broker>) -> Service {
    let settings = settings().value("process.roles", vec![roles]).load().unwrap();
    Service::from_settings(&settings)
        .store(Arc::clone(store))
        .broker(Arc::clone(broker))
        .shutdown(Shutdown::new())
        .without_telemetry()
        .agent("greeter", Greeter)
        .workflow("welcome", welcome)
}

#[tokio::test]
async fn should_share_a_run_among_processes_with_different_roles() {
    let store = aios_store::connect("memory://").await.unwrap();
    let broker = aios_broker::connect("memory://").await.unwrap();
    let api = process("api", &store, &broker).start().await.unwrap();
    let run = api.runtime().start("welcome", &"Ada").await.unwrap();
    let answer = ask(api.address(), "GET", "/api/v1/workflows").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");

    let agents = process("agents", &store, &broker).start().await.unwrap();
    let engine = process("engine", &store, &broker).start().await.unwrap();
    let answer = ask(engine.address(), "GET", "/api/v1/workflows").await;
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    let greeting: String = run.result().await.unwrap();
    assert_eq!(greeting, "Hello, Ada!");

    for process in [api, agents, engine] {
        process.shutdown().begin();
        process.stopped().await.unwrap();
    }
}

#[tokio::test]
async fn should_host_agents_without_a_store() {
    let settings = Settings::builder()
        .environment([("AIOS_PROCESS_ROLES", "agents"), ("AIOS_BROKER_URL", "memory://")])
        .value("http.listen", "127.0.0.1:0")
        .load()
        .unwrap();
    let agents = Service::from_settings(&settings)
        .connect_store(aios_store::connect)
        .connect_broker(aios_broker::connect)
        .shutdown(Shutdown::new())
        .without_telemetry()
        .agent("greeter", Greeter)
        .workflow("welcome", welcome)
        .start()
        .await
        .unwrap();
    let answer = ask(agents.address(), "GET", "/health/ready").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    agents.shutdown().begin();
    agents.stopped().await.unwrap();
}

#[test]
fn should_refuse_unknown_roles_and_none() {
    for roles in ["engine,worker", ""] {
        let error = Settings::builder()
            .environment([("AIOS_PROCESS_ROLES", roles)])
            .load()
            .unwrap_err()
            .to_string();
        assert!(error.contains("process.roles"), "{error}");
    }
}

#[tokio::test]
async fn should_check_the_health_of_a_process() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let settings = settings().value("http.listen", format!("0.0.0.0:{port}")).load().unwrap();
    let error = check_health(&settings).await.unwrap_err();
    assert!(matches!(error, HealthCheckError::Unreachable { .. }), "{error}");

    let service = super::service(&settings).start().await.unwrap();
    check_health(&settings).await.unwrap();
    let shutdown = Shutdown::new().with_accept_delay(std::time::Duration::from_secs(60));
    service.shutdown().begin();
    service.stopped().await.unwrap();

    let service = super::service(&settings).shutdown(shutdown.clone()).start().await.unwrap();
    shutdown.begin();
    let error = check_health(&settings).await.unwrap_err();
    assert!(error.to_string().contains("shutting down"), "{error}");
    drop(service);
}
