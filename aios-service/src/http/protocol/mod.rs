//! The shapes of requests and answers: reading parts of requests, errors, pages, entity tags and streams.

mod checked_body;
mod depth;
mod digest;
pub(super) mod envelope;
mod error;
pub(super) mod etag;
pub(super) mod extract;
mod faults;
mod log_range;
mod operations;
pub(super) mod page;
pub(super) mod parts;
pub(super) mod status;
pub(super) mod stream;

pub(crate) use self::{
    digest::digest,
    envelope::{
        Document, ErrorBody, ErrorDocument, ErrorMeta, ListMeta, Listing, Meta, Resource, VERSION,
        json,
    },
    error::{ApiError, Challenge},
    etag::IfMatch,
    extract::{
        EmptyBody, Json, OptionalJson, Path, Prefix, Query, count, integer, number, object,
        optional_object, position,
    },
    log_range::Range,
    operations::Operations,
    page::{Filters, List},
    stream::{events, failure, last_event_id},
};
