//! Recovery after the death of a supervisor: closes its turn as `lost`, ends its processes and finds its fork.

use std::collections::HashSet;

use jiff::Timestamp;
use uuid::Uuid;

use super::deliver::forked_after;
use super::evidence::StoredEvidence;
use super::{Engine, EngineError, read_database};
use crate::opencode::{Opencode, TurnMessages};
use crate::process;
use crate::store::Lease;
use kugetsu_api::{ForkIntent, SessionId, SessionRecord, TurnRecord};

impl Engine {
    /// Repairs a record after the death of its supervisor, so that it has no live turn and no fork in the journal. The
    /// caller holds the lease. Returns the turn that was closed as lost, if there was one.
    pub(super) fn adopt(
        &self,
        lease: &Lease,
        record: &mut SessionRecord,
        opencode: Option<&Opencode>,
    ) -> Result<Option<TurnRecord>, EngineError> {
        if let Some(sandbox) = &record.sandbox {
            self.remove_keys(sandbox);
        }
        if record.live.is_none() && record.fork.is_none() {
            return Ok(None);
        }
        let opencode = opencode.map(|opencode| self.of_session(opencode, record));
        let opencode = opencode.as_ref();
        if let Some(live) = &record.live {
            process::sweep_marked(live.turn)?;
            for server in self.store.servers_of(live.turn) {
                process::sweep_marked(server)?;
            }
            self.remove_planted_links(record);
        }
        if let Some(intent) = record.fork.clone() {
            if record.session.is_none() {
                let probed;
                let opencode = match opencode {
                    Some(opencode) => opencode,
                    None => {
                        probed = self.opencode_of(record)?;
                        &probed
                    }
                };
                record.session = self.find_fork(record, &intent, opencode)?;
                if let Some(session) = &record.session {
                    let after = forked_after(&read_database(opencode)?, session, &intent.mark)?;
                    if let Some(live) = &mut record.live {
                        live.after = Some(after.clone());
                    }
                    record.forked_after = Some(after);
                }
                record.fork = None;
                record.updated = Timestamp::now();
                self.store.save_session(lease, record)?;
                self.apply_policy(opencode, record)?;
            }
            record.fork = None;
        }
        let Some(live) = record.live.clone() else {
            self.store.save_session(lease, record)?;
            return Ok(None);
        };
        // The end of the turn was not recorded, but opencode stored its messages and its cost.
        let probed = opencode
            .is_none()
            .then(|| self.opencode_of(record).ok())
            .flatten();
        let stored = opencode
            .or(probed.as_ref())
            .map_or_else(StoredEvidence::default, |opencode| {
                StoredEvidence::read(opencode, record.session.as_ref(), live.after.as_deref())
            });
        if stored.has_prompt() {
            remove_delivered(record, live.turn);
        }
        // After a crash between the turn's line and the record, the line has the verdict.
        let logged = self.store.turns(&record.address)?;
        if let Some(turn) = logged.into_iter().rev().find(|turn| turn.turn == live.turn) {
            record.ended(&turn);
            self.store.save_session(lease, record)?;
            return Ok(None);
        }
        let (cost_usd, tokens) = stored.spent_by_database().unwrap_or_default();
        let turn = TurnRecord {
            cost_usd,
            tokens,
            prompt_stored: live.prompt_sha256.is_some().then(|| stored.has_prompt()),
            ..TurnRecord::lost(&live, &record.opencode)
        };
        self.close_turn(lease, record, &turn)?;
        Ok(Some(turn))
    }

    /// The fork that the journal announces, if opencode made it: only a session with the journal's mark, and only if no
    /// record names it.
    fn find_fork(
        &self,
        record: &SessionRecord,
        intent: &ForkIntent,
        opencode: &Opencode,
    ) -> Result<Option<SessionId>, EngineError> {
        if intent.mark.is_empty() {
            return Ok(None);
        }
        let database = read_database(opencode)?;
        // Made ahead of its prompt.
        let mut found = database.sessions_titled(&intent.mark)?;
        // Made with its prompt.
        if let Some(base) = database.session(&record.base_session)? {
            for row in database.forks_of(&base)? {
                if database.prompt_with(&row.id, &intent.mark)?.is_some() {
                    found.push(row);
                }
            }
        }
        let known: HashSet<SessionId> = self
            .store
            .session_records()?
            .found
            .into_iter()
            .filter_map(|record| record.session)
            .collect();
        found.retain(|row| !known.contains(&row.id));
        // A tool may have forked the fork, with its prompt and the mark in it. Then nothing tells which one is the turn's.
        match &found[..] {
            [only] => Ok(Some(only.id.clone())),
            _ => Ok(None),
        }
    }
}

/// Removes the answers that a dead turn has delivered, so that the next turn does not grant them again. The request
/// that blocked the dead turn itself stays.
fn remove_delivered(record: &mut SessionRecord, turn: Uuid) {
    record.pending.retain(|request| request.turn == turn);
}

/// Whether a prompt has reached a session since it was forked. A record that does not tell which messages are copies
/// proves no such prompt, but the session's messages may be.
pub(super) fn was_prompted(record: &SessionRecord, opencode: &Opencode) -> Result<bool, EngineError> {
    let Some(session) = &record.session else {
        return Ok(false);
    };
    let after = record.forked_after.as_deref().unwrap_or_default();
    Ok(TurnMessages::read(&read_database(opencode)?, session, after)?.has_prompt())
}
