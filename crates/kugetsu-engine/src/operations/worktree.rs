//! The worktree of an issue: given by `start`, found again by `continue`, kept and removed by `destroy` and `prune`.
//!
//! It is in the record before git makes it and until after git has removed it, so that a crash at any point leaves
//! one that the next command finishes.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use tokio::sync::watch;

use super::hooks::HookPoint;
use super::{Engine, EngineError};
use crate::fsx::{self, crash_point};
use crate::store::{Lease, RecordKey};
use crate::turn::Interrupt;
use crate::worktree::{self, Made, Risk, Saved, Wish, WorktreeError};
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
    /// The branch to make, instead of `kugetsu/<number>`.
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

impl Engine {
    /// Refuses a wish that contradicts itself.
    pub(super) fn check_worktree_request(&self, wish: &WorktreeRequest) -> Result<(), EngineError> {
        let wanted = wish.wanted.unwrap_or(self.config.flag("worktree"));
        if wanted || (wish.branch.is_none() && wish.from.is_none()) {
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
        lease: &Lease,
        record: SessionRecord,
        wish: &WorktreeRequest,
        interrupts: &mut watch::Receiver<Interrupt>,
        notes: &mut Vec<String>,
    ) -> Result<SessionRecord, EngineError> {
        if record.session.is_some() {
            self.keep_worktree(lease, record, interrupts, notes).await
        } else {
            self.give_worktree(lease, record, wish, interrupts, notes).await
        }
    }

    async fn give_worktree(
        &self,
        lease: &Lease,
        mut record: SessionRecord,
        wish: &WorktreeRequest,
        interrupts: &mut watch::Receiver<Interrupt>,
        notes: &mut Vec<String>,
    ) -> Result<SessionRecord, EngineError> {
        let wanted = wish.wanted.unwrap_or(self.config.flag("worktree"));
        match &record.worktree {
            Some(known) => {
                // Of a `start` that did not come to its turn.
                let stands = worktree::is_there(&known.path);
                if wish.wanted == Some(false) && !stands {
                    record.worktree = None;
                    return Ok(record);
                }
                let other = wish.branch.as_ref().is_some_and(|branch| *branch != known.branch);
                if wish.wanted == Some(false) || other {
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
                let pending = known.pending || !stands;
                record.worktree = record.worktree.map(|known| Worktree { pending, ..known });
            }
            None if !wanted => return Ok(record),
            None => {
                let planned = self.planned(&record, wish)?;
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
        self.finish_worktree(lease, record, interrupts, notes).await
    }

    async fn keep_worktree(
        &self,
        lease: &Lease,
        mut record: SessionRecord,
        interrupts: &mut watch::Receiver<Interrupt>,
        notes: &mut Vec<String>,
    ) -> Result<SessionRecord, EngineError> {
        let Some(known) = &mut record.worktree else {
            return Ok(record);
        };
        if worktree::is_there(&known.path) {
            if !known.pending {
                return Ok(record);
            }
        } else {
            known.pending = true;
        }
        self.finish_worktree(lease, record, interrupts, notes).await
    }

    fn planned(&self, record: &SessionRecord, wish: &WorktreeRequest) -> Result<Worktree, EngineError> {
        let address = &record.address;
        let branch = wish.branch.clone().unwrap_or_else(|| {
            if record.base == *address.repo() {
                format!("kugetsu/{}", address.number())
            } else {
                // In the clone of another repository, which may have an issue of this number as well.
                let path: Vec<_> = address.segments().collect();
                format!("kugetsu/{}/{}", path.join("/"), address.number())
            }
        });
        // The store's rule, which gives no two issues the same path, and none inside another's; without the colon
        // before a port, which would split a PATH.
        let key = RecordKey::from(address)
            .folder()
            .to_string_lossy()
            .replace(':', "@");
        worktree::plan(&Wish {
            directory: &record.directory,
            root: &self.worktree_root(),
            key: Path::new(&key),
            branch: &branch,
            from: wish.from.as_deref().unwrap_or("HEAD"),
        })
        .map_err(of(address))
    }

    fn worktree_root(&self) -> PathBuf {
        let root = self.config.get("worktree_root");
        match root.strip_prefix("~/") {
            Some(below) => self.environment.home.join(below),
            None if root.is_empty() => ROOT.into(),
            None => root.into(),
        }
    }

    /// From what the record wants to what stands there; may be called at any point of an earlier attempt.
    async fn finish_worktree(
        &self,
        lease: &Lease,
        mut record: SessionRecord,
        interrupts: &mut watch::Receiver<Interrupt>,
        notes: &mut Vec<String>,
    ) -> Result<SessionRecord, EngineError> {
        let Some(wanted) = record.worktree.clone() else {
            return Ok(record);
        };
        let address = record.address.clone();
        if wanted.pending {
            self.save_record(lease, &mut record)?;
            crash_point("worktree_intended");
        }
        worktree::exclude(&wanted, &self.worktree_root());
        let saved = self.store.folder(&RecordKey::from(&address)).join(BUNDLE);
        let new = record.session.is_none();
        let made = worktree::make(&wanted, &saved, new).map_err(of(&address))?;
        crash_point("worktree_made");
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
            self.config.extras().bring(&wanted).map_err(of(&address))?;
            self.hook_or_interrupt(HookPoint::AfterCreate, &record, None, interrupts)
                .await?;
        }
        if let Some(worktree) = &mut record.worktree {
            worktree.pending = false;
        }
        self.save_record(lease, &mut record)?;
        crash_point("worktree_ready");
        Ok(record)
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
        let risk = worktree::risk(worktree, &self.config.extras()).map_err(of(&record.address))?;
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
        let extras = self.config.extras();
        let file = self.store.make_folder(&RecordKey::from(address))?.join(BUNDLE);
        let saved = if worktree::is_there(&known.path) || !file.is_file() {
            worktree::save(known, &extras, &file).map_err(of(address))?
        } else {
            // An earlier attempt kept it and was cut off after the worktree was gone.
            Saved {
                branch: true,
                changes: true,
            }
        };
        crash_point("worktree_saved");
        worktree::remove(known, &extras, force).map_err(of(address))?;
        crash_point("worktree_removed");
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
            removed.branch_deleted = worktree::drop_branch(worktree).map_err(of(&record.address))?;
        }
        Ok(())
    }

    /// Makes a worktree again that was removed by hand, as the next `continue` would, without its hook.
    pub(super) fn remade_worktree(&self, record: &SessionRecord) -> Result<(), EngineError> {
        let Some(known) = &record.worktree else {
            return Ok(());
        };
        let file = self.store.folder(&RecordKey::from(&record.address)).join(BUNDLE);
        worktree::make(known, &file, record.session.is_none()).map_err(of(&record.address))?;
        fsx::remove_file_durable(&file).map_err(crate::store::StoreError::from)?;
        self.config.extras().bring(known).map_err(of(&record.address))
    }

    /// Makes the worktree of a session in the trash again, from its branch or from what was kept of it.
    pub(super) fn restore_worktree(&self, record: &SessionRecord, saved: &Path) -> Result<(), EngineError> {
        let Some(known) = &record.worktree else {
            return Ok(());
        };
        worktree::exclude(known, &self.worktree_root());
        worktree::make(known, saved, true).map_err(of(&record.address))?;
        self.config.extras().bring(known).map_err(of(&record.address))
    }
}

/// Says whose worktree it is.
pub(super) fn of(address: &Address) -> impl Fn(WorktreeError) -> EngineError + '_ {
    |source| EngineError::Worktree {
        of: address.clone(),
        source,
    }
}
