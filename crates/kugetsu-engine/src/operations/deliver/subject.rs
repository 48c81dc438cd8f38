//! The subject of a turn: a session with its record, or a base that `init` is making.

use std::path::Path;

use jiff::Timestamp;
use kugetsu_api::permission::Policy;
use kugetsu_api::{BaseRecord, LiveTurn, SessionId, SessionRecord, TurnRecord, Verdict, Worktree};

use crate::operations::points;
use crate::operations::{Engine, EngineError};
use crate::store::{Lease, RecordKey};

/// The subject of a turn.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "one for each turn")]
pub(in crate::operations) enum TurnSubject {
    /// A session and its record, which is in the store before the prompt goes out.
    Session(SessionRecord),
    /// A base. Its record enters the store when its prompt has completed; until then the journal of `init` names its
    /// session.
    Base(BaseRecord),
}

impl TurnSubject {
    pub(super) fn key(&self) -> RecordKey {
        match self {
            Self::Session(record) => (&record.address).into(),
            Self::Base(record) => (&record.repo).into(),
        }
    }

    /// The subject's session, once there is one.
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

    pub(super) fn policy(&self) -> &Policy {
        match self {
            Self::Session(record) => &record.policy,
            Self::Base(record) => &record.policy,
        }
    }

    pub(super) fn worktree(&self) -> Option<&Worktree> {
        match self {
            Self::Session(record) => record.worktree.as_ref(),
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

    /// Marks the turn as live, on this version of opencode.
    pub(super) fn begin(&mut self, live: LiveTurn, opencode: String) {
        match self {
            Self::Session(record) => {
                record.live = Some(live);
                record.opencode = opencode;
            }
            Self::Base(record) => record.opencode = opencode,
        }
    }

    /// Notes the commit that a session's first turn begins at.
    pub(super) fn begin_at(&mut self, commit: &str) {
        if let Self::Session(record) = self
            && record.session.is_none()
        {
            record.start_commit = Some(commit.to_owned());
        }
    }

    /// Notes the newest messages of the session before the turn.
    pub(super) fn set_after(&mut self, after: Option<Vec<String>>) {
        if let Self::Session(record) = self
            && let Some(live) = &mut record.live
        {
            live.after = after;
        }
    }

    /// Removes the turn from the record after nothing was delivered.
    pub(super) fn withdraw(&mut self) {
        if let Self::Session(record) = self {
            record.live = None;
            // Without a known id, opencode may still have made the requested fork. The journal stays, so that the next
            // command looks for the fork.
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

    /// Writes the record of the running turn, or the journal of a base. Blocks.
    pub(super) fn save(&self, engine: &Engine, lease: &Lease) -> Result<(), EngineError> {
        match self {
            Self::Session(record) => Ok(engine.store.save_session(lease, record)?),
            Self::Base(record) => engine.journal_prompt(record),
        }
    }

    /// Records the end of a turn on disk: its line first, then the record without the live turn. Blocks.
    pub(super) fn close(
        &mut self,
        engine: &Engine,
        lease: &Lease,
        turn: &TurnRecord,
    ) -> Result<(), EngineError> {
        match self {
            Self::Session(record) => {
                if turn.verdict == Verdict::Blocked {
                    // The line holds the verdict but not the request. After a crash that follows the line, a person
                    // must find both.
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
    /// Records the end of a session's turn on disk: its line first, then the record. Blocks.
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
