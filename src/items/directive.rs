//! The XML of a directive, inside whatever text the file has around it.
//!
//! It is everything from the first `<directive` to the last `</directive>`, and must be one well-formed element. A
//! mention in CDATA, in a comment or behind the element does not count as a second one. A mention before it, or a
//! `</directive>` after it, would move the bounds of what is hashed, so it is an error. So is an element behind it,
//! however its end is written: a reader of the file would find a directive that is not signed.

use super::error::{line_of, ContentError};
use crate::ledger::shortened;
use memchr::memmem;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesRef, BytesStart, Event};
use quick_xml::{Reader, XmlVersion};
use std::collections::HashSet;

const OPENING: &str = "<directive";
const CLOSING: &str = "</directive>";
const NO_DOCUMENT_TYPE: &str = "a document type is not allowed: remove it";
const XML_SPACE: [char; 4] = [' ', '\t', '\r', '\n'];

/// A directive, and what its own attributes say of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directive<'a> {
    /// From the first `<directive` to the last `</directive>`.
    pub xml: &'a str,
    /// The attribute `name`.
    pub name: Option<String>,
    /// The attribute `version`.
    pub version: Option<String>,
}

/// Finds and reads the directive in `text`.
///
/// # Errors
/// If there is none or more than one, or it is not one element whose tags match. A document type is refused.
pub fn read(text: &str) -> Result<Directive<'_>, ContentError> {
    outline(text, false)
}

/// Checks more of what an XML parser refuses in the directive in `text`: attributes, references, comments, `]]>`, and
/// how names begin. This is for what is to be signed: what was signed before stays valid, as the hash covers all of it.
///
/// # Errors
/// As [`read`], and if one of these is not well-formed.
pub fn check(text: &str) -> Result<(), ContentError> {
    outline(text, true).map(drop)
}

fn outline(text: &str, is_strict: bool) -> Result<Directive<'_>, ContentError> {
    let start = memmem::find(text.as_bytes(), OPENING.as_bytes());
    let start = start.ok_or_else(|| ContentError::new("there is no <directive> element: add the directive's XML"))?;
    let end = memmem::rfind(text.as_bytes(), CLOSING.as_bytes()).filter(|end| *end > start);
    let Some(end) = end else {
        return Err(ContentError::on_line(line_of(text, start), "this <directive> has no </directive>: add it"));
    };
    if let Some(at) = document_type(text) {
        return Err(ContentError::on_line(line_of(text, at), NO_DOCUMENT_TYPE));
    }
    let xml = &text[start..end + CLOSING.len()];
    let directive = Directive { xml, name: None, version: None };
    let mut outline = Outline { text, start, is_strict, depth: 0, directive };
    outline.read()?;
    outline.check_behind()?;
    Ok(outline.directive)
}

/// Where the document type is that `text` has as an XML document, if it has one: it could give the directive's elements
/// other attributes, or have text stand for another directive in front of it.
fn document_type(text: &str) -> Option<usize> {
    let mut rest = text.trim_start_matches('\u{feff}');
    loop {
        rest = rest.trim_start_matches(XML_SPACE);
        let (open, close) = match rest {
            _ if rest.starts_with("<!--") => ("<!--", "-->"),
            _ if rest.starts_with("<?") => ("<?", "?>"),
            _ => return rest.starts_with("<!DOCTYPE").then(|| text.len() - rest.len()),
        };
        // Behind the beginning: <!--> is not a whole comment.
        let inside = &rest[open.len()..];
        rest = &inside[inside.find(close)? + close.len()..];
    }
}

/// Where in `text` the first end tag is that has white space in it, as in `</directive >`.
fn spaced_end_tag(text: &str) -> Option<usize> {
    let is_spaced = |at: &usize| {
        let rest = &text[at + CLOSING.len() - 1..];
        rest.starts_with(XML_SPACE) && rest.trim_start_matches(XML_SPACE).starts_with('>')
    };
    memmem::find_iter(text.as_bytes(), &CLOSING[..CLOSING.len() - 1]).find(is_spaced)
}

/// Where in `text` the tags are that open a directive, or are an empty one; a mere mention of the word does not count.
fn start_tags(text: &str) -> impl Iterator<Item = usize> + '_ {
    let is_tag =
        |at: &usize| text[at + OPENING.len()..].starts_with(|c| XML_SPACE.contains(&c) || matches!(c, '/' | '>'));
    memmem::find_iter(text.as_bytes(), OPENING).filter(is_tag)
}

/// Whether the tag that `text` begins with ends with `/>`.
fn is_empty_element(text: &str) -> bool {
    let mut quote = None;
    let mut last = ' ';
    for c in text.chars().skip(1) {
        match (quote, c) {
            (None, '>') => return last == '/',
            (None, '<') => return false,
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), _) if c == open => quote = None,
            _ => {}
        }
        last = c;
    }
    false
}

/// Reads the XML as far as is needed to know that it is one element.
struct Outline<'a> {
    text: &'a str,
    /// Where in the text the XML starts.
    start: usize,
    /// Whether more is checked than what the outline depends on.
    is_strict: bool,
    /// How many elements are open.
    depth: usize,
    directive: Directive<'a>,
}

impl<'a> Outline<'a> {
    fn read(&mut self) -> Result<(), ContentError> {
        if self.is_strict {
            self.check_characters(self.directive.xml, 0)?;
        }
        let mut reader = Reader::from_str(self.directive.xml);
        reader.config_mut().check_comments = self.is_strict;
        loop {
            let at = reader.buffer_position() as usize;
            let event = reader.read_event();
            let event = event.map_err(|error| match self.depth {
                0 if at > 0 => self.outside(at),
                _ => self.ill_formed(reader.error_position() as usize, &error),
            })?;
            if self.depth == 0 {
                self.check_outside(&event, at)?;
            }
            if self.is_strict {
                self.check_event(&event, at)?;
            }
            match event {
                Event::Start(_) => self.depth += 1,
                Event::End(_) => self.depth -= 1,
                Event::DocType(_) => return Err(self.error(at, NO_DOCUMENT_TYPE)),
                Event::Eof if self.depth > 0 => return Err(self.ill_formed(at, &"an element is not closed")),
                Event::Eof => return Ok(()),
                _ => (),
            }
        }
    }

    /// Checks what stands where no element is open: the directive, which comes first, and nothing else that matters.
    fn check_outside(&mut self, event: &Event<'a>, at: usize) -> Result<(), ContentError> {
        match event {
            Event::Start(element) | Event::Empty(element) if at == 0 => self.read_element(element),
            Event::Text(text) if text.trim().is_empty() => Ok(()),
            Event::Comment(_) | Event::PI(_) | Event::Eof => Ok(()),
            _ => Err(self.outside(at)),
        }
    }

    fn check_event(&self, event: &Event<'a>, at: usize) -> Result<(), ContentError> {
        match event {
            Event::Start(element) | Event::Empty(element) => self.check_element(element, at),
            Event::GeneralRef(reference) if !is_known(reference) => {
                Err(self.ill_formed(at, &format!("&{}; is not known", &**reference)))
            }
            Event::Text(text) => match text.find("]]>") {
                Some(end) => Err(self.ill_formed(at + end, &"]]> is in a text")),
                None => Ok(()),
            },
            Event::Decl(_) => Err(self.ill_formed(at, &"an XML declaration is in the element")),
            _ => Ok(()),
        }
    }

    fn check_element(&self, element: &BytesStart<'a>, at: usize) -> Result<(), ContentError> {
        self.check_name(element.name().as_ref(), at)?;
        let mut seen = HashSet::new();
        // Its own check for duplicates does not name the attribute.
        for attribute in element.attributes().with_checks(false) {
            let attribute = attribute.map_err(|error| self.ill_formed(at, &error))?;
            let name = attribute.key.as_ref();
            self.check_name(name, at)?;
            if !seen.insert(attribute.key) {
                return Err(self.ill_formed(at, &format!("the attribute {name} is there twice")));
            }
            if attribute.value.contains('<') {
                return Err(self.ill_formed(at, &format!("< is in the attribute {name}")));
            }
            let value = attribute.normalized_value(XmlVersion::Explicit1_0);
            let value = value.map_err(|error| self.ill_formed(at, &error))?;
            // Of what it refers to: the others were checked before.
            self.check_characters(&value, at)?;
        }
        Ok(())
    }

    /// `at` is where the text stands, or what it was made of.
    fn check_characters(&self, text: &str, at: usize) -> Result<(), ContentError> {
        match text.char_indices().find(|(_, c)| !is_allowed(*c)) {
            None => Ok(()),
            Some((offset, character)) => {
                let code = u32::from(character);
                Err(self.ill_formed(at + offset, &format!("XML does not allow U+{code:04X}")))
            }
        }
    }

    fn check_name(&self, name: &str, at: usize) -> Result<(), ContentError> {
        let may_start = |c: char| !c.is_ascii() || c.is_ascii_alphabetic() || matches!(c, '_' | ':');
        match name.starts_with(may_start) {
            true => Ok(()),
            false => Err(self.ill_formed(at, &format!("a name cannot begin as {name} does"))),
        }
    }

    /// What is wrong with more than white space behind the directive, at `at`.
    fn outside(&self, at: usize) -> ContentError {
        match memmem::find(&self.directive.xml.as_bytes()[at..], OPENING.as_bytes()) {
            Some(next) => self.second(at + next),
            None => self.ill_formed(at, &"the <directive> element ended before this"),
        }
    }

    /// There is another directive at `at`.
    fn second(&self, at: usize) -> ContentError {
        let first = line_of(self.text, self.start);
        self.error(at, &format!("a second <directive>, after the one on line {first}: keep one in a file"))
    }

    /// Checks that no directive stands behind what is hashed, even one without a `</directive>`.
    fn check_behind(&self) -> Result<(), ContentError> {
        let end = self.directive.xml.len();
        let behind = &self.text[self.start + end..];
        let closing = spaced_end_tag(behind);
        let is_element = |at: &usize| closing.is_some_and(|closing| *at < closing) || is_empty_element(&behind[*at..]);
        match (start_tags(behind).find(is_element), closing) {
            (Some(at), _) => Err(self.second(end + at)),
            (None, Some(at)) => Err(self.error(end + at, "a second end tag of the <directive>: remove it")),
            (None, None) => Ok(()),
        }
    }

    fn read_element(&mut self, element: &BytesStart<'a>) -> Result<(), ContentError> {
        let name = element.name();
        if name.as_ref() != "directive" {
            return Err(self.ill_formed(0, &"this is another element than <directive>"));
        }
        for attribute in element.attributes() {
            let attribute = attribute.map_err(|error| self.ill_formed(0, &error))?;
            let field = match attribute.key.as_ref() {
                "name" => &mut self.directive.name,
                "version" => &mut self.directive.version,
                _ => continue,
            };
            match attribute.normalized_value(XmlVersion::Explicit1_0) {
                Ok(value) => *field = Some(value.into_owned()),
                Err(error) => return Err(self.ill_formed(0, &error)),
            }
        }
        Ok(())
    }

    fn error(&self, at: usize, reason: &str) -> ContentError {
        ContentError::on_line(line_of(self.text, self.start + at), reason)
    }

    fn ill_formed(&self, at: usize, problem: &dyn std::fmt::Display) -> ContentError {
        let first = line_of(self.text, self.start);
        let last = line_of(self.text, self.start + self.directive.xml.len());
        let bounds = format!("the first {OPENING} (line {first}) to the last {CLOSING} (line {last})");
        // It may name an element, which may have a name of any length.
        let problem = shortened(&problem.to_string(), 200);
        self.error(at, &format!("not well-formed XML: {problem}; all from {bounds} must be one element"))
    }
}

/// Whether a reference is to one of the five entities that XML knows, or to a character that it allows.
fn is_known(reference: &BytesRef<'_>) -> bool {
    match reference.is_char_ref() {
        true => reference.resolve_char_ref().ok().flatten().is_some_and(is_allowed),
        false => resolve_predefined_entity(reference).is_some(),
    }
}

/// Whether XML allows a character.
fn is_allowed(character: char) -> bool {
    matches!(character, '\t' | '\n' | '\r' | ' '..) && !matches!(character, '\u{fffe}' | '\u{ffff}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn error(text: &str) -> String {
        read(text).unwrap_err().to_string()
    }

    #[test]
    fn the_directive_is_found_inside_markdown() {
        let xml = "<directive name=\"a &amp; b\" version='1.0.0'>\n  <process>日本 &lt;</process>\n</directive>";
        let text = format!("# Title\n\n```xml\n{xml}\n```\n\nSee `<directive`.\n");
        let directive = read(&text).unwrap();
        assert_eq!(directive.xml, xml);
        assert_eq!(directive.name.as_deref(), Some("a & b"));
        assert_eq!(directive.version.as_deref(), Some("1.0.0"));
        let bare = read("<directive></directive>").unwrap();
        assert_eq!((bare.name, bare.version), (None, None));
    }

    #[test]
    fn mentions_inside_the_directive_are_no_second_one() {
        for inside in [
            "<![CDATA[<directive name=\"b\"> & </directive>]]>",
            "<!-- <directive> </directive> -->",
            "<uses><directive name=\"b\"/></uses>",
            "&lt;directive>",
        ] {
            let text = format!("<directive name=\"a\">{inside}</directive>");
            let directive = read(&text).unwrap();
            assert_eq!(directive.xml, text);
            assert_eq!(directive.name.as_deref(), Some("a"));
        }
    }

    #[test]
    fn two_directives_are_refused_with_both_lines() {
        let text = "intro\n<directive name=\"a\"></directive>\n\n<directive name=\"b\">\n</directive>\n";
        assert_eq!(error(text), "line 4: a second <directive>, after the one on line 2: keep one in a file");
        let text = "<directive></directive>\n# B & C <d>\n```xml\n<directive>\n</directive>";
        assert!(error(text).starts_with("line 4: a second <directive>"), "{}", error(text));
        assert!(error("<directive/><directive></directive>").contains("a second <directive>"));
    }

    #[test]
    fn a_second_directive_behind_the_first_is_refused_however_it_ends() {
        let first = "<directive name=\"a\"></directive>";
        for second in [
            "<directive name=\"b\">x</directive >",
            "<directive name=\"b\">x</directive\r\n\t>",
            "<directive>x</directive >\n</directive >",
            "See <directive>.\n<directive name=\"b\"/>",
            "<directive name='>' title=\"'/>\" />",
            "<directive/>",
        ] {
            let expected = "line 2: a second <directive>, after the one on line 1: keep one in a file";
            let found = error(&format!("{first}\n{second}"));
            assert_eq!(found.replace("line 3", "line 2"), expected, "{second}");
        }
        assert_eq!(
            error(&format!("{first}\ntext </directive >")),
            "line 2: a second end tag of the <directive>: remove it"
        );
        for mention in
            ["`<directive>`, `<directive name>`", "`</directive`", "<directives/> </directives >", "<directive"]
        {
            assert!(read(&format!("{first}\n{mention}\n<b/>")).is_ok(), "{mention}");
        }
    }

    #[test]
    fn no_directive_is_an_error_that_says_so() {
        let missing = "there is no <directive> element: add the directive's XML";
        assert_eq!(error(""), missing);
        assert_eq!(error("# Title\n</directive>"), missing);
        assert_eq!(error("a\n<directive name=\"x\">"), "line 2: this <directive> has no </directive>: add it");
        assert_eq!(error("</directive><directive>"), "line 1: this <directive> has no </directive>: add it");
    }

    #[test]
    fn a_mention_that_moves_the_bounds_is_an_error_that_names_them() {
        let before = "The `<directive>` here:\n<directive name=\"a\"></directive>\n";
        let expected =
            "line 2: not well-formed XML: an element is not closed; all from the first <directive (line 1) to \
                        the last </directive> (line 2) must be one element";
        assert_eq!(error(before), expected);
        assert!(
            error("<directives>\n</directives>\n<directive></directive>").contains("another element than <directive>")
        );
        assert!(
            error("<directive></directive>\ntext </directive>").starts_with("line 1: not well-formed XML: the <dir")
        );
    }

    #[test]
    fn what_is_not_well_formed_is_refused() {
        for inside in ["<a>", "</b>", "<a></b>", "a & b", "<![CDATA[", "<!-- ", "<!DOCTYPE x [<!ENTITY a \"b\">]>"] {
            assert!(read(&format!("<directive>{inside}</directive>")).is_err(), "{inside}");
        }
        for attributes in ["name=\"a\" name=\"b\"", "name=a", "name", "name=\"&unknown;\""] {
            assert!(read(&format!("<directive {attributes}></directive>")).is_err(), "{attributes}");
        }
    }

    /// Verification does not check these, since they were signed before.
    #[test]
    fn what_an_xml_parser_refuses_is_not_signed() {
        for (inside, problem) in [
            ("<a x=\"1\" x=\"2\"/>", "the attribute x is there twice"),
            ("<a x=\"1\" y='<'/>", "< is in the attribute y"),
            ("<a b=c d/>", "position"),
            ("<a b></a>", "position"),
            ("<a b=\"&nbsp;\"/>", "nbsp"),
            ("<a b=\"&#x10;\"/>", "XML does not allow U+0010"),
            ("<a b='&#xFFFE;'/>", "XML does not allow U+FFFE"),
            ("<a b='\x0b'/>", "XML does not allow U+000B"),
            ("a\x1bb", "XML does not allow U+001B"),
            ("&undefined;", "&undefined; is not known"),
            ("&#0;", "&#0; is not known"),
            ("&#x1;", "&#x1; is not known"),
            ("&#xffff;", "&#xffff; is not known"),
            ("&;", "&; is not known"),
            ("<!-- a -- b -->", "forbidden string `--`"),
            ("a ]]> b", "]]> is in a text"),
            ("<?xml version=\"1.0\"?>", "an XML declaration is in the element"),
            ("<1a/>", "a name cannot begin as 1a does"),
            ("<a -b=\"1\"/>", "a name cannot begin as -b does"),
        ] {
            let text = format!("<directive>\n{inside}</directive>");
            let error = check(&text).unwrap_err().to_string();
            assert!(error.starts_with("line 2: not well-formed XML: ") && error.contains(problem), "{inside}: {error}");
            assert!(read(&text).is_ok(), "{inside}");
        }
        let fine = "<?x?><!-- a - b --><_a.b:c é=\"&lt;&#9;>\" f='\"'/>&amp;&#x1f600;<![CDATA[&x; ]]> ]] ><é/>";
        assert_eq!(check(&format!("<directive name=\"a\">{fine}</directive>")), Ok(()));
    }

    /// With a comparison of each with all before it, this would take minutes.
    #[test]
    fn many_attributes_are_no_danger() {
        let attributes: String = (0..200_000).map(|n| format!(" a{n}=\"\"")).collect();
        assert_eq!(check(&format!("<directive><a{attributes}/></directive>")), Ok(()));
    }

    #[test]
    fn deep_nesting_is_no_danger() {
        let (open, close) = ("<a>".repeat(200_000), "</a>".repeat(200_000));
        assert!(read(&format!("<directive>{open}{close}</directive>")).is_ok());
        assert!(read(&format!("<directive>{open}</directive>")).is_err());
    }

    #[test]
    fn a_document_type_in_front_of_the_directive_is_refused() {
        let directive = "<directive name=\"a\"><step/></directive>";
        for (before, line) in [
            ("<!DOCTYPE directive [<!ATTLIST step run CDATA \"evil\">]>\n", 1),
            ("<!--> -->\n<!DOCTYPE directive []>\n", 2),
            ("\u{feff}<?xml version=\"1.0\"?>\n<!-- signature -->\n <!DOCTYPE r [<!ENTITY d \"evil\">]><r>&d;", 3),
        ] {
            let error = read(&format!("{before}{directive}")).unwrap_err().to_string();
            assert_eq!(error, format!("line {line}: {NO_DOCUMENT_TYPE}"), "{before}");
        }
        // No parser of XML takes this for a document.
        for before in [
            "Begin a page with\n\n    <!DOCTYPE html>\n",
            "<!-- <!DOCTYPE html> -->",
            "<!--> <!DOCTYPE x> -->",
            "<!-- ",
        ] {
            assert!(read(&format!("{before}{directive}")).is_ok(), "{before}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd(text in "[<>/!\\[\\]a-c&;\"'= -]{0,40}", around in any::<String>()) {
            let _ = check(&text);
            let _ = check(&around);
            let _ = check(&format!("<directive>{text}</directive>"));
            let _ = read(&format!("{around}<directive {text}</directive>"));
        }
    }
}
