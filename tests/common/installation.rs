//! The Postgres under test, and who runs it.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::{chown, MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub(super) fn variable(name: &str) -> PathBuf {
    match std::env::var_os(name) {
        Some(value) => PathBuf::from(value),
        None => panic!("{name} is not set: cluster tests need a set-up; run `make test`"),
    }
}

pub(super) fn bindir() -> PathBuf {
    variable("PG_NOTARY_TEST_BINDIR")
}

pub(super) fn work_dir() -> PathBuf {
    variable("PG_NOTARY_TEST_DIR")
}

/// The major version of the Postgres under test.
pub fn pg_major() -> u32 {
    let output = Command::new(bindir().join("pg_config")).arg("--version").output();
    let text = String::from_utf8(output.expect("pg_config runs").stdout).unwrap();
    let digits: String = text.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    digits.parse().expect("pg_config prints a version")
}

/// Where the libraries of the Postgres under test are.
pub fn library_dir() -> PathBuf {
    let path = succeed(Command::new(bindir().join("pg_config")).arg("--pkglibdir"));
    PathBuf::from(path.trim_end())
}

/// The user and group that run the servers.
pub(super) fn server_user() -> (u32, u32) {
    let meta = fs::metadata(work_dir()).expect("PG_NOTARY_TEST_DIR is a directory");
    (meta.uid(), meta.gid())
}

pub(super) fn is_root() -> bool {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Hands a file made by this process to the servers' user.
pub fn give_to_server(path: &Path) {
    if is_root() {
        let (uid, gid) = server_user();
        chown(path, Some(uid), Some(gid)).unwrap();
    }
}

/// Makes a directory for the servers alone.
pub fn make_directory(path: &Path) {
    fs::create_dir(path).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o700)).unwrap();
    give_to_server(path);
}

/// Writes a file for the servers alone.
pub fn write_file(path: &Path, content: impl AsRef<[u8]>) {
    fs::write(path, content).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    give_to_server(path);
}

/// Copies a file, for the servers alone.
pub fn copy_file(from: &Path, to: &Path) {
    write_file(to, fs::read(from).unwrap());
}

/// A program run as the servers' user, with none of the caller's settings for libpq.
pub fn as_server(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(work_dir()).stdin(Stdio::null());
    command.env("LC_ALL", "C");
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
    if is_root() {
        let (uid, gid) = server_user();
        command.uid(uid).gid(gid);
    }
    command
}

/// The same, for a program of the Postgres under test.
pub(super) fn pg_program(name: &str) -> Command {
    as_server(bindir().join(name))
}

/// Copies a directory as the servers' user.
pub fn copy_directory(from: &Path, to: &Path) {
    succeed(as_server("cp").arg("-a").arg(from).arg(to));
}

pub fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}
