//! `restore-backup`: makes the home what it was when an archive of `backup` was written.
//!
//! A restore reads the whole archive once before it writes anything. It then unpacks beside the home, and exchanges the
//! two folders in one step.

use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use tokio::sync::watch;
use uuid::Uuid;

use super::backup::{Watched, make_locked, place_of, remove_abandoned, written};
use super::interrupts::Interrupts;
use super::{Engine, EngineError};
use crate::backup::{self, BackupError};
use crate::fsx::{self, FsError};
use crate::home;
use crate::opencode::{DatabaseFile, Opencode, Version};
use crate::store::{Store, StoreError};
use crate::turn::Interrupt;
use kugetsu_api::output::RestoredDatabase;
use kugetsu_api::{BackupManifest, ErrorCode, SessionId};

/// What to restore.
#[derive(Debug)]
pub struct RestoreRequest {
    /// The archive.
    pub archive: PathBuf,
    /// Whether a home that is not empty is moved aside.
    pub force: bool,
    /// Whether opencode's database is restored if there is none.
    pub with_opencode: bool,
}

/// What `restore-backup` did.
#[derive(Debug)]
pub struct RestoredBackup {
    /// The home.
    pub home: PathBuf,
    /// What the archive has.
    pub manifest: BackupManifest,
    /// Where the home of before is.
    pub moved_to: Option<PathBuf>,
    /// What became of opencode's database.
    pub opencode: RestoredDatabase,
    /// The path of opencode's database, if the archive has one.
    pub database: Option<PathBuf>,
    /// How many sessions of the backup opencode's database does not have, if that was looked for.
    pub sessions_missing: Option<usize>,
}

impl Engine {
    /// Makes the home what it was when the archive was written. No turn and no daemon may run.
    pub async fn restore_backup(
        &self,
        request: RestoreRequest,
        interrupts: watch::Receiver<Interrupt>,
    ) -> Result<RestoredBackup, EngineError> {
        let mut interrupts: Interrupts = interrupts.into();
        let read = move |engine: &Self| engine.read_backup(&request);
        self.interruptible(&mut interrupts, read).await
    }

    fn read_backup(&self, request: &RestoreRequest) -> Result<RestoredBackup, EngineError> {
        let path = &request.archive;
        let failed = |error| unusable(path, error);
        let home = self.real_home();
        let mut archive = open_archive(path)?;
        let mut archive = Watched {
            inner: &mut archive,
            cancel: &self.cancel,
        };
        let manifest = backup::verify(&mut archive, home::is_in_backup).map_err(failed)?;
        let _lock = refuse_busy(&home)?;
        let is_occupied = is_occupied(&home).map_err(StoreError::from)?;
        if is_occupied && !request.force {
            return Err(EngineError::Usage {
                problem: format!("{} is not empty; nothing was changed", home.display()),
                hint: "restore into an empty home: set KUGETSU_HOME; or move this one aside: --force"
                    .to_owned(),
            });
        }
        refuse_mount_point(&home)?;
        let database = match &manifest.opencode {
            Some(version) if request.with_opencode => {
                let opencode = self.opencode()?;
                refuse_older(&opencode, version)?;
                Some(opencode.database_file())
            }
            _ => None,
        };

        let staging = Staging::make(&home)?;
        backup::unpack(&mut archive, &manifest, |name, content| {
            staging.place(name, content)
        })
        .map_err(failed)?;
        let staged = Self {
            store: Store::open(staging.home()),
            ..self.clone()
        };
        let records = staged.store.session_records()?.found;
        for record in &records {
            staged.make_sandbox_folders(record)?;
        }
        staged.store.rebuild_index()?;
        fsx::sync_all_of(&staging.folder).map_err(StoreError::from)?;
        if self.cancel.is_set() {
            return Err(EngineError::Internal("the interrupt is the error"));
        }

        // The database comes first: if it were the last, a restore that is killed could not be repeated.
        let opencode = match &database {
            Some(database) if staging.give_database(database)? => RestoredDatabase::Restored,
            Some(_) => RestoredDatabase::Kept,
            None => RestoredDatabase::LeftOut,
        };
        let mut sessions: Vec<SessionId> = records
            .into_iter()
            .filter(|record| record.sandbox.is_none())
            .filter_map(|record| record.session)
            .collect();
        sessions.extend(staged.store.bases()?.found.into_iter().map(|base| base.session));
        // Unpacking takes long: a turn may have begun meanwhile.
        refuse_turns(&home)?;
        let moved_to = staging.take_the_place_of(&home, is_occupied)?;
        let sessions_missing = database.as_ref().and_then(|database| {
            let found = database.open_read().ok()?.sessions_exist(&sessions).ok()?;
            Some(
                sessions
                    .iter()
                    .filter(|session| !found.contains(*session))
                    .count(),
            )
        });
        Ok(RestoredBackup {
            home,
            manifest,
            moved_to,
            opencode,
            database: database.map(|database| database.path),
            sessions_missing,
        })
    }
}

/// A folder beside the home, in which a restore unpacks. Removed with this value, or else by the next restore.
struct Staging {
    folder: PathBuf,
    /// Held while this exists.
    _lock: File,
}

impl Staging {
    fn make(home: &Path) -> Result<Self, EngineError> {
        let (parent, name) = place_of(home);
        let prefix = format!(".{}.restoring-", name.to_string_lossy());
        remove_abandoned(parent, &prefix);
        let folder = parent.join(format!("{prefix}{}", Uuid::new_v4().simple()));
        let lock = make_locked(parent, &folder)?;
        let staging = Self { folder, _lock: lock };
        fsx::create_dir_all_volatile(&staging.folder, &staging.home()).map_err(StoreError::from)?;
        Ok(staging)
    }

    fn home(&self) -> PathBuf {
        self.folder.join("home")
    }

    fn place(&self, name: &str, content: &mut dyn Read) -> Result<(), BackupError> {
        let path = self.folder.join(name);
        let made = fsx::create_dir_all_volatile(&self.folder, path.parent().unwrap_or(&self.folder))
            .and_then(|()| fsx::create_new(&path));
        let mut file = made.map_err(|error| match error {
            FsError::Io { source, .. } => BackupError::Io(source),
            other => BackupError::Damaged(other.to_string()),
        })?;
        io::copy(content, &mut file)?;
        Ok(())
    }

    /// Puts opencode's database where opencode looks for it, unless there is one. One that was never used counts as none:
    /// opencode makes it when it is asked for its path.
    fn give_database(&self, database: &DatabaseFile) -> Result<bool, EngineError> {
        if !database.is_missing()? {
            if !database
                .open_read()
                .and_then(|opened| opened.is_unused())
                .unwrap_or(false)
            {
                return Ok(false);
            }
            database.remove().map_err(StoreError::from)?;
        }
        let database = &database.path;
        // Changes that belong to another database would go into this one.
        for ending in ["-wal", "-shm", "-journal"] {
            let mut beside = database.as_os_str().to_owned();
            beside.push(ending);
            if Path::new(&beside).symlink_metadata().is_ok() {
                return Ok(false);
            }
        }
        let (folder, _) = place_of(database);
        // Perhaps on another disk.
        let beside = folder.join(format!("{}kugetsu-{}", fsx::TEMP_PREFIX, Uuid::new_v4().simple()));
        let given = fsx::create_dir_all_durable(folder, folder)
            .and_then(|()| fsx::copy_durable(&self.folder.join(backup::OPENCODE), &beside))
            .and_then(|()| fsx::place_new(&beside, database));
        if given.is_err() {
            let _ = std::fs::remove_file(&beside);
        }
        Ok(given.map(|()| true).map_err(StoreError::from)?)
    }

    /// Makes the unpacked home the home. Returns where the home of before is, if it is worth keeping.
    fn take_the_place_of(self, home: &Path, keep: bool) -> Result<Option<PathBuf>, EngineError> {
        self.exchange(home, keep)
            .map_err(|error| StoreError::from(error).into())
    }

    fn exchange(self, home: &Path, keep: bool) -> Result<Option<PathBuf>, FsError> {
        let new = self.home();
        if home.symlink_metadata().is_err() {
            fsx::place_new(&new, home)?;
            return Ok(None);
        }
        let (parent, name) = place_of(home);
        let time = Timestamp::now().strftime("%Y%m%dT%H%M%S%.3fZ");
        let aside = parent.join(format!("{}.before-restore-{time}", name.to_string_lossy()));
        // The old home never is in the folder that a next restore removes.
        fsx::place_new(&new, &aside)?;
        match fsx::exchange_durable(&aside, home) {
            Ok(true) => {}
            other => {
                fsx::place_new(&aside, &new)?;
                if other? {
                    return Ok(None);
                }
                fsx::place_new(home, &aside)?;
                fsx::place_new(&new, home)?;
            }
        }
        if keep {
            return Ok(Some(aside));
        }
        // It has nothing but what belonged to processes that have ended.
        let _ = fsx::remove_dir_all_durable(&aside);
        Ok(None)
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let _ = fsx::remove_dir_all_durable(&self.folder);
    }
}

fn open_archive(path: &Path) -> Result<File, EngineError> {
    let opened = File::open(path).and_then(|file| {
        if file.metadata()?.is_file() {
            return Ok(file);
        }
        Err(io::Error::other("it is not a file"))
    });
    opened.map_err(|error| {
        let problem = format!("{} cannot be read: {error}", path.display());
        match error.kind() {
            io::ErrorKind::NotFound => EngineError::NotFound {
                code: ErrorCode::NotFound,
                problem,
                hint: String::new(),
            },
            _ => EngineError::Refused {
                code: ErrorCode::BackupUnusable,
                problem,
                hint: String::new(),
            },
        }
    })
}

fn unusable(path: &Path, error: BackupError) -> EngineError {
    let problem = format!("{} cannot be restored: {error}", path.display());
    let hint = match error {
        BackupError::Io(source) => return written(path, source),
        BackupError::Damaged(_) => "nothing was changed; restore another backup",
        BackupError::Newer { .. } => "nothing was changed; restore it with the version that wrote it",
    };
    EngineError::Refused {
        code: ErrorCode::BackupUnusable,
        problem,
        hint: hint.to_owned(),
    }
}

/// Refuses an opencode that is older than the one whose database would be restored: it may not know the tables.
fn refuse_older(opencode: &Opencode, of_backup: &str) -> Result<(), EngineError> {
    if of_backup
        .parse::<Version>()
        .is_ok_and(|version| version > opencode.version)
    {
        return Err(EngineError::Refused {
            code: ErrorCode::OpencodeUnusable,
            problem: format!(
                "the backup has a database of opencode {of_backup}, and {} is older: {}; nothing was changed",
                opencode.program.display(),
                opencode.version
            ),
            hint: format!(
                "install opencode {of_backup} or later, or leave its database alone: --without-opencode"
            ),
        });
    }
    Ok(())
}

/// Refuses a home in which a daemon or a turn runs. No daemon starts while the result exists.
fn refuse_busy(home: &Path) -> Result<Option<File>, EngineError> {
    let run = home.join(home::RUN);
    let daemon = match File::open(run.join(home::DAEMON_LOCK)) {
        Ok(lock) => match lock.try_lock() {
            Err(TryLockError::WouldBlock) => {
                return Err(EngineError::Refused {
                    code: ErrorCode::DaemonRunning,
                    problem: format!("a daemon runs for {}; nothing was changed", home.display()),
                    hint: "end it first: kugetsu daemon stop".to_owned(),
                });
            }
            _ => Some(lock),
        },
        Err(_) => None,
    };
    refuse_turns(home)?;
    Ok(daemon)
}

/// Refuses a home in which a turn runs.
fn refuse_turns(home: &Path) -> Result<(), EngineError> {
    if is_leased(&home.join(home::RUN)) {
        return Err(EngineError::Refused {
            code: ErrorCode::InUse,
            problem: format!("a turn runs in {}; nothing was changed", home.display()),
            hint: "see which: kugetsu query; wait for its end, or end it: kugetsu stop REF".to_owned(),
        });
    }
    Ok(())
}

/// Whether a lease below this folder is held.
fn is_leased(folder: &Path) -> bool {
    fsx::names_in(folder, "")
        .unwrap_or_default()
        .into_iter()
        .any(|name| {
            let path = folder.join(&name);
            match path.symlink_metadata() {
                Ok(metadata) if metadata.is_dir() => is_leased(&path),
                Ok(_) if path.extension().is_some_and(|ending| ending == "lease") => {
                    let file = File::open(&path);
                    file.is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
                }
                _ => false,
            }
        })
}

/// Whether the home has more than locks and what belongs to processes.
fn is_occupied(home: &Path) -> Result<bool, FsError> {
    let names = fsx::names_in(home, home::RUN)?;
    Ok(names
        .iter()
        .any(|name| !fsx::is_temp_name(name) && Path::new(name).extension() != Some(OsStr::new("lock"))))
}

/// Refuses a home that cannot be replaced because another file system begins there.
fn refuse_mount_point(home: &Path) -> Result<(), EngineError> {
    let (parent, _) = place_of(home);
    match (home.metadata(), parent.metadata()) {
        (Ok(own), Ok(above)) if own.dev() != above.dev() => Err(EngineError::Usage {
            problem: format!(
                "{} is where another file system begins, so it cannot be replaced; nothing was changed",
                home.display()
            ),
            hint: "restore into a folder below it: set KUGETSU_HOME".to_owned(),
        }),
        _ => Ok(()),
    }
}
