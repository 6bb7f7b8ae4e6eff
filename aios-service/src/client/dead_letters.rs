//! Dead letters over the API. Redriving and purging are not repeated after a failure: a second
//! attempt would act on letters that have arrived since.

use aios_core::broker::{Address, DeadLetterFilter};
use serde_json::{Value, json};

use super::{
    Client, ClientError, DeadLetter, Page, PageQuery,
    resources::{Handled, Letter},
};

/// The dead letters of a group or a mailbox.
///
/// # Examples
///
/// ```no_run
/// use aios_core::broker::{DeadLetterFilter, Group};
/// use aios_service::client::{Client, PageQuery};
///
/// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
/// let letters = client.dead_letters(Group::new("agents.backend")?);
/// for letter in letters.list(&PageQuery::new()).await?.items {
///     println!("{} after {} attempts: {}", letter.event_id, letter.attempts, letter.reason);
/// }
/// letters.redrive(&DeadLetterFilter::All).await?; // once the cause is removed
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct DeadLetters {
    client: Client,
    /// Part of the path.
    kind: &'static str,
    /// Of the group or mailbox.
    name: String,
}

impl DeadLetters {
    /// The letters of an address. Sends nothing.
    pub(super) fn new(client: Client, address: &Address) -> Self {
        let (kind, name) = match address {
            Address::Group(group) => ("groups", group.as_str().to_owned()),
            Address::Mailbox(mailbox) => ("mailboxes", mailbox.as_str().to_owned()),
        };
        Self { client, kind, name }
    }

    /// A page of the dead letters, the oldest first.
    ///
    /// # Errors
    ///
    /// [`ClientError::Service`] with `UNKNOWN_ADDRESS` if there is no such group or mailbox, and with
    /// `INVALID_CURSOR` if the last letter of the page before has been redriven or purged.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn list(&self, page: &PageQuery) -> Result<Page<DeadLetter>, ClientError> {
        let connection = &self.client.connection;
        let request = connection.get(&["dead-letters", self.kind, &self.name])?;
        let found = connection.page::<Letter>(&request.with_query(page.parameters())).await?;
        Ok(found.map(DeadLetter::from))
    }

    /// Sends dead letters back to where they came from. Returns how many.
    ///
    /// The events get a fresh count of attempts. Letters that arrive during the call may be left
    /// out.
    ///
    /// # Examples
    ///
    /// Only the letters with one cause:
    ///
    /// ```no_run
    /// use aios_core::broker::DeadLetterFilter;
    /// use aios_service::client::{DeadLetters, PageQuery};
    ///
    /// # async fn example(letters: DeadLetters) -> Result<(), Box<dyn std::error::Error>> {
    /// let page = letters.list(&PageQuery::new().with_limit(1_000)).await?;
    /// let timed_out = page.items.into_iter();
    /// let ids = timed_out.filter(|letter| letter.reason.contains("timeout"));
    /// let ids = ids.map(|letter| letter.event_id.parse()).collect::<Result<Vec<_>, _>>()?;
    /// println!("{} of them", letters.redrive(&DeadLetterFilter::Ids(ids)).await?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ClientError::Service`] with `UNKNOWN_ADDRESS` if there is no such group or mailbox.
    ///
    /// # Cancel safety
    ///
    /// A cancelled call may have sent letters back. None is lost.
    pub async fn redrive(&self, filter: &DeadLetterFilter) -> Result<u64, ClientError> {
        self.act("redrive", filter).await
    }

    /// Deletes dead letters. Returns how many.
    ///
    /// # Errors
    ///
    /// [`ClientError::Service`] with `UNKNOWN_ADDRESS` if there is no such group or mailbox.
    ///
    /// # Cancel safety
    ///
    /// A cancelled call may have deleted letters.
    pub async fn purge(&self, filter: &DeadLetterFilter) -> Result<u64, ClientError> {
        self.act("purge", filter).await
    }

    /// Acts on the selected letters, once.
    async fn act(&self, action: &str, filter: &DeadLetterFilter) -> Result<u64, ClientError> {
        let path = ["dead-letters", self.kind, &self.name, "actions", action];
        let request = self.client.connection.post(&path, &selection(filter))?.once();
        Ok(self.client.connection.one::<Handled>(&request).await?.count)
    }
}

/// The body of an action.
fn selection(filter: &DeadLetterFilter) -> Value {
    match filter {
        DeadLetterFilter::All => json!({ "all": true }),
        DeadLetterFilter::Ids(ids) => {
            let ids: Vec<_> = ids.iter().map(ToString::to_string).collect();
            json!({ "ids": ids })
        }
    }
}
