//! Reads the processes of this host from `/proc`.

use std::time::Duration;

/// The fields of `/proc/<pid>/stat` that are needed here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) pid: u32,
    pub(super) parent: u32,
    pub(super) state: u8,
    /// Start time in clock ticks since boot. With the pid, it distinguishes a process from a later one that reuses the
    /// pid.
    pub(super) start_ticks: u64,
}

impl Entry {
    /// Whether the process is a zombie or about to become one.
    pub(super) fn is_dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }
}

/// The process with this id, if there is one.
pub(super) fn entry(pid: u32) -> Option<Entry> {
    parse(&std::fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// Every visible process. This is not a snapshot: a process that forks during the read may be missing.
pub(super) fn all() -> Vec<Entry> {
    let Ok(folder) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    folder
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(entry)
        .collect()
}

/// The mark of the guard with this id; `None` if the process is not a guard.
pub(super) fn guard_mark(pid: u32) -> Option<uuid::Uuid> {
    let cmdline = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let mut words = cmdline.split(|&byte| byte == 0);
    let is_guard = words.next()? == super::launch::GUARD_NAME.as_bytes()
        && words.next()? == super::GUARD_COMMAND.as_bytes();
    is_guard.then(|| std::str::from_utf8(words.next()?).ok()?.parse().ok())?
}

/// How often to retry a process in the middle of an `execve`, and the pause between tries.
const TRIES: u32 = 200;
const PAUSE: Duration = Duration::from_millis(1);

/// Whether the environment that a process was started with holds `assignment` (`NAME=value`). False for a process whose
/// environment cannot be read (another user's, a zombie, a kernel thread), and for a process whose environment stays
/// empty after all tries, which no running program's does.
pub(super) fn has_in_environment(pid: u32, assignment: &[u8]) -> bool {
    for _ in 0..TRIES {
        let Ok(environ) = environ(pid) else { return false };
        if !environ.is_empty() {
            return environ.split(|&byte| byte == 0).any(|item| item == assignment);
        }
        let stat = std::fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
        if has_none_for_good(&stat) {
            return false;
        }
        std::thread::sleep(PAUSE);
    }
    false
}

/// Reads a process's environment with a single `read`, which sees one program's environment whole. After an `execve`, a
/// second `read` returns nothing more of the old environment, so a partial result would look complete.
fn environ(pid: u32) -> rustix::io::Result<Vec<u8>> {
    use rustix::fs::{Mode, OFlags};
    let file = rustix::fs::open(
        format!("/proc/{pid}/environ"),
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let mut whole = Vec::with_capacity(16 << 10);
    loop {
        rustix::io::pread(&file, rustix::buffer::spare_capacity(&mut whole), 0)?;
        if whole.len() < whole.capacity() {
            return Ok(whole);
        }
        let prefix = whole.len() * 2;
        whole.clear();
        whole.reserve(prefix);
    }
}

/// Whether an environment that was read as empty is really empty: the process was started without one, is a kernel
/// thread, exits (a zombie counts too) or is gone. Otherwise the process was in the middle of an `execve`: the old
/// environment is gone and the new one not yet there. If permissions hide the addresses, they read as 1, 0 and 0, and
/// the state is unknown. Field numbers: `proc_pid_stat(5)`; bits of the ninth field: the kernel's
/// `include/linux/sched.h`.
fn has_none_for_good(stat: &[u8]) -> bool {
    const EXITING: u64 = 0x4;
    const KERNEL_THREAD: u64 = 0x0020_0000;
    let Some(fields) = fields(stat) else { return true };
    let number = |of: usize| fields.get(of - FIRST).and_then(|field| number::<u64>(field));
    let (Some(flags), Some(code), Some(start), Some(end)) = (number(9), number(26), number(50), number(51))
    else {
        return true;
    };
    // The kernel's ELF loader writes the code's address after the environment's addresses.
    flags & (EXITING | KERNEL_THREAD) != 0 || (code != 0 && start == end)
}

/// The number of the first field after the process name.
const FIRST: usize = 3;

/// The fields from [`FIRST`] on. The name before them may contain anything, including `)` and spaces, so fields are
/// counted from the last `)`.
fn fields(stat: &[u8]) -> Option<Vec<&[u8]>> {
    let after = stat.iter().rposition(|&byte| byte == b')')? + 1;
    let fields = stat[after..].split(u8::is_ascii_whitespace);
    Some(fields.filter(|field| !field.is_empty()).collect())
}

fn parse(stat: &[u8]) -> Option<Entry> {
    let pid = number(stat.split(|&byte| byte == b' ').next()?)?;
    let fields = fields(stat)?;
    Some(Entry {
        pid,
        state: *fields.first()?.first()?,
        parent: number(fields.get(4 - FIRST)?)?,
        start_ticks: number(fields.get(22 - FIRST)?)?,
    })
}

fn number<N: std::str::FromStr>(field: &[u8]) -> Option<N> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_spaces_does_not_shift_the_fields() {
        let stat = b"42 (a) Z 1 (b)) S 7 42 40 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2\n";
        let entry = parse(stat).unwrap();
        assert_eq!(
            entry,
            Entry {
                pid: 42,
                parent: 7,
                state: b'S',
                start_ticks: 987_654
            }
        );
    }

    #[test]
    fn an_empty_environment_is_believed_of_a_program_that_was_started_without_one() {
        let mut fields = vec!["0"; 52];
        (fields[0], fields[1], fields[2]) = ("42", "(sh)", "R");
        let has_none = |fields: &[&str]| has_none_for_good(fields.join(" ").as_bytes());
        assert!(!has_none(&fields), "its memory is not laid out");
        (fields[49], fields[50]) = ("4096", "4096");
        assert!(!has_none(&fields), "its environment is being counted");
        fields[25] = "64";
        assert!(has_none(&fields), "it began without one");
        fields[50] = "5000";
        assert!(!has_none(&fields), "the empty one was the one before");
        fields[8] = "4";
        assert!(has_none(&fields), "it exits");
        assert!(
            has_none(&fields[..30]) && has_none_for_good(b""),
            "nothing can be told"
        );
    }

    #[test]
    fn this_kernel_shows_which_process_has_no_environment() {
        let reported = |pid: u32| (environ(pid), std::fs::read(format!("/proc/{pid}/stat")).unwrap());
        let until = |holds: &dyn Fn() -> bool| {
            let deadline = std::time::Instant::now() + Duration::from_mins(1);
            while !holds() {
                assert!(std::time::Instant::now() < deadline, "waited in vain");
                std::thread::sleep(PAUSE);
            }
        };
        let own = std::process::id();
        assert!(!has_none_for_good(&reported(own).1), "we have one");

        let mut without = std::process::Command::new("/bin/sleep")
            .arg("1000")
            .env_clear()
            .spawn()
            .unwrap();
        let cmdline = format!("/proc/{}/cmdline", without.id());
        until(&|| std::fs::read(&cmdline).unwrap().starts_with(b"/bin/sleep"));
        // The arguments become visible a moment before the whole layout is complete.
        until(&|| has_none_for_good(&reported(without.id()).1));
        assert_eq!(reported(without.id()).0, Ok(Vec::new()));

        without.kill().unwrap();
        until(&|| entry(without.id()).unwrap().is_dead());
        assert!(has_none_for_good(&reported(without.id()).1), "it is a zombie");
        without.wait().unwrap();
    }

    #[test]
    fn a_partial_line_is_not_an_entry() {
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"42 (sh"), None);
        assert_eq!(parse(b"42 (sh) S 7 42"), None);
    }
}
