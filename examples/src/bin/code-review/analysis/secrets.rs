//! Likely secrets: well-known token formats, and random-looking quoted values assigned to names
//! such as `password`. A finding states the place and the kind, never the value.
//!
//! The formats are those that their issuers document and gitleaks' default rules use.

use std::{collections::BTreeSet, sync::LazyLock};

use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{compile, lines::LineIndex};

/// The least entropy of a value that looks random, in bits per character. Eight different
/// characters reach it; words and placeholders of that length rarely do.
const MIN_ENTROPY: f64 = 3.0;

/// The place of a likely secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Secret {
    /// Its line, from 1.
    pub(crate) line: u64,
    /// Its kind.
    pub(crate) kind: SecretKind,
}

/// The kind of a likely secret.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SecretKind {
    /// Access key of Amazon Web Services, id or secret.
    AwsKey,
    /// Token of GitHub.
    GithubToken,
    /// Token of GitLab.
    GitlabToken,
    /// API key of Google.
    GoogleApiKey,
    /// First line of a private key.
    PrivateKey,
    /// Token or web hook of Slack.
    SlackToken,
    /// Live key of Stripe.
    StripeKey,
    /// A random-looking value for a name such as `password` or `api_key`.
    Assignment,
}

/// One group per kind, so that a text is searched once.
static SHAPES: LazyLock<Regex> = LazyLock::new(|| {
    compile(concat!(
        r"(?-u:\b)(?<aws>(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16})(?-u:\b)",
        r"|(?-u:\b)(?<github>gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{82})(?-u:\b)",
        r"|(?-u:\b)(?<gitlab>glpat-[A-Za-z0-9_-]{20})",
        r"|(?-u:\b)(?<google>AIza[A-Za-z0-9_-]{35})",
        r"|(?<private>-----BEGIN (?:[A-Z]{2,9} )?PRIVATE KEY(?: BLOCK)?-----)",
        r"|(?-u:\b)(?<slack>xox[abeoprs]-[A-Za-z0-9-]{10,250}",
        r"|hooks\.slack\.com/services/T[A-Za-z0-9]{8,}/B[A-Za-z0-9]{8,}/[A-Za-z0-9]{20,})",
        r"|(?-u:\b)(?<stripe>[sr]k_live_[A-Za-z0-9]{20,})",
    ))
});

const SHAPE_KINDS: [(&str, SecretKind); 7] = [
    ("aws", SecretKind::AwsKey),
    ("github", SecretKind::GithubToken),
    ("gitlab", SecretKind::GitlabToken),
    ("google", SecretKind::GoogleApiKey),
    ("private", SecretKind::PrivateKey),
    ("slack", SecretKind::SlackToken),
    ("stripe", SecretKind::StripeKey),
];

static AWS_SECRET: LazyLock<Regex> = LazyLock::new(|| {
    compile(r#"(?i-u:aws_secret_access_key)["']?[ \t]*[=:][ \t]*["']?[A-Za-z0-9/+]{40}(?-u:\b)"#)
});

static ASSIGNMENT: LazyLock<Regex> = LazyLock::new(|| {
    compile(concat!(
        r"(?i-u:passw(?:or)?d|passphrase|secret|token|api[_-]?key|access[_-]?key|private[_-]?key)",
        r#"["'\]]{0,2}[ \t]*(?::=|=>|=|:)[ \t]*["'`]([!-~--["'`]]{8,200})["'`]"#,
    ))
});

/// The likely secrets of a text, in order, at most one of each kind per line.
pub(crate) fn find(source: &str, index: &LineIndex) -> BTreeSet<Secret> {
    let shapes = SHAPES.captures_iter(source).filter_map(|found| {
        let (_, kind) = SHAPE_KINDS.iter().find(|(group, _)| found.name(group).is_some())?;
        Some((found.get(0)?.start(), *kind))
    });
    let keys = AWS_SECRET.find_iter(source).map(|found| (found.start(), SecretKind::AwsKey));
    let assignments = ASSIGNMENT.captures_iter(source).filter_map(|found| {
        let value = found.get(1)?;
        looks_random(value.as_str()).then(|| (value.start(), SecretKind::Assignment))
    });
    let places = shapes.chain(keys).chain(assignments);
    places.map(|(at, kind)| Secret { line: index.line(at), kind }).collect()
}

/// Whether a value is neither a word, nor a placeholder, nor the name of something else.
fn looks_random(value: &str) -> bool {
    let has = |test: fn(&char) -> bool| value.chars().any(|character| test(&character));
    has(char::is_ascii_digit)
        && has(char::is_ascii_alphabetic)
        && !["${", "{{", "<", "{}", "%s", "://"].iter().any(|hint| value.contains(hint))
        && !["$", "%", "{"].iter().any(|hint| value.starts_with(hint))
        && entropy(value) >= MIN_ENTROPY
}

/// Shannon entropy of the bytes, in bits per byte.
fn entropy(value: &str) -> f64 {
    let mut counts = [0_u32; 256];
    for byte in value.bytes() {
        counts.iter_mut().skip(byte.into()).take(1).for_each(|count| *count += 1);
    }
    let total: f64 = counts.iter().copied().map(f64::from).sum();
    let shares = counts.iter().filter(|count| **count > 0).map(|count| f64::from(*count) / total);
    shares.map(|share| -share * share.log2()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(source: &str) -> Vec<(u64, SecretKind)> {
        let found = find(source, &LineIndex::new(source));
        found.into_iter().map(|secret| (secret.line, secret.kind)).collect()
    }

    // The examples are assembled here, so that no scanner reports this file as a leak.

    #[test]
    fn should_know_the_shapes_of_tokens() {
        let body = "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8";
        let shapes = [
            (format!("{}{}", "AKIA", "IOSFODNN7EXAMPLE"), SecretKind::AwsKey),
            (format!("AWS_SECRET_ACCESS_KEY={body}abcd"), SecretKind::AwsKey),
            (format!("{}{body}", "ghp_"), SecretKind::GithubToken),
            (format!("{}{}", "glpat-", &body[..20]), SecretKind::GitlabToken),
            (format!("{}{}", "AIza", &body[..35]), SecretKind::GoogleApiKey),
            (format!("-----BEGIN {} KEY-----", "RSA PRIVATE"), SecretKind::PrivateKey),
            (format!("-----BEGIN {} KEY-----", "PRIVATE"), SecretKind::PrivateKey),
            (format!("{}1234567890-abc", "xoxb-"), SecretKind::SlackToken),
            (format!("{}_live_{body}", "sk"), SecretKind::StripeKey),
        ];
        for (text, kind) in shapes {
            assert_eq!(kinds(&format!("\nx {text} y")), [(2, kind)], "{text}");
        }
    }

    #[test]
    fn should_suspect_random_values_of_telling_names() {
        let value = concat!("hunter2", "Xy!q9");
        for code in ["password = ", "\"api_key\": ", "dbPassword := ", "SECRET_TOKEN="] {
            assert_eq!(
                kinds(&format!("{code}\"{value}\"")),
                [(1, SecretKind::Assignment)],
                "{code}"
            );
        }
    }

    #[test]
    fn should_not_suspect_words_placeholders_and_lookalikes() {
        let harmless = [
            "password = \"password\"",
            "password = \"${DB_PASSWORD_1}\"",
            "token = \"aaaaaaaa1\"",
            "token = next_token(12345678)",
            "url = \"https://example.com/a1b2c3d4e5\"",
            "AKIAshort",
            "-----BEGIN PUBLIC KEY-----",
        ];
        for text in harmless {
            assert_eq!(kinds(text), [], "{text}");
        }
    }

    #[test]
    fn should_measure_entropy() {
        assert!(entropy("aaaa").abs() < 1e-9);
        assert!((entropy("abcd") - 2.0).abs() < 1e-9);
    }
}
