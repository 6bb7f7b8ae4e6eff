//! As much of HTTP/1.1 as clients of providers use.
//!
//! Requests with a length, responses with a length or in chunks, and connections that stay open.
//! Sizes are limited. A body that is cut off announces more than is sent, so that a client notices
//! it.

use std::io;

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use super::FakeRequest;

/// Longest line of a head.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Longest body of a request.
const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;

/// Reads a request; `None` at the end of the connection.
pub(super) async fn read(
    connection: &mut BufReader<TcpStream>,
) -> io::Result<Option<(String, FakeRequest)>> {
    let Some(first) = line(connection).await? else { return Ok(None) };
    let mut words = first.split_whitespace();
    let (Some(method), Some(path)) = (words.next(), words.next()) else {
        return Err(invalid("the request line"));
    };
    let path = path.split('?').next().unwrap_or_default().to_owned();
    let mut headers = Vec::new();
    loop {
        let header = line(connection).await?.ok_or_else(|| invalid("the end of the headers"))?;
        if header.is_empty() {
            break;
        }
        let (name, value) = header.split_once(':').ok_or_else(|| invalid("a header"))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        if headers.len() * 16 > MAX_HEAD_BYTES {
            return Err(invalid("the number of headers"));
        }
    }
    let length = headers.iter().find(|(name, _)| name == "content-length");
    // An invalid length counts as too large.
    let length = length.map_or(Ok(0), |(_, value)| value.parse()).unwrap_or(usize::MAX);
    if length > MAX_BODY_BYTES {
        return Err(invalid("the length of the body"));
    }
    let mut body = vec![0; length];
    connection.read_exact(&mut body).await?;
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    Ok(Some((method.to_owned(), FakeRequest { path, headers, body })))
}

/// A line without its end; `None` at the end of the connection.
async fn line(connection: &mut BufReader<TcpStream>) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    let most = u64::try_from(MAX_HEAD_BYTES).unwrap_or(u64::MAX);
    let count = connection.take(most).read_until(b'\n', &mut line).await?;
    if count == 0 {
        return Ok(None);
    }
    let text = String::from_utf8(line).map_err(|_| invalid("the head"))?;
    Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
}

/// The error of a request that can't be read.
fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what} is invalid"))
}

/// Writes a response. If it is cut off, the connection has to be closed after it.
pub(super) async fn write(
    connection: &mut BufReader<TcpStream>,
    status: u16,
    headers: &[(&str, String)],
    body: &str,
    is_cut: bool,
) -> io::Result<()> {
    let mut head = format!("HTTP/1.1 {status} Fake\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let sent = if is_cut { body.get(..body.len() / 2).unwrap_or_default() } else { body };
    connection.write_all(format!("{head}\r\n{sent}").as_bytes()).await?;
    connection.flush().await
}

/// Writes a stream of events. If it is cut off, the connection has to be closed after it.
pub(super) async fn write_events(
    connection: &mut BufReader<TcpStream>,
    media_type: &str,
    events: &[Vec<u8>],
    cut_after: Option<usize>,
) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {media_type}\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    connection.write_all(head.as_bytes()).await?;
    for event in events.iter().take(cut_after.unwrap_or(usize::MAX)) {
        connection.write_all(format!("{:x}\r\n", event.len()).as_bytes()).await?;
        connection.write_all(event).await?;
        connection.write_all(b"\r\n").await?;
        connection.flush().await?;
    }
    if cut_after.is_none() {
        connection.write_all(b"0\r\n\r\n").await?;
    }
    connection.flush().await
}
