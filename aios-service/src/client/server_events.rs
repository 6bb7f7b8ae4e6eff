//! The text of server-sent events (WHATWG HTML, section 9.2), as far as the service uses it.
//!
//! A chunk of the connection may end anywhere, also inside a character, so bytes are kept until a
//! line is complete.

/// A message of a stream.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Message {
    /// The kind of the message, if the service names one.
    pub(super) kind: Option<String>,
    /// The position that the message tells.
    pub(super) id: Option<u64>,
    /// The event; `None` if the message only tells a position.
    pub(super) data: Option<String>,
}

/// Splits a stream into messages. A message counts once its last line is complete.
#[derive(Debug, Default)]
pub(super) struct Parser {
    /// Bytes that belong to no complete line.
    buffer: Vec<u8>,
    /// The buffer was searched up to here.
    searched: usize,
    /// The fields of the message so far.
    message: Message,
}

impl Parser {
    /// Adds a chunk.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// How many bytes are held.
    ///
    /// The caller limits it, because a line or a message that never ends would fill the memory.
    pub(super) fn held(&self) -> usize {
        self.buffer.len() + self.message.data.as_ref().map_or(0, String::len)
    }

    /// The next complete message that tells a position or an event.
    pub(super) fn next(&mut self) -> Option<Message> {
        while let Some(line) = self.line() {
            if line.is_empty() {
                let message = std::mem::take(&mut self.message);
                if message != Message::default() {
                    return Some(message);
                }
                continue;
            }
            // A line that begins with a colon is a comment.
            let (name, value) = line.split_once(':').unwrap_or((&line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match name {
                "event" => self.message.kind = Some(value.to_owned()),
                "id" => self.message.id = value.parse().ok(),
                "data" => match &mut self.message.data {
                    Some(data) => {
                        data.push('\n');
                        data.push_str(value);
                    }
                    None => self.message.data = Some(value.to_owned()),
                },
                _ => {}
            }
        }
        None
    }

    /// The next complete line, without its end.
    fn line(&mut self) -> Option<String> {
        let unread = self.buffer.get(self.searched..).unwrap_or_default();
        let Some(length) = unread.iter().position(|byte| *byte == b'\n') else {
            self.searched = self.buffer.len();
            return None;
        };
        let line: Vec<u8> = self.buffer.drain(..=self.searched + length).collect();
        self.searched = 0;
        let line = String::from_utf8_lossy(&line);
        Some(line.trim_end_matches(['\r', '\n']).to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(parser: &mut Parser) -> Vec<(Option<u64>, Option<String>)> {
        std::iter::from_fn(|| parser.next()).map(|message| (message.id, message.data)).collect()
    }

    #[test]
    fn should_read_messages_wherever_the_text_is_cut() {
        let text = ":\n\nid: 7\ndata: {\"ü\":1}\n\nid:8\r\ndata:a\r\ndata: b\r\n\r\nid: 9\n\nid: 10\ndata: cut";
        let expected = vec![
            (Some(7), Some("{\"ü\":1}".to_owned())),
            (Some(8), Some("a\nb".to_owned())),
            (Some(9), None),
        ];
        for length in 1..=text.len() {
            let mut parser = Parser::default();
            let mut found = Vec::new();
            for chunk in text.as_bytes().chunks(length) {
                parser.push(chunk);
                found.extend(messages(&mut parser));
            }
            assert_eq!(found, expected, "in chunks of {length}");
        }
    }
}
