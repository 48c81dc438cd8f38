//! The evidence that opencode has stored about a turn. A verdict is checked against it, because events can be lost and
//! rows of a database cannot.

use super::read_database;
use crate::opencode::{MessageOrder, Opencode, TurnMessages};
use crate::turn::{CLOCK_WENT_BACK, Counts, Judgement};
use kugetsu_api::{SessionId, TokenCount, Verdict};

/// One reading of the database. Data that could not be read is absent and proves nothing.
#[derive(Default)]
pub(super) struct StoredEvidence {
    messages: Option<TurnMessages>,
    order: MessageOrder,
    spent: Option<(f64, TokenCount)>,
    /// Why messages or their order could not be read.
    unread: Option<String>,
}

impl StoredEvidence {
    /// Reads what opencode stored in a session after these messages.
    pub(super) fn read(opencode: &Opencode, session: Option<&SessionId>, after: Option<&[String]>) -> Self {
        let (Some(session), Some(after)) = (session, after) else {
            return Self::default();
        };
        let database = match read_database(opencode) {
            Ok(database) => database,
            Err(error) => {
                return Self {
                    unread: Some(error.to_string()),
                    ..Self::default()
                };
            }
        };
        let (messages, order) = (
            TurnMessages::read(&database, session, after),
            database.message_order(session),
        );
        let problems = [messages.as_ref().err(), order.as_ref().err()];
        let unread = problems.into_iter().flatten().next().map(ToString::to_string);
        Self {
            messages: messages.ok(),
            order: order.unwrap_or_default(),
            spent: database.spent(session, after).ok(),
            unread,
        }
    }

    /// What a person must know about a verdict that nothing stored could confirm.
    pub(super) fn warning(&self, verdict: Verdict) -> Option<String> {
        let problem = self.unread.as_ref()?;
        (verdict == Verdict::Completed).then(|| {
            format!(
                "the messages that opencode stored could not be read, so the verdict is known from opencode's \
                 events alone: {problem}"
            )
        })
    }

    /// Whether the prompt has reached the session.
    pub(super) fn has_prompt(&self) -> bool {
        self.messages.as_ref().is_some_and(TurnMessages::has_prompt)
    }

    /// Cost and tokens from the database alone, for a turn whose events were not recorded.
    pub(super) fn spent_by_database(&self) -> Option<(f64, TokenCount)> {
        self.spent
    }

    /// Cost and tokens from the database if they exceed those of the events, because events can be lost.
    pub(super) fn spent(&self, counts: &Counts) -> (f64, TokenCount) {
        match self.spent {
            Some((cost_usd, tokens)) if tokens.total() > counts.tokens.total() => {
                (cost_usd.max(counts.cost_usd), tokens)
            }
            _ => (counts.cost_usd, counts.tokens),
        }
    }

    /// The stored text of the last answer that has any: the text itself if it has at most so many bytes, otherwise its
    /// length. `None` if it cannot be read.
    pub(super) fn answer(&self, opencode: &Opencode, most: usize) -> Option<Result<String, u64>> {
        let database = read_database(opencode).ok()?;
        for message in self.messages.iter().flat_map(TurnMessages::last_steps) {
            let text = database.text_of(&message.id, most).ok()?;
            if text.as_ref().is_ok_and(String::is_empty) {
                continue;
            }
            return Some(text);
        }
        None
    }

    /// The judgement, corrected if the stored messages contradict it.
    pub(super) fn verify(&self, judgement: Judgement) -> Judgement {
        let Some(messages) = &self.messages else {
            return judgement;
        };
        match judgement.verdict {
            Verdict::Completed | Verdict::Void
                if messages.answers_older_prompt()
                    || (self.order.is_reversed() && !messages.is_answered()) =>
            {
                Judgement::new(Verdict::Failed, CLOCK_WENT_BACK)
            }
            Verdict::Completed if !messages.has_step() => {
                Judgement::new(Verdict::Void, "opencode reported an answer and stored none")
            }
            _ if judgement.lacks_end => match messages.last_step() {
                Some(message) => {
                    if let Some(error) = &message.error {
                        Judgement::new(Verdict::Failed, format!("{}: {}", error.name, error.message))
                    } else if message.is_end_of_answer() {
                        Judgement {
                            lacks_end: true,
                            ..Judgement::new(Verdict::Completed, "")
                        }
                    } else {
                        judgement
                    }
                }
                None => judgement,
            },
            _ => judgement,
        }
    }
}
