//! The front matter of knowledge: YAML between two lines `---` at the top of the file.
//!
//! It is read as a stream of events: an alias is never expanded, and depth and size are bounded.

use super::error::ContentError;
use saphyr_parser::{Event, Parser, ScalarStyle, StrInput};

/// The longest front matter, in bytes.
const MAX_FRONT_MATTER: usize = 256 << 10;

/// How many collections may be inside one another.
const MAX_DEPTH: usize = 64;

/// The line before the front matter, and the one after it.
const FENCE: &str = "---";

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
/// If the front matter is not closed, is over 256 KiB or 64 levels deep, or is not one YAML mapping; if one of the keys
/// that matter is there twice, or is not text, or `tags` is not a list of texts.
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
    let front_matter = Events(Parser::new_from_str(yaml)).read_document().map_err(|error| error.below(1))?;
    Ok((front_matter, strip(body)))
}

/// The YAML and what follows it; `None` if `text` does not start with a fence.
fn split(text: &str) -> Result<Option<(&str, &str)>, ContentError> {
    let mut lines = text.split_inclusive('\n');
    let Some(opening) = lines.next().filter(|line| line.trim_end() == FENCE) else {
        return Ok(None);
    };
    let mut end = opening.len();
    for line in lines {
        if line.trim_end() == FENCE {
            return Ok(Some((&text[opening.len()..end], &text[end + line.len()..])));
        }
        end += line.len();
    }
    Err(ContentError::on_line(1, "the front matter is not closed: end it with a line ---"))
}

/// `text` without the white space around it. Python's also strips the four separators of ASCII.
fn strip(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || matches!(c, '\x1c'..='\x1f'))
}

/// The value of a key.
enum Value {
    Null,
    Text(String),
    List(Vec<String>),
    /// A mapping, an alias, or a list of other things than texts.
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
                Event::MappingStart(..) => front_matter = self.read_mapping()?,
                Event::Scalar(text, style, ..) if is_null(&text, style) => (),
                Event::Scalar(..) | Event::SequenceStart(..) | Event::Alias(_) => {
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
            let key = self.read_value(event, line)?;
            let (event, line) = self.next()?;
            let value = self.read_value(event, line)?;
            let Value::Text(key) = key else { continue };
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
            Event::Scalar(text, style, ..) if is_null(&text, style) => Ok(Value::Null),
            Event::Scalar(text, ..) => Ok(Value::Text(text.into_owned())),
            Event::SequenceStart(..) => self.read_list(line),
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
                Event::Scalar(text, style, ..) if !is_null(&text, style) => texts.push(text.into_owned()),
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
        let front_matter = fields("base: &b {a: [1, {b: c}]}\nother: *b\n? [x, y]\n: z\n*b : 1\ntitle: A").unwrap();
        assert_eq!(front_matter.title.as_deref(), Some("A"));
    }

    #[test]
    fn front_matter_that_does_not_parse_is_refused_by_line() {
        for (yaml, expected) in [
            ("title: [a", "line 3: the front matter is not YAML: "),
            ("a: b\ntitle: \"x", "line 3: the front matter is not YAML: "),
            ("- a", "line 2: the front matter must be a mapping"),
            ("text", "line 2: the front matter must be a mapping"),
            ("a: b\n...\nc: d", "line 4: the front matter must be one YAML document"),
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
