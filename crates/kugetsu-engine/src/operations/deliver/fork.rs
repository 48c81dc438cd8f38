//! The session of a turn: forks it if it does not exist yet, and writes its policy.

use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::{Delivery, TurnSubject};
use crate::opencode::{Database, DatabaseError, Opencode, SessionPatch};
use crate::operations::interrupts::Interrupts;
use crate::operations::{Engine, EngineError, Subject, points, read_database};
use crate::permission::Rule;
use crate::transport::{ForkRequest, Target, TurnLink};
use crate::turn::Interrupt;
use kugetsu_api::{ForkIntent, SessionId, SessionRecord};

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
        self.note_messages(session.clone(), interrupts).await?;
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
        let turn = self.turn;
        let prompt_sha256 = sha256(&self.prompt);
        let other_directory = self.subject.worktree().is_some();
        let TurnSubject::Session(record) = &mut self.subject else {
            return Err(EngineError::Internal("a base is not forked from another one"));
        };
        let mark = format!("kugetsu fork {}", Uuid::new_v4().simple());
        let request = ForkRequest {
            base: record.base_session.clone(),
            other_directory,
        };
        let ahead = link.forks_ahead(&request);
        record.fork = Some(ForkIntent {
            turn,
            asked: Timestamp::now(),
            mark: mark.clone(),
            prompt_sha256,
            ahead,
        });
        self.save(interrupts).await?;
        points::FORK_INTENDED.pass();
        if !ahead {
            return Ok(Target::ForkOf {
                base: request.base,
                mark,
            });
        }
        let since = Instant::now();
        let session = interrupts.or(link.fork(&request)).await??;
        self.timings.fork = Some(self.phase_since(since));
        points::FORK_MADE.pass();
        self.mark_fork(&session, mark, interrupts).await?;
        points::FORK_MARKED.pass();
        self.record_fork(&session, interrupts).await?;
        Ok(Target::Session(session))
    }

    /// Gives a fork that was made ahead of its prompt its mark as its title, until the policy gives it its own. Without
    /// the mark, nobody could tell the fork from one that another home, or a person, makes at the same moment.
    async fn mark_fork(
        &self,
        session: &SessionId,
        mark: String,
        interrupts: &mut Interrupts,
    ) -> Result<(), EngineError> {
        let session = session.clone();
        let mark = move |database: &mut Database| {
            let patch = SessionPatch {
                title: Some(&mark),
                ..SessionPatch::default()
            };
            database.patch(&session, &patch)?;
            Ok(())
        };
        self.engine
            .write_when_writable(&self.opencode, interrupts, mark)
            .await
    }

    /// Writes the fork's id into the record first, then writes the policy to the session.
    pub(super) async fn record_fork(
        &mut self,
        session: &SessionId,
        interrupts: &mut Interrupts,
    ) -> Result<(), EngineError> {
        if let TurnSubject::Session(record) = &self.subject {
            let mark = record
                .fork
                .as_ref()
                .map(|fork| fork.mark.clone())
                .unwrap_or_default();
            let (opencode, session) = (self.opencode.clone(), session.clone());
            let read = move |_: &Engine| forked_after(&read_database(&opencode)?, &session, &mark);
            self.after = Some(self.engine.interruptible(interrupts, read).await?);
        }
        if let TurnSubject::Session(record) = &mut self.subject {
            record.session = Some(session.clone());
            record.fork = None;
            record.forked_after.clone_from(&self.after);
        }
        self.subject.set_after(self.after.clone());
        self.save(interrupts).await?;
        points::FORK_KNOWN.pass();
        self.apply_rules(interrupts).await?;
        points::FORK_SETTLED.pass();
        Ok(())
    }

    /// Notes which messages the session has before the turn.
    async fn note_messages(
        &mut self,
        session: SessionId,
        interrupts: &mut Interrupts,
    ) -> Result<(), EngineError> {
        let opencode = self.opencode.clone();
        let read = move |_: &Engine| Ok(read_database(&opencode)?.newest_messages(&session)?);
        self.after = Some(self.engine.interruptible(interrupts, read).await?);
        self.subject.set_after(self.after.clone());
        Ok(())
    }

    /// Writes the rules of this turn to the session. A base has had its rules since it was made, and an adopted base
    /// keeps its own.
    async fn apply_rules(&mut self, interrupts: &mut Interrupts) -> Result<(), EngineError> {
        let since = Instant::now();
        let TurnSubject::Session(record) = &self.subject else {
            return Ok(());
        };
        let (lease, record, rules) = (Arc::clone(&self.lease), record.clone(), self.rules.clone());
        // The lease is held until the database is closed.
        let apply = move |database: &mut Database| Ok((apply_rules(database, &record, &rules), lease));
        let (applied, _lease) = self
            .engine
            .write_when_writable(&self.opencode, interrupts, apply)
            .await?;
        self.timings.policy = Some(self.phase_since(since));
        applied
    }
}

impl Engine {
    /// Waits until opencode's database is writable.
    pub(in crate::operations) async fn database_writable(
        &self,
        opencode: &Opencode,
        interrupts: &mut Interrupts,
    ) -> Result<(), EngineError> {
        self.write_when_writable(opencode, interrupts, |_| Ok(())).await
    }

    /// Writes to opencode's database when it is writable. The write could wait itself, but then an interrupt during the
    /// wait would leave a write that is still to come.
    pub(in crate::operations) async fn write_when_writable<T: Send + 'static>(
        &self,
        opencode: &Opencode,
        interrupts: &mut Interrupts,
        write: impl FnOnce(&mut Database) -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let (file, wait) = (opencode.database_file(), self.database_wait());
        self.interruptible(interrupts, move |engine| {
            let mut database = file.open_write(wait)?;
            database.wait_until_writable()?;
            if engine.cancel.is_set() {
                // The caller gets the interrupt that has come.
                return Err(EngineError::Interrupted(Interrupt::Terminated));
            }
            write(&mut database)
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
            Err(EngineError::Database(error)) if !error.is_temporary() => Ok(()),
            other => other,
        }
    }

    /// Writes policy, directory and title into the session's row, and reads them back. Blocks.
    pub(in crate::operations) fn apply_policy(
        &self,
        opencode: &Opencode,
        record: &SessionRecord,
    ) -> Result<(), EngineError> {
        if record.session.is_none() {
            return Ok(());
        }
        let mut database = self.write_database(&self.of_session(opencode, record))?;
        apply_rules(&mut database, record, &record.policy.rules())
    }
}

/// Writes rules, directory and title into the session's row, and reads them back. Blocks.
fn apply_rules(database: &mut Database, record: &SessionRecord, rules: &[Rule]) -> Result<(), EngineError> {
    let Some(session) = &record.session else {
        return Ok(());
    };
    let patch = SessionPatch {
        permission: Some(rules),
        directory: Some(&record.directory),
        path: None,
        title: Some(&record.title),
    };
    match database.patch(session, &patch) {
        Ok(_) => Ok(()),
        Err(DatabaseError::NoSession { .. }) => Err(EngineError::SessionGone {
            subject: Subject::Session(record.address.clone()),
            session: session.clone(),
        }),
        Err(error) => Err(error.into()),
    }
}

/// The newest messages of a fork that are copies of its base's: those before the prompt with the mark, or all of them
/// if the fork has no such prompt.
pub(in crate::operations) fn forked_after(
    database: &Database,
    fork: &SessionId,
    mark: &str,
) -> Result<Vec<String>, EngineError> {
    Ok(match database.prompt_with(fork, mark)? {
        Some((_, before)) => before.into_iter().collect(),
        None => database.newest_messages(fork)?,
    })
}

/// SHA-256 in lower-case hexadecimal.
pub(in crate::operations) fn sha256(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}
