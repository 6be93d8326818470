//! A project whose items `pg_notary items` signs and verifies.

use super::program::{program, stdout};
use serde_json::Value;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use tempfile::TempDir;
pub const TOOL: &str = "#!/usr/bin/env python3\n__version__ = \"1.2.0\"\nprint('hi')\n";
pub const DIRECTIVE: &str = "# Title\n\n<directive name=\"deploy\" version=\"2.0.0\">\n  <a/>\n</directive>\n";
pub const KNOWLEDGE: &str = "---\nzettel_id: 20260126-example\ntags: [a, b]\n---\n\nText\n";

/// A project with one item of each type, removed when the test is over.
pub struct Project(TempDir);

impl Project {
    pub fn new() -> Self {
        let project = Project(TempDir::new().unwrap());
        project.write("tools/core/hello.py", TOOL);
        project.write("directives/deploy.md", DIRECTIVE);
        project.write("knowledge/patterns/example.md", KNOWLEDGE);
        project
    }

    pub fn signed() -> Self {
        let project = Project::new();
        assert_eq!(project.run("sign").status.code(), Some(0));
        project
    }

    pub fn root(&self) -> &Path {
        self.0.path()
    }

    /// The path of a file below `.ai`.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root().join(".ai").join(name)
    }

    pub fn write(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    pub fn run(&self, command: &str) -> Output {
        run(&[OsStr::new(command), self.root().as_os_str()])
    }

    /// The report of `verify --json`, and its exit status.
    pub fn verified(&self) -> (Value, i32) {
        let output = run(&[OsStr::new("verify"), OsStr::new("--json"), self.root().as_os_str()]);
        (serde_json::from_str(&stdout(&output)).unwrap(), output.status.code().unwrap())
    }

    /// What the report says of the file `name`, which makes the whole invalid.
    pub fn problem(&self, name: &str) -> Value {
        let (report, status) = self.verified();
        assert_eq!((report["valid"].as_bool(), status), (Some(false), 1), "{report}");
        item(&report, name)
    }
}

/// What a report says of the file `name`.
pub fn item(report: &Value, name: &str) -> Value {
    let named = |item: &&Value| item["path"].as_str().unwrap().ends_with(name);
    report["items"].as_array().unwrap().iter().find(named).unwrap().clone()
}

/// Runs `pg_notary items` with these arguments.
pub fn run(arguments: &[&OsStr]) -> Output {
    program().arg("items").args(arguments).output().unwrap()
}
