//! What `pg_notary items` does not take for an item, or not as it is: links and paths that lead elsewhere, files that
//! cannot be items or are none, and names that are made to mislead.

use crate::common::items::*;
use crate::common::program::*;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

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
    for output in [project.run("sign"), run(&[OsStr::new("sign"), project.path("tools").as_os_str()])] {
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains("a symbolic link that leaves"), "{}", stderr(&output));
    }
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
