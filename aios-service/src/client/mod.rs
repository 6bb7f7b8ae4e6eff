//! A client of the [HTTP API](crate::http), for programs that talk to a service instead of a store and a
//! broker.
//!
//! ```no_run
//! use aios_service::client::{Client, ClientOptions, EventQuery};
//! use futures_util::StreamExt;
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let options = ClientOptions::new().with_token("eyJhbGciOiJSUzI1NiJ9");
//! let client = Client::new("https://aios.example.com/api/v1", options)?;
//! let run = client.start("welcome", &"Ada").id("welcome-ada").await?;
//! println!("{}", run.result::<String>().await?);
//!
//! let mut events = client.events(&EventQuery::new().with_pattern("workflows.*.completed"));
//! while let Some(event) = events.next().await {
//!     println!("{}", event?.position);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What to use when
//!
//! | to | use |
//! |---|---|
//! | start a run | [`Client::start`], [`Client::task`], [`Client::signal_with_start`] |
//! | act on a run, or wait for its result | [`Client::run`], which returns a [`RunHandle`] |
//! | list runs, tasks and agents | [`Client::runs`], [`Client::tasks`], [`Client::agents`] with a query |
//! | follow the log, a run or its output | [`Client::events`], [`RunHandle::events`], [`RunHandle::stream`] |
//! | create and change agents | [`Client::create_agent`], [`Client::replace_agent`] |
//! | handle events that were given up | [`Client::dead_letters`] |
//! | see and retire read models | [`Client::projections`], [`Client::projection`] |
//!
//! Calls that have options are builders: nothing is sent until they are awaited.
//!
//! # Guarantees
//!
//! - A request that may be sent again without a second effect is repeated after a failure of the
//!   connection, after 429, 502, 503 and 504, and while an earlier attempt is still being handled,
//!   with growing pauses that are at least `Retry-After`. Every `POST` carries an `Idempotency-Key`,
//!   the same one in every attempt.
//! - Starts, tasks, signals, forks, retries of runs and published events get their id before the first
//!   attempt, so that a repeated attempt finds what the first one has created.
//! - Changes of agents and the actions on dead letters are repeated only if an attempt certainly had no
//!   effect.
//! - [`EventStream`] reconnects after the last event that it has received, so that it returns every event
//!   once and in order.
//! - Every attempt has a timeout, and a stream that is silent for 45 s connects again.
//! - TLS is rustls with ring and the certificates of the operating system. No environment variable is
//!   read, redirects are not followed, and credentials are not printed.

mod api;
mod connection;
mod convert;
mod dead_letters;
mod error;
mod events;
mod managed;
mod messages;
mod options;
mod outputs;
mod projections;
mod query;
mod resources;
mod response;
mod run;
mod server_events;
mod start;
mod tasks;
mod tokens;

use std::sync::Arc;

use self::connection::Connection;
pub use self::{
    dead_letters::DeadLetters,
    error::{ClientError, Fault, ResultError},
    events::{EventStream, Publish},
    managed::{CreateAgent, VersionedAgent},
    options::ClientOptions,
    outputs::{OutputItem, OutputStream},
    projections::ProjectionHandle,
    query::{AgentQuery, EventQuery, PageQuery, RunQuery, TaskQuery},
    resources::{
        Agent, AgentType, Caller, DeadLetter, Engine, Event, Page, Projection, Run, Shard,
        SkippedEvent, Task, TaskResult, Workflow,
    },
    run::RunHandle,
    start::{SignalWithStart, StartRun, StartTask},
    tokens::TokenGrant,
};

/// A client of one service. Clones share their connections.
///
/// All methods that send a request are cancel safe; a request that was sent may still take effect.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
///
/// use aios_agents::prelude::*;
/// use aios_service::{
///     client::{Client, ClientOptions},
///     http::{ApiOptions, Shutdown, api, serve},
/// };
/// use axum::Router;
///
/// async fn welcome(_: WorkflowContext, name: String) -> Result<String, WorkflowError> {
///     Ok(format!("Welcome, {name}!"))
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let runtime = Runtime::builder()
///     .store(aios_store::connect("memory://").await?)
///     .broker(aios_broker::connect("memory://").await?)
///     .workflow("welcome", welcome)
///     .start()
///     .await?;
/// let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// let url = format!("http://{}/api/v1", listener.local_addr()?);
/// let router = Router::new().nest("/api/v1", api(Arc::new(runtime), ApiOptions::new()));
/// tokio::spawn(serve(listener, router, Shutdown::new()));
///
/// let client = Client::new(&url, ClientOptions::new())?;
/// let run = client.start("welcome", "Ada").id("welcome-ada").await?;
/// assert_eq!(run.result::<String>().await?, "Welcome, Ada!");
///
/// let error = client.run("welcome-bob").status().await.unwrap_err();
/// assert_eq!(error.code(), "RUN_NOT_FOUND");
/// assert!(error.request_id().is_some()); // finds the request in the log of the service
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    connection: Arc<Connection>,
}
