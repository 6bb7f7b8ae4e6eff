//! Finds similar names, to suggest a correction.
//!
//! Used for names that a developer may have mistyped, such as an agent type that no process hosts.
//! A third of the characters may differ.

/// Returns the name among `names` that is most similar to `name`, if one is similar enough.
pub(crate) fn most_similar<'n>(name: &str, names: &'n [Box<str>]) -> Option<&'n str> {
    let allowed = name.chars().count().div_ceil(3);
    // Ties are broken by name, so the suggestion is always the same.
    let distances = names.iter().map(|known| (distance(name, known), &**known));
    distances.filter(|(distance, _)| *distance <= allowed).min().map(|(_, known)| known)
}

/// The Levenshtein distance: how many characters to insert, delete or replace.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    // One row of the matrix at a time: each entry needs only its left, upper and diagonal
    // neighbours.
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (number, character) in one.chars().enumerate() {
        let mut next = vec![number + 1];
        let mut last = number + 1;
        for (pair, known) in row.windows(2).zip(&other) {
            let [diagonal, above] = *pair else { continue };
            last = (diagonal + usize::from(character != *known)).min(above + 1).min(last + 1);
            next.push(last);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_suggest_the_intended_name() {
        let names = ["greeter", "grader", "ok"].map(Box::from);
        for (name, meant) in [
            ("greter", Some("greeter")),
            ("okk", Some("ok")),
            ("grader", Some("grader")),
            ("unrelated", None),
            ("", None),
        ] {
            assert_eq!(most_similar(name, &names), meant, "{name}");
        }
        assert_eq!(most_similar("greeter", &[]), None);
    }
}
