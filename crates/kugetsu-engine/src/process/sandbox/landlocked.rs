//! Restricts this process by Landlock, for good, before it becomes another program.

use std::path::PathBuf;

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath, PathFd,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};
use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};

use super::{Access, Mount};

/// The version of Landlock whose rights are asked for. An older kernel restricts what it can.
const VERSION: ABI = ABI::V6;

/// Devices that every program needs.
const DEVICES: [&str; 7] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
    "/dev/ptmx",
];

/// What a process may do. Everything else of a kind that is listed is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rules {
    /// Paths that may be read.
    pub(super) read: Vec<PathBuf>,
    /// Paths that may be written. No named pipe can be made there: whoever reads one later, such as git, would hang.
    pub(super) write: Vec<PathBuf>,
    /// Paths that may be written, also with named pipes, because nobody outside reads there.
    #[serde(default)]
    pub(super) own: Vec<PathBuf>,
    /// The only TCP ports that the process may connect to; `None` for all.
    pub(super) connect: Option<Vec<u16>>,
}

impl Rules {
    /// The rules for these mounts. A mount that shows another file cannot be made.
    pub(super) fn of<'a>(mounts: impl IntoIterator<Item = &'a Mount>) -> Self {
        let mut rules = Self::default();
        for mount in mounts {
            match (&mount.source, mount.access) {
                (Some(_), _) => {}
                (None, Access::Read) => rules.read.push(mount.path.clone()),
                (None, Access::Write) => rules.write.push(mount.path.clone()),
            }
        }
        rules
    }

    /// Applies the rules to this process and all its future children. Returns false if the kernel has no Landlock.
    pub(super) fn apply(&self) -> std::io::Result<bool> {
        let failed = |error: landlock::RulesetError| std::io::Error::other(format!("Landlock: {error}"));
        let mut ruleset = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(VERSION))
            .map_err(failed)?
            .scope(Scope::Signal | Scope::AbstractUnixSocket)
            .map_err(failed)?;
        if self.connect.is_some() {
            ruleset = ruleset.handle_access(AccessNet::ConnectTcp).map_err(failed)?;
        }
        let mut created = ruleset.create().map_err(failed)?;
        let (read, all) = (AccessFs::from_read(VERSION), AccessFs::from_all(VERSION));
        let readable = self.read.iter().map(|path| (path.clone(), read));
        let devices_and_pipes = AccessFs::MakeFifo | AccessFs::MakeChar | AccessFs::MakeBlock;
        let writable = self
            .write
            .iter()
            .map(|path| (path.clone(), all & !devices_and_pipes));
        let own = self.own.iter().map(|path| (path.clone(), all));
        let devices = DEVICES
            .iter()
            .map(|path| (PathBuf::from(path), AccessFs::ReadFile | AccessFs::WriteFile));
        let special = [(PathBuf::from("/proc"), read)];
        for (path, access) in readable.chain(writable).chain(own).chain(devices).chain(special) {
            // What does not exist needs no rule.
            let Ok(opened) = PathFd::new(&path) else { continue };
            let access = if path.is_dir() { access } else { for_a_file(access) };
            created = created
                .add_rule(PathBeneath::new(opened, access))
                .map_err(failed)?;
        }
        for &port in self.connect.iter().flatten() {
            created = created
                .add_rule(NetPort::new(port, AccessNet::ConnectTcp))
                .map_err(failed)?;
        }
        let status = created.restrict_self().map_err(failed)?;
        // With privileges, root could read the memory of any process in spite of the restriction (measured on Linux 6.18).
        // They do not come back, because `restrict_self` has ruled out new privileges.
        let none = rustix::thread::CapabilitySets {
            effective: CapabilitySet::empty(),
            permitted: CapabilitySet::empty(),
            inheritable: CapabilitySet::empty(),
        };
        rustix::thread::set_capabilities(None, none)?;
        Ok(status.ruleset != RulesetStatus::NotEnforced)
    }
}

/// The rights that the kernel accepts for a file: those for folders are refused with an error.
fn for_a_file(access: BitFlags<AccessFs>) -> BitFlags<AccessFs> {
    access & AccessFs::from_file(VERSION)
}
