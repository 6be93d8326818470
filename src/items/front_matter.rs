//! The front matter of knowledge: YAML between two lines `---` at the top of the file.
//!
//! It is read as a stream of events: an alias is never expanded, and depth and size are bounded. What readers of YAML
//! take in different ways is refused where it could set one of the keys that matter: otherwise the hash would cover
//! another value than the one that a reader finds.

use super::error::{line_of, ContentError};
use saphyr_parser::{Event, Parser, ScalarStyle, StrInput, Tag};
use std::borrow::Cow;

/// The longest front matter, in bytes.
const MAX_FRONT_MATTER: usize = 256 << 10;

/// How many collections may be inside one another.
const MAX_DEPTH: usize = 64;

/// The line before the front matter, and the one after it.
const FENCE: &str = "---";

/// The line that ends a YAML document.
const DOCUMENT_END: &str = "...";

/// The key whose value, a mapping, many readers merge into the mapping that it stands in.
const MERGE: &str = "<<";

/// Before a key. Within brackets, some readers take it for that also with no space behind it, and others for the first
/// character of the key.
const KEY_MARK: char = '?';

/// Characters that break a line in YAML 1.1 but not in YAML 1.2, or only in Python, and the byte order mark, which some
/// readers skip at the start of a line. Behind any of them, one reader finds a key, or a fence, where another finds
/// none.
const AMBIGUOUS: [char; 9] = ['\x0b', '\x0c', '\x1c', '\x1d', '\x1e', '\u{85}', '\u{2028}', '\u{2029}', '\u{feff}'];

/// What may be tagged as what it is. Other tags can make another value of the same text.
const TEXT_TAGS: [&str; 4] = ["str", "int", "float", "bool"];

/// What front matter says of its item. Keys that are not here are left alone.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct FrontMatter {
    pub zettel_id: Option<String>,
    pub title: Option<String>,
    pub category: Option<String>,
    pub entry_type: Option<String>,
    pub version: Option<String>,
    pub tags: Vec<String>,
}

/// Splits `text` into its front matter and the text after it, which is trimmed as Python's `str.strip` does.
///
/// Scalars are taken as they are written (`2024`, `yes` and `1.0` are text); only null is no value. Without front
/// matter, all is text.
///
/// # Errors
/// If the front matter is not closed, is over 256 KiB or 64 levels deep, or is not one YAML mapping whose keys are
/// text; if one of the keys that matter is there twice, or is not text, or `tags` is not a list of texts; if there is a
/// merge key, or a character that not all readers take as the same.
pub fn read(text: &str) -> Result<(FrontMatter, &str), ContentError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let Some((yaml, body)) = split(text)? else {
        return Ok((FrontMatter::default(), strip(text)));
    };
    if yaml.len() > MAX_FRONT_MATTER {
        let reason = format!("the front matter has {} bytes: at most {MAX_FRONT_MATTER} are allowed", yaml.len());
        return Err(ContentError::on_line(1, reason));
    }
    // The first line of the YAML is the second of the text.
    check_characters(yaml).map_err(|error| error.below(1))?;
    check_markers(yaml).map_err(|error| error.below(1))?;
    let front_matter = Events(Parser::new_from_str(yaml)).read_document().map_err(|error| error.below(1))?;
    Ok((front_matter, strip(body)))
}

/// Refuses characters that only some readers take for the end of a line. With a carriage return alone, YAML 1.2 ends
/// one, but not every reader ends a comment there.
fn check_characters(yaml: &str) -> Result<(), ContentError> {
    let is_alone = |at: usize| !yaml[at + 1..].starts_with('\n');
    let is_ambiguous = |(at, c): &(usize, char)| AMBIGUOUS.contains(c) || (*c == '\r' && is_alone(*at));
    let Some((at, character)) = yaml.char_indices().find(is_ambiguous) else {
        return Ok(());
    };
    let code = u32::from(character);
    let reason =
        format!("U+{code:04X} is in the front matter: remove it, for readers disagree on whether a line begins there");
    Err(ContentError::on_line(line_of(yaml, at), reason))
}

/// Refuses a line that some readers take for the end of the front matter, or for the end of a document in it: they
/// would find fewer keys than others, and another text below.
fn check_markers(yaml: &str) -> Result<(), ContentError> {
    let is_marker = |line: &str| line.starts_with(FENCE) || line.trim_end_matches(is_white) == DOCUMENT_END;
    match (1..).zip(yaml.split('\n')).find(|(_, line)| is_marker(line)) {
        None => Ok(()),
        Some((number, _)) => {
            let reason = "a line in the front matter begins with --- or is ..., where some readers end it: remove it";
            Err(ContentError::on_line(number, reason))
        }
    }
}

/// The YAML and what follows it; `None` if `text` does not start with a fence.
fn split(text: &str) -> Result<Option<(&str, &str)>, ContentError> {
    let behind = text.strip_prefix(FENCE).unwrap_or_default().trim_start_matches([' ', '\t']);
    if behind.starts_with('\r') && !behind.starts_with("\r\n") {
        let reason = "U+000D follows ---: remove it, for readers disagree on whether a line ends there";
        return Err(ContentError::on_line(1, reason));
    }
    let mut lines = (1..).zip(text.split_inclusive('\n'));
    let Some((number, opening)) = lines.next().filter(|(_, line)| line.trim_end_matches(is_white) == FENCE) else {
        return Ok(None);
    };
    check_fence(number, opening)?;
    let mut end = opening.len();
    for (number, line) in lines {
        if line.trim_end_matches(is_white) == FENCE {
            check_fence(number, line)?;
            return Ok(Some((&text[opening.len()..end], &text[end + line.len()..])));
        }
        end += line.len();
    }
    Err(ContentError::on_line(1, "the front matter is not closed: end it with a line ---"))
}

/// Refuses a fence that only some readers take for one: for others the front matter would end further down, and no hash
/// covers what they would read in it.
fn check_fence(number: usize, line: &str) -> Result<(), ContentError> {
    match line[FENCE.len()..].chars().find(|character| !matches!(character, ' ' | '\t' | '\r' | '\n')) {
        None => Ok(()),
        Some(character) => {
            let code = u32::from(character);
            let reason =
                format!("U+{code:04X} follows ---: remove it, for readers disagree on whether that is white space");
            Err(ContentError::on_line(number, reason))
        }
    }
}

/// `text` without the white space around it.
fn strip(text: &str) -> &str {
    text.trim_matches(is_white)
}

/// What Python takes for white space: the four separators of ASCII, too.
fn is_white(character: char) -> bool {
    character.is_whitespace() || matches!(character, '\x1c'..='\x1f')
}

/// The value of a key.
enum Value {
    Null,
    Text(String),
    List(Vec<String>),
    /// A mapping, an alias, a list of other things than texts, or what a tag or a `?` makes something else.
    Other,
}

struct Events<'y>(Parser<'y, StrInput<'y>>);

impl<'y> Events<'y> {
    /// The next event, and its 1-based line.
    fn next(&mut self) -> Result<(Event<'y>, usize), ContentError> {
        match self.0.next_event() {
            Some(Ok((event, span))) => Ok((event, span.start.line())),
            Some(Err(error)) => {
                let reason = format!("the front matter is not YAML: {}", error.info());
                Err(ContentError::on_line(error.marker().line(), reason))
            }
            None => Ok((Event::StreamEnd, 0)),
        }
    }

    fn read_document(mut self) -> Result<FrontMatter, ContentError> {
        let mut front_matter = FrontMatter::default();
        let mut documents = 0;
        loop {
            let (event, line) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(front_matter),
                Event::DocumentStart(_) if documents > 0 => {
                    return Err(ContentError::on_line(line, "the front matter must be one YAML document"));
                }
                Event::DocumentStart(_) => documents += 1,
                Event::MappingStart(_, tag) if is_tagged(tag.as_deref(), &["map"]) => {
                    front_matter = self.read_mapping()?;
                }
                Event::Scalar(text, style, ..) if is_null(&text, style) => (),
                Event::Scalar(..) | Event::SequenceStart(..) | Event::MappingStart(..) | Event::Alias(_) => {
                    return Err(ContentError::on_line(
                        line,
                        "the front matter must be a mapping, such as title: A title",
                    ));
                }
                _ => (),
            }
        }
    }

    /// Reads the members of the mapping that has been opened.
    fn read_mapping(&mut self) -> Result<FrontMatter, ContentError> {
        let mut front_matter = FrontMatter::default();
        let mut seen = Vec::new();
        loop {
            let (event, line) = self.next()?;
            if matches!(event, Event::MappingEnd) {
                return Ok(front_matter);
            }
            if matches!(&event, Event::Scalar(text, ScalarStyle::Plain, ..) if text.starts_with(KEY_MARK)) {
                let reason =
                    "a key begins with ?: put it in quotes, for readers disagree on whether that is a part of it";
                return Err(ContentError::on_line(line, reason));
            }
            let key = match self.read_value(event, line)? {
                Value::Text(key) if key == MERGE => {
                    let reason = "the key << is there: write the keys that it would add in its place";
                    return Err(ContentError::on_line(line, reason));
                }
                Value::Text(key) => key,
                // An alias may stand for the name of one of ours, and readers make texts of other keys.
                _ => return Err(ContentError::on_line(line, "each key must be text, without an alias or a tag")),
            };
            let (event, line) = self.next()?;
            let value = self.read_value(event, line)?;
            let Some(set) = setter(&key) else { continue };
            if seen.contains(&key) {
                return Err(ContentError::on_line(line, format!("{key} is there twice: keep one")));
            }
            set(&mut front_matter, value)
                .map_err(|kind| ContentError::on_line(line, format!("{key} must be {kind}")))?;
            seen.push(key);
        }
    }

    /// Reads the value that starts with `event`, to its end.
    fn read_value(&mut self, event: Event<'y>, line: usize) -> Result<Value, ContentError> {
        match event {
            Event::Scalar(text, style, _, tag) => Ok(scalar(text, style, tag.as_deref())),
            Event::SequenceStart(_, tag) => {
                let list = self.read_list(line)?;
                Ok(if is_tagged(tag.as_deref(), &["seq"]) { list } else { Value::Other })
            }
            Event::MappingStart(..) => {
                self.skip(line)?;
                Ok(Value::Other)
            }
            _ => Ok(Value::Other),
        }
    }

    /// Reads the items of the sequence that has been opened.
    fn read_list(&mut self, line: usize) -> Result<Value, ContentError> {
        let mut texts = Vec::new();
        let mut other = false;
        loop {
            match self.next()?.0 {
                Event::SequenceEnd if other => return Ok(Value::Other),
                Event::SequenceEnd => return Ok(Value::List(texts)),
                Event::Scalar(text, ScalarStyle::Plain, ..) if text.starts_with(KEY_MARK) => other = true,
                Event::Scalar(text, style, _, tag) => match scalar(text, style, tag.as_deref()) {
                    Value::Text(text) => texts.push(text),
                    _ => other = true,
                },
                Event::SequenceStart(..) | Event::MappingStart(..) => {
                    self.skip(line)?;
                    other = true;
                }
                _ => other = true,
            }
        }
    }

    /// Reads to the end of the collection that has been opened.
    fn skip(&mut self, line: usize) -> Result<(), ContentError> {
        let mut depth = 1;
        while depth > 0 {
            match self.next()?.0 {
                Event::SequenceStart(..) | Event::MappingStart(..) => depth += 1,
                Event::SequenceEnd | Event::MappingEnd => depth -= 1,
                _ => (),
            }
            if depth > MAX_DEPTH {
                let reason = format!("the front matter is more than {MAX_DEPTH} levels deep");
                return Err(ContentError::on_line(line, reason));
            }
        }
        Ok(())
    }
}

/// The value of a scalar. Tagged as text, even `null` is text.
fn scalar(text: Cow<'_, str>, style: ScalarStyle, tag: Option<&Tag>) -> Value {
    match tag {
        None if is_null(&text, style) => Value::Null,
        _ if is_tagged(tag, &TEXT_TAGS) => Value::Text(text.into_owned()),
        _ => Value::Other,
    }
}

/// Whether there is no tag, or one of these.
fn is_tagged(tag: Option<&Tag>, names: &[&str]) -> bool {
    tag.is_none_or(|tag| tag.is_yaml_core_schema() && names.contains(&tag.suffix.as_str()))
}

/// Whether a scalar is YAML's null. Quoted, it is text.
fn is_null(text: &str, style: ScalarStyle) -> bool {
    style == ScalarStyle::Plain && matches!(text, "" | "~" | "null" | "Null" | "NULL")
}

/// Sets a field to a value, or says what kind of value it takes.
type Setter = fn(&mut FrontMatter, Value) -> Result<(), &'static str>;

/// How to set the field of this key; `None` if it is none of ours.
fn setter(key: &str) -> Option<Setter> {
    Some(match key {
        "zettel_id" => |to, value| set_text(&mut to.zettel_id, value),
        "title" => |to, value| set_text(&mut to.title, value),
        "category" => |to, value| set_text(&mut to.category, value),
        "entry_type" => |to, value| set_text(&mut to.entry_type, value),
        "version" => |to, value| set_text(&mut to.version, value),
        "tags" => |to, value| set_tags(&mut to.tags, value),
        _ => return None,
    })
}

fn set_text(field: &mut Option<String>, value: Value) -> Result<(), &'static str> {
    match value {
        Value::Null => Ok(()),
        Value::Text(text) => {
            *field = Some(text);
            Ok(())
        }
        Value::List(_) | Value::Other => Err("text"),
    }
}

fn set_tags(tags: &mut Vec<String>, value: Value) -> Result<(), &'static str> {
    match value {
        Value::Null => Ok(()),
        Value::List(texts) => {
            *tags = texts;
            Ok(())
        }
        Value::Text(_) | Value::Other => Err("a list of texts, such as [a, b]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::{Duration, Instant};

    fn fields(yaml: &str) -> Result<FrontMatter, String> {
        let text = format!("---\n{yaml}\n---\nbody");
        read(&text).map(|(front_matter, _)| front_matter).map_err(|error| error.to_string())
    }

    #[test]
    fn front_matter_and_text_are_told_apart() {
        for text in [
            "---\ntitle: A\n---\n\nText --- here\n---\nmore\n",
            "---\r\ntitle: A\r\n---\r\nText --- here\n---\nmore\r\n",
            "\u{feff}--- \ntitle: A\n---\t\nText --- here\n---\nmore\x1c",
        ] {
            let (front_matter, body) = read(text).unwrap();
            assert_eq!(front_matter.title.as_deref(), Some("A"));
            assert_eq!(body, "Text --- here\n---\nmore");
        }
    }

    #[test]
    fn without_front_matter_all_is_text() {
        for text in ["", "Text", "\n---\na: b\n---\n", "----\na\n", "--- a\n---\n", "# T\n---\n"] {
            assert_eq!(read(text), Ok((FrontMatter::default(), strip(text))), "{text}");
        }
        assert_eq!(read("---\n---\n").unwrap(), (FrontMatter::default(), ""));
        assert_eq!(read("---\n# nothing\n---").unwrap(), (FrontMatter::default(), ""));
    }

    #[test]
    fn scalars_are_text_as_written() {
        let yaml = "zettel_id: 20260126\ntitle: 'yes'\ncategory: ~\nentry_type: true\nversion: 1.0\ntags: [a, 2, \"null\", 1.50]";
        let front_matter = fields(yaml).unwrap();
        assert_eq!(front_matter.zettel_id.as_deref(), Some("20260126"));
        assert_eq!(front_matter.title.as_deref(), Some("yes"));
        assert_eq!(front_matter.category, None);
        assert_eq!(front_matter.entry_type.as_deref(), Some("true"));
        assert_eq!(front_matter.version.as_deref(), Some("1.0"));
        assert_eq!(front_matter.tags, ["a", "2", "null", "1.50"]);
        assert_eq!(fields("tags:\n  - a\n  - b\n").unwrap().tags, ["a", "b"]);
        assert_eq!(fields("tags:").unwrap().tags, [""; 0]);
        assert_eq!(fields("title: |\n  a\n  b").unwrap().title.as_deref(), Some("a\nb\n"));
    }

    #[test]
    fn other_keys_may_hold_anything() {
        let front_matter = fields("base: &b {a: [1, {b: c}], <<: {&c d: 1}}\nother: *b\nlast: !x y\ntitle: A").unwrap();
        assert_eq!(front_matter.title.as_deref(), Some("A"));
    }

    /// A reader that resolves it would find the key `category` with another value than the hash covers.
    #[test]
    fn no_key_is_hidden_from_the_hash_that_a_reader_of_yaml_finds() {
        let plain = "line 4: each key must be text, without an alias or a tag";
        let merge = "line 4: the key << is there: write the keys that it would add in its place";
        for (hidden, expected) in [
            ("*k : secret", plain),
            ("? *k\n: secret", plain),
            ("? [category]\n: secret", plain),
            ("? {category}\n: secret", plain),
            ("? null\n: secret", plain),
            ("!!binary Y2F0ZWdvcnk=: secret", plain),
            ("!!merge x: {category: secret}", plain),
            ("<<: {category: secret}", merge),
            ("\"<<\": {category: secret}", merge),
            ("<<: [*m]", merge),
        ] {
            let found = fields(&format!("x: &k category\nm: &m {{category: secret}}\n{hidden}\ncategory: public"));
            assert_eq!(found.unwrap_err(), expected, "{hidden}");
        }
        for (code, character) in [("0085", '\u{85}'), ("2028", '\u{2028}'), ("2029", '\u{2029}'), ("FEFF", '\u{feff}')]
        {
            for hidden in [format!("# c{character}category: secret"), format!("{character}category: secret")] {
                let expected = format!("line 3: U+{code} is in the front matter: remove it");
                let found = fields(&format!("title: A\n{hidden}\nlast: x")).unwrap_err();
                assert!(found.starts_with(&expected), "{found}");
            }
        }
        for hidden in ["# c\rcategory: secret\rx: |\n category: c", "title: a\rcategory: secret"] {
            let found = fields(hidden).unwrap_err();
            assert!(found.starts_with("line 2: U+000D is in the front matter: remove it"), "{found}");
        }
        assert_eq!(fields("# c\r\ncategory: c\r\n").unwrap().category.as_deref(), Some("c"));
    }

    /// Within brackets, many readers find the key or the mapping behind the `?`.
    #[test]
    fn what_begins_with_a_question_mark_must_be_quoted() {
        for yaml in ["{category: public, ?category: secret}", "{?category: secret}", "?x: y"] {
            let found = fields(yaml).unwrap_err();
            assert!(found.starts_with("line 2: a key begins with ?: put it in quotes"), "{found}");
        }
        assert_eq!(fields("tags: [?a]").unwrap_err(), "line 2: tags must be a list of texts, such as [a, b]");
        let front_matter = fields("{? category: public, '?x': y, title: \"?\", tags: ['?a']}").unwrap();
        assert_eq!(front_matter.category.as_deref(), Some("public"));
        assert_eq!(front_matter.tags, ["?a"]);
        assert_eq!(fields("title: ?a").unwrap().title.as_deref(), Some("?a"));
    }

    /// With a tag, a reader takes the same text as another value.
    #[test]
    fn a_tag_does_not_change_what_the_hash_covers() {
        for (yaml, expected) in [
            ("category: !!binary public", "line 2: category must be text"),
            ("category: !!null public", "line 2: category must be text"),
            ("category: !other public", "line 2: category must be text"),
            ("entry_type: ! x", "line 2: entry_type must be text"),
            ("tags: [a, !!null b]", "line 2: tags must be a list of texts"),
            ("tags: !!set [a]", "line 2: tags must be a list of texts"),
            ("!!set\ncategory: public", "line 2: the front matter must be a mapping"),
        ] {
            let error = fields(yaml).unwrap_err();
            assert!(error.starts_with(expected), "{yaml:?}: {error}");
        }
        let front_matter =
            fields("!!map\n!!str category: !!str null\nentry_type: !!int 5\ntags: !!seq [!!str a]").unwrap();
        assert_eq!(front_matter.category.as_deref(), Some("null"));
        assert_eq!(front_matter.entry_type.as_deref(), Some("5"));
        assert_eq!(front_matter.tags, ["a"]);
    }

    #[test]
    fn front_matter_that_does_not_parse_is_refused_by_line() {
        for (yaml, expected) in [
            ("title: [a", "line 3: the front matter is not YAML: "),
            ("a: b\ntitle: \"x", "line 3: the front matter is not YAML: "),
            ("- a", "line 2: the front matter must be a mapping"),
            ("text", "line 2: the front matter must be a mapping"),
            ("a: b\n... # c\nc: d", "line 4: the front matter must be one YAML document"),
            ("a: 1\ntitle: a\ntitle: b", "line 4: title is there twice: keep one"),
            ("title: {a: b}", "line 2: title must be text"),
            ("tags: a, b", "line 2: tags must be a list of texts, such as [a, b]"),
            ("tags: [[a]]", "line 2: tags must be a list of texts"),
            ("tags: [~]", "line 2: tags must be a list of texts"),
            ("a: &x [a]\ntags: *x", "line 3: tags must be a list of texts"),
            ("a: *missing", "line 2: the front matter is not YAML: "),
        ] {
            let error = fields(yaml).unwrap_err();
            assert!(error.starts_with(expected), "{yaml:?}: {error}");
        }
        let error = read("---\ntitle: A\n").unwrap_err().to_string();
        assert_eq!(error, "line 1: the front matter is not closed: end it with a line ---");
    }

    #[test]
    fn a_fence_that_only_some_readers_see_is_refused() {
        for space in ['\u{a0}', '\u{2003}', '\u{2028}', '\u{85}', '\x0b', '\x1d'] {
            for (text, line) in [
                (format!("---\ntitle: A\n---{space}\nb\n---\n"), 3),
                (format!("---\ntitle: A\n--- {space}"), 3),
                (format!("---{space}\ntitle: A\n---\nb\n"), 1),
            ] {
                let error = read(&text).unwrap_err().to_string();
                let code = u32::from(space);
                assert!(error.starts_with(&format!("line {line}: U+{code:04X} follows ---: ")), "{text:?}: {error}");
            }
        }
        assert_eq!(read("--- \t\r\ntitle: A\n---\t \r\nb\n").unwrap().1, "b");
        let error = read("---\rcategory: secret\r---\rtext").unwrap_err().to_string();
        assert!(error.starts_with("line 1: U+000D follows ---: "), "{error}");
    }

    #[test]
    fn a_line_that_some_readers_end_the_front_matter_at_is_refused() {
        for (text, line) in [
            ("---\ntitle: A\n---x: injected\ncategory: b\n---\nc", 3),
            ("---\ntitle: A\n...\n# to be ignored\n---\nb", 3),
            ("---\ntitle: A\n... \r\n---\nb", 3),
            ("---\n--- # c\ntitle: A\n---\nb", 2),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("line {line}: a line in the front matter begins with ---")),
                "{text:?}: {error}"
            );
        }
        for text in ["---\ntitle: |\n  ---\n  ...\n---\nb", "---\ntitle: --- a\nnote: ...\n---\nb"] {
            assert_eq!(read(text).unwrap().1, "b", "{text:?}");
        }
    }

    /// Each of these is small, and would take gigabytes, minutes or the whole stack of a reader that is not careful.
    #[test]
    fn bombs_are_refused_or_harmless_at_once() {
        let mut laughs = String::from("a0: &a0 [x, x]\n");
        for level in 1..40 {
            let before = level - 1;
            laughs += &format!("a{level}: &a{level} [*a{before}, *a{before}]\n");
        }
        let long = "x".repeat(MAX_FRONT_MATTER);
        for (name, yaml, fine) in [
            ("aliases", laughs.clone(), true),
            ("an alias in use", laughs + "tags: *a39", false),
            ("flow", format!("a: {}", "[".repeat(100_000)), false),
            ("closed flow", format!("a: {}{}", "[".repeat(200), "]".repeat(200)), false),
            ("block", format!("a:\n  {}x", "- ".repeat(100_000)), false),
            ("keys", (0..200).fold(String::new(), |yaml, depth| yaml + &" ".repeat(depth) + "a:\n"), false),
            ("question marks", "? ".repeat(100_000), false),
            ("quotes", "\"".repeat(200_000), false),
            ("anchors", "&a ".repeat(80_000), false),
            ("brackets", "[]".repeat(100_000), false),
            ("many keys", (0..20_000).map(|n| format!("k{n}: v\n")).collect(), true),
            ("long", format!("a: {long}"), false),
        ] {
            let start = Instant::now();
            assert_eq!(fields(&yaml).is_ok(), fine, "{name}");
            assert!(start.elapsed() < Duration::from_secs(5), "{name}: {:?}", start.elapsed());
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd(yaml in "[a-b:?&*!|>%@`'\"#,\\[\\]{}\\\\~ \t\n\r-]{0,60}", any in any::<String>()) {
            let _ = fields(&yaml);
            let _ = fields(&any);
            let _ = read(&any);
            let _ = fields(&format!("title: {yaml}\ntags: {any}"));
        }
    }
}
