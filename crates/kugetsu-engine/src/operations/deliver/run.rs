//! A turn from its connector to its outcome.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;

use super::admit::needs_serve;
use super::{Closed, Delivery, unless_interrupted};
use crate::aside::aside;
use crate::opencode::{Launch, Secrets};
use crate::operations::points;
use crate::operations::{DEBUG_LOG, EngineError};
use crate::process;
use crate::redact::Redactor;
use crate::transport::{Connector, Target, TransportError, TurnLink, TurnSpec};
use crate::turn::status::StatusWriter;
use crate::turn::stream::{Feed, StreamEvent, StreamWriter};
use crate::turn::{self, ForkKeeper, Interrupt, Turn};
use kugetsu_api::{LiveTurn, SessionId, TransportChoice, TransportKind};

/// opencode within reach, for one turn.
struct Connected {
    connector: Arc<dyn Connector>,
    spec: TurnSpec,
    link: Box<dyn TurnLink>,
}

impl Delivery {
    /// Delivers the prompt and supervises the turn until it is closed on disk.
    pub(in crate::operations) async fn run(
        mut self,
        mut interrupts: watch::Receiver<Interrupt>,
        feed: impl FnOnce(Feed) + Send,
    ) -> Result<Closed, EngineError> {
        if self.subject.session().is_none() {
            // The fork is opencode's to write, and a locked database fails it in four different ways.
            self.engine
                .database_writable(&self.opencode, &mut interrupts)
                .await?;
        }
        let spec = self.spec();
        let serve = self.engine.connectors.serve.clone();
        let run = self.engine.connectors.run.clone();
        let (connector, link) = match self.options.transport {
            TransportChoice::Only(kind) => {
                let connector = if kind == TransportKind::Run { run } else { serve };
                let link = unless_interrupted(&mut interrupts, connector.connect(&spec)).await??;
                (connector, link)
            }
            TransportChoice::Auto => {
                let link = unless_interrupted(&mut interrupts, serve.connect(&spec)).await?;
                match link {
                    Ok(link) => (serve, link),
                    Err(TransportError::NotReady(_)) if self.responder.is_interactive() => {
                        return Err(needs_serve());
                    }
                    Err(TransportError::NotReady(why)) => {
                        let what = format!(
                            "opencode serve is not usable, so this turn goes through opencode run: {why}"
                        );
                        tracing::warn!("{what}");
                        self.fallback = Some(what);
                        let link = run.connect(&spec).await?;
                        (run, link)
                    }
                    Err(other) => return Err(other.into()),
                }
            }
        };
        let connected = Connected {
            connector,
            spec,
            link,
        };
        self.through(connected, interrupts, feed).await
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
                    .map_or_else(Secrets::default, |answers| Secrets::new(&answers.secrets)),
            },
            raw_log: Some(folder.join(format!("{}.raw.log", self.turn))),
            model: self.options.model.clone(),
            agent: self.options.agent.clone(),
        }
    }

    async fn through(
        mut self,
        mut connected: Connected,
        interrupts: watch::Receiver<Interrupt>,
        feed: impl FnOnce(Feed) + Send,
    ) -> Result<Closed, EngineError> {
        let prepared = self.prepare(&mut connected, &mut interrupts.clone()).await;
        match prepared {
            Ok((target, stream)) => self.supervise(connected, target, stream, interrupts, feed).await,
            Err(error) => {
                connected.link.close(false).await;
                self.subject.withdraw();
                // As far as the store allows: the error tells what went wrong first.
                let _ = self.save().await;
                Err(error)
            }
        }
    }

    /// Everything before the prompt: the journal, the fork where the link can fork ahead, the policy, the stream.
    async fn prepare(
        &mut self,
        connected: &mut Connected,
        interrupts: &mut watch::Receiver<Interrupt>,
    ) -> Result<(Target, StreamWriter), EngineError> {
        let kind = connected.connector.kind();
        let live = LiveTurn {
            turn: self.turn,
            supervisor: process::current(),
            started: self.started,
            transport: kind,
            shared: self.engine.shared_process,
        };
        self.subject.begin(live, self.opencode.version.to_string());
        let link = connected.link.as_mut();
        let target = self.target(kind, link, interrupts).await?;
        let (store, key, turn) = (self.engine.store.clone(), self.subject.key(), self.turn);
        let mut stream = aside(move || StreamWriter::open(&store, &key, turn)).await?;
        let start = StreamEvent::AgentStart {
            transport: kind,
            opencode: self.subject.opencode().to_owned(),
            directory: self.subject.directory().to_owned(),
        };
        stream.write(start, &Redactor::default());
        if let Some(what) = &self.fallback {
            let (level, message) = ("warning".to_owned(), what.clone());
            let notice = StreamEvent::Notice { level, message };
            stream.write(notice, &Redactor::default());
        }
        Ok((target, stream))
    }

    async fn supervise(
        mut self,
        connected: Connected,
        target: Target,
        stream: StreamWriter,
        interrupts: watch::Receiver<Interrupt>,
        feed: impl FnOnce(Feed) + Send,
    ) -> Result<Closed, EngineError> {
        let (status_writer, control) = StatusWriter::start(
            &self.engine.store,
            self.subject.key(),
            self.turn,
            self.started,
            self.subject.directory().to_owned(),
            self.subject.worktree(),
        )
        .await;
        feed(stream.feed());
        let Connected {
            connector,
            spec,
            link,
        } = connected;
        let redactor = spec.launch.secrets.redactor.clone();
        let turn = Turn {
            spec,
            target,
            prompt: std::mem::take(&mut self.prompt),
            limits: self.options.limits.clone(),
            responder: std::mem::take(&mut self.responder),
            stream,
            interrupts,
            control,
        };
        let mut keeper = RecordFork {
            delivery: &mut self,
            problem: None,
        };
        let outcome = turn::supervise(turn, connector.as_ref(), link, &mut keeper).await;
        let problem = keeper.problem;
        points::TURN_ENDED.pass();
        let closed = self
            .close(outcome, connector.kind(), redactor, status_writer)
            .await?;
        match problem {
            Some(error) => Err(error),
            None => Ok(closed),
        }
    }
}

/// Writes the fork's id into the record; keeps the error itself, of which the turn knows the words.
struct RecordFork<'a> {
    delivery: &'a mut Delivery,
    problem: Option<EngineError>,
}

#[async_trait]
impl ForkKeeper for RecordFork<'_> {
    async fn fork_known(&mut self, session: &SessionId) -> Result<(), String> {
        self.delivery.know_fork(session).await.map_err(|error| {
            let text = error.to_string();
            self.problem = Some(error);
            text
        })
    }
}
