//! Throwaway clusters for tests: started with pg_notary loaded, stopped and removed when dropped, also on panic.
//!
//! `make test` builds the extension into a private copy of Postgres and names it here:
//! `PG_NOTARY_TEST_BINDIR` is where its programs are, `PG_NOTARY_TEST_DIR` a directory for the clusters. The owner of
//! that directory runs the servers (they refuse to run as root).
#![cfg_attr(not(feature = "cluster-tests"), allow(dead_code))]

pub mod copy_jsonl;
pub mod diverged;
pub mod faults;
mod installation;
pub mod items;
pub mod ledger;
mod processes;
pub mod program;
pub mod random;
pub mod secrets;
pub mod stop_at_end;
pub mod tampering;
pub mod tracking;
pub mod transactions;
pub mod two_phase;
pub mod wire;

pub use installation::*;
pub use processes::*;

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

/// The HMAC secret of every cluster, unless its options say otherwise.
pub const SECRET: &str = "the secret of the test clusters";

/// How long starting, stopping and the like may take.
const PATIENCE: Duration = Duration::from_secs(60);

fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// A data directory fresh from initdb, made once and copied for each cluster.
fn template() -> PathBuf {
    static MADE: Mutex<()> = Mutex::new(());
    let _one_at_a_time = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    let template = work_dir().join("template");
    if !template.exists() {
        let fresh = work_dir().join(format!("template.{}", std::process::id()));
        succeed(
            pg_program("initdb")
                .arg("--pgdata")
                .arg(&fresh)
                .args(["--username", "postgres", "--auth", "trust"])
                .args(["--no-locale", "--encoding", "UTF8", "--no-sync"]),
        );
        // Another process may have been quicker.
        if fs::rename(&fresh, &template).is_err() {
            fs::remove_dir_all(&fresh).unwrap();
        }
    }
    template
}

// ---- options ----------------------------------------------------------------------------------------------------------

/// What a cluster is started with.
#[derive(Clone)]
pub struct Options {
    preload: String,
    secret: Option<OsString>,
    conf: String,
    env: Vec<(String, String)>,
    args: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            preload: "pg_notary".into(),
            secret: Some(SECRET.into()),
            conf: String::new(),
            env: Vec::new(),
            args: Vec::new(),
        }
    }
}

impl Options {
    /// pg_notary loaded and a secret in the server's environment.
    pub fn new() -> Self {
        Self::default()
    }

    /// shared_preload_libraries, `pg_notary` otherwise. Empty for none.
    pub fn preload(mut self, libraries: &str) -> Self {
        self.preload = libraries.into();
        self
    }

    /// Another secret for `INTEGRITY_HMAC_SECRET`, or none.
    pub fn secret(mut self, secret: Option<&str>) -> Self {
        self.secret = secret.map(Into::into);
        self
    }

    /// One of any bytes.
    pub fn secret_of_bytes(mut self, secret: &[u8]) -> Self {
        self.secret = Some(OsStr::from_bytes(secret).to_owned());
        self
    }

    /// A line for postgresql.conf.
    pub fn conf(mut self, line: &str) -> Self {
        self.conf.push_str(line);
        self.conf.push('\n');
        self
    }

    /// A variable for the server's environment.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// An argument of the server.
    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Starts a new cluster.
    pub fn start(self) -> Cluster {
        self.try_start().unwrap_or_else(|log| panic!("the server did not start:\n{log}"))
    }

    /// Starts a new cluster, or returns the log of the server that would not start.
    pub fn try_start(self) -> Result<Cluster, String> {
        let cluster = self.lay_out();
        cluster.try_start_again()?;
        Ok(cluster)
    }

    /// A new cluster whose server is not started.
    pub fn lay_out(self) -> Cluster {
        Cluster::make(self, |data| copy_directory(&template(), data))
    }

    /// Starts a hot standby of a running cluster, from a fresh base backup.
    pub fn standby_of(self, primary: &Cluster) -> Cluster {
        let standby = Cluster::make(self, |data| primary.base_backup(data, &["--write-recovery-conf"]));
        standby.start_again();
        standby
    }

    /// Starts a cluster on a copy of a data directory: a base backup, or that of a stopped cluster.
    pub fn start_on_copy_of(self, source: &Path) -> Cluster {
        let cluster = Cluster::make(self, |data| copy_directory(source, data));
        cluster.start_again();
        cluster
    }
}

// ---- the cluster --------------------------------------------------------------------------------------------------------

/// How a server is stopped.
#[derive(Clone, Copy, Debug)]
pub enum Stop {
    /// Ends sessions, then shuts down cleanly.
    Fast,
    /// Ends everything at once; the next start recovers.
    Immediate,
}

/// A running (or stopped) cluster of its own.
pub struct Cluster {
    options: Options,
    dir: PathBuf,
    sockets: PathBuf,
    port: u16,
    server: Mutex<Option<Child>>,
}

impl Cluster {
    /// Starts a new cluster with the usual options.
    pub fn start() -> Cluster {
        Options::new().start()
    }

    /// Lays out a cluster; `fill` makes its data directory.
    fn make(options: Options, fill: impl FnOnce(&Path)) -> Cluster {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = work_dir().join(&name);
        // A socket's path has room for about 100 characters.
        let sockets = match dir.join("s") {
            short if short.as_os_str().len() <= 80 => short,
            _ => PathBuf::from(format!("/tmp/pg_notary.{name}")),
        };
        fs::create_dir(&dir).unwrap();
        let cluster = Cluster { options, dir, sockets, port: free_port(), server: Mutex::new(None) };
        fs::create_dir(&cluster.sockets).unwrap();
        fs::set_permissions(&cluster.sockets, fs::Permissions::from_mode(0o700)).unwrap();
        give_to_server(&cluster.dir);
        give_to_server(&cluster.sockets);
        File::create(cluster.log_path()).unwrap();

        fill(&cluster.data_dir());
        fs::remove_file(cluster.data_dir().join("postmaster.pid")).ok();
        // Servers are killed here, and leave what they have in /dev/shm. In a file it goes with the directory.
        cluster.add_conf(&format!(
            "listen_addresses = ''\ndynamic_shared_memory_type = mmap\nunix_socket_directories = '{}'\nport = {}\n\
             shared_preload_libraries = '{}'\nfsync = off\nshared_buffers = 32MB\n\
             max_prepared_transactions = 10\ntimezone = 'UTC'\n\
             log_line_prefix = '%m [%p] %b %d '\n{}",
            cluster.sockets.display(),
            cluster.port,
            cluster.options.preload,
            cluster.options.conf
        ));
        cluster
    }

    /// Starts the server of a stopped cluster.
    pub fn start_again(&self) {
        self.try_start_again().unwrap_or_else(|log| panic!("the server did not start:\n{log}"));
    }

    /// The same; returns the server's log if it would not start.
    pub fn try_start_again(&self) -> Result<(), String> {
        let mut server = self.server();
        assert!(server.is_none(), "the server runs already");
        let log = OpenOptions::new().append(true).open(self.log_path()).unwrap();
        let logged_before = self.log().len();
        let mut command = pg_program("postgres");
        command
            .arg("-D")
            .arg(self.data_dir())
            .args(&self.options.args)
            .current_dir(&self.dir)
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .env_remove("INTEGRITY_HMAC_SECRET");
        if let Some(secret) = &self.options.secret {
            command.env("INTEGRITY_HMAC_SECRET", secret);
        }
        command.envs(self.options.env.iter().map(|(name, value)| (name, value)));
        let mut child = spawn_server(command).expect("postgres can be run");

        let deadline = Instant::now() + PATIENCE;
        loop {
            if self.try_connect("postgres").is_ok() {
                *server = Some(child);
                return Ok(());
            }
            if child.try_wait().unwrap().is_some() || Instant::now() > deadline {
                end_now(child);
                return Err(self.log().split_off(logged_before));
            }
            sleep(Duration::from_millis(20));
        }
    }

    /// Stops the server and waits for its end.
    pub fn stop(&self, how: Stop) {
        let mut child = self.server().take().expect("the server runs");
        send(child.id(), how.signal());
        let deadline = Instant::now() + PATIENCE;
        while child.try_wait().unwrap().is_none() {
            if Instant::now() > deadline {
                end_now(child);
                panic!("the server did not stop ({how:?}):\n{}", self.log());
            }
            sleep(Duration::from_millis(10));
        }
    }

    /// Stops the server and starts it again.
    pub fn restart(&self, how: Stop) {
        self.stop(how);
        self.start_again();
    }

    /// Kills the postmaster and waits until its children have noticed and ended.
    pub fn kill9_postmaster(&self) {
        let mut child = self.server().take().expect("the server runs");
        let children = halt(child.id());
        child.kill().unwrap();
        child.wait().unwrap();
        wait_until("the orphans of the postmaster end", PATIENCE, || !children.iter().any(|pid| is_alive(*pid)));
    }

    /// Kills every process of the server in the same moment, as a power cut would (but what was handed to the operating
    /// system stays).
    pub fn kill9_everything(&self) {
        let child = self.server().take().expect("the server runs");
        end_now(child);
    }

    /// Stops every process of the server as a suspended container does, for so long, and has the one of `first` go on
    /// before all others: `is_ahead` says when it has come far enough.
    pub fn suspend(&self, time: Duration, first: u32, is_ahead: impl FnMut() -> bool) {
        let postmaster = self.server().as_ref().expect("the server runs").id();
        let children = halt(postmaster);
        children.iter().for_each(|child| send(*child, libc::SIGSTOP));
        sleep(time);
        send(first, libc::SIGCONT);
        wait_until("the first process is ahead", PATIENCE, is_ahead);
        children.iter().chain([&postmaster]).for_each(|pid| send(*pid, libc::SIGCONT));
    }

    /// Whether the server this cluster was started with still runs.
    pub fn is_running(&self) -> bool {
        match self.server().as_mut() {
            Some(child) => child.try_wait().unwrap().is_none(),
            None => false,
        }
    }

    /// The process id of the postmaster.
    pub fn postmaster(&self) -> u32 {
        self.server().as_ref().expect("the server runs").id()
    }

    /// Adds lines to postgresql.conf; the last one given counts. Takes a reload or a restart.
    pub fn add_conf(&self, lines: &str) {
        let path = self.data_dir().join("postgresql.conf");
        let mut file = OpenOptions::new().append(true).open(path).unwrap();
        writeln!(file, "{lines}").unwrap();
    }

    /// Has the server read its settings again. They take effect soon, not at once.
    pub fn reload(&self) {
        send(self.postmaster(), libc::SIGHUP);
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// A directory for a test's own files, outside the data directory; the server can write there.
    pub fn scratch_dir(&self) -> &Path {
        &self.dir
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// The server's log since the cluster was made.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_path()).unwrap()).into_owned()
    }

    /// How often the server has ended all sessions and recovered, because a process of it crashed.
    pub fn crash_count(&self) -> usize {
        self.log().matches("all server processes terminated; reinitializing").count()
    }

    /// Waits until the log has this text.
    pub fn wait_for_log(&self, text: &str) {
        wait_until(&format!("the log has \"{text}\""), PATIENCE, || self.log().contains(text));
    }

    /// How to connect as the superuser; tests change user or application_name as they like.
    pub fn config(&self, database: &str) -> postgres::Config {
        let mut config = postgres::Config::new();
        config.host_path(&self.sockets).port(self.port).user("postgres").dbname(database);
        config
    }

    /// The socket that the server listens on.
    pub fn socket(&self) -> PathBuf {
        self.sockets.join(format!(".s.PGSQL.{}", self.port))
    }

    pub fn connect(&self, database: &str) -> postgres::Client {
        self.try_connect(database).unwrap_or_else(|error| panic!("cannot connect to {database}: {error:?}"))
    }

    /// Connects once the server, which is recovering by itself, takes sessions.
    pub fn reconnect(&self) -> postgres::Client {
        let mut client = None;
        wait_until("the server is up again", PATIENCE, || {
            client = self.try_connect("postgres").ok();
            client.is_some()
        });
        client.unwrap()
    }

    pub fn connect_as(&self, user: &str, database: &str) -> postgres::Client {
        let connected = self.config(database).user(user).connect(postgres::NoTls);
        connected.unwrap_or_else(|error| panic!("{user} cannot connect to {database}: {error:?}"))
    }

    pub fn try_connect(&self, database: &str) -> Result<postgres::Client, postgres::Error> {
        self.config(database).connect(postgres::NoTls)
    }

    /// A program of Postgres (pgbench, pg_dump, ...) that will connect to this cluster.
    pub fn command(&self, name: &str) -> Command {
        let mut command = pg_program(name);
        command
            .env("PGHOST", &self.sockets)
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", "postgres")
            .env("PGDATABASE", "postgres");
        command
    }

    /// Runs such a program to its successful end and returns what it printed.
    pub fn run(&self, name: &str, args: &[&str]) -> String {
        succeed(self.command(name).args(args))
    }

    /// Runs psql: unaligned, no headings, stops at the first error. Returns what it printed.
    pub fn psql(&self, database: &str, sql: &str) -> String {
        self.try_psql(database, sql).unwrap_or_else(|error| panic!("psql: {error}\n{sql}"))
    }

    /// The same; gives what psql printed to stderr if it failed.
    pub fn try_psql(&self, database: &str, sql: &str) -> Result<String, String> {
        let output: Output = self
            .command("psql")
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", database, "-c", sql])
            .output()
            .unwrap();
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// Takes a base backup into a directory that does not exist yet.
    pub fn base_backup(&self, into: &Path, options: &[&str]) {
        succeed(
            self.command("pg_basebackup")
                .arg("--pgdata")
                .arg(into)
                .args(["--wal-method", "stream", "--checkpoint", "fast", "--no-sync"])
                .args(options),
        );
    }

    /// Stops the server and has pg_upgrade bring everything to a new, stopped cluster. Gives the log of the servers
    /// that it has run for that.
    pub fn upgrade_to(&self, new: &Cluster, transfer: &[&str]) -> String {
        self.stop(Stop::Fast);
        let program = bindir().join("pg_upgrade");
        assert!(program.exists(), "{} is missing: this test needs a Postgres with pg_upgrade", program.display());
        let [old_port, new_port] = [self, new].map(|cluster| cluster.port.to_string());
        succeed(
            as_server(program)
                .current_dir(&new.dir)
                .args(["--old-bindir".as_ref(), bindir().as_os_str(), "--new-bindir".as_ref(), bindir().as_os_str()])
                .args(["--old-datadir".as_ref(), self.data_dir().as_os_str()])
                .args(["--new-datadir".as_ref(), new.data_dir().as_os_str()])
                .args(["--socketdir".as_ref(), new.sockets.as_os_str()])
                .args(["--old-port", &old_port, "--new-port", &new_port])
                .args(["--username", "postgres", "--retain"])
                .args(transfer),
        );
        // Postgres 14 leaves them in the working directory, others in the data directory.
        let logs = succeed(as_server("find").arg(&new.dir).args(["-name", "*.log"]));
        let read = |path: &str| String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned();
        logs.lines().filter(|path| path.ends_with("pg_upgrade_server.log")).map(read).collect()
    }

    fn server(&self) -> MutexGuard<'_, Option<Child>> {
        // A test that panicked must still be able to stop its server.
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(child) = self.server().take() {
            end_now(child);
        }
        if thread::panicking() {
            let log = fs::read(self.log_path()).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let lines: Vec<&str> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(40)..];
            eprintln!("---- the server's log ends:\n{}\n----", last.join("\n"));
        }
        remove_shared_memory(&self.data_dir());
        fs::remove_dir_all(&self.sockets).ok();
        fs::remove_dir_all(&self.dir).ok();
    }
}

impl Stop {
    fn signal(self) -> libc::c_int {
        match self {
            Stop::Fast => libc::SIGINT,
            Stop::Immediate => libc::SIGQUIT,
        }
    }
}

// ---- waiting ----------------------------------------------------------------------------------------------------------

/// Waits until a condition holds, and panics if it does not within the time given.
#[track_caller]
pub fn wait_until(what: &str, within: Duration, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + within;
    while !condition() {
        assert!(Instant::now() < deadline, "waited {within:?} in vain until {what}");
        sleep(Duration::from_millis(20));
    }
}
