//! The turn itself, from the connection to the outcome.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;

use super::admit::needs_serve;
use super::watch::Watched;
use super::{Closed, Delivery, TurnSubject};
use crate::aside::aside;
use crate::opencode::{Launch, Secrets};
use crate::operations::broker::Broker;
use crate::operations::interrupts::{Interrupts, STOP_WAIT};
use crate::operations::{DEBUG_LOG, Engine, EngineError, points};
use crate::process;
use crate::redact::Redactor;
use crate::transport::{Connected, Connector, RawLogFile, Target, TurnSpec};
use crate::turn::status::{StatusWriter, TurnBudgets};
use crate::turn::stream::{Feed, StreamEvent, StreamWriter};
use crate::turn::{self, BudgetWatch, ForkRecorder, Interrupt, Turn};
use kugetsu_api::{LiveTurn, ParentTurn, SessionId, TurnRecord};

impl Delivery {
    /// Delivers the prompt and supervises the turn until it is closed on disk.
    pub(in crate::operations) async fn run(
        mut self,
        interrupts: &mut Interrupts,
        feed: impl FnOnce(Feed) + Send,
    ) -> Result<Closed, EngineError> {
        if self.subject.session().is_none() {
            // opencode writes the fork, and fails in four different ways if the database is locked.
            self.engine.database_writable(&self.opencode, interrupts).await?;
        }
        self.refuse_disorder(interrupts).await?;
        let spec = self.spec();
        self.kept_prompt = self.options.keep_prompt.then(|| {
            let clean = spec.launch.secrets.redactor.clean(&self.prompt);
            TurnRecord::kept_prompt(&clean)
        });
        self.before = self.read_clone(interrupts).await?;
        if let Some(commit) = self.before.as_ref().and_then(|before| before.reading.commit()) {
            self.subject.begin_at(commit);
        }
        let connectors = self.engine.connectors.clone();
        let since = Instant::now();
        let connect = connectors.connect(&spec, self.options.transport);
        let mut connected = match interrupts.or(connect).await {
            Ok(connected) => connected?,
            Err(interrupted) => {
                let connector = connectors.first(self.options.transport);
                self.abandon(connector, &spec).await;
                return Err(interrupted);
            }
        };
        self.timings.connect = Some(self.phase_since(since));
        self.fallback = connected.fallback.take();
        if self.fallback.is_some() && self.responder.is_interactive() {
            return Err(needs_serve());
        }
        self.run_connected(connected, spec, interrupts, feed).await
    }

    /// Ends the opencode that an interrupted step left behind, while the lease is held.
    async fn abandon(&self, connector: &Arc<dyn Connector>, spec: &TurnSpec) {
        let (lease, connector, spec) = (Arc::clone(&self.lease), Arc::clone(connector), spec.clone());
        let ended = tokio::spawn(async move {
            connector.abandon(&spec).await;
            drop(lease);
        });
        let _ = tokio::time::timeout(STOP_WAIT, ended).await;
    }

    fn spec(&self) -> TurnSpec {
        let folder = self.engine.store.folder(&self.subject.key());
        let mut containment = self.engine.containment(self.turn);
        containment.grace = self.options.limits.grace;
        TurnSpec {
            launch: Launch {
                opencode: self.opencode.clone(),
                containment,
                directory: self.subject.directory().to_owned(),
                rules: Some(self.rules.clone()),
                debug_log: self.options.debug.then(|| folder.join(DEBUG_LOG)),
                ready: self.engine.settings.ready_timeout,
                secrets: self
                    .responder
                    .answers
                    .as_ref()
                    .map_or_else(Secrets::default, |answers| Secrets::new(&answers.secrets))
                    .masking(&self.engine.forge_tokens()),
                context: self.context.clone(),
                ignore_project: self.ignore_project,
            },
            raw_log: Some(RawLogFile {
                path: folder.join(format!("{}.raw.log", self.turn)),
                max: self.engine.settings.log_max_bytes,
            }),
            model: self.options.model.clone(),
            agent: self.options.agent.clone(),
        }
    }

    async fn run_connected(
        mut self,
        mut connected: Connected,
        spec: TurnSpec,
        interrupts: &mut Interrupts,
        feed: impl FnOnce(Feed) + Send,
    ) -> Result<Closed, EngineError> {
        let error = match self.prepare(&mut connected, interrupts).await {
            Ok(prepared) => {
                return self.supervise(connected, spec, prepared, interrupts, feed).await;
            }
            Err(error) => error,
        };
        if interrupts.or(connected.link.close(false)).await.is_err() {
            connected.link.close(true).await;
            self.abandon(&connected.connector, &spec).await;
        }
        self.subject.withdraw();
        let withdrawal = self.record_write();
        // If this write fails as well, the next command withdraws the turn. The first error is the one to return.
        let _ = self.engine.run_required(STOP_WAIT, interrupts, withdrawal).await;
        Err(error)
    }

    /// Everything before the prompt: the journal, the fork if the link can fork ahead, the policy and the stream.
    async fn prepare(
        &mut self,
        connected: &mut Connected,
        interrupts: &mut Interrupts,
    ) -> Result<(Target, StreamWriter), EngineError> {
        let kind = connected.connector.kind();
        let live = LiveTurn {
            turn: self.turn,
            supervisor: process::current(),
            started: self.started,
            transport: kind,
            shared: self.engine.shared_process,
            prompt: self.kept_prompt.clone(),
            prompt_sha256: self.prompt_sha256.clone(),
            parent: self.parent(),
            after: None,
        };
        self.subject.begin(live, self.opencode.version.to_string());
        let link = connected.link.as_mut();
        let target = self.target(link, interrupts).await?;
        if let TurnSubject::Session(record) = &self.subject {
            let (base, directory) = (record.base.clone(), record.directory.clone());
            let watch = move |engine: &Engine| Ok(Watched::now(engine, &base, &directory));
            self.watched = Some(self.engine.interruptible(interrupts, watch).await?);
        }
        let (key, turn) = (self.subject.key(), self.turn);
        let mut stream = self
            .engine
            .interruptible(interrupts, move |engine| {
                Ok(StreamWriter::open(&engine.store, &key, turn)?)
            })
            .await?;
        let start = StreamEvent::AgentStart {
            transport: kind,
            opencode: self.subject.opencode().to_owned(),
            directory: self.subject.directory().to_owned(),
        };
        stream.write(start, &Redactor::default());
        let notes = self.notes.iter().map(|note| ("note", note));
        for (level, message) in notes.chain(self.fallback.iter().map(|reason| ("warning", reason))) {
            let (level, message) = (level.to_owned(), message.clone());
            let notice = StreamEvent::Notice { level, message };
            stream.write(notice, &Redactor::default());
        }
        Ok((target, stream))
    }

    /// The turn whose tool began this one.
    pub(super) fn parent(&self) -> Option<ParentTurn> {
        self.registered.as_ref()?.parent()
    }

    /// Serves the tools of the turn that begin further turns.
    fn broker(&self) -> Option<Broker> {
        let member = self.registered.as_ref()?.member();
        self.engine
            .serve_tools(&member)
            .inspect_err(|error| tracing::warn!("tools of this turn cannot begin turns: {error}"))
            .ok()
    }

    /// Ends the turns that tools of this one began, because it was ended by force. Nothing else waits for them.
    async fn stop_descendants(&self) {
        if let Some(registered) = self.registered.clone() {
            let engine = Arc::clone(&self.engine);
            let told = aside(move || engine.stop_descendants(&registered));
            let _ = tokio::time::timeout(STOP_WAIT, told).await;
        }
    }

    async fn supervise(
        mut self,
        connected: Connected,
        spec: TurnSpec,
        (target, stream): (Target, StreamWriter),
        interrupts: &mut Interrupts,
        feed: impl FnOnce(Feed) + Send,
    ) -> Result<Closed, EngineError> {
        let (mut status_writer, control) = StatusWriter::start(
            &self.engine.store,
            self.subject.key(),
            self.turn,
            self.started,
            (
                self.subject.directory().to_owned(),
                self.subject.worktree().map(|worktree| worktree.path.clone()),
            ),
            Arc::clone(&self.lease),
            TurnBudgets {
                of_family: self
                    .registered
                    .clone()
                    .map(|registered| registered as Arc<dyn BudgetWatch>),
                shared: self.engine.shared_budget.clone(),
            },
        );
        let _broker = self.broker();
        // An interrupt that comes here ends the turn itself.
        let _ = interrupts.or(status_writer.wait_until_written()).await;
        feed(stream.feed());
        let Connected { connector, link, .. } = connected;
        let redactor = spec.launch.secrets.redactor.clone();
        let turn = Turn {
            spec,
            target,
            after: self.after.clone().unwrap_or_default(),
            prompt: std::mem::take(&mut self.prompt),
            limits: self.options.limits.clone(),
            responder: std::mem::take(&mut self.responder),
            unattended: self.subject.policy().rules(),
            stream,
            interrupts: interrupts.receiver(),
            control,
        };
        let mut fork_recorder = DeliveryForkRecorder {
            interrupts: interrupts.clone(),
            delivery: &mut self,
            problem: None,
        };
        let outcome = turn::supervise(turn, connector.as_ref(), link, &mut fork_recorder).await;
        let problem = fork_recorder.problem;
        points::TURN_ENDED.pass();
        if outcome.interrupt == Interrupt::Now {
            self.stop_descendants().await;
        }
        let changes = self.changes(outcome.interrupt, interrupts).await;
        let shared = self.engine.shared_budget.clone();
        let below = match self.registered.clone().filter(|_| shared.is_some()) {
            Some(registered) => aside(move || registered.cost_below()).await,
            None => 0.0,
        };
        let closed = self
            .close(
                outcome,
                changes,
                connector.kind(),
                redactor,
                status_writer,
                interrupts,
            )
            .await?;
        if let Some(shared) = shared {
            // opencode may have stored more than its events told.
            let _ = shared.spent(closed.turn.turn, closed.turn.cost_usd + below).await;
        }
        match problem {
            Some(error) => Err(error),
            None => Ok(closed),
        }
    }
}

/// Writes the fork's id into the record. Keeps an error as a value, because the turn gets only its text.
struct DeliveryForkRecorder<'a> {
    delivery: &'a mut Delivery,
    interrupts: Interrupts,
    problem: Option<EngineError>,
}

#[async_trait]
impl ForkRecorder for DeliveryForkRecorder<'_> {
    async fn record_fork(&mut self, session: &SessionId) -> Result<Vec<String>, String> {
        let recorded = self.delivery.record_fork(session, &mut self.interrupts).await;
        let after = self.delivery.after.clone().unwrap_or_default();
        recorded.map(|()| after).map_err(|error| {
            let text = error.to_string();
            // The interrupt ends the turn itself.
            if !matches!(error, EngineError::Interrupted(_)) {
                self.problem = Some(error);
            }
            text
        })
    }
}
