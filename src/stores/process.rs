//! Which process a name means, and whether that process lives.
//!
//! A name has the form `HOST-PIDNS:PID:START:RANDOM`:
//!
//! | part | meaning |
//! |---|---|
//! | `HOST` | the first 16 digits of the id of the kernel's boot, which is another one after a restart |
//! | `PIDNS` | the number of the pid namespace: a container may have its own |
//! | `PID` | the process in that namespace |
//! | `START` | when it started, in the kernel's ticks since the boot: a pid may be used again |
//! | `RANDOM` | 16 hexadecimal digits. A process may have several names |
//!
//! What a system does not tell is 0. Names are unique even so. Only whether the process lives is then not
//! known.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::Path;

use crate::base::rng::Rng;

/// Where the kernel tells of a process: its state, the number of its threads, and when it started. These are
/// the places behind the name of its program, which ends with the last `)`.
const STATE: usize = 0;
const THREADS: usize = 17;
const START: usize = 19;

/// A process as its names tell of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Process {
    pid: u32,
    start: u64,
}

/// This process, and those that it can judge.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    /// The host and the pid namespace, as in names.
    realm: String,
    own: Process,
    /// Whether `/proc` tells of all processes of the realm.
    sees_all: bool,
}

impl Identity {
    /// Finds out who this process is. A forked child is another process.
    pub(crate) fn find() -> Self {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let host: String = boot.chars().filter(char::is_ascii_hexdigit).take(16).collect();
        let space = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        let space: String = space.to_string_lossy().chars().filter(char::is_ascii_digit).collect();
        let pid = std::process::id();
        let told = told_of(Path::new("/proc/self/stat")).ok().flatten();
        // Where others mounted /proc, it may tell of another namespace, or hide processes.
        let is_own = fs::read_link("/proc/self").is_ok_and(|own| own == Path::new(&pid.to_string()));
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_else(|_| "hidepid=".to_owned());
        let sees_all = told.is_some() && is_own && !host.is_empty() && !space.is_empty() && !mounts.contains("hidepid=");
        let or_zero = |text: String| if text.is_empty() { "0".to_owned() } else { text };
        let realm = format!("{}-{}", or_zero(host), or_zero(space));
        Self { realm, own: Process { pid, start: told.map_or(0, |told| told.start) }, sees_all }
    }

    /// Makes a name for this process that no process had or will have.
    pub(crate) fn new_name(&self) -> String {
        let rng = Rng::new(None);
        let random = rng.below(1 << 32) << 32 | rng.below(1 << 32);
        let Process { pid, start } = self.own;
        format!("{}:{pid}:{start}:{random:016x}", self.realm)
    }

    pub(super) fn is_this_process(&self) -> bool {
        self.own.pid == std::process::id()
    }

    /// Returns another process that a name means. None if it means this one, or one that cannot be judged.
    pub(super) fn other(&self, name: &str) -> Option<Process> {
        let mut parts = name.split(':');
        let (realm, pid, start, _random) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let process = Process { pid: pid.parse().ok()?, start: start.parse().ok()? };
        let is_known = self.sees_all && realm == self.realm && parts.next().is_none();
        Some(process).filter(|&process| is_known && process != self.own)
    }
}

impl Process {
    /// Returns whether the process has ended. If that cannot be found out, it has not.
    pub(super) fn has_ended(self) -> bool {
        match told_of(Path::new(&format!("/proc/{}/stat", self.pid))) {
            Ok(Some(told)) => told.start != self.start || told.has_ended,
            Ok(None) => false,
            Err(error) => error.kind() == ErrorKind::NotFound || is_gone(&error),
        }
    }
}

/// The process ended between opening and reading: `ESRCH`.
fn is_gone(error: &std::io::Error) -> bool {
    const NO_SUCH_PROCESS: i32 = 3;
    error.raw_os_error() == Some(NO_SUCH_PROCESS)
}

struct Told {
    start: u64,
    /// Its parent has not asked yet how it ended.
    has_ended: bool,
}

/// Reads what the kernel tells of a process. None if it is not understood.
fn told_of(path: &Path) -> std::io::Result<Option<Told>> {
    let mut text = [0; 1024];
    let length = File::open(path)?.read(&mut text)?;
    Ok(text.get(..length).and_then(told))
}

fn told(text: &[u8]) -> Option<Told> {
    let end = text.iter().rposition(|&byte| byte == b')')?;
    let text = std::str::from_utf8(text.get(end + 1..)?).ok()?;
    let fields: Vec<_> = text.split_ascii_whitespace().collect();
    let threads: u64 = fields.get(THREADS)?.parse().ok()?;
    // If a first thread ends before the others, it is shown as ended too.
    let has_ended = matches!(*fields.get(STATE)?, "Z" | "X") && threads <= 1;
    Some(Told { start: fields.get(START)?.parse().ok()?, has_ended })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_a_form() {
        let identity = Identity::find();
        let (one, other) = (identity.new_name(), identity.new_name());
        assert_ne!(one, other);
        let parts: Vec<_> = one.split(':').collect();
        assert_eq!(parts.len(), 4, "{one}");
        assert_eq!(parts[1], std::process::id().to_string());
        assert!(parts[3].len() == 16 && u64::from_str_radix(parts[3], 16).is_ok(), "{one}");
    }

    #[test]
    fn this_process_and_strangers_are_not_judged() {
        let identity = Identity::find();
        assert_eq!(identity.other(&identity.new_name()), None);
        for name in ["", "worker", "a:b:c:d", "0-0:1:1:0", ":1:2:3", &format!("{}:1:2:3:4", identity.realm)] {
            assert_eq!(identity.other(name), None, "{name}");
        }
    }

    #[test]
    fn what_the_kernel_tells_is_read_behind_the_name_of_the_program() {
        let told_of =
            |state, threads| told(format!("7 (a) Z b)) {state} 1 7 7 0 -1 4 0 0 0 0 0 0 0 0 20 0 {threads} 0 1234 99").as_bytes());
        let running = told_of("S", 3).unwrap();
        assert!(running.start == 1234 && !running.has_ended);
        assert!(told_of("Z", 1).unwrap().has_ended);
        assert!(!told_of("Z", 2).unwrap().has_ended, "other threads run on");
        assert!(told(b"7 (a) S 1").is_none() && told(b"").is_none());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_lives_until_it_ends() {
        let identity = Identity::find();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let start = told_of(Path::new(&format!("/proc/{}/stat", child.id()))).unwrap().unwrap().start;
        let named = |start| identity.other(&format!("{}:{}:{start}:0", identity.realm, child.id())).unwrap();
        let (lives, had_its_pid) = (named(start), named(start - 1));
        assert!(!lives.has_ended() && had_its_pid.has_ended());
        child.kill().unwrap();
        while !lives.has_ended() {
            std::thread::yield_now(); // it is dead, and nobody has asked how it ended
        }
        child.wait().unwrap();
        assert!(lives.has_ended());
    }
}
