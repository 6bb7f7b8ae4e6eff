//! Texts that fit formats, patterns and lengths.

use serde_json::{Map, Value};

/// Longest text that is generated, in characters.
const MOST_CHARACTERS: usize = 1 << 20;
/// Most repetitions in a pattern.
const MOST_REPETITIONS: usize = 10_000;

/// Texts of a schema: of its format, of its pattern, and of its length.
pub(super) fn texts(fields: &Map<String, Value>, seed: u64) -> impl Iterator<Item = String> {
    let length = |name: &str| fields.get(name).and_then(Value::as_u64);
    let least = length("minLength").and_then(|it| usize::try_from(it).ok()).unwrap_or(0);
    let least = if least > MOST_CHARACTERS { 0 } else { least };
    let format = fields.get("format").and_then(Value::as_str).and_then(|it| of_format(it, seed));
    let pattern = fields.get("pattern").and_then(Value::as_str);
    let matching = pattern.into_iter().flat_map(move |pattern| {
        let shortest = matching(pattern, 0, seed).unwrap_or_default().chars().count();
        let missing = least.saturating_sub(shortest);
        let repeated = [0, missing, least].map(|more| matching(pattern, more, seed));
        // Of a pattern that is not bound to the end.
        let padded = matching(pattern, 0, seed).map(|text| text + &"a".repeat(missing));
        repeated.into_iter().chain([padded]).flatten().collect::<Vec<_>>()
    });
    let any = [letters(least.max(1), seed), letters(least, 0), String::new()];
    format.into_iter().chain(matching).chain(any)
}

/// Letters of at least this length, different ones for each seed.
pub(super) fn letters(length: usize, mut seed: u64) -> String {
    let mut reversed = Vec::new();
    while seed > 0 {
        reversed.push(char::from(b'a' + u8::try_from(seed % 26).unwrap_or(0)));
        seed /= 26;
    }
    let missing = length.saturating_sub(reversed.len());
    "a".repeat(missing) + &reversed.into_iter().rev().collect::<String>()
}

/// A text of a format.
fn of_format(format: &str, seed: u64) -> Option<String> {
    let (day, byte) = (seed % 28 + 1, seed % 250 + 1);
    Some(match format {
        "date-time" => format!("2000-01-{day:02}T00:00:00Z"),
        "partial-date-time" => format!("2000-01-{day:02}T00:00:00"),
        "date" => format!("2000-01-{day:02}"),
        "time" => format!("00:{:02}:00Z", seed % 60),
        "partial-time" => format!("00:{:02}:00", seed % 60),
        "duration" => format!("PT{}S", seed + 1),
        "uuid" | "uuid4" => format!("00000000-0000-4000-8000-{seed:012x}"),
        "uuid1" | "uuid3" | "uuid5" => {
            let version = format.trim_start_matches("uuid");
            format!("00000000-0000-{version}000-8000-{seed:012x}")
        }
        "email" | "idn-email" => format!("{}@example.com", letters(1, seed)),
        "hostname" | "idn-hostname" => format!("{}.example.com", letters(1, seed)),
        "ipv4" | "ip" | "ipvanyaddress" => format!("192.0.2.{byte}"),
        "ipv4network" | "ipvanynetwork" => format!("10.{byte}.0.0/16"),
        "ipv4interface" | "ipvanyinterface" => format!("192.0.2.{byte}/24"),
        "ipv6" => format!("2001:db8::{:x}", seed + 1),
        "ipv6network" => format!("2001:db8:{:x}::/48", seed + 1),
        "ipv6interface" => format!("2001:db8::{:x}/64", seed + 1),
        "uri" | "url" | "iri" | "uri-reference" | "iri-reference" | "uri-template" => {
            format!("https://example.com/{}", letters(1, seed))
        }
        "json-pointer" => format!("/{}", letters(1, seed)),
        "relative-json-pointer" => seed.to_string(),
        "json-string" => seed.to_string(),
        "byte" | "base64" | "base64url" => "YWFh".to_owned(),
        _ => return None,
    })
}

/// A text that matches a simple pattern, with more repetitions than necessary. `None` if the pattern is
/// not simple.
pub(super) fn matching(pattern: &str, more: usize, seed: u64) -> Option<String> {
    let mut parser = Parser { rest: pattern.chars().collect(), more, seed };
    parser.rest.reverse();
    let text = parser.alternatives()?;
    parser.rest.is_empty().then_some(text)
}

/// Reads a pattern, and writes what matches it.
struct Parser {
    /// The characters that are left, the next one last.
    rest: Vec<char>,
    /// Repetitions in addition to those that are necessary.
    more: usize,
    /// Chooses among what matches.
    seed: u64,
}

impl Parser {
    /// Removes the next character if it is this one.
    fn skip(&mut self, expected: char) -> bool {
        self.rest.pop_if(|next| *next == expected).is_some()
    }

    /// Sequences of which one has to match.
    fn alternatives(&mut self) -> Option<String> {
        let mut all = vec![self.sequence()?];
        while self.skip('|') {
            all.push(self.sequence()?);
        }
        let count = u64::try_from(all.len()).ok()?;
        let chosen = usize::try_from(self.seed % count).ok()?;
        all.into_iter().nth(chosen)
    }

    /// Parts that follow each other.
    fn sequence(&mut self) -> Option<String> {
        let mut text = String::new();
        while let Some(next) = self.rest.pop() {
            if next == '|' || next == ')' {
                self.rest.push(next);
                break;
            }
            let part = self.part(next)?;
            let count = self.repetitions()?;
            text += &part.repeat(count);
        }
        Some(text)
    }

    /// One part without its repetitions.
    fn part(&mut self, first: char) -> Option<String> {
        Some(match first {
            '^' | '$' => String::new(),
            '.' => letters(1, self.seed % 26),
            '[' => self.class()?.to_string(),
            '(' => {
                if self.skip('?') && !self.skip(':') {
                    return None;
                }
                let text = self.alternatives()?;
                self.skip(')').then_some(text)?
            }
            '\\' => match self.rest.pop()? {
                'b' | 'B' | 'A' | 'z' | 'Z' => String::new(),
                escaped => chosen(&escape(escaped)?, self.seed)?.to_string(),
            },
            '*' | '+' | '?' | '{' => return None,
            literal => literal.to_string(),
        })
    }

    /// A character of a class.
    fn class(&mut self) -> Option<char> {
        let is_negated = self.skip('^');
        let mut ranges = Vec::new();
        loop {
            match self.rest.pop()? {
                ']' if !ranges.is_empty() => break,
                '\\' => ranges.extend(escape(self.rest.pop()?)?),
                first => {
                    let is_range = self.rest.last() == Some(&'-')
                        && self.rest.iter().rev().nth(1).is_some_and(|next| *next != ']');
                    let last = if is_range {
                        self.rest.pop();
                        self.rest.pop()?
                    } else {
                        first
                    };
                    ranges.push((first, last));
                }
            }
        }
        if !is_negated {
            return chosen(&ranges, self.seed);
        }
        let is_in = |it: &char| ranges.iter().any(|(first, last)| (first..=last).contains(&it));
        "aA0-_.~ !#é".chars().find(|it| !is_in(it))
    }

    /// How often the part before is repeated.
    fn repetitions(&mut self) -> Option<usize> {
        let (least, most) = match self.rest.last() {
            Some('*') => (0, usize::MAX),
            Some('+') => (1, usize::MAX),
            Some('?') => (0, 1),
            Some('{') => {
                self.rest.pop();
                let mut inner = String::new();
                while *self.rest.last()? != '}' {
                    inner.push(self.rest.pop()?);
                }
                let (least, most) = inner.split_once(',').unwrap_or((&inner, &inner));
                let most = if most.is_empty() { usize::MAX } else { most.parse().ok()? };
                (least.parse().ok()?, most)
            }
            _ => return Some(1),
        };
        self.rest.pop();
        let _is_lazy = self.skip('?');
        let count = least + self.more.min(most.saturating_sub(least));
        (count <= MOST_REPETITIONS).then_some(count)
    }
}

/// The characters that an escaped one matches.
fn escape(escaped: char) -> Option<Vec<(char, char)>> {
    Some(match escaped {
        'd' => vec![('0', '9')],
        'w' => vec![('a', 'z'), ('A', 'Z'), ('0', '9'), ('_', '_')],
        'S' | 'D' => vec![('a', 'z')],
        'W' => vec![('-', '-')],
        's' => vec![(' ', ' ')],
        'n' => vec![('\n', '\n')],
        'r' => vec![('\r', '\r')],
        't' => vec![('\t', '\t')],
        other if other.is_ascii_alphanumeric() => return None,
        literal => vec![(literal, literal)],
    })
}

/// A character of ranges.
fn chosen(ranges: &[(char, char)], seed: u64) -> Option<char> {
    let (first, last) = *ranges.first()?;
    let size = u64::from(u32::from(last).checked_sub(u32::from(first))?) + 1;
    char::from_u32(u32::from(first) + u32::try_from(seed % size).ok()?)
}
