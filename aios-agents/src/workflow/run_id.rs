//! Ids of runs: those chosen by users and those derived by the engine.
//!
//! | id of | form |
//! |---|---|
//! | a run that a user started | as chosen, without `~` |
//! | the child of operation 3 | `<parent>~3` |
//! | the second run of a chain | `<first>~r2` |
//! | either, if the base is too long | `<beginning>~h<hash>~<part>` |
//!
//! No id that a user chooses contains the separator, so a derived id never meets one that was chosen.
//! All successors derive from the first run of their chain, not from each other: their ids do not grow.
//! An id proves nothing by itself: a child or a successor is recognised by what its journal says about
//! its origin.

use aios_core::{catalog::codes, event::EventId};

/// Maximum length of a run id in bytes.
///
/// The id becomes part of names of streams and of task ids, which have limits of their own.
const MAX_BYTES: usize = 200;
/// Separates the parts of derived ids; no id that a user chooses contains it.
const SEPARATOR: char = '~';

/// The reason why a run id is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidRunId {
    /// The id is empty or too long.
    #[error("a run id must have 1 to {MAX_BYTES} bytes, this one has {bytes}")]
    Length {
        /// Length of the id in bytes.
        bytes: usize,
    },
    /// The id contains a forbidden character.
    #[error(
        "a run id must not contain control characters or `~`, this one contains {character:?}{}",
        remedy(*character)
    )]
    Character {
        /// The first forbidden character.
        character: char,
    },
    /// The id is `.` or `..`: clients take it out of a URL, and would send a request for another path.
    #[error("a run id must not be `.` or `..`, which can't be in a URL")]
    Dots,
}

impl InvalidRunId {
    /// Failure code of an invalid id.
    pub(crate) const CODE: &'static str = codes::INVALID_RUN_ID;
}

/// The remedy for a character that ids of existing runs may contain.
fn remedy(character: char) -> &'static str {
    match character {
        SEPARATOR => {
            ": the ids of children and of runs that continue others have it, so replace it in an id that is \
             made of one, for example by `.`"
        }
        _ => "",
    }
}

/// Checks an id that a user chose for a run.
pub(crate) fn check_chosen(run_id: &str) -> Result<(), InvalidRunId> {
    // RFC 3986, section 5.2.4.
    if matches!(run_id, "." | "..") {
        return Err(InvalidRunId::Dots);
    }
    check(run_id, |character| character.is_control() || character == SEPARATOR)
}

/// Checks the id of an existing run, which may be derived.
pub(crate) fn check_existing(run_id: &str) -> Result<(), InvalidRunId> {
    check(run_id, char::is_control)
}

/// Checks the length first, so that the message about a very long id names no character of it.
fn check(run_id: &str, is_forbidden: impl Fn(char) -> bool) -> Result<(), InvalidRunId> {
    if run_id.is_empty() || run_id.len() > MAX_BYTES {
        return Err(InvalidRunId::Length { bytes: run_id.len() });
    }
    match run_id.chars().find(|character| is_forbidden(*character)) {
        Some(character) => Err(InvalidRunId::Character { character }),
        None => Ok(()),
    }
}

/// Default id of the child that an operation starts.
pub(crate) fn of_child(parent: &str, operation: u64) -> String {
    derive(parent, &operation.to_string())
}

/// Id of the run with this number, from 2, in the chain of continue-as-new that `first` began.
pub(crate) fn of_successor(first: &str, number: u64) -> String {
    derive(first, &format!("r{number}"))
}

/// The number of a run in its chain, if its id is that of a successor.
pub(crate) fn number_in_chain(run_id: &str) -> Option<u64> {
    run_id.rsplit_once(SEPARATOR)?.1.strip_prefix('r')?.parse().ok()
}

/// Appends a part to an id. A base that is too long is replaced by its beginning and the hash of the
/// whole base.
fn derive(base: &str, part: &str) -> String {
    let room = MAX_BYTES.saturating_sub(part.len() + SEPARATOR.len_utf8());
    if base.len() <= room {
        return format!("{base}{SEPARATOR}{part}");
    }
    let hash = EventId::derive(base).key().simple().to_string();
    // Two more bytes, for the separator before the hash and the letter `h`.
    let kept = base.floor_char_boundary(room.saturating_sub(hash.len() + 2));
    let beginning = base.get(..kept).unwrap_or_default();
    format!("{beginning}{SEPARATOR}h{hash}{SEPARATOR}{part}")
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn should_take_what_users_choose_and_refuse_what_is_derived() {
        for good in ["a", "A b", "a/b", "../../x", "é", "release-1.2.3", &"l".repeat(200)] {
            assert_eq!(check_chosen(good), Ok(()), "{good:?}");
        }
        for (bad, found) in [("a\0b", '\0'), ("a\nb", '\n'), ("~", '~'), ("job~2", '~')] {
            let refused = Err(InvalidRunId::Character { character: found });
            assert_eq!(check_chosen(bad), refused, "{bad:?}");
        }
        for bytes in [0, 201, 100_000] {
            assert_eq!(check_chosen(&"l".repeat(bytes)), Err(InvalidRunId::Length { bytes }));
        }
        assert_eq!([".", ".."].map(check_chosen), [Err(InvalidRunId::Dots); 2]);
        assert_eq!(["...", "./", "a.."].map(check_chosen), [Ok(()); 3]);
        assert_eq!(check_existing("job~r2"), Ok(()));
        assert!(check_existing("a\0b").is_err() && check_existing("").is_err());
    }

    #[test]
    fn should_derive_ids_of_bounded_length_at_any_depth() {
        for first in ["a".to_owned(), "ü".repeat(100), "x".repeat(200)] {
            let mut id = first;
            let mut seen = HashSet::new();
            for depth in 0..200 {
                id = match depth % 3 {
                    0 => of_successor(&id, u64::MAX - depth),
                    _ => of_child(&id, depth),
                };
                assert_eq!(check_existing(&id), Ok(()), "{id}");
                assert!(check_chosen(&id).is_err() && seen.insert(id.clone()), "{id}");
            }
        }
    }

    #[test]
    fn should_derive_different_ids_from_long_ids_that_begin_alike() {
        let one = format!("{}1", "x".repeat(199));
        let two = format!("{}2", "x".repeat(199));
        assert_ne!(of_child(&one, 1), of_child(&two, 1));
        assert_ne!(of_child(&one, 1), of_successor(&one, 1));
        assert_eq!(of_child("release-1.2", 3), "release-1.2~3");
        assert_eq!(number_in_chain(&of_successor("job", 12)), Some(12));
        assert_eq!(number_in_chain(&of_successor(&one, 12)), Some(12));
        assert_eq!(number_in_chain("job"), None);
        assert_eq!(number_in_chain(&of_child("job", 2)), None);
    }
}
