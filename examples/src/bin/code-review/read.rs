//! Reads one file of the tree, within limits.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Component, Path},
};

use crate::scan::{SkipReason, Skipped};

/// Largest file that is read, in bytes: 4 MiB. Larger ones are data or generated.
pub(crate) const MAX_BYTES: u64 = 4 << 20;

/// The number of bytes that are searched for a NUL; git uses the same number.
const BINARY_PROBE: usize = 8_000;

const UTF8_MARK: &str = "\u{feff}";
const UTF16_MARKS: [&[u8]; 2] = [b"\xff\xfe", b"\xfe\xff"];

/// The content of a text file.
#[derive(Debug)]
pub(crate) struct Content(String);

impl Content {
    /// The text, without a byte order mark.
    pub(crate) fn text(&self) -> &str {
        self.0.strip_prefix(UTF8_MARK).unwrap_or(&self.0)
    }

    /// The text as it is in the file.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The size of the file.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.len().try_into().unwrap_or(u64::MAX)
    }
}

/// Reads a file, unless it has changed since it was listed into something that must not be read.
pub(crate) fn read(root: &Path, path: &str) -> Result<Content, Skipped> {
    let skipped = |reason| Skipped::new(path, reason);
    let unreadable = |error: io::Error| skipped(SkipReason::Unreadable).because(&error);
    if !Path::new(path).components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(skipped(SkipReason::Unreadable).because("the path leaves the tree"));
    }
    let full = root.join(path);
    if let Some(reason) = unusual(&fs::symlink_metadata(&full).map_err(unreadable)?) {
        return Err(skipped(reason));
    }
    let mut bytes = Vec::new();
    let file = File::open(&full).map_err(unreadable)?;
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_BYTES) {
        return Err(skipped(SkipReason::TooLarge));
    }
    decode(bytes).map(Content).map_err(skipped)
}

/// Why a file with this metadata is not read.
fn unusual(metadata: &fs::Metadata) -> Option<SkipReason> {
    match metadata.file_type() {
        kind if kind.is_symlink() => Some(SkipReason::Symlink),
        kind if !kind.is_file() => Some(SkipReason::Special),
        _ if metadata.len() > MAX_BYTES => Some(SkipReason::TooLarge),
        _ => None,
    }
}

fn decode(bytes: Vec<u8>) -> Result<String, SkipReason> {
    if UTF16_MARKS.iter().any(|mark| bytes.starts_with(mark)) {
        return Err(SkipReason::NotUtf8);
    }
    if bytes.iter().take(BINARY_PROBE).any(|byte| *byte == 0) {
        return Err(SkipReason::Binary);
    }
    String::from_utf8(bytes).map_err(|_| SkipReason::NotUtf8)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(root: &Path, path: &str) -> SkipReason {
        read(root, path).unwrap_err().reason
    }

    #[test]
    fn should_read_text_and_strip_its_mark() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a"), "\u{feff}x").unwrap();
        let content = read(folder.path(), "a").unwrap();
        assert_eq!((content.text(), content.bytes()), ("x", 4));
    }

    #[test]
    fn should_refuse_what_is_too_large() {
        let folder = tempfile::tempdir().unwrap();
        let file = File::create(folder.path().join("a")).unwrap();
        file.set_len(MAX_BYTES + 1).unwrap();
        assert_eq!(reason(folder.path(), "a"), SkipReason::TooLarge);
    }

    #[test]
    fn should_refuse_what_is_gone_and_what_is_outside() {
        let folder = tempfile::tempdir().unwrap();
        for path in ["gone", "../gone", "/etc/passwd", "a/../../b"] {
            assert_eq!(reason(folder.path(), path), SkipReason::Unreadable, "{path}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn should_never_follow_links_nor_wait_for_sockets() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", folder.path().join("link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
        assert_eq!(reason(folder.path(), "link"), SkipReason::Symlink);
        assert_eq!(reason(folder.path(), "socket"), SkipReason::Special);
    }
}
