//! A service in this process, on a store, which only this process can reach.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use aios_agents::{
    Runtime, RuntimeBuilder,
    workflow::{Workflow, WorkflowContext, WorkflowError},
};
use aios_core::{
    BoxFuture,
    agent::Name,
    clock::{Clock, SystemClock},
    event::{EventId, Payload},
    store::{PageRequest, Store},
};
use aios_service::{
    auth::{ApiKey, ApiKeyHash, ApiKeys, Permissions},
    client::{Client, ClientOptions},
    config::Settings,
    http::{ApiOptions, Shutdown, api, serve},
};
use axum::Router;
use tokio::{net::TcpListener, task::JoinHandle};

use super::{Needs, open_store};
use crate::error::CliError;

/// The subject of the requests in the audit events of the store.
pub(crate) const SUBJECT: &str = "aios-cli";
/// The workflow that every runtime has.
const BUILT_IN: &str = "single_task";
/// How long open requests may take to end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The service.
pub(super) struct Local {
    store: Arc<dyn Store>,
    runtime: Arc<Runtime>,
    shutdown: Shutdown,
    serving: JoinHandle<std::io::Result<()>>,
    address: SocketAddr,
    key: String,
}

impl Local {
    pub(super) async fn open(
        url: &str,
        settings: &Settings,
        needs: Needs,
    ) -> Result<Self, CliError> {
        let store = open_store(url).await?.store();
        let broker = aios_broker::connect(&broker_url(settings, needs)?).await?;
        let builder = Runtime::builder().source(SUBJECT).client_only().broker(broker);
        let builder = with_workflows(builder, &*store).await?.store(Arc::clone(&store));
        let runtime = Arc::new(builder.start().await?);
        let key = format!("{}{}", EventId::generate(), EventId::generate());
        let permissions = Permissions::parse(["*"]).map_err(|error| {
            CliError::argument("the permissions of the program", error.to_string())
        })?;
        let caller = ApiKey::new(ApiKeyHash::of(&key), SUBJECT).with_permissions(permissions);
        let shutdown = Shutdown::new();
        let options = ApiOptions::new()
            .with_authenticator(ApiKeys::new([caller]))
            // The only caller is this program. The store limits the events.
            .with_max_body_bytes(usize::MAX)
            .with_shutdown(shutdown.clone());
        let router = Router::new().nest("/api/v1", api(Arc::clone(&runtime), options));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let serving = tokio::spawn(serve(listener, router, shutdown.clone()));
        Ok(Self { store, runtime, shutdown, serving, address, key })
    }

    pub(super) fn client(&self) -> Result<Client, CliError> {
        let options = ClientOptions::new().with_api_key(&self.key);
        Ok(Client::new(&format!("http://{}/api/v1", self.address), options)?)
    }

    pub(super) fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// Ends the service and closes the store.
    pub(super) async fn close(self) {
        self.shutdown.begin();
        tokio::select! {
            biased;
            _ = self.serving => {}
            () = SystemClock.sleep(CLOSE_TIMEOUT) => {}
        }
        if let Some(runtime) = Arc::into_inner(self.runtime) {
            // A runtime without agents and without an engine has nothing that could fail to end.
            let _ = runtime.shutdown(CLOSE_TIMEOUT).await;
        }
        // Everything that a command stored has been answered.
        let _ = self.store.close().await;
    }
}

/// The broker, or one in memory for commands that use none.
fn broker_url(settings: &Settings, needs: Needs) -> Result<String, CliError> {
    let url = settings.broker().url.as_ref().map(|url| url.expose().to_owned());
    match (needs, url) {
        (Needs::Store, _) => Ok("memory:".to_owned()),
        (Needs::Broker, Some(url)) if !url.starts_with("memory:") => Ok(url),
        (Needs::Broker, _) => {
            let reason = "missing; dead letters are kept by the broker of the agents: give --broker or \
                          set AIOS_BROKER_URL, or use a service with --url";
            Err(CliError::argument("--broker", reason))
        }
    }
}

/// Adds all workflows that a process has registered, so that their runs can be started here. They
/// are executed by the engines of other processes.
async fn with_workflows(
    mut builder: RuntimeBuilder,
    store: &dyn Store,
) -> Result<RuntimeBuilder, CliError> {
    let mut next = Some(PageRequest::default());
    while let Some(request) = next {
        let page = store.workflows(&request).await?;
        for row in page.rows {
            if let Ok(name) = row.name.parse::<Name>()
                && name.as_str() != BUILT_IN
            {
                builder = builder.workflow_dyn(Arc::new(Elsewhere { name, version: row.version }));
            }
        }
        next = page.next;
    }
    Ok(builder)
}

/// A workflow whose code is in another process.
struct Elsewhere {
    name: Name,
    version: u32,
}

impl Workflow for Elsewhere {
    fn name(&self) -> &Name {
        &self.name
    }

    fn version(&self) -> u32 {
        self.version
    }

    fn run(
        &self,
        _: WorkflowContext,
        _: Payload,
    ) -> BoxFuture<'static, Result<Payload, WorkflowError>> {
        // A runtime without an engine executes nothing.
        Box::pin(std::future::pending())
    }
}
