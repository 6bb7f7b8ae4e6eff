//! Reads YAML with the place of each value, within limits.
//!
//! YAML lets a small file describe a huge value, by aliases that repeat aliases. All counts are
//! limited, those after expansion too. Only what JSON can express is accepted, and only `true` and
//! `false` are booleans.

use std::{borrow::Cow, collections::BTreeMap, fmt, path::Path, sync::Arc};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Number, Value};
use serde_saphyr::{
    Error, Localizer, Location, NonFiniteFloatPolicy, Options, RenderOptions, SnippetMode, Spanned,
    UserMessageFormatter,
};

use super::node::{Content, Node};
use crate::config::{Fault, Origin, Position};

/// Levels of mappings and lists.
const MAX_DEPTH: usize = 32;
/// Values in a file, with those that aliases repeat.
const MAX_NODES: usize = 20_000;
/// Aliases (`*name`) and anchors (`&name`) in a file.
const MAX_ALIASES: usize = 1_000;

/// Reads a file into a tree. A file without values is an empty mapping.
pub(crate) fn parse(path: &Path, text: &str) -> Result<Node, Fault> {
    let file: Arc<Path> = path.into();
    let root: Option<Spanned<Yaml>> = match serde_saphyr::from_str_with_options(text, options()) {
        Ok(root) => Some(root),
        Err(Error::Eof { .. }) if is_empty(text) => None,
        Err(error) => return Err(syntax_fault(&file, &error)),
    };
    let origin = Origin::File { path: Arc::clone(&file), position: None };
    match root.map(|root| root.value.into_node(origin.clone(), &file)) {
        None | Some(Node { content: Content::Scalar(Value::Null), .. }) => {
            Ok(Node::mapping(origin))
        }
        Some(node) if matches!(node.content, Content::Mapping(_)) => Ok(node),
        Some(_) => Err(Fault::unreadable(origin, "expected a mapping of sections")),
    }
}

/// Whether a file has nothing but comments.
///
/// The reader reports the end of the text for such a file, as for one that is cut off.
fn is_empty(text: &str) -> bool {
    let text = text.trim_start_matches('\u{feff}');
    text.lines().all(|line| {
        let line = line.trim();
        line.is_empty() || line.starts_with('#') || line == "---"
    })
}

/// The limits of the parser.
fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            flow_nesting_limit: MAX_DEPTH,
            max_nodes: MAX_NODES,
            max_events: 4 * MAX_NODES,
            max_aliases: MAX_ALIASES,
            max_anchors: MAX_ALIASES,
            max_documents: 2,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: MAX_NODES,
            max_replay_stack_depth: MAX_DEPTH,
        },
        strict_booleans: true,
        // Then the report names the key.
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        reject_unsupported_tags: true,
        with_snippet: false,
    }
}

/// A message without the place, which the origin has, and without a part of the file, which may
/// contain a secret.
fn syntax_fault(file: &Arc<Path>, error: &Error) -> Fault {
    struct NoLocation;
    impl Localizer for NoLocation {
        fn attach_location<'b>(&self, base: Cow<'b, str>, _: Location) -> Cow<'b, str> {
            base
        }
    }
    let formatter = UserMessageFormatter.with_localizer(&NoLocation);
    let mut options = RenderOptions::new(&formatter);
    options.snippets = SnippetMode::Off;
    let position = error.location().and_then(position);
    let reason = error.without_snippet().render_with_options(options);
    Fault::unreadable(Origin::File { path: Arc::clone(file), position }, reason)
}

/// The place of a value, if the parser knows it.
fn position(location: Location) -> Option<Position> {
    let position = Position { line: location.line(), column: location.column() };
    (location != Location::UNKNOWN).then_some(position)
}

/// Content of a file, before the origins are known.
enum Yaml {
    /// Keys and values with their places.
    Mapping(Vec<(Spanned<String>, Spanned<Self>)>),
    /// Items with their places.
    Sequence(Vec<Spanned<Self>>),
    /// Anything else.
    Scalar(Value),
}

impl Yaml {
    /// Converts the content to a tree. The origin of a value in a mapping is the place of its key.
    fn into_node(self, origin: Origin, file: &Arc<Path>) -> Node {
        let at = |location| Origin::File { path: Arc::clone(file), position: position(location) };
        let content = match self {
            Self::Scalar(value) => Content::Scalar(value),
            Self::Sequence(items) => Content::Sequence(
                items
                    .into_iter()
                    .map(|item| item.value.into_node(at(item.referenced), file))
                    .collect(),
            ),
            Self::Mapping(fields) => {
                let field = |(key, value): (Spanned<String>, Spanned<Self>)| {
                    (key.value, value.value.into_node(at(key.referenced), file))
                };
                Content::Mapping(fields.into_iter().map(field).collect::<BTreeMap<_, _>>())
            }
        };
        Node::new(origin, content)
    }
}

impl<'de> Deserialize<'de> for Yaml {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(YamlVisitor)
    }
}

/// Reads any value that JSON can express.
struct YamlVisitor;

impl<'de> Visitor<'de> for YamlVisitor {
    type Value = Yaml;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a mapping, a list or a scalar")
    }

    fn visit_unit<E>(self) -> Result<Yaml, E> {
        Ok(Yaml::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Yaml, E> {
        Ok(Yaml::Scalar(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Yaml, E> {
        Ok(Yaml::Scalar(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Yaml, E> {
        Ok(Yaml::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Yaml, E> {
        Ok(Yaml::Scalar(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Yaml, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("the number is too large"))?;
        Ok(Yaml::Scalar(number.into()))
    }

    fn visit_str<E>(self, text: &str) -> Result<Yaml, E> {
        Ok(Yaml::Scalar(text.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Yaml, A::Error> {
        let mut all = Vec::new();
        while let Some(item) = items.next_element()? {
            all.push(item);
        }
        Ok(Yaml::Sequence(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Yaml, A::Error> {
        let mut all = Vec::new();
        while let Some(key) = fields.next_key::<Spanned<String>>()? {
            if key.value.is_empty() {
                return Err(A::Error::custom("a key is empty"));
            }
            all.push((key, fields.next_value()?));
        }
        Ok(Yaml::Mapping(all))
    }
}
