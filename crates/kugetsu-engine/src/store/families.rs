//! The register of running turns: which turn began which, what each may spend, what those with a limit
//! have spent, and what each waits for.
//!
//! Turns that began one another are a family. A family is one folder below `run/turns/`, named by the turn that no other
//! turn began. Each turn of it has a file there, also after its end, so that what it spent still counts, and a socket
//! on which its tools ask for further turns. The folder is removed with the last turn of the family that runs.
//!
//! Every file is replaced as a whole, so readers take no lock. A turn joins a family under a lock, because how many turns
//! may do so is limited. Nothing in it matters after a reboot.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kugetsu_api::{Address, ProcessIdentity};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::lock::Lock;
use super::{Store, StoreError, layout, lock_file};
use crate::fsx;
use crate::process;

/// The folder of the families, below `run/`.
const FAMILIES: &str = "turns";
const MEMBER: &str = ".json";
const WAIT: &str = ".wait";
const SOCKET: &str = ".sock";
/// The file of a turn below which no further turn may begin.
const CLOSED: &str = ".closed";
/// The lock, below `run/`, of what must be true of a family when a turn joins it.
const LOCK: &str = "turns.lock";
/// The size limit of a file of a family.
const MAX_FILE: u64 = 64 << 10;
/// The age from which the folder of a family without a running turn is one that a killed process has left.
const LEFT_BEHIND: Duration = Duration::from_mins(1);

/// A turn and its session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TurnOf {
    pub(crate) turn: Uuid,
    #[serde(rename = "ref")]
    pub(crate) address: Address,
}

/// A turn of a family.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Member {
    #[serde(flatten)]
    pub(crate) own: TurnOf,
    /// The turns that began it, from the one that no turn began to the one whose tool began it.
    pub(crate) ancestors: Vec<TurnOf>,
    /// What it and all turns below it may cost together, in US dollars.
    #[serde(default)]
    pub(crate) max_cost: Option<f64>,
    /// The same in tokens.
    #[serde(default)]
    pub(crate) max_tokens: Option<u64>,
    /// What it has cost itself.
    pub(crate) cost_usd: f64,
    pub(crate) tokens: u64,
    pub(crate) ended: bool,
}

impl Member {
    /// The name of its family.
    pub(crate) fn root(&self) -> Uuid {
        self.ancestors.first().map_or(self.own.turn, |root| root.turn)
    }

    /// The turns that began it, and itself, outermost first.
    pub(crate) fn lineage(&self) -> impl Iterator<Item = &TurnOf> {
        self.ancestors.iter().chain([&self.own])
    }

    /// Whether it is this turn, or one that this turn began, or one that such a turn began.
    pub(crate) fn is_within(&self, turn: Uuid) -> bool {
        self.lineage().any(|above| above.turn == turn)
    }
}

/// A command in a tool of a turn that waits for a turn of another session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Wait {
    turn: Uuid,
    #[serde(rename = "ref")]
    address: Address,
    process: ProcessIdentity,
}

/// The entry of a command that waits. Dropping it removes the entry.
#[derive(Debug)]
pub(crate) struct WaitEntry(PathBuf);

impl Drop for WaitEntry {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Store {
    /// Whether a turn may be registered. Without one, no command runs inside a turn.
    pub(crate) fn has_families(&self) -> bool {
        self.roots().next().is_some()
    }

    /// Held while a turn joins a family, or while a part of one is closed or removed.
    pub(crate) fn families_lock(&self, what: &str) -> Result<Lock, StoreError> {
        let path = self.home().join(layout::RUN).join(LOCK);
        self.create_run_folder_of(&path)?;
        lock_file(path, what, self.lock_wait)
    }

    /// Lets no further turn begin below the turns of a session. Returns those that run below them.
    pub(crate) fn close_below(&self, address: &Address) -> Result<Vec<Member>, StoreError> {
        let _lock = self.families_lock("stop turns")?;
        let mut below = Vec::new();
        for turn in self.members_of(address) {
            let name = format!("{}{CLOSED}", turn.own.turn);
            self.write_in_family(turn.root(), &name, &turn.own)?;
            let mut family = self.family(turn.root());
            family.retain(|member| {
                member.own.turn != turn.own.turn && member.is_within(turn.own.turn) && self.runs(member)
            });
            below.append(&mut family);
        }
        below.sort_by_cached_key(|member| (member.ancestors.len(), member.own.address.clone()));
        Ok(below)
    }

    /// The outermost turn above this one, or itself, below which no further turn may begin.
    pub(crate) fn closed_above<'a>(&self, member: &'a Member) -> Option<&'a TurnOf> {
        let folder = self.family_folder(member.root());
        let is_closed = |above: &&TurnOf| folder.join(format!("{}{CLOSED}", above.turn)).exists();
        member.lineage().find(is_closed)
    }

    /// Writes the entry of a turn.
    pub(crate) fn write_member(&self, member: &Member) -> Result<(), StoreError> {
        let name = format!("{}{MEMBER}", member.own.turn);
        self.write_in_family(member.root(), &name, member).map(drop)
    }

    /// The entry of a turn.
    pub(crate) fn member(&self, turn: Uuid) -> Option<Member> {
        let name = format!("{turn}{MEMBER}");
        let own = self.family_folder(turn).join(&name);
        // Most turns stand alone.
        read(&own).or_else(|| {
            self.roots()
                .find_map(|root| read(&self.family_folder(root).join(&name)))
        })
    }

    /// The turns of a family.
    pub(crate) fn family(&self, root: Uuid) -> Vec<Member> {
        self.files(root, MEMBER).filter_map(|path| read(&path)).collect()
    }

    /// Every registered turn of a session.
    pub(crate) fn members_of(&self, address: &Address) -> Vec<Member> {
        let of_family = |root| self.family(root);
        let mut members: Vec<Member> = self.roots().flat_map(of_family).collect();
        members.retain(|member| member.own.address == *address);
        members
    }

    /// Whether a turn still runs: its supervisor holds the lease of its session for it.
    pub(crate) fn runs(&self, member: &Member) -> bool {
        let holder = || self.lease_holder(&(&member.own.address).into());
        !member.ended && holder().flatten().and_then(|holder| holder.turn) == Some(member.own.turn)
    }

    /// Writes the last entry of a turn, or removes its family if no other turn of it runs.
    pub(crate) fn end_member(&self, ended: &Member) -> Result<(), StoreError> {
        // Of two turns that end at once, the second one must see the end of the first. If the lock fails, the family
        // stays until [`Store::forget_lost_families`].
        let lock = self.families_lock("end a turn");
        match &lock {
            Ok(lock) if self.forget_family(ended.root(), Some(ended.own.turn), lock) => Ok(()),
            _ => self.write_member(ended),
        }
    }

    /// Removes a family if none of its turns runs. This turn of it counts as ended. Returns whether the family is gone.
    /// A turn that joins must find the family, or find that it is gone, so the lock of the families is held.
    fn forget_family(&self, root: Uuid, ended: Option<Uuid>, _families: &Lock) -> bool {
        let runs = |member: &Member| Some(member.own.turn) != ended && self.runs(member);
        if self.family(root).iter().any(runs) {
            return false;
        }
        match std::fs::remove_dir_all(self.family_folder(root)) {
            Ok(()) => true,
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        }
    }

    /// Removes families that killed processes have left.
    pub(crate) fn forget_lost_families(&self) {
        for root in self.roots() {
            let written = self
                .family_folder(root)
                .metadata()
                .and_then(|folder| folder.modified());
            let age = written.ok().and_then(|written| written.elapsed().ok());
            if age.is_some_and(|age| age >= LEFT_BEHIND) {
                let Ok(lock) = self.families_lock("forget turns") else {
                    return;
                };
                self.forget_family(root, None, &lock);
            }
        }
    }

    /// Notes that this process waits for a session in a tool of `waiting`.
    pub(crate) fn note_wait(&self, waiting: &Member, address: &Address) -> Result<WaitEntry, StoreError> {
        let wait = Wait {
            turn: waiting.own.turn,
            address: address.clone(),
            process: process::current(),
        };
        let name = format!("{}{WAIT}", Uuid::now_v7());
        self.write_in_family(waiting.root(), &name, &wait).map(WaitEntry)
    }

    /// The sessions that the tools of a turn wait for.
    pub(crate) fn awaited_by(&self, member: &Member) -> Vec<Address> {
        let waits = self
            .files(member.root(), WAIT)
            .filter_map(|path| read::<Wait>(&path));
        waits
            .filter(|wait| wait.turn == member.own.turn)
            .filter(|wait| process::is_alive(&wait.process) != process::Liveness::Dead)
            .map(|wait| wait.address)
            .collect()
    }

    /// The folder and the name of the socket on which the tools of a turn ask for further turns.
    pub(crate) fn turn_socket(&self, member: &Member) -> (PathBuf, String) {
        (
            self.family_folder(member.root()),
            format!("{}{SOCKET}", member.own.turn),
        )
    }

    fn families_folder(&self) -> PathBuf {
        self.home().join(layout::RUN).join(FAMILIES)
    }

    fn family_folder(&self, root: Uuid) -> PathBuf {
        self.families_folder().join(root.to_string())
    }

    fn roots(&self) -> impl Iterator<Item = Uuid> {
        names_in(&self.families_folder()).filter_map(|name| name.parse().ok())
    }

    fn files(&self, root: Uuid, ending: &'static str) -> impl Iterator<Item = PathBuf> {
        let folder = self.family_folder(root);
        names_in(&folder)
            .filter(move |name| name.ends_with(ending) && !fsx::is_temp_name(name.as_ref()))
            .map(move |name| folder.join(name))
    }

    fn write_in_family(&self, root: Uuid, name: &str, entry: &impl Serialize) -> Result<PathBuf, StoreError> {
        let path = self.family_folder(root).join(name);
        let bytes = serde_json::to_vec(entry).map_err(|error| StoreError::Io {
            action: "encode",
            path: path.clone(),
            source: error.into(),
        })?;
        self.create_run_folder_of(&path)?;
        fsx::refuse_symlinks(self.home(), &path)?;
        fsx::write_atomic_volatile(&path, &bytes)?;
        Ok(path)
    }
}

fn names_in(folder: &Path) -> impl Iterator<Item = String> + use<> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

/// A file that cannot be read counts as missing: without it, a turn is only not counted.
fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fsx::read_bounded(path, MAX_FILE).ok()?).ok()
}
