//! How a language writes a comment of one line.

use super::error::ItemError;
use super::location::file_name;

/// A comment of one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CommentStyle {
    /// `# ...`
    Hash,
    /// `// ...`
    Slashes,
    /// `-- ...`
    Dashes,
    /// `; ...`
    Semicolon,
    /// `% ...`
    Percent,
    /// `/* ... */`
    Block,
    /// `<!-- ... -->`
    Markup,
}

/// Extensions, and names of languages where those are not the extension.
const LANGUAGES: [(CommentStyle, &[&str]); 7] = [
    (
        CommentStyle::Hash,
        &[
            "py",
            "pyi",
            "pyw",
            "python",
            "sh",
            "bash",
            "zsh",
            "fish",
            "ksh",
            "shell",
            "rb",
            "ruby",
            "pl",
            "pm",
            "perl",
            "r",
            "jl",
            "julia",
            "ex",
            "exs",
            "elixir",
            "tcl",
            "awk",
            "sed",
            "ps1",
            "psm1",
            "powershell",
            "nix",
            "nim",
            "cr",
            "mk",
            "make",
            "cmake",
            "yaml",
            "yml",
            "toml",
            "conf",
            "cfg",
            "tf",
            "properties",
            "dockerfile",
        ],
    ),
    (
        CommentStyle::Slashes,
        &[
            "js",
            "mjs",
            "cjs",
            "jsx",
            "javascript",
            "ts",
            "mts",
            "cts",
            "tsx",
            "typescript",
            "go",
            "rs",
            "rust",
            "java",
            "kt",
            "kts",
            "kotlin",
            "scala",
            "groovy",
            "swift",
            "dart",
            "c",
            "h",
            "cc",
            "cpp",
            "cxx",
            "hpp",
            "hh",
            "c++",
            "cs",
            "c#",
            "csharp",
            "php",
            "zig",
            "proto",
            "jsonc",
            "json5",
        ],
    ),
    (CommentStyle::Dashes, &["sql", "lua", "hs", "haskell", "elm", "ada", "adb", "ads", "vhd", "vhdl", "applescript"]),
    (
        CommentStyle::Semicolon,
        &[
            "lisp", "lsp", "cl", "el", "clj", "cljs", "cljc", "clojure", "edn", "scm", "scheme", "ss", "asm", "ini",
            "ahk",
        ],
    ),
    (CommentStyle::Percent, &["tex", "latex", "sty", "cls", "erl", "hrl", "erlang", "m", "matlab", "octave", "prolog"]),
    (CommentStyle::Block, &["css", "scss", "less"]),
    (CommentStyle::Markup, &["md", "markdown", "html", "htm", "xhtml", "xml", "svg", "vue"]),
];

/// Interpreters that a `#!` line can name, except the many whose languages have `#` comments. The listed ones skip the
/// first line of a program, but a second line that begins with `#` is a syntax error.
const INTERPRETERS: [(CommentStyle, &[&str]); 4] = [
    (
        CommentStyle::Slashes,
        &[
            "node",
            "nodejs",
            "deno",
            "bun",
            "ts-node",
            "tsx",
            "zx",
            "qjs",
            "php",
            "swift",
            "scala",
            "scala-cli",
            "amm",
            "groovy",
            "rust-script",
            "cargo",
            "dart",
            "kotlin",
            "kotlinc",
            "kscript",
            "java",
            "jbang",
            "jshell",
            "dotnet",
            "dotnet-script",
            "gorun",
            "yaegi",
            "tcc",
            "rdmd",
            "zig",
        ],
    ),
    (
        CommentStyle::Dashes,
        &["lua", "luajit", "luau", "texlua", "runghc", "runhaskell", "runhugs", "stack", "cabal", "psql", "sqlite"],
    ),
    (
        CommentStyle::Semicolon,
        &[
            "guile",
            "racket",
            "clojure",
            "clj",
            "bb",
            "lumo",
            "planck",
            "nbb",
            "joker",
            "sbcl",
            "clisp",
            "ecl",
            "ros",
            "emacs",
            "gosh",
            "csi",
            "scheme",
            "chez",
            "chibi-scheme",
            "fennel",
            "hy",
        ],
    ),
    (CommentStyle::Percent, &["escript", "swipl", "gprolog", "yap", "octave"]),
];

/// Extensions of formats that have no comments, or none that a signature line could be written in.
const WITHOUT_COMMENTS: [&str; 4] = ["json", "ipynb", "bat", "cmd"];

impl CommentStyle {
    /// All of them.
    pub const ALL: [CommentStyle; 7] = [
        CommentStyle::Hash,
        CommentStyle::Slashes,
        CommentStyle::Dashes,
        CommentStyle::Semicolon,
        CommentStyle::Percent,
        CommentStyle::Block,
        CommentStyle::Markup,
    ];

    /// What opens the comment, and what closes it; the latter is empty where the end of the line closes it.
    pub fn delimiters(self) -> (&'static str, &'static str) {
        match self {
            CommentStyle::Hash => ("#", ""),
            CommentStyle::Slashes => ("//", ""),
            CommentStyle::Dashes => ("--", ""),
            CommentStyle::Semicolon => (";", ""),
            CommentStyle::Percent => ("%", ""),
            CommentStyle::Block => ("/*", "*/"),
            CommentStyle::Markup => ("<!--", "-->"),
        }
    }

    /// The style of a language: its name, its file extension with or without the dot (both in any case), or what opens
    /// its comments. `None` if it is not known.
    pub fn of_language(language: &str) -> Option<CommentStyle> {
        let opens = |style: &CommentStyle| style.delimiters().0 == language;
        if let Some(style) = CommentStyle::ALL.into_iter().find(opens) {
            return Some(style);
        }
        let name = language.strip_prefix('.').unwrap_or(language).to_ascii_lowercase();
        let named = LANGUAGES.iter().find(|(_, names)| names.contains(&name.as_str()));
        named.map(|(style, _)| *style)
    }

    /// The style of a tool: that of `language` if it is given, else of the extension of its file, else of the
    /// interpreter that its `#!` line names, else `#`.
    ///
    /// # Errors
    /// If the language is not known, or files with this extension have no comments.
    pub fn of_tool(language: Option<&str>, file_path: Option<&str>, content: &str) -> Result<CommentStyle, ItemError> {
        if let Some(language) = language {
            return Self::of_language(language).ok_or_else(|| ItemError::UnknownLanguage(language.to_owned()));
        }
        let extension = file_path.and_then(extension_of).map(str::to_ascii_lowercase);
        if let Some(extension) = extension.filter(|extension| WITHOUT_COMMENTS.contains(&extension.as_str())) {
            return Err(ItemError::NoComments(extension));
        }
        let by_extension = file_path.and_then(extension_of).and_then(Self::of_language);
        Ok(by_extension.or_else(|| Self::of_interpreter(content)).unwrap_or(CommentStyle::Hash))
    }

    /// The comment style of the interpreter that the `#!` line of `content` names, if that is a known one.
    fn of_interpreter(content: &str) -> Option<CommentStyle> {
        let name = interpreter(content)?.to_ascii_lowercase();
        // Often with its version, as in lua5.4.
        let name = name.trim_end_matches(|c: char| c.is_ascii_digit() || matches!(c, '.' | '-'));
        INTERPRETERS.iter().find(|(_, names)| names.contains(&name)).map(|(style, _)| *style)
    }
}

/// The name of the program that the `#!` line of `content` runs, or has env run.
fn interpreter(content: &str) -> Option<&str> {
    let line = content.strip_prefix('\u{feff}').unwrap_or(content).lines().next()?.strip_prefix("#!")?;
    let mut words =
        line.split_whitespace().map(|word| word.trim_start_matches("-S").trim_start_matches("--split-string="));
    let program = file_name(words.next()?);
    if program != "env" {
        return Some(program);
    }
    let mut words = words.filter(|word| !word.is_empty());
    while let Some(word) = words.next() {
        match word {
            "-u" | "--unset" | "-C" | "--chdir" => drop(words.next()),
            option_or_variable if option_or_variable.starts_with('-') || option_or_variable.contains('=') => {}
            program => return Some(file_name(program)),
        }
    }
    None
}

/// What follows the last dot of a file's name; `None` if there is no dot, or only one at the start.
fn extension_of(path: &str) -> Option<&str> {
    match file_name(path).rsplit_once('.') {
        Some(("", _)) | None => None,
        Some((_, extension)) => Some(extension),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn style(path: &str) -> Option<CommentStyle> {
        CommentStyle::of_tool(None, Some(path), "").ok()
    }

    #[test]
    fn the_extension_chooses_the_comment() {
        let cases = [
            ("a/x.py", CommentStyle::Hash),
            ("x.SH", CommentStyle::Hash),
            ("x.ts", CommentStyle::Slashes),
            ("x.rs", CommentStyle::Slashes),
            ("x.sql", CommentStyle::Dashes),
            ("x.lua", CommentStyle::Dashes),
            ("x.clj", CommentStyle::Semicolon),
            ("x.tex", CommentStyle::Percent),
            ("x.css", CommentStyle::Block),
            ("x.html", CommentStyle::Markup),
            ("C:\\p\\x.min.js", CommentStyle::Slashes),
            ("x.unheard-of", CommentStyle::Hash),
            ("a.js/x", CommentStyle::Hash),
            (".js", CommentStyle::Hash),
            ("Makefile", CommentStyle::Hash),
        ];
        for (path, expected) in cases {
            assert_eq!(style(path), Some(expected), "{path}");
        }
        assert_eq!(CommentStyle::of_tool(None, None, ""), Ok(CommentStyle::Hash));
    }

    #[test]
    fn a_language_given_goes_before_the_extension() {
        for (language, expected) in [
            ("javascript", CommentStyle::Slashes),
            ("JavaScript", CommentStyle::Slashes),
            (".sql", CommentStyle::Dashes),
            ("//", CommentStyle::Slashes),
            ("/*", CommentStyle::Block),
            ("<!--", CommentStyle::Markup),
        ] {
            assert_eq!(CommentStyle::of_tool(Some(language), Some("x.json"), ""), Ok(expected), "{language}");
        }
        for language in ["", ".", "klingon", "json"] {
            let error = CommentStyle::of_tool(Some(language), Some("x.py"), "");
            assert_eq!(error, Err(ItemError::UnknownLanguage(language.to_owned())));
        }
    }

    #[test]
    fn the_interpreter_chooses_the_comment_where_neither_language_nor_extension_does() {
        for (line, expected) in [
            ("#!/usr/bin/env node", CommentStyle::Slashes),
            ("#! /usr/bin/nodejs --harmony", CommentStyle::Slashes),
            ("\u{feff}#!/usr/bin/env -S deno run --allow-net\r", CommentStyle::Slashes),
            ("#!/usr/bin/env -Sbun run", CommentStyle::Slashes),
            ("#!/usr/bin/env -i -u HOME NODE_ENV=x node", CommentStyle::Slashes),
            ("#!/usr/bin/env --split-string=ts-node --esm", CommentStyle::Slashes),
            ("#!/usr/local/bin/php8.2", CommentStyle::Slashes),
            ("#!/usr/bin/lua5.4", CommentStyle::Dashes),
            ("#!/usr/bin/env luajit-2.1", CommentStyle::Dashes),
            ("#!/usr/bin/env runhaskell", CommentStyle::Dashes),
            ("#!/usr/bin/guile-3.0 -s", CommentStyle::Semicolon),
            ("#!/usr/bin/env bb", CommentStyle::Semicolon),
            ("#!/usr/bin/sbcl --script", CommentStyle::Semicolon),
            ("#!/usr/bin/env escript", CommentStyle::Percent),
            ("#!/usr/bin/env swipl", CommentStyle::Percent),
            ("#!/usr/bin/python3.12", CommentStyle::Hash),
            ("#!/bin/sh -e", CommentStyle::Hash),
            ("#!/usr/bin/env", CommentStyle::Hash),
            ("#!", CommentStyle::Hash),
            ("node", CommentStyle::Hash),
            ("\n#!/usr/bin/env node", CommentStyle::Hash),
        ] {
            let content = format!("{line}\ngo\n");
            for path in [None, Some("bin/go"), Some("go.unheard-of")] {
                assert_eq!(CommentStyle::of_tool(None, path, &content), Ok(expected), "{line}");
            }
            assert_eq!(CommentStyle::of_tool(None, Some("go.sql"), &content), Ok(CommentStyle::Dashes));
            assert_eq!(CommentStyle::of_tool(Some("tex"), None, &content), Ok(CommentStyle::Percent));
        }
    }

    #[test]
    fn no_interpreter_has_two_styles() {
        let mut names: Vec<&str> = INTERPRETERS.iter().flat_map(|(_, names)| *names).copied().collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn a_format_without_comments_is_refused() {
        let error = CommentStyle::of_tool(None, Some("x.JSON"), "#!/bin/sh").unwrap_err();
        assert_eq!(error.to_string(), "a .json file has no comments and cannot carry a signature line");
    }

    #[test]
    fn no_language_has_two_styles() {
        let mut names: Vec<&str> = LANGUAGES.iter().flat_map(|(_, names)| *names).copied().collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
