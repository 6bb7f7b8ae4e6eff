//! The known name that is nearest to a misspelt one.
//!
//! It is used for suggestions, and never to accept a name.

/// Number of characters to insert, remove, replace or swap.
pub(crate) fn distance(one: &str, other: &str) -> usize {
    strsim::damerau_levenshtein(one, other)
}

/// The nearest name, if it is near enough: at most a third of the characters differ, and one more.
///
/// Names are compared without regard to case. Of several that are equally near, the first in the
/// alphabet is returned, so that a report is the same each time.
pub(crate) fn nearest<'n>(given: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let limit = given.chars().count() / 3 + 1;
    let given = given.to_lowercase();
    let distances = names.map(|name| (distance(&given, &name.to_lowercase()), name));
    distances.filter(|(distance, _)| *distance <= limit).min().map(|(_, name)| name)
}
