use std::io;

use super::{Output, plain};

/// The properties of one thing, for people.
#[derive(Default)]
pub(crate) struct Details(Vec<(&'static str, String)>);

impl Details {
    /// Adds a property, unless it has no value.
    pub(crate) fn with(mut self, name: &'static str, value: Option<impl ToString>) -> Self {
        self.0.extend(value.map(|value| (name, value.to_string())));
        self
    }

    pub(crate) fn write(&self, output: &mut Output) -> io::Result<()> {
        let width = self.0.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
        self.0.iter().try_for_each(|(name, value)| {
            output.line(format_args!("{name:<width$}  {}", plain(value)))
        })
    }
}
