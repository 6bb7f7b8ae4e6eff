use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

/// Longest name of a group or mailbox, in bytes; leaves room for an adapter's prefix within the
/// 255 bytes of an AMQP queue name.
const MAX_BYTES: usize = 200;

/// An invalid name of a group or mailbox.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a group or mailbox has 1 to 200 bytes of [A-Za-z0-9._-], not {text:?}")]
pub struct InvalidAddress {
    /// The refused text, truncated after 255 bytes.
    pub text: String,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks the name: 1 to 200 bytes of `[A-Za-z0-9._-]`.
            ///
            /// # Errors
            ///
            /// [`InvalidAddress`] if it is anything else.
            pub fn new(name: impl AsRef<str>) -> Result<Self, InvalidAddress> {
                check(name.as_ref()).map(|name| Self(name.into()))
            }

            /// The name.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidAddress;

            fn from_str(text: &str) -> Result<Self, InvalidAddress> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidAddress;

            fn try_from(text: String) -> Result<Self, InvalidAddress> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }
    };
}

name! {
    /// Consumers that share a subscription: each event goes to one of them.
    Group
}

name! {
    /// A named address with one reader at a time.
    Mailbox
}

fn check(name: &str) -> Result<&str, InvalidAddress> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if name.is_empty() || name.len() > MAX_BYTES || !name.bytes().all(fits) {
        return Err(InvalidAddress { text: crate::event::excerpt(name) });
    }
    Ok(name)
}

/// The place where deliveries wait.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// Shared by consumers.
    Group(Group),
    /// Read by one consumer.
    Mailbox(Mailbox),
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Group(group) => write!(formatter, "group {group}"),
            Self::Mailbox(mailbox) => write!(formatter, "mailbox {mailbox}"),
        }
    }
}

impl From<Group> for Address {
    fn from(group: Group) -> Self {
        Self::Group(group)
    }
}

impl From<Mailbox> for Address {
    fn from(mailbox: Mailbox) -> Self {
        Self::Mailbox(mailbox)
    }
}
