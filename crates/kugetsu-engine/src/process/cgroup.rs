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

use super::sandbox::Limits;

/// Prefix of every cgroup name; the turn and the guard's process id follow.
const PREFIX: &str = "kugetsu-";
/// How long to wait for a cgroup to become empty after its processes were killed.
const EMPTYING: Duration = Duration::from_secs(2);
/// How deep [`sweep`] searches the hierarchy.
const DEPTH: usize = 16;

/// The limits that [`limitable`] sets. The cgroup stays empty, so any value does.
const PROBED_MEMORY: u64 = 1 << 30;
const PROBED_PROCESSES: u64 = 1 << 10;

/// A cgroup that kugetsu created.
#[derive(Debug)]
pub(super) struct Cgroup {
    path: PathBuf,
    /// Cgroups of version 1 beside it, which hold limits that version 2 has no controller for.
    limiting: Vec<PathBuf>,
    /// The limits that could be set.
    limited: Limitable,
}

/// What a cgroup limits for a turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limitable {
    /// The memory of all processes together.
    pub(crate) memory: bool,
    /// The number of processes and threads.
    pub(crate) processes: bool,
}

impl Limitable {
    /// What is not limited; `None` if everything is.
    pub(crate) fn missing(self) -> Option<&'static str> {
        match (self.memory, self.processes) {
            (true, true) => None,
            (true, false) => Some("processes"),
            (false, true) => Some("memory"),
            (false, false) => Some("memory and processes"),
        }
    }
}

impl Cgroup {
    /// Creates a cgroup below our own for the program that a guard of this turn runs. Returns `None` where that is
    /// impossible.
    pub(super) fn create(turn: Uuid, limits: &Limits) -> Option<Self> {
        let outside = own()?;
        let name = format!("{PREFIX}{turn}-{}", std::process::id());
        let path = outside.join(&name);
        rustix::fs::mkdir(&path, 0o755.into()).ok()?;
        let mut this = Self {
            path,
            limiting: Vec::new(),
            limited: Limitable::default(),
        };
        for (controller, most) in limits.each() {
            match limit(&outside, &name, controller, most) {
                Some(Where::Here) => {}
                Some(Where::Beside(path)) => this.limiting.push(path),
                None => continue,
            }
            match controller.kind {
                Kind::Memory => this.limited.memory = true,
                Kind::Processes => this.limited.processes = true,
            }
        }
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
        let limited: Vec<&Path> = self
            .limiting
            .iter()
            .filter(|path| write(&path.join("cgroup.procs"), "0"))
            .filter_map(|path| path.parent())
            .collect();
        let spawned = spawn();
        for outside in limited {
            write(&outside.join("cgroup.procs"), "0");
        }
        (spawned, !inside || write(&outside.join("cgroup.procs"), "0"))
    }

    /// Kills every process in the cgroup at once.
    pub(super) fn kill(&self) {
        write(&self.path.join("cgroup.kill"), "1");
    }

    /// Removes the cgroup and any that the program created inside it. A cgroup that does not become empty stays.
    pub(super) fn remove(&self) {
        let until = Instant::now() + EMPTYING;
        for path in self.limiting.iter().chain([&self.path]) {
            remove(path, until);
        }
    }
}

/// A controller of cgroups, with the names of its file in versions 2 and 1.
#[derive(Clone, Copy)]
pub(super) struct Controller {
    kind: Kind,
    name: &'static str,
    file: &'static str,
    old_file: &'static str,
}

/// What a controller limits.
#[derive(Clone, Copy)]
enum Kind {
    Memory,
    Processes,
}

impl Limits {
    /// The controllers that are asked for, with the most that each allows.
    fn each(&self) -> impl Iterator<Item = (Controller, u64)> {
        let memory = Controller {
            kind: Kind::Memory,
            name: "memory",
            file: "memory.max",
            old_file: "memory.limit_in_bytes",
        };
        let pids = Controller {
            kind: Kind::Processes,
            name: "pids",
            file: "pids.max",
            old_file: "pids.max",
        };
        let asked = [(memory, self.memory), (pids, self.processes)];
        asked
            .into_iter()
            .filter_map(|(controller, most)| Some((controller, most?)))
    }
}

/// Where a limit was set.
enum Where {
    Here,
    /// In this cgroup of version 1.
    Beside(PathBuf),
}

/// Limits the new cgroup `name` below `outside`. Returns `None` if the limit could not be set.
fn limit(outside: &Path, name: &str, controller: Controller, most: u64) -> Option<Where> {
    // Fails where the controller is on already, where processes are in the way, and where it belongs to version 1.
    write(
        &outside.join("cgroup.subtree_control"),
        &format!("+{}", controller.name),
    );
    if write(&outside.join(name).join(controller.file), &most.to_string()) {
        return Some(Where::Here);
    }
    let path = old(controller.name)?.join(name);
    rustix::fs::mkdir(&path, 0o755.into()).ok()?;
    if write(&path.join(controller.old_file), &most.to_string()) {
        return Some(Where::Beside(path));
    }
    let _ = rustix::fs::rmdir(&path);
    None
}

/// What a cgroup of this process can limit. Makes one, because permissions do not tell: a cgroup of version 2 that holds
/// processes cannot pass its controllers on (`EBUSY`), even to its owner.
pub(crate) fn limitable() -> Limitable {
    let limits = Limits {
        memory: Some(PROBED_MEMORY),
        processes: Some(PROBED_PROCESSES),
    };
    let Some(cgroup) = Cgroup::create(Uuid::new_v4(), &limits) else {
        return Limitable::default();
    };
    // To move a process, one must be able to write this file of the cgroup that holds both others (`cgroups(7)`).
    let enters = cgroup.path.parent().is_some_and(|outside| {
        rustix::fs::access(outside.join("cgroup.procs"), rustix::fs::Access::WRITE_OK).is_ok()
    });
    let mut limited = cgroup.limited;
    if !enters {
        // Cgroups of version 1 are entered on their own.
        let beside = |name: &str| {
            let Some(folder) = old(name) else { return false };
            cgroup.limiting.iter().any(|path| path.starts_with(&folder))
        };
        limited.memory &= beside("memory");
        limited.processes &= beside("pids");
    }
    cgroup.remove();
    limited
}

/// This process's cgroup of a controller of version 1 (`cgroups(7)`).
fn old(controller: &str) -> Option<PathBuf> {
    let (mounted, root) = old_mount(controller)?;
    let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = own.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let controllers = fields.next()?;
        controllers
            .split(',')
            .any(|name| name == controller)
            .then(|| fields.next())?
    })?;
    Some(mounted.join(Path::new(path).strip_prefix(root).ok()?))
}

/// Where a controller of version 1 is mounted, and the part of its hierarchy that is mounted there.
fn old_mount(controller: &str) -> Option<(PathBuf, PathBuf)> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(3);
        let (root, mounted) = (fields.next()?, fields.next()?);
        let options = after.strip_prefix("cgroup ")?.rsplit(' ').next()?;
        options
            .split(',')
            .any(|option| option == controller)
            .then(|| (mounted.into(), root.into()))
    })
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
        let cgroup = Cgroup {
            path,
            limiting: Vec::new(),
            limited: Limitable::default(),
        };
        cgroup.kill();
        cgroup.remove();
    }
    for (mounted, _) in ["memory", "pids"].into_iter().filter_map(old_mount) {
        let mut found = Vec::new();
        find(&mounted, &name, DEPTH, &mut found);
        for path in found {
            remove(&path, Instant::now() + EMPTYING);
        }
    }
}

/// How many more processes and threads the cgroups of this process may have, where one of them has a limit.
pub(super) fn left() -> Option<u64> {
    let (mounted, _) = mount()?;
    let own = own()?;
    let left = own
        .ancestors()
        .take_while(|path| path.starts_with(&mounted))
        .filter_map(|path| {
            let number = |file: &str| {
                let text = std::fs::read_to_string(path.join(file)).ok()?;
                text.trim().parse::<u64>().ok()
            };
            Some(number("pids.max")?.saturating_sub(number("pids.current")?))
        });
    left.min()
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
