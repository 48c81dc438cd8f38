//! `doctor`: checks that everything a turn needs exists, and that the store is consistent.

use std::path::Path;

use super::renumber::Disordered;
use super::{Engine, EngineError, ModelCheck, read_database};
use crate::git::GitError;
use crate::store::{Fixed, this_process};
use crate::worktree::is_there;
use kugetsu_api::{Address, SessionState};
use kugetsu_api::{Check, Health};

/// The first git that reads settings from `GIT_CONFIG_COUNT`.
const OLDEST_GIT: (u32, u32) = (2, 31);

pub(super) fn check(what: impl Into<String>, health: Health, detail: impl Into<String>) -> Check {
    Check {
        what: what.into(),
        health,
        detail: detail.into(),
        opencode: false,
    }
}

pub(super) fn check_of_opencode(what: impl Into<String>, health: Health, detail: impl Into<String>) -> Check {
    Check {
        opencode: true,
        ..check(what, health, detail)
    }
}

impl Engine {
    /// Checks everything. With `fix`, repairs every problem that can be repaired automatically. opencode reads the
    /// configuration of the folder `here`.
    pub fn doctor(&self, fix: bool, here: &Path, model: &ModelCheck) -> Vec<Check> {
        let bad_store = |text: String| check("store", Health::Bad, text.replace('\n', "; "));
        let mut checks = vec![match self.store.refuse_unwritable() {
            Ok(()) => check("store", Health::Good, self.store.home().display().to_string()),
            Err(error) => bad_store(error.in_full()),
        }];
        self.check_store(fix, &mut checks);
        // Nothing about the model can be repaired, and the question starts opencode.
        let model = Some(model).filter(|model| !fix || model.ask || model.model.is_some());
        self.check_git(&mut checks);
        self.check_sandbox(&mut checks);
        if let Err(error) = self.check_left_sandboxes(fix, &mut checks) {
            checks.push(bad_store(error.in_full()));
        }
        let database = self.check_opencode(here, model, &mut checks);
        if let Err(error) = self.check_sessions(fix, database, &mut checks) {
            checks.push(bad_store(error.in_full()));
        }
        checks
    }

    /// Says if git is missing, or too old.
    fn check_git(&self, checks: &mut Vec<Check>) {
        let problem = self.problem_of_old_git();
        let problem = problem.unwrap_or_else(|error| Some(error.to_string()));
        checks.extend(problem.map(|problem| check("git", Health::Bad, problem)));
    }

    /// What to know about a git that is too old to be told which programs of a repository it must not run: it ignores
    /// `GIT_CONFIG_COUNT`. Blocks.
    pub(super) fn problem_of_old_git(&self) -> Result<Option<String>, GitError> {
        let text = self.git().at(self.environment.home()).run(["--version"])?.text();
        let numbers = text.split_whitespace().find_map(|word| {
            let mut parts = word.split('.');
            Some((
                parts.next()?.parse::<u32>().ok()?,
                parts.next()?.parse::<u32>().ok()?,
            ))
        });
        let (least, after) = OLDEST_GIT;
        Ok(numbers.filter(|version| *version < OLDEST_GIT).map(|_| {
            format!(
                "{text} runs programs that a repository names: kugetsu can prevent that from git {least}.{after} on"
            )
        }))
    }

    fn check_store(&self, fix: bool, checks: &mut Vec<Check>) {
        let mut index_is_new = false;
        for finding in self.store.check() {
            let text = finding.to_string();
            if !finding.is_fixable() {
                checks.push(check("store", Health::Bad, text));
            } else if fix && finding.is_of_index() && index_is_new {
                checks.push(check("store", Health::Fixed, text));
            } else if fix {
                let fixed = self.store.fix(&finding);
                index_is_new |= finding.is_of_index() && fixed.is_ok();
                checks.push(match fixed {
                    Ok(Fixed::Done) => check("store", Health::Fixed, text),
                    Ok(Fixed::MovedAside(to)) => check(
                        "store",
                        Health::Fixed,
                        format!("{text}; it is now {}", to.display()),
                    ),
                    Ok(Fixed::NotByMachine) => check("store", Health::Bad, text),
                    Err(error) => check("store", Health::Bad, format!("{text}: {}", error.in_full())),
                });
            } else {
                checks.push(check("store", Health::Fixable, text));
            }
        }
    }

    fn check_worktrees(&self, fix: bool, checks: &mut Vec<Check>) -> Result<(), EngineError> {
        for record in self.store.session_records()?.found {
            let Some(missing) = record
                .worktree
                .as_ref()
                .filter(|worktree| !is_there(&worktree.path))
            else {
                continue;
            };
            if self.state_of(&record).is_live() || (missing.pending && record.session.is_none()) {
                continue;
            }
            let text = format!("its worktree {} is gone", missing.path.display());
            if !missing.repo_dir.is_dir() {
                let text = format!(
                    "{text}, and so is its clone {}; if the clone has moved: kugetsu move {} --dir FOLDER",
                    missing.repo_dir.display(),
                    record.address
                );
                checks.push(check(record.address.to_string(), Health::Bad, text));
                continue;
            }
            let remade = if fix {
                self.remake_worktree(&record.address)
            } else {
                Ok(())
            };
            let (health, text) = match remade {
                Ok(()) if fix => (Health::Fixed, format!("{text}; remade from {}", missing.branch)),
                Ok(()) => (Health::Fixable, format!("{text}; the next continue remakes it")),
                Err(error) => (Health::Bad, format!("{text}: {}", error.in_full())),
            };
            checks.push(check(record.address.to_string(), health, text));
        }
        Ok(())
    }

    fn remake_worktree(&self, address: &Address) -> Result<(), EngineError> {
        let _lease = self.store.lease_session(address, this_process("doctor"), None)?;
        let record = self.record(address)?;
        self.remake_worktree_of(&record)
    }

    /// Checks opencode and its database. Returns whether the database can be read.
    fn check_opencode(&self, here: &Path, model: Option<&ModelCheck>, checks: &mut Vec<Check>) -> bool {
        let opencode = match self.opencode() {
            Ok(opencode) => opencode,
            Err(error) => {
                checks.push(check_of_opencode("opencode", Health::Bad, error.to_string()));
                return false;
            }
        };
        let shim = if opencode.shim {
            "; through npm's start script, which costs time: name the binary itself with KUGETSU_OPENCODE"
        } else {
            ""
        };
        checks.push(check(
            "opencode",
            Health::Good,
            format!("{} {}{shim}", opencode.version, opencode.program.display()),
        ));
        let database = match read_database(&opencode) {
            Ok(_) => {
                let path = opencode.database.display().to_string();
                checks.push(check("database", Health::Good, path));
                true
            }
            Err(error) => {
                checks.push(check_of_opencode("database", Health::Bad, error.to_string()));
                false
            }
        };
        if let Some(model) = model {
            self.check_model(&opencode, here, model, checks);
        }
        database
    }

    /// Checks that opencode would see a new prompt of each session as the newest message.
    fn check_clock(&self, fix: bool, checks: &mut Vec<Check>) -> Result<(), EngineError> {
        let opencode = self.opencode()?;
        for Disordered {
            key,
            session,
            disorder,
        } in self.disordered(&opencode)?
        {
            let text = format!("{disorder}, so opencode would not see a new prompt in its session {session}");
            let (health, text) = if fix {
                match self.renumber(&opencode, &key) {
                    Ok(copy) => (
                        Health::Fixed,
                        format!(
                            "{text}; its history is now in {copy}, and {session} stays in opencode as it was"
                        ),
                    ),
                    Err(error) => (Health::Bad, format!("{text}: {}", error.in_full())),
                }
            } else {
                let remedy = "set the clock right; if it is right, kugetsu doctor --fix copies the session";
                (Health::Fixable, format!("{text}; {remedy}"))
            };
            checks.push(check(key.reference(), health, text));
        }
        Ok(())
    }

    fn check_sessions(&self, fix: bool, database: bool, checks: &mut Vec<Check>) -> Result<(), EngineError> {
        for record in self.store.session_records()?.found {
            let address = record.address.clone();
            for warning in record.last.iter().flat_map(|last| &last.warnings) {
                checks.push(check(
                    address.to_string(),
                    Health::Warning,
                    format!("its last turn: {warning}"),
                ));
            }
            let unfinished = self.state_of(&record) == SessionState::Lost
                || (record.live.is_none() && record.fork.is_some());
            if !unfinished {
                continue;
            }
            let text = "its last turn's supervisor died";
            if !fix {
                checks.push(check(address.to_string(), Health::Fixable, text));
                continue;
            }
            let adopted = self
                .store
                .lease_session(&address, this_process("doctor"), None)
                .map_err(EngineError::from)
                .and_then(|lease| {
                    let mut record = self.record(&address)?;
                    self.adopt(&lease, &mut record, None)
                });
            checks.push(match adopted {
                Ok(adopted) => check(
                    address.to_string(),
                    Health::Fixed,
                    match adopted {
                        Some(_) => format!("{text}; the turn is closed as lost"),
                        None => format!("{text}; the record is complete again"),
                    },
                ),
                Err(error) => check(
                    address.to_string(),
                    Health::Bad,
                    format!("{text}: {}", error.in_full()),
                ),
            });
        }
        self.check_worktrees(fix, checks)?;
        if !database {
            checks.push(check(
                "sessions",
                Health::Unknown,
                "opencode's database cannot be read, so it is not known which sessions exist",
            ));
            return Ok(());
        }
        let orphans = match self.orphans() {
            Ok(orphans) => orphans.found,
            Err(error @ (EngineError::Unknown(_) | EngineError::WrongDatabase { .. })) => {
                checks.push(check_of_opencode("sessions", Health::Bad, error.to_string()));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        for orphan in orphans {
            checks.push(check(
                orphan.address.to_string(),
                Health::Bad,
                format!(
                    "opencode no longer has {}; remove its record with: kugetsu prune",
                    orphan.session
                ),
            ));
        }
        self.check_clock(fix, checks)?;
        let bases = self.store.bases()?.found;
        let ids: Vec<_> = bases.iter().map(|base| base.session.clone()).collect();
        let existing = read_database(&self.opencode()?)?.sessions_exist(&ids)?;
        for base in bases {
            if base.directory.is_dir()
                && let Some(brings) = self.brings_of_base(&base)
            {
                // No problem of the installation: what to do about it is for a person.
                checks.push(check(base.repo.to_string(), Health::Warning, brings));
            }
            if !existing.contains(&base.session) {
                checks.push(check(
                    base.repo.to_string(),
                    Health::Bad,
                    format!(
                        "opencode no longer has the base {}; make a new one inside a clone with: kugetsu init --force",
                        base.session
                    ),
                ));
            }
            let gone = !base.directory.is_dir();
            if gone {
                checks.push(check(
                    base.repo.to_string(),
                    Health::Bad,
                    format!(
                        "the base's directory {} does not exist; if the clone has moved: kugetsu move --repo {} --dir FOLDER",
                        base.directory.display(),
                        base.repo
                    ),
                ));
            }
        }
        Ok(())
    }
}
