//! Admission of a turn: takes the lease, adopts the turn of a dead supervisor, checks the record, prepares the worktree
//! and runs the hook before the turn.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use uuid::Uuid;

use super::{Delivery, Mode, TurnSubject, sha256};
use crate::git::top_of;
use crate::opencode::Opencode;
use crate::operations::hooks::HookPoint;
use crate::operations::interrupts::Interrupts;
use crate::operations::recover::was_prompted;
use crate::operations::request::TurnRequest;
use crate::operations::sandbox::{Keys, sandbox_of};
use crate::operations::spawn::WaitReports;
use crate::operations::trust::trust_command;
use crate::operations::{Engine, EngineError, Subject, pending, points, read_database};
use crate::store::{Lease, LeaseError, Lock, holder_of_turn};
use crate::turn::{GO_ON, Responder};
use kugetsu_api::{
    Address, BaseRecord, SCHEMA, SandboxMode, SessionRecord, Totals, TransportChoice, TransportKind,
    TurnRecord, Verdict,
};

/// The interval between two attempts to take a lease that another process holds.
const LEASE_POLL: Duration = Duration::from_millis(50);

/// A turn that may run.
pub(super) struct Admitted {
    pub(super) delivery: Delivery,
    /// The turn of a dead supervisor that was closed.
    pub(super) adopted: Option<TurnRecord>,
    /// The lock of the working folder, unless the folder is the session's own or another turn holds the lock.
    pub(super) folder_lock: Option<Lock>,
    /// The keys of a sandboxed opencode, until the turn is over.
    pub(super) keys: Option<Keys>,
}

/// The state that was read under the lease.
struct AdmissionState {
    opencode: Opencode,
    record: SessionRecord,
    adopted: Option<TurnRecord>,
    /// The message for the session.
    message: String,
    notes: Vec<String>,
}

impl Engine {
    /// Whether a turn may begin: `start` needs an address without a session, `continue` one with a session. The turn
    /// checks this again. Blocks.
    pub fn check_mode(&self, address: &Address, mode: Mode) -> Result<(), EngineError> {
        self.refuse_wrong_mode(address, mode, self.store.session_record(address)?.as_ref())
    }

    pub(super) async fn admit(
        self: Arc<Self>,
        id: Uuid,
        request: TurnRequest,
        responder: Responder,
        waits: WaitReports,
        interrupts: &mut Interrupts,
    ) -> Result<Admitted, EngineError> {
        if responder.is_interactive()
            && request.options.transport == TransportChoice::Only(TransportKind::Run)
        {
            return Err(needs_serve());
        }
        self.check_worktree_request(&request.worktree)?;
        let request = Arc::new(request);
        let lease = self.admission_lease(id, &request, &waits, interrupts).await?;
        let lease = Arc::new(lease);
        points::TURN_LEASED.pass();
        let state = {
            let address = request.address.clone();
            let read = move |engine: &Self| Ok((engine.opencode()?, engine.store.session_record(&address)?));
            let (opencode, record) = self.interruptible(interrupts, read).await?;
            let of_session = record.as_ref().map(|record| self.of_session(&opencode, record));
            if record.as_ref().is_some_and(|record| record.fork.is_some()) {
                // If the fork is found, its policy is written to the database.
                let opencode = of_session.as_ref().unwrap_or(&opencode);
                self.database_writable(opencode, interrupts).await?;
            }
            let (lease, request) = (Arc::clone(&lease), Arc::clone(&request));
            self.interruptible(interrupts, move |engine| {
                engine.read_under_lease(&request, &lease, opencode, record)
            })
            .await?
        };
        let AdmissionState {
            opencode,
            record,
            adopted,
            message,
            notes: early,
        } = state;
        let mut options = request.options.clone();
        self.preset_limits(record.policy.preset, &mut options.limits);
        let registered = {
            let address = request.address.clone();
            let mut limits = options.limits.clone();
            let register = move |engine: &Self| {
                let registered = engine.register(id, &address, &mut limits)?;
                Ok((registered, limits))
            };
            let (registered, limits) = self.interruptible(interrupts, register).await?;
            options.limits = limits;
            Arc::new(registered)
        };
        let (started, began) = (Timestamp::now(), Instant::now());
        let (prompt, once) = if record.policy.preset.may_ask() {
            pending::with_answers(&message, &record.pending)
        } else {
            (message, Vec::new())
        };
        if prompt.trim().is_empty() {
            return Err(EngineError::Usage {
                problem: "the message is empty".to_owned(),
                hint: "write the message after the reference, or pipe it in and write `-`".to_owned(),
            });
        }
        let mut rules = if responder.is_interactive() {
            record.policy.asking_rules()
        } else {
            record.policy.rules()
        };
        rules.extend(once);
        rules.extend(request.narrowing.iter().cloned());
        let mut notes = early;
        notes.extend(pending::dropped(&record));
        let record = self
            .with_worktree(&lease, record, &request.worktree, interrupts, &mut notes)
            .await?;
        let folder_lock = match record.worktree {
            Some(_) => None,
            None => {
                let (user, folder) = (record.address.to_string(), record.directory.clone());
                let locked = self.lock_folder(user, folder, interrupts).await?;
                locked
                    .inspect_err(|met| {
                        notes.push(format!(
                            "{met}; a worktree keeps sessions apart (start --worktree)"
                        ));
                    })
                    .ok()
            }
        };
        self.interruptible_hook(HookPoint::BeforeTurn, &record, Some(id), &lease, interrupts)
            .await?;
        // What the hook has brought is checked as well.
        let (record, context, ignore_project, untold) = {
            let (rules, unattended) = (rules.clone(), !responder.is_interactive());
            let opencode = opencode.clone();
            self.interruptible(interrupts, move |engine| {
                let record = check_directory(record)?;
                let subject = Subject::Session(record.address.clone());
                let preset = record.policy.preset;
                let project = engine.project_trust(record.trust.as_ref(), preset, &record.directory);
                // Only a record on disk can be given trust.
                let recorded = record.session.is_some() || record.worktree.is_some();
                let owner = if recorded {
                    subject.clone()
                } else {
                    Subject::Base(record.base.clone())
                };
                project.refuse_unusable(&opencode, &subject, &trust_command(&owner))?;
                let mut untold = Vec::from_iter(project.note(&subject, record.session.is_none()));
                let ignore = !project.loaded;
                let context = engine.session_context(&record, &rules, unattended, ignore, &mut untold)?;
                Ok((record, context, ignore, untold))
            })
            .await?
        };
        notes.extend(untold);
        let (opencode, keys, context, unlimited) = {
            let (record, model, mut context) = (record.clone(), request.options.model.clone(), context);
            let mut notes = Vec::new();
            self.interruptible(interrupts, move |engine| {
                let mut confine = || {
                    if record.session.is_none() {
                        engine.make_sandbox(&record, &opencode)?;
                    }
                    let opencode = engine.of_session(&opencode, &record);
                    engine.confine(
                        opencode,
                        &record,
                        model.as_deref(),
                        !ignore_project,
                        &mut context,
                        &mut notes,
                    )
                };
                let (opencode, keys) =
                    confine().inspect_err(|_| engine.remove_unrecorded_sandbox(&record))?;
                Ok((opencode, keys, context, notes))
            })
            .await?
        };
        notes.extend(unlimited);
        let delivery = Delivery {
            engine: self,
            lease,
            opencode,
            subject: TurnSubject::Session(record),
            turn: id,
            started,
            began,
            prompt,
            kept_prompt: None,
            before: None,
            prompt_sha256: request.turn.and(request.message()).map(sha256),
            rules,
            context,
            ignore_project,
            responder,
            options,
            fallback: None,
            notes,
            registered: Some(registered),
            watched: None,
            after: None,
            timings: kugetsu_api::Timings::default(),
            writing: Arc::default(),
        };
        Ok(Admitted {
            delivery,
            adopted,
            folder_lock,
            keys,
        })
    }

    /// Takes the lock of a folder that other sessions may work in as well: that of the whole working tree, because turns
    /// in two folders of it meet. If another turn has it, returns a note about that turn. `user` is the session or base
    /// of this turn.
    pub(in crate::operations) async fn lock_folder(
        &self,
        user: String,
        directory: PathBuf,
        interrupts: &mut Interrupts,
    ) -> Result<Result<Lock, String>, EngineError> {
        let lock = move |engine: &Self| {
            let real = directory.canonicalize().unwrap_or(directory);
            let folder = top_of(&real).unwrap_or(&real).to_owned();
            let lock = engine.store.folder_lock(&folder, user)?;
            Ok((folder, lock))
        };
        let (folder, lock) = self.interruptible(interrupts, lock).await?;
        Ok(lock.map_err(|other| format!("a turn of {other} works in the same folder, {}", folder.display())))
    }

    /// Takes the lease. Waits for it as long as the request allows, or until an interrupt. Refuses a turn in the wrong
    /// mode first, without waiting.
    async fn admission_lease(
        self: &Arc<Self>,
        id: Uuid,
        request: &Arc<TurnRequest>,
        waits: &WaitReports,
        interrupts: &mut Interrupts,
    ) -> Result<Lease, EngineError> {
        let began = Instant::now();
        let mut first = true;
        loop {
            let request = Arc::clone(request);
            let check = std::mem::take(&mut first);
            let attempt = move |engine: &Self| {
                if check {
                    engine.refuse_own_turn(&request.address)?;
                }
                // A repeated request with the same turn id is not an error. The check under the lease decides.
                if check && request.turn.is_none() {
                    let record = engine.store.session_record(&request.address)?;
                    engine.refuse_wrong_mode(&request.address, request.mode, record.as_ref())?;
                }
                let holder = holder_of_turn(request.mode.verb(), id);
                match engine.store.lease_session(&request.address, holder, None) {
                    Err(LeaseError::Held { holder, .. })
                        if engine.may_wait(&request, holder.as_ref(), began.elapsed())? =>
                    {
                        Ok(Err(holder))
                    }
                    other => Ok(Ok(other?)),
                }
            };
            match self.interruptible(interrupts, attempt).await? {
                Ok(lease) => {
                    waits.end();
                    return Ok(lease);
                }
                Err(holder) => waits.begin(holder),
            }
            interrupts.or(tokio::time::sleep(LEASE_POLL)).await?;
        }
    }

    /// Reads the record under the lease, where no other process changes it and a live turn belongs to a dead
    /// supervisor. Blocks.
    fn read_under_lease(
        &self,
        request: &TurnRequest,
        lease: &Lease,
        opencode: Opencode,
        mut record: Option<SessionRecord>,
    ) -> Result<AdmissionState, EngineError> {
        let adopted = match &mut record {
            Some(record) => {
                let opencode = self.of_session(&opencode, record);
                self.adopt(lease, record, Some(&opencode))?
            }
            None => None,
        };
        self.refuse_recorded(request, record.as_ref())?;
        self.refuse_wrong_mode(&request.address, request.mode, record.as_ref())?;
        if request.mode == Mode::Start
            && let Some(record) = &record
            && let Some(session) = &record.session
            && was_prompted(record, &self.of_session(&opencode, record))?
        {
            return Err(EngineError::AlreadyStarted {
                address: request.address.clone(),
                session: session.clone(),
            });
        }
        let message = match &record {
            Some(record) if self.has_prompt_of(record, &request.earlier)? => GO_ON.to_owned(),
            _ => request.prompt.clone(),
        };
        let mut notes = Vec::new();
        let mut record = match record {
            Some(record) if record.session.is_some() => {
                let opencode = self.of_session(&opencode, &record);
                check_session(record, &opencode)?
            }
            other => self.new_record(request, &opencode, other, &mut notes)?,
        };
        Self::refuse_without_sandbox(&record)?;
        if let Some(title) = &request.issue_title {
            record.issue_title = Some(title.clone());
        }
        Ok(AdmissionState {
            opencode,
            record,
            adopted,
            message,
            notes,
        })
    }

    /// Whether the newest message of the session is that of these turns. Turns that brought no message do not count.
    fn has_prompt_of(&self, record: &SessionRecord, turns: &[Uuid]) -> Result<bool, EngineError> {
        if turns.is_empty() {
            return Ok(false);
        }
        let ended = self.store.turns(&record.address)?;
        let mut newest_first = record.last.iter().chain(ended.iter().rev());
        let newest = newest_first.find(|turn| turn.prompt_stored != Some(false));
        Ok(newest.is_some_and(|turn| turn.prompt_stored == Some(true) && turns.contains(&turn.turn)))
    }

    fn refuse_wrong_mode(
        &self,
        address: &Address,
        mode: Mode,
        record: Option<&SessionRecord>,
    ) -> Result<(), EngineError> {
        let session = record.and_then(|record| record.session.clone());
        match (mode, session) {
            // The prompt of a lost first turn may never have reached opencode. The check under the lease decides.
            (Mode::Start, Some(session)) if !record.is_some_and(first_turn_in_doubt) => {
                Err(EngineError::AlreadyStarted {
                    address: address.clone(),
                    session,
                })
            }
            // A fork in the journal may have become a session. The check under the lease decides.
            (Mode::Continue, None) if record.is_none_or(|record| record.fork.is_none()) => {
                Err(self.no_session(address))
            }
            _ => Ok(()),
        }
    }

    fn new_record(
        &self,
        request: &TurnRequest,
        opencode: &Opencode,
        mut unforked: Option<SessionRecord>,
        notes: &mut Vec<String>,
    ) -> Result<SessionRecord, EngineError> {
        let base: BaseRecord = self.base_for(request.address.repo())?;
        let subject = Subject::Base(base.repo.clone());
        if read_database(opencode)?.session(&base.session)?.is_none() {
            let session = base.session;
            return Err(EngineError::SessionGone { subject, session });
        }
        if !base.directory.is_dir() {
            let directory = base.directory;
            return Err(EngineError::DirectoryGone { subject, directory });
        }
        let required = sandbox_of(&base) == SandboxMode::Required;
        let asked = request.sandbox.unwrap_or(sandbox_of(&base));
        if required && asked != SandboxMode::Required {
            return Err(EngineError::Usage {
                problem: format!("the base of {} requires a sandbox", base.repo),
                hint: "leave --sandbox out".to_owned(),
            });
        }
        let sandbox = match unforked.as_mut().and_then(|record| record.sandbox.take()) {
            // Asked for by the attempt that left the record.
            Some(sandbox) if request.sandbox.is_none() && (sandbox.strict || !required) => Some(sandbox),
            _ => self.new_sandbox(asked, notes)?,
        };
        let now = Timestamp::now();
        Ok(SessionRecord {
            schema: SCHEMA,
            address: request.address.clone(),
            typed: request.typed.clone(),
            session: None,
            fork: None,
            base: base.repo,
            base_session: base.session,
            directory: base.directory,
            forked_after: None,
            worktree: unforked.as_ref().and_then(|record| record.worktree.clone()),
            start_commit: unforked.as_ref().and_then(|record| record.start_commit.clone()),
            title: request.address.to_string(),
            issue_title: unforked.as_ref().and_then(|record| record.issue_title.clone()),
            policy: base.policy,
            sandbox,
            trust: base.trust.map(|mut trust| {
                // A first turn that was refused left a record that a person may have trusted since.
                let own = unforked.as_ref().and_then(|record| record.trust.as_ref());
                for digest in own.into_iter().flat_map(|own| &own.digests) {
                    trust.add(digest.clone());
                }
                trust
            }),
            opencode: opencode.version.to_string(),
            created: unforked.as_ref().map_or(now, |record| record.created),
            updated: now,
            live: None,
            last: unforked.as_ref().and_then(|record| record.last.clone()),
            totals: unforked
                .as_ref()
                .map_or_else(Totals::default, |record| record.totals),
            days: unforked.map(|record| record.days).unwrap_or_default(),
            pending: Vec::new(),
        })
    }
}

/// Checks that opencode still has the session. Blocks.
pub(in crate::operations) fn check_session(
    record: SessionRecord,
    opencode: &Opencode,
) -> Result<SessionRecord, EngineError> {
    let subject = Subject::Session(record.address.clone());
    if let Some(session) = &record.session
        && read_database(opencode)?.session(session)?.is_none()
    {
        let session = session.clone();
        return Err(EngineError::SessionGone { subject, session });
    }
    Ok(record)
}

fn check_directory(record: SessionRecord) -> Result<SessionRecord, EngineError> {
    if record.directory.is_dir() {
        return Ok(record);
    }
    Err(EngineError::DirectoryGone {
        subject: Subject::Session(record.address),
        directory: record.directory,
    })
}

/// Whether the record leaves open if a prompt has ever reached the session.
fn first_turn_in_doubt(record: &SessionRecord) -> bool {
    record.live.is_some()
        || record.totals.turns == 0
        || record
            .last
            .as_ref()
            .is_some_and(|last| last.verdict == Verdict::Lost)
}

pub(super) fn needs_serve() -> EngineError {
    EngineError::Usage {
        problem: "`opencode run` refuses every request itself, so no request can be answered".to_owned(),
        hint: "with --answers, --supervised or --on-ask block, use --transport serve".to_owned(),
    }
}
