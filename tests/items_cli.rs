//! `pg_notary items` as its users run it. What it refuses is in items_refused.rs.

use crate::common::items::*;
use crate::common::program::*;
use serde_json::Value;
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::{symlink, MetadataExt, PermissionsExt};
use std::path::Path;
use tempfile::TempDir;

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
    let signed = stdout(&project.run("sign"));
    assert!(signed.ends_with("\n3 items: 1 signed, 2 valid\n\nVALID\n"), "{signed}");
    assert_eq!(project.read("tools/core/hello.py").matches("kiwi-mcp").count(), 1);
    assert_eq!(project.verified().1, 0);
}

#[test]
fn the_solution_of_what_is_wrong_with_a_file_is_a_command_of_the_program() {
    let project = Project::signed();
    fs::rename(project.path("tools/core/hello.py"), project.path("tools/hello.py")).unwrap();
    project.write("directives/deploy.md", project.read("directives/deploy.md").replace("<a/>", "<b/>"));
    project.write("knowledge/patterns/example.md", KNOWLEDGE);
    for (name, state) in [("hello.py", "moved"), ("deploy.md", "modified"), ("example.md", "unsigned")] {
        let problem = project.problem(name);
        assert_eq!(problem["state"], state);
        let solution = problem["solution"].as_str().unwrap();
        assert!(solution.contains("run pg_notary items sign on it") && !solution.contains("ledger."), "{solution}");
    }
    assert_eq!(project.run("sign").status.code(), Some(0));
    assert!(project.verified().0["items"].as_array().unwrap().iter().all(|item| item["solution"].is_null()));
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

/// As paths, the locations of these files lead elsewhere or nowhere. None stops what is done with the others.
#[test]
fn a_file_is_at_its_location_whatever_that_looks_like() {
    let project = Project::new();
    project.write("tools/~/home.py", "x\n");
    project.write("tools/C:/drive.py", "x\n");
    project.write("knowledge/faq/Q: why.md", "Text\n");
    assert_eq!(project.run("sign").status.code(), Some(0));
    let (report, status) = project.verified();
    assert_eq!((report["counts"]["valid"].as_u64(), status), (Some(6), 0), "{report}");
    assert_eq!(item(&report, "home.py")["location_path"], "~/home.py");
    for name in ["tools/core/hello.py", "tools/~/home.py", "knowledge/faq/Q: why.md"] {
        project.write(name, project.read(name) + "\nmore\n");
        let problem = project.problem(name);
        assert_eq!(problem["state"], "modified", "{problem}");
        let signed = project.run("sign");
        assert_eq!(signed.status.code(), Some(0), "{}", stdout(&signed));
    }
    fs::rename(project.path("tools/~/home.py"), project.path("tools/home.py")).unwrap();
    let problem = project.problem("home.py");
    assert_eq!(problem["detail"], "signed at ~/home.py, found at home.py", "{problem}");
}

#[test]
fn what_may_have_been_moved_from_more_places_than_are_tried_is_not_said_to_be_modified_alone() {
    let project = Project::new();
    project.write("tools/zz/last.py", "x\n");
    assert_eq!(project.run("sign").status.code(), Some(0));
    fs::rename(project.path("tools/zz/last.py"), project.path("tools/core/last.py")).unwrap();
    assert_eq!(project.problem("last.py")["state"], "moved");
    for n in 0..1000 {
        fs::create_dir(project.path(format!("tools/d{n}"))).unwrap();
    }
    let problem = project.problem("last.py");
    assert_eq!(problem["state"], "modified");
    assert_eq!(problem["detail"], "or moved: of the places where it may have been, 1000 were tried");
    // What else is known to be wrong shows that it was modified.
    let line = project.read("tools/core/last.py").lines().next().unwrap().to_owned();
    project.write("tools/core/last.py", format!("{line}\n{line}\nx\n"));
    assert_eq!(project.problem("last.py")["detail"], "there is more than one signature line");
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
    let relative = program().current_dir(project.path("tools")).args(["items", "status", "."]).output().unwrap();
    assert_eq!(relative.status.code(), Some(0));
    assert!(stdout(&relative).starts_with("valid     core/hello.py  hello@1.2.0\n"), "{}", stdout(&relative));
}

/// A directory has only items of some names, and none of others.
#[test]
fn a_file_that_is_named_is_examined_beside_its_project_in_any_order() {
    let project = Project::signed();
    let hidden = project.path("tools/.run.py");
    fs::write(&hidden, "print(1)\n").unwrap();
    symlink(".run.py", project.path("tools/run.py")).unwrap();
    let (root, hidden) = (project.root().as_os_str(), hidden.as_os_str());
    for named in [[root, hidden], [hidden, root]] {
        let output = run(&[OsStr::new("verify"), named[0], named[1]]);
        assert_eq!(output.status.code(), Some(1), "{}", stdout(&output));
        assert!(stdout(&output).contains(".run.py") && stdout(&output).contains("4 items"), "{}", stdout(&output));
    }
}

#[test]
fn a_base_that_is_a_link_within_its_project_can_be_named() {
    let project = Project::signed();
    let verify = |name: &str, expected: &str| {
        let output = run(&[OsStr::new("status"), project.path(name).as_os_str()]);
        assert_eq!(output.status.code(), Some(0), "{name}: {}{}", stdout(&output), stderr(&output));
        assert!(stdout(&output).ends_with(expected), "{name}: {}", stdout(&output));
        // Under the name that the user gave.
        let shown = format!("{}  hello@1.2.0\n", project.path("tools/core/hello.py").display());
        assert!(stdout(&output).contains(&shown), "{name}: {}", stdout(&output));
    };
    fs::rename(project.path("tools"), project.root().join("kept")).unwrap();
    symlink("../kept", project.path("tools")).unwrap();
    for name in ["tools", "tools/core", "tools/core/hello.py"] {
        verify(name, "\n1 item: 1 valid\n\nVALID\n");
    }
    fs::rename(project.root().join(".ai"), project.root().join("all")).unwrap();
    symlink("all", project.root().join(".ai")).unwrap();
    for name in ["tools", "tools/core", "tools/core/hello.py"] {
        verify(name, "\n1 item: 1 valid\n\nVALID\n");
    }
    verify("", "\n3 items: 3 valid\n\nVALID\n");
}

#[test]
fn a_project_in_a_base_of_another_is_looked_at_if_it_is_named() {
    let project = Project::signed();
    project.write("tools/inner/main.py", "x\n");
    project.write("tools/inner/.ai/tools/x.py", "x\n");
    project.write("tools/inner/.ai/knowledge/k.md", "Text\n");
    let items = |command: &str, name: &str| {
        let output = run(&[OsStr::new(command), OsStr::new("--json"), project.path(name).as_os_str()]);
        let report: Value = serde_json::from_str(&stdout(&output)).unwrap();
        let shown = |item: &Value| {
            let text = |key: &str| item[key].as_str().unwrap().to_owned();
            format!("{} {} {}", text("state"), text("item_type"), text("location_path"))
        };
        assert_eq!(report["skipped"], serde_json::json!([]), "{name}");
        report["items"].as_array().unwrap().iter().map(shown).collect::<Vec<_>>()
    };
    // Each type from the first of its bases on, as in the database.
    let all = ["knowledge k.md", "tool inner/.ai/tools/x.py", "tool inner/main.py"];
    for (command, state) in [("verify", "unsigned"), ("sign", "signed"), ("verify", "valid")] {
        let expected = all.map(|item| format!("{state} {item}"));
        assert_eq!(items(command, "tools/inner"), expected);
    }
    assert_eq!(items("verify", "tools/inner/.ai"), ["valid knowledge k.md", "valid tool inner/.ai/tools/x.py"]);
    for name in ["knowledge", "knowledge/k.md"] {
        assert_eq!(items("verify", &format!("tools/inner/.ai/{name}")), ["valid knowledge k.md"]);
    }
    assert_eq!(items("verify", "tools/inner/.ai/tools"), ["valid tool inner/.ai/tools/x.py"]);
    // Not named, it is hidden.
    let (report, status) = project.verified();
    assert_eq!((report["item_count"].as_u64(), status), (Some(4), 0), "{report}");
    assert!(report["skipped"][0]["path"].as_str().unwrap().ends_with("inner/.ai"), "{report}");
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
fn a_report_for_a_closed_output_exits_with_2() {
    let project = Project::signed();
    for arguments in [&["sign"][..], &["verify"], &["status"], &["verify", "--json"]] {
        let output = run_without_stdout(program().arg("items").args(arguments).arg(project.root()));
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert_eq!(stderr(&output), "pg_notary: cannot write the report: standard output is closed\n");
    }
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
