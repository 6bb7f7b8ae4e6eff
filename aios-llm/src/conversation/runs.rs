//! The runs of one conversation.
//!
//! The prompt of a run says which run it continues, and it begins later than that one. So one pass over
//! the runs that were started since the first one finds all others, in the order of their starts.

use std::collections::BTreeSet;

use aios_core::{
    catalog::{codes, workflow::Started},
    event::EventError,
    store::{PageRequest, RecordedEvent, RunFilter, RunRecord, Store, StoreError, StreamId},
};

use super::Conversation;
use crate::agent::{Origin, Prompt};

/// How many runs are read at once.
const PAGE: usize = 100;

/// Why the runs of a conversation can't be listed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConversationError {
    /// There is no run with this id.
    #[error("there is no run {run_id:?}")]
    UnknownRun {
        /// The id.
        run_id: String,
    },
    /// The start of a run cannot be decoded.
    #[error("the start of a run cannot be decoded")]
    Event(#[from] EventError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ConversationError {
    /// Stable code of the error.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownRun { .. } => codes::RUN_NOT_FOUND,
            Self::Event(error) => error.code(),
            Self::Store(error) => error.code(),
        }
    }
}

/// A run of a conversation.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ConversationRun {
    /// The run.
    pub run: RunRecord,
    /// The run that it continues, and how many turns of that run it keeps; `None` for the first run.
    pub continues: Option<Origin>,
}

impl Conversation {
    /// Lists the runs of the conversation that a run belongs to, in the order of their starts: the first
    /// one, and all that continue it, directly or indirectly. A conversation that was continued or begun
    /// again from one of its turns more than once is a tree, whose branches
    /// [`ConversationRun::continues`] tells.
    ///
    /// Runs that retention has removed are missing, and so are the runs before them.
    ///
    /// Reads the first event of each run that was started since the first run of the conversation.
    ///
    /// # Errors
    ///
    /// [`ConversationError::UnknownRun`]; errors of the store.
    ///
    /// # Cancel safety
    ///
    /// Cancel safe.
    ///
    /// # Examples
    ///
    /// ```
    /// use aios_agents::prelude::*;
    /// use aios_llm::{Conversation, LlmAgent, ModelResponse, RuntimeBuilderExt, testing::ScriptedModel};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let model = ScriptedModel::new([ModelResponse::text("Paris"), ModelResponse::text("The Seine")]);
    /// # let store = aios_store::connect("memory://").await?;
    /// # let runtime = Runtime::builder()
    /// #     .store(store.clone())
    /// #     .broker(aios_broker::connect("memory://").await?)
    /// #     .llm_agent("geographer", LlmAgent::new(model))?
    /// #     .start()
    /// #     .await?;
    /// let run = runtime.start("geographer", "What is the capital of France?").await?;
    /// run.result::<String>().await?;
    /// let prompt = Conversation::of(&run).await?.continued("Which river is there?");
    /// let next = runtime.start("geographer", &prompt).await?;
    ///
    /// let runs = Conversation::runs(&*store, next.id()).await?;
    /// assert_eq!([&*runs[0].run.id, &*runs[1].run.id], [run.id(), next.id()]);
    /// assert_eq!(runs[1].continues.as_ref().map(|origin| origin.turns), Some(1));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn runs(
        store: &dyn Store,
        run_id: &str,
    ) -> Result<Vec<ConversationRun>, ConversationError> {
        let first = first_run(store, run_id).await?;
        let filter = RunFilter { created_after: Some(first.created_at), ..RunFilter::default() };
        let mut known = BTreeSet::from([first.id]);
        let mut found: Vec<ConversationRun> = Vec::new();
        let mut page = PageRequest::first(PAGE);
        loop {
            let rows = store.runs(&filter, &page).await?;
            // Runs of one moment may stand in any order.
            let candidates = starts(store, rows.rows).await?;
            loop {
                let before = known.len();
                for ConversationRun { run, continues } in &candidates {
                    if continues.as_ref().is_some_and(|it| known.contains(&it.run_id)) {
                        known.insert(run.id.clone());
                    }
                }
                if known.len() == before {
                    break;
                }
            }
            found.extend(candidates.into_iter().filter(|it| known.contains(&it.run.id)));
            match rows.next {
                Some(next) => page = next,
                None => return Ok(found),
            }
        }
    }
}

/// The first run of the conversation of a run that the store still has.
async fn first_run(store: &dyn Store, run_id: &str) -> Result<RunRecord, ConversationError> {
    let unknown = || ConversationError::UnknownRun { run_id: run_id.to_owned() };
    let mut first = row(store, run_id).await?.ok_or_else(unknown)?;
    let mut seen = BTreeSet::from([first.id.clone()]);
    loop {
        let origin = continues(store, &first.id).await?;
        // Prompts are input: one may name any run, even a later one.
        let Some(origin) = origin.filter(|origin| seen.insert(origin.run_id.clone())) else {
            return Ok(first);
        };
        match row(store, &origin.run_id).await? {
            Some(before) if before.created_at <= first.created_at => first = before,
            _ => return Ok(first),
        }
    }
}

/// The row of a run.
async fn row(store: &dyn Store, run_id: &str) -> Result<Option<RunRecord>, StoreError> {
    let filter = RunFilter { id: Some(run_id.to_owned()), ..RunFilter::default() };
    Ok(store.runs(&filter, &PageRequest::first(1)).await?.rows.into_iter().next())
}

/// The run that a run continues, if any.
async fn continues(store: &dyn Store, run_id: &str) -> Result<Option<Origin>, ConversationError> {
    let journal = store.read_stream(&StreamId::of_run(run_id)?, 0, 1).await?;
    Ok(origin(&journal)?)
}

/// Runs, with those that they continue.
async fn starts(
    store: &dyn Store,
    rows: Vec<RunRecord>,
) -> Result<Vec<ConversationRun>, ConversationError> {
    let streams: Result<Vec<_>, _> = rows.iter().map(|run| StreamId::of_run(&run.id)).collect();
    let journals = store.read_streams(&streams?, 1).await?;
    let started = rows.into_iter().zip(&journals);
    started.map(|(run, journal)| Ok(ConversationRun { run, continues: origin(journal)? })).collect()
}

/// The run that the input of a journal says that it continues. Other workflows have other input.
fn origin(journal: &[RecordedEvent]) -> Result<Option<Origin>, EventError> {
    let Some(first) = journal.first() else { return Ok(None) };
    let input = first.event.data::<Started>()?.input;
    // Cheaper than reading each message of each prompt.
    if !input.as_str().contains("continues") {
        return Ok(None);
    }
    Ok(input.decode::<Prompt>().ok().and_then(|prompt| prompt.continues))
}
