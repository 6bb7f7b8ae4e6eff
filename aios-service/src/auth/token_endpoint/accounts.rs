use std::{collections::HashMap, fmt};

use ring::{hmac, rand::SystemRandom};

use super::InvalidSigningKey;
use crate::auth::Permissions;

/// Clients or users with their secrets, which are kept as hashes under a key of this process.
#[derive(Clone)]
pub(super) struct Accounts {
    key: hmac::Key,
    accounts: HashMap<String, Account>,
}

#[derive(Clone)]
struct Account {
    secret: hmac::Tag,
    permissions: Permissions,
}

impl Accounts {
    pub(super) fn new() -> Result<Self, InvalidSigningKey> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        let key = key.map_err(|_| InvalidSigningKey { reason: "no random numbers".to_owned() })?;
        Ok(Self { key, accounts: HashMap::new() })
    }

    pub(super) fn add(&mut self, name: String, secret: &str, permissions: Permissions) {
        let secret = hmac::sign(&self.key, secret.as_bytes());
        self.accounts.insert(name, Account { secret, permissions });
    }

    /// The permissions of an account, if the secret is right. The time says nothing about the secret.
    pub(super) fn check(&self, name: &str, secret: &str) -> Option<&Permissions> {
        let account = self.accounts.get(name)?;
        let is_right = hmac::verify(&self.key, secret.as_bytes(), account.secret.as_ref()).is_ok();
        is_right.then_some(&account.permissions)
    }
}

impl fmt::Debug for Accounts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.accounts.keys()).finish()
    }
}
