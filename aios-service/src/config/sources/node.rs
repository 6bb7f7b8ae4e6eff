//! The values of a layer as a tree, each with its origin.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::config::Origin;

/// A value and where it comes from.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// The place of the value.
    pub(crate) origin: Origin,
    /// The value.
    pub(crate) content: Content,
}

/// The content of a node.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// Keys with their values, which may come from several layers.
    Mapping(BTreeMap<String, Node>),
    /// A list, which is replaced as a whole.
    Sequence(Vec<Node>),
    /// A null, boolean, number or text of a file or of code, which has its type.
    Scalar(Value),
    /// A text of the environment, whose type follows from the schema.
    Text(String),
}

impl Node {
    /// A node.
    pub(crate) fn new(origin: Origin, content: Content) -> Self {
        Self { origin, content }
    }

    /// An empty mapping.
    pub(crate) fn mapping(origin: Origin) -> Self {
        Self::new(origin, Content::Mapping(BTreeMap::new()))
    }

    /// A tree in which everything has the same origin.
    pub(crate) fn from_value(origin: &Origin, value: Value) -> Self {
        let content = match value {
            Value::Array(items) => Content::Sequence(
                items.into_iter().map(|item| Self::from_value(origin, item)).collect(),
            ),
            Value::Object(fields) => {
                let field = |(key, value)| (key, Self::from_value(origin, value));
                Content::Mapping(fields.into_iter().map(field).collect())
            }
            scalar => Content::Scalar(scalar),
        };
        Self::new(origin.clone(), content)
    }

    /// The tree that has only this node, at the path.
    pub(crate) fn at(self, path: &[String]) -> Self {
        path.iter().rev().fold(self, |node, key| {
            let origin = node.origin.clone();
            Self::new(origin, Content::Mapping(BTreeMap::from([(key.clone(), node)])))
        })
    }

    /// Puts a later layer over this one. Mappings are merged; everything else is replaced.
    ///
    /// A null of a later layer replaces a value too: it then counts as not set. The origin of a
    /// mapping stays that of the first layer that has it; each of its values keeps its own.
    pub(crate) fn merge(&mut self, later: Self) {
        match (&mut self.content, later.content) {
            (Content::Mapping(fields), Content::Mapping(others)) => {
                for (key, other) in others {
                    match fields.get_mut(&key) {
                        Some(field) => field.merge(other),
                        None => {
                            fields.insert(key, other);
                        }
                    }
                }
            }
            (_, content) => *self = Self::new(later.origin, content),
        }
    }

    /// The node at a key or index.
    fn child(&self, key: &str) -> Option<&Self> {
        match &self.content {
            Content::Mapping(fields) => fields.get(key),
            Content::Sequence(items) => items.get(key.parse::<usize>().ok()?),
            Content::Scalar(_) | Content::Text(_) => None,
        }
    }

    /// The origin of what is at the path, or of what contains it.
    pub(crate) fn origin_of(&self, path: &[String]) -> &Origin {
        let child = path.split_first().and_then(|(key, rest)| Some((self.child(key)?, rest)));
        child.map_or(&self.origin, |(child, rest)| child.origin_of(rest))
    }
}

/// The path as people write it: `mail.hosts[0]`.
pub(crate) fn display(path: &[String]) -> String {
    path.iter().fold(String::new(), |text, key| match key.parse::<usize>() {
        Ok(index) => format!("{text}[{index}]"),
        Err(_) if text.is_empty() => key.clone(),
        Err(_) => format!("{text}.{key}"),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn layer(value: Value) -> Node {
        Node::from_value(&Origin::Code, value)
    }

    #[test]
    fn should_merge_mappings_and_replace_the_rest() {
        let mut tree = layer(json!({"a": {"b": 1, "c": [1, 2]}, "d": {"e": 1}}));
        tree.merge(layer(json!({"a": {"c": [3], "f": 4}, "d": null})));
        let scalar = |path: &[&str]| {
            let path: Vec<_> = path.iter().map(|key| (*key).to_owned()).collect();
            let node = path.iter().try_fold(&tree, |node, key| node.child(key));
            match node.map(|node| &node.content) {
                Some(Content::Scalar(value)) => Some(value.clone()),
                _ => None,
            }
        };
        assert_eq!(scalar(&["a", "b"]), Some(json!(1)));
        assert_eq!(scalar(&["a", "c", "0"]), Some(json!(3)));
        assert_eq!(scalar(&["a", "c", "1"]), None);
        assert_eq!(scalar(&["a", "f"]), Some(json!(4)));
        assert_eq!(scalar(&["d"]), Some(Value::Null));
    }

    #[test]
    fn should_write_paths_as_people_do() {
        let path = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>();
        assert_eq!(display(&path(&["mail", "hosts", "0", "name"])), "mail.hosts[0].name");
        assert_eq!(display(&[]), "");
    }
}
