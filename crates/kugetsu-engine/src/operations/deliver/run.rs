//! A turn from its connector to its outcome.

use std::sync::Arc;

use async_trait::async_trait;

use super::admit::needs_serve;
use super::{Closed, Delivery};
use crate::aside::aside;
use crate::opencode::{Launch, Secrets};
use crate::operations::interrupts::{Interrupts, TO_END};
use crate::operations::{DEBUG_LOG, EngineError, points};
use crate::process;
use crate::redact::Redactor;
use crate::transport::{Connector, Target, TransportError, TurnLink, TurnSpec};
use crate::turn::status::StatusWriter;
use crate::turn::stream::{Feed, StreamEvent, StreamWriter};
use crate::turn::{self, ForkKeeper, Turn};
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
        interrupts: &mut Interrupts,
        feed: impl FnOnce(Feed) + Send,
    ) -> Result<Closed, EngineError> {
        if self.subject.session().is_none() {
            // The fork is opencode's to write, and a locked database fails it in four different ways.
            self.engine.database_writable(&self.opencode, interrupts).await?;
        }
        let spec = self.spec();
        let connected = match self.connect(spec.clone(), interrupts).await {
            Ok(connected) => connected,
            Err(error) => {
                self.abandon(&spec).await;
                return Err(error);
            }
        };
        self.through(connected, interrupts, feed).await
    }

    /// Reaches opencode in the way that the turn's options name.
    async fn connect(
        &mut self,
        spec: TurnSpec,
        interrupts: &mut Interrupts,
    ) -> Result<Connected, EngineError> {
        let serve = self.engine.connectors.serve.clone();
        let run = self.engine.connectors.run.clone();
        let (connector, link) = match self.options.transport {
            TransportChoice::Only(kind) => {
                let connector = if kind == TransportKind::Run { run } else { serve };
                let link = interrupts.or(connector.connect(&spec)).await??;
                (connector, link)
            }
            TransportChoice::Auto => match interrupts.or(serve.connect(&spec)).await? {
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
                    let link = interrupts.or(run.connect(&spec)).await??;
                    (run, link)
                }
                Err(other) => return Err(other.into()),
            },
        };
        Ok(Connected {
            connector,
            spec,
            link,
        })
    }

    /// Ends what an attempt to reach opencode has left, while the lease is held. An attempt that was interrupted may have
    /// started opencode already.
    async fn abandon(&self, spec: &TurnSpec) {
        let (lease, mark) = (Arc::clone(&self.lease), spec.launch.containment.mark);
        let swept = aside(move || {
            let _ = process::sweep_marked(mark);
            drop(lease);
        });
        let _ = tokio::time::timeout(TO_END, swept).await;
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
        interrupts: &mut Interrupts,
        feed: impl FnOnce(Feed) + Send,
    ) -> Result<Closed, EngineError> {
        let error = match self.prepare(&mut connected, interrupts).await {
            Ok(prepared) => return self.supervise(connected, prepared, interrupts, feed).await,
            Err(error) => error,
        };
        let at_once = matches!(error, EngineError::Interrupted(_));
        connected.link.close(at_once).await;
        if at_once {
            self.abandon(&connected.spec).await;
        }
        self.subject.withdraw();
        let withdrawal = self.record_write();
        // Where this fails as well, the next command withdraws the turn. The error tells what went wrong first.
        let _ = self.engine.begun(TO_END, interrupts, withdrawal).await;
        Err(error)
    }

    /// Everything before the prompt: the journal, the fork where the link can fork ahead, the policy, the stream.
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
        };
        self.subject.begin(live, self.opencode.version.to_string());
        let link = connected.link.as_mut();
        let target = self.target(kind, link, interrupts).await?;
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
        (target, stream): (Target, StreamWriter),
        interrupts: &mut Interrupts,
        feed: impl FnOnce(Feed) + Send,
    ) -> Result<Closed, EngineError> {
        let (mut status_writer, control) = StatusWriter::start(
            &self.engine.store,
            self.subject.key(),
            self.turn,
            self.started,
            self.subject.directory().to_owned(),
            self.subject.worktree(),
        );
        // The turn itself ends by an interrupt that comes here.
        let _ = interrupts.or(status_writer.wait_until_written()).await;
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
            interrupts: interrupts.receiver(),
            control,
        };
        let mut keeper = RecordFork {
            interrupts: interrupts.clone(),
            delivery: &mut self,
            problem: None,
        };
        let outcome = turn::supervise(turn, connector.as_ref(), link, &mut keeper).await;
        let problem = keeper.problem;
        points::TURN_ENDED.pass();
        let closed = self
            .close(outcome, connector.kind(), redactor, status_writer, interrupts)
            .await?;
        match problem {
            Some(error) => Err(error),
            None => Ok(closed),
        }
    }
}

/// Writes the fork's id into the record, and keeps the error itself, of which the turn gets the text.
struct RecordFork<'a> {
    delivery: &'a mut Delivery,
    interrupts: Interrupts,
    problem: Option<EngineError>,
}

#[async_trait]
impl ForkKeeper for RecordFork<'_> {
    async fn fork_known(&mut self, session: &SessionId) -> Result<(), String> {
        let known = self.delivery.know_fork(session, &mut self.interrupts).await;
        known.map_err(|error| {
            let text = error.to_string();
            // The turn itself ends by the interrupt.
            if !matches!(error, EngineError::Interrupted(_)) {
                self.problem = Some(error);
            }
            text
        })
    }
}
