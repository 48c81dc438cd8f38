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

/// Whether the environment that a process was started with holds `assignment` (`NAME=value`). False for a process
/// whose environment cannot be read: another user's, a zombie, a kernel thread.
pub(super) fn has_in_environment(pid: u32, assignment: &[u8]) -> bool {
    std::fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|environ| environ.split(|&byte| byte == 0).any(|item| item == assignment))
}

/// The name in the second field may hold anything, also `)` and spaces: the fields are counted from the last `)`.
fn parse(stat: &[u8]) -> Option<Entry> {
    let pid = number(stat.split(|&byte| byte == b' ').next()?)?;
    let after = stat.iter().rposition(|&byte| byte == b')')? + 1;
    let fields: Vec<&[u8]> = stat[after..]
        .split(u8::is_ascii_whitespace)
        .filter(|field| !field.is_empty())
        .collect();
    Some(Entry {
        pid,
        state: *fields.first()?.first()?,
        parent: number(fields.get(1)?)?,
        start_ticks: number(fields.get(19)?)?,
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
    fn half_a_line_is_no_entry() {
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"42 (sh"), None);
        assert_eq!(parse(b"42 (sh) S 7 42"), None);
    }
}
