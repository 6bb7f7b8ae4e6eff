//! Changes of the HTTP API that break its clients.

mod changes;
mod compatibility;
mod schema;

use std::path::Path;

use aios_service::http::openapi;
use serde_json::Value;

use self::compatibility::breaks;

/// The document of the last release. Additions need no change of it: a release replaces it by `openapi.json`,
/// with `AIOS_RELEASE_OPENAPI=1 cargo test -p aios-service should_not_break_clients`. So does a change that
/// breaks clients on purpose, which then shows in its review.
#[test]
fn should_not_break_clients_of_the_last_release() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi-released.json");
    if std::env::var_os("AIOS_RELEASE_OPENAPI").is_some() {
        std::fs::write(&path, openapi()).unwrap();
    }
    let released = std::fs::read_to_string(&path).unwrap_or_else(|error| {
        panic!("{} has the document of the last release: {error}", path.display())
    });
    let released: Value = serde_json::from_str(&released).unwrap();
    let breaks = breaks(&released, &serde_json::from_str(&openapi()).unwrap());
    let breaks: Vec<_> = breaks.iter().map(|it| format!("  {it}")).collect();
    assert!(
        breaks.is_empty(),
        "clients of the last release break:\n{}\n\
         Keep what they use, or release the change: AIOS_RELEASE_OPENAPI=1 cargo test -p aios-service should_not_break_clients",
        breaks.join("\n")
    );
}
