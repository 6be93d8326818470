//! The signature line: `kiwi-mcp:validated:TIMESTAMP:HASH` in a comment.
//!
//! TIMESTAMP is `YYYY-MM-DDTHH:MM:SSZ`, HASH the item's integrity hash, 64 lower-case hex digits. The line is the first
//! of a directive or knowledge, and of a tool, unless that starts with `#!` or `<?` (PHP, XML): then it comes after
//! those lines, which have to be first; in markup, after all lines up to `?>`. A byte order mark stays first as well.

use super::comment_style::CommentStyle;
use super::error::{line_of, ContentError, ItemError};
use super::item::Item;
use super::item_type::ItemType;
use super::location::Place;
use crate::ledger::parse_hash;
use crate::ledger::record::Timestamp;
use memchr::memmem;
use std::borrow::Cow;

const MARK: &str = "kiwi-mcp:validated:";
const BYTE_ORDER_MARK: &str = "\u{feff}";

/// What opens and closes code in PHP, and a declaration or instruction in XML.
const CODE: [&str; 2] = ["<?", "?>"];

/// What a signature line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureLine {
    /// When the item was signed. Written to the second.
    pub timestamp: Timestamp,
    /// 64 lower-case hex digits.
    pub integrity: String,
}

impl SignatureLine {
    /// The text inside the comment.
    fn text(&self) -> String {
        format!("{MARK}{}:{}", to_seconds(self.timestamp), self.integrity)
    }

    /// Reads what stands after the mark.
    fn parse(rest: &str) -> Option<Self> {
        let (timestamp, integrity) = rest.rsplit_once(':')?;
        parse_hash(integrity)?;
        let seconds = timestamp.strip_suffix('Z')?;
        let timestamp = Timestamp::parse(&format!("{seconds}.000000Z")).ok()?;
        Some(SignatureLine { timestamp, integrity: integrity.to_owned() })
    }
}

/// A point in time as `YYYY-MM-DDTHH:MM:SSZ`.
pub fn to_seconds(timestamp: Timestamp) -> String {
    let text = timestamp.to_string();
    let seconds = text.split('.').next().unwrap_or(&text);
    format!("{seconds}Z")
}

/// How and where the signature line of a kind of file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineFormat {
    style: CommentStyle,
    /// Lines that start with one of these have to be the first, in this order.
    leading: &'static [&'static str],
}

impl LineFormat {
    /// The format of directives and knowledge.
    pub const MARKDOWN: LineFormat = LineFormat { style: CommentStyle::Markup, leading: &[] };

    /// The format of tools in a language with such comments.
    pub const fn tool(style: CommentStyle) -> LineFormat {
        LineFormat { style, leading: &["#!", CODE[0]] }
    }

    /// The format for this item.
    ///
    /// # Errors
    /// If the item is a tool in a language that is not known, or that has no comments.
    pub fn of(item: &Item<'_>) -> Result<LineFormat, ItemError> {
        match item.item_type {
            ItemType::Tool => {
                let file_path = item.file_path.map(Place::text);
                CommentStyle::of_tool(item.language, file_path, item.content).map(LineFormat::tool)
            }
            ItemType::Directive | ItemType::Knowledge => Ok(LineFormat::MARKDOWN),
        }
    }

    /// The text of `item` as it was before it was first signed, and the format of a signature line that is written into
    /// it. That of the text with its signature lines may be another one, if they hide a `#!` line.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub fn of_unsigned<'a>(item: &Item<'a>) -> Result<(LineFormat, Cow<'a, str>), ItemError> {
        let mut unsigned = Cow::Borrowed(item.content);
        // Repeated: when the lines above a `#!` line are gone, that line may choose other comments. It does so once.
        loop {
            let format = LineFormat::of(&Item { content: &unsigned, ..*item })?;
            let Cow::Owned(shorter) = format.remove(&unsigned) else {
                return Ok((format, unsigned));
            };
            unsigned = Cow::Owned(shorter);
        }
    }

    /// Checks that a signature line in its place in `unsigned` would be a comment. In a file that starts with `<?`, it
    /// is one inside of PHP, but in markup only outside. This is for what is to be signed: what was signed before stays
    /// valid.
    ///
    /// # Errors
    /// If it would be none.
    pub fn check_place(self, unsigned: &str) -> Result<(), ContentError> {
        let head = &unsigned[..self.head_end(unsigned)];
        if head.trim_end_matches(['\r', '\n']).ends_with('\\') {
            let reason = "a backslash ends it, so a signature line below would go on from it: remove the backslash";
            return Err(ContentError::on_line(line_of(unsigned, head.trim_end().len()), reason));
        }
        let lines = head.trim_start_matches(BYTE_ORDER_MARK);
        let code = if lines.starts_with("#!") { &lines[first_line(lines).len()..] } else { lines };
        let [open, close] = CODE;
        let is_closed = code.rfind(close) > code.rfind(open);
        let is_markup = self.style == CommentStyle::Markup;
        if !code.starts_with(open) || is_closed == is_markup {
            return Ok(());
        }
        let reason = match is_markup {
            true => "<? is not closed: close it with ?>, so that a signature line can stand behind it",
            false => {
                "?> ends the code on its first line, so a signature line below would be text: put ?> on a later line"
            }
        };
        Err(ContentError::on_line(line_of(unsigned, head.len() - code.len()), reason))
    }

    /// The comments of this kind of file.
    pub fn style(self) -> CommentStyle {
        self.style
    }

    /// The signature of `content`, from the topmost signature line. `None` if there is none in its place, or if that
    /// line does not hold a timestamp and a hash.
    pub fn extract(self, content: &str) -> Option<SignatureLine> {
        let head = self.head_end(content);
        let line = first_line(&content[head..]);
        let signature = SignatureLine::parse(self.text_after_mark(line)?)?;
        // A line above those that have to be first is not in its place: without it, the head would be longer.
        let unsigned = self.remove(content);
        let in_place = self.head_end(&unsigned) == head || unsigned.len() < head;
        in_place.then_some(signature)
    }

    /// What is wrong with the lines that [`remove`](Self::remove) takes out of `content`, if they are anything but the
    /// one line that signing writes. No hash covers them, and programs read comments: Python takes the encoding of a
    /// file from one.
    pub fn find_fault(self, content: &str) -> Option<&'static str> {
        let Cow::Owned(unsigned) = self.remove(content) else {
            return None;
        };
        let Some(signature) = self.extract(content) else {
            return Some("what stands in the place of its signature line is none");
        };
        let signed = &content[self.head_end(content)..];
        let line = first_line(signed);
        if self.text_after_mark(first_line(&signed[line.len()..])).is_some() {
            return Some("there is more than one signature line");
        }
        let (_, after) = self.line_ends(&unsigned);
        let is_as_written = line.strip_suffix(after).is_some_and(|line| line == self.comment(&signature));
        (!is_as_written).then_some("its signature line is not as signing writes it")
    }

    /// `content` without its signature lines: all that stand one below the other in their place, whatever they hold.
    ///
    /// The result is the text as it was before it was first signed. If the last line of the file is a signature line
    /// without a line end, the newline before it goes with it, as it came with it.
    pub fn remove(self, content: &str) -> Cow<'_, str> {
        let mut unsigned = Cow::Borrowed(content);
        // Repeated: a line that has to be first may only become so when a line before it is gone. That happens a few
        // times at most.
        while let Some(shorter) = self.remove_once(&unsigned) {
            unsigned = Cow::Owned(shorter);
        }
        unsigned
    }

    fn remove_once(self, content: &str) -> Option<String> {
        let start = self.head_end(content);
        let mut end = start;
        while self.text_after_mark(first_line(&content[end..])).is_some() {
            end += first_line(&content[end..]).len();
        }
        if end == start {
            return None;
        }
        let last = end == content.len() && !content.ends_with('\n');
        let head = &content[..start];
        let head = head.strip_suffix('\n').filter(|_| last).unwrap_or(head);
        Some([head, &content[end..]].concat())
    }

    /// `content` with this signature line in place of all that were there. It ends as the first line of the file does.
    pub fn replace(self, content: &str, signature: &SignatureLine) -> String {
        let unsigned = self.remove(content);
        let (head, rest) = unsigned.split_at(self.head_end(&unsigned));
        let (before, after) = self.line_ends(&unsigned);
        [head, before, &self.comment(signature), after, rest].concat()
    }

    /// What comes before and after the signature line when it is written into `unsigned`. After a head without a line
    /// end nothing follows, and the signature line has none either.
    fn line_ends(self, unsigned: &str) -> (&'static str, &'static str) {
        match unsigned[..self.head_end(unsigned)].trim_start_matches(BYTE_ORDER_MARK) {
            "" => ("", line_end(unsigned)),
            lines if lines.ends_with('\n') => ("", line_end(unsigned)),
            _ => ("\n", ""),
        }
    }

    /// The signature line without its end.
    fn comment(self, signature: &SignatureLine) -> String {
        let (open, close) = self.style.delimiters();
        let space = if close.is_empty() { "" } else { " " };
        format!("{open} {}{space}{close}", signature.text())
    }

    /// Where the lines that have to be first end.
    fn head_end(self, content: &str) -> usize {
        let mut end = if content.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 };
        for start in self.leading {
            let rest = &content[end..];
            if rest.starts_with(start) {
                end += self.leading_end(rest);
            }
        }
        end
    }

    /// Where the line, or in markup the lines, at the start of `text` end that have to be first.
    fn leading_end(self, text: &str) -> usize {
        let [open, close] = CODE;
        let is_markup = self.style == CommentStyle::Markup && text.starts_with(open);
        let closed = if is_markup { memmem::find(text.as_bytes(), close.as_bytes()) } else { None };
        let last = closed.unwrap_or(0);
        last + first_line(&text[last..]).len()
    }

    /// What stands behind the mark, if `line` is a signature line. It is one only if all of it is inside the comment.
    fn text_after_mark(self, line: &str) -> Option<&str> {
        let (open, close) = self.style.delimiters();
        let text = line.trim_end_matches([' ', '\t', '\r', '\n']).strip_prefix(open)?.strip_prefix(' ')?;
        let text = match close {
            "" => text,
            _ => text.strip_suffix(close)?.strip_suffix(' ')?,
        };
        let rest = text.strip_prefix(MARK)?;
        let harmless = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b':' | b'-' | b'.' | b'+' | b'_');
        rest.bytes().all(harmless).then_some(rest)
    }
}

/// The first line with its end; empty if there is none.
fn first_line(text: &str) -> &str {
    match memchr::memchr(b'\n', text.as_bytes()) {
        Some(at) => &text[..=at],
        None => text,
    }
}

/// The line end of the first line, `\n` if it has none.
fn line_end(text: &str) -> &'static str {
    if first_line(text).ends_with("\r\n") {
        "\r\n"
    } else {
        "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HASH: &str = "72bfd60c2115389fac1afb8cf0bfcbc32e38ee50a911d6286a44094ccc53f80a";
    const LINE: &str =
        "kiwi-mcp:validated:2026-02-04T12:00:00Z:72bfd60c2115389fac1afb8cf0bfcbc32e38ee50a911d6286a44094ccc53f80a";
    const PYTHON: LineFormat = LineFormat::tool(CommentStyle::Hash);

    fn signature() -> SignatureLine {
        let timestamp = Timestamp::parse("2026-02-04T12:00:00.000000Z").unwrap();
        SignatureLine { timestamp, integrity: HASH.to_owned() }
    }

    fn signed(format: LineFormat, content: &str) -> String {
        format.replace(content, &signature())
    }

    #[test]
    fn each_style_puts_the_whole_line_in_a_comment() {
        let expected = [
            format!("# {LINE}\nx"),
            format!("// {LINE}\nx"),
            format!("-- {LINE}\nx"),
            format!("; {LINE}\nx"),
            format!("% {LINE}\nx"),
            format!("/* {LINE} */\nx"),
            format!("<!-- {LINE} -->\nx"),
        ];
        for (style, expected) in CommentStyle::ALL.into_iter().zip(expected) {
            let format = LineFormat::tool(style);
            assert_eq!(signed(format, "x"), expected);
            assert_eq!(format.extract(&expected), Some(signature()));
            assert_eq!(format.remove(&expected), "x");
        }
        assert_eq!(signed(LineFormat::MARKDOWN, "---\nx: y\n---\n"), format!("<!-- {LINE} -->\n---\nx: y\n---\n"));
    }

    #[test]
    fn what_has_to_be_first_stays_first() {
        let php = LineFormat::tool(CommentStyle::Slashes);
        assert_eq!(signed(PYTHON, "#!/bin/sh\nls\n"), format!("#!/bin/sh\n# {LINE}\nls\n"));
        assert_eq!(signed(PYTHON, "#!/bin/sh"), format!("#!/bin/sh\n# {LINE}"));
        assert_eq!(signed(PYTHON, "\u{feff}x\n"), format!("\u{feff}# {LINE}\nx\n"));
        assert_eq!(signed(php, "<?php\necho 1;\n"), format!("<?php\n// {LINE}\necho 1;\n"));
        assert_eq!(signed(php, "#!/usr/bin/php\n<?php\n"), format!("#!/usr/bin/php\n<?php\n// {LINE}\n"));
        assert_eq!(signed(LineFormat::MARKDOWN, "#!x\n"), format!("<!-- {LINE} -->\n#!x\n"));
    }

    /// A comment inside an XML declaration is an error.
    #[test]
    fn in_markup_the_line_comes_after_the_whole_declaration() {
        let xml = LineFormat::tool(CommentStyle::Markup);
        for (head, rest) in [
            ("<?xml version=\"1.0\"?>\n", "<svg/>\n"),
            ("<?xml version=\"1.0\"\n encoding=\"UTF-8\"?>\n", "<svg/>\n"),
            ("\u{feff}<?xml version=\"1.0\"\n encoding=\"UTF-8\"\n?><svg>\n", "</svg>\n<?x?>"),
        ] {
            let content = format!("{head}{rest}");
            let signed = signed(xml, &content);
            assert_eq!(signed, format!("{head}<!-- {LINE} -->\n{rest}"));
            assert_eq!(xml.extract(&signed), Some(signature()));
            assert_eq!(xml.find_fault(&signed), None);
            assert_eq!(xml.remove(&signed), content);
            assert_eq!(xml.check_place(&content), Ok(()));
        }
        let head = "<?xml version=\"1.0\"\r\n?>";
        assert_eq!(signed(xml, head), format!("{head}\n<!-- {LINE} -->"));
        assert_eq!(xml.remove(&signed(xml, head)), head);
    }

    #[test]
    fn a_place_where_the_line_would_be_no_comment_is_refused() {
        let (php, html) = (LineFormat::tool(CommentStyle::Slashes), LineFormat::tool(CommentStyle::Markup));
        let closed = "?> ends the code on its first line";
        for (format, content, error) in [
            (php, "<?php echo 1; ?>\n<b>hi</b>\n", Some((1, closed))),
            (php, "#!/usr/bin/php\n<?= 1 ?> <b>\n", Some((2, closed))),
            (php, "#!/usr/bin/php\n<?php\necho 1; ?>\n", None),
            (php, "<?php f(); ?><b><?php\ng();\n", None),
            (php, "f(); ?>\n", None),
            (PYTHON, "\u{feff}<?xml version=\"1.0\"?>\n<a/>\n", Some((1, closed))),
            (html, "<?php\necho 1;\n", Some((1, "<? is not closed"))),
            (html, "<?php f() ?>\n<b>\n", None),
            (html, "<b>\n<?php\n", None),
            (LineFormat::MARKDOWN, "<?php f() ?>\n", None),
            (LineFormat::MARKDOWN, "<?php\n", None),
            (PYTHON, "#!/usr/bin/guile \\\n-s\n!#\n", Some((1, "a backslash ends it"))),
            (PYTHON, "x = 1 + \\\n2\n", None),
        ] {
            let found = format.check_place(content).err();
            assert_eq!(found.is_some(), error.is_some(), "{content}");
            if let Some((found, (line, reason))) = found.zip(error) {
                assert_eq!(found.line, Some(line), "{content}");
                assert!(found.reason.starts_with(reason), "{content}: {found}");
            }
        }
    }

    #[test]
    fn a_line_that_displaces_a_shebang_is_no_signature() {
        let content = format!("# {LINE}\n#!/bin/sh\n");
        assert_eq!(PYTHON.extract(&content), None);
        assert_eq!(PYTHON.remove(&content), "#!/bin/sh\n");
    }

    #[test]
    fn crlf_stays_crlf() {
        assert_eq!(signed(PYTHON, "a\r\nb\r\n"), format!("# {LINE}\r\na\r\nb\r\n"));
        assert_eq!(signed(PYTHON, "#!x\r\nb"), format!("#!x\r\n# {LINE}\r\nb"));
        assert_eq!(PYTHON.extract(&signed(PYTHON, "a\r\n")), Some(signature()));
        assert_eq!(PYTHON.remove(&signed(PYTHON, "#!x\r")), "#!x\r");
    }

    #[test]
    fn all_stacked_lines_are_replaced_by_one() {
        let old = "# kiwi-mcp:validated:2025-01-01T00:00:00Z:abc123\n# kiwi-mcp:validated:\n";
        let content = format!("#!x\n{old}# {LINE}  \r\nbody\n{old}");
        assert_eq!(PYTHON.remove(&content), format!("#!x\nbody\n{old}"));
        assert_eq!(signed(PYTHON, &content), format!("#!x\n# {LINE}\nbody\n{old}"));
    }

    #[test]
    fn what_is_taken_out_and_is_not_the_one_line_that_signing_writes_is_a_fault() {
        let coding = "# kiwi-mcp:validated:coding:raw_unicode_escape";
        let (more, odd, none) = (
            Some("there is more than one signature line"),
            Some("its signature line is not as signing writes it"),
            Some("what stands in the place of its signature line is none"),
        );
        for (content, fault) in [
            ("x\n".to_owned(), None),
            (format!("# {LINE}\nx\n"), None),
            (format!("# {LINE}\nx"), None),
            (format!("# {LINE}\r\nx\r\n"), None),
            (format!("#!x\n# {LINE}"), None),
            (format!("#!x\r\n# {LINE}\r\nx\n"), None),
            (format!("# {LINE}\nx\n{coding}\n"), None),
            (format!("# {LINE}\n{coding}\nx\n"), more),
            (format!("# {LINE}\n# {LINE}"), more),
            (format!("{coding}\n# {LINE}\nx\n"), none),
            (format!("#!x\n{coding}\nx\n"), none),
            (format!("# {LINE}\n#!x\n"), none),
            (format!("# {LINE} \nx\n"), odd),
            (format!("# {LINE}\t\r\nx\n"), odd),
            (format!("# {LINE}\r"), odd),
            (format!("# {LINE}\r\nx\n"), odd),
            (format!("# {LINE}\r\nx"), odd),
            (format!("#!x\n# {LINE}\r\nx\n"), odd),
            (format!("# {LINE}\nx\r\n"), odd),
            (format!("# {LINE}"), odd),
        ] {
            assert_eq!(PYTHON.find_fault(&content), fault, "{content:?}");
        }
    }

    #[test]
    fn a_line_that_does_more_than_sign_is_content() {
        let block = LineFormat::tool(CommentStyle::Block);
        for (format, content) in [
            (block, format!("/* {LINE} */ run(); /* x */\n")),
            (block, format!("/* {LINE} run();\n")),
            (LineFormat::MARKDOWN, format!("<!-- {LINE} --> <b> <!-- x -->\n")),
            (PYTHON, format!("# {LINE}\rrun()\n")),
            (PYTHON, format!("# {LINE} \\\n")),
            (PYTHON, format!("// {LINE}\n")),
            (PYTHON, format!("x\n# {LINE}\n")),
        ] {
            assert_eq!(format.remove(&content), content.as_str());
            assert_eq!(format.extract(&content), None);
        }
    }

    #[test]
    fn only_a_timestamp_and_a_whole_hash_are_a_signature() {
        let short = &LINE[..LINE.len() - 52];
        for text in [
            short.to_owned(),
            LINE.to_uppercase().replace("KIWI-MCP:VALIDATED", "kiwi-mcp:validated"),
            LINE.replace("-04T", "-31T"),
            LINE.replace("00Z:", "00:"),
            LINE.replace("00Z:", "00.0Z:"),
            MARK.to_owned(),
        ] {
            let content = format!("# {text}\nx");
            assert_eq!(PYTHON.extract(&content), None, "{text}");
            assert_eq!(PYTHON.remove(&content), "x");
        }
    }

    /// Texts of the pieces that matter here.
    fn any_content() -> impl Strategy<Value = String> {
        let pieces = prop_oneof![
            Just("#!/bin/sh".to_owned()),
            Just("<?php".to_owned()),
            Just("?>".to_owned()),
            Just("\n".to_owned()),
            Just("\r\n".to_owned()),
            Just("\u{feff}".to_owned()),
            Just(format!("# {LINE}")),
            Just(format!("<!-- {LINE} -->")),
            Just("# kiwi-mcp:validated:x".to_owned()),
            ".{0,3}",
        ];
        proptest::collection::vec(pieces, 0..12).prop_map(|pieces| pieces.concat())
    }

    fn any_format() -> impl Strategy<Value = LineFormat> {
        let mut formats = vec![LineFormat::MARKDOWN];
        formats.extend(CommentStyle::ALL.map(LineFormat::tool));
        proptest::sample::select(formats)
    }

    proptest! {
        #[test]
        fn what_is_signed_says_so(content in any_content(), format in any_format()) {
            let signed = signed(format, &content);
            prop_assert_eq!(format.extract(&signed), Some(signature()));
            prop_assert_eq!(format.find_fault(&signed), None);
        }

        /// An attacker cannot choose anything that no hash covers.
        #[test]
        fn a_text_without_a_fault_is_what_signing_writes(
            before in any_content(), after in any_content(), format in any_format()
        ) {
            for content in [format!("{before}# {LINE}\n{after}"), format!("{before}<!-- {LINE} -->\n{after}"), after] {
                if format.find_fault(&content).is_none() && format.extract(&content).is_some() {
                    prop_assert_eq!(signed(format, &content), content);
                }
            }
        }

        #[test]
        fn removing_gives_back_what_was_there_before_signing(content in any_content(), format in any_format()) {
            let signed = signed(format, &content);
            prop_assert_eq!(format.remove(&signed), format.remove(&content));
        }

        #[test]
        fn signing_twice_is_signing_once(content in any_content(), format in any_format()) {
            let once = signed(format, &content);
            prop_assert_eq!(signed(format, &once), once);
        }

        #[test]
        fn removing_twice_is_removing_once(content in any_content(), format in any_format()) {
            let once = format.remove(&content);
            prop_assert_eq!(format.remove(&once), once.as_ref());
        }

        #[test]
        fn no_text_is_too_odd(content in any::<String>(), format in any_format()) {
            format.extract(&content);
            let signed = signed(format, &content);
            prop_assert_eq!(format.remove(&signed), format.remove(&content));
        }
    }
}
