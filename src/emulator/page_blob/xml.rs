//! The documents of the service, written and read.
//!
//! Real ones begin with a byte order mark, and so do these. Knows text, not blobs.

use std::fmt::Write;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::clock::snapshot_time;
use super::error::Failure;

/// What documents begin with.
const PROLOGUE: &str = "\u{FEFF}<?xml version=\"1.0\" encoding=\"utf-8\"?>";

/// A document that is being written.
#[derive(Debug)]
pub(super) struct Document {
    text: String,
    open: Vec<&'static str>,
}

impl Document {
    pub(super) fn new() -> Self {
        let mut text = String::with_capacity(4096);
        text.push_str(PROLOGUE);
        Self { text, open: Vec::new() }
    }

    /// Opens an element.
    pub(super) fn begin(&mut self, name: &'static str) -> &mut Self {
        self.begin_with(name, &[])
    }

    /// Opens an element that has attributes.
    pub(super) fn begin_with(
        &mut self,
        name: &'static str,
        attributes: &[(&str, &str)],
    ) -> &mut Self {
        let _ = write!(self.text, "<{name}");
        for (name, value) in attributes {
            let _ = write!(self.text, " {name}=\"");
            escape(&mut self.text, value);
            self.text.push('"');
        }
        self.text.push('>');
        self.open.push(name);
        self
    }

    /// Closes what was opened last.
    pub(super) fn end(&mut self) -> &mut Self {
        if let Some(name) = self.open.pop() {
            let _ = write!(self.text, "</{name}>");
        }
        self
    }

    /// A whole element.
    pub(super) fn element(&mut self, name: &str, value: &str) -> &mut Self {
        if value.is_empty() {
            let _ = write!(self.text, "<{name} />");
        } else {
            let _ = write!(self.text, "<{name}>");
            escape(&mut self.text, value);
            let _ = write!(self.text, "</{name}>");
        }
        self
    }

    /// A whole element, where there is a value.
    pub(super) fn optional(&mut self, name: &str, value: Option<&str>) -> &mut Self {
        if let Some(value) = value {
            self.element(name, value);
        }
        self
    }

    /// The name of a blob, encoded where XML cannot carry it.
    pub(super) fn name(&mut self, name: &str) -> &mut Self {
        if name.chars().all(carries) {
            return self.element("Name", name);
        }
        let encoded = utf8_percent_encode(name, NON_ALPHANUMERIC);
        let _ = write!(self.text, "<Name Encoded=\"true\">{encoded}</Name>");
        self
    }

    /// Closes everything.
    pub(super) fn finish(mut self) -> String {
        while !self.open.is_empty() {
            self.end();
        }
        self.text
    }
}

/// Whether XML 1.0 can hold a character.
fn carries(character: char) -> bool {
    matches!(character, '\t' | '\n' | '\r' | ' '..='\u{FFFD}' | '\u{10000}'..)
}

fn escape(out: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            other => out.push(other),
        }
    }
}

/// The body of a refusal.
pub(super) fn error(failure: &Failure, request_id: &str, now_ms: i64) -> String {
    let time = snapshot_time(now_ms.max(0) as u64 * 10_000 + 621_355_968_000_000_000);
    let mut document = Document::new();
    document
        .begin("Error")
        .element("Code", &failure.code)
        .element("Message", &format!("{}\nRequestId:{request_id}\nTime:{time}", failure.message));
    for (name, value) in &failure.details {
        document.element(name, value);
    }
    document.finish()
}

/// A block that a list names, and where it is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ListedBlock {
    pub(super) id: String,
    /// `Committed`, `Uncommitted` or `Latest`.
    pub(super) list: String,
}

/// Reads the body of Put Block List.
pub(super) fn block_list(bytes: &[u8]) -> Option<Vec<ListedBlock>> {
    use quick_xml::events::Event;

    let text = std::str::from_utf8(bytes).ok()?.trim_start_matches('\u{FEFF}');
    let mut reader = quick_xml::Reader::from_str(text);
    reader.config_mut().trim_text(true);
    let mut blocks = Vec::new();
    let mut list = None;
    let mut id = String::new();
    loop {
        match reader.read_event().ok()? {
            Event::Start(tag) => {
                let name = tag.name().as_ref().to_owned();
                list =
                    matches!(name.as_str(), "Committed" | "Uncommitted" | "Latest").then_some(name);
                id.clear();
            }
            Event::Text(part) => id.push_str(&part),
            Event::End(_) => {
                if let Some(list) = list.take() {
                    blocks.push(ListedBlock { id: std::mem::take(&mut id), list });
                }
            }
            Event::Eof => return Some(blocks),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_nest_and_escape() {
        let mut document = Document::new();
        document
            .begin_with("Top", &[("At", "a\"b")])
            .begin("In")
            .element("E", "<&>")
            .element("F", "");
        document.end().name("plain/é").name("odd\u{FFFF}");
        assert_eq!(
            document.finish(),
            "\u{FEFF}<?xml version=\"1.0\" encoding=\"utf-8\"?><Top At=\"a&quot;b\"><In>\
             <E>&lt;&amp;&gt;</E><F /></In><Name>plain/é</Name>\
             <Name Encoded=\"true\">odd%EF%BF%BF</Name></Top>"
        );
    }

    #[test]
    fn block_lists_are_read_in_order() {
        let body = b"\xEF\xBB\xBF<?xml version=\"1.0\"?><BlockList><Latest>QQ==</Latest>\
                     <Committed>Qg==</Committed><Uncommitted> QQ== </Uncommitted></BlockList>";
        let found = block_list(body).unwrap();
        let found: Vec<_> = found.iter().map(|b| (b.list.as_str(), b.id.as_str())).collect();
        assert_eq!(found, [("Latest", "QQ=="), ("Committed", "Qg=="), ("Uncommitted", "QQ==")]);
        assert_eq!(block_list(b"<BlockList></BlockList>"), Some(vec![]));
        assert_eq!(block_list(b"<BlockList><a></b>"), None);
    }
}
