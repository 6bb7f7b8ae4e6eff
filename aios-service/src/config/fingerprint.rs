//! Fingerprints of secret values.
//!
//! A hash under a key of this process, from which no secret can be guessed elsewhere.

use std::{
    collections::{BTreeMap, hash_map::RandomState},
    hash::BuildHasher,
    sync::LazyLock,
};

/// The key of the fingerprints.
static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// The fingerprints of the values that entries do not show, by key.
pub(super) type Fingerprints = BTreeMap<String, u64>;

/// The fingerprint of a text. Those of one process can be compared.
pub(super) fn fingerprint(text: &str) -> u64 {
    KEY.hash_one(text)
}
