//! Suggestions for misspelt names.
//!
//! Errors about unknown names use them, so that a developer sees the typing mistake at once.

use strsim::damerau_levenshtein;

/// Maximum number of names in a hint.
const SHOWN: usize = 10;

/// A hint to append to a message: the name closest to `given`, if that is not one, and the existing names.
/// Empty if there are no names.
pub(crate) fn hint<S: AsRef<str>>(what: &str, given: &str, names: &[S]) -> String {
    if names.is_empty() {
        return String::new();
    }
    let shown: Vec<_> = names.iter().take(SHOWN).map(AsRef::as_ref).collect();
    let rest = if names.len() > SHOWN { ", ..." } else { "" };
    let listed = format!("{what}: {}{rest}", shown.join(", "));
    match closest(given, names).filter(|name| *name != given) {
        Some(name) => format!("; did you mean {name}? ({listed})"),
        None => format!("; {listed}"),
    }
}

/// The name that is most similar to `given`, if one is similar enough.
pub(crate) fn closest<'n, S: AsRef<str>>(given: &str, names: &'n [S]) -> Option<&'n str> {
    // A third of the characters may differ, and at least one.
    let limit = given.chars().count() / 3 + 1;
    // Ties are broken by name, so the suggestion is always the same.
    let distances =
        names.iter().map(AsRef::as_ref).map(|name| (damerau_levenshtein(given, name), name));
    distances.filter(|(distance, _)| *distance <= limit).min().map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn should_find_the_intended_name() {
        let names = ["greeter", "grader", "ok"];
        for (name, meant) in [
            ("greter", Some("greeter")),
            ("gretere", Some("greeter")),
            ("okk", Some("ok")),
            ("grader", Some("grader")),
            ("unrelated", None),
            ("", None),
        ] {
            assert_eq!(closest(name, &names), meant, "{name}");
        }
        assert_eq!(closest::<&str>("greeter", &[]), None);
    }

    #[test]
    fn should_suggest_similar_names_and_list_the_existing_ones() {
        let names = ["deploy", "welcome"];
        assert_eq!(
            hint("registered", "wellcome", &names),
            "; did you mean welcome? (registered: deploy, welcome)"
        );
        // Perhaps another version.
        assert_eq!(hint("registered", "welcome", &names), "; registered: deploy, welcome");
        assert_eq!(hint("registered", "x", &names), "; registered: deploy, welcome");
        assert_eq!(hint::<&str>("registered", "x", &[]), "");
        let many: Vec<String> = (0..30).map(|number| format!("workflow_{number}")).collect();
        assert!(hint("registered", "zzzz", &many).ends_with("workflow_9, ..."));
    }
}
