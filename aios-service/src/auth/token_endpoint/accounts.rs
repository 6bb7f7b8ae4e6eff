//! Clients and users of the issuer for development.
//!
//! Secrets are kept as hashes under a random key of this process, and compared in constant time.

use std::{collections::HashMap, fmt};

use ring::{hmac, rand::SystemRandom};

use super::InvalidSigningKey;
use crate::auth::Permissions;

/// Clients or users with their secrets, which are kept as hashes under a key of this process.
#[derive(Clone)]
pub(super) struct Accounts {
    /// Random per process.
    key: hmac::Key,
    /// By name.
    accounts: HashMap<String, Account>,
}

/// A client or user.
#[derive(Clone)]
struct Account {
    /// The hash of its secret.
    secret: hmac::Tag,
    /// The most that its tokens allow.
    permissions: Permissions,
}

impl Accounts {
    /// No accounts, and a new key.
    pub(super) fn new() -> Result<Self, InvalidSigningKey> {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        let key = key.map_err(|_| InvalidSigningKey { reason: "no random numbers".to_owned() })?;
        Ok(Self { key, accounts: HashMap::new() })
    }

    /// Adds an account, or replaces the one with this name.
    pub(super) fn add(&mut self, name: String, secret: &str, permissions: Permissions) {
        let secret = hmac::sign(&self.key, secret.as_bytes());
        self.accounts.insert(name, Account { secret, permissions });
    }

    /// The permissions of an account, if the secret is right. The time says nothing about the secret.
    ///
    /// An unknown name is found faster than a wrong secret, so names can be guessed; the endpoint
    /// is for development.
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
