//! A cgroup around what a guard runs, where one can be made.
//!
//! Membership is inherited and nothing that a program does to its environment, session or parents changes it. So it
//! finds what the sweep by the mark cannot: a process that cleared its environment and lost its parent while the guard
//! was dead. And the kernel kills a whole cgroup at once, so nothing forks its way out of it.
//!
//! One can be made where our own cgroup (version 2) is ours to divide: as root, in a container that owns its cgroups, in
//! a service of `systemd --user` or one with `Delegate=yes`. An ordinary login has none, and goes without.
//! The format of the files: `cgroups(7)`, <https://docs.kernel.org/admin-guide/cgroup-v2.html>.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use uuid::Uuid;

/// Every name begins with it; the turn and the guard's process id follow.
const PREFIX: &str = "kugetsu-";
/// How long a cgroup whose processes are dead may take to be empty.
const EMPTYING: Duration = Duration::from_secs(2);
/// No hierarchy that we search is deeper.
const DEPTH: usize = 16;

/// A cgroup of our own.
#[derive(Debug)]
pub(super) struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes one below our own for what a guard of this turn runs; nothing where that is not possible.
    pub(super) fn make(turn: Uuid) -> Option<Self> {
        let path = own()?.join(format!("{PREFIX}{turn}-{}", std::process::id()));
        rustix::fs::mkdir(&path, 0o755.into()).ok()?;
        let this = Self { path };
        // Kernels before 5.14 cannot kill one.
        if this.path.join("cgroup.kill").exists() {
            return Some(this);
        }
        this.remove();
        None
    }

    /// Starts a program inside. A child is born where its parent is, so this process goes in, and comes out again.
    /// Gives also whether it did come out: only then may the cgroup be killed.
    pub(super) fn start<T>(&self, spawn: impl FnOnce() -> T) -> (T, bool) {
        let Some(outside) = self.path.parent() else {
            return (spawn(), false);
        };
        let inside = write(&self.path.join("cgroup.procs"), "0");
        let done = spawn();
        (done, !inside || write(&outside.join("cgroup.procs"), "0"))
    }

    /// Kills everything inside, at once.
    pub(super) fn kill(&self) {
        write(&self.path.join("cgroup.kill"), "1");
    }

    /// Removes it, and those that the program made inside. One that is not empty stays.
    pub(super) fn remove(&self) {
        remove(&self.path, Instant::now() + EMPTYING);
    }
}

/// Kills what is left in the cgroups of a turn, wherever they are, and removes them; not the one that we are in.
pub(super) fn sweep(turn: Uuid) {
    let Some((root, _)) = mount() else { return };
    let name = format!("{PREFIX}{turn}-");
    let mut found = Vec::new();
    find(&root, &name, DEPTH, &mut found);
    let own = own();
    // A tool of the turn that outlived both supervisor and guard may itself be the one that sweeps.
    found.retain(|path| !own.as_ref().is_some_and(|own| own.starts_with(path)));
    for path in found {
        let cgroup = Cgroup { path };
        cgroup.kill();
        cgroup.remove();
    }
}

fn find(folder: &Path, name: &str, depth: usize, found: &mut Vec<PathBuf>) {
    for below in folders(folder) {
        let is_one = below.file_name().and_then(|last| last.to_str());
        if is_one.is_some_and(|last| last.starts_with(name)) {
            found.push(below);
        } else if depth > 0 {
            find(&below, name, depth - 1, found);
        }
    }
}

fn remove(path: &Path, until: Instant) {
    for below in folders(path) {
        remove(&below, until);
    }
    while let Err(rustix::io::Errno::BUSY) = rustix::fs::rmdir(path) {
        if Instant::now() >= until {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn folders(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn write(file: &Path, text: &str) -> bool {
    use rustix::fs::{Mode, OFlags};
    rustix::fs::open(file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
        .is_ok_and(|file| File::from(file).write_all(text.as_bytes()).is_ok())
}

/// The folder of our own cgroup.
fn own() -> Option<PathBuf> {
    let (mounted, root) = mount()?;
    let text = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    let below = Path::new(path).strip_prefix(root).ok()?;
    Some(mounted.join(below))
}

/// Where version 2 is mounted, and which part of the hierarchy that is (`proc_pid_mountinfo(5)`).
fn mount() -> Option<(PathBuf, PathBuf)> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    text.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(3);
        let (root, mounted) = (fields.next()?, fields.next()?);
        after
            .starts_with("cgroup2 ")
            .then(|| (mounted.into(), root.into()))
    })
}
