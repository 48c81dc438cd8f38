//! What a program inherits from the process that starts it, besides its environment: the umask, the priority and the
//! resource limits.
//!
//! A warm server is started by the daemon, and serves turns of commands that may have been started elsewhere.

use std::io::Error;
use std::sync::OnceLock;

use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

/// The resource limits that a program inherits.
const RESOURCES: [Resource; 10] = [
    Resource::As,
    Resource::Core,
    CPU,
    Resource::Data,
    Resource::Fsize,
    Resource::Memlock,
    Resource::Nofile,
    Resource::Nproc,
    Resource::Rss,
    Resource::Stack,
];
/// The limit that one process uses up for ever.
const CPU: Resource = Resource::Cpu;

/// The limits of this process before it changed them for itself.
static BEFORE: OnceLock<ProcessLimits> = OnceLock::new();

/// What a program inherits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessLimits {
    /// The mode bits that new files do not get; `None` where the system does not tell it.
    umask: Option<u32>,
    /// The niceness.
    nice: Option<i32>,
    /// The limits of [`RESOURCES`], in their order.
    resources: Vec<Limit>,
}

/// A limit that the process may raise up to the second number. `None`: there is no limit.
type Limit = (Option<u64>, Option<u64>);

impl ProcessLimits {
    /// What programs that this process starts are to inherit.
    pub(crate) fn for_children() -> Self {
        BEFORE.get().cloned().unwrap_or_else(Self::current)
    }

    /// The same, if a program does not inherit it by itself.
    pub(super) fn to_restore() -> Option<Self> {
        BEFORE.get().cloned()
    }

    fn current() -> Self {
        let resources = RESOURCES.map(|resource| {
            let limit = getrlimit(resource);
            (limit.current, limit.maximum)
        });
        Self {
            umask: umask(),
            nice: rustix::process::getpriority_process(None).ok(),
            resources: resources.to_vec(),
        }
    }

    /// Whether a process that serves many turns can have these limits.
    pub(crate) fn fit_many_turns(&self) -> bool {
        let limits = RESOURCES.iter().zip(&self.resources);
        limits
            .filter(|(resource, _)| **resource == CPU)
            .all(|(_, limit)| *limit == (None, None))
    }

    /// These limits, as far as a process with the other ones can have them: it can only lower its own.
    pub(crate) fn within(&self, own: &Self) -> Self {
        let pairs = self.resources.iter().zip(&own.resources);
        let resources = pairs.map(|((current, maximum), (_, own))| {
            let maximum = lower(*maximum, *own);
            (lower(*current, maximum), maximum)
        });
        Self {
            umask: self.umask,
            nice: self.nice.max(own.nice),
            resources: resources.collect(),
        }
    }

    /// Gives this process these limits, as far as it can have them.
    pub(super) fn apply(&self) -> Result<(), Error> {
        let Self {
            umask,
            nice,
            resources,
        } = self.within(&Self::current());
        if let Some(umask) = umask {
            rustix::process::umask(Mode::from_bits_truncate(umask as _));
        }
        if let Some(nice) = nice {
            rustix::process::setpriority_process(None, nice)?;
        }
        for (resource, (current, maximum)) in RESOURCES.into_iter().zip(resources) {
            setrlimit(resource, Rlimit { current, maximum })?;
        }
        Ok(())
    }
}

/// The stricter of two limits.
fn lower(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.into_iter().chain(other).min()
}

/// `proc_pid_status(5)`. The system call that tells the umask changes it for all threads.
fn umask() -> Option<u32> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Umask:"))?;
    u32::from_str_radix(line.trim(), 8).ok()
}

/// Lets this process open this many files, as far as the system permits it, but not the programs that it starts. Returns
/// how many it may open. To be called before the process starts any program.
pub fn raise_open_files(wanted: u64) -> Option<u64> {
    BEFORE.get_or_init(ProcessLimits::current);
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(wanted, |most| most.min(wanted));
    if limit.current.is_some_and(|current| current < wanted) {
        let more = Rlimit {
            current: Some(wanted),
            maximum: limit.maximum,
        };
        let _ = setrlimit(Resource::Nofile, more);
    }
    getrlimit(Resource::Nofile).current
}
