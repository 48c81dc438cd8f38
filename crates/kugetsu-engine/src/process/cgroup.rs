//! Runs each guarded program in a cgroup of its own, where the system allows one.
//!
//! Child processes inherit their cgroup, and a program cannot leave it by changing its environment, session or parents.
//! The cgroup therefore finds processes that the sweep by environment mark cannot: those that cleared their environment
//! and lost their parent while the guard was dead. The kernel kills a whole cgroup at once, so no process can escape by
//! forking.
//!
//! kugetsu can create a cgroup where it owns its own cgroup (version 2): as root, in a container that owns its cgroups,
//! in a service of `systemd --user`, or in a service with `Delegate=yes`. An ordinary login shell cannot, and its turns
//! run without one. File formats: `cgroups(7)`, <https://docs.kernel.org/admin-guide/cgroup-v2.html>.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use uuid::Uuid;

/// Prefix of every cgroup name; the turn and the guard's process id follow.
const PREFIX: &str = "kugetsu-";
/// How long to wait for a cgroup to become empty after its processes were killed.
const EMPTYING: Duration = Duration::from_secs(2);
/// How deep [`sweep`] searches the hierarchy.
const DEPTH: usize = 16;

/// A cgroup that kugetsu created.
#[derive(Debug)]
pub(super) struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Creates a cgroup below our own for the program that a guard of this turn runs. Returns `None` where that is
    /// impossible.
    pub(super) fn create(turn: Uuid) -> Option<Self> {
        let path = own()?.join(format!("{PREFIX}{turn}-{}", std::process::id()));
        rustix::fs::mkdir(&path, 0o755.into()).ok()?;
        let this = Self { path };
        // Kernels before 5.14 have no `cgroup.kill`.
        if this.path.join("cgroup.kill").exists() {
            return Some(this);
        }
        this.remove();
        None
    }

    /// Starts a program inside the cgroup. A child starts in its parent's cgroup, so this process enters the cgroup and
    /// leaves it again. The returned flag says whether it left: only then may the cgroup be killed.
    pub(super) fn start<T>(&self, spawn: impl FnOnce() -> T) -> (T, bool) {
        let Some(outside) = self.path.parent() else {
            return (spawn(), false);
        };
        let inside = write(&self.path.join("cgroup.procs"), "0");
        let spawned = spawn();
        (spawned, !inside || write(&outside.join("cgroup.procs"), "0"))
    }

    /// Kills every process in the cgroup at once.
    pub(super) fn kill(&self) {
        write(&self.path.join("cgroup.kill"), "1");
    }

    /// Removes the cgroup and any that the program created inside it. A cgroup that does not become empty stays.
    pub(super) fn remove(&self) {
        remove(&self.path, Instant::now() + EMPTYING);
    }
}

/// Kills everything left in a turn's cgroups, wherever they are, and removes them. Spares the cgroup of this process.
pub(super) fn sweep(turn: Uuid) {
    let Some((root, _)) = mount() else { return };
    let name = format!("{PREFIX}{turn}-");
    let mut found = Vec::new();
    find(&root, &name, DEPTH, &mut found);
    let own = own();
    // The sweeping process may itself be a tool of the turn that outlived both supervisor and guard.
    found.retain(|path| !own.as_ref().is_some_and(|own| own.starts_with(path)));
    for path in found {
        let cgroup = Cgroup { path };
        cgroup.kill();
        cgroup.remove();
    }
}

fn find(folder: &Path, name: &str, depth: usize, found: &mut Vec<PathBuf>) {
    for below in folders(folder) {
        let last_name = below.file_name().and_then(|last| last.to_str());
        if last_name.is_some_and(|last| last.starts_with(name)) {
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

/// The folder of this process's cgroup.
fn own() -> Option<PathBuf> {
    let (mounted, root) = mount()?;
    let text = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    let below = Path::new(path).strip_prefix(root).ok()?;
    Some(mounted.join(below))
}

/// Where cgroup version 2 is mounted, and the part of the hierarchy that is mounted there (`proc_pid_mountinfo(5)`).
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
