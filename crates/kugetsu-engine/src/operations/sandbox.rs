//! The sandbox of a session: what its opencode and their tools see and reach.
//!
//! The opencode of a sandboxed session has a database, a home and a configuration of git of its own, below `sandboxes/` in
//! kugetsu's home. Its database begins with a copy of the base's session alone. It sees the session's worktree, the parts
//! of the clone's `.git` that a commit needs, the system's programs, and what the settings list.

mod confine;

use std::path::{Path, PathBuf};
use std::time::Duration;

use uuid::Uuid;

use super::doctor::check;
use super::{Engine, EngineError, read_database};
use crate::fsx;
use crate::home::SANDBOXES as FOLDER;
use crate::opencode::{DatabaseFile, Opencode};
use crate::process::Containment;
use crate::process::cgroup::limitable;
use crate::process::sandbox::{Available, Backend, HOW_TO_INSTALL, available};
use crate::store::StoreError;
use kugetsu_api::{BaseRecord, Check, Health, SandboxKind, SandboxMode, SessionRecord, SessionSandbox};

/// How long a sandbox may be there before the record of its session is.
const NOT_YET_RECORDED: Duration = Duration::from_hours(1);

/// The folders of one sandbox.
struct Place {
    /// The home of opencode and its tools.
    home: PathBuf,
    /// opencode's database, keys, cache and state, hidden from the tools.
    opencode: PathBuf,
    /// Files that nothing in the sandbox changes: the shell of the tools and the configurations of git.
    fixed: PathBuf,
}

impl Place {
    fn below(folder: &Path) -> Self {
        Self {
            home: folder.join("home"),
            opencode: folder.join("opencode"),
            fixed: folder.join("fixed"),
        }
    }

    fn data(&self) -> PathBuf {
        self.opencode.join("data")
    }

    /// The logs of references that a turn writes.
    fn logs(&self) -> PathBuf {
        self.opencode.join("logs")
    }

    /// The keys of the model's provider. Only there while a turn runs.
    fn keys(&self) -> PathBuf {
        self.data().join("opencode").join("auth.json")
    }

    fn cache(&self) -> PathBuf {
        self.opencode.join("cache")
    }

    fn database(&self) -> PathBuf {
        self.data().join("opencode").join("opencode.db")
    }
}

impl Engine {
    /// What this machine has for sandboxes, found out until there is something. Blocks.
    pub fn sandboxes_available(&self) -> Available {
        if let Some(found) = self.sandboxes.get() {
            return found.clone();
        }
        let containment = Containment {
            cgroup: false,
            ..self.containment(Uuid::now_v7())
        };
        let found = available(&containment, &self.cancel);
        if found.bubblewrap.is_ok() {
            // Another thread may have found it first.
            let _ = self.sandboxes.set(found.clone());
        }
        found
    }

    /// kugetsu's home without links: below it, none is accepted.
    pub(super) fn real_home(&self) -> PathBuf {
        let home = self.store.home();
        home.canonicalize().unwrap_or_else(|_| home.to_owned())
    }

    fn sandbox_folder(&self, sandbox: &SessionSandbox) -> PathBuf {
        self.real_home().join(FOLDER).join(sandbox.home.to_string())
    }

    /// The opencode of a session, with the session's own database if it is sandboxed.
    pub(super) fn opencode_of(&self, record: &SessionRecord) -> Result<Opencode, EngineError> {
        Ok(self.of_session(&self.opencode()?, record))
    }

    /// Like [`Engine::opencode_of`], where the opencode is known.
    pub(super) fn of_session(&self, opencode: &Opencode, record: &SessionRecord) -> Opencode {
        match &record.sandbox {
            Some(sandbox) => opencode.with_database(Place::below(&self.sandbox_folder(sandbox)).database()),
            None => opencode.clone(),
        }
    }

    /// The sandbox of a new session. Adds a note if the base asks for one and the machine has none. Blocks.
    pub(super) fn new_sandbox(
        &self,
        mode: SandboxMode,
        notes: &mut Vec<String>,
    ) -> Result<Option<SessionSandbox>, EngineError> {
        let strict = match mode {
            SandboxMode::Off => return Ok(None),
            SandboxMode::Auto => false,
            SandboxMode::Required => true,
        };
        let sandbox = SessionSandbox {
            home: Uuid::new_v4(),
            strict,
        };
        let found = self.sandboxes_available();
        match found.backend(strict) {
            Ok(backend) => {
                if !found.gaps(&backend).is_empty() {
                    notes.push(format!(
                        "the session is sandboxed by {} alone, which leaves gaps: see kugetsu doctor",
                        backend.name()
                    ));
                }
                Ok(Some(sandbox))
            }
            Err(why) if !strict => {
                notes.push(format!("the session is not sandboxed: {why}"));
                Ok(None)
            }
            Err(why) => Err(EngineError::NoSandbox { why }),
        }
    }

    /// Refuses a turn of a session that began without the sandbox that its preset requires.
    pub(super) fn refuse_without_sandbox(record: &SessionRecord) -> Result<(), EngineError> {
        let strict = record.sandbox.as_ref().is_some_and(|sandbox| sandbox.strict);
        let preset = record.policy.preset;
        if strict || !preset.requires_sandbox() {
            return Ok(());
        }
        let address = &record.address;
        Err(EngineError::Usage {
            problem: format!(
                "the preset {preset} requires a sandbox, and the session of {address} began without one"
            ),
            hint: format!("begin again: kugetsu destroy {address}, then kugetsu start {address} --sandbox"),
        })
    }

    /// What the rules of a session cannot limit by themselves, because `bash` and links do not ask opencode: its network and
    /// the files that a link leads to. In one line for people. Blocks.
    pub(super) fn reach(&self, sandbox: Option<&SessionSandbox>, runs_commands: bool) -> String {
        let Some(sandbox) = sandbox else {
            let links = "a symbolic link in the folder leads past rules that name paths";
            return if runs_commands {
                format!("without a sandbox, a command reaches any host and all of your files, and {links}")
            } else {
                format!("without a sandbox, {links}")
            };
        };
        let found = self.sandboxes_available();
        let backend = found.backend(sandbox.strict);
        match backend.map(|backend| (found.gaps(&backend), backend)) {
            Ok((gaps, _)) if gaps.is_empty() => {
                let hosts = self
                    .settings
                    .sandbox_hosts
                    .iter()
                    .map(|listed| match listed.port {
                        443 => listed.host.clone(),
                        port => format!("{}:{port}", listed.host),
                    });
                let hosts: Vec<_> = ["the model's provider".to_owned()]
                    .into_iter()
                    .chain(hosts)
                    .collect();
                format!(
                    "in the sandbox, tools and commands reach no host but {}, and a symbolic link leads only to what the \
                     sandbox shows",
                    hosts.join(", ")
                )
            }
            Ok((gaps, backend)) => format!(
                "the sandbox is {} alone, which leaves gaps: {}",
                backend.name(),
                gaps.join("; ")
            ),
            Err(why) => format!("no turn can run: {}", EngineError::NoSandbox { why }),
        }
    }

    /// The sandbox that a new session of a base would have. Blocks.
    pub(super) fn sandbox_of_next(&self, base: &BaseRecord) -> Option<SessionSandbox> {
        let mode = sandbox_of(base);
        let sandbox = SessionSandbox {
            home: Uuid::nil(),
            strict: mode == SandboxMode::Required,
        };
        let runs = match mode {
            SandboxMode::Off => false,
            SandboxMode::Auto => self.backend(&sandbox).is_ok(),
            SandboxMode::Required => true,
        };
        runs.then_some(sandbox)
    }

    /// Says what the machine has for sandboxes, and whether a base needs more.
    pub(super) fn check_sandbox(&self, checks: &mut Vec<Check>) {
        let found = self.sandboxes_available();
        let bases = self.store.bases().map(|bases| bases.found).unwrap_or_default();
        let needed = bases.iter().map(sandbox_of).chain([self.settings.sandbox]);
        let needed = needed.max_by_key(|mode| *mode as u8).unwrap_or_default();
        let backend = found.backend(false);
        let mut text = match (&found.bubblewrap, &backend) {
            (Ok(bubblewrap), _) => format!("bubblewrap {}", bubblewrap.program.display()),
            (Err(why), Ok(_)) => format!("{why} ({HOW_TO_INSTALL}); Landlock alone"),
            (Err(_), Err(why)) => why.clone(),
        };
        if let Ok(backend) = &backend {
            let gaps = found.gaps(backend);
            if !gaps.is_empty() {
                text.push_str(&format!(" leaves gaps: {}", gaps.join("; ")));
            }
        }
        if let Ok(bubblewrap) = &found.bubblewrap
            && !bubblewrap.disables_userns
        {
            text.push_str("; it lets a turn make further user namespaces, which bubblewrap 0.8 can forbid");
        }
        let strict = needed == SandboxMode::Required;
        let health = match found.backend(strict) {
            Err(_) if needed != SandboxMode::Off => Health::Bad,
            _ => Health::Good,
        };
        if needed != SandboxMode::Off
            && let Some(missing) = limitable().missing()
        {
            text.push_str(&format!("; no cgroup can limit {missing}"));
        }
        checks.push(check("sandbox", health, text));
    }

    /// The mechanism for a session. A session that began in a sandbox never runs without one.
    fn backend(&self, sandbox: &SessionSandbox) -> Result<Backend, EngineError> {
        self.sandboxes_available()
            .backend(sandbox.strict)
            .map_err(|why| EngineError::NoSandbox { why })
    }

    /// Makes the database of a sandboxed session that has no fork yet, with the base's session. `opencode` is the user's
    /// own. Blocks.
    pub(super) fn make_sandbox(
        &self,
        record: &SessionRecord,
        opencode: &Opencode,
    ) -> Result<(), EngineError> {
        let Some(sandbox) = &record.sandbox else {
            return Ok(());
        };
        self.make_sandbox_folders(record)?;
        let place = Place::below(&self.sandbox_folder(sandbox));
        let database = place.database();
        let has_base = || {
            let copied = read_database(&opencode.with_database(database.clone()))?;
            Ok::<_, EngineError>(copied.session(&record.base_session)?.is_some())
        };
        if database.exists() {
            match has_base() {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                // It holds no fork yet, so nothing is lost.
                Err(EngineError::Database(error)) if error.is_lost() => {}
                Err(error) => return Err(error),
            }
        }
        // A database without the base's session belongs to an attempt with another base, or to one that was cut off.
        let partial = database.with_extension("partial");
        for path in [&database, &partial] {
            let file = DatabaseFile {
                path: path.clone(),
                confined: true,
            };
            file.remove().map_err(StoreError::from)?;
        }
        read_database(opencode)?.copy_session(&record.base_session, &partial)?;
        Ok(fsx::rename_durable(&partial, &database).map_err(StoreError::from)?)
    }

    /// Whether the database of a sandboxed session still has the session. A database that is missing has none; one that
    /// cannot be read proves nothing.
    pub(super) fn has_own_session(&self, opencode: &Opencode, record: &SessionRecord) -> bool {
        let own = self.of_session(opencode, record);
        let Some(session) = &record.session else {
            return true;
        };
        match own.database.try_exists() {
            Ok(true) => read_database(&own)
                .and_then(|database| Ok(database.session(session)?.is_some()))
                .unwrap_or(true),
            Ok(false) => false,
            Err(_) => true,
        }
    }

    /// Makes the folders of a session's sandbox. Blocks.
    pub(super) fn make_sandbox_folders(&self, record: &SessionRecord) -> Result<(), EngineError> {
        let Some(sandbox) = &record.sandbox else {
            return Ok(());
        };
        let place = Place::below(&self.sandbox_folder(sandbox));
        for folder in [
            &place.home,
            &place.fixed,
            &place.data().join("opencode"),
            &place.cache().join("opencode"),
            &place.opencode.join("state"),
        ] {
            fsx::create_dir_all_durable(&self.real_home(), folder).map_err(StoreError::from)?;
        }
        Ok(())
    }

    /// Removes the keys that the opencode of a turn needed. Blocks.
    pub(super) fn remove_keys(&self, sandbox: &SessionSandbox) {
        let keys = Place::below(&self.sandbox_folder(sandbox)).keys();
        // The turn may have replaced a folder by a link, which must lead to no other file of this name.
        let removed =
            fsx::refuse_symlinks(&self.real_home(), &keys).and_then(|()| fsx::remove_file_durable(&keys));
        if let Err(error) = removed
            && !error.is_not_found()
        {
            tracing::warn!("the provider's key stays in {}: {error}", keys.display());
        }
    }

    /// Removes the sandbox of a session that could not begin, unless its record is on disk. Blocks.
    pub(super) fn remove_unrecorded_sandbox(&self, record: &SessionRecord) {
        let recorded = self.store.session_record(&record.address);
        if recorded.is_ok_and(|recorded| recorded.is_none_or(|recorded| recorded.sandbox != record.sandbox)) {
            // What stays is found by `doctor`.
            let _ = self.remove_sandbox(record);
        }
    }

    /// Finds the sandboxes that no session has any more, as a process leaves them that was killed. New
    /// ones may belong to a session that is about to begin. With `fix`, removes them. Blocks.
    pub(super) fn check_left_sandboxes(&self, fix: bool, checks: &mut Vec<Check>) -> Result<(), EngineError> {
        let entries = std::fs::read_dir(self.store.home().join(FOLDER));
        let old = |folder: &Path| {
            let modified = folder.symlink_metadata().and_then(|found| found.modified()).ok();
            modified.is_some_and(|modified| modified.elapsed().is_ok_and(|age| age > NOT_YET_RECORDED))
        };
        let mut left: Vec<PathBuf> = entries
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|folder| old(folder))
            .collect();
        if left.is_empty() {
            return Ok(());
        }
        let records = self.store.session_records()?;
        // A record that cannot be read may name any of them.
        if !records.broken.is_empty() {
            return Ok(());
        }
        let named = |folder: &PathBuf| {
            let mut sandboxes = records.found.iter().filter_map(|record| record.sandbox.as_ref());
            sandboxes.any(|sandbox| folder.ends_with(sandbox.home.to_string()))
        };
        left.retain(|folder| !named(folder));
        for folder in left {
            let text = format!("no session has the sandbox {}", folder.display());
            checks.push(if fix {
                match fsx::remove_dir_all_durable(&folder) {
                    Ok(()) => check("sandbox", Health::Fixed, format!("{text}; it is removed")),
                    Err(error) => check("sandbox", Health::Bad, format!("{text}: {error}")),
                }
            } else {
                check("sandbox", Health::Fixable, text)
            });
        }
        Ok(())
    }

    /// Removes the folder of a sandbox whose session is gone.
    pub(super) fn remove_sandbox(&self, record: &SessionRecord) -> Result<(), EngineError> {
        let Some(sandbox) = &record.sandbox else {
            return Ok(());
        };
        match fsx::remove_dir_all_durable(&self.sandbox_folder(sandbox)) {
            Err(error) if !error.is_not_found() => Err(StoreError::from(error).into()),
            _ => Ok(()),
        }
    }
}

/// Whether the sessions of a base are sandboxed. Its preset may require it.
pub(super) fn sandbox_of(base: &BaseRecord) -> SandboxMode {
    let required = base.policy.preset.requires_sandbox();
    if required {
        SandboxMode::Required
    } else {
        base.sandbox
    }
}

/// The mechanism that confines this opencode.
pub(super) fn kind_of(opencode: &Opencode) -> Option<SandboxKind> {
    let confinement = opencode.confinement.as_ref()?;
    Some(match confinement.sandbox.backend {
        Backend::Bubblewrap(_) => SandboxKind::Bubblewrap,
        Backend::Landlock => SandboxKind::Landlock,
    })
}

/// Removes the symbolic links in a folder of git's own files, where git makes none: git would follow them. Looks this many
/// folders deep.
fn remove_links(folder: &Path, depth: usize) {
    for link in links_in(folder, depth) {
        let _ = fsx::remove_file_durable(&link);
    }
}

fn links_in(folder: &Path, depth: usize) -> Vec<PathBuf> {
    let mut links = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_symlink() => links.push(entry.path()),
            Ok(kind) if kind.is_dir() && depth > 0 => links.append(&mut links_in(&entry.path(), depth - 1)),
            _ => {}
        }
    }
    links
}

/// The keys of a sandboxed opencode. They are removed when this is dropped, which blocks.
pub(super) struct Keys {
    engine: Engine,
    sandbox: SessionSandbox,
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.engine.remove_keys(&self.sandbox);
    }
}

fn write(file: &Path, bytes: &[u8]) -> Result<(), EngineError> {
    Ok(fsx::write_atomic_volatile(file, bytes).map_err(StoreError::from)?)
}
