//! The session of a turn: forks it if it does not exist yet, and writes its policy.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::{Delivery, TurnSubject};
use crate::opencode::{Database, DatabaseError, Opencode, SessionPatch};
use crate::operations::interrupts::Interrupts;
use crate::operations::spawn::Awaited;
use crate::operations::{Engine, EngineError, Subject, points};
use crate::permission::Rule;
use crate::transport::{ForkRequest, Target, TurnLink};
use kugetsu_api::{ForkIntent, SessionId, SessionRecord};

/// How long a fork waits for the fork of another session.
const FORK_WAIT: Duration = Duration::from_secs(60);

/// The interval between two attempts to take a lock that another process holds.
const LOCK_POLL: Duration = Duration::from_millis(50);

impl Delivery {
    /// The target of the prompt, with the policy in place. If the link forks together with the prompt,
    /// [`Delivery::record_fork`] does the rest.
    pub(super) async fn target(
        &mut self,
        link: &mut dyn TurnLink,
        interrupts: &mut Interrupts,
    ) -> Result<Target, EngineError> {
        let Some(session) = self.subject.session().cloned() else {
            return self.fork(link, interrupts).await;
        };
        self.save(interrupts).await?;
        points::TURN_LIVE.pass();
        self.apply_rules(interrupts).await?;
        Ok(Target::Session(session))
    }

    async fn fork(
        &mut self,
        link: &mut dyn TurnLink,
        interrupts: &mut Interrupts,
    ) -> Result<Target, EngineError> {
        let prompt_sha256 = sha256(&self.prompt);
        let TurnSubject::Session(record) = &self.subject else {
            return Err(EngineError::Internal("a base is not forked from another one"));
        };
        let request = ForkRequest {
            base: record.base_session.clone(),
            other_directory: self.subject.worktree().is_some(),
        };
        let ahead = link.forks_ahead(&request);
        let began = Instant::now();
        loop {
            let sha256 = prompt_sha256.clone();
            let attempt = move |engine: &Engine| {
                let lock = if ahead {
                    // Only one fork at a time is made ahead of its prompt. So an empty fork that a crash leaves behind
                    // belongs to the journal that is older than it.
                    engine.store.fork_lock(Duration::ZERO)
                } else {
                    // Only its prompt identifies this fork.
                    engine.store.prompt_lock(&sha256, Duration::ZERO)
                };
                Ok(lock?)
            };
            match self.engine.interruptible(interrupts, attempt).await {
                Ok(lock) => {
                    self.fork_lock = Some(lock);
                    self.waits.end();
                    break;
                }
                Err(EngineError::Store(error)) if error.is_temporary() && began.elapsed() <= FORK_WAIT => {
                    self.waits.begin(Awaited::Fork, error.holder().cloned());
                }
                Err(error) => return Err(error),
            }
            interrupts.or(tokio::time::sleep(LOCK_POLL)).await?;
        }
        let TurnSubject::Session(record) = &mut self.subject else {
            return Err(EngineError::Internal("a base is not forked from another one"));
        };
        record.fork = Some(ForkIntent {
            turn: self.turn,
            asked: Timestamp::now(),
            prompt_sha256,
            ahead,
        });
        self.save(interrupts).await?;
        points::FORK_INTENDED.pass();
        if !ahead {
            return Ok(Target::ForkOf(request.base));
        }
        let session = interrupts.or(link.fork(&request)).await??;
        points::FORK_MADE.pass();
        self.record_fork(&session, interrupts).await?;
        Ok(Target::Session(session))
    }

    /// Writes the fork's id into the record first, then writes the policy to the session.
    pub(super) async fn record_fork(
        &mut self,
        session: &SessionId,
        interrupts: &mut Interrupts,
    ) -> Result<(), EngineError> {
        if let TurnSubject::Session(record) = &mut self.subject {
            record.session = Some(session.clone());
            record.fork = None;
        }
        self.save(interrupts).await?;
        self.fork_lock = None;
        points::FORK_KNOWN.pass();
        self.apply_rules(interrupts).await?;
        points::FORK_SETTLED.pass();
        Ok(())
    }

    /// Writes the rules of this turn to the session. A base has had its rules since it was made, and an adopted base
    /// keeps its own.
    async fn apply_rules(&self, interrupts: &mut Interrupts) -> Result<(), EngineError> {
        let TurnSubject::Session(record) = &self.subject else {
            return Ok(());
        };
        self.engine.database_writable(&self.opencode, interrupts).await?;
        let (lease, opencode) = (Arc::clone(&self.lease), self.opencode.clone());
        let (record, rules) = (record.clone(), self.rules.clone());
        self.engine
            .interruptible(interrupts, move |engine| {
                let applied = engine.apply_rules(&opencode, &record, &rules);
                drop(lease);
                applied
            })
            .await
    }
}

impl Engine {
    /// Waits until opencode's database is writable. The writes that follow could wait themselves, but an interrupt
    /// could not end their wait.
    pub(in crate::operations) async fn database_writable(
        &self,
        opencode: &Opencode,
        interrupts: &mut Interrupts,
    ) -> Result<(), EngineError> {
        let (path, wait) = (opencode.database.clone(), self.database_wait());
        self.interruptible(interrupts, move |_| {
            Ok(Database::open_write(&path, wait)?.wait_until_writable()?)
        })
        .await
    }

    /// Like [`Engine::database_writable`], before opencode itself writes. Ignores problems other than a lock: opencode
    /// reports them, and makes a missing database.
    pub(in crate::operations) async fn database_unlocked(
        &self,
        opencode: &Opencode,
        interrupts: &mut Interrupts,
    ) -> Result<(), EngineError> {
        match self.database_writable(opencode, interrupts).await {
            Err(EngineError::Database(error)) if !error.is_locked() => Ok(()),
            other => other,
        }
    }

    /// Writes policy, directory and title into the session's row, and reads them back. Blocks.
    pub(in crate::operations) fn apply_policy(
        &self,
        opencode: &Opencode,
        record: &SessionRecord,
    ) -> Result<(), EngineError> {
        self.apply_rules(opencode, record, &record.policy.rules())
    }

    /// Like [`Engine::apply_policy`], with the rules of one turn instead of the policy's own. Blocks.
    pub(super) fn apply_rules(
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
        match self
            .write_database(&self.of_session(opencode, record))?
            .patch(session, &patch)
        {
            Ok(_) => Ok(()),
            Err(DatabaseError::NoSession { .. }) => Err(EngineError::SessionGone {
                subject: Subject::Session(record.address.clone()),
                session: session.clone(),
            }),
            Err(error) => Err(error.into()),
        }
    }
}

/// SHA-256 in lower-case hexadecimal.
pub(in crate::operations) fn sha256(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}
