//! URLs of stores: any text is either parsed to options or refused, and no error shows the
//! password.
#![no_main]

use aios_store::postgres::PostgresOptions;
use libfuzzer_sys::fuzz_target;

const PASSWORD: &str = "hunter2hunter2";

fuzz_target!(|text: &str| {
    drop(PostgresOptions::new(text));
    if text.contains("hunter2") {
        return;
    }
    for url in [
        format!("postgres://user:{PASSWORD}@127.0.0.1:1/{text}"),
        format!("postgres://user:{PASSWORD}@{text}"),
        format!("postgres://{text}:{PASSWORD}@127.0.0.1:1/database"),
    ] {
        let shown = match url.parse::<PostgresOptions>() {
            Ok(options) => format!("{options:?}"),
            Err(error) => format!("{error} {error:?} {:?}", PostgresOptions::new(&url)),
        };
        assert!(!shown.contains(PASSWORD), "{shown}");
    }
});
