//! Dead letters: `/dead-letters`.
//!
//! They are in the broker and not in the store, so the audit event of a redrive or a purge can't
//! share a commit with the effect. The handlers wait for it first ([`AuditStored`]).

use std::sync::Arc;

use aios_core::{
    broker::{Address, DeadLetter, DeadLetterFilter, DeadLetters, Group, Mailbox},
    catalog::codes,
    event::{EventId, Metadata, Pattern, Payload, Timestamp},
    store::{Page, PageRequest},
};
use axum::{extract::State, http::StatusCode, response::Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::http::{
    ApiError,
    layers::{AuditStored, Caller, DeadLettersPurge, DeadLettersRead, DeadLettersRedrive},
    protocol::{
        Document, Filters, Json, List, Listing, Path, Query, Resource, count, page,
        parts::{self, Room},
    },
    state::Api,
};

/// Name of the list in cursors.
const LIST: &str = "dead-letters";
/// Type of the resource.
const KIND: &str = "dead_letter";

/// The routes of this module.
pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list_dead_letters))
        .routes(routes!(redrive_dead_letters))
        .routes(routes!(purge_dead_letters))
}

/// An event whose delivery was given up.
#[derive(Debug, Serialize, ToSchema)]
struct Letter {
    /// Type of the event.
    event_type: String,
    /// Data of the event.
    #[schema(value_type = serde_json::Value)]
    data: Payload,
    /// Metadata of the event.
    #[schema(value_type = Object)]
    metadata: Metadata,
    /// Why it was given up.
    reason: String,
    /// How often it was tried.
    attempts: u32,
    /// When it failed for the first time.
    #[schema(value_type = String, format = DateTime)]
    first_failure: Timestamp,
}

/// Converts a dead letter to its resource. Its id is that of the event.
fn resource(letter: DeadLetter) -> Resource<Letter> {
    let DeadLetter { event, reason, attempts, first_failure, .. } = letter;
    let attributes = Letter {
        event_type: event.event_type.to_string(),
        data: event.payload,
        metadata: Arc::unwrap_or_clone(event.metadata),
        reason,
        attempts,
        first_failure,
    };
    Resource::new(KIND, event.id.to_string(), attributes)
}

/// The kind of address that the events were sent to.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum AddressKind {
    /// A group: consumers that share its events. The tasks of an agent type are in the group
    /// `agents.<type>`.
    Groups,
    /// A mailbox.
    Mailboxes,
}

/// The dead letters of a group or mailbox.
async fn letters(
    api: &Api,
    (kind, name): (AddressKind, String),
) -> Result<Box<dyn DeadLetters>, ApiError> {
    let invalid = |error: aios_core::broker::InvalidAddress| {
        ApiError::from(aios_core::broker::BrokerError::from(error))
    };
    let address: Address = match kind {
        AddressKind::Groups => Group::new(name).map_err(invalid)?.into(),
        AddressKind::Mailboxes => Mailbox::new(name).map_err(invalid)?.into(),
    };
    Ok(api.runtime.broker().dead_letters(&address).await?)
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct LetterQuery {
    /// Only events whose type matches this pattern, for example `orders.*.placed`; all unless given.
    pattern: Option<String>,
    /// Maximum number of dead letters that are returned; 50 by default.
    #[param(minimum = 1, maximum = 1000)]
    #[serde(default, deserialize_with = "count")]
    limit: Option<usize>,
    /// `meta.next` of the page before.
    after: Option<String>,
}

/// The place of a dead letter: how many are before it, and the id of its event.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    number: usize,
    id: EventId,
}

impl Place {
    /// Reads the place in a cursor.
    fn read(row: &str) -> Option<Self> {
        let (number, id) = row.split_once('/')?;
        Some(Self { number: number.parse().ok()?, id: id.parse().ok()? })
    }

    /// Whether a letter can be the one that was at this place. The number of a letter falls when letters before
    /// it are removed, and never rises.
    fn was(&self, letter: &Self) -> bool {
        letter.id == self.id && letter.number <= self.number
    }
}

/// Collects a page from all dead letters, which the broker visits in their order.
#[derive(Debug)]
struct LetterPage {
    limit: usize,
    /// Which types of events are listed.
    pattern: Pattern,
    /// The last letter of the page before.
    after: Option<Place>,
    /// Whether the letters that follow are those of this page or later ones.
    has_begun: bool,
    /// Letters that were visited.
    visited: usize,
    rows: Vec<Resource<Letter>>,
    /// Room that the rows have left.
    room: Room,
    /// The last of the rows.
    last: Option<Place>,
    /// Whether letters follow for which there is no room.
    has_more: bool,
}

impl LetterPage {
    fn new(limit: usize, pattern: Pattern, after: Option<Place>) -> Self {
        Self {
            limit,
            pattern,
            has_begun: after.is_none(),
            after,
            visited: 0,
            rows: Vec::new(),
            room: Room::new(),
            last: None,
            has_more: false,
        }
    }

    fn visit(&mut self, letter: DeadLetter) {
        let place = Place { number: self.visited, id: letter.event.id.clone() };
        self.visited += 1;
        // An event that was redriven and failed again may have two letters; the later one was at the place.
        if self.after.as_ref().is_some_and(|after| after.was(&place)) {
            let (visited, pattern) = (self.visited, self.pattern.clone());
            let begun = Self::new(self.limit, pattern, self.after.take());
            *self = Self { has_begun: true, visited, ..begun };
            return;
        }
        let is_listed = self.pattern.matches(&letter.event.event_type);
        if !self.has_begun || self.has_more || !is_listed {
            return;
        }
        let resource = resource(letter);
        if self.rows.len() == self.limit || !self.room.takes(1, parts::bytes(&resource)) {
            self.has_more = true;
            return;
        }
        self.rows.push(resource);
        self.last = Some(place);
    }

    fn finish(self) -> Result<Page<Resource<Letter>>, ApiError> {
        if !self.has_begun {
            let message = "the last dead letter of the page before has been redriven or purged; \
                           list again without `after`";
            return Err(ApiError::new(codes::INVALID_CURSOR, message));
        }
        let next = self.last.filter(|_| self.has_more).map(|Place { number, id }| PageRequest {
            after: Some(format!("{number}/{id}")),
            limit: self.limit,
        });
        Ok(Page { rows: self.rows, next, unreadable: Vec::new() })
    }
}

/// List dead letters
///
/// Returns a page of the dead letters of a group or mailbox, the oldest first. If the last letter of a page is
/// redriven or purged, the page after it fails with `INVALID_CURSOR`: list again from the beginning.
#[utoipa::path(
    get,
    path = "/dead-letters/{kind}/{name}",
    tag = "dead letters",
    params(
        ("kind" = inline(AddressKind), Path, description = "Kind of the address."),
        ("name" = String, Path, description = "Name of the group or mailbox."),
        LetterQuery
    ),
    security(("bearer" = ["dead_letters:read"]), ("api_key" = ["dead_letters:read"])),
    responses((status = 200, description = "A page of dead letters.", body = Listing<Letter>)),
)]
async fn list_dead_letters(
    State(api): State<Api>,
    _: Caller<DeadLettersRead>,
    filters: Filters,
    Path(address): Path<(AddressKind, String)>,
    Query(query): Query<LetterQuery>,
) -> Result<Response, ApiError> {
    let list = List::new(LIST, filters);
    let PageRequest { limit, after } = list.request(query.limit, query.after.as_deref())?;
    let after = after.map(|row| Place::read(&row).ok_or_else(page::invalid_cursor)).transpose()?;
    let pattern = query.pattern.map_or_else(|| Ok(Pattern::all()), |pattern| pattern.parse())?;
    let mut page = LetterPage::new(limit, pattern, after);
    letters(&api, address).await?.for_each(&mut |letter| page.visit(letter)).await?;
    Ok(list.answer(&api, page.finish()?, |resource| resource))
}

/// Which dead letters are meant: `ids`, or `all`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct SelectionBody {
    /// Those with one of these event ids.
    #[serde(default)]
    #[schema(required = false)]
    ids: Option<Vec<String>>,
    /// All dead letters that there are.
    #[serde(default)]
    #[schema(required = false)]
    all: bool,
}

impl SelectionBody {
    /// Exactly one of both has to be given, so that an empty body never means all.
    fn filter(self) -> Result<DeadLetterFilter, ApiError> {
        match (self.ids, self.all) {
            (None, true) => Ok(DeadLetterFilter::All),
            (Some(ids), false) => {
                let ids: Result<_, _> = ids.iter().map(|id| id.parse()).collect();
                Ok(DeadLetterFilter::Ids(ids?))
            }
            _ => Err(ApiError::new(codes::INVALID_REQUEST, "give `ids` or `\"all\": true`")),
        }
    }
}

/// How many dead letters an action has handled.
#[derive(Debug, Serialize, ToSchema)]
struct Handled {
    /// How many dead letters the attempt has handled. If a process dies while it handles a request with an
    /// `Idempotency-Key`, the repetition counts only those that were left.
    count: usize,
}

/// Send dead letters back to where they came from
///
/// They are delivered again, with a fresh count of attempts.
#[utoipa::path(
    post,
    path = "/dead-letters/{kind}/{name}/actions/redrive",
    tag = "dead letters",
    params(
        ("kind" = inline(AddressKind), Path, description = "Kind of the address."),
        ("name" = String, Path, description = "Name of the group or mailbox.")
    ),
    request_body = SelectionBody,
    security(("bearer" = ["dead_letters:redrive"]), ("api_key" = ["dead_letters:redrive"])),
    responses((status = 200, description = "They were sent back.", body = Document<Handled>)),
)]
async fn redrive_dead_letters(
    State(api): State<Api>,
    _: Caller<DeadLettersRedrive>,
    _: AuditStored,
    Path(address): Path<(AddressKind, String)>,
    Json(body): Json<SelectionBody>,
) -> Result<Response, ApiError> {
    let filter = body.filter()?;
    let name = address.1.clone();
    let count = letters(&api, address).await?.redrive(filter).await?;
    Ok(api.document(StatusCode::OK, Resource::new("dead_letter_redrive", name, Handled { count })))
}

/// Delete dead letters
#[utoipa::path(
    post,
    path = "/dead-letters/{kind}/{name}/actions/purge",
    tag = "dead letters",
    params(
        ("kind" = inline(AddressKind), Path, description = "Kind of the address."),
        ("name" = String, Path, description = "Name of the group or mailbox.")
    ),
    request_body = SelectionBody,
    security(("bearer" = ["dead_letters:purge"]), ("api_key" = ["dead_letters:purge"])),
    responses((status = 200, description = "They were deleted.", body = Document<Handled>)),
)]
async fn purge_dead_letters(
    State(api): State<Api>,
    _: Caller<DeadLettersPurge>,
    _: AuditStored,
    Path(address): Path<(AddressKind, String)>,
    Json(body): Json<SelectionBody>,
) -> Result<Response, ApiError> {
    let filter = body.filter()?;
    let name = address.1.clone();
    let count = letters(&api, address).await?.purge(filter).await?;
    Ok(api.document(StatusCode::OK, Resource::new("dead_letter_purge", name, Handled { count })))
}

#[cfg(test)]
mod tests {
    use aios_core::event::{Event, EventType};

    use super::*;

    fn letter(id: &str, data: &str) -> DeadLetter {
        let event_type = EventType::new("orders", "order", "placed").unwrap();
        let event = Event::new(event_type, "test", &data).unwrap().with_id(id.parse().unwrap());
        DeadLetter::new(event, "no tea".to_owned(), 1, Timestamp::UNIX_EPOCH)
    }

    /// A page of these letters, as ids and cursor; `None` if the letter it follows is gone.
    fn page(
        ids: &[&str],
        limit: usize,
        after: Option<&str>,
    ) -> Option<(Vec<String>, Option<String>)> {
        let mut page =
            LetterPage::new(limit, Pattern::all(), after.map(|row| Place::read(row).unwrap()));
        ids.iter().for_each(|id| page.visit(letter(id, "")));
        let page = page.finish().ok()?;
        let ids = page.rows.into_iter().map(|row| row.id).collect();
        Some((ids, page.next.and_then(|next| next.after)))
    }

    #[test]
    fn should_continue_after_the_last_letter_of_the_page_before() {
        let letters = ["a", "b", "c", "d"];
        let next = |cursor: &str| Some(cursor.to_owned());
        assert_eq!(page(&letters, 2, None).unwrap(), (vec!["a".into(), "b".into()], next("1/b")));
        assert_eq!(page(&letters, 2, Some("1/b")).unwrap(), (vec!["c".into(), "d".into()], None));
        // Letters before it were removed.
        assert_eq!(page(&letters[1..], 1, Some("1/b")).unwrap(), (vec!["c".into()], next("1/c")));
    }

    #[test]
    fn should_fail_if_the_last_letter_of_the_page_before_is_gone() {
        assert_eq!(page(&["a", "c", "d"], 2, Some("1/b")), None);
        // It was redriven, and failed again.
        assert_eq!(page(&["a", "c", "b"], 2, Some("1/b")), None);
        assert_eq!(page(&[], 2, Some("0/a")), None);
    }

    /// An event that was redriven and delivered twice has two letters.
    #[test]
    fn should_visit_each_letter_of_one_event_once() {
        let letters = ["a", "b", "a", "c"];
        let mut seen = Vec::new();
        let mut cursor = None;
        loop {
            let (ids, next) = page(&letters, 1, cursor.as_deref()).unwrap();
            seen.extend(ids);
            cursor = next;
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!(seen, letters);
    }

    #[test]
    fn should_end_a_page_whose_letters_are_large() {
        let mut page = LetterPage::new(10, Pattern::all(), None);
        let large = "x".repeat(5 << 20);
        ["a", "b", "c"].iter().for_each(|id| page.visit(letter(id, &large)));
        let page = page.finish().unwrap();
        assert_eq!((page.rows.len(), page.next.unwrap().after.as_deref()), (1, Some("0/a")));
    }
}
