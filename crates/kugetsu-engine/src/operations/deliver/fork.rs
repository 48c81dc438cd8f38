//! The session of a turn: its fork where it has none yet, and the policy that it carries.

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::{Delivery, TurnSubject};
use crate::opencode::{Database, DatabaseError, Opencode, SessionPatch};
use crate::operations::interrupts::Interrupts;
use crate::operations::{Engine, EngineError, points};
use crate::permission::Rule;
use crate::transport::{ForkRequest, Target, TurnLink};
use kugetsu_api::{ForkIntent, SessionId, SessionRecord};

/// How long a fork waits for the fork of another session.
const FORK_WAIT: Duration = Duration::from_secs(60);

/// How often a lock that somebody else holds is tried.
const LOCK_LOOK: Duration = Duration::from_millis(50);

impl Delivery {
    /// Where the prompt goes, with the policy in place. A link that forks together with the prompt leaves the rest to
    /// [`Delivery::know_fork`].
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
        let asked = Instant::now();
        loop {
            let sha256 = prompt_sha256.clone();
            let attempt = move |engine: &Engine| {
                let lock = if ahead {
                    // One fork ahead of its prompt at a time: an empty fork that a crash leaves behind can then only be
                    // of the journal that is older than it.
                    engine.store.fork_lock(Duration::ZERO)
                } else {
                    // Its fork is known by its prompt alone.
                    engine.store.prompt_lock(&sha256, Duration::ZERO)
                };
                Ok(lock?)
            };
            match self.engine.interruptible(interrupts, attempt).await {
                Ok(lock) => {
                    self.fork_lock = Some(lock);
                    break;
                }
                Err(EngineError::Store(error)) if error.is_temporary() && asked.elapsed() <= FORK_WAIT => {}
                Err(error) => return Err(error),
            }
            interrupts.or(tokio::time::sleep(LOCK_LOOK)).await?;
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
        self.know_fork(&session, interrupts).await?;
        Ok(Target::Session(session))
    }

    /// The fork's id is known: remember it first, then give the session what it must carry.
    pub(super) async fn know_fork(
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

    /// Gives a session the rules of this turn. A base has had its own since it was made, and an adopted one keeps what it
    /// came with.
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
    /// Waits until opencode's database can be written to. What is written then could wait itself, but nobody could
    /// interrupt it.
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

    /// The same before opencode itself is to write. Whatever else is wrong with the database, opencode says; where there is
    /// none, it makes one.
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

    /// The same with other rules than the policy's own, for one turn. Blocks.
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

/// SHA-256 in lower-case hexadecimal.
fn sha256(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}
