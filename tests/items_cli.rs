//! `pg_notary items` as its users run it.
#![cfg(feature = "cli")]

use serde_json::Value;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{symlink, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

const TOOL: &str = "#!/usr/bin/env python3\n__version__ = \"1.2.0\"\nprint('hi')\n";
const DIRECTIVE: &str = "# Title\n\n<directive name=\"deploy\" version=\"2.0.0\">\n  <a/>\n</directive>\n";
const KNOWLEDGE: &str = "---\nzettel_id: 20260126-example\ntags: [a, b]\n---\n\nText\n";

/// A project with one item of each type, removed when the test is over.
struct Project(TempDir);

impl Project {
    fn new() -> Self {
        let project = Project(TempDir::new().unwrap());
        project.write("tools/core/hello.py", TOOL);
        project.write("directives/deploy.md", DIRECTIVE);
        project.write("knowledge/patterns/example.md", KNOWLEDGE);
        project
    }

    fn signed() -> Self {
        let project = Project::new();
        assert_eq!(project.run("sign").status.code(), Some(0));
        project
    }

    fn root(&self) -> &Path {
        self.0.path()
    }

    /// The path of a file below `.ai`.
    fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root().join(".ai").join(name)
    }

    fn write(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    fn run(&self, command: &str) -> Output {
        run(&[OsStr::new(command), self.root().as_os_str()])
    }

    /// The report of `verify --json`, and its exit status.
    fn verified(&self) -> (Value, i32) {
        let output = run(&[OsStr::new("verify"), OsStr::new("--json"), self.root().as_os_str()]);
        (serde_json::from_str(&stdout(&output)).unwrap(), output.status.code().unwrap())
    }

    /// What the report says of the file `name`, which makes the whole invalid.
    fn problem(&self, name: &str) -> Value {
        let (report, status) = self.verified();
        assert_eq!((report["valid"].as_bool(), status), (Some(false), 1), "{report}");
        item(&report, name)
    }
}

fn item(report: &Value, name: &str) -> Value {
    let named = |item: &&Value| item["path"].as_str().unwrap().ends_with(name);
    report["items"].as_array().unwrap().iter().find(named).unwrap().clone()
}

fn run(arguments: &[&OsStr]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pg_notary")).arg("items").args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_signed_project_is_valid() {
    let project = Project::new();
    let signed = project.run("sign");
    assert_eq!(signed.status.code(), Some(0));
    assert!(stdout(&signed).ends_with("\n3 items: 3 signed\n\nVALID\n"), "{}", stdout(&signed));
    let verified = project.run("verify");
    assert_eq!(verified.status.code(), Some(0));
    assert_eq!(stdout(&verified), "3 items: 3 valid\n\nVALID\n");
    assert_eq!(stderr(&verified), "");
    let status = stdout(&project.run("status"));
    for expected in
        ["core/hello.py  hello@1.2.0\n", "deploy.md  deploy@2.0.0\n", "example.md  20260126-example@1.0.0\n"]
    {
        assert!(status.contains(expected), "{expected:?} in\n{status}");
    }
}

#[test]
fn each_type_is_signed_in_its_place() {
    let project = Project::signed();
    let tool = project.read("tools/core/hello.py");
    assert!(tool.starts_with("#!/usr/bin/env python3\n# kiwi-mcp:validated:20"), "{tool}");
    assert!(tool.ends_with("\n__version__ = \"1.2.0\"\nprint('hi')\n"), "{tool}");
    for (name, content) in [("directives/deploy.md", DIRECTIVE), ("knowledge/patterns/example.md", KNOWLEDGE)] {
        let signed = project.read(name);
        assert!(signed.starts_with("<!-- kiwi-mcp:validated:20"), "{signed}");
        assert!(signed.ends_with(&format!(" -->\n{content}")), "{signed}");
    }
}

#[test]
fn an_unsigned_project_exits_with_1_and_is_not_touched() {
    let project = Project::new();
    for command in ["verify", "status"] {
        let output = project.run(command);
        assert_eq!(output.status.code(), Some(1));
        let text = stdout(&output);
        assert!(text.contains("hello@1.2.0: Tool has no signature\n"), "{text}");
        assert!(text.contains("deploy@2.0.0: Directive has no signature\n"), "{text}");
        assert!(text.contains(": Knowledge has no signature\n"), "{text}");
        assert!(text.ends_with("\n3 items: 3 unsigned\n\nNOT VALID\n"), "{text}");
    }
    assert_eq!(project.read("tools/core/hello.py"), TOOL);
}

#[test]
fn a_modified_item_is_named_until_it_is_signed_again() {
    let project = Project::signed();
    let changed = project.read("tools/core/hello.py").replace("hi", "ho");
    project.write("tools/core/hello.py", changed);
    let problem = project.problem("hello.py");
    assert_eq!(problem["state"], "modified");
    assert_eq!(problem["error"], "Content has been modified since last validation");
    assert_eq!(problem["solution"], "Run ledger.sign_item(...) to re-validate");
    let signed = stdout(&project.run("sign"));
    assert!(signed.ends_with("\n3 items: 1 signed, 2 valid\n\nVALID\n"), "{signed}");
    assert_eq!(project.read("tools/core/hello.py").matches("kiwi-mcp").count(), 1);
    assert_eq!(project.verified().1, 0);
}

#[test]
fn a_signed_item_that_no_longer_parses_was_modified() {
    let project = Project::signed();
    let broken = project.read("directives/deploy.md").replace("<a/>", "<a>");
    project.write("directives/deploy.md", broken);
    let problem = project.problem("deploy.md");
    assert_eq!(problem["state"], "modified");
    assert!(problem["detail"].as_str().unwrap().starts_with("line 6: not well-formed XML"), "{problem}");
}

#[test]
fn a_moved_item_is_told_from_a_modified_one() {
    let project = Project::signed();
    project.write("tools/other/x.sh", "ls\n");
    for (from, to, detail) in [
        ("tools/core/hello.py", "tools/hello.py", "signed at core/hello.py, found at hello.py"),
        ("tools/hello.py", "tools/other/hello.py", "signed at core/hello.py, found at other/hello.py"),
    ] {
        fs::rename(project.path(from), project.path(to)).unwrap();
        let problem = project.problem("hello.py");
        assert_eq!(problem["state"], "moved", "{problem}");
        assert_eq!(problem["error"], "Not signed for this location");
        assert_eq!(problem["detail"], detail);
    }
}

#[test]
fn a_directory_that_was_moved_is_told_from_modified_items() {
    let project = Project::signed();
    project.write("tools/other/x.sh", "ls\n");
    fs::rename(project.path("tools/core"), project.path("tools/other/core")).unwrap();
    let problem = project.problem("hello.py");
    assert_eq!(problem["state"], "moved");
    assert_eq!(problem["detail"], "signed at core/hello.py, found at other/core/hello.py");
}

#[test]
fn what_is_signed_as_it_is_is_left_alone() {
    let project = Project::signed();
    let identity = |name| {
        let metadata = fs::metadata(project.path(name)).unwrap();
        (metadata.ino(), metadata.mtime(), metadata.mtime_nsec())
    };
    let before = identity("tools/core/hello.py");
    let output = project.run("sign");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(stdout(&output), "3 items: 3 valid\n\nVALID\n");
    assert_eq!(identity("tools/core/hello.py"), before);
}

#[test]
fn signing_keeps_mode_and_line_ends_and_leaves_nothing_behind() {
    let project = Project::new();
    let script = project.write("tools/run.sh", "#!/bin/sh\r\nls\r\n");
    fs::set_permissions(&script, Permissions::from_mode(0o4751)).unwrap();
    let query = project.write("tools/query.sql", "SELECT 1;\r\n");
    fs::set_permissions(&query, Permissions::from_mode(0o400)).unwrap();
    assert_eq!(project.run("sign").status.code(), Some(0));
    assert_eq!(fs::metadata(&script).unwrap().mode() & 0o7777, 0o4751);
    assert_eq!(fs::metadata(&query).unwrap().mode() & 0o7777, 0o400);
    let (script, query) = (project.read("tools/run.sh"), project.read("tools/query.sql"));
    assert!(script.starts_with("#!/bin/sh\r\n# kiwi-mcp:") && script.ends_with("\r\nls\r\n"), "{script:?}");
    assert!(query.starts_with("-- kiwi-mcp:") && query.ends_with("\r\nSELECT 1;\r\n"), "{query:?}");
    assert_eq!(script.matches('\n').count(), script.matches("\r\n").count());
    assert_eq!(fs::read_dir(project.path("tools")).unwrap().count(), 3);
}

#[test]
fn stacked_old_lines_are_replaced_by_one() {
    let project = Project::new();
    let old = "# kiwi-mcp:validated:2025-01-01T00:00:00Z:abc123\n";
    project.write("tools/core/hello.py", TOOL.replacen('\n', &format!("\n{old}{old}"), 1));
    assert_eq!(project.run("sign").status.code(), Some(0));
    let signed = project.read("tools/core/hello.py");
    assert_eq!(signed.matches("kiwi-mcp").count(), 1);
    assert_eq!(signed.lines().count(), TOOL.lines().count() + 1);
}

#[test]
fn a_second_signature_line_is_not_passed_over() {
    let project = Project::signed();
    let signed = project.read("tools/core/hello.py");
    let coding = "# kiwi-mcp:validated:coding:raw_unicode_escape\n__version__";
    project.write("tools/core/hello.py", signed.replacen("__version__", coding, 1));
    let problem = project.problem("hello.py");
    assert_eq!(problem["state"], "modified");
    assert_eq!(problem["detail"], "there is more than one signature line");
    assert_eq!(project.run("status").status.code(), Some(1));
    assert_eq!(project.run("sign").status.code(), Some(0));
    assert!(!project.read("tools/core/hello.py").contains("coding"));
}

#[test]
fn a_link_that_leaves_its_base_is_refused_and_not_followed() {
    let project = Project::signed();
    let outside = project.root().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("x.py"), "x\n").unwrap();
    symlink(outside.join("x.py"), project.path("tools/file.py")).unwrap();
    symlink(&outside, project.path("tools/directory")).unwrap();
    symlink("nowhere", project.path("tools/dangling.py")).unwrap();
    symlink("../core/hello.py", project.write("tools/a/b", "").with_file_name("inside.py")).unwrap();
    symlink("..", project.path("tools/a/loop")).unwrap();
    let output = project.run("sign");
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    assert_eq!(text.matches("a symbolic link that leaves .ai/tools, to ").count(), 2, "{text}");
    assert_eq!(text.matches("a symbolic link without a target").count(), 1, "{text}");
    assert!(text.contains("\n6 items: 3 valid, 3 refused, 3 skipped\n"), "{text}");
    assert_eq!(fs::read_to_string(outside.join("x.py")).unwrap(), "x\n");
}

/// A link is passed over only because what it points to is looked at under its own name.
#[test]
fn a_link_to_what_is_left_out_is_refused() {
    let project = Project::signed();
    project.write("tools/.hidden/x.py", "x\n");
    project.write("tools/node_modules/y.py", "y\n");
    project.write("tools/data.txt", "z\n");
    project.write("tools/other/named.py", "n\n");
    for (target, name) in [
        (".hidden/x.py", "hidden.py"),
        (".hidden", "directory"),
        ("node_modules/y.py", "module.py"),
        ("data.txt", "data.py"),
        ("data.txt", "data.json"),
        ("other", "same"),
    ] {
        symlink(target, project.path("tools").join(name)).unwrap();
    }
    symlink("../other/named.py", project.path("tools/core/named.py")).unwrap();
    assert_eq!(project.run("sign").status.code(), Some(1));
    let (report, status) = project.verified();
    assert_eq!(status, 1, "{report}");
    let refused = |name: &str| item(&report, name)["state"] == "refused";
    assert!(
        ["tools/hidden.py", "tools/directory", "tools/module.py", "tools/data.py"].into_iter().all(refused),
        "{report}"
    );
    assert_eq!((&report["counts"]["refused"], &report["counts"]["valid"]), (&4.into(), &4.into()), "{report}");
    // What lies beside the directory that is looked at is not looked at with it.
    let verify = |directories: &[&str]| {
        let paths: Vec<PathBuf> = directories.iter().map(|name| project.path(name)).collect();
        let arguments: Vec<&OsStr> =
            [OsStr::new("verify")].into_iter().chain(paths.iter().map(|p| p.as_os_str())).collect();
        run(&arguments)
    };
    let output = verify(&["tools/core"]);
    assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
    assert!(stdout(&output).contains("which is outside the files that are examined"), "{}", stdout(&output));
    let output = verify(&["tools/core", "tools/other"]);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
}

#[test]
fn a_base_that_is_a_link_elsewhere_exits_with_2() {
    let project = Project::new();
    let outside = TempDir::new().unwrap();
    fs::remove_dir_all(project.path("tools")).unwrap();
    symlink(outside.path(), project.path("tools")).unwrap();
    let output = project.run("sign");
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("a symbolic link that leaves"), "{}", stderr(&output));
    fs::remove_file(project.path("tools")).unwrap();
    symlink("nowhere", project.path("tools")).unwrap();
    let output = project.run("sign");
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains(".ai/tools: No such file"), "{}", stderr(&output));
    assert_eq!(project.read("directives/deploy.md"), DIRECTIVE);
}

#[test]
fn a_directive_hidden_behind_the_first_is_named() {
    let project = Project::signed();
    let hidden = project.read("directives/deploy.md") + "\n<directive name=\"evil\">\n  <b/>\n</directive >\n";
    project.write("directives/deploy.md", hidden);
    let problem = project.problem("deploy.md");
    assert_eq!(problem["state"], "modified");
    assert_eq!(problem["detail"], "line 8: a second <directive>, after the one on line 4: keep one in a file");
}

#[test]
fn what_cannot_be_an_item_is_named_and_the_rest_is_signed() {
    let project = Project::new();
    project.write("tools/latin1.py", b"# ok\n# caf\xe9\n");
    project.write("tools/empty.sh", "");
    project.write("tools/old.py", "__version__ = \"1.0\"\n");
    project.write("tools/back\\slash.py", "");
    project.write(Path::new("tools").join(OsStr::from_bytes(b"\xff.py")), "");
    project.write("directives/none.md", "no XML\n");
    project.write("directives/empty.md", "");
    project.write("directives/broken.md", "<directive name=\"x\">\n<a></b>\n</directive>\n");
    project.write("knowledge/empty.md", "");
    project.write("knowledge/latin1.md", b"---\ntitle: caf\xe9\n---\n");
    project.write("directives/two.md", format!("{DIRECTIVE}{DIRECTIVE}"));
    project.write("knowledge/open.md", "---\ntitle: x\n");
    project.write("knowledge/broken.md", "---\ntitle: [x\n---\n");
    let output = project.run("sign");
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    for expected in [
        "latin1.py: line 2: not UTF-8 text: save it as UTF-8\n",
        "old.py  old@1.0: \"1.0\" is not a semantic version (",
        "slash.py: its path contains a backslash",
        ".py: its path is not UTF-8: rename it\n",
        "none.md: there is no <directive> element: add the directive's XML\n",
        "directives/empty.md: there is no <directive> element: add the directive's XML\n",
        "directives/broken.md: line 2: not well-formed XML",
        "latin1.md: line 2: not UTF-8 text: save it as UTF-8\n",
        "two.md: line 8: a second <directive>, after the one on line 3: keep one in a file\n",
        "open.md: line 1: the front matter is not closed: end it with a line ---\n",
        "broken.md: line 3: the front matter is not YAML: ",
        "\n16 items: 5 signed, 11 invalid\n",
    ] {
        assert!(text.contains(expected), "{expected:?} in\n{text}");
    }
    assert!(project.read("tools/empty.sh").starts_with("# kiwi-mcp:validated:"));
    assert!(project.read("knowledge/empty.md").starts_with("<!-- kiwi-mcp:validated:"));
    assert_eq!(project.read("directives/empty.md"), "");
}

#[test]
fn a_path_that_escapes_its_base_is_not_taken_for_an_item() {
    let project = Project::signed();
    let outside = project.root().join("outside.py");
    fs::write(&outside, "x\n").unwrap();
    fs::write(project.path("beside.py"), "x\n").unwrap();
    for escape in ["tools/../../outside.py", "tools/../beside.py", "tools/core/../../../outside.py"] {
        let output = run(&[OsStr::new("sign"), project.path(escape).as_os_str()]);
        assert_eq!(output.status.code(), Some(2), "{escape}: {}", stdout(&output));
        assert!(stderr(&output).contains("nor lies in one of them"), "{escape}: {}", stderr(&output));
    }
    symlink(&outside, project.path("tools/link.py")).unwrap();
    let output = run(&[OsStr::new("sign"), project.path("tools/link.py").as_os_str()]);
    assert_eq!(output.status.code(), Some(2), "{}", stdout(&output));
    assert_eq!(fs::read_to_string(&outside).unwrap(), "x\n");
    assert_eq!(fs::read_to_string(project.path("beside.py")).unwrap(), "x\n");
    // What goes round and comes back is in its base.
    let output = run(&[OsStr::new("verify"), project.path("knowledge/../tools/core/hello.py").as_os_str()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn more_than_1_gb_is_refused_unread() {
    let project = Project::new();
    File::create(project.path("tools/huge.py")).unwrap().set_len(1_000_000_001).unwrap();
    let problem = project.problem("huge.py");
    assert_eq!(problem["state"], "invalid");
    assert_eq!(problem["error"], "the content has 1000000001 bytes: at most 1000000000 are allowed");
}

#[test]
fn what_is_no_item_is_skipped_and_counted() {
    let project = Project::signed();
    project.write("tools/data.json", "{}");
    project.write("tools/.hidden.py", "");
    project.write("tools/__pycache__/x.py", "");
    project.write("tools/.git/x.py", "");
    project.write("directives/notes.txt", "");
    project.write("other/x.py", "");
    let (report, status) = project.verified();
    assert_eq!(status, 0);
    assert_eq!(report["item_count"], 3);
    assert_eq!(report["counts"]["skipped"], 5);
    assert!(report["skipped"][0]["reason"].as_str().is_some());
    let program = project.write("tools/program", "#!/bin/sh\n");
    assert_eq!(project.problem("program")["state"], "unsigned");
    assert_eq!(run(&[OsStr::new("sign"), program.as_os_str()]).status.code(), Some(0));
    let named = run(&[OsStr::new("sign"), project.path("tools/data.json").as_os_str()]);
    assert_eq!(named.status.code(), Some(1));
    assert!(stdout(&named).contains("a .json file has no comments and cannot carry a signature line"));
}

#[test]
fn any_place_in_a_project_can_be_named() {
    let project = Project::signed();
    for (name, count) in
        [("", 3), ("tools", 1), ("tools/core", 1), ("tools/core/hello.py", 1), ("knowledge/patterns", 1)]
    {
        let output = run(&[OsStr::new("verify"), project.path(name).as_os_str()]);
        assert_eq!(output.status.code(), Some(0), "{name}: {}", stdout(&output));
        assert!(stdout(&output).contains(&format!("{count} item")), "{name}: {}", stdout(&output));
    }
    let twice = run(&[OsStr::new("verify"), project.root().as_os_str(), project.path("tools").as_os_str()]);
    assert!(stdout(&twice).starts_with("3 items: 3 valid\n"));
    let relative = Command::new(env!("CARGO_BIN_EXE_pg_notary"))
        .current_dir(project.path("tools"))
        .args(["items", "status", "."])
        .output()
        .unwrap();
    assert_eq!(relative.status.code(), Some(0));
    assert!(stdout(&relative).starts_with("valid     core/hello.py  hello@1.2.0\n"), "{}", stdout(&relative));
}

#[test]
fn the_default_version_is_for_items_that_state_none() {
    let project = Project::new();
    let arguments = |command| [OsStr::new(command), OsStr::new("--default-version=3.1.4"), project.root().as_os_str()];
    assert_eq!(run(&arguments("sign")).status.code(), Some(0));
    assert_eq!(run(&arguments("verify")).status.code(), Some(0));
    let (report, status) = project.verified();
    assert_eq!(status, 1);
    assert_eq!(item(&report, "example.md")["state"], "modified");
    assert_eq!(item(&report, "hello.py")["state"], "valid");
}

#[test]
fn the_json_report_has_stable_keys() {
    let (report, _) = Project::signed().verified();
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&report), ["counts", "item_count", "items", "skipped", "valid"]);
    let expected = [
        "detail",
        "error",
        "integrity",
        "item_id",
        "item_type",
        "location_path",
        "path",
        "signed_at",
        "solution",
        "state",
        "version",
    ];
    assert_eq!(keys(&report["items"][0]), expected);
    let tool = item(&report, "hello.py");
    assert_eq!(tool["location_path"], "core/hello.py");
    assert_eq!(tool["integrity"].as_str().unwrap().len(), 64);
    assert_eq!(tool["signed_at"].as_str().unwrap().len(), 20);
}

#[test]
fn a_tree_of_many_files_is_signed_whole() {
    let project = Project::new();
    for n in 0..1000 {
        project.write(format!("tools/{}/t{n}.js", n % 50), format!("// version: 1.0.{n}\n"));
    }
    assert_eq!(project.run("sign").status.code(), Some(0));
    let (report, status) = project.verified();
    assert_eq!((report["counts"]["valid"].as_u64(), status), (Some(1003), 0));
}

#[test]
fn a_very_long_version_or_id_does_not_fill_the_report() {
    let project = Project::new();
    let long = format!("1{}", "0".repeat(100_000));
    project.write("tools/tool.py", format!("__version__ = \"{long}\"\n"));
    let id = "x".repeat(100_000);
    project.write("directives/long.md", format!("<directive name=\"{id}\" version=\"1.0.0\">\n<a/>\n</directive>\n"));
    project.write("directives/open.md", format!("<directive name=\"open\">\n<{id}>\n</directive>\n"));
    let output = project.run("verify");
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    let shown = format!("tools/tool.py  tool@{}…: \"{}…\" is not a semantic version", &long[..80], &long[..80]);
    assert!(text.contains(&shown), "{text}");
    assert!(text.contains(&format!("directives/long.md  {}…@1.0.0: ", &id[..80])), "{text}");
    assert!(text.contains("directives/open.md: line 3: not well-formed XML: "), "{text}");
    assert!(text.lines().all(|line| line.chars().count() < 1000), "{} characters", text.len());
    // Programs read it in full.
    let (report, _) = project.verified();
    assert_eq!(item(&report, "tool.py")["version"], long.as_str());
    assert_eq!(item(&report, "long.md")["item_id"], id.as_str());
}

#[test]
fn a_file_name_writes_no_lines_of_its_own() {
    let project = Project::new();
    project.write("tools/x\nVALID\n.py", "");
    let text = stdout(&project.run("verify"));
    assert!(text.contains("/x\\nVALID\\n.py  x\\nVALID\\n@1.0.0: "), "{text}");
}

#[test]
fn what_is_no_project_and_bad_usage_exit_with_2() {
    let empty = TempDir::new().unwrap();
    let missing = empty.path().join("missing");
    for directory in [empty.path(), &missing, Path::new("/dev/null")] {
        let output = run(&[OsStr::new("verify"), directory.as_os_str()]);
        assert_eq!(output.status.code(), Some(2), "{}", directory.display());
        assert!(stderr(&output).contains(&directory.display().to_string()));
        assert_eq!(stdout(&output), "");
    }
    let no_url = ["sync", "postgres://u:hunter2@127.0.0.1:1/d", "."];
    for database in ["x", "postgres://u:hunter2@h/d?x=y", "host=h sslmode=verify-full"] {
        let output = run(&["sync", "--database", database, "."].map(OsStr::new));
        assert_eq!(output.status.code(), Some(2), "{database}");
        assert!(stderr(&output).starts_with("pg_notary: the connection string of --database cannot be read"));
    }
    // The two arguments in each other's place.
    let swapped = run(&["sync", "--database", ".", "postgres://u:hunter2@h/d"].map(OsStr::new));
    for output in [swapped, run(&no_url.map(OsStr::new))] {
        assert_eq!(output.status.code(), Some(2));
        assert!(!stderr(&output).contains("hunter2"), "{}", stderr(&output));
    }
    for arguments in
        [&[][..], &["verify"], &["check", "."], &["sign", ".", "--default-version=0.0.0"], &["sign", ".", "-x"]]
    {
        let arguments: Vec<&OsStr> = arguments.iter().map(OsStr::new).collect();
        assert_eq!(run(&arguments).status.code(), Some(2), "{arguments:?}");
    }
}
