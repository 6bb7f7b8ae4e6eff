//! What every route checks before its handler: the names in the query, and the conditions.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{etag, query_names::QueryNames};

/// Refuses a request with an unknown query parameter or with a condition that does not hold.
pub(crate) async fn check(
    State(names): State<Arc<QueryNames>>,
    request: Request,
    next: Next,
) -> Response {
    let checked = names.check(&request).and_then(|()| etag::check_method(&request));
    if let Err(error) = checked {
        return error.into_response();
    }
    let condition = etag::condition_of_read(&request);
    let response = next.run(request).await;
    match condition {
        Some(condition) => condition.apply(response),
        None => response,
    }
}
