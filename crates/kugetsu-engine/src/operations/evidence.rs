//! The evidence that opencode has stored about a turn. A verdict is checked against it, because events can be lost and
//! rows of a database cannot.

use jiff::Timestamp;

use super::read_database;
use crate::opencode::{Opencode, StoredMessage};
use crate::turn::{Counts, Judgement};
use kugetsu_api::{SessionId, TokenCount, Verdict};

/// One reading of the database. Data that could not be read is absent and proves nothing.
#[derive(Default)]
pub(super) struct StoredEvidence {
    messages: Option<Vec<StoredMessage>>,
    spent: Option<(f64, TokenCount)>,
}

impl StoredEvidence {
    /// Reads what a session holds since a turn started.
    pub(super) fn since(opencode: &Opencode, session: Option<&SessionId>, started: Timestamp) -> Self {
        let Some((session, database)) = session.zip(read_database(opencode).ok()) else {
            return Self::default();
        };
        let started = started.as_millisecond();
        Self {
            messages: database.messages_after(session, started).ok(),
            spent: database.spent(session, started).ok(),
        }
    }

    /// Whether the prompt has reached the session.
    pub(super) fn has_prompt(&self) -> bool {
        let mut messages = self.messages.iter().flatten();
        messages.any(StoredMessage::is_prompt)
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
        let answers = self.messages.iter().flatten().rev();
        let answers = answers.take_while(|message| message.is_answer());
        for message in answers {
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
        let last = messages.last().filter(|message| message.is_answer());
        match (judgement.verdict, last) {
            (Verdict::Completed, None) if !messages.iter().any(StoredMessage::is_answer) => {
                Judgement::new(Verdict::Void, "opencode reported an answer and stored none")
            }
            // Only messages after the prompt count: before it stand a fork's copies of the base's answers.
            (_, Some(message)) if judgement.lacks_end => {
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
            _ => judgement,
        }
    }
}
