//! The worktree of a session. `start` makes it, `continue` finds or remakes it, `destroy` and `prune` save and remove
//! it.
//!
//! The record names the worktree from before git makes it until after git has removed it, so that after a crash at any
//! point the next command can finish.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::hooks::HookPoint;
use super::interrupts::Interrupts;
use super::{Engine, EngineError};
use crate::changes::Reading;
use crate::fsx;
use crate::git::top_of;
use crate::operations::points;
use crate::settings::WorktreeSetting;
use crate::store::{Lease, RecordKey};
use crate::worktree::{self, Extras, Made, PlanRequest, Risk, Saved, WorktreeError};
use kugetsu_api::{Address, SessionRecord, Worktree};

/// The file that keeps a worktree's work. It is in the session's folder, which goes to the trash.
pub(super) const BUNDLE: &str = "worktree.bundle";
/// The time limit of the question about uncommitted changes, whose answer is only a note.
const LEFT_BEHIND_LIMIT: Duration = Duration::from_secs(10);
/// The folder of all worktrees in a clone.
pub(super) const ROOT: &str = ".worktrees";

/// Whether a new session gets a worktree, with its branch and start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorktreeRequest {
    /// The explicit choice; without one, the setting decides.
    pub requested: Option<bool>,
    /// The branch to create, instead of `kugetsu/14`, `kugetsu/14-review` or `kugetsu/@nightly`.
    pub branch: Option<String>,
    /// The start of the branch, instead of the commit that the base's clone has checked out.
    pub from: Option<String>,
    /// The folder that the person who starts the session is in.
    pub here: Option<PathBuf>,
}

impl WorktreeRequest {
    /// Whether the request says where the worktree begins, so that there must be one.
    fn names_a_start(&self) -> bool {
        self.branch.is_some() || self.from.is_some()
    }
}

/// A removed worktree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemovedWorktree {
    /// Its former path.
    pub path: PathBuf,
    /// Its branch.
    pub branch: String,
    /// The work that the trash keeps.
    pub saved: Saved,
    /// Whether the branch was deleted.
    pub branch_deleted: bool,
}

/// A record whose worktree exists, or a record without a worktree.
struct MadeWorktree {
    record: SessionRecord,
    /// Notes for people.
    notes: Vec<String>,
    /// `Some` if the record still has to be marked as finished: true if the hook for a new worktree must run first.
    unfinished: Option<bool>,
}

/// Whether the worktree of an existing session must be found or remade.
fn needs_worktree(record: &mut SessionRecord) -> bool {
    let Some(known) = &mut record.worktree else {
        return false;
    };
    let exists = worktree::is_there(&known.path);
    let needed = !exists || known.pending;
    known.pending |= !exists;
    needed
}

impl Engine {
    /// Refuses a request that names a branch but asks for no worktree.
    pub(super) fn check_worktree_request(&self, request: &WorktreeRequest) -> Result<(), EngineError> {
        let refused = match request.requested {
            Some(requested) => !requested,
            None => self.settings.worktree == WorktreeSetting::Never,
        };
        if !refused || !request.names_a_start() {
            return Ok(());
        }
        Err(EngineError::Usage {
            problem: "--branch and --from need a worktree, and none was requested".to_owned(),
            hint: "add --worktree".to_owned(),
        })
    }

    /// Provides the worktree for a turn, if the turn needs one: makes it for a session that is about to be forked,
    /// finds or remakes it for an existing session.
    pub(super) async fn with_worktree(
        &self,
        lease: &Arc<Lease>,
        record: SessionRecord,
        request: &WorktreeRequest,
        interrupts: &mut Interrupts,
        notes: &mut Vec<String>,
    ) -> Result<SessionRecord, EngineError> {
        let made = {
            let (lease, request) = (Arc::clone(lease), request.clone());
            self.interruptible(interrupts, move |engine| {
                engine.make_worktree(&lease, record, &request)
            })
            .await?
        };
        notes.extend(made.notes);
        let Some(new) = made.unfinished else {
            return Ok(made.record);
        };
        let mut record = made.record;
        if new {
            self.interruptible_hook(HookPoint::AfterCreate, &record, None, lease, interrupts)
                .await?;
        }
        if let Some(worktree) = &mut record.worktree {
            worktree.pending = false;
        }
        let lease = Arc::clone(lease);
        self.interruptible(interrupts, move |engine| {
            engine.save_record(&lease, &mut record)?;
            points::WORKTREE_READY.pass();
            Ok(record)
        })
        .await
    }

    /// Makes the worktree, up to its hook. Blocks.
    fn make_worktree(
        &self,
        lease: &Lease,
        mut record: SessionRecord,
        request: &WorktreeRequest,
    ) -> Result<MadeWorktree, EngineError> {
        let mut notes = Vec::new();
        let needed = if record.session.is_some() {
            needs_worktree(&mut record)
        } else {
            self.plan_new(&mut record, request, &mut notes)?
        };
        if !needed {
            return Ok(MadeWorktree {
                record,
                notes,
                unfinished: None,
            });
        }
        self.make_planned(lease, record, notes)
    }

    /// Whether a session that is about to be forked gets a worktree. If so, adds the worktree to the record.
    fn plan_new(
        &self,
        record: &mut SessionRecord,
        request: &WorktreeRequest,
        notes: &mut Vec<String>,
    ) -> Result<bool, EngineError> {
        let wanted = record.worktree.is_none() && self.wants_worktree(record, request, notes)?;
        match &mut record.worktree {
            Some(known) => {
                // The worktree belongs to a `start` that did not reach its turn.
                let exists = worktree::is_there(&known.path);
                if request.requested == Some(false) && !exists {
                    record.worktree = None;
                    return Ok(false);
                }
                let other = request
                    .branch
                    .as_ref()
                    .is_some_and(|branch| *branch != known.branch);
                if request.requested == Some(false) || other {
                    return Err(EngineError::Usage {
                        problem: format!(
                            "{} has the worktree {} on {} from an earlier start",
                            record.address,
                            known.path.display(),
                            known.branch
                        ),
                        hint: format!("remove it first: kugetsu destroy {}", record.address),
                    });
                }
                known.pending |= !exists;
            }
            None if !wanted => return Ok(false),
            None => {
                let planned = self.plan(record, request)?;
                if worktree::is_there(&planned.path) {
                    notes.push(format!(
                        "the existing worktree {} on the branch {} is used",
                        planned.path.display(),
                        planned.branch
                    ));
                } else if let Some(note) = self.left_behind(&planned) {
                    notes.push(note);
                }
                record.worktree = Some(planned);
            }
        }
        Ok(true)
    }

    /// Whether a session without a worktree gets one. If the person who starts it is in a worktree of the clone, the
    /// session works there instead.
    fn wants_worktree(
        &self,
        record: &mut SessionRecord,
        request: &WorktreeRequest,
        notes: &mut Vec<String>,
    ) -> Result<bool, EngineError> {
        if let Some(requested) = request.requested {
            return Ok(requested);
        }
        if !request.names_a_start()
            && let Some(folder) = self.worktree_of_person(record, request)?
        {
            notes.push(format!(
                "the session works in this worktree, {}; --worktree gives it one of its own",
                folder.display()
            ));
            record.directory = folder;
            return Ok(false);
        }
        match self.settings.worktree {
            WorktreeSetting::Always => Ok(true),
            WorktreeSetting::Never => Ok(false),
            WorktreeSetting::Auto if request.names_a_start() => Ok(true),
            WorktreeSetting::Auto => self.is_clone_with_commit(&record.directory),
        }
    }

    fn is_clone_with_commit(&self, directory: &Path) -> Result<bool, EngineError> {
        if top_of(directory).is_none() {
            return Ok(false);
        }
        match self.git().at(directory).commit("HEAD") {
            Ok(commit) => Ok(commit.is_some()),
            // Whoever has no git, has no use for a worktree.
            Err(error) if error.missing => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The folder in the worktree that the person who starts a session is in, if that is a worktree of the base's clone
    /// that the person made.
    fn worktree_of_person(
        &self,
        record: &SessionRecord,
        request: &WorktreeRequest,
    ) -> Result<Option<PathBuf>, EngineError> {
        let (Some(here), Some(clone)) = (
            request.here.as_deref().and_then(top_of),
            top_of(&record.directory),
        ) else {
            return Ok(None);
        };
        // In a worktree, `.git` is a file that names the clone's folder.
        if here == clone || !here.join(".git").is_file() {
            return Ok(None);
        }
        let common = |folder: &Path| {
            let args = ["rev-parse", "--path-format=absolute", "--git-common-dir"];
            let output = self.git().at(folder).ask(args)?;
            Ok::<_, EngineError>(output.ok.then(|| output.text()))
        };
        let of_clone = common(clone)?;
        if of_clone.is_none() || of_clone != common(here)? {
            return Ok(None);
        }
        if self.is_of_a_session(&record.address, clone, here)? {
            return Ok(None);
        }
        let below = record.directory.strip_prefix(clone);
        let folder = below.map_or_else(|_| here.to_owned(), |below| here.join(below));
        // The top folder joined with an empty path ends with a slash.
        let exists = folder.is_dir() && folder != here;
        Ok(Some(if exists { folder } else { here.to_owned() }))
    }

    /// Whether a worktree of the clone is one that kugetsu made: in the folder for worktrees, or, if that was another one
    /// earlier, by a session's record.
    fn is_of_a_session(&self, address: &Address, clone: &Path, folder: &Path) -> Result<bool, EngineError> {
        let folder = worktree::real(folder);
        let is_in = |other: &Path| folder.starts_with(worktree::real(other));
        let mut root = worktree::real(&clone.join(self.worktree_root()));
        let is_inside = root.starts_with(worktree::real(clone));
        // A folder that is not in the clone may be a broad one, such as ~/src, where people have worktrees as well.
        if !is_inside && let Some(of_repo) = RecordKey::from(address).worktree().parent() {
            root.push(of_repo);
        }
        if is_in(&root) {
            return Ok(true);
        }
        let records = self.store.session_records()?.found;
        let mut known = records.iter().filter_map(|record| record.worktree.as_ref());
        Ok(known.any(|known| is_in(&known.path)))
    }

    fn plan(&self, record: &SessionRecord, request: &WorktreeRequest) -> Result<Worktree, EngineError> {
        let address = &record.address;
        let branch = request.branch.clone().unwrap_or_else(|| branch_of(record));
        let key = RecordKey::from(address).worktree();
        worktree::plan(
            &self.git(),
            &PlanRequest {
                directory: &record.directory,
                root: &self.worktree_root(),
                key: &key,
                branch: &branch,
                from: request.from.as_deref().unwrap_or("HEAD"),
            },
        )
        .map_err(worktree_error(address))
    }

    /// A note about the uncommitted changes of the clone, which a new worktree will not have.
    fn left_behind(&self, planned: &Worktree) -> Option<String> {
        let git = self.git().at(&planned.repo_dir).within(LEFT_BEHIND_LIMIT);
        let reading = Reading::take(&git).ok()?;
        let files = reading.uncommitted();
        let count = files.len();
        if count == 0 {
            return None;
        }
        let named: Vec<_> = files.take(3).map(|path| path.display().to_string()).collect();
        let more = if count > named.len() { ", ..." } else { "" };
        Some(format!(
            "the worktree does not have the uncommitted changes of {}: {}{more}",
            planned.repo_dir.display(),
            named.join(", ")
        ))
    }

    fn worktree_root(&self) -> PathBuf {
        match &self.settings.worktree_root {
            None => ROOT.into(),
            Some(root) => match root.strip_prefix("~") {
                Ok(below) => self.environment.home().join(below),
                Err(_) => root.clone(),
            },
        }
    }

    fn extras(&self) -> Extras {
        let settings = &self.settings;
        Extras::new(settings.worktree_copy.clone(), settings.worktree_link.clone())
    }

    /// Makes the worktree that the record names. Can complete an earlier attempt that stopped at any point.
    fn make_planned(
        &self,
        lease: &Lease,
        mut record: SessionRecord,
        mut notes: Vec<String>,
    ) -> Result<MadeWorktree, EngineError> {
        let Some(planned) = record.worktree.clone() else {
            return Ok(MadeWorktree {
                record,
                notes,
                unfinished: None,
            });
        };
        let address = record.address.clone();
        // Before the record says that the worktree is being made.
        worktree::check_clone(&planned).map_err(worktree_error(&address))?;
        if planned.pending {
            self.save_record(lease, &mut record)?;
            points::WORKTREE_INTENDED.pass();
        }
        worktree::exclude(&self.git(), &planned, &self.worktree_root());
        let saved = self.store.folder(&RecordKey::from(&address)).join(BUNDLE);
        let new = record.session.is_none();
        let made = worktree::make(&self.git(), &planned, &saved, new).map_err(worktree_error(&address))?;
        points::WORKTREE_MADE.pass();
        fsx::remove_file_durable(&saved).map_err(crate::store::StoreError::from)?;
        let gone = !new || !planned.pending;
        match made {
            Made::FromBranch | Made::FromBundle | Made::New if gone => notes.push(format!(
                "the worktree {} was gone; it was remade from {} {}",
                planned.path.display(),
                if made == Made::FromBundle {
                    "the saved copy of"
                } else {
                    "its branch"
                },
                planned.branch
            )),
            _ => {}
        }
        notes.extend(self.unused_filters(&planned, made));
        record.directory = worktree::directory_in(&planned, &record.directory);
        if planned.pending {
            self.extras().bring(&planned).map_err(worktree_error(&address))?;
        }
        Ok(MadeWorktree {
            record,
            notes,
            unfinished: Some(planned.pending),
        })
    }

    /// A note about the filters that git did not run on the files of a new worktree.
    fn unused_filters(&self, planned: &Worktree, made: Made) -> Option<String> {
        if made == Made::Existing {
            return None;
        }
        let names = self.git().at(&planned.path).unused_filters().ok()?;
        let named = names.iter().map(|name| format!("{name:?}"));
        let named = named.collect::<Vec<_>>().join(", ");
        (!names.is_empty()).then(|| {
            format!(
                "only the configuration of the clone has the filter {named}, so git did not run it on the files of the \
                 worktree; to allow it: git config --global filter.NAME.smudge COMMAND, and the same for clean"
            )
        })
    }

    fn save_record(&self, lease: &Lease, record: &mut SessionRecord) -> Result<(), EngineError> {
        record.updated = Timestamp::now();
        Ok(self.store.save_session(lease, record)?)
    }

    /// The work that the removal of a session's worktree would lose now.
    pub fn worktree_risk(&self, record: &SessionRecord) -> Result<Option<Risk>, EngineError> {
        let Some(worktree) = &record.worktree else {
            return Ok(None);
        };
        let risk =
            worktree::risk(&self.git(), worktree, &self.extras()).map_err(worktree_error(&record.address))?;
        Ok(Some(risk).filter(|risk| !risk.is_empty()))
    }

    /// Refuses a worktree with work that exists nowhere else.
    pub fn refuse_risk(&self, record: &SessionRecord) -> Result<(), EngineError> {
        let (Some(worktree), Some(risk)) = (&record.worktree, self.worktree_risk(record)?) else {
            return Ok(());
        };
        let path = worktree.path.clone();
        Err(worktree_error(&record.address)(WorktreeError::AtRisk {
            path,
            risk,
        }))
    }

    /// Saves and removes the worktree. [`Engine::drop_worktree_branch`] removes the branch later, when the record is in
    /// the trash.
    pub(super) fn remove_worktree(
        &self,
        record: &SessionRecord,
        force: bool,
    ) -> Result<Option<RemovedWorktree>, EngineError> {
        let Some(known) = &record.worktree else {
            return Ok(None);
        };
        let address = &record.address;
        if !force {
            self.refuse_risk(record)?;
        }
        if worktree::is_there(&known.path) {
            let hooked = self.hook(HookPoint::BeforeRemove, record, None);
            match hooked {
                Err(EngineError::Hook { .. }) if force => {}
                other => other?,
            }
        }
        if !force {
            // The hook may have changed the worktree.
            self.refuse_risk(record)?;
        }
        let extras = self.extras();
        let file = self.store.make_folder(&RecordKey::from(address))?.join(BUNDLE);
        let saved = if worktree::is_there(&known.path) || !file.is_file() {
            worktree::save(&self.git(), known, &extras, &file).map_err(worktree_error(address))?
        } else {
            // An earlier attempt saved the work and was interrupted after it removed the worktree.
            Saved {
                branch: true,
                changes: true,
            }
        };
        points::WORKTREE_SAVED.pass();
        worktree::remove(&self.git(), known, &extras, force).map_err(worktree_error(address))?;
        points::WORKTREE_REMOVED.pass();
        Ok(Some(RemovedWorktree {
            path: known.path.clone(),
            branch: known.branch.clone(),
            saved,
            branch_deleted: false,
        }))
    }

    /// Deletes the branch of a removed worktree. The trash keeps the branch's commits.
    pub(super) fn drop_worktree_branch(
        &self,
        record: &SessionRecord,
        removed: &mut Option<RemovedWorktree>,
    ) -> Result<(), EngineError> {
        if let (Some(worktree), Some(removed)) = (&record.worktree, removed) {
            removed.branch_deleted =
                worktree::drop_branch(&self.git(), worktree).map_err(worktree_error(&record.address))?;
        }
        Ok(())
    }

    /// Remakes a worktree that was removed by hand, as the next `continue` would, but without its hook.
    pub(super) fn remake_worktree_of(&self, record: &SessionRecord) -> Result<(), EngineError> {
        let Some(known) = &record.worktree else {
            return Ok(());
        };
        let file = self.store.folder(&RecordKey::from(&record.address)).join(BUNDLE);
        worktree::make(&self.git(), known, &file, record.session.is_none())
            .map_err(worktree_error(&record.address))?;
        fsx::remove_file_durable(&file).map_err(crate::store::StoreError::from)?;
        self.extras()
            .bring(known)
            .map_err(worktree_error(&record.address))
    }

    /// Remakes the worktree of a session from the trash, from its branch or from the saved copy.
    pub(super) fn restore_worktree(&self, record: &SessionRecord, saved: &Path) -> Result<(), EngineError> {
        let Some(known) = &record.worktree else {
            return Ok(());
        };
        worktree::exclude(&self.git(), known, &self.worktree_root());
        worktree::make(&self.git(), known, saved, true).map_err(worktree_error(&record.address))?;
        self.extras()
            .bring(known)
            .map_err(worktree_error(&record.address))
    }
}

/// The default branch of a session. No two sessions get the same branch: a number contains no `-`, and neither a number
/// nor an owner begins with `@`. git allows no `~` in a branch, and no `kugetsu/14/review` beside `kugetsu/14`.
fn branch_of(record: &SessionRecord) -> String {
    let leaf = match &record.address {
        Address::Issue(issue) => issue.number().to_string(),
        Address::Role(issue, role) => format!("{}-{role}", issue.number()),
        Address::Named(_, name) => format!("@{name}"),
    };
    if record.base == *record.address.repo() {
        return format!("kugetsu/{leaf}");
    }
    // The clone belongs to another repository, which may have an issue with this number as well.
    let path: Vec<_> = record.address.segments().collect();
    format!("kugetsu/{}/{leaf}", path.join("/"))
}

/// Adds the session's address to an error.
pub(super) fn worktree_error(address: &Address) -> impl Fn(WorktreeError) -> EngineError + '_ {
    |source| EngineError::Worktree {
        address: address.clone(),
        source,
    }
}
