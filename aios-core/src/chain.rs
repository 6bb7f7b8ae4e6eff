use std::{error::Error, fmt};

/// Prints an error with all its sources, from the outermost to the root cause, separated by `: `.
///
/// The errors of this project describe their own layer and leave the rest to [`Error::source`], so
/// `{error}` alone loses the cause. Use this for logs and for messages to people. A source whose
/// text the preceding error already contains is left out, because some libraries repeat their
/// sources.
///
/// # Examples
///
/// ```
/// use aios_core::{Chain, event::Event};
///
/// let error = Event::from_json("{").unwrap_err();
/// assert_eq!(error.to_string(), "the event envelope is malformed");
/// assert_eq!(
///     Chain(&error).to_string(),
///     "the event envelope is malformed: EOF while parsing an object at line 1 column 1",
/// );
/// ```
#[derive(Clone, Copy)]
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut previous = self.0.to_string();
        formatter.write_str(&previous)?;
        let mut next = self.0.source();
        while let Some(source) = next {
            let text = source.to_string();
            if !previous.ends_with(&text) {
                write!(formatter, ": {text}")?;
                previous = text;
            }
            next = source.source();
        }
        Ok(())
    }
}

impl fmt::Debug for Chain<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Layer {
        text: &'static str,
        source: Option<Box<Self>>,
    }

    fn layers(texts: &[&'static str]) -> Option<Box<Layer>> {
        let (text, rest) = texts.split_first()?;
        Some(Box::new(Layer { text, source: layers(rest) }))
    }

    fn chain(texts: &[&'static str]) -> String {
        Chain(&*layers(texts).unwrap()).to_string()
    }

    #[test]
    fn should_print_every_source_once() {
        assert_eq!(chain(&["the store failed"]), "the store failed");
        assert_eq!(
            chain(&["the store failed", "sqlite failed to append", "disk I/O error"]),
            "the store failed: sqlite failed to append: disk I/O error"
        );
        assert_eq!(chain(&["refused: no route", "no route"]), "refused: no route");
        assert_eq!(
            chain(&["refused: no route", "no route", "host down"]),
            "refused: no route: host down"
        );
        assert_eq!(chain(&["same", "same", "same"]), "same");
    }

    #[test]
    fn should_print_the_same_for_debug() {
        assert_eq!(format!("{:?}", Chain(&*layers(&["a", "b"]).unwrap())), "a: b");
    }
}
