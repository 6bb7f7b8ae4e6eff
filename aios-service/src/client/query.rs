//! Which resources a list has.
//!
//! A query is a value that is turned into the parameters of a request. Conditions are joined by
//! "and". The service checks them: an invalid pattern or limit is `INVALID_REQUEST` there, not an
//! error here.

use aios_core::{
    event::Timestamp,
    store::{AgentStatus, RunStatus, TaskStatus},
};

/// Parameters of a query: names and texts.
pub(super) type Parameters = Vec<(&'static str, String)>;

/// The page of a list that is asked for.
///
/// # Examples
///
/// All runs, a page at a time:
///
/// ```no_run
/// use aios_service::client::{Client, PageQuery, RunQuery};
///
/// # async fn example(client: Client) -> Result<(), aios_service::client::ClientError> {
/// let mut page = client.runs(&RunQuery::new().with_page(PageQuery::new().with_limit(500))).await?;
/// loop {
///     for run in &page.items {
///         println!("{} {:?}", run.id, run.status);
///     }
///     let Some(next) = page.next else { break };
///     let query = PageQuery::new().with_limit(500).with_after(next);
///     page = client.runs(&RunQuery::new().with_page(query)).await?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageQuery {
    limit: Option<usize>,
    after: Option<String>,
}

impl PageQuery {
    /// Asks for the first page, with the number of items that the service chooses: 50.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the largest number of items, 1 to 1,000.
    #[must_use]
    pub fn with_limit(mut self, limit: usize) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Asks for the page after another one: [`Page::next`](super::Page::next) of that.
    #[must_use]
    pub fn with_after(mut self, after: impl Into<String>) -> Self {
        self.after = Some(after.into());
        self
    }

    /// The parameters of the request.
    pub(super) fn parameters(&self) -> Parameters {
        let limit = self.limit.map(|limit| ("limit", limit.to_string()));
        let after = self.after.clone().map(|after| ("after", after));
        limit.into_iter().chain(after).collect()
    }
}

/// The times of what is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Times {
    after: Option<Timestamp>,
    before: Option<Timestamp>,
}

impl Times {
    /// The parameters of the request.
    fn parameters(&self) -> Parameters {
        let after = self.after.map(|at| ("created_after", at.to_string()));
        let before = self.before.map(|at| ("created_before", at.to_string()));
        after.into_iter().chain(before).collect()
    }
}

/// The constructor and the page that every query has.
macro_rules! paged {
    ($($name:ident)+) => {
        $(impl $name {
            /// Asks for all of them.
            #[must_use]
            pub fn new() -> Self {
                Self::default()
            }

            /// Asks for one page; the first one unless set.
            #[must_use]
            pub fn with_page(mut self, page: PageQuery) -> Self {
                self.page = page;
                self
            }
        })+
    };
}

paged!(RunQuery TaskQuery AgentQuery);

/// Which runs a list has.
///
/// # Examples
///
/// ```
/// use aios_core::store::RunStatus;
/// use aios_service::client::{PageQuery, RunQuery};
///
/// let failed = RunQuery::new()
///     .with_workflow("deploy")
///     .with_statuses([RunStatus::Failed, RunStatus::Blocked])
///     .with_page(PageQuery::new().with_limit(50));
/// # drop(failed);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunQuery {
    statuses: Vec<RunStatus>,
    workflow: Option<String>,
    times: Times,
    include_deleted: bool,
    page: PageQuery,
}

impl RunQuery {
    /// Asks for runs in one of these statuses. None of them stands for all.
    #[must_use]
    pub fn with_statuses(mut self, statuses: impl IntoIterator<Item = RunStatus>) -> Self {
        self.statuses = statuses.into_iter().collect();
        self
    }

    /// Asks for runs of one workflow.
    #[must_use]
    pub fn with_workflow(mut self, workflow: impl Into<String>) -> Self {
        self.workflow = Some(workflow.into());
        self
    }

    /// Asks for runs that were created at this time or later. With a filter by time, they are in the
    /// order of time.
    #[must_use]
    pub fn with_created_after(mut self, at: Timestamp) -> Self {
        self.times.after = Some(at);
        self
    }

    /// Asks for runs that were created before this time.
    #[must_use]
    pub fn with_created_before(mut self, at: Timestamp) -> Self {
        self.times.before = Some(at);
        self
    }

    /// Asks for deleted runs too.
    #[must_use]
    pub fn with_deleted(mut self) -> Self {
        self.include_deleted = true;
        self
    }

    pub(super) fn parameters(&self) -> Parameters {
        let mut parameters = self.page.parameters();
        if !self.statuses.is_empty() {
            let statuses: Vec<_> = self.statuses.iter().map(|status| status.as_str()).collect();
            parameters.push(("status", statuses.join(",")));
        }
        parameters.extend(self.workflow.clone().map(|workflow| ("workflow", workflow)));
        parameters.extend(self.times.parameters());
        parameters.extend(deleted(self.include_deleted));
        parameters
    }
}

/// Which tasks a list has.
///
/// # Examples
///
/// Tasks of one agent that are not done:
///
/// ```
/// use aios_core::store::TaskStatus;
/// use aios_service::client::TaskQuery;
///
/// let open = TaskQuery::new()
///     .with_agent_type("researcher")
///     .with_agent("researcher-web")
///     .with_status(TaskStatus::Assigned);
/// # drop(open);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskQuery {
    status: Option<TaskStatus>,
    run_id: Option<String>,
    agent_type: Option<String>,
    agent_id: Option<String>,
    times: Times,
    include_deleted: bool,
    page: PageQuery,
}

impl TaskQuery {
    /// Asks for tasks in one status.
    #[must_use]
    pub fn with_status(mut self, status: TaskStatus) -> Self {
        self.status = Some(status);
        self
    }

    /// Asks for tasks of one run.
    #[must_use]
    pub fn with_run(mut self, run_id: impl Into<String>) -> Self {
        self.run_id = Some(run_id.into());
        self
    }

    /// Asks for tasks of agents of one type.
    #[must_use]
    pub fn with_agent_type(mut self, agent_type: impl Into<String>) -> Self {
        self.agent_type = Some(agent_type.into());
        self
    }

    /// Asks for tasks that were assigned to one agent.
    #[must_use]
    pub fn with_agent(mut self, agent_id: impl Into<String>) -> Self {
        self.agent_id = Some(agent_id.into());
        self
    }

    /// Asks for tasks that were created at this time or later. With a filter by time, they are in the
    /// order of time.
    #[must_use]
    pub fn with_created_after(mut self, at: Timestamp) -> Self {
        self.times.after = Some(at);
        self
    }

    /// Asks for tasks that were created before this time.
    #[must_use]
    pub fn with_created_before(mut self, at: Timestamp) -> Self {
        self.times.before = Some(at);
        self
    }

    /// Asks for deleted tasks too.
    #[must_use]
    pub fn with_deleted(mut self) -> Self {
        self.include_deleted = true;
        self
    }

    pub(super) fn parameters(&self) -> Parameters {
        let mut parameters = self.page.parameters();
        parameters.extend(self.status.map(|status| ("status", status.to_string())));
        parameters.extend(self.run_id.clone().map(|id| ("run_id", id)));
        parameters.extend(self.agent_type.clone().map(|name| ("agent_type", name)));
        parameters.extend(self.agent_id.clone().map(|id| ("agent_id", id)));
        parameters.extend(self.times.parameters());
        parameters.extend(deleted(self.include_deleted));
        parameters
    }
}

/// Which agents a list has.
///
/// # Examples
///
/// Agents that were deleted are listed with `deleted_at`:
///
/// ```no_run
/// use aios_service::client::{AgentQuery, Client, ClientError};
///
/// # async fn example(client: Client) -> Result<(), ClientError> {
/// let query = AgentQuery::new().with_agent_type("researcher").with_deleted();
/// for agent in client.agents(&query).await?.items {
///     println!("{} {} {:?}", agent.id, agent.name, agent.deleted_at);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentQuery {
    agent_type: Option<String>,
    status: Option<AgentStatus>,
    include_deleted: bool,
    page: PageQuery,
}

impl AgentQuery {
    /// Asks for agents of one type.
    #[must_use]
    pub fn with_agent_type(mut self, agent_type: impl Into<String>) -> Self {
        self.agent_type = Some(agent_type.into());
        self
    }

    /// Asks for agents in one status.
    #[must_use]
    pub fn with_status(mut self, status: AgentStatus) -> Self {
        self.status = Some(status);
        self
    }

    /// Asks for deregistered agents too.
    #[must_use]
    pub fn with_deleted(mut self) -> Self {
        self.include_deleted = true;
        self
    }

    pub(super) fn parameters(&self) -> Parameters {
        let mut parameters = self.page.parameters();
        parameters.extend(self.agent_type.clone().map(|name| ("agent_type", name)));
        parameters.extend(self.status.map(|status| ("status", status.to_string())));
        parameters.extend(deleted(self.include_deleted));
        parameters
    }
}

/// Which events of the log are asked for.
///
/// # Examples
///
/// The events of one hour, for [`Client::log`](super::Client::log):
///
/// ```
/// use std::time::Duration;
///
/// use aios_core::event::Timestamp;
/// use aios_service::client::EventQuery;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let noon: Timestamp = "2026-03-01T12:00:00Z".parse()?;
/// let hour = EventQuery::new()
///     .with_pattern("workflows.#")
///     .with_created_after(noon)
///     .with_created_before(noon + Duration::from_secs(3600));
/// # drop(hour);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventQuery {
    pattern: Option<String>,
    after: Option<u64>,
    times: Times,
}

impl EventQuery {
    /// Asks for all events: a page begins with the oldest one, and a stream with the next one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks for events whose type matches: `*` stands for one segment, `#` for any number.
    #[must_use]
    pub fn with_pattern(mut self, pattern: impl Into<String>) -> Self {
        self.pattern = Some(pattern.into());
        self
    }

    /// Asks for events of this time or later. Only for pages of the log; a stream ignores it.
    #[must_use]
    pub fn with_created_after(mut self, at: Timestamp) -> Self {
        self.times.after = Some(at);
        self
    }

    /// Asks for events before this time. Only for pages of the log; a stream ignores it.
    #[must_use]
    pub fn with_created_before(mut self, at: Timestamp) -> Self {
        self.times.before = Some(at);
        self
    }

    /// Asks for events with a position above this one.
    #[must_use]
    pub fn with_after(mut self, position: u64) -> Self {
        self.after = Some(position);
        self
    }

    /// The position after which events are asked for.
    pub(super) fn after(&self) -> Option<u64> {
        self.after
    }

    /// The parameters of the times.
    pub(super) fn times(&self) -> Parameters {
        self.times.parameters()
    }

    /// The parameters of a stream without the position.
    pub(super) fn filter(&self) -> Parameters {
        self.pattern.clone().map(|pattern| ("pattern", pattern)).into_iter().collect()
    }
}

/// The parameter that includes deleted resources.
fn deleted(include: bool) -> Option<(&'static str, String)> {
    include.then(|| ("include_deleted", "true".to_owned()))
}
