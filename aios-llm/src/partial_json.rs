//! JSON that is cut off.
//!
//! Used to show structured output while it is written. The text is tried as it is, with what is
//! open closed. If that is not JSON, for example within a number or a key, it is cut at the latest
//! place where a value was complete, and then at earlier ones. Nothing is validated: the result is
//! for people to look at. It stays text, so no number loses its precision.

use aios_core::event::Payload;
use serde_json::Value;

/// Completes JSON that is cut off anywhere; `None` if nothing of it is known yet, or
/// if it is not JSON.
pub(crate) fn complete(text: &str) -> Option<Payload> {
    // The closing brackets that are missing, the innermost last.
    let mut open = Vec::new();
    let mut in_text = false;
    let mut is_escaped = false;
    // Where the text can be cut, and what is open there.
    let mut cuts = Vec::new();
    for (index, byte) in text.bytes().enumerate() {
        if in_text {
            match byte {
                _ if is_escaped => is_escaped = false,
                b'\\' => is_escaped = true,
                b'"' => in_text = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_text = true,
            b'{' => open.push('}'),
            b'[' => open.push(']'),
            b'}' | b']' => drop(open.pop()),
            _ => {}
        }
        if matches!(byte, b'{' | b'[') {
            cuts.push((index + 1, open.clone()));
        } else if byte == b',' {
            cuts.push((index, open.clone()));
        }
        // Only the latest places are needed.
        if cuts.len() > 64 {
            cuts.drain(..32);
        }
    }
    let as_it_is = if in_text {
        // An incomplete escape is left out.
        let end = text.rfind('\\').filter(|at| is_escaped || text.len() - at < 6);
        [Some(format!("{text}\"")), end.and_then(|at| text.get(..at)).map(|it| format!("{it}\""))]
    } else {
        [Some(text.to_owned()), None]
    };
    let cuts = cuts.into_iter().rev();
    let cut = cuts.filter_map(|(at, open)| Some((text.get(..at)?.to_owned(), open)));
    let whole = as_it_is.into_iter().flatten().map(|text| (text, open.clone()));
    whole.chain(cut).find_map(|(text, open)| {
        // The innermost bracket is closed first.
        let text: String = text.chars().chain(open.into_iter().rev()).collect();
        // The value is only for a check: half of a pair of escapes is no text.
        serde_json::from_str::<Value>(&text).ok()?;
        Payload::from_text(text).ok()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn should_complete_what_is_cut_off() {
        for (text, value) in [
            (r#"{"a":1}"#, json!({"a": 1})),
            (r#"{"a":1,"b"#, json!({"a": 1})),
            (r#"{"a":1,"b":"#, json!({"a": 1})),
            (r#"{"a":"wor"#, json!({"a": "wor"})),
            (r#"{"a":"wor\"#, json!({"a": "wor"})),
            (r#"{"a":"wor\u00"#, json!({"a": "wor"})),
            (r#"{"a":"wor\ud83d\ude"#, json!({})),
            (r#"{"a":[1,2"#, json!({"a": [1, 2]})),
            (r#"{"a":[{"b":tr"#, json!({"a": [{}]})),
            ("{", json!({})),
        ] {
            let completed = complete(text).map(|it| it.decode::<Value>().unwrap());
            assert_eq!(completed, Some(value), "{text}");
        }
        let large = complete(r#"{"n":12345678901234567890123,"t":"wor"#).unwrap();
        assert_eq!(large.as_str(), r#"{"n":12345678901234567890123,"t":"wor"}"#);
        assert_eq!(complete(""), None);
        assert_eq!(complete("Hello"), None);
    }

    #[test]
    fn should_complete_every_prefix() {
        let whole = r#"{"title":"A \"b\"","list":[1,{"x":null}],"n":-1.5}"#;
        let known = (1..=whole.len()).filter(|end| complete(&whole[..*end]).is_some()).count();
        assert_eq!(known, whole.len());
    }
}
