//! Whose turn it is: an address with its record, or a base that `init` is making.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use kugetsu_api::{BaseRecord, LiveTurn, SessionId, SessionRecord, TurnRecord, Verdict};

use crate::operations::points;
use crate::operations::{Engine, EngineError};
use crate::store::{Lease, RecordKey};

/// See the module.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "one for each turn")]
pub(in crate::operations) enum TurnSubject {
    /// A session and its record, which is in the store before the prompt goes out.
    Session(SessionRecord),
    /// A base. Its record comes into the store when its prompt has ended well; until then the journal of `init` tells of
    /// its session.
    Base(BaseRecord),
}

impl TurnSubject {
    pub(super) fn key(&self) -> RecordKey {
        match self {
            Self::Session(record) => (&record.address).into(),
            Self::Base(record) => (&record.repo).into(),
        }
    }

    /// Its session, once there is one.
    pub(super) fn session(&self) -> Option<&SessionId> {
        match self {
            Self::Session(record) => record.session.as_ref(),
            Self::Base(record) => Some(&record.session),
        }
    }

    pub(super) fn directory(&self) -> &Path {
        match self {
            Self::Session(record) => &record.directory,
            Self::Base(record) => &record.directory,
        }
    }

    pub(super) fn worktree(&self) -> Option<PathBuf> {
        match self {
            Self::Session(record) => record.worktree.as_ref().map(|worktree| worktree.path.clone()),
            Self::Base(_) => None,
        }
    }

    /// The version of opencode that runs the turn.
    pub(super) fn opencode(&self) -> &str {
        match self {
            Self::Session(record) => &record.opencode,
            Self::Base(record) => &record.opencode,
        }
    }

    /// A turn begins, on this version of opencode.
    pub(super) fn begin(&mut self, live: LiveTurn, opencode: String) {
        match self {
            Self::Session(record) => {
                record.live = Some(live);
                record.opencode = opencode;
            }
            Self::Base(record) => record.opencode = opencode,
        }
    }

    /// Nothing was delivered: the record goes back to what it was.
    pub(super) fn withdraw(&mut self) {
        if let Self::Session(record) = self {
            record.live = None;
            // Unless its id is known, a fork that was asked for may have been made all the same: the journal stays, and
            // the next command looks for it.
            if record.session.is_some() {
                record.fork = None;
            }
        }
    }

    pub(super) fn touch(&mut self) {
        match self {
            Self::Session(record) => record.updated = Timestamp::now(),
            Self::Base(record) => record.updated = Timestamp::now(),
        }
    }

    /// What tells of the running turn, on disk. Blocks.
    pub(super) fn save(&self, engine: &Engine, lease: &Lease) -> Result<(), EngineError> {
        match self {
            Self::Session(record) => Ok(engine.store.save_session(lease, record)?),
            Self::Base(record) => engine.journal_prompt(record),
        }
    }

    /// Ends a turn on disk: its line first, then the record, which no longer has it live. Blocks.
    pub(super) fn close(
        &mut self,
        engine: &Engine,
        lease: &Lease,
        turn: &TurnRecord,
    ) -> Result<(), EngineError> {
        match self {
            Self::Session(record) => {
                if turn.verdict == Verdict::Blocked {
                    // The line tells the verdict and not the request: after a crash behind it, a person must find both.
                    record.updated = Timestamp::now();
                    engine.store.save_session(lease, record)?;
                    points::REQUEST_RECORDED.pass();
                }
                engine.close_turn(lease, record, turn)
            }
            Self::Base(record) => Ok(engine.store.append_turn(lease, &record.repo, turn)?),
        }
    }
}

impl Engine {
    /// Ends a session's turn on disk: its line first, then the record. Blocks.
    pub(in crate::operations) fn close_turn(
        &self,
        lease: &Lease,
        record: &mut SessionRecord,
        turn: &TurnRecord,
    ) -> Result<(), EngineError> {
        self.store.append_turn(lease, &record.address, turn)?;
        points::TURN_LOGGED.pass();
        record.ended(turn);
        self.store.save_session(lease, record)?;
        Ok(())
    }
}
