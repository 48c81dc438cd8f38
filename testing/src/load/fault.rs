//! What strikes while a load runs.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::submit::submission;
use super::{LoadPlan, Shared};
use crate::daemon::request;
use crate::{Opencode, ProcessInfo, Signal, Version, World, clock_variables};

/// The pause before each strike.
const PAUSE: Duration = Duration::from_millis(1500);
/// The same if the strike ends processes: by then, new servers have started and turns run.
const PAUSE_OF_KILLS: Duration = Duration::from_secs(6);
/// How long a database stays locked or a disk full. A write to the queue waits for 5 s.
const LASTING: Duration = Duration::from_secs(7);
/// How many readers follow events, of which every other one stalls.
const READERS: usize = 500;
/// The size of the disk that becomes full.
const DISK: &str = "size=64m";
/// How many signals a storm has.
const STORM: usize = 300;

/// What strikes while a load runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The daemon is killed, and started again.
    DaemonKilled,
    /// Servers, or opencodes that run a turn, are killed.
    OpencodesKilled,
    /// The guards above them are killed.
    GuardsKilled,
    /// Another program holds the write lock of opencode's database.
    OpencodeLocked,
    /// Another program holds the write lock of the queue.
    QueueLocked,
    /// The disk of kugetsu's home is full, and then it is not. Needs root, because it mounts a disk.
    DiskFull,
    /// The clock of the daemon and of opencode steps a day forward.
    ClockForward,
    /// It steps a day back.
    ClockBack,
    /// Many readers follow events, and half of them read nothing.
    Readers,
    /// Clients close their connections in the middle of a request, or before its answer.
    ConnectionsCut,
    /// The daemon gets many SIGHUPs while the settings change between valid and invalid.
    Hangups,
    /// Another version of opencode takes the place of the one that runs.
    Upgrade,
}

impl Fault {
    /// Every fault.
    pub const ALL: [Self; 12] = [
        Self::DaemonKilled,
        Self::OpencodesKilled,
        Self::GuardsKilled,
        Self::OpencodeLocked,
        Self::QueueLocked,
        Self::DiskFull,
        Self::ClockForward,
        Self::ClockBack,
        Self::Readers,
        Self::ConnectionsCut,
        Self::Hangups,
        Self::Upgrade,
    ];

    /// Its name in a table.
    pub fn describe(self) -> &'static str {
        match self {
            Self::DaemonKilled => "kill -9 of the daemon",
            Self::OpencodesKilled => "kill -9 of servers",
            Self::GuardsKilled => "kill -9 of guards",
            Self::OpencodeLocked => "opencode's database locked for 7 s",
            Self::QueueLocked => "queue.db locked for 7 s",
            Self::DiskFull => "disk full for 7 s",
            Self::ClockForward => "clock stepped a day forward",
            Self::ClockBack => "clock stepped a day back",
            Self::Readers => "500 readers of events, half of them stalled",
            Self::ConnectionsCut => "connections cut",
            Self::Hangups => "300 SIGHUPs",
            Self::Upgrade => "opencode replaced by 1.18.33",
        }
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::DaemonKilled => "daemon",
            Self::OpencodesKilled => "servers",
            Self::GuardsKilled => "guards",
            Self::OpencodeLocked => "opencode-locked",
            Self::QueueLocked => "queue-locked",
            Self::DiskFull => "disk",
            Self::ClockForward => "clock-forward",
            Self::ClockBack => "clock-back",
            Self::Readers => "readers",
            Self::ConnectionsCut => "connections",
            Self::Hangups => "hangups",
            Self::Upgrade => "upgrade",
        }
    }

    /// Whether it makes sense on this opencode.
    pub fn fits(self, opencode: Opencode) -> bool {
        self != Self::Upgrade || opencode == Opencode::Real(Version::V1_3_2)
    }

    /// Whether a task may end otherwise than completed by it. A turn fails whose opencode is lost for the third time.
    /// opencode waits for its database for 5 s, and then breaks off. It ignores new prompts in a session whose messages
    /// are of the future, so kugetsu refuses them.
    pub(super) fn may_end_tasks(self) -> bool {
        matches!(
            self,
            Self::OpencodesKilled | Self::GuardsKilled | Self::OpencodeLocked | Self::ClockBack
        )
    }

    pub(super) fn moves_the_clock(self) -> bool {
        matches!(self, Self::ClockForward | Self::ClockBack)
    }

    /// How often it strikes at most.
    fn most(self) -> usize {
        match self {
            // A task is parked after three attempts that failed, and nothing else keeps the same task from being struck
            // each time.
            Self::DaemonKilled | Self::OpencodesKilled | Self::GuardsKilled => 2,
            Self::OpencodeLocked | Self::QueueLocked | Self::DiskFull => 2,
            Self::ClockForward | Self::ClockBack | Self::Readers | Self::Hangups | Self::Upgrade => 1,
            Self::ConnectionsCut => usize::MAX,
        }
    }

    fn pause(self) -> Duration {
        match self {
            Self::DaemonKilled | Self::OpencodesKilled | Self::GuardsKilled => PAUSE_OF_KILLS,
            Self::ClockForward | Self::ClockBack => PAUSE_OF_KILLS,
            _ => PAUSE,
        }
    }
}

impl std::str::FromStr for Fault {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|fault| fault.name() == name);
        known.ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.into_iter().map(Self::name).collect();
            format!("`{name}` is not one of {}", names.join(", "))
        })
    }
}

/// What a fault needs around the daemon.
pub(super) struct Setting {
    flags: Vec<String>,
    variables: Vec<(&'static str, String)>,
    clock: PathBuf,
    /// The opencode that is replaced.
    program: PathBuf,
    disk: Option<Disk>,
}

impl Setting {
    pub(super) fn of(world: &World, plan: &LoadPlan) -> Self {
        let mut setting = Self {
            flags: vec!["--max-concurrent".to_owned(), plan.max_concurrent.to_string()],
            variables: Vec::new(),
            clock: world.root().join("clock"),
            program: world.root().join("opencode"),
            disk: None,
        };
        match plan.fault {
            Some(fault) if fault.moves_the_clock() => {
                setting.set_clock(if fault == Fault::ClockBack { "+1d" } else { "+0" });
                setting.variables = clock_variables(&setting.clock, true).into();
            }
            Some(Fault::Upgrade) => {
                setting.install(Version::V1_3_2);
                let program = setting.program.display().to_string();
                setting.variables = vec![("KUGETSU_OPENCODE", program)];
            }
            Some(Fault::DiskFull) => setting.disk = Some(Disk::mount(&world.kugetsu_home())),
            _ => {}
        }
        setting
    }

    pub(super) fn start_daemon(&self, world: &World) {
        let flags: Vec<&str> = self.flags.iter().map(String::as_str).collect();
        let variables: Vec<(&str, &str)> = self
            .variables
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
            .collect();
        world.start_daemon_in(&variables, &flags);
    }

    /// Sets the clock of programs that run, too.
    fn set_clock(&self, offset: &str) {
        write_whole(&self.clock, offset);
    }

    fn install(&self, version: Version) {
        let new = self.program.with_extension("new");
        let _ = std::fs::remove_file(&new);
        std::os::unix::fs::symlink(version.binary(), &new)
            .and_then(|()| std::fs::rename(&new, &self.program))
            .expect("a link in the world's folder");
    }

    /// Takes back what would hold the end up.
    pub(super) fn restore(&self, world: &World) {
        self.set_clock("+0");
        let _ = std::fs::remove_file(world.kugetsu_home().join("config.toml"));
        if let Some(disk) = &self.disk {
            disk.free();
        }
    }
}

/// Replaces a file in one step.
fn write_whole(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text)
        .and_then(|()| std::fs::rename(&new, path))
        .expect("a file in the world's folder");
}

/// A small disk in place of kugetsu's home, which is unmounted with this value.
struct Disk {
    folder: PathBuf,
}

impl Disk {
    fn mount(folder: &Path) -> Self {
        let seed = folder.with_extension("seed");
        let run = |command: &mut Command| {
            let status = command.status();
            assert!(
                status.is_ok_and(|status| status.success()),
                "{command:?} (needs root)"
            );
        };
        std::fs::rename(folder, &seed)
            .and_then(|()| std::fs::create_dir(folder))
            .expect("folders of the world");
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", DISK, "tmpfs"])
            .arg(folder));
        run(Command::new("cp").arg("-a").arg(seed.join(".")).arg(folder));
        Self {
            folder: folder.to_owned(),
        }
    }

    fn ballast(&self) -> PathBuf {
        self.folder.join("ballast")
    }

    fn fill(&self) {
        let chunk = vec![0; 1 << 16];
        let file = File::create(self.ballast());
        while file.as_ref().is_ok_and(|mut file| file.write_all(&chunk).is_ok()) {}
    }

    fn free(&self) {
        let _ = std::fs::remove_file(self.ballast());
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The world's own folder is removed after it.
        let _ = Command::new("umount").arg("--lazy").arg(&self.folder).status();
    }
}

/// Strikes until the load is over.
pub(super) fn strike(shared: &Shared<'_>, setting: &Setting) {
    let Some(fault) = shared.plan.fault else {
        return;
    };
    let mut stalled = Vec::new();
    // By then, servers have started and sessions have messages.
    while shared.ended.load(Ordering::SeqCst) < shared.plan.tasks / 10 && !shared.is_over() {
        std::thread::sleep(Duration::from_millis(10));
    }
    for number in 0..fault.most() {
        wait(shared, fault.pause());
        if shared.is_over() {
            break;
        }
        let struck = match fault {
            Fault::DaemonKilled => kill_daemon(shared, setting),
            Fault::OpencodesKilled => kill_one(shared, number, ProcessInfo::is_opencode),
            Fault::GuardsKilled => kill_one(shared, number, |one| is_guard(shared, one)),
            Fault::OpencodeLocked => hold(shared, &shared.world.opencode_db()),
            Fault::QueueLocked => hold(shared, &shared.world.kugetsu_home().join("queue.db")),
            Fault::DiskFull => setting.disk.as_ref().is_some_and(|disk| fill(shared, disk)),
            Fault::ClockForward | Fault::ClockBack => {
                setting.set_clock(if fault == Fault::ClockBack { "+0" } else { "+1d" });
                true
            }
            Fault::Readers => {
                stalled = follow(shared);
                true
            }
            Fault::ConnectionsCut => cut(shared, number),
            Fault::Hangups => storm(shared),
            Fault::Upgrade => {
                setting.install(Version::V1_18_33);
                true
            }
        };
        shared.tally().strikes += usize::from(struck);
    }
    // The readers that stall hold on until everything is over.
    while !stalled.is_empty() && !shared.is_over() {
        wait(shared, PAUSE);
    }
}

/// Waits, but not beyond the end of the load.
fn wait(shared: &Shared<'_>, time: Duration) {
    let end = Instant::now() + time;
    while Instant::now() < end && !shared.is_over() {
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn kill_daemon(shared: &Shared<'_>, setting: &Setting) -> bool {
    shared.world.kill_daemon();
    setting.start_daemon(shared.world);
    true
}

/// Whether a process is one of the daemon's guards: nothing else is directly below the daemon.
fn is_guard(shared: &Shared<'_>, process: &ProcessInfo) -> bool {
    shared.world.daemon() == Some(process.parent) && !process.is_opencode()
}

fn kill_one(shared: &Shared<'_>, number: usize, which: impl Fn(&ProcessInfo) -> bool) -> bool {
    let mut found: Vec<u32> = shared
        .world
        .processes()
        .iter()
        .filter(|one| which(one))
        .map(|one| one.pid)
        .collect();
    found.sort_unstable();
    let victim = found.get(number % found.len().max(1));
    victim.is_some_and(|pid| shared.world.signal(*pid, Signal::Kill))
}

/// Fills the disk, and frees it after a while.
fn fill(shared: &Shared<'_>, disk: &Disk) -> bool {
    disk.fill();
    wait(shared, LASTING);
    disk.free();
    true
}

/// Holds the write lock of a database for a while.
fn hold(shared: &Shared<'_>, database: &Path) -> bool {
    let Ok(connection) = Connection::open(database) else {
        return false;
    };
    let _ = connection.busy_timeout(Duration::from_secs(10));
    if connection.execute_batch("BEGIN IMMEDIATE").is_err() {
        return false;
    }
    wait(shared, LASTING);
    connection.execute_batch("ROLLBACK").is_ok()
}

/// Has readers follow the events of tasks. Those with an even number read to the end; the others are returned, and read
/// nothing.
fn follow(shared: &Shared<'_>) -> Vec<UnixStream> {
    let tasks = shared
        .world
        .connect_daemon()
        .and_then(|mut connection| connection.json("/v1/tasks?limit=1000"));
    let tasks = match tasks {
        Ok(tasks) => tasks["tasks"].as_array().cloned().unwrap_or_default(),
        Err(error) => {
            shared.problem(format!("the tasks cannot be listed: {error}"));
            return Vec::new();
        }
    };
    let mut readers = Vec::new();
    let mut stalled = Vec::new();
    for (number, task) in tasks.iter().cycle().take(READERS).enumerate() {
        let id = task["task"].as_str().unwrap_or_default();
        let path = format!("/v1/tasks/{id}/events");
        let opened = shared.world.connect_daemon().and_then(|mut connection| {
            connection.send(
                "GET",
                &path,
                "accept: text/event-stream\r\nconnection: close\r\n",
                "",
            )?;
            Ok(connection.into_stream())
        });
        match opened {
            Ok(stream) if number % 2 == 0 => readers.push(std::thread::spawn(move || {
                let mut text = String::new();
                let mut stream = stream;
                stream.read_to_string(&mut text).map(|_| text)
            })),
            Ok(stream) => stalled.push(stream.into_inner()),
            Err(error) => shared.problem(format!("reader {number} is refused: {error}")),
        }
    }
    for reader in readers {
        match reader.join() {
            Ok(Ok(text)) if text.contains("done") => {}
            read => shared.problem(format!("a reader did not get the answer of its task: {read:?}")),
        }
    }
    stalled
}

/// Closes connections in the middle of a submission, and before its answer. Each is of a task that a client submits as
/// well, so what arrives of it must not make a second one.
fn cut(shared: &Shared<'_>, number: usize) -> bool {
    const AT_ONCE: usize = 20;
    for one in 0..AT_ONCE {
        let task = (number * AT_ONCE + one) % shared.plan.tasks;
        let (headers, body) = submission(shared, task);
        let text = request("POST", "/v1/tasks", &headers, &body);
        let length = if one % 2 == 0 {
            text.len()
        } else {
            text.len() * (one + 1) / (AT_ONCE + 1)
        };
        if let Ok(mut stream) = UnixStream::connect(shared.world.daemon_socket()) {
            let _ = stream.write_all(&text.as_bytes()[..length]);
        }
    }
    true
}

fn storm(shared: &Shared<'_>) -> bool {
    let Some(daemon) = shared.world.daemon() else {
        return false;
    };
    let settings = shared.world.kugetsu_home().join("config.toml");
    for number in 0..STORM {
        if number % 10 == 0 {
            let text = if number % 20 == 0 {
                "timeout = \"1h\"\n"
            } else {
                "timeout = [[[\n"
            };
            write_whole(&settings, text);
        }
        shared.world.signal(daemon, Signal::Hangup);
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}
