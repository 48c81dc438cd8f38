//! The worktree of a session: given by `start`, found again by `continue`, kept and removed by `destroy` and `prune`.
//!
//! It is in the record before git makes it and until after git has removed it, so that a crash at any point leaves
//! one that the next command finishes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;

use super::hooks::HookPoint;
use super::interrupts::Interrupts;
use super::{Engine, EngineError};
use crate::fsx;
use crate::operations::points;
use crate::store::{Lease, RecordKey};
use crate::worktree::{self, Extras, Made, PlanRequest, Risk, Saved, WorktreeError};
use kugetsu_api::{Address, SessionRecord, Worktree};

/// Where a worktree's work is kept, in the session's folder, with which it goes to the trash.
pub(super) const BUNDLE: &str = "worktree.bundle";
/// The folder of all worktrees in a clone.
const ROOT: &str = ".worktrees";

/// Whether a new session gets a worktree, and which.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorktreeRequest {
    /// As it was said; else the setting decides.
    pub wanted: Option<bool>,
    /// The branch to make, instead of `kugetsu/14`, `kugetsu/14-review` or `kugetsu/@nightly`.
    pub branch: Option<String>,
    /// Where it begins, instead of what the base's clone has checked out.
    pub from: Option<String>,
}

/// What became of a worktree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemovedWorktree {
    /// Where it was.
    pub path: PathBuf,
    /// Its branch.
    pub branch: String,
    /// What is kept in the trash.
    pub saved: Saved,
    /// Whether the branch is deleted.
    pub branch_deleted: bool,
}

/// A worktree that stands, or none.
struct MadeWorktree {
    record: SessionRecord,
    /// What a person should know.
    notes: Vec<String>,
    /// The record does not say yet that the worktree stands; whether its hook must run before.
    unfinished: Option<bool>,
}

/// Whether a session that goes on has a worktree to be found or made again.
fn wants_again(record: &mut SessionRecord) -> bool {
    let Some(known) = &mut record.worktree else {
        return false;
    };
    let stands = worktree::is_there(&known.path);
    let wanted = !stands || known.pending;
    known.pending |= !stands;
    wanted
}

impl Engine {
    /// Refuses a request that contradicts itself.
    pub(super) fn check_worktree_request(&self, request: &WorktreeRequest) -> Result<(), EngineError> {
        let wanted = request.wanted.unwrap_or(self.settings.worktree);
        if wanted || (request.branch.is_none() && request.from.is_none()) {
            return Ok(());
        }
        Err(EngineError::Usage {
            problem: "--branch and --from are about a worktree, and none is wanted".to_owned(),
            hint: "add --worktree".to_owned(),
        })
    }

    /// The worktree that a turn is to run in, if it is to run in one: given to a session that is about to be
    /// forked, found or made again for one that goes on.
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

    /// Everything up to the hook. Blocks.
    fn make_worktree(
        &self,
        lease: &Lease,
        mut record: SessionRecord,
        request: &WorktreeRequest,
    ) -> Result<MadeWorktree, EngineError> {
        let mut notes = Vec::new();
        let wanted = if record.session.is_some() {
            wants_again(&mut record)
        } else {
            self.wants_new(&mut record, request, &mut notes)?
        };
        if !wanted {
            return Ok(MadeWorktree {
                record,
                notes,
                unfinished: None,
            });
        }
        self.stand_worktree(lease, record, notes)
    }

    /// Whether a session that is about to be forked gets a worktree; its record has it then.
    fn wants_new(
        &self,
        record: &mut SessionRecord,
        request: &WorktreeRequest,
        notes: &mut Vec<String>,
    ) -> Result<bool, EngineError> {
        let wanted = request.wanted.unwrap_or(self.settings.worktree);
        match &mut record.worktree {
            Some(known) => {
                // Of a `start` that did not come to its turn.
                let stands = worktree::is_there(&known.path);
                if request.wanted == Some(false) && !stands {
                    record.worktree = None;
                    return Ok(false);
                }
                let other = request
                    .branch
                    .as_ref()
                    .is_some_and(|branch| *branch != known.branch);
                if request.wanted == Some(false) || other {
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
                known.pending |= !stands;
            }
            None if !wanted => return Ok(false),
            None => {
                let planned = self.planned(record, request)?;
                if worktree::is_there(&planned.path) {
                    notes.push(format!(
                        "the worktree {} was there, on the branch {}, and is taken over",
                        planned.path.display(),
                        planned.branch
                    ));
                }
                record.worktree = Some(planned);
            }
        }
        Ok(true)
    }

    fn planned(&self, record: &SessionRecord, request: &WorktreeRequest) -> Result<Worktree, EngineError> {
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
        .map_err(of(address))
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

    /// From what the record wants to what stands there; may be called at any point of an earlier attempt.
    fn stand_worktree(
        &self,
        lease: &Lease,
        mut record: SessionRecord,
        mut notes: Vec<String>,
    ) -> Result<MadeWorktree, EngineError> {
        let Some(wanted) = record.worktree.clone() else {
            return Ok(MadeWorktree {
                record,
                notes,
                unfinished: None,
            });
        };
        let address = record.address.clone();
        if wanted.pending {
            self.save_record(lease, &mut record)?;
            points::WORKTREE_INTENDED.pass();
        }
        worktree::exclude(&self.git(), &wanted, &self.worktree_root());
        let saved = self.store.folder(&RecordKey::from(&address)).join(BUNDLE);
        let new = record.session.is_none();
        let made = worktree::make(&self.git(), &wanted, &saved, new).map_err(of(&address))?;
        points::WORKTREE_MADE.pass();
        fsx::remove_file_durable(&saved).map_err(crate::store::StoreError::from)?;
        let gone = !new || !wanted.pending;
        match made {
            Made::FromBranch | Made::FromBundle | Made::New if gone => notes.push(format!(
                "the worktree {} was gone; it was made again from {} {}",
                wanted.path.display(),
                if made == Made::FromBundle {
                    "the kept copy of"
                } else {
                    "its branch"
                },
                wanted.branch
            )),
            _ => {}
        }
        record.directory = worktree::directory_in(&wanted, &record.directory);
        if wanted.pending {
            self.extras().bring(&wanted).map_err(of(&address))?;
        }
        Ok(MadeWorktree {
            record,
            notes,
            unfinished: Some(wanted.pending),
        })
    }

    fn save_record(&self, lease: &Lease, record: &mut SessionRecord) -> Result<(), EngineError> {
        record.updated = Timestamp::now();
        Ok(self.store.save_session(lease, record)?)
    }

    /// What would be lost if an issue's worktree were removed now.
    pub fn worktree_risk(&self, record: &SessionRecord) -> Result<Option<Risk>, EngineError> {
        let Some(worktree) = &record.worktree else {
            return Ok(None);
        };
        let risk = worktree::risk(&self.git(), worktree, &self.extras()).map_err(of(&record.address))?;
        Ok(Some(risk).filter(|risk| !risk.is_empty()))
    }

    /// Refuses a worktree with work that is nowhere else.
    pub fn refuse_risk(&self, record: &SessionRecord) -> Result<(), EngineError> {
        let (Some(worktree), Some(risk)) = (&record.worktree, self.worktree_risk(record)?) else {
            return Ok(());
        };
        let path = worktree.path.clone();
        Err(of(&record.address)(WorktreeError::AtRisk { path, risk }))
    }

    /// Keeps and removes the worktree; the branch is left to [`Engine::drop_worktree_branch`], which comes when
    /// the record is in the trash.
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
            // The hook may have worked in there.
            self.refuse_risk(record)?;
        }
        let extras = self.extras();
        let file = self.store.make_folder(&RecordKey::from(address))?.join(BUNDLE);
        let saved = if worktree::is_there(&known.path) || !file.is_file() {
            worktree::save(&self.git(), known, &extras, &file).map_err(of(address))?
        } else {
            // An earlier attempt kept it and was cut off after the worktree was gone.
            Saved {
                branch: true,
                changes: true,
            }
        };
        points::WORKTREE_SAVED.pass();
        worktree::remove(&self.git(), known, &extras, force).map_err(of(address))?;
        points::WORKTREE_REMOVED.pass();
        Ok(Some(RemovedWorktree {
            path: known.path.clone(),
            branch: known.branch.clone(),
            saved,
            branch_deleted: false,
        }))
    }

    /// Deletes the branch of a worktree that was removed; what it holds is in the trash.
    pub(super) fn drop_worktree_branch(
        &self,
        record: &SessionRecord,
        removed: &mut Option<RemovedWorktree>,
    ) -> Result<(), EngineError> {
        if let (Some(worktree), Some(removed)) = (&record.worktree, removed) {
            removed.branch_deleted =
                worktree::drop_branch(&self.git(), worktree).map_err(of(&record.address))?;
        }
        Ok(())
    }

    /// Makes a worktree again that was removed by hand, as the next `continue` would, without its hook.
    pub(super) fn remade_worktree(&self, record: &SessionRecord) -> Result<(), EngineError> {
        let Some(known) = &record.worktree else {
            return Ok(());
        };
        let file = self.store.folder(&RecordKey::from(&record.address)).join(BUNDLE);
        worktree::make(&self.git(), known, &file, record.session.is_none()).map_err(of(&record.address))?;
        fsx::remove_file_durable(&file).map_err(crate::store::StoreError::from)?;
        self.extras().bring(known).map_err(of(&record.address))
    }

    /// Makes the worktree of a session in the trash again, from its branch or from what was kept of it.
    pub(super) fn restore_worktree(&self, record: &SessionRecord, saved: &Path) -> Result<(), EngineError> {
        let Some(known) = &record.worktree else {
            return Ok(());
        };
        worktree::exclude(&self.git(), known, &self.worktree_root());
        worktree::make(&self.git(), known, saved, true).map_err(of(&record.address))?;
        self.extras().bring(known).map_err(of(&record.address))
    }
}

/// The branch that a session gets where none was named. No two sessions get the same one: a number has no `-`, and neither
/// a number nor an owner begins with `@`. git takes no `~` in a branch, and no `kugetsu/14/review` beside `kugetsu/14`.
fn branch_of(record: &SessionRecord) -> String {
    let leaf = match &record.address {
        Address::Issue(issue) => issue.number().to_string(),
        Address::Role(issue, role) => format!("{}-{role}", issue.number()),
        Address::Named(_, name) => format!("@{name}"),
    };
    if record.base == *record.address.repo() {
        return format!("kugetsu/{leaf}");
    }
    // In the clone of another repository, which may have an issue of this number as well.
    let path: Vec<_> = record.address.segments().collect();
    format!("kugetsu/{}/{leaf}", path.join("/"))
}

/// Says whose worktree it is.
pub(super) fn of(address: &Address) -> impl Fn(WorktreeError) -> EngineError + '_ {
    |source| EngineError::Worktree {
        of: address.clone(),
        source,
    }
}
