//! The sums of a subject in a window of time, as a stream of events in the store.
//!
//! | event | effect on the sums |
//! |---|---|
//! | `llm.subject.reserved` | amounts are set aside under a key |
//! | `llm.subject.settled` | the amounts under a key are replaced by the real ones |
//! | `llm.subject.raised` | the limits of the window change |
//!
//! A reservation is checked against the sums at a version of the stream and appended with that
//! version, so two runs can't both take the last part of a budget. One that loses reads what came
//! between, and checks again. Settlements need no check and are appended to any version. The ids of
//! events derive from keys, so a step that is repeated after a crash changes nothing.
//!
//! A run that is interrupted while it reserves settles the key, whether or not it has reserved. A
//! reservation under a key that was settled before is refused, for example that of a process which was
//! frozen in the meantime.
//!
//! A process remembers the sums that it has read, and reads only what is new. A reservation
//! that is never settled stays in the sums of its window.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use aios_core::{
    agent::TaskError,
    catalog::codes,
    event::{Event, EventError, EventId, EventType, Timestamp},
    failure::Failure,
    store::{Append, EventStoreExt, Expected, MAX_PAGE, Store, StoreError, StreamId},
};
use hashlink::LruCache;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use super::{Exceeded, Limits, Scope, Spent};

/// Appends that may lose against those of other runs before the step is repeated later.
const MAX_CONFLICTS: usize = 64;
/// Windows whose sums a process remembers.
const REMEMBERED: usize = 1024;

/// Limits of all runs of a subject together, in a window of time: of a customer in a day, say.
///
/// The subject is that of the [`Prompt`](crate::Prompt::with_subject), and agents that a run calls
/// have the same one. One that has no budget for subjects itself is charged when it has ended, by the run
/// that called it. Windows follow each other without gaps from 1970 on; a request belongs to the
/// window in which it is reserved. A fork is charged for what it requests itself; a request with which it
/// begins belongs to the window in which the run that it was forked from reserved it. All agents with
/// the same store, subject and window share the sums.
///
/// Each request and each batch of tool calls is reserved and settled in a stream of the log, which
/// takes two commits more.
///
/// # Examples
///
/// Each customer may spend a dollar a day, over all runs:
///
/// ```
/// use std::time::Duration;
///
/// use aios_agents::prelude::*;
/// use aios_llm::{
///     LlmAgent, ModelResponse, Prompt, RuntimeBuilderExt,
///     budget::{Budget, Cost, Limits, Price, PriceTable, SubjectBudget},
///     model::Usage,
///     testing::ScriptedModel,
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// const DAY: Duration = Duration::from_secs(86_400);
///
/// let store = aios_store::connect("memory://").await?;
/// let limits = Limits { cost: Some(Cost::dollars(1.0)), ..Limits::default() };
/// let customers = SubjectBudget::new(store.clone(), DAY, limits);
/// let prices = PriceTable::new().with_price("test:scripted", Price::per_million_dollars(3.0, 15.0));
///
/// let answer = ModelResponse::text("It is open until six.").with_usage(Usage::new(1_000, 200));
/// let agent = LlmAgent::new(ScriptedModel::new([answer]))
///     .max_output_tokens(1_000)
///     .budget(Budget::new().with_prices(prices))
///     .subject_budget(customers.clone());
/// let runtime = Runtime::builder()
///     .store(store)
///     .broker(aios_broker::connect("memory://").await?)
///     .llm_agent("clerk", agent)?
///     .start()
///     .await?;
/// let prompt = Prompt::new("When do you close?").with_subject("customer-7");
/// runtime.start("clerk", &prompt).await?.result::<String>().await?;
/// let spent = customers.spent("customer-7", Timestamp::now()).await?;
/// assert_eq!(spent.cost, Cost::dollars(0.006));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct SubjectBudget {
    /// Where the streams are.
    store: Arc<dyn Store>,
    /// The length of a window.
    pub(crate) window: Duration,
    /// Of each subject in each window, unless they were raised.
    limits: Limits,
    /// Sums that this process has read, shared by clones.
    known: Arc<Mutex<LruCache<StreamId, Ledger>>>,
}

/// The sums of a window, up to a version of its stream.
#[derive(Clone, Debug, Default)]
struct Ledger {
    /// The version of the stream up to which events are included.
    version: u64,
    /// The sum of everything that was settled.
    settled: Spent,
    /// Reservations that were not settled, by key.
    open: BTreeMap<String, Spent>,
    /// Keys that were settled before they reserved anything. They never will.
    given_up: BTreeSet<String>,
    /// Limits that were raised in this window; unset ones are those of the budget.
    raised: Limits,
}

/// A reservation in the stream of a window.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Held {
    /// The stream of the window in which it was reserved. It is settled there, even in a later
    /// window.
    stream: String,
    /// The key of the reservation.
    key: String,
    /// The sum of the window with this reservation.
    pub(crate) sum: Spent,
    /// The limits that were raised in the window.
    #[serde(default, skip_serializing_if = "is_unset")]
    pub(crate) raised: Limits,
    /// The amounts that are reserved, if they are less than wanted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) granted: Option<Spent>,
}

/// For `skip_serializing_if`.
fn is_unset(limits: &Limits) -> bool {
    *limits == Limits::default()
}

/// The answer to a reservation.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// The amounts are reserved.
    Held(Held),
    /// A limit does not allow the least amounts.
    Exceeded(Exceeded),
}

/// The data of a reservation or settlement.
#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    /// The name of the subject, which the name of the stream only has as a hash.
    subject: String,
    /// Connects a settlement with its reservation.
    key: String,
    /// Reserved, or real.
    amounts: Spent,
}

/// The data of an event that raises limits.
#[derive(Debug, Serialize, Deserialize)]
struct Raised {
    /// Only those that change are set.
    limits: Limits,
}

impl SubjectBudget {
    /// Limits of each subject in windows of this length, of 1 s to 100 years. The sums are in the
    /// log of the store, which usually is that of the runtime. Limits of wall time and depth have no
    /// effect.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, window: Duration, limits: Limits) -> Self {
        let known = Arc::new(Mutex::new(LruCache::new(REMEMBERED)));
        Self { store, window, limits, known }
    }

    /// The sum of a subject in the window that a time belongs to: what is settled and what is
    /// reserved.
    ///
    /// # Errors
    ///
    /// Errors of the store.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    pub async fn spent(&self, subject: &str, at: Timestamp) -> Result<Spent, StoreError> {
        Ok(self.ledger(&self.stream(subject, at)?).await?.sum())
    }

    /// The limits without those that were raised.
    pub(crate) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The reservation that [`reserve`](Self::reserve) will make, known well enough to settle it.
    ///
    /// A run that is interrupted does not know whether it has reserved. After the settlement, the key
    /// reserves nothing any more.
    pub(crate) fn prospective(
        &self,
        subject: &str,
        at: Timestamp,
        key: &str,
    ) -> Result<Held, Failure> {
        let stream = self.stream(subject, at);
        let stream = stream.map_err(|error| Failure::from_error(error.code(), &error))?;
        let (stream, key) = (stream.as_str().to_owned(), key.to_owned());
        let (sum, raised) = (Spent::default(), Limits::default());
        Ok(Held { stream, key, sum, raised, granted: None })
    }

    /// Reserves amounts: as many of the wanted output tokens and cost as are left, but not less than
    /// `least`, unless that exceeds a limit. Repeating it with the same key has no further effect.
    pub(crate) async fn reserve(
        &self,
        subject: &str,
        at: Timestamp,
        key: &str,
        wanted: Spent,
        least: Spent,
    ) -> Result<Answer, TaskError> {
        let stream = self.stream(subject, at).map_err(store_failure)?;
        let held = |sum, raised, amounts| {
            let stream = stream.as_str().to_owned();
            let key = key.to_owned();
            let granted = Some(amounts).filter(|amounts| *amounts != wanted);
            Answer::Held(Held { stream, key, sum, raised, granted })
        };
        for _ in 0..MAX_CONFLICTS {
            let ledger = self.ledger(&stream).await.map_err(store_failure)?;
            // The step was repeated: the reservation exists.
            if let Some(amounts) = ledger.open.get(key) {
                return Ok(held(ledger.sum(), ledger.raised, *amounts));
            }
            if ledger.given_up.contains(key) {
                let reason = "the run has ended in the meantime and given up its reservation";
                return Err(TaskError::terminal(Failure::new(codes::CONFLICT, reason)));
            }
            let limits = ledger.raised.or(self.limits);
            let amounts = limits.left_of(&ledger.sum(), wanted, least);
            let sum = ledger.sum().plus(&amounts);
            if let Some(exceeded) = limits.exceeded_by(&sum) {
                return Ok(Answer::Exceeded(Exceeded { scope: Scope::Subject, ..exceeded }));
            }
            let entry = Entry { subject: subject.to_owned(), key: key.to_owned(), amounts };
            let event = event("reserved", key, &entry)?;
            let expected = match ledger.version {
                0 => Expected::Empty,
                version => Expected::Exact(version),
            };
            let append = Append::new(stream.clone(), vec![event]).with_expected(expected);
            match self.store.append_one(append).await {
                Ok(_) => return Ok(held(sum, ledger.raised, amounts)),
                // Another run came first.
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(store_failure(error)),
            }
        }
        let reason =
            format!("{MAX_CONFLICTS} other reservations of subject {subject:?} went first");
        Err(TaskError::retryable(Failure::new(codes::CONFLICT, reason)))
    }

    /// Replaces a reservation with the real amounts, once for each key of a settlement. A fork has such
    /// a key of its own for calls that it repeats under a reservation of the run that it was forked from.
    pub(crate) async fn settle(
        &self,
        subject: &str,
        held: &Held,
        key: &str,
        amounts: Spent,
    ) -> Result<(), TaskError> {
        let entry = Entry { subject: subject.to_owned(), key: held.key.clone(), amounts };
        let event = event("settled", key, &entry)?;
        self.append(&held.stream, event).await
    }

    /// Changes the limits of the window that a time belongs to.
    pub(crate) async fn raise(
        &self,
        subject: &str,
        at: Timestamp,
        key: &str,
        limits: Limits,
    ) -> Result<(), TaskError> {
        let stream = self.stream(subject, at).map_err(store_failure)?;
        self.append(stream.as_str(), event("raised", key, &Raised { limits })?).await
    }

    /// Appends to any version of the stream. An event that is known is not stored again.
    async fn append(&self, stream: &str, event: Event) -> Result<(), TaskError> {
        let stream = StreamId::new(stream).map_err(store_failure)?;
        let appended = self.store.append_one(Append::new(stream, vec![event])).await;
        appended.map(drop).map_err(store_failure)
    }

    /// The sums of a window: those that this process knows, and the events since then.
    async fn ledger(&self, stream: &StreamId) -> Result<Ledger, StoreError> {
        // A copy, so that the lock is not held while the store is read.
        let mut ledger = self.known.lock().get(stream).cloned().unwrap_or_default();
        loop {
            let page = self.store.read_stream(stream, ledger.version, MAX_PAGE).await?;
            let Some(last) = page.last() else { break };
            for recorded in &page {
                ledger.apply(&recorded.event).map_err(|error| invalid(stream, &error))?;
            }
            ledger.version = last.version;
        }
        self.known.lock().insert(stream.clone(), ledger.clone());
        Ok(ledger)
    }

    /// The stream of a subject's window. Subjects can be longer than names of streams.
    fn stream(&self, subject: &str, at: Timestamp) -> Result<StreamId, StoreError> {
        let hash = Sha256::digest(subject.as_bytes());
        let hex = hash.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        // The length is part of the name: agents with other windows have other sums.
        let window = i64::try_from(self.window.as_secs()).unwrap_or(i64::MAX).max(1);
        let number = at.as_micros().div_euclid(1_000_000).div_euclid(window);
        StreamId::new(format!("llm/budgets/{hex}/{window}-{number}"))
    }
}

impl Ledger {
    /// The sum of what is settled and what is reserved.
    fn sum(&self) -> Spent {
        self.open.values().fold(self.settled, |sum, amounts| sum.plus(amounts))
    }

    /// Applies one event.
    fn apply(&mut self, event: &Event) -> Result<(), EventError> {
        match event.event_type.segments() {
            ("llm", "subject", "reserved") => {
                let Entry { key, amounts, .. } = event.data()?;
                self.open.insert(key, amounts);
            }
            ("llm", "subject", "settled") => {
                let Entry { key, amounts, .. } = event.data()?;
                self.settled = self.settled.plus(&amounts);
                if self.open.remove(&key).is_none() {
                    self.given_up.insert(key);
                }
            }
            ("llm", "subject", "raised") => {
                let Raised { limits } = event.data()?;
                self.raised = limits.or(self.raised);
            }
            _ => {}
        }
        Ok(())
    }
}

/// The error of a stream with an event that is not one of these.
fn invalid(stream: &StreamId, error: &EventError) -> StoreError {
    let reason = format!("an event of stream {stream} cannot be decoded: {error}");
    StoreError::InvalidRow { database: "the log".to_owned(), reason }
}

/// An event whose id follows from a key, so that it is stored once.
fn event<T: Serialize + DeserializeOwned>(
    action: &str,
    key: &str,
    data: &T,
) -> Result<Event, EventError> {
    let mut event = Event::new(EventType::new("llm", "subject", action)?, "aios", data)?;
    event.id = EventId::derive(&format!("llm/subject/{action}/{key}"));
    Ok(event)
}

/// The failure of a step because of the store.
#[allow(clippy::needless_pass_by_value, reason = "it is used with `map_err`")]
fn store_failure(error: StoreError) -> TaskError {
    let failure = Failure::from_error(error.code(), &error);
    TaskError::retryable(failure).with_retryable(error.is_retryable())
}

#[cfg(test)]
mod tests {
    use aios_store::memory::MemoryStore;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn budget(store: &Arc<dyn Store>, requests: u64) -> SubjectBudget {
        let limits = Limits { requests: Some(requests), ..Limits::default() };
        SubjectBudget::new(Arc::clone(store), DAY, limits)
    }

    fn requests(requests: u64) -> Spent {
        Spent { requests, ..Spent::default() }
    }

    async fn held(budget: &SubjectBudget, at: Timestamp, key: &str) -> Option<Held> {
        match budget.reserve("mary", at, key, requests(1), requests(1)).await.unwrap() {
            Answer::Held(held) => Some(held),
            Answer::Exceeded(exceeded) => {
                assert_eq!(exceeded.scope, Scope::Subject);
                None
            }
        }
    }

    #[tokio::test]
    async fn should_reserve_and_settle_once_in_the_log() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let budget = budget(&store, 2);
        let at = Timestamp::from_micros(0);
        let first = held(&budget, at, "a").await.unwrap();
        // A repeated step has no further effect, even in another process.
        let other = self::budget(&store, 2);
        held(&other, at, "a").await.unwrap();
        assert_eq!(budget.spent("mary", at).await.unwrap(), requests(1));
        held(&budget, at, "b").await.unwrap();
        assert!(held(&other, at, "c").await.is_none());
        for budget in [&budget, &other, &budget] {
            budget.settle("mary", &first, "s", Spent::default()).await.unwrap();
        }
        assert_eq!(other.spent("mary", at).await.unwrap(), requests(1));
        assert!(held(&other, at, "c").await.is_some());
        // Another subject, and the next day, have sums of their own.
        assert_eq!(budget.spent("paul", at).await.unwrap(), Spent::default());
        let next = Timestamp::from_micros(i64::try_from(DAY.as_micros()).unwrap());
        assert!(held(&budget, next, "d").await.is_some());
    }

    /// The run has ended before the append of its reservation arrives.
    #[tokio::test]
    async fn should_not_reserve_under_a_key_that_was_given_up() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let budget = budget(&store, 1);
        let at = Timestamp::from_micros(0);
        let prospective = budget.prospective("mary", at, "a").unwrap();
        budget.settle("mary", &prospective, "s", Spent::default()).await.unwrap();
        let late = budget.reserve("mary", at, "a", requests(1), requests(1)).await.unwrap_err();
        assert_eq!((&*late.failure.code, late.retryable), ("CONFLICT", false));
        assert_eq!(budget.spent("mary", at).await.unwrap(), Spent::default());
        assert!(held(&budget, at, "b").await.is_some());
    }

    #[tokio::test]
    async fn should_never_reserve_more_than_allowed_at_the_same_time() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let at = Timestamp::from_micros(0);
        let keys: Vec<_> = (0..40).map(|key| key.to_string()).collect();
        // Each has its own view, like processes.
        let budgets: Vec<_> = keys.iter().map(|_| budget(&store, 7)).collect();
        let held = keys.iter().zip(&budgets).map(|(key, budget)| held(budget, at, key));
        let held = futures_util::future::join_all(held).await;
        assert_eq!(held.iter().flatten().count(), 7);
    }

    #[tokio::test]
    async fn should_keep_a_raised_limit_for_the_window() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let budget = budget(&store, 0);
        let at = Timestamp::from_micros(0);
        assert!(held(&budget, at, "a").await.is_none());
        let limits = Limits { requests: Some(1), ..Limits::default() };
        budget.raise("mary", at, "r", limits).await.unwrap();
        budget.raise("mary", at, "r", limits).await.unwrap();
        assert!(held(&budget, at, "a").await.is_some());
        assert!(held(&budget, at, "b").await.is_none());
    }
}
