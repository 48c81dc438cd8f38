//! Recovery after the death of a supervisor: closes its turn as `lost`, ends its processes and finds its fork.

use std::collections::HashSet;

use jiff::Timestamp;
use uuid::Uuid;

use super::evidence::StoredEvidence;
use super::{Engine, EngineError, read_database};
use crate::opencode::{Database, Opencode, SessionRow, StoredMessage, prompt_matches};
use crate::process;
use crate::store::Lease;
use kugetsu_api::{ForkIntent, SessionId, SessionRecord, TurnRecord};

/// How long a fork without a prompt is watched. `opencode run --fork` writes the row first and the prompt a moment
/// later, and such a fork belongs to another turn.
const PROMPT_DELAY: std::time::Duration = std::time::Duration::from_secs(1);

impl Engine {
    /// Repairs a record after the death of its supervisor, so that it has no live turn and no fork in the journal. The
    /// caller holds the lease. Returns the turn that was closed as lost, if there was one.
    pub(super) fn adopt(
        &self,
        lease: &Lease,
        record: &mut SessionRecord,
        opencode: Option<&Opencode>,
    ) -> Result<Option<TurnRecord>, EngineError> {
        if record.live.is_none() && record.fork.is_none() {
            return Ok(None);
        }
        let opencode = opencode.map(|opencode| self.of_session(opencode, record));
        let opencode = opencode.as_ref();
        if let Some(live) = &record.live {
            process::sweep_marked(live.turn)?;
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
                let wait = std::time::Duration::from_secs(60);
                let _locks = (
                    self.store.prompt_lock(&intent.prompt_sha256, wait)?,
                    self.store.fork_lock(wait)?,
                );
                record.session = self.find_fork(record, &intent, opencode)?;
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
                StoredEvidence::since(opencode, record.session.as_ref(), live.started)
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
            ..TurnRecord::lost(&live, &record.opencode)
        };
        self.close_turn(lease, record, &turn)?;
        Ok(Some(turn))
    }

    /// The fork that the journal announces, if opencode made it. A session that another record names is never this
    /// fork.
    fn find_fork(
        &self,
        record: &SessionRecord,
        intent: &ForkIntent,
        opencode: &Opencode,
    ) -> Result<Option<SessionId>, EngineError> {
        let database = read_database(opencode)?;
        let Some(base) = database.session(&record.base_session)? else {
            return Ok(None);
        };
        let candidates = self.unclaimed_forks(&database, &base, intent)?;
        let mut empty = Vec::new();
        for row in &candidates {
            match new_prompt(&database, row)? {
                Some(prompt) if prompt_matches(&prompt, &intent.prompt_sha256) => {
                    return Ok(Some(row.id.clone()));
                }
                Some(_) => {}
                None => empty.push(row.id.clone()),
            }
        }
        // An empty fork certainly belongs to this journal only if the fork was made ahead of its prompt, under the fork
        // lock.
        if empty.is_empty() || !intent.ahead {
            return Ok(None);
        }
        std::thread::sleep(PROMPT_DELAY);
        for id in empty {
            if let Some(row) = database.session(&id)?
                && new_prompt(&database, &row)?.is_none()
            {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    fn unclaimed_forks(
        &self,
        database: &Database,
        base: &SessionRow,
        intent: &ForkIntent,
    ) -> Result<Vec<SessionRow>, EngineError> {
        let claimed: HashSet<SessionId> = self
            .store
            .session_records()?
            .found
            .into_iter()
            .filter_map(|record| record.session)
            .collect();
        let mut rows = database.forks_of(base, intent.asked.as_millisecond())?;
        rows.retain(|row| !claimed.contains(&row.id));
        rows.sort_by_key(|row| row.time_created);
        Ok(rows)
    }
}

/// Removes the answers that a dead turn has delivered, so that the next turn does not grant them again. The request
/// that blocked the dead turn itself stays.
fn remove_delivered(record: &mut SessionRecord, turn: Uuid) {
    record.pending.retain(|request| request.turn == turn);
}

/// The fork's last prompt that is not copied from its base.
fn new_prompt(database: &Database, fork: &SessionRow) -> Result<Option<String>, EngineError> {
    if !is_prompted(database, fork)? {
        return Ok(None);
    }
    Ok(database.last_user_text(&fork.id)?)
}

/// Whether a fork has received a prompt of its own. Copied messages keep their times, so messages that are not older
/// than the fork are its own. The number of the base's messages proves nothing, because the base may receive prompts as
/// well.
fn is_prompted(database: &Database, fork: &SessionRow) -> Result<bool, EngineError> {
    let own = database.messages_after(&fork.id, fork.time_created - 1)?;
    Ok(own.iter().any(StoredMessage::is_prompt))
}

/// Whether a prompt has reached a session since it was forked.
pub(super) fn was_prompted(session: &SessionId, opencode: &Opencode) -> Result<bool, EngineError> {
    let database = read_database(opencode)?;
    match database.session(session)? {
        Some(row) => is_prompted(&database, &row),
        None => Ok(false),
    }
}
