//! URLs of brokers: any text either connects or is refused, and no error shows the password.
//!
//! No connection succeeds: no process listens on the port of the URLs.
#![no_main]

use std::{sync::LazyLock, time::Duration};

use libfuzzer_sys::fuzz_target;
use tokio::runtime::{Builder, Runtime};
use url::Url;

const PASSWORD: &str = "hunter2hunter2";

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_current_thread().enable_all().build().expect("a runtime"));

/// Whether the URL contacts no other machine and reads no file.
fn is_harmless(text: &str) -> bool {
    if text.contains("file") {
        return false;
    }
    match Url::parse(text) {
        Ok(url) if url.scheme().starts_with("amqp") => {
            url.host_str() == Some("127.0.0.1") && url.port() == Some(1)
        }
        _ => true,
    }
}

fn connect(text: &str) -> String {
    let connecting = async {
        match tokio::time::timeout(Duration::from_millis(1), aios_broker::connect(text)).await {
            Ok(Ok(broker)) => format!("{broker:?}"),
            Ok(Err(error)) => format!("{error} {error:?}"),
            Err(_) => String::new(),
        }
    };
    RUNTIME.block_on(connecting)
}

fuzz_target!(|text: &str| {
    if is_harmless(text) {
        connect(text);
    }
    if text.contains("hunter2") {
        return;
    }
    for url in [
        format!("amqp://user:{PASSWORD}@127.0.0.1:1/{text}"),
        format!("amqp://{text}:{PASSWORD}@127.0.0.1:1/"),
    ] {
        if is_harmless(&url) {
            let shown = connect(&url);
            assert!(!shown.contains(PASSWORD), "{shown}");
        }
    }
});
