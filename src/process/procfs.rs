//! What `/proc` says of the processes of this host.

/// A line of `/proc/<pid>/stat`, as far as it is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) pid: u32,
    pub(super) parent: u32,
    pub(super) state: u8,
    /// Clock ticks since boot; with the pid it tells a process from a later one of the same number.
    pub(super) start_ticks: u64,
}

impl Entry {
    /// A zombie, or on its way there.
    pub(super) fn is_dead(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }
}

/// The process with this number, if there is one.
pub(super) fn entry(pid: u32) -> Option<Entry> {
    parse(&std::fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// Every process that can be seen. Not a snapshot: what forks while this reads may be missing.
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

/// What the environment that a process was started with says of an assignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Environment {
    Holds,
    /// Also where it cannot be read: another user's process.
    Lacks,
    /// The process is in the middle of an `execve`: its old environment is gone and its new one not yet there.
    Between,
}

/// Whether the environment that a process was started with holds `assignment` (`NAME=value`).
pub(super) fn environment(pid: u32, assignment: &[u8]) -> Environment {
    let Ok(environ) = environ(pid) else {
        return Environment::Lacks;
    };
    if environ.is_empty() {
        let stat = std::fs::read(format!("/proc/{pid}/stat")).unwrap_or_default();
        return match has_none_for_good(&stat) {
            Some(false) => Environment::Between,
            Some(true) | None => Environment::Lacks,
        };
    }
    if environ.split(|&byte| byte == 0).any(|item| item == assignment) {
        Environment::Holds
    } else {
        Environment::Lacks
    }
}

/// One `read` sees one program's environment whole. After an `execve` a second one has nothing more to give of it, and
/// what was begun looks as if it had been all.
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
        let wanted = whole.len() * 2;
        whole.clear();
        whole.reserve(wanted);
    }
}

/// Whether a process whose environment was read as empty really has none: one started without any, a kernel's thread,
/// or one that exits. Field numbers: `proc_pid_stat(5)`; the bits of the ninth: `PF_EXITING` and `PF_KTHREAD` of the
/// kernel's `include/linux/sched.h`.
fn has_none_for_good(stat: &[u8]) -> Option<bool> {
    const EXITING: u64 = 0x4;
    const KERNEL_THREAD: u64 = 0x0020_0000;
    let fields = fields(stat)?;
    let field = |field: usize| -> Option<u64> { number(fields.get(field - FIRST)?) };
    let (flags, code, start, end) = (field(9)?, field(26)?, field(50)?, field(51)?);
    // The kernel writes the code's address after the environment's, when it lays out the memory of a new program.
    Some(flags & (EXITING | KERNEL_THREAD) != 0 || (code != 0 && start == end))
}

/// The number of the first field after the name.
const FIRST: usize = 3;

/// The fields from [`FIRST`] on. The name before them may hold anything, also `)` and spaces: they are counted from the
/// last `)`.
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
        let is = |fields: &[&str]| has_none_for_good(fields.join(" ").as_bytes());
        assert_eq!(is(&fields), Some(false), "its memory is not laid out");
        (fields[49], fields[50]) = ("4096", "4096");
        assert_eq!(is(&fields), Some(false), "its environment is being counted");
        fields[25] = "64";
        assert_eq!(is(&fields), Some(true), "it began without one");
        fields[50] = "5000";
        assert_eq!(is(&fields), Some(false), "the empty one was the one before");
        fields[8] = "4";
        assert_eq!(is(&fields), Some(true), "it exits");
        assert_eq!(has_none_for_good(b""), None);
        assert_eq!(is(&fields[..30]), None);
    }

    #[test]
    fn half_a_line_is_no_entry() {
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"42 (sh"), None);
        assert_eq!(parse(b"42 (sh) S 7 42"), None);
    }
}
