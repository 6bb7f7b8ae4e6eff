//! Projections over the API.

use serde_json::{Map, Value, json};

use super::{Client, ClientError, Page, PageQuery, Projection, SkippedEvent};

/// A projection of the service, whichever process runs it.
///
/// # Examples
///
/// After a deployment of a projection that can apply what it has skipped:
///
/// ```no_run
/// use aios_service::client::{Client, ClientError, PageQuery};
///
/// # async fn example(client: Client) -> Result<(), ClientError> {
/// let orders = client.projection("orders");
/// for event in orders.dead_letters(&PageQuery::new()).await?.items {
///     println!("{}: {}", event.position, event.failure);
///     orders.redrive(event.position).await?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ProjectionHandle {
    client: Client,
    name: String,
}

impl ProjectionHandle {
    /// A handle. Sends nothing.
    pub(super) fn new(client: Client, name: String) -> Self {
        Self { client, name }
    }

    /// Its position, and whether a process runs it.
    ///
    /// # Errors
    ///
    /// [`ClientError::Service`] with `PROJECTION_NOT_FOUND` if it has no saved position.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn status(&self) -> Result<Projection, ClientError> {
        let connection = &self.client.connection;
        connection.one(&connection.get(&["projections", &self.name])?).await
    }

    /// Deletes the saved position of a projection that no process runs, and returns the projection as it was.
    /// Retention no longer waits for it. One of the same name that is started later begins again.
    ///
    /// # Errors
    ///
    /// [`ClientError::Service`] with `PROJECTION_NOT_FOUND` if it has no saved position, and with
    /// `PROJECTION_RUNNING` if a process runs it.
    ///
    /// # Cancel safety
    ///
    /// A cancelled call may or may not have retired the projection.
    pub async fn retire(&self) -> Result<Projection, ClientError> {
        self.act("retire", &Value::Object(Map::new())).await
    }

    /// A page of the events that the projection could not apply and has skipped, in the order of the log.
    /// [`Page::next`] is the position after which the next page begins.
    ///
    /// # Errors
    ///
    /// See [`status`](Self::status).
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn dead_letters(&self, page: &PageQuery) -> Result<Page<SkippedEvent>, ClientError> {
        let connection = &self.client.connection;
        let request = connection.get(&["projections", &self.name, "dead-letters"])?;
        connection.page(&request.with_query(page.parameters())).await
    }

    /// Requests that the projection applies a skipped event again. If that fails, the event stays a dead letter.
    ///
    /// # Errors
    ///
    /// [`ClientError::Service`] with `DEAD_LETTER_NOT_FOUND` if the event at that position is not a dead letter.
    ///
    /// # Cancel safety
    ///
    /// A cancelled call may or may not have recorded the request.
    pub async fn redrive(&self, position: u64) -> Result<Projection, ClientError> {
        self.act("redrive", &json!({ "position": position })).await
    }

    async fn act(&self, action: &str, body: &Value) -> Result<Projection, ClientError> {
        let connection = &self.client.connection;
        let path = ["projections", &self.name, "actions", action];
        connection.one(&connection.post(&path, body)?).await
    }
}
