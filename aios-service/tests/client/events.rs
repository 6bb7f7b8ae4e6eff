//! Event streams, with connections that are cut in the middle.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use aios_core::{
    BoxFuture,
    clock::{Clock, SystemClock},
    event::Timestamp,
    retry::RetryPolicy,
};
use aios_service::{
    client::{Client, ClientOptions, EventQuery},
    http::{ApiOptions, Shutdown},
};
use futures_util::StreamExt;

use super::server::{Proxy, Server, client, options};

/// Bytes of the head of an answer, which every cut connection lets through.
const HEAD: usize = 450;

#[tokio::test(flavor = "multi_thread")]
async fn should_follow_the_log_without_a_gap_or_a_repeat_wherever_connections_are_cut() {
    let server = Server::start().await;
    for number in 0..10 {
        let run = server.client().start("welcome", &"Ada").id(format!("r{number}")).await;
        run.unwrap().result::<String>().await.unwrap();
    }
    let head = server.head().await;
    // Cuts within lines, between them and between messages.
    let proxy = Proxy::start(server.address, |number| HEAD + 331 * (1 + number % 7)).await;
    let mut events = client(proxy.address).events(&EventQuery::new().with_after(0));
    let mut positions = Vec::new();
    while positions.last() != Some(&head) {
        positions.push(events.next().await.unwrap().unwrap().position);
    }
    assert_eq!(positions, (1..=head).collect::<Vec<_>>());
    assert!(proxy.connections() > 5, "{} connections", proxy.connections());
}

#[tokio::test(flavor = "multi_thread")]
async fn should_miss_no_event_if_the_first_connection_is_cut_before_any() {
    let server = Server::start().await;
    let run = server.client().start("welcome", &"Ada").id("before").await.unwrap();
    run.result::<String>().await.unwrap();
    let head = server.head().await;
    // The first connection ends after the message that tells where the stream begins.
    let proxy = Proxy::start(server.address, |number| match number {
        0 => HEAD,
        _ => usize::MAX,
    })
    .await;
    let mut events = client(proxy.address).events(&EventQuery::new());
    assert_eq!(events.begin().await.unwrap(), head);
    let run = server.client().start("welcome", &"Ada").id("after").await.unwrap();
    run.result::<String>().await.unwrap();
    let first = events.next().await.unwrap().unwrap();
    // The log has the audit event of the start before the run.
    let is_request = first.stream.as_str().starts_with("system/audit/");
    assert_eq!((first.position, is_request), (head + 1, true), "{}", first.stream);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_follow_a_run_to_its_end_over_cut_connections() {
    let server = Server::start().await;
    let proxy = Proxy::start(server.address, |number| HEAD + 500 * (1 + number % 3)).await;
    let run = server.client().start("approval", &1).id("r1").await.unwrap();
    let events = client(proxy.address).run("r1").events(0).into_stream();
    let following = events.map(|event| event.unwrap()).collect::<Vec<_>>();
    let (followed, ()) = tokio::join!(following, async {
        run.signal("approval", &"yes").await.unwrap();
    });
    let versions: Vec<_> = followed.iter().map(|recorded| recorded.version).collect();
    assert_eq!(versions, (1..=u64::try_from(versions.len()).unwrap()).collect::<Vec<_>>());
    let last = followed.last().unwrap();
    assert_eq!(last.event.event_type.as_str(), "workflows.approval.completed");
}

#[tokio::test(flavor = "multi_thread")]
async fn should_send_only_events_that_match_and_continue_after_the_end_of_a_stream() {
    let options = ApiOptions::new().with_stream_lifetime(Duration::from_millis(200));
    let server = Server::with(options).await;
    let query = EventQuery::new().with_pattern("workflows.*.completed").with_after(0);
    let mut events = server.client().events(&query);
    for number in 0..5 {
        let id = format!("r{number}");
        server.client().start("welcome", &"Ada").id(&id).await.unwrap();
        let event = events.next().await.unwrap().unwrap();
        assert_eq!(event.stream.as_str(), format!("runs/{id}"));
        // Longer than a stream lives.
        SystemClock.sleep(Duration::from_millis(250)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_report_a_service_that_is_away_and_continue_when_it_is_back() {
    let server = Server::start().await;
    let gone = super::server::listen(axum::Router::new(), Shutdown::new()).await;
    let mut events = client(gone).run("r1").events(0);
    let error = events.next().await.unwrap().unwrap_err();
    assert_eq!(error.code(), "INVALID_RESPONSE", "{error}");
    assert!(events.next().await.is_none(), "nothing comes after a fault that stays");

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut events = client(address).events(&EventQuery::new().with_after(0));
    let error = events.next().await.unwrap().unwrap_err();
    assert_eq!(error.code(), "SERVICE_UNREACHABLE");
    assert!(error.is_retryable());
    server.client().start("welcome", &"Ada").id("r1").await.unwrap();
    let listener = tokio::net::TcpListener::bind(address).await.unwrap();
    let router = axum::Router::new().nest(
        "/api/v1",
        aios_service::http::api(server.service.runtime.clone(), ApiOptions::new()),
    );
    tokio::spawn(aios_service::http::serve(listener, router, Shutdown::new()));
    assert_eq!(events.next().await.unwrap().unwrap().position, 1);
}

/// A server that answers each request for a stream with this text.
async fn streaming(text: &'static str) -> std::net::SocketAddr {
    let router =
        axum::Router::new().fallback(async move || ([("content-type", "text/event-stream")], text));
    super::server::listen(router, Shutdown::new()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn should_report_the_failure_of_a_stream() {
    let text = "id: 4\n\nevent: failure\ndata: {\"code\":\"INVALID_ROW\",\"message\":\"m\"}\n\n";
    let client = client(streaming(text).await);
    let mut events = client.events(&EventQuery::new().with_after(4));
    let error = events.next().await.unwrap().unwrap_err();
    assert_eq!((error.code(), error.is_retryable()), ("INVALID_ROW", false), "{error:?}");
    assert!(events.next().await.is_none());
    let mut items = client.run("r1").stream("s", 0);
    assert_eq!(items.next().await.unwrap().unwrap_err().code(), "INVALID_ROW");
    assert!(items.next().await.is_none());
}

/// Waits for nothing, and keeps how long it should have waited.
#[derive(Clone, Debug, Default)]
struct Pauses(Arc<Mutex<Vec<Duration>>>);

impl Clock for Pauses {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH
    }

    fn elapsed(&self) -> Duration {
        Duration::ZERO
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        // Pauses are short; limits of requests and streams are long.
        if duration > Duration::from_millis(10) {
            return Box::pin(std::future::pending());
        }
        self.0.lock().unwrap().push(duration);
        Box::pin(tokio::task::yield_now())
    }

    fn sleep_until(&self, _: Timestamp) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn should_connect_less_often_to_streams_without_events() {
    let address = streaming("id: 4\n\n").await;
    let (pauses, first) = (Pauses::default(), Duration::from_millis(1));
    let retry = RetryPolicy::new().with_delays(first, first * 8).with_jitter(0.0);
    let options = options().with_retry(retry).with_clock(Arc::new(pauses.clone()));
    let client = Client::new(&format!("http://{address}"), options).unwrap();
    let following = tokio::spawn(async move { client.events(&EventQuery::new()).next().await });
    while pauses.0.lock().unwrap().len() < 5 {
        tokio::task::yield_now().await;
    }
    following.abort();
    let expected = [1, 2, 4, 8, 8].map(Duration::from_millis);
    assert_eq!(pauses.0.lock().unwrap()[..5], expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn should_end_a_stream_of_a_run_that_does_not_exist() {
    let server = Server::start().await;
    let mut events = server.client().run("nothing").events(0);
    let error = events.next().await.unwrap().unwrap_err();
    assert_eq!((error.code(), error.request_id().is_some()), ("RUN_NOT_FOUND", true));
    assert!(events.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn should_connect_again_after_the_shutdown_of_one_of_two_services() {
    let server = Server::start().await;
    let mut events = server.client().events(&EventQuery::new().with_after(0));
    server.client().start("welcome", &"Ada").id("r1").await.unwrap();
    assert_eq!(events.next().await.unwrap().unwrap().position, 1);
    server.shutdown.begin();
    // No other service listens at this address: the policy ends the attempts.
    let ended = loop {
        match events.next().await.unwrap() {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(ended.code(), "SERVICE_UNREACHABLE");
    assert!(events.position() >= Some(1));
    let never: ClientOptions = options().with_retry(RetryPolicy::never());
    let client = Client::new(&format!("http://{}/api/v1", server.address), never).unwrap();
    assert_eq!(client.me().await.unwrap_err().code(), "SERVICE_UNREACHABLE");
}
