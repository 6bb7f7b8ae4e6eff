//! The output streams of a trial.

use std::{collections::BTreeMap, sync::Arc};

use aios_agents::{output::OutputContent, prelude::*};
use aios_broker::memory::MemoryBroker;
use aios_llm::TOKENS;

use super::{PATIENCE, journals::Journals};

/// The output streams of all runs, as readers see them.
#[derive(Debug, Default)]
pub(super) struct Outputs {
    /// The items by run, those of each writer together, in the order of the writers.
    pub(super) texts: BTreeMap<String, Vec<String>>,
    found: Vec<String>,
}

impl Outputs {
    /// Faults of the streams.
    pub(super) fn found(&self) -> impl Iterator<Item = &str> {
        self.found.iter().map(String::as_str)
    }
}

/// Reads the output streams of all runs to their ends.
pub(super) async fn outputs(store: &Arc<dyn Store>, journals: &Journals<'_>) -> Outputs {
    let builder = Runtime::builder().store(Arc::clone(store)).broker(Arc::new(MemoryBroker::new()));
    let client = builder.client_only().start().await.unwrap();
    let mut outputs = Outputs::default();
    let events = journals.events().await;
    for (run_id, _) in
        events.into_iter().filter(|(_, it)| it.event.event_type.action() == "started")
    {
        let run = client.handle(&run_id).await.unwrap();
        let read = tokio::time::timeout(PATIENCE, texts(&run, &mut outputs.found)).await;
        match read {
            Ok(texts) if texts.is_empty() => {}
            Ok(texts) => drop(outputs.texts.insert(run_id.replace(journals.id, "ID"), texts)),
            Err(_) => outputs.found.push(format!("the output of {run_id} has no end")),
        }
    }
    outputs
}

/// The items of a run, without those that are void.
async fn texts(run: &RunHandle, found: &mut Vec<String>) -> Vec<String> {
    let (mut written, mut latest) = (Vec::<(Arc<str>, String)>::new(), 0);
    let mut items = run.stream(TOKENS).read_from(0);
    while let Some(item) = items.next().await {
        let item = item.unwrap();
        if item.offset <= latest {
            found.push(format!("offset {} of {} follows {latest}", item.offset, run.id()));
        }
        latest = item.offset;
        match item.content {
            OutputContent::Item(update) => written.push((item.writer, update.as_str().to_owned())),
            _ => written.retain(|(writer, _)| *writer != item.writer),
        }
    }
    let mut writers = Vec::new();
    for (writer, _) in &written {
        if !writers.contains(writer) {
            writers.push(Arc::clone(writer));
        }
    }
    // Writers of the same response write at the same time.
    let of = |writer: &Arc<str>| {
        let items = written.iter().filter(|(it, _)| it == writer).map(|(_, text)| text.as_str());
        items.collect::<String>()
    };
    let mut texts: Vec<_> = writers.iter().map(of).collect();
    texts.sort();
    texts
}
