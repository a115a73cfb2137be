//! Reading the service's XML: a walk over the leaves of a document.
//!
//! This module must not know what the documents mean.

use std::borrow::Cow;

use quick_xml::Reader;
use quick_xml::events::Event;

/// What a walk comes by.
#[derive(Debug)]
pub(super) enum Node<'a> {
    /// An element that begins.
    Open,
    /// An element that ends, with the text directly inside it.
    Close {
        /// Its text.
        text: &'a str,
        /// Whether the text is percent-encoded because XML cannot carry it (`Encoded="true"`).
        encoded: bool,
    },
}

/// How deep documents nest at most; ours have five levels.
const DEEPEST: usize = 16;

/// Walks over the elements of a document. `visit` is told the path of names from the root.
///
/// Errors: what is wrong with the document, in words.
pub(super) fn walk<'a>(
    body: &'a [u8],
    mut visit: impl FnMut(&[Cow<'a, str>], Node<'_>),
) -> Result<(), String> {
    // The service begins its documents with a byte order mark.
    let body = body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body);
    let text = std::str::from_utf8(body).map_err(|_| "it is not UTF-8".to_owned())?;
    let mut reader = Reader::from_str(text);
    reader.config_mut().expand_empty_elements = true;
    let mut path: Vec<Cow<'a, str>> = Vec::new();
    let mut text = String::new();
    let mut encoded = false;
    let mut elements = 0usize;
    loop {
        match reader.read_event().map_err(|error| error.to_string())? {
            Event::Start(start) => {
                if path.len() == DEEPEST {
                    return Err("it nests too deep".to_owned());
                }
                elements += 1;
                let name: &str = start.name().0;
                path.push(Cow::Owned(name.to_owned()));
                text.clear();
                encoded = start
                    .try_get_attribute("Encoded")
                    .ok()
                    .flatten()
                    .is_some_and(|attribute| attribute.value.eq_ignore_ascii_case("true"));
                visit(&path, Node::Open);
            }
            Event::Text(part) => text.push_str(&part),
            Event::CData(part) => text.push_str(&part),
            Event::GeneralRef(part) => match part.resolve_char_ref() {
                Ok(Some(char)) => text.push(char),
                _ => text.push_str(
                    quick_xml::escape::resolve_predefined_entity(&part)
                        .ok_or_else(|| "it has an unknown entity".to_owned())?,
                ),
            },
            Event::End(_) => {
                visit(&path, Node::Close { text: &text, encoded });
                path.pop();
                text.clear();
                encoded = false;
            }
            Event::Eof if path.is_empty() && elements > 0 => return Ok(()),
            Event::Eof => return Err("it ends too early".to_owned()),
            _ => {}
        }
    }
}
