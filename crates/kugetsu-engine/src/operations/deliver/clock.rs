//! Refuses a turn on a session whose messages are newer than the system's clock.
//!
//! opencode orders the messages of a session by their times and ids, which its clock gives. If the clock was ahead for
//! a while, a new prompt is older than the messages before it: opencode takes the prompt for answered and ends at once,
//! or answers an older one again and again (measured on 1.3.2 and 1.18.33).

use jiff::Timestamp;

use super::{Delivery, TurnSubject};
use crate::opencode::{Database, DatabaseError, Opencode, is_later_than};
use crate::operations::error::Disorder;
use crate::operations::interrupts::Interrupts;
use crate::operations::{EngineError, Subject, read_database};
use kugetsu_api::SessionId;

impl Delivery {
    /// Refuses the turn if opencode would not see the prompt as the newest message.
    pub(super) async fn refuse_disorder(&self, interrupts: &mut Interrupts) -> Result<(), EngineError> {
        let (session, subject) = match &self.subject {
            TurnSubject::Session(record) => match &record.session {
                Some(session) => (session.clone(), Subject::Session(record.address.clone())),
                None => (record.base_session.clone(), Subject::Base(record.base.clone())),
            },
            TurnSubject::Base(record) => (record.session.clone(), Subject::Base(record.repo.clone())),
        };
        // A fork gets new ids.
        let forks = self.subject.session().is_none();
        let mut waited = false;
        loop {
            let (opencode, of) = (self.opencode.clone(), session.clone());
            let read = move |_: &_| Ok(disorder_of(&read_database(&opencode)?, &opencode, &of, forks)?);
            let Some(disorder) = self.engine.interruptible(interrupts, read).await? else {
                return Ok(());
            };
            match disorder.ahead() {
                Some(ahead) if !disorder.lasts() && !waited => {
                    waited = true;
                    interrupts.or(tokio::time::sleep(ahead)).await?;
                }
                _ => {
                    return Err(EngineError::ClockBehind {
                        subject,
                        session,
                        disorder,
                    });
                }
            }
        }
    }
}

/// Why opencode would not see a new prompt of this session as the newest message, if it would not. Blocks.
pub(in crate::operations) fn disorder_of(
    database: &Database,
    opencode: &Opencode,
    session: &SessionId,
    forks: bool,
) -> Result<Option<Disorder>, DatabaseError> {
    let order = database.message_order(session)?;
    let now = Timestamp::now();
    let newest = order
        .newest_ms
        .and_then(|ms| Timestamp::from_millisecond(ms).ok());
    if let Some(newest) = newest.filter(|newest| *newest > now) {
        return Ok(Some(Disorder::Future { newest, now }));
    }
    let is_later = |id: &String| is_later_than(id, now.as_millisecond());
    if !forks && opencode.compares_message_ids() && order.last.as_ref().is_some_and(is_later) {
        return Ok(Some(Disorder::Ids));
    }
    Ok(None)
}
