//! Reviews over HTTP: starts them, shows how far they are, and streams their events.
//!
//! ```sh
//! code-review serve --root ~/src
//!
//! curl -H 'content-type: application/json' -d '{"path": "project"}' http://127.0.0.1:8080/reviews
//! curl http://127.0.0.1:8080/api/v1/runs/ID              how far it is
//! curl -N http://127.0.0.1:8080/api/v1/runs/ID/events    its events, until it ends
//! curl http://127.0.0.1:8080/reviews/ID/report           the report, as Markdown
//! ```
//!
//! The API of aios at `/api/v1` lists, pauses and cancels the reviews. A service that is stopped resumes
//! them when it is started again.

use std::{
    error::Error,
    num::NonZeroU16,
    path::{Component, Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use aios_agents::prelude::*;
use aios_core::Chain;
use aios_service::http::{ApiOptions, Shutdown, api, health, serve as serve_http};
use axum::{
    Json, Router,
    extract::{Path as Parameter, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpListener;

use crate::{
    agents,
    cli::Serve,
    own_files::OwnFiles,
    request::{Request, Tree},
    review::{DRAIN, builder},
    runs::{self, Before},
    scan,
    workflow::{self, Outcome},
};

/// The state of the routes.
struct Reviews {
    runtime: Arc<Runtime>,
    /// Only trees below it are reviewed.
    root: PathBuf,
    reports: PathBuf,
    concurrency: NonZeroU16,
}

type Shared = State<Arc<Reviews>>;

/// Serves until a signal arrives.
pub(crate) async fn serve(serve: &Serve) -> Result<ExitCode, Box<dyn Error>> {
    let shutdown = Shutdown::on_signals()?;
    let root = scan::root(&serve.root)?;
    std::fs::create_dir_all(&serve.reports)?;
    let reports = serve.reports.canonicalize()?;
    let broker = aios_broker::connect(&serve.broker).await?;
    let workers = builder().store(aios_store::connect(&serve.store).await?).broker(broker);
    let runtime = agents::host(workers, serve.concurrency, &serve.trace)?.start().await?;
    let runtime = Arc::new(runtime);
    let options = ApiOptions::new().with_shutdown(shutdown.clone());
    let reviews = Arc::new(Reviews {
        runtime: Arc::clone(&runtime),
        root,
        reports,
        concurrency: serve.concurrency,
    });
    let router = Router::new()
        .route("/reviews", post(start))
        .route("/reviews/{id}/report", get(report))
        .with_state(reviews)
        .nest("/api/v1", api(Arc::clone(&runtime), options))
        .merge(health(Arc::clone(&runtime), shutdown.clone()));
    let listener = TcpListener::bind(&serve.listen).await?;
    println!("http://{}", listener.local_addr()?);
    serve_http(listener, router, shutdown).await?;
    if let Some(runtime) = Arc::into_inner(runtime) {
        runtime.shutdown(DRAIN).await?;
    }
    println!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// The body of a start.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Start {
    /// The tree, below the root of the service.
    path: PathBuf,
    /// Whether to give an unfinished review up and start over.
    #[serde(default)]
    fresh: bool,
}

/// Starts a review, or finds the unfinished one of the same tree.
async fn start(State(reviews): Shared, Json(start): Json<Start>) -> Result<Response, Refused> {
    let tree = reviews.tree(&start.path)?;
    let store = reviews.runtime.store().ok_or_else(|| Refused::failed("no store"))?;
    let choice = runs::choose(&reviews.runtime, store, &tree, start.fresh).await;
    let choice = choice.map_err(|error| Refused::failed(&*error))?;
    if !matches!(choice.before, Before::Unfinished { .. }) {
        let concurrency = reviews.concurrency;
        let request = Request { tree, concurrency, python_agent: false };
        reviews.runtime.start(workflow::NAME, &request).id(&choice.run_id).await?;
    }
    let id = &choice.run_id;
    let run = format!("/api/v1/runs/{}", choice.run_id);
    let body = json!({
        "id": id, "run": run, "events": format!("{run}/events"), "report": format!("/reviews/{id}/report"),
    });
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, run)], Json(body)).into_response())
}

/// The report of a review, once it is complete.
async fn report(
    State(reviews): Shared,
    Parameter(id): Parameter<String>,
) -> Result<Response, Refused> {
    let run = reviews.runtime.handle(&id).await?.status().await?;
    let outcome = run.result.as_ref().and_then(|result| result.decode::<Outcome>().ok());
    let Some(outcome) = outcome.filter(|_| run.workflow == workflow::NAME) else {
        let status = run.status;
        return Err(Refused(StatusCode::CONFLICT, format!("the review {id} is {status}")));
    };
    let markdown =
        tokio::fs::read(&outcome.markdown).await.map_err(|error| Refused::failed(&error))?;
    Ok(([(header::CONTENT_TYPE, "text/markdown; charset=utf-8")], markdown).into_response())
}

impl Reviews {
    /// The tree at a path, which must be below the root.
    fn tree(&self, path: &Path) -> Result<Tree, Refused> {
        let outside = || {
            let message = format!("{} is not below the root of the service", path.display());
            Refused(StatusCode::FORBIDDEN, message)
        };
        // Before the file system is asked, so that nothing is learned about what is elsewhere.
        if !path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
            return Err(outside());
        }
        let root = scan::root(&self.root.join(path));
        let root =
            root.map_err(|error| Refused(StatusCode::BAD_REQUEST, Chain(&error).to_string()))?;
        if !root.starts_with(&self.root) {
            return Err(outside());
        }
        // Each tree has a folder for its reports.
        let own_files = OwnFiles::new(&self.reports, None);
        let name = Tree { root: root.clone(), own_files, model: None };
        let own_files = OwnFiles::new(&self.reports.join(name.run_prefix()), None);
        Ok(Tree { root, own_files, model: None })
    }
}

/// Why a request is refused.
struct Refused(StatusCode, String);

impl Refused {
    fn failed(reason: &(impl ToString + ?Sized)) -> Self {
        Self(StatusCode::INTERNAL_SERVER_ERROR, reason.to_string())
    }
}

impl From<RuntimeError> for Refused {
    fn from(error: RuntimeError) -> Self {
        let status = match error {
            RuntimeError::UnknownRun { .. } => StatusCode::NOT_FOUND,
            RuntimeError::InvalidRunId(_) => StatusCode::BAD_REQUEST,
            RuntimeError::RunExists { .. } => StatusCode::CONFLICT,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self(status, Chain(&error).to_string())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        (self.0, Json(json!({ "error": self.1 }))).into_response()
    }
}
