//! The ids of the calls of one response.
//!
//! Results are matched by ids, and so are updates, so each call of a conversation has an id of its
//! own. Models do not ensure that: some number the calls of each response from the start, and some
//! give no ids. An id follows from the conversation and the response alone. The pieces of a stream
//! get theirs when the first of a call with an id arrives, which the whole response then keeps.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Message, ModelResponse, Part};

/// The id of a call that has none.
const UNNAMED: &str = "call";

/// The ids of the calls of a response, and of the calls before it.
#[derive(Debug, Default)]
pub(in crate::agent) struct CallIds {
    /// Ids of calls in the conversation before the response.
    earlier: BTreeSet<String>,
    /// Ids of calls of the response, by the numbers of the calls.
    given: BTreeMap<usize, String>,
}

impl CallIds {
    /// The ids of a response to these messages.
    pub(in crate::agent) fn after(messages: &[Message]) -> Self {
        let parts = messages.iter().flat_map(|message| &message.content);
        let earlier = parts.filter_map(|part| match part {
            Part::ToolCall(call) => Some(call.id.clone()),
            _ => None,
        });
        Self { earlier: earlier.collect(), given: BTreeMap::new() }
    }

    /// Forgets the calls of a response that begins again.
    pub(in crate::agent) fn restart(&mut self) {
        self.given.clear();
    }

    /// Whether a call has an id.
    pub(in crate::agent) fn has(&self, number: usize) -> bool {
        self.given.contains_key(&number)
    }

    /// The id of a call: the id that the model has given, if no other call has it.
    pub(in crate::agent) fn of(&mut self, number: usize, given: &str) -> &str {
        let Self { earlier, given: all } = self;
        if !all.contains_key(&number) {
            let given = if given.is_empty() { UNNAMED } else { given };
            let numbered = (2..).map(|number: u64| format!("{given}-{number}"));
            let mut ids = std::iter::once(given.to_owned()).chain(numbered);
            let is_free = |id: &String| !earlier.contains(id) && !all.values().any(|it| it == id);
            let free = ids.find(is_free).unwrap_or_default();
            all.insert(number, free);
        }
        all.get(&number).map(String::as_str).unwrap_or_default()
    }

    /// A whole response, with these ids.
    pub(in crate::agent) fn applied_to(&mut self, mut response: ModelResponse) -> ModelResponse {
        let calls = response.content.iter_mut().filter_map(|part| match part {
            Part::ToolCall(call) => Some(call),
            _ => None,
        });
        for (number, call) in calls.enumerate() {
            call.id = self.of(number, &call.id).to_owned();
        }
        response
    }
}
