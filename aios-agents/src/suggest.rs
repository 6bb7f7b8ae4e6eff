//! Suggestions for misspelt names.

/// Maximum number of names in a hint.
const SHOWN: usize = 10;

/// A hint to append to a message: the name closest to `given`, and the existing names. Empty if there are
/// no names.
pub(crate) fn hint<S: AsRef<str>>(what: &str, given: &str, names: &[S]) -> String {
    if names.is_empty() {
        return String::new();
    }
    let shown: Vec<_> = names.iter().take(SHOWN).map(AsRef::as_ref).collect();
    let rest = if names.len() > SHOWN { ", ..." } else { "" };
    let listed = format!("{what}: {}{rest}", shown.join(", "));
    match closest(given, names) {
        Some(name) => format!("; did you mean {name}? ({listed})"),
        None => format!("; {listed}"),
    }
}

/// The name that is most similar to `given`, if one is similar enough.
fn closest<'n, S: AsRef<str>>(given: &str, names: &'n [S]) -> Option<&'n str> {
    let limit = given.chars().count() / 3 + 1;
    let distances = names.iter().map(AsRef::as_ref).map(|name| (distance(given, name), name));
    distances.filter(|(distance, _)| *distance <= limit).min().map(|(_, name)| name)
}

/// The Levenshtein distance of two texts.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (index, letter) in one.chars().enumerate() {
        let mut next = vec![index + 1];
        for ((above, before), theirs) in row.iter().skip(1).zip(&row).zip(&other) {
            let left = next.last().copied().unwrap_or_default();
            next.push((before + usize::from(letter != *theirs)).min(above + 1).min(left + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_count_what_has_to_change() {
        for (one, other, changes) in [
            ("", "", 0),
            ("a", "", 1),
            ("", "ab", 2),
            ("welcome", "wellcome", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(one, other), changes, "{one} {other}");
        }
    }

    #[test]
    fn should_suggest_similar_names_and_list_the_existing_ones() {
        let names = ["deploy", "welcome"];
        assert_eq!(
            hint("registered", "wellcome", &names),
            "; did you mean welcome? (registered: deploy, welcome)"
        );
        assert_eq!(hint("registered", "x", &names), "; registered: deploy, welcome");
        assert_eq!(hint::<&str>("registered", "x", &[]), "");
        let many: Vec<String> = (0..30).map(|number| format!("workflow_{number}")).collect();
        assert!(hint("registered", "zzzz", &many).ends_with("workflow_9, ..."));
    }
}
