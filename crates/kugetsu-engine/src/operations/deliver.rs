//! `start` and `continue`: one prompt to an issue's session, with everything around it.
//!
//! The order of what is written is the whole point. Before opencode is asked for a fork, the record says
//! that one is wanted; as soon as its id is known, the record holds it; the policy is in the database before
//! (serve) or right after (run, which has it by environment from the first prompt) the prompt goes out. So a
//! crash at any point leaves a session that the next command finds, or nothing.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use uuid::Uuid;

use super::evidence::Stored;
use super::hooks::HookPoint;
use super::recover::was_prompted;
use super::request::{Mode, TransportChoice, TurnReport, TurnRequest};
use super::{DEBUG_LOG, Engine, EngineError, pending, read_database};
use crate::fsx::crash_point;
use crate::opencode::{Database, DatabaseError, Launch, Opencode, Secrets, Server, SessionPatch};
use crate::permission::Rule;
use crate::process;
use crate::redact::Redactor;
use crate::store::{Holder, Lease, LeaseError, Lock, RecordKey};
use crate::transport::{Connector, OpencodeRun, PrivateServer, Target, TransportError, TurnLink, TurnSpec};
use crate::turn::status::StatusWriter;
use crate::turn::stream::{Feed, StreamEvent, StreamWriter};
use crate::turn::{self, Counts, ForkKeeper, Interrupt, Outcome, Responder, Turn};
use kugetsu_api::{
    BaseRecord, ForkIntent, LiveTurn, Proof, SCHEMA, SessionId, SessionRecord, Totals, TransportKind,
    TurnRecord, Verdict,
};

/// How long a fork waits for the fork of another issue.
const FORK_WAIT: Duration = Duration::from_secs(60);

/// How often a lease that somebody else holds is tried.
const LEASE_LOOK: Duration = Duration::from_millis(50);

/// What a turn carries through its steps.
struct Delivery<'a> {
    engine: &'a Engine,
    request: &'a TurnRequest,
    lease: &'a Lease,
    opencode: Opencode,
    record: SessionRecord,
    turn: Uuid,
    started: Timestamp,
    fallback: Option<String>,
    /// The answers to what the last turn was blocked on, then the message.
    prompt: String,
    /// What the session carries during this turn.
    rules: Vec<Rule>,
    responder: Responder,
    /// Held until the fork that was asked for is known.
    fork_lock: Option<Lock>,
}

impl Engine {
    /// Delivers one prompt. `watch` is handed the turn's stream as soon as there is one.
    pub async fn deliver(
        &self,
        request: &TurnRequest,
        responder: Responder,
        mut interrupts: watch::Receiver<Interrupt>,
        watch: impl FnOnce(Feed),
    ) -> Result<TurnReport, EngineError> {
        if responder.is_interactive() && request.transport == TransportChoice::Only(TransportKind::Run) {
            return Err(needs_serve());
        }
        self.check_worktree_request(&request.worktree)?;
        // A turn that is asked for again is no mistake; what is found under the lease decides.
        if request.turn.is_none() {
            refuse_wrong_mode(request, self.store.session_record(&request.address)?.as_ref())?;
        }
        let lease = self.lease(request, &mut interrupts).await?;
        crash_point("turn_leased");
        let opencode = self.opencode()?;
        // Under the lease nobody else changes the record, and a live turn in it is a dead one.
        let mut record = self.store.session_record(&request.address)?;
        let mut adopted = None;
        if let Some(record) = &mut record {
            if record.fork.is_some() {
                // Its fork, once found, is given its policy.
                self.database_writable(&opencode, &mut interrupts).await?;
            }
            adopted = self.adopt(&lease, record, Some(&opencode))?;
        }
        self.refuse_recorded(request, record.as_ref())?;
        refuse_wrong_mode(request, record.as_ref())?;
        if request.mode == Mode::Start
            && let Some(record) = &record
            && let Some(session) = &record.session
            && was_prompted(session, &opencode)?
        {
            return Err(EngineError::AlreadyStarted {
                address: request.address.clone(),
                session: session.clone(),
            });
        }
        let started = Timestamp::now();
        let record = match record {
            Some(record) if record.session.is_some() => check_session(record, &opencode)?,
            other => self.new_record(request, &opencode, other)?,
        };
        let (prompt, once) = pending::with_answers(&request.prompt, &record.pending);
        if prompt.trim().is_empty() {
            return Err(EngineError::Usage {
                problem: "the message is empty".to_owned(),
                hint: "write it after the reference, or pipe it in and write `-`".to_owned(),
            });
        }
        let mut rules = if responder.is_interactive() {
            record.policy.asking_rules()
        } else {
            record.policy.rules()
        };
        rules.extend(once);
        let mut notes = Vec::new();
        let record = self
            .with_worktree(&lease, record, &request.worktree, &mut interrupts, &mut notes)
            .await?;
        let record = check_directory(record)?;
        let turn = request.turn.unwrap_or_else(Uuid::now_v7);
        self.hook_or_interrupt(HookPoint::BeforeTurn, &record, Some(turn), &mut interrupts)
            .await?;
        let delivery = Delivery {
            engine: self,
            prompt,
            rules,
            responder,
            request,
            lease: &lease,
            opencode,
            record,
            turn,
            started,
            fork_lock: None,
            fallback: None,
        };
        let mut report = delivery.run(interrupts.clone(), watch).await?;
        report.adopted = adopted;
        report.notes = notes;
        if let Err(error) = self
            .hook_after_turn(&report.record, turn, report.interrupt, interrupts)
            .await
        {
            let note = match error {
                EngineError::Interrupted(_) => "hook_after_turn was interrupted".to_owned(),
                error => error.to_string(),
            };
            tracing::warn!("{note}");
            report.notes.push(note);
        }
        Ok(report)
    }

    /// Takes the lease, and waits for it as long as was asked for or until somebody interrupts.
    async fn lease(
        &self,
        request: &TurnRequest,
        interrupts: &mut watch::Receiver<Interrupt>,
    ) -> Result<Lease, EngineError> {
        let what = request.mode.verb();
        let asked = Instant::now();
        loop {
            let taken = self
                .store
                .lease_session(&request.address, Holder::this_process(what), None);
            let nobody_asks = *interrupts.borrow() == Interrupt::None;
            match taken {
                Err(LeaseError::Held { holder, .. })
                    if nobody_asks && self.may_wait(request, holder.as_ref(), asked.elapsed())? => {}
                other => return Ok(other?),
            }
            tokio::select! {
                () = tokio::time::sleep(LEASE_LOOK) => {}
                _ = interrupts.changed() => {}
            }
        }
    }

    fn new_record(
        &self,
        request: &TurnRequest,
        opencode: &Opencode,
        unborn: Option<SessionRecord>,
    ) -> Result<SessionRecord, EngineError> {
        let base: BaseRecord = self.base_for(request.address.repo())?;
        let of = format!("the base of {}", base.repo);
        if read_database(opencode)?.session(&base.session)?.is_none() {
            let session = base.session;
            return Err(EngineError::SessionGone { of, session });
        }
        if !base.directory.is_dir() {
            let directory = base.directory;
            return Err(EngineError::DirectoryGone { of, directory });
        }
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
            worktree: unborn.as_ref().and_then(|record| record.worktree.clone()),
            title: request.address.to_string(),
            policy: base.policy,
            opencode: opencode.version.to_string(),
            created: unborn.as_ref().map_or(now, |record| record.created),
            updated: now,
            live: None,
            last: unborn.as_ref().and_then(|record| record.last.clone()),
            totals: unborn
                .as_ref()
                .map_or_else(Totals::default, |record| record.totals),
            days: unborn.map(|record| record.days).unwrap_or_default(),
            pending: Vec::new(),
        })
    }

    /// Waits until opencode's database can be written to. What is written then could wait itself, but nobody could
    /// interrupt it.
    pub(super) async fn database_writable(
        &self,
        opencode: &Opencode,
        interrupts: &mut watch::Receiver<Interrupt>,
    ) -> Result<(), EngineError> {
        let (path, wait) = (opencode.database.clone(), self.database_wait());
        let writable = spawn_blocking(move || Database::open_write(&path, wait)?.wait_until_writable());
        match unless_interrupted(interrupts, writable).await? {
            Ok(writable) => Ok(writable?),
            // The thread panicked: the writes fail in their own words.
            Err(_) => Ok(()),
        }
    }

    /// The same before opencode itself is to write. Whatever else is wrong with the database, opencode says; where there is
    /// none, it makes one.
    pub(super) async fn database_unlocked(
        &self,
        opencode: &Opencode,
        interrupts: &mut watch::Receiver<Interrupt>,
    ) -> Result<(), EngineError> {
        match self.database_writable(opencode, interrupts).await {
            Err(EngineError::Database(error)) if !error.is_locked() => Ok(()),
            other => other,
        }
    }

    /// Writes policy, directory and title into the session's row, and reads them back.
    pub(super) fn apply_policy(
        &self,
        opencode: &Opencode,
        record: &SessionRecord,
    ) -> Result<(), EngineError> {
        self.apply_rules(opencode, record, &record.policy.rules())
    }

    /// The same with other rules than the policy's own, for one turn.
    fn apply_rules(
        &self,
        opencode: &Opencode,
        record: &SessionRecord,
        rules: &[Rule],
    ) -> Result<(), EngineError> {
        let Some(session) = &record.session else {
            return Ok(());
        };
        let patch = SessionPatch {
            permission: Some(rules),
            directory: Some(&record.directory),
            path: None,
            title: Some(&record.title),
        };
        match self.write_database(opencode)?.patch(session, &patch) {
            Ok(_) => Ok(()),
            Err(DatabaseError::NoSession { .. }) => Err(EngineError::SessionGone {
                of: record.address.to_string(),
                session: session.clone(),
            }),
            Err(error) => Err(error.into()),
        }
    }
}

impl Delivery<'_> {
    async fn run(
        mut self,
        mut interrupts: watch::Receiver<Interrupt>,
        watch: impl FnOnce(Feed),
    ) -> Result<TurnReport, EngineError> {
        if self.record.session.is_none() {
            // The fork is opencode's to write, and a locked database fails it in four different ways.
            self.engine
                .database_writable(&self.opencode, &mut interrupts)
                .await?;
        }
        let spec = self.spec();
        match self.request.transport {
            TransportChoice::Only(TransportKind::Run) => {
                let link = OpencodeRun.connect(&spec).await?;
                self.through(&OpencodeRun, link, interrupts, watch).await
            }
            TransportChoice::Only(TransportKind::Serve) => {
                let opening = PrivateServer.connect(&spec);
                let link = unless_interrupted(&mut interrupts, opening).await??;
                self.through(&PrivateServer, link, interrupts, watch).await
            }
            TransportChoice::Auto => {
                match unless_interrupted(&mut interrupts, PrivateServer.connect(&spec)).await? {
                    Ok(link) => self.through(&PrivateServer, link, interrupts, watch).await,
                    Err(TransportError::NotReady(_)) if self.responder.is_interactive() => Err(needs_serve()),
                    Err(TransportError::NotReady(why)) => {
                        let what = format!(
                            "opencode serve is not usable, so this turn goes through opencode run: {why}"
                        );
                        tracing::warn!("{what}");
                        self.fallback = Some(what);
                        let link = OpencodeRun.connect(&spec).await?;
                        self.through(&OpencodeRun, link, interrupts, watch).await
                    }
                    Err(other) => Err(other.into()),
                }
            }
        }
    }

    fn spec(&self) -> TurnSpec {
        let folder = self.engine.store.folder(&RecordKey::from(&self.record.address));
        let mut containment = self.engine.containment(self.turn);
        containment.grace = self.request.limits.grace;
        TurnSpec {
            launch: Launch {
                opencode: self.opencode.clone(),
                containment,
                directory: self.record.directory.clone(),
                rules: Some(self.rules.clone()),
                debug_log: self.request.debug.then(|| folder.join(DEBUG_LOG)),
                ready: self.engine.config.duration("ready_timeout"),
                secrets: self
                    .responder
                    .answers
                    .as_ref()
                    .map_or_else(Secrets::default, |answers| Secrets::new(&answers.secrets)),
            },
            raw_log: Some(folder.join(format!("{}.raw.log", self.turn))),
            model: self.request.model.clone(),
            agent: self.request.agent.clone(),
        }
    }

    async fn through(
        mut self,
        connector: &dyn Connector,
        mut link: Box<dyn TurnLink>,
        interrupts: watch::Receiver<Interrupt>,
        watch: impl FnOnce(Feed),
    ) -> Result<TurnReport, EngineError> {
        match self
            .prepare(connector.kind(), link.as_mut(), &mut interrupts.clone())
            .await
        {
            Ok((target, stream)) => {
                self.supervise(connector, link, target, stream, interrupts, watch)
                    .await
            }
            Err(error) => {
                link.close(false).await;
                // Nothing was delivered: the record goes back to what it was, as far as the store allows.
                self.record.live = None;
                // Unless its id is known, a fork that was asked for may have been made all the same: the journal
                // stays, and the next command looks for it.
                if self.record.session.is_some() {
                    self.record.fork = None;
                }
                let _ = self.save();
                Err(error)
            }
        }
    }

    fn save(&mut self) -> Result<(), EngineError> {
        self.record.updated = Timestamp::now();
        Ok(self.engine.store.save_session(self.lease, &self.record)?)
    }

    /// Everything before the prompt: the journal, the fork where the transport can fork ahead, the policy.
    async fn prepare(
        &mut self,
        kind: TransportKind,
        link: &mut dyn TurnLink,
        interrupts: &mut watch::Receiver<Interrupt>,
    ) -> Result<(Target, (StreamWriter, Feed)), EngineError> {
        self.record.live = Some(LiveTurn {
            turn: self.turn,
            supervisor: process::current(),
            started: self.started,
            transport: kind,
        });
        self.record.opencode = self.opencode.version.to_string();
        let target = if let Some(session) = self.record.session.clone() {
            self.save()?;
            crash_point("turn_live");
            self.engine.database_writable(&self.opencode, interrupts).await?;
            self.engine
                .apply_rules(&self.opencode, &self.record, &self.rules)?;
            Target::Session(session)
        } else {
            self.fork(kind, link, interrupts).await?
        };
        let key = RecordKey::from(&self.record.address);
        let (mut stream, feed) = StreamWriter::open(&self.engine.store, &key, self.turn)?;
        let start = StreamEvent::AgentStart {
            transport: kind,
            opencode: self.record.opencode.clone(),
            directory: self.record.directory.clone(),
        };
        stream.write(start, &Redactor::default());
        if let Some(what) = &self.fallback {
            let (level, message) = ("warning".to_owned(), what.clone());
            let notice = StreamEvent::Notice { level, message };
            stream.write(notice, &Redactor::default());
        }
        Ok((target, (stream, feed)))
    }

    async fn fork(
        &mut self,
        kind: TransportKind,
        link: &mut dyn TurnLink,
        interrupts: &mut watch::Receiver<Interrupt>,
    ) -> Result<Target, EngineError> {
        let prompt_sha256 = sha256(&self.prompt);
        let aside = kind == TransportKind::Run && self.record.worktree.is_some();
        let store = &self.engine.store;
        let asked = Instant::now();
        self.fork_lock = loop {
            let taken = if aside || kind == TransportKind::Serve {
                // One fork ahead of its prompt at a time: an empty fork that a crash leaves behind can then only be
                // of the journal that is older than it.
                store.fork_lock(Duration::ZERO)
            } else {
                // Its fork is known by its prompt alone.
                store.prompt_lock(&prompt_sha256, Duration::ZERO)
            };
            match taken {
                Ok(lock) => break Some(lock),
                Err(error) if !error.is_temporary() || asked.elapsed() > FORK_WAIT => {
                    return Err(error.into());
                }
                Err(_) => unless_interrupted(interrupts, tokio::time::sleep(LEASE_LOOK)).await?,
            }
        };
        self.record.fork = Some(ForkIntent {
            turn: self.turn,
            asked: Timestamp::now(),
            prompt_sha256,
            ahead: aside || kind == TransportKind::Serve,
        });
        self.save()?;
        crash_point("fork_intended");
        let base = self.record.base_session.clone();
        let session = if aside {
            unless_interrupted(interrupts, self.fork_aside(&base)).await??
        } else {
            match unless_interrupted(interrupts, link.fork(&base)).await?? {
                Some(session) => session,
                None => return Ok(Target::ForkOf(base)),
            }
        };
        crash_point("fork_made");
        self.know(&session)?;
        Ok(Target::Session(session))
    }

    /// Forks through a server of its own. `opencode run --fork` in a folder that is not the base's makes the fork
    /// and then hangs for ever (1.18.33), so a session with a worktree is forked and moved there before its prompt.
    async fn fork_aside(&self, base: &SessionId) -> Result<SessionId, EngineError> {
        let mut launch = self
            .engine
            .short_launch(&self.opencode, self.record.directory.clone());
        launch.containment.mark = self.turn;
        let mut server = Server::start(&launch).await?;
        let fork = server.api().fork(base).await;
        server.stop(false).await;
        Ok(fork?)
    }

    /// The fork's id is known: remember it first, then give the session what it must carry.
    fn know(&mut self, session: &SessionId) -> Result<(), EngineError> {
        self.record.session = Some(session.clone());
        self.record.fork = None;
        self.save()?;
        self.fork_lock = None;
        crash_point("fork_known");
        self.engine
            .apply_rules(&self.opencode, &self.record, &self.rules)?;
        crash_point("fork_settled");
        Ok(())
    }

    async fn supervise(
        mut self,
        connector: &dyn Connector,
        link: Box<dyn TurnLink>,
        target: Target,
        (stream, feed): (StreamWriter, Feed),
        interrupts: watch::Receiver<Interrupt>,
        watch: impl FnOnce(Feed),
    ) -> Result<TurnReport, EngineError> {
        let (status_writer, control) = StatusWriter::start(
            &self.engine.store,
            RecordKey::from(&self.record.address),
            self.turn,
            self.started,
            self.record.directory.clone(),
            self.record
                .worktree
                .as_ref()
                .map(|worktree| worktree.path.clone()),
        );
        watch(feed);
        let prompt = std::mem::take(&mut self.prompt);
        let spec = self.spec();
        let redactor = spec.launch.secrets.redactor.clone();
        let turn = Turn {
            spec,
            target,
            prompt,
            limits: self.request.limits.clone(),
            responder: std::mem::take(&mut self.responder),
            stream,
            interrupts,
            control,
        };
        let kind = connector.kind();
        let mut keeper = KeepFork {
            delivery: &mut self,
            problem: None,
        };
        let outcome = turn::supervise(turn, connector, link, &mut keeper).await;
        let store_problem = keeper.problem;
        crash_point("turn_ended");
        let report = self.finish(outcome, kind, &redactor)?;
        status_writer.end(report.turn.verdict);
        match store_problem {
            Some(error) => Err(error),
            None => Ok(report),
        }
    }

    fn finish(
        mut self,
        outcome: Outcome,
        transport: TransportKind,
        redactor: &Redactor,
    ) -> Result<TurnReport, EngineError> {
        let stored = Stored::since(&self.opencode, self.record.session.as_ref(), self.started);
        let mut judgement = stored.verify(outcome.judgement);
        judgement.reason = redactor.clean(&judgement.reason).into_owned();
        let (cost_usd, tokens) = stored.spent(&outcome.counts);
        let counts = Counts {
            cost_usd,
            tokens,
            ..outcome.counts
        };
        let proof = if judgement.verdict == Verdict::Completed {
            Proof::default()
        } else {
            outcome.proof
        };
        let log_gap = outcome.ending.tell(&judgement, counts, proof.clone());
        let turn = TurnRecord {
            schema: SCHEMA,
            turn: self.turn,
            verdict: judgement.verdict,
            reason: judgement.reason,
            retry_at: judgement.retry_at,
            proof,
            transport,
            started: self.started,
            ended: Timestamp::now(),
            steps: outcome.counts.steps,
            tool_calls: outcome.counts.tool_calls,
            cost_usd,
            tokens,
            opencode: self.record.opencode.clone(),
            events: outcome.counts.events,
            restarts: outcome.restarts,
            answered: outcome.answered,
            log_gap,
        };
        // A person's answer that never reached the session waits for the next turn.
        if outcome.blocked_on.is_some() || stored.has_prompt() {
            self.record.pending = outcome
                .blocked_on
                .map(|request| pending::of(&request, self.turn, redactor))
                .into_iter()
                .collect();
        }
        // Without a known session the journal stays: the next command looks for the fork.
        if self.record.session.is_some() {
            self.record.fork = None;
        }
        if turn.verdict == Verdict::Blocked {
            // The line tells the verdict and not the request: after a crash behind it, a person must find both.
            self.save()?;
            crash_point("request_recorded");
        }
        self.engine.close_turn(self.lease, &mut self.record, &turn)?;
        if self.rules != self.record.policy.rules() {
            // What was allowed for one turn ends with it; the next turn writes the policy again in any case.
            let _ = self.engine.apply_policy(&self.opencode, &self.record);
        }
        Ok(TurnReport {
            record: self.record,
            turn,
            answer: outcome.answer,
            interrupt: outcome.interrupt,
            adopted: None,
            fallback: self.fallback,
            notes: Vec::new(),
        })
    }
}

struct KeepFork<'a, 'b> {
    delivery: &'a mut Delivery<'b>,
    problem: Option<EngineError>,
}

#[async_trait]
impl ForkKeeper for KeepFork<'_, '_> {
    async fn fork_known(&mut self, session: &SessionId) -> Result<(), String> {
        self.delivery.know(session).map_err(|error| {
            let text = error.to_string();
            self.problem = Some(error);
            text
        })
    }
}

impl Engine {
    /// Ends a turn on disk: its line first, then the record, which no longer has it live.
    pub(super) fn close_turn(
        &self,
        lease: &Lease,
        record: &mut SessionRecord,
        turn: &TurnRecord,
    ) -> Result<(), EngineError> {
        self.store.append_turn(lease, &record.address, turn)?;
        crash_point("turn_logged");
        record.ended(turn);
        self.store.save_session(lease, record)?;
        Ok(())
    }
}

/// Waits until somebody wants the turn to end.
pub(super) async fn interrupted(interrupts: &mut watch::Receiver<Interrupt>) -> Interrupt {
    match interrupts.wait_for(|wish| *wish != Interrupt::None).await {
        Ok(wish) => *wish,
        Err(_) => std::future::pending().await,
    }
}

/// Does something for as long as nobody wants the turn to end.
pub(super) async fn unless_interrupted<F: Future>(
    interrupts: &mut watch::Receiver<Interrupt>,
    work: F,
) -> Result<F::Output, EngineError> {
    tokio::select! {
        biased;
        wish = interrupted(interrupts) => Err(EngineError::Interrupted(wish)),
        done = work => Ok(done),
    }
}

fn refuse_wrong_mode(request: &TurnRequest, record: Option<&SessionRecord>) -> Result<(), EngineError> {
    let session = record.and_then(|record| record.session.clone());
    match (request.mode, session) {
        // A first turn that was lost may never have reached opencode: what is found under the lease decides.
        (Mode::Start, Some(session)) if !record.is_some_and(first_turn_in_doubt) => {
            Err(EngineError::AlreadyStarted {
                address: request.address.clone(),
                session,
            })
        }
        // With a fork in the journal there may be one; what is found under the lease decides.
        (Mode::Continue, None) if record.is_none_or(|record| record.fork.is_none()) => {
            Err(EngineError::NoSession(request.address.clone()))
        }
        _ => Ok(()),
    }
}

/// That opencode still has the session, and the disk its directory.
pub(super) fn check_session(
    record: SessionRecord,
    opencode: &Opencode,
) -> Result<SessionRecord, EngineError> {
    let of = record.address.to_string();
    if let Some(session) = &record.session
        && read_database(opencode)?.session(session)?.is_none()
    {
        let session = session.clone();
        return Err(EngineError::SessionGone { of, session });
    }
    Ok(record)
}

fn check_directory(record: SessionRecord) -> Result<SessionRecord, EngineError> {
    if record.directory.is_dir() {
        return Ok(record);
    }
    Err(EngineError::DirectoryGone {
        of: record.address.to_string(),
        directory: record.directory,
    })
}

/// Whether the record alone cannot tell if a prompt has ever reached the session.
fn first_turn_in_doubt(record: &SessionRecord) -> bool {
    record.live.is_some()
        || record.totals.turns == 0
        || record
            .last
            .as_ref()
            .is_some_and(|last| last.verdict == Verdict::Lost)
}

fn needs_serve() -> EngineError {
    EngineError::Usage {
        problem: "`opencode run` refuses every request by itself, so nobody can answer there".to_owned(),
        hint: "use --transport serve with --answers, --supervised and --on-ask block".to_owned(),
    }
}

/// SHA-256 in lower-case hexadecimal.
fn sha256(text: &str) -> String {
    use std::fmt::Write as _;
    let mut hex = String::with_capacity(64);
    for byte in Sha256::digest(text.as_bytes()) {
        // Writing to a String cannot fail.
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}
