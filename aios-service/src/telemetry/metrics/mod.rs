//! Metrics as OpenMetrics text and by OTLP, from everything that is reported through the `metrics` facade.

mod catalog;
mod histogram;
mod http;
#[cfg(feature = "otlp")]
mod otlp;
mod process;
mod recorder;
mod text;

use std::{fmt, sync::Arc};

use aios_agents::Runtime;
use aios_core::broker::{BrokerExt, Health};
use axum::{
    Router,
    http::header,
    middleware::from_fn,
    response::{IntoResponse, Response},
    routing::get,
};

#[cfg(feature = "otlp")]
#[cfg_attr(docsrs, doc(cfg(feature = "otlp")))]
pub use self::otlp::MetricsExporter;
use self::recorder::Series;

/// The type of OpenMetrics text.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics of a process: a recorder of the `metrics` facade. Clones share their values.
///
/// ```
/// use aios_service::telemetry::Metrics;
///
/// let metrics = Metrics::new();
/// let is_installed = metrics.install(); // false if the program has a recorder of its own
/// metrics::counter!("shop_orders_total", "kind" => "tea").increment(1);
/// assert!(!is_installed || metrics.render().contains("shop_orders_total{kind=\"tea\"} 1\n"));
/// ```
///
/// A metric has at most 256 combinations of the values of its labels. Further combinations are counted
/// together, with `other` as the value of every label. Series are never removed. Without a recorder,
/// the calls of the facade do nothing.
///
/// Each bucket of a histogram keeps the last value that was recorded in a sampled trace, and the id of the
/// trace, as its exemplar: see [`TraceParent::in_scope`](aios_agents::trace::TraceParent::in_scope).
#[derive(Clone, Default)]
pub struct Metrics(Arc<Series>);

impl Metrics {
    /// Creates metrics without values.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Installs this as the recorder of the process. Returns false if another recorder is installed: it
    /// is not replaced, and these metrics get no values.
    #[must_use]
    pub fn install(&self) -> bool {
        metrics::set_global_recorder(self.clone()).is_ok()
    }

    /// All values as OpenMetrics text.
    ///
    /// The text ends with `# EOF`, as OpenMetrics requires, so it cannot be joined with that of
    /// another recorder.
    #[must_use]
    pub fn render(&self) -> String {
        text::render(&self.0)
    }

    /// The route `/metrics`, which needs no credentials. Each request also reads the state of the
    /// process, of the runtime and of its connection to the broker.
    ///
    /// # Examples
    ///
    /// Metrics on a port that is not reachable from outside:
    ///
    /// ```no_run
    /// use std::sync::Arc;
    ///
    /// use aios_agents::Runtime;
    /// use aios_service::{http::{Shutdown, serve}, telemetry::Metrics};
    /// use tokio::net::TcpListener;
    ///
    /// # async fn example(runtime: Arc<Runtime>, shutdown: Shutdown) -> std::io::Result<()> {
    /// let metrics = Metrics::new();
    /// metrics.install(); // before the first value is recorded
    /// let listener = TcpListener::bind("127.0.0.1:9090").await?;
    /// tokio::spawn(serve(listener, metrics.routes(runtime), shutdown));
    /// # Ok(())
    /// # }
    /// ```
    pub fn routes(&self, runtime: Arc<Runtime>) -> Router {
        let metrics = self.clone();
        let scrape = move || {
            let metrics = metrics.clone();
            let runtime = Arc::clone(&runtime);
            async move { metrics.scrape(&runtime) }
        };
        Router::new().route("/metrics", get(scrape))
    }

    /// Answers a scrape with the values of this moment.
    fn scrape(&self, runtime: &Runtime) -> Response {
        self.observe(Some(runtime));
        let headers =
            [(header::CONTENT_TYPE, OPEN_METRICS), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
        (headers, self.render()).into_response()
    }

    /// Reads the state of the process and of the runtime. That of a runtime that has ended stays.
    fn observe(&self, runtime: Option<&Runtime>) {
        metrics::with_local_recorder(self, || {
            if let Some(runtime) = runtime {
                let is_connected = matches!(runtime.broker().health_now(), Health::Connected);
                metrics::gauge!("aios_broker_connected").set(f64::from(u8::from(is_connected)));
                let is_running = runtime.failure().is_none();
                metrics::gauge!("aios_runtime_running").set(f64::from(u8::from(is_running)));
            }
            process::observe();
        });
    }
}

/// Measures the requests to a router, as a [`Service`](crate::Service) does: how many there are, how long they
/// take and how many run, by method, route and status.
///
/// Layers that are added to the router later are not measured.
pub fn measure_requests(router: Router) -> Router {
    router.layer(from_fn(http::measure))
}

impl fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Metrics").finish_non_exhaustive()
    }
}
