//! A page for people: Swagger UI, from files in the program.

use std::sync::{Arc, LazyLock};

use axum::{
    Extension, Router,
    extract::Path,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
    routing::get,
};
use utoipa_swagger_ui::{Config, serve};

use super::Documents;
use crate::http::state::Api;

/// The document beside the page. It needs no credentials and shows nothing that is registered.
const DOCUMENT: &str = "openapi.json";
/// The page may load only files of this service, and connect only to it.
const POLICY: &str = "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; \
                      object-src 'none'; base-uri 'none'; frame-ancestors 'none'";

static CONFIG: LazyLock<Arc<Config<'static>>> = LazyLock::new(|| Arc::new(Config::from(DOCUMENT)));

/// The routes of the page. They need no credentials.
pub(crate) fn routes() -> Router<Api> {
    Router::new()
        .route("/docs", get(async || Redirect::permanent("docs/")))
        .route("/docs/", get(async || file("index.html")))
        .route("/docs/openapi.json", get(document))
        .route("/docs/{*file}", get(async |Path(path): Path<String>| file(&path)))
}

/// The document of the API, for the page.
async fn document(Extension(documents): Extension<Arc<Documents>>) -> Response {
    // The page resolves the server against the URL of this document, which is below `/docs`.
    ([(header::CONTENT_TYPE, "application/json")], documents.v31_below()).into_response()
}

/// A file of the page, with a policy that lets it load nothing from elsewhere.
fn file(path: &str) -> Response {
    match serve(path, Arc::clone(&CONFIG)) {
        Ok(Some(file)) => {
            let policy = HeaderName::from_static("content-security-policy");
            let headers = [
                (header::CONTENT_TYPE, HeaderValue::try_from(file.content_type)),
                (policy, Ok(HeaderValue::from_static(POLICY))),
            ];
            let mut response = file.bytes.into_owned().into_response();
            for (name, value) in headers {
                if let Ok(value) = value {
                    response.headers_mut().insert(name, value);
                }
            }
            response
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}
