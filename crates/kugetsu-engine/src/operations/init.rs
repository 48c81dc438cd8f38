//! `init`: the base session of a repository.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use uuid::Uuid;

use super::deliver::{Closed, Delivery, TurnSubject};
use super::interrupts::{Interrupts, TO_END};
use super::{DEBUG_LOG, Engine, EngineError, TurnOptions, read_database};
use crate::opencode::{DatabaseError, Opencode, Server, SessionPatch};
use crate::operations::points;
use crate::store::{Lease, RecordKey, this_process};
use crate::turn::{Interrupt, Responder};
use kugetsu_api::permission::Policy;
use kugetsu_api::{BaseRecord, ErrorCode, RepoRef, SCHEMA, SessionId, Totals, Verdict};

/// What `init` is asked for.
#[derive(Clone, Debug)]
pub struct InitRequest {
    /// The folder that the base works in: as it is when given, else the top of the clone.
    pub directory: Option<PathBuf>,
    /// Where the command was typed.
    pub here: PathBuf,
    /// The repository, where `origin` does not tell.
    pub repo: Option<RepoRef>,
    /// Replace a base that is there.
    pub force: bool,
    /// Make it the default base even though there is one.
    pub default: bool,
    /// Take this session instead of making one.
    pub adopt: Option<SessionId>,
    /// Deliver this to the base, once.
    pub prompt: Option<String>,
    /// The policy of its forks.
    pub policy: Policy,
    /// How the prompt's turn runs.
    pub options: TurnOptions,
}

impl InitRequest {
    /// The folder that the base works in, and its repository.
    pub fn place(&self, engine: &Engine) -> Result<(PathBuf, RepoRef), EngineError> {
        let directory = directory(self, engine)?;
        let repo = match &self.repo {
            Some(repo) => repo.clone(),
            None => match engine.origin_of(&directory) {
                Some(origin) => origin?,
                None => {
                    return Err(EngineError::Usage {
                        problem: format!("{} is not in a clone with an `origin`", directory.display()),
                        hint: "say which repository it is: kugetsu init --repo instance/owner/repo"
                            .to_owned(),
                    });
                }
            },
        };
        Ok((directory, repo))
    }
}

/// What `init` has made.
#[derive(Clone, Debug)]
pub struct InitReport {
    /// The base's record.
    pub record: BaseRecord,
    /// Why events are missing in the log of its prompt.
    pub log_gap: Option<String>,
}

/// Where a base is made.
struct InitPlace {
    directory: PathBuf,
    repo: RepoRef,
    lease: Lease,
    /// There is a base already, which `--force` replaces.
    replaces: bool,
    opencode: Opencode,
}

/// The journal of an `init`, below `run/`: there before opencode is asked for a session, gone when the base's record is on
/// disk, or its user has been told of the session.
const JOURNAL: &str = ".init.json";

#[derive(Clone, Serialize, Deserialize)]
struct InitJournal {
    schema: u32,
    /// The session's title until its id is known: no other's is like it.
    title: String,
    /// The session, once it is known.
    session: Option<SessionId>,
    /// It may have got its prompt.
    prompted: bool,
}

impl Engine {
    /// Makes, or adopts, the base session of a repository. No terminal is needed, and no model is asked
    /// unless there is a prompt.
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
                hint: "without --prompt, no model is asked".to_owned(),
            });
        }
        let engine = Arc::new(self.clone());
        let request = Arc::new(request);
        let InitPlace {
            directory,
            repo,
            lease,
            replaces,
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
                    .made_base(&request, &repo, &directory, &opencode, &lease, &mut interrupts)
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
                    // The error tells of the session.
                    let key = RecordKey::from(&repo);
                    let lease = Arc::clone(&lease);
                    let remove = move |engine: &Self| {
                        let removed = engine.store.remove_run(&key, JOURNAL);
                        drop(lease);
                        Ok(removed?)
                    };
                    let _ = self.begun(TO_END, &mut interrupts, remove).await;
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
        let session = record.session.clone();
        let record = self
            .begun(TO_END, &mut interrupts, move |engine| {
                engine.save_base(&lease, &record, request.default, replaces)?;
                let _ = engine.store.remove_run(&RecordKey::from(&record.repo), JOURNAL);
                Ok(record)
            })
            .await
            .map_err(|error| match error {
                EngineError::Interrupted(interrupt) => EngineError::InterruptedWhile {
                    of: repo.to_string(),
                    doing: "the base was being recorded",
                    code: prompted.is_some().then_some(ErrorCode::InitCutOff),
                    interrupt,
                    hint: if prompted.is_some() {
                        adopt_hint(&session)
                    } else {
                        "run the same `kugetsu init` again".to_owned()
                    },
                },
                error => error,
            })?;
        let mut log_gap = None;
        if let Some(closed) = prompted {
            log_gap = closed.turn.log_gap;
        }
        Ok(InitReport { record, log_gap })
    }

    /// Everything that must hold before a session is made or adopted. Blocks.
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
        // What an earlier base's prompt left is not this one's.
        self.clear_run(&RecordKey::from(&repo));
        let opencode = self.opencode()?;
        Ok(InitPlace {
            directory,
            repo,
            lease,
            replaces: old.is_some(),
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
        let known = self.store.default_base()?;
        // The first base is the default one, so that one base serves somebody who works on many forges.
        if default || known.is_none() {
            self.store.set_default_base(Some(&record.repo))?;
        }
        Ok(())
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
                hint: "its sessions are listed by: opencode session list".to_owned(),
            })?;
        if let Some(wanted) = &request.directory
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
                    wanted.display()
                ),
                hint: "an adopted session stays where it is: leave out --dir".to_owned(),
            });
        }
        let mut records = self.store.session_records()?.found.into_iter();
        if let Some(record) = records.find(|record| record.session.as_ref() == Some(session)) {
            return Err(EngineError::Usage {
                problem: format!("{session} is the session of {}", record.address),
                hint: "a base is a session of its own: kugetsu init".to_owned(),
            });
        }
        let now = Timestamp::now();
        Ok(BaseRecord {
            schema: SCHEMA,
            repo: repo.clone(),
            session: session.clone(),
            directory: row.directory,
            title: row.title,
            policy: request.policy.clone(),
            // One that an `init` of ours made is ours.
            adopted: self
                .journal(repo)?
                .is_none_or(|journal| journal.session.as_ref() != Some(session)),
            opencode: opencode.version.to_string(),
            created: now,
            updated: now,
            prompted: None,
        })
    }

    async fn made_base(
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
        self.database_unlocked(opencode, interrupts).await?;
        let forgotten = {
            let (repo, opencode) = (repo.clone(), opencode.clone());
            self.interruptible(interrupts, move |engine| engine.forgotten_base(&repo, &opencode))
                .await?
        };
        let session = match forgotten {
            Some(session) => session,
            None => {
                let mut journal = InitJournal {
                    schema: SCHEMA,
                    title: format!("{title} ({})", Uuid::now_v7()),
                    session: None,
                    prompted: false,
                };
                self.journal_aside(repo, &journal, lease, interrupts).await?;
                let mut launch = self.short_launch(opencode, directory.to_owned());
                launch.debug_log = self.debug_log(request, repo);
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
                self.journal_aside(repo, &journal, lease, interrupts).await?;
                made
            }
        };
        self.database_writable(opencode, interrupts).await?;
        let (opencode, request) = (opencode.clone(), Arc::clone(request));
        let (repo, directory) = (repo.clone(), directory.to_owned());
        self.interruptible(interrupts, move |engine| {
            let patch = SessionPatch {
                permission: Some(&rules),
                directory: Some(&directory),
                path: None,
                title: Some(&title),
            };
            engine.write_database(&opencode)?.patch(&session, &patch)?;
            let now = Timestamp::now();
            Ok(BaseRecord {
                schema: SCHEMA,
                repo,
                session,
                directory,
                title,
                policy: request.policy.clone(),
                adopted: false,
                opencode: opencode.version.to_string(),
                created: now,
                updated: now,
                prompted: None,
            })
        })
        .await
    }

    async fn journal_aside(
        &self,
        repo: &RepoRef,
        journal: &InitJournal,
        lease: &Arc<Lease>,
        interrupts: &mut Interrupts,
    ) -> Result<(), EngineError> {
        let (repo, journal, lease) = (repo.clone(), journal.clone(), Arc::clone(lease));
        self.interruptible(interrupts, move |engine| {
            let written = engine.write_journal_of_init(&repo, &journal);
            drop(lease);
            written
        })
        .await
    }

    fn debug_log(&self, request: &InitRequest, repo: &RepoRef) -> Option<PathBuf> {
        let folder = self.store.folder(&RecordKey::from(repo));
        request.options.debug.then(|| folder.join(DEBUG_LOG))
    }

    fn write_journal_of_init(&self, repo: &RepoRef, journal: &InitJournal) -> Result<(), EngineError> {
        // Plain data: it can be encoded.
        let text = serde_json::to_vec(journal).unwrap_or_default();
        Ok(self.store.write_journal(&repo.into(), JOURNAL, &text)?)
    }

    /// The journal of an `init` that did not end. What cannot be understood is moved aside.
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

    /// The session that an earlier `init` made and could not remember. One that somebody has talked to is not new, and
    /// what becomes of one whose prompt was cut off a person must say.
    fn forgotten_base(&self, repo: &RepoRef, opencode: &Opencode) -> Result<Option<SessionId>, EngineError> {
        let Some(journal) = self.journal(repo)? else {
            return Ok(None);
        };
        let database = match read_database(opencode) {
            // opencode had not made it yet.
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
        let delivery = Delivery {
            engine: Arc::new(self.clone()),
            lease: Arc::clone(lease),
            opencode: opencode.clone(),
            subject: TurnSubject::Base(record.clone()),
            turn: Uuid::now_v7(),
            started: Timestamp::now(),
            prompt: prompt.to_owned(),
            rules: record.policy.rules(),
            responder: Responder::default(),
            options: request.options.clone(),
            fallback: None,
            fork_lock: None,
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
        })
    }

    /// The base's session may get its prompt from now on. Blocks.
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
        self.write_journal_of_init(&record.repo, &journal)
    }
}

/// How to keep a session that got the prompt of a base whose record was not written.
pub(super) fn adopt_hint(session: &SessionId) -> String {
    format!("keep its session as the base: kugetsu init --force --adopt {session}")
}

fn directory(request: &InitRequest, engine: &Engine) -> Result<PathBuf, EngineError> {
    let wanted = match &request.directory {
        Some(directory) => request.here.join(directory),
        None => engine
            .top_of(&request.here)
            .unwrap_or_else(|| request.here.clone()),
    };
    let found = wanted.canonicalize().ok().filter(|path| path.is_dir());
    found.ok_or_else(|| EngineError::Usage {
        problem: format!("{} is not a directory", wanted.display()),
        hint: "name the clone with: kugetsu init --dir DIRECTORY".to_owned(),
    })
}
