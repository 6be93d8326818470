//! The processes of a server.

use super::{wait_until, PATIENCE};
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{mpsc, Mutex, OnceLock};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

/// Starts a server. Should this process be killed, the kernel stops the server (SIGQUIT: at once). The kernel goes by
/// the thread that started it, hence one thread that starts all of them and never ends.
pub(super) fn spawn_server(command: Command) -> io::Result<Child> {
    type Request = (Command, mpsc::Sender<io::Result<Child>>);
    static STARTER: OnceLock<Mutex<mpsc::Sender<Request>>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (sender, requests) = mpsc::channel::<Request>();
        thread::spawn(move || {
            for (mut command, reply) in requests {
                // SAFETY: prctl is a plain system call, allowed between fork and exec.
                unsafe {
                    command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGQUIT) {
                        0 => Ok(()),
                        _ => Err(io::Error::last_os_error()),
                    });
                }
                // The receiver waits for the answer, so it is there.
                reply.send(command.spawn()).ok();
            }
        });
        Mutex::new(sender)
    });
    let (reply, answer) = mpsc::channel();
    starter.lock().unwrap().send((command, reply)).unwrap();
    answer.recv().unwrap()
}

/// Sends a signal to one process.
pub fn send(pid: u32, signal: libc::c_int) {
    // SAFETY: kill is a plain system call. A process that is gone already is no error here.
    unsafe { libc::kill(pid as libc::pid_t, signal) };
}

/// Kills a process; false if it had ended by itself, or was about to.
pub fn kill(pid: u32) -> bool {
    // One that is stopped has not ended, and does not before it is killed.
    send(pid, libc::SIGSTOP);
    let is_stopped = wait_until_halted(pid);
    send(pid, libc::SIGKILL);
    is_stopped
}

/// Waits until a process that was told to stop does; false if it has ended.
fn wait_until_halted(pid: u32) -> bool {
    let mut state = None;
    wait_until("the process halts", PATIENCE, || {
        state = process(pid).map(|(state, _)| state);
        state.is_none_or(|state| matches!(state, 'T' | 't' | 'Z'))
    });
    matches!(state, Some('T' | 't'))
}

/// Kills a postmaster and all its children, and waits for their end. The postmaster is halted first, so that it neither
/// starts nor reaps one meanwhile.
pub(super) fn end_now(mut postmaster: Child) {
    if !matches!(postmaster.try_wait(), Ok(None)) {
        return;
    }
    let children = halt(postmaster.id());
    for child in &children {
        send(*child, libc::SIGKILL);
    }
    postmaster.kill().ok();
    postmaster.wait().ok();
    let deadline = Instant::now() + PATIENCE;
    while children.iter().any(|pid| is_alive(*pid)) && Instant::now() < deadline {
        sleep(Duration::from_millis(5));
    }
}

/// Halts a postmaster; gives its children, now that it cannot start another.
pub(super) fn halt(postmaster: u32) -> Vec<u32> {
    send(postmaster, libc::SIGSTOP);
    wait_until_halted(postmaster);
    children_of(postmaster)
}

/// State and parent of a process.
pub(super) fn process(pid: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // pid (name) state parent ...; the name may have anything in it
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

pub(super) fn is_alive(pid: u32) -> bool {
    matches!(process(pid), Some((state, _)) if state != 'Z')
}

/// The processes that a process has started, such as the backends and workers of a postmaster.
pub fn children_of(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").unwrap();
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| matches!(process(*pid), Some((_, its_parent)) if its_parent == parent))
        .collect()
}

/// Whether a signal waits for a process, as for one that is stopped.
pub fn is_pending(pid: u32, signal: libc::c_int) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:")).unwrap();
    u64::from_str_radix(pending.trim(), 16).unwrap() >> (signal - 1) & 1 == 1
}

/// Whether a process has a file open.
pub fn has_open(pid: u32, path: &Path) -> bool {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    descriptors.flatten().any(|descriptor| fs::read_link(descriptor.path()).is_ok_and(|open| open == path))
}

/// A server that was killed leaves a segment of System V shared memory, of which the system has only so many. Postgres
/// notes it in the seventh line of postmaster.pid, by key and id.
pub(super) fn remove_shared_memory(data: &Path) {
    let Ok(pid_file) = fs::read_to_string(data.join("postmaster.pid")) else { return };
    let segment = pid_file.lines().nth(6).and_then(|line| line.split_whitespace().nth(1));
    if let Some(id) = segment.and_then(|id| id.parse().ok()) {
        // SAFETY: a plain system call, which marks the segment for removal.
        unsafe { libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut()) };
    }
}

/// CPU time and voluntary context switches of a process: they stay what they are while it sleeps.
fn wakeups(pid: u32) -> (String, String) {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let times = stat.rsplit_once(") ").unwrap().1.split(' ').skip(11).take(2).collect::<Vec<_>>().join(" ");
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let switches = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches")).unwrap();
    (times, switches.to_owned())
}

/// Waits until processes sleep for six seconds: a timer of any period up to this would show every time.
#[track_caller]
pub fn wait_until_asleep(processes: &[u32], patience: Duration) {
    let wakeups = || processes.iter().map(|pid| wakeups(*pid)).collect::<Vec<_>>();
    wait_until("nothing wakes up for six seconds", patience, || {
        let before = wakeups();
        sleep(Duration::from_secs(6));
        wakeups() == before
    });
}
