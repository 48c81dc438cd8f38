//! The worktree of an issue: given by `start`, found again by `continue`, kept and removed by `destroy` and `prune`.
//!
//! It is in the record before git makes it and until after git has removed it, so that a crash at any point leaves
//! one that the next command finishes.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use tokio::sync::watch;

use super::hooks::Moment;
use super::{Broker, BrokerError};
use crate::fsx::{self, crash_point};
use crate::session::{IssueRecord, IssueRef, Worktree};
use crate::store::{Key, Lease};
use crate::turn::Interrupt;
use crate::worktree::{self, Made, Risk, Saved, Wish, WorktreeError};

/// Where a worktree's work is kept, in the session's folder, with which it goes to the trash.
pub(super) const BUNDLE: &str = "worktree.bundle";
/// The folder of all worktrees in a clone.
const ROOT: &str = ".worktrees";

/// Whether a new session gets a worktree, and which.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorktreeWish {
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

impl Broker {
    /// Refuses a wish that contradicts itself.
    pub(super) fn check_wish(&self, wish: &WorktreeWish) -> Result<(), BrokerError> {
        let wanted = wish.wanted.unwrap_or(self.config.flag("worktree"));
        if wanted || (wish.branch.is_none() && wish.from.is_none()) {
            return Ok(());
        }
        Err(BrokerError::Usage {
            problem: "--branch and --from are about a worktree, and none is wanted".to_owned(),
            hint: "add --worktree".to_owned(),
        })
    }

    /// The worktree that a turn is to run in, if it is to run in one: given to a session that is about to be
    /// forked, found or made again for one that goes on.
    pub(super) async fn with_worktree(
        &self,
        lease: &Lease,
        record: IssueRecord,
        wish: &WorktreeWish,
        interrupts: &mut watch::Receiver<Interrupt>,
        notes: &mut Vec<String>,
    ) -> Result<IssueRecord, BrokerError> {
        if record.session.is_some() {
            self.keep_worktree(lease, record, interrupts, notes).await
        } else {
            self.give_worktree(lease, record, wish, interrupts, notes).await
        }
    }

    async fn give_worktree(
        &self,
        lease: &Lease,
        mut record: IssueRecord,
        wish: &WorktreeWish,
        interrupts: &mut watch::Receiver<Interrupt>,
        notes: &mut Vec<String>,
    ) -> Result<IssueRecord, BrokerError> {
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
                    return Err(BrokerError::Usage {
                        problem: format!(
                            "{} has the worktree {} on {} from an earlier start",
                            record.issue,
                            known.path.display(),
                            known.branch
                        ),
                        hint: format!("remove it first: kugetsu destroy {}", record.issue),
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
        mut record: IssueRecord,
        interrupts: &mut watch::Receiver<Interrupt>,
        notes: &mut Vec<String>,
    ) -> Result<IssueRecord, BrokerError> {
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

    fn planned(&self, record: &IssueRecord, wish: &WorktreeWish) -> Result<Worktree, BrokerError> {
        let issue = &record.issue;
        let branch = wish.branch.clone().unwrap_or_else(|| {
            if record.base == *issue.repo() {
                format!("kugetsu/{}", issue.number())
            } else {
                // In the clone of another repository, which may have an issue of this number as well.
                let path: Vec<_> = issue.segments().collect();
                format!("kugetsu/{}/{}", path.join("/"), issue.number())
            }
        });
        // The store's rule, which gives no two issues the same path, and none inside another's; without the colon
        // before a port, which would split a PATH.
        let key = Key::from(issue).folder().to_string_lossy().replace(':', "@");
        worktree::plan(&Wish {
            directory: &record.directory,
            root: &self.worktree_root(),
            key: Path::new(&key),
            branch: &branch,
            from: wish.from.as_deref().unwrap_or("HEAD"),
        })
        .map_err(of(issue))
    }

    fn worktree_root(&self) -> PathBuf {
        let root = self.config.get("worktree_root");
        match root.strip_prefix("~/") {
            Some(below) => self.surroundings.home.join(below),
            None if root.is_empty() => ROOT.into(),
            None => root.into(),
        }
    }

    /// From what the record wants to what stands there; may be called at any point of an earlier attempt.
    async fn finish_worktree(
        &self,
        lease: &Lease,
        mut record: IssueRecord,
        interrupts: &mut watch::Receiver<Interrupt>,
        notes: &mut Vec<String>,
    ) -> Result<IssueRecord, BrokerError> {
        let Some(wanted) = record.worktree.clone() else {
            return Ok(record);
        };
        let issue = record.issue.clone();
        if wanted.pending {
            self.save_record(lease, &mut record)?;
            crash_point("worktree_intended");
        }
        worktree::exclude(&wanted, &self.worktree_root());
        let saved = self.store.folder(&Key::from(&issue)).join(BUNDLE);
        let new = record.session.is_none();
        let made = worktree::make(&wanted, &saved, new).map_err(of(&issue))?;
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
            self.config.extras().bring(&wanted).map_err(of(&issue))?;
            self.hook_or_interrupt(Moment::AfterCreate, &record, None, interrupts)
                .await?;
        }
        if let Some(worktree) = &mut record.worktree {
            worktree.pending = false;
        }
        self.save_record(lease, &mut record)?;
        crash_point("worktree_ready");
        Ok(record)
    }

    fn save_record(&self, lease: &Lease, record: &mut IssueRecord) -> Result<(), BrokerError> {
        record.updated = Timestamp::now();
        Ok(self.store.save_issue(lease, record)?)
    }

    /// What would be lost if an issue's worktree were removed now.
    pub fn worktree_risk(&self, record: &IssueRecord) -> Result<Option<Risk>, BrokerError> {
        let Some(worktree) = &record.worktree else {
            return Ok(None);
        };
        let risk = worktree::risk(worktree, &self.config.extras()).map_err(of(&record.issue))?;
        Ok(Some(risk).filter(|risk| !risk.is_empty()))
    }

    /// Refuses a worktree with work that is nowhere else.
    pub fn refuse_risk(&self, record: &IssueRecord) -> Result<(), BrokerError> {
        let (Some(worktree), Some(risk)) = (&record.worktree, self.worktree_risk(record)?) else {
            return Ok(());
        };
        let path = worktree.path.clone();
        Err(of(&record.issue)(WorktreeError::AtRisk { path, risk }))
    }

    /// Keeps and removes the worktree; the branch is left to [`Broker::drop_worktree_branch`], which comes when
    /// the record is in the trash.
    pub(super) fn remove_worktree(
        &self,
        record: &IssueRecord,
        force: bool,
    ) -> Result<Option<RemovedWorktree>, BrokerError> {
        let Some(known) = &record.worktree else {
            return Ok(None);
        };
        let issue = &record.issue;
        if !force {
            self.refuse_risk(record)?;
        }
        if worktree::is_there(&known.path) {
            let hooked = self.hook(Moment::BeforeRemove, record, None);
            match hooked {
                Err(BrokerError::Hook { .. }) if force => {}
                other => other?,
            }
        }
        if !force {
            // The hook may have worked in there.
            self.refuse_risk(record)?;
        }
        let extras = self.config.extras();
        let file = self.store.make_folder(&Key::from(issue))?.join(BUNDLE);
        let saved = if worktree::is_there(&known.path) || !file.is_file() {
            worktree::save(known, &extras, &file).map_err(of(issue))?
        } else {
            // An earlier attempt kept it and was cut off after the worktree was gone.
            Saved {
                branch: true,
                changes: true,
            }
        };
        crash_point("worktree_saved");
        worktree::remove(known, &extras, force).map_err(of(issue))?;
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
        record: &IssueRecord,
        removed: &mut Option<RemovedWorktree>,
    ) -> Result<(), BrokerError> {
        if let (Some(worktree), Some(removed)) = (&record.worktree, removed) {
            removed.branch_deleted = worktree::drop_branch(worktree).map_err(of(&record.issue))?;
        }
        Ok(())
    }

    /// Makes a worktree again that was removed by hand, as the next `continue` would, without its hook.
    pub(super) fn remade_worktree(&self, record: &IssueRecord) -> Result<(), BrokerError> {
        let Some(known) = &record.worktree else {
            return Ok(());
        };
        let file = self.store.folder(&Key::from(&record.issue)).join(BUNDLE);
        worktree::make(known, &file, record.session.is_none()).map_err(of(&record.issue))?;
        fsx::remove_file_durable(&file).map_err(crate::store::StoreError::from)?;
        self.config.extras().bring(known).map_err(of(&record.issue))
    }

    /// Makes the worktree of a session in the trash again, from its branch or from what was kept of it.
    pub(super) fn restore_worktree(&self, record: &IssueRecord, saved: &Path) -> Result<(), BrokerError> {
        let Some(known) = &record.worktree else {
            return Ok(());
        };
        worktree::exclude(known, &self.worktree_root());
        worktree::make(known, saved, true).map_err(of(&record.issue))?;
        self.config.extras().bring(known).map_err(of(&record.issue))
    }
}

/// Says whose worktree it is.
pub(super) fn of(issue: &IssueRef) -> impl Fn(WorktreeError) -> BrokerError + '_ {
    |source| BrokerError::Worktree {
        of: issue.clone(),
        source,
    }
}
