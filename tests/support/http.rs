//! Answers over the wire, read by hand: a client that shares no code with any server here.

#![allow(dead_code, reason = "each test binary uses its own part of this")]
#![allow(clippy::unwrap_used)] // a test that meets an error is to fail

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};

/// What a server has answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.headers.contains_key(name)
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        let body = String::from_utf8_lossy(&self.body[..self.body.len().min(500)]);
        assert_eq!(self.status, status, "{} {body}", self.header("x-ms-error-code"));
        self
    }
}

/// Reads one answer to the end of the connection.
pub(crate) fn receive(stream: impl Read, method: &str) -> std::io::Result<Answer> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    if line.is_empty() {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    let status = line[9..12].parse().unwrap();
    let mut headers = HashMap::new();
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let mut body = Vec::new();
    if headers.get("transfer-encoding").is_some_and(|coding| coding == "chunked") {
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            let len = usize::from_str_radix(line.trim_end(), 16).unwrap();
            let at = body.len();
            body.resize(at + len, 0);
            reader.read_exact(&mut body[at..])?;
            reader.read_line(&mut line)?;
            if len == 0 {
                break;
            }
        }
    } else if method != "HEAD" && status != 304 {
        let len = headers.get("content-length").map_or(0, |len| len.parse().unwrap());
        body.resize(len, 0);
        reader.read_exact(&mut body)?;
    }
    // Nothing may follow: a body longer than announced would break the next answer.
    let mut rest = Vec::new();
    let end = reader.read_to_end(&mut rest);
    assert!(end.is_err() || rest.is_empty(), "{} bytes too many", rest.len());
    Ok(Answer { status, headers, body })
}
