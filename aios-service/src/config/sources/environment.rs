//! Environment variables, and the keys that they set.
//!
//! The name of a variable does not say where the section ends: `AIOS_A_B_C` may be `a.b_c` or
//! `a_b.c`. The schema decides, by the sections and keys that exist. If two fit, the program has to
//! rename a section; guessing would set the wrong one.
//!
//! A misspelt variable would be ignored without a word, so an unknown name in a known section, or
//! one that is nearly known, is a fault; in the configuration of another program, which may have
//! sections that are not known here, it is reported. Any other variable with the prefix may belong to
//! another program. Kubernetes sets variables for each service, which are recognised by their form unless
//! the schema names their key.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
};

use super::node::display;
use crate::config::{
    Fault, FaultKind, Origin,
    check::{Shape, distance, nearest},
    schema::Schema,
};

/// Begins the name of every variable of ours.
pub(crate) const PREFIX: &str = "AIOS_";
/// Name of the environment, which is that of a file in the folder.
pub(crate) const ENV: &str = "AIOS_ENV";
/// A folder of further files.
pub(crate) const CONFIG_DIR: &str = "AIOS_CONFIG_DIR";
/// Ends the name of a variable that has the path of a file with the value.
const FILE_SUFFIX: &str = "_FILE";
/// Levels of keys below a section that have a name as a variable.
const MAX_LEVELS: usize = 8;
/// How many characters the name of a variable of no section may differ from a known one to be taken
/// for a misspelt one.
const MAX_TYPOS: usize = 2;

/// The environment variables.
pub(crate) struct Environment(BTreeMap<String, String>);

/// The meaning of a variable.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// It sets a key.
    Value(Vec<String>),
    /// It has the path of a file that sets a key.
    File(Vec<String>),
    /// It is a mistake.
    Fault(FaultKind),
    /// It sets nothing and may be misspelt.
    Misspelt(FaultKind),
    /// It is for other programs.
    Foreign,
}

impl Environment {
    /// Takes variables. One of ours that is not UTF-8 is a fault; others are left out.
    pub(crate) fn new(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
        faults: &mut Vec<Fault>,
    ) -> Self {
        let mut known = BTreeMap::new();
        for (name, value) in variables {
            let Ok(name) = name.into_string() else { continue };
            match value.into_string() {
                Ok(value) => {
                    known.insert(name, value);
                }
                Err(_) if name.starts_with(PREFIX) => {
                    faults
                        .push(Fault::unreadable(Origin::variable(&name), "the value is not UTF-8"));
                }
                Err(_) => {}
            }
        }
        Self(known)
    }

    /// The value of a variable.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The variables with our prefix that may set keys.
    pub(crate) fn settings(&self) -> impl Iterator<Item = (&str, &str)> {
        let variables = self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        variables.filter(|(name, _)| name.starts_with(PREFIX) && ![ENV, CONFIG_DIR].contains(name))
    }
}

/// The variable that sets a key: `AIOS_DATABASE_URL` for `database.url`, `AIOS_MAIL_TLS__CA` for
/// `mail.tls.ca`. An item is set with its list.
pub(crate) fn variable(path: &[String]) -> String {
    let is_index = |key: &String| key.bytes().all(|byte| byte.is_ascii_digit());
    let end = path.iter().position(is_index).unwrap_or(path.len());
    let path = path.get(..end).unwrap_or(path);
    let (section, keys) = match path {
        [section, keys @ ..] => (section.as_str(), keys),
        [] => ("", path),
    };
    format!("{PREFIX}{}_{}", upper(section), upper(&keys.join("__")))
}

/// A key as a part of the name of a variable.
fn upper(key: &str) -> String {
    key.to_uppercase().replace('-', "_")
}

/// The meaning of a variable, by the schema of the sections.
///
/// | the name | the value | means |
/// |---|---|---|
/// | ends with `_PORT` | a URL of TCP, UDP or SCTP | a variable of Kubernetes or Docker |
/// | names a key of the schema | any | the value of the key |
/// | names a key of the schema without its end `_FILE` | a path | a file with the value |
/// | is that of another link to a service | any | a variable of Kubernetes or Docker |
/// | fits a key without its end `_FILE` | a path | a file with the value |
/// | fits a key of a mapping with arbitrary keys | any | the value of the key |
/// | fits several keys | any | a fault |
/// | has a known section and no known key, or is nearly known | any | misspelt, with a suggestion |
/// | anything else | any | a variable of another program |
///
/// A key whose own name ends with `file` is tried first, so `AIOS_MAIL_KEY_FILE` sets
/// `mail.key_file` if the schema has such a key. A mapping with arbitrary keys has none: below it, the
/// variable has the path of a file.
pub(crate) fn meaning(schema: &Schema, name: &str, value: &str) -> Meaning {
    if is_address_of_service(name, value) {
        return Meaning::Foreign;
    }
    let whole = keys_of(schema, name);
    let base = name.strip_suffix(FILE_SUFFIX).filter(|_| !whole.iter().any(|key| key.is_named));
    let of_file = base.map(|base| keys_of(schema, base)).filter(|keys| !keys.is_empty());
    let is_file = of_file.is_some();
    let keys = of_file.unwrap_or(whole);
    // A key of the schema is meant, even if a service of Kubernetes could have set the variable.
    if is_service_link(name) && !keys.iter().any(|key| key.is_named) {
        return Meaning::Foreign;
    }
    let mut keys = keys.into_iter().map(|key| key.path);
    match (keys.next(), keys.len()) {
        (Some(key), 0) if is_file => Meaning::File(key),
        (Some(key), 0) => Meaning::Value(key),
        (Some(key), _) => {
            let keys = std::iter::once(key).chain(keys).map(|key| display(&key)).collect();
            Meaning::Fault(FaultKind::Ambiguous { keys })
        }
        (None, _) => unknown(schema, name),
    }
}

/// The meaning of a variable that sets no key.
fn unknown(schema: &Schema, name: &str) -> Meaning {
    let mut known = BTreeSet::from([ENV.to_owned(), CONFIG_DIR.to_owned()]);
    collect_variables(&schema.shape(), &mut Vec::new(), &mut known);
    let (base, suffix) = match name.strip_suffix(FILE_SUFFIX) {
        Some(base) => (base, FILE_SUFFIX),
        None => (name, ""),
    };
    let near = nearest(base, known.iter().map(String::as_str));
    let is_of_section = schema.shape().names().any(|section| rest_of(name, section).is_some());
    let is_typo = near.is_some_and(|near| distance(base, near) <= MAX_TYPOS);
    match is_of_section || is_typo {
        true => Meaning::Misspelt(FaultKind::Unknown {
            nearest: near.map(|near| near.to_owned() + suffix),
        }),
        false => Meaning::Foreign,
    }
}

/// The part of a variable's name after that of a section.
fn rest_of<'n>(name: &'n str, section: &str) -> Option<&'n str> {
    name.strip_prefix(PREFIX)?.strip_prefix(upper(section).as_str())?.strip_prefix('_')
}

/// A key that a variable may set.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    path: Vec<String>,
    /// Whether the schema names it. Otherwise it is one of a mapping with arbitrary keys.
    is_named: bool,
}

/// The keys that a variable may set; more than one if the names of sections are ambiguous.
fn keys_of(schema: &Schema, name: &str) -> Vec<Key> {
    let root = schema.shape();
    let key = |section: &str| {
        let rest = rest_of(name, section)?;
        let mut key = Key { path: vec![section.to_owned()], is_named: true };
        let mut shape = root.child(section)?;
        for segment in rest.split("__") {
            let (name, is_named) = key_of(&shape, segment)?;
            shape = shape.child(&name)?;
            key.path.push(name);
            key.is_named = is_named;
        }
        Some(key)
    };
    let keys: BTreeSet<_> = root.names().filter_map(key).collect();
    keys.into_iter().collect()
}

/// The key of a segment, and whether it is a known one: otherwise any, if the mapping accepts any.
fn key_of(shape: &Shape<'_>, segment: &str) -> Option<(String, bool)> {
    let known = shape.names().find(|known| upper(known) == segment);
    let other = || segment.to_lowercase();
    let takes_any = || !segment.is_empty() && shape.child(&other()).is_some();
    known.map(|known| (known.to_owned(), true)).or_else(|| takes_any().then(|| (other(), false)))
}

/// Collects the variables of all keys below a shape, to suggest one of them.
fn collect_variables(shape: &Shape<'_>, path: &mut Vec<String>, known: &mut BTreeSet<String>) {
    let names: BTreeSet<_> = shape.names().collect();
    if names.is_empty() && path.len() > 1 {
        known.insert(variable(path));
    }
    if path.len() > MAX_LEVELS {
        return;
    }
    for name in names {
        if let Some(child) = shape.child(name) {
            path.push(name.to_owned());
            collect_variables(&child, path, known);
            path.pop();
        }
    }
}

/// Whether a variable has the address of a service: Kubernetes and Docker set `AIOS_API_PORT` to
/// `tcp://10.0.0.1:80` if a service is named `aios-api`.
fn is_address_of_service(name: &str, value: &str) -> bool {
    let is_address = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    name.ends_with("_PORT") && is_address
}

/// Whether a name is that of another variable that Kubernetes and Docker set for every service:
/// `AIOS_API_SERVICE_HOST`, `AIOS_API_SERVICE_PORT`, `AIOS_API_SERVICE_PORT_HTTP` for each named port, and
/// `AIOS_API_PORT_80_TCP_ADDR`.
fn is_service_link(name: &str) -> bool {
    let is_part_of_port = name.split_once("_PORT_").is_some_and(|(_, rest)| {
        rest.starts_with(|first: char| first.is_ascii_digit())
            && ["_TCP", "_UDP", "_SCTP"].iter().any(|protocol| rest.contains(protocol))
    });
    name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || is_part_of_port
}
