//! The test harness: programs and private servers that a test may kill.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::missing_panics_doc,
    reason = "a harness fails by panicking, as a test does"
)]

pub mod log;
pub mod otlp;
pub mod postgres;
pub mod program;
pub mod rabbitmq;
pub mod socket;

/// Reports that a test is skipped because something that it needs is missing.
///
/// # Panics
///
/// If `AIOS_REQUIRE_SERVICES` is `1`: a test that does not run must not pass.
#[allow(clippy::disallowed_methods, reason = "CI sets the variable for the tests")]
pub fn skip(reason: &str) {
    assert!(
        std::env::var("AIOS_REQUIRE_SERVICES").as_deref() != Ok("1"),
        "{reason}, and AIOS_REQUIRE_SERVICES=1 wants every test to run"
    );
    eprintln!("skipped: {reason}");
}

/// Runs the Rust programs of Markdown pages as doctests.
#[cfg(doctest)]
macro_rules! pages {
    ($($name:ident: $path:literal,)*) => {$(
        #[doc = include_str!(concat!("../../", $path))]
        #[derive(Debug)]
        pub struct $name;
    )*};
}

#[cfg(doctest)]
pages! {
    Readme: "README.md",
    AgentsReadme: "aios-agents/README.md",
    BrokerReadme: "aios-broker/README.md",
    CoreReadme: "aios-core/README.md",
    LlmReadme: "aios-llm/README.md",
    StoreReadme: "aios-store/README.md",
    GuideAdapters: "docs/guide/pages/adapters.md",
    GuideAgents: "docs/guide/pages/agents.md",
    GuideClients: "docs/guide/pages/clients.md",
    GuideErrors: "docs/guide/pages/errors.md",
    GuideEvents: "docs/guide/pages/events.md",
    GuideFirstHour: "docs/guide/pages/first-hour-rust.md",
    GuideHttp: "docs/guide/pages/http.md",
    GuideLanguageModels: "docs/guide/pages/language-models.md",
    GuideOperating: "docs/guide/pages/operating.md",
    GuideWorkflows: "docs/guide/pages/workflows.md",
}
