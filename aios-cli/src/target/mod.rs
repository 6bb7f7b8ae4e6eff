//! The service with which a command works: one behind a URL, or one in this process on a store.

mod local;
mod store;

use std::time::Duration;

use aios_core::{retry::RetryPolicy, store::Store};
use aios_service::{
    client::{Client, ClientOptions},
    config::{SecretUrl, Settings},
};

use self::local::Local;
pub(crate) use self::local::SUBJECT;
pub(crate) use self::store::{open_store, store_url};
use crate::{
    arguments::Connection,
    error::CliError,
    settings::{self, ApiSettings, SECTION},
};

/// Where `aios dev` serves unless told otherwise.
pub(crate) const DEFAULT_URL: &str = "http://127.0.0.1:8080/api/v1";

/// A person waits, so fewer attempts than usual are made.
const ATTEMPTS: u32 = 3;

/// The parts that a command needs in addition to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Nothing.
    Store,
    /// The broker of the agents, because dead letters are kept there.
    Broker,
}

/// The service with which a command works.
pub(crate) struct Target {
    client: Client,
    local: Option<Local>,
    /// Where dead letters are: the service, or the broker of the settings. Without passwords.
    letters: String,
}

impl Target {
    /// Opens the service that the arguments or the settings name.
    pub(crate) async fn open(connection: &Connection, needs: Needs) -> Result<Self, CliError> {
        let settings = settings::load(connection)?;
        let place = place(connection, &settings);
        let letters = letters(&place, &settings);
        match place {
            Place::Api(url) => {
                let client = client(&url, &settings)?;
                Ok(Self { client, local: None, letters })
            }
            Place::Store(url) => {
                let local = Local::open(&url, &settings, needs).await?;
                Ok(Self { client: local.client()?, local: Some(local), letters })
            }
        }
    }

    /// The client of the service.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// The store, if this process has it open.
    pub(crate) fn store(&self) -> Option<&dyn Store> {
        self.local.as_ref().map(Local::store)
    }

    /// Where the commands about dead letters work, as people see it.
    pub(crate) fn letters(&self) -> &str {
        &self.letters
    }

    /// Closes the store, if this process has it open.
    pub(crate) async fn close(self) {
        if let Some(local) = self.local {
            drop(self.client);
            local.close().await;
        }
    }
}

/// The place that the arguments and the settings name.
pub(crate) enum Place {
    /// The URL of an API.
    Api(String),
    /// The URL of a store.
    Store(String),
}

/// Arguments come before settings, and a service before a store.
pub(crate) fn place(connection: &Connection, settings: &Settings) -> Place {
    let api = settings.section::<ApiSettings>(SECTION).and_then(|api| api.url.clone());
    let store = settings.database().url.as_ref().map(|url| url.expose().to_owned());
    match (api, store) {
        (_, Some(store)) if connection.store.is_some() => Place::Store(store),
        (Some(url), _) => Place::Api(url),
        (None, Some(store)) => Place::Store(store),
        (None, None) => Place::Api(DEFAULT_URL.to_owned()),
    }
}

/// A client of the service at a URL, with the credentials of the settings.
pub(crate) fn client(url: &str, settings: &Settings) -> Result<Client, CliError> {
    let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
    if !["http", "https"].iter().any(|it| scheme.eq_ignore_ascii_case(it)) {
        let reason = format!("it begins with http:// or https://, such as {DEFAULT_URL}");
        return Err(CliError::argument("--url or AIOS_API_URL", reason));
    }
    Ok(Client::new(url, options(settings))?)
}

/// Where the dead letters of a place are: the service, or the broker of the settings. Without a password.
fn letters(place: &Place, settings: &Settings) -> String {
    let url = match place {
        Place::Api(url) => url.parse::<SecretUrl>().ok(),
        Place::Store(_) => settings.broker().url.clone(),
    };
    url.map(|url| url.to_string()).unwrap_or_default()
}

/// The options of a client with the credentials of the settings.
fn options(settings: &Settings) -> ClientOptions {
    let delays = (Duration::from_millis(200), Duration::from_secs(1));
    let retry = RetryPolicy::new().with_max_attempts(ATTEMPTS).with_delays(delays.0, delays.1);
    let mut options = ClientOptions::new().with_retry(retry);
    if let Some(api) = settings.section::<ApiSettings>(SECTION) {
        if let Some(token) = &api.token {
            options = options.with_token(token.expose());
        }
        if let Some(key) = &api.key {
            options = options.with_api_key(key.expose());
        }
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_name_the_place_of_dead_letters_without_a_password() {
        let broker = "amqp://me:hunter2@broker.example/%2f";
        let settings = Settings::builder().other_sections().value("broker.url", broker).load();
        let settings = settings.unwrap();
        let service = Place::Api("https://me:hunter2@shop.example/api/v1".to_owned());
        assert_eq!(letters(&service, &settings), "https://me:***@shop.example/api/v1");
        let store = Place::Store("sqlite://aios.db".to_owned());
        assert_eq!(letters(&store, &settings), "amqp://me:***@broker.example/%2f");
    }
}
