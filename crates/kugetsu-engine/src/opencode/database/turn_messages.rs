//! The messages of one turn: what they prove about it.

use super::{Database, DatabaseError, StoredMessage};
use kugetsu_api::SessionId;

/// The messages that opencode stored in a session during a turn, in the order in which it stored them. Under the lease,
/// every one of them belongs to the turn; the last may be opencode's own, such as a compaction's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TurnMessages(Vec<StoredMessage>);

impl TurnMessages {
    /// Reads what opencode stored after these messages ([`Database::newest_messages`]).
    pub fn read(database: &Database, session: &SessionId, after: &[String]) -> Result<Self, DatabaseError> {
        database.messages_after(session, after).map(Self)
    }

    /// Whether the prompt has reached the session.
    pub fn has_prompt(&self) -> bool {
        self.0.iter().any(StoredMessage::is_prompt)
    }

    /// Whether a message is a step of an answer to a prompt of this turn.
    fn is_own_answer(&self, message: &StoredMessage) -> bool {
        let prompts = || self.0.iter().filter(|message| message.is_prompt());
        message.is_answer()
            && message
                .parent
                .as_ref()
                .is_none_or(|parent| prompts().any(|prompt| prompt.id == *parent))
    }

    /// Whether there is a step of an answer to a prompt of this turn, complete or not.
    pub fn has_step(&self) -> bool {
        self.0.iter().any(|message| self.is_own_answer(message))
    }

    /// Whether opencode answered an older prompt instead of this turn's.
    pub fn answers_older_prompt(&self) -> bool {
        self.0
            .iter()
            .any(|message| message.is_answer() && !self.is_own_answer(message))
    }

    /// Whether the last prompt has its complete answer. More steps may follow it, if opencode does not notice that it
    /// has answered.
    pub fn is_answered(&self) -> bool {
        self.0
            .iter()
            .rev()
            .take_while(|message| !message.is_prompt())
            .any(|message| message.is_end_of_answer() && self.is_own_answer(message))
    }

    /// The steps of the answer to the last prompt, newest first.
    pub fn last_steps(&self) -> impl Iterator<Item = &StoredMessage> {
        let after_prompt = self.0.iter().rev().take_while(|message| !message.is_prompt());
        after_prompt.filter(|message| self.is_own_answer(message))
    }

    /// The last message, if it is a step of an answer to a prompt of this turn.
    pub fn last_step(&self) -> Option<&StoredMessage> {
        self.0.last().filter(|message| self.is_own_answer(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::opencode::{Finish, Role};
    use kugetsu_api::TokenCount;

    fn message(id: &str, parent: Option<&str>, finish: Option<Finish>) -> StoredMessage {
        StoredMessage {
            id: id.to_owned(),
            role: if finish.is_none() && parent.is_none() {
                Role::User
            } else {
                Role::Assistant
            },
            parent: parent.map(str::to_owned),
            finish,
            error: None,
            cost_usd: 0.0,
            tokens: TokenCount::default(),
        }
    }

    #[test]
    fn an_answer_belongs_to_the_prompt_that_it_names() {
        let answer = |parent| message("msg_a", Some(parent), Some(Finish::Stop));
        let own = TurnMessages(vec![message("msg_u", None, None), answer("msg_u")]);
        assert!(own.has_prompt() && own.is_answered() && own.has_step() && !own.answers_older_prompt());
        let older = TurnMessages(vec![message("msg_u", None, None), answer("msg_before")]);
        assert!(older.has_prompt() && !older.is_answered() && !older.has_step());
        assert!(older.answers_older_prompt() && older.last_step().is_none());
    }

    #[test]
    fn steps_after_the_answer_do_not_undo_it_and_a_prompt_does() {
        let mut messages = vec![
            message("msg_u", None, None),
            message("msg_a", Some("msg_u"), Some(Finish::Stop)),
            message("msg_b", Some("msg_u"), None),
        ];
        assert!(TurnMessages(messages.clone()).is_answered());
        messages.push(message("msg_v", None, None));
        assert!(!TurnMessages(messages).is_answered());
    }
}
