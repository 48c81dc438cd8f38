//! `init`: the base session of a repository.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use uuid::Uuid;

use super::deliver::{Closed, Delivery, TurnSubject};
use super::interrupts::{Interrupts, STOP_WAIT};
use super::{DEBUG_LOG, Engine, EngineError, Subject, TurnOptions, read_database};
use crate::opencode::{DatabaseError, Opencode, Server, SessionContext, SessionPatch};
use crate::operations::points;
use crate::store::{Lease, RecordKey, this_process};
use crate::turn::{Interrupt, Responder};
use kugetsu_api::permission::Policy;
use kugetsu_api::{BaseRecord, ErrorCode, RepoRef, SCHEMA, SandboxMode, SessionId, Totals, Verdict};

/// A request for `init`.
#[derive(Clone, Debug)]
pub struct InitRequest {
    /// The folder that the base works in; without it, the top of the clone.
    pub directory: Option<PathBuf>,
    /// The current directory of the command.
    pub here: PathBuf,
    /// The repository, if the clone's `origin` does not name it.
    pub repo: Option<RepoRef>,
    /// Replace an existing base.
    pub force: bool,
    /// Make the base the default base.
    pub default: bool,
    /// Use this session instead of a new one.
    pub adopt: Option<SessionId>,
    /// A prompt that is delivered to the base once.
    pub prompt: Option<String>,
    /// The policy of its forks.
    pub policy: Policy,
    /// Whether its forks are sandboxed.
    pub sandbox: SandboxMode,
    /// Whether what the repository brings for opencode is trusted; `None` for the setting.
    pub trust_repo: Option<bool>,
    /// How the prompt's turn runs.
    pub options: TurnOptions,
}

impl InitRequest {
    /// The folder that the base works in, and its repository.
    pub fn place(&self, engine: &Engine) -> Result<(PathBuf, RepoRef), EngineError> {
        let directory = directory(self, engine)?;
        let repo = match &self.repo {
            Some(repo) => repo.clone(),
            None => match engine.repository_of(&directory)? {
                Some(clone) => clone.repo,
                None => {
                    return Err(EngineError::Usage {
                        problem: format!("{} is not in a clone with a remote", directory.display()),
                        hint: "name the repository: kugetsu init --repo instance/owner/repo".to_owned(),
                    });
                }
            },
        };
        Ok((directory, repo))
    }
}

/// The result of `init`.
#[derive(Clone, Debug)]
pub struct InitReport {
    /// The base's record.
    pub record: BaseRecord,
    /// Why events are missing from the log of the base's prompt.
    pub log_gap: Option<String>,
    /// Notes for people.
    pub notes: Vec<String>,
    /// What the repository brings for opencode and whether it is loaded, if it brings anything.
    pub brings: Option<String>,
}

/// Everything that `init` has checked before it makes or adopts a session.
struct InitPlace {
    directory: PathBuf,
    repo: RepoRef,
    lease: Lease,
    /// The base that `--force` replaces.
    old: Option<BaseRecord>,
    opencode: Opencode,
}

/// The journal of an `init`, below `run/`. The journal is written before opencode is asked for a session, and removed
/// when the base's record is on disk or the user has been told about the session.
const JOURNAL: &str = ".init.json";

#[derive(Clone, Serialize, Deserialize)]
struct InitJournal {
    schema: u32,
    /// The session's title until the session's id is known. The title is unique.
    title: String,
    /// The session, once its id is known.
    session: Option<SessionId>,
    /// Whether the session may have received its prompt.
    prompted: bool,
}

impl Engine {
    /// Makes or adopts the base session of a repository. Needs no terminal, and runs no model unless there is a prompt.
    pub async fn init(
        &self,
        request: InitRequest,
        interrupts: watch::Receiver<Interrupt>,
    ) -> Result<InitReport, EngineError> {
        let mut interrupts = Interrupts::from(interrupts);
        if request
            .prompt
            .as_ref()
            .is_some_and(|prompt| prompt.trim().is_empty())
        {
            return Err(EngineError::Usage {
                problem: "the base's prompt is empty".to_owned(),
                hint: "leave --prompt out to make the base without a turn".to_owned(),
            });
        }
        if request.prompt.is_some() {
            self.refuse_base_prompt(&request)?;
        }
        let engine = Arc::new(self.clone());
        let request = Arc::new(request);
        let InitPlace {
            directory,
            repo,
            lease,
            old,
            opencode,
        } = {
            let request = Arc::clone(&request);
            self.interruptible(&mut interrupts, move |engine| engine.init_place(&request))
                .await?
        };
        let lease = Arc::new(lease);
        let mut record = match &request.adopt {
            Some(session) => {
                let request = Arc::clone(&request);
                let (repo, session, opencode) = (repo.clone(), session.clone(), opencode.clone());
                self.interruptible(&mut interrupts, move |engine| {
                    engine.adopted_base(&request, &repo, &session, &opencode)
                })
                .await?
            }
            None => {
                engine
                    .make_base(&request, &repo, &directory, &opencode, &lease, &mut interrupts)
                    .await?
            }
        };
        points::BASE_MADE.pass();
        let prompted = match &request.prompt {
            Some(prompt) => {
                let prompted =
                    engine.prompt_base(&request, &lease, &record, prompt, &opencode, &mut interrupts);
                let prompted = prompted.await;
                if let Err(EngineError::BasePrompt { .. }) = &prompted {
                    // The error names the session, so the journal is no longer needed.
                    let key = RecordKey::from(&repo);
                    let lease = Arc::clone(&lease);
                    let remove = move |engine: &Self| {
                        let removed = engine.store.remove_run(&key, JOURNAL);
                        drop(lease);
                        Ok(removed?)
                    };
                    let _ = self.run_required(STOP_WAIT, &mut interrupts, remove).await;
                }
                Some(prompted?)
            }
            None => None,
        };
        if let Some(closed) = &prompted {
            record.prompted = Some(Totals {
                turns: 1,
                cost_usd: closed.turn.cost_usd,
                tokens: closed.turn.tokens,
            });
        }
        record.updated = Timestamp::now();
        record.default_since = if request.default {
            Some(record.updated)
        } else {
            old.as_ref().and_then(|old| old.default_since)
        };
        let session = record.session.clone();
        let record = self
            .run_required(STOP_WAIT, &mut interrupts, move |engine| {
                engine.save_base(&lease, &record, request.default, old.is_some())?;
                let _ = engine.store.remove_run(&RecordKey::from(&record.repo), JOURNAL);
                Ok(record)
            })
            .await
            .map_err(|error| {
                error.or_if_interrupted(|interrupt| EngineError::InterruptedWhile {
                    subject: repo.to_string(),
                    doing: "the base was being recorded",
                    code: prompted.is_some().then_some(ErrorCode::InitCutOff),
                    interrupt,
                    hint: if prompted.is_some() {
                        adopt_hint(&session)
                    } else {
                        "run the same `kugetsu init` again".to_owned()
                    },
                })
            })?;
        let brings = {
            let record = record.clone();
            let status = move |engine: &Self| Ok(engine.brings_of_base(&record));
            self.interruptible(&mut interrupts, status)
                .await
                .unwrap_or_default()
        };
        let (log_gap, mut notes) =
            prompted.map_or_else(Default::default, |closed| (closed.turn.log_gap, closed.notes));
        let old_git = self
            .interruptible(&mut interrupts, |engine: &Self| Ok(engine.problem_of_old_git()?))
            .await;
        // Without a git, nothing runs.
        notes.extend(old_git.ok().flatten());
        Ok(InitReport {
            record,
            log_gap,
            notes,
            brings,
        })
    }

    /// Refuses a base's prompt where a turn on the base would break a promise: it runs outside the sandbox, and its tools'
    /// turns are not counted.
    fn refuse_base_prompt(&self, request: &InitRequest) -> Result<(), EngineError> {
        let sandboxed = request.sandbox == SandboxMode::Required || request.policy.preset.requires_sandbox();
        let problem = if sandboxed {
            "the prompt of a base runs outside the sandbox that its sessions require"
        } else if self.parent_turn().is_some() {
            "a tool of a turn cannot give a base a prompt: the turn would not be counted"
        } else {
            return Ok(());
        };
        Err(EngineError::Usage {
            problem: problem.to_owned(),
            hint: "leave --prompt out, and begin with the first session instead: kugetsu start".to_owned(),
        })
    }

    /// Checks everything that must hold before a session is made or adopted. Blocks.
    fn init_place(&self, request: &InitRequest) -> Result<InitPlace, EngineError> {
        let (directory, repo) = request.place(self)?;
        let lease = self.store.lease_base(&repo, this_process("init"), None)?;
        let old = self.store.base(&repo)?;
        if let Some(old) = &old
            && !request.force
        {
            return Err(EngineError::BaseExists {
                repo,
                session: old.session.clone(),
            });
        }
        // Files of an earlier base's prompt do not belong to this base.
        self.clear_run(&RecordKey::from(&repo));
        let opencode = self.opencode()?;
        Ok(InitPlace {
            directory,
            repo,
            lease,
            old,
            opencode,
        })
    }

    fn save_base(
        &self,
        lease: &Lease,
        record: &BaseRecord,
        default: bool,
        replace: bool,
    ) -> Result<(), EngineError> {
        if replace {
            self.store.replace_base(lease, record, "init --force")?;
        } else {
            self.store.save_base(lease, record)?;
        }
        if default {
            self.store.set_default_base(Some(&record.repo))?;
            let others = self.store.bases()?.found.into_iter();
            for other in others.filter(|other| other.default_since.is_some() && other.repo != record.repo) {
                self.forget_default(other)?;
            }
        }
        Ok(())
    }

    fn forget_default(&self, mut base: BaseRecord) -> Result<(), EngineError> {
        let lease = self
            .store
            .lease_base(&base.repo, this_process("init --default"), None)?;
        base.default_since = None;
        Ok(self.store.save_base(&lease, &base)?)
    }

    fn adopted_base(
        &self,
        request: &InitRequest,
        repo: &RepoRef,
        session: &SessionId,
        opencode: &Opencode,
    ) -> Result<BaseRecord, EngineError> {
        let row = read_database(opencode)?
            .session(session)?
            .ok_or_else(|| EngineError::NotFound {
                code: ErrorCode::NotFound,
                problem: format!("opencode has no session {session}"),
                hint: "list its sessions: opencode session list".to_owned(),
            })?;
        if let Some(requested) = &request.directory
            && directory(request, self)?
                != row
                    .directory
                    .canonicalize()
                    .unwrap_or_else(|_| row.directory.clone())
        {
            return Err(EngineError::Usage {
                problem: format!(
                    "{session} works in {}, not in {}",
                    row.directory.display(),
                    requested.display()
                ),
                hint: "an adopted session keeps its directory: leave --dir out".to_owned(),
            });
        }
        let mut records = self.store.session_records()?.found.into_iter();
        if let Some(record) = records.find(|record| record.session.as_ref() == Some(session)) {
            return Err(EngineError::Usage {
                problem: format!("{session} is the session of {}", record.address),
                hint: "a base needs a session of its own: kugetsu init".to_owned(),
            });
        }
        let trust = self.new_trust(request.trust_repo, request.policy.preset, &row.directory)?;
        let now = Timestamp::now();
        Ok(BaseRecord {
            schema: SCHEMA,
            repo: repo.clone(),
            session: session.clone(),
            directory: row.directory,
            title: row.title,
            policy: request.policy.clone(),
            sandbox: request.sandbox,
            trust: Some(trust),
            // A session that an interrupted `init` made counts as made, not as adopted.
            adopted: self
                .journal(repo)?
                .is_none_or(|journal| journal.session.as_ref() != Some(session)),
            opencode: opencode.version.to_string(),
            created: now,
            updated: now,
            prompted: None,
            default_since: None,
        })
    }

    async fn make_base(
        &self,
        request: &Arc<InitRequest>,
        repo: &RepoRef,
        directory: &Path,
        opencode: &Opencode,
        lease: &Arc<Lease>,
        interrupts: &mut Interrupts,
    ) -> Result<BaseRecord, EngineError> {
        let title = format!("kugetsu base: {repo}");
        let rules = request.policy.rules();
        let (trust, project) = {
            let (request, directory) = (Arc::clone(request), directory.to_owned());
            self.interruptible(interrupts, move |engine| {
                let preset = request.policy.preset;
                let trust = engine.new_trust(request.trust_repo, preset, &directory)?;
                let project = engine.project_trust(Some(&trust), preset, &directory);
                Ok((trust, project))
            })
            .await?
        };
        self.database_unlocked(opencode, interrupts).await?;
        let unrecorded = {
            let (repo, opencode) = (repo.clone(), opencode.clone());
            self.interruptible(interrupts, move |engine| engine.unrecorded_base(&repo, &opencode))
                .await?
        };
        let session = match unrecorded {
            Some(session) => session,
            None => {
                let mut journal = InitJournal {
                    schema: SCHEMA,
                    title: format!("{title} ({})", Uuid::now_v7()),
                    session: None,
                    prompted: false,
                };
                self.save_journal(repo, &journal, lease, interrupts).await?;
                let mut launch = self.short_launch(opencode, directory.to_owned());
                launch.debug_log = self.debug_log(request, repo);
                launch.ignore_project = !project.loaded;
                let mut server = interrupts.or(Server::start(&launch)).await??;
                let made = interrupts
                    .or(server.api().create_session(&journal.title, &rules))
                    .await;
                if made.is_err() || interrupts.or(server.stop(false)).await.is_err() {
                    server.stop(true).await;
                }
                let made = made??;
                points::BASE_ASKED.pass();
                journal.session = Some(made.clone());
                self.save_journal(repo, &journal, lease, interrupts).await?;
                made
            }
        };
        let (version, request) = (opencode.version.to_string(), Arc::clone(request));
        let (repo, directory) = (repo.clone(), directory.to_owned());
        self.write_when_writable(opencode, interrupts, move |database| {
            let patch = SessionPatch {
                permission: Some(&rules),
                directory: Some(&directory),
                path: None,
                title: Some(&title),
            };
            database.patch(&session, &patch)?;
            let now = Timestamp::now();
            Ok(BaseRecord {
                schema: SCHEMA,
                repo,
                session,
                directory,
                title,
                policy: request.policy.clone(),
                sandbox: request.sandbox,
                trust: Some(trust),
                adopted: false,
                opencode: version,
                created: now,
                updated: now,
                prompted: None,
                default_since: None,
            })
        })
        .await
    }

    async fn save_journal(
        &self,
        repo: &RepoRef,
        journal: &InitJournal,
        lease: &Arc<Lease>,
        interrupts: &mut Interrupts,
    ) -> Result<(), EngineError> {
        let (repo, journal, lease) = (repo.clone(), journal.clone(), Arc::clone(lease));
        self.interruptible(interrupts, move |engine| {
            let written = engine.write_init_journal(&repo, &journal);
            drop(lease);
            written
        })
        .await
    }

    fn debug_log(&self, request: &InitRequest, repo: &RepoRef) -> Option<PathBuf> {
        let folder = self.store.folder(&RecordKey::from(repo));
        request.options.debug.then(|| folder.join(DEBUG_LOG))
    }

    fn write_init_journal(&self, repo: &RepoRef, journal: &InitJournal) -> Result<(), EngineError> {
        // Encoding cannot fail, because the journal is plain data.
        let text = serde_json::to_vec(journal).unwrap_or_default();
        Ok(self.store.write_journal(&repo.into(), JOURNAL, &text)?)
    }

    /// The journal of an interrupted `init`. A journal that cannot be parsed is moved aside.
    fn journal(&self, repo: &RepoRef) -> Result<Option<InitJournal>, EngineError> {
        let key = RecordKey::from(repo);
        let Some(text) = self.store.read_run(&key, JOURNAL)? else {
            return Ok(None);
        };
        let journal = serde_json::from_slice(&text).ok();
        if journal.is_none() {
            self.store.quarantine(&self.store.run_path(&key, JOURNAL))?;
        }
        Ok(journal)
    }

    /// The session that an interrupted `init` made and did not record. A session with messages is not reused; if its
    /// prompt was cut off, a person must decide what to do with it.
    fn unrecorded_base(&self, repo: &RepoRef, opencode: &Opencode) -> Result<Option<SessionId>, EngineError> {
        let Some(journal) = self.journal(repo)? else {
            return Ok(None);
        };
        let database = match read_database(opencode) {
            // opencode had not made its database yet, so there is no session.
            Err(EngineError::Database(DatabaseError::Missing { .. } | DatabaseError::Schema { .. })) => {
                return Ok(None);
            }
            database => database?,
        };
        let row = match &journal.session {
            Some(session) => database.session(session)?,
            None => database.sessions_titled(&journal.title)?.into_iter().next(),
        };
        let bases = self.store.bases()?.found.into_iter();
        let mut known: Vec<_> = bases.map(|base| base.session).collect();
        known.extend(self.store.trashed_base_sessions()?);
        match row {
            Some(row) if known.contains(&row.id) => Ok(None),
            Some(row) if database.message_count(&row.id)? == 0 => Ok(Some(row.id)),
            Some(row) if journal.prompted => Err(EngineError::InitCutOff {
                repo: repo.clone(),
                session: row.id,
            }),
            _ => Ok(None),
        }
    }

    /// Delivers the base's prompt, as a turn like any other.
    async fn prompt_base(
        &self,
        request: &InitRequest,
        lease: &Arc<Lease>,
        record: &BaseRecord,
        prompt: &str,
        opencode: &Opencode,
        interrupts: &mut Interrupts,
    ) -> Result<Closed, EngineError> {
        let (user, folder) = (record.repo.to_string(), record.directory.clone());
        let folder_lock = self.lock_folder(user, folder, interrupts).await?;
        let notes = folder_lock.as_ref().err().cloned().into_iter().collect();
        let mut context = SessionContext::of(&record.repo.to_string(), None, None);
        let ignore_project = {
            let (record, opencode) = (record.clone(), opencode.clone());
            let decide = move |engine: &Self| {
                let subject = Subject::Base(record.repo.clone());
                let preset = record.policy.preset;
                let project = engine.project_trust(record.trust.as_ref(), preset, &record.directory);
                project.refuse_unusable(&opencode, &subject, "kugetsu init --trust-repo")?;
                Ok(!project.loaded)
            };
            self.interruptible(interrupts, decide).await?
        };
        if ignore_project {
            self.ignore_project(&mut context, &record.directory)?;
        }
        let mut options = request.options.clone();
        self.preset_limits(record.policy.preset, &mut options.limits);
        let delivery = Delivery {
            engine: Arc::new(self.clone()),
            lease: Arc::clone(lease),
            opencode: opencode.clone(),
            subject: TurnSubject::Base(record.clone()),
            turn: Uuid::now_v7(),
            started: Timestamp::now(),
            began: Instant::now(),
            prompt: prompt.to_owned(),
            kept_prompt: None,
            before: None,
            prompt_sha256: None,
            rules: record.policy.rules(),
            context,
            ignore_project,
            responder: Responder::default(),
            options,
            fallback: None,
            notes,
            registered: None,
            watched: None,
            after: None,
            timings: kugetsu_api::Timings::default(),
            writing: Arc::default(),
        };
        let closed = delivery.run(interrupts, |_| {}).await?;
        if closed.turn.verdict == Verdict::Completed {
            return Ok(closed);
        }
        Err(EngineError::BasePrompt {
            session: record.session.clone(),
            verdict: closed.turn.verdict,
            reason: closed.turn.reason,
            notes: closed.notes,
        })
    }

    /// Records that the base's session may receive its prompt from now on. Blocks.
    pub(super) fn journal_prompt(&self, record: &BaseRecord) -> Result<(), EngineError> {
        if record.adopted {
            return Ok(());
        }
        let journal = InitJournal {
            schema: SCHEMA,
            title: record.title.clone(),
            session: Some(record.session.clone()),
            prompted: true,
        };
        self.write_init_journal(&record.repo, &journal)
    }
}

/// How to keep a session that got the prompt of a base whose record was not written.
pub(super) fn adopt_hint(session: &SessionId) -> String {
    format!("keep its session as the base: kugetsu init --force --adopt {session}")
}

fn directory(request: &InitRequest, engine: &Engine) -> Result<PathBuf, EngineError> {
    let requested = match &request.directory {
        Some(directory) => request.here.join(directory),
        None => match engine.top_of(&request.here) {
            Ok(top) => top.unwrap_or_else(|| request.here.clone()),
            // A repository that is named needs no clone, and so no git.
            Err(_) if request.repo.is_some() => request.here.clone(),
            Err(error) => return Err(error),
        },
    };
    let unusable = |problem: &str| EngineError::Usage {
        problem: format!("{} {problem}", requested.display()),
        hint: "name the clone: kugetsu init --dir DIRECTORY".to_owned(),
    };
    let found = requested.canonicalize().ok().filter(|path| path.is_dir());
    let found = found.ok_or_else(|| unusable("is not a directory"))?;
    if engine.is_bare(&found).unwrap_or(false) {
        return Err(unusable("is a bare repository, which has no files to work on"));
    }
    Ok(found)
}
