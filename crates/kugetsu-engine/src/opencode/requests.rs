//! Waiting states of a session: a permission or an answer from a person, or the next attempt after a failed request to
//! the model. The objects are the same in events and in the lists of the API (measured on 1.3.2 and 1.18.33).

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::MapAccess;
use serde_json::Number;

use super::reported_error::bounded_text;
use super::tolerant::{Read, Tolerant, tolerant, tolerant_objects};

/// A permission request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PermissionAsked {
    /// `per_...`; empty if the object has no id.
    #[serde(deserialize_with = "tolerant")]
    pub id: String,
    /// The permission class.
    #[serde(deserialize_with = "tolerant")]
    pub permission: String,
    /// The commands or paths that the permission covers.
    #[serde(deserialize_with = "tolerant")]
    pub patterns: Vec<String>,
}

/// Questions that the model asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct QuestionsAsked {
    /// `que_...`; empty if the object has no id.
    #[serde(deserialize_with = "tolerant")]
    pub id: String,
    /// The questions, in order.
    #[serde(deserialize_with = "tolerant")]
    pub questions: Vec<QuestionAsked>,
}

/// One question.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct QuestionAsked {
    /// A short title.
    #[serde(deserialize_with = "tolerant")]
    pub header: String,
    /// The whole question.
    #[serde(deserialize_with = "tolerant")]
    pub question: String,
    /// The options to choose from.
    #[serde(deserialize_with = "tolerant")]
    pub options: Vec<QuestionOption>,
    /// Whether more than one option may be chosen.
    #[serde(deserialize_with = "tolerant")]
    pub multiple: bool,
}

/// An option of a question.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct QuestionOption {
    /// The label that an answer names.
    #[serde(deserialize_with = "tolerant")]
    pub label: String,
}

/// The current state of a session.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct SessionStatus {
    /// `busy`, `idle` or `retry`.
    #[serde(rename = "type", deserialize_with = "tolerant")]
    kind: String,
    #[serde(deserialize_with = "tolerant")]
    attempt: Option<Number>,
    #[serde(deserialize_with = "tolerant")]
    message: Option<String>,
    /// In milliseconds since the epoch.
    #[serde(deserialize_with = "tolerant")]
    next: Option<Number>,
}

/// A failed request to the model that opencode will retry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// The number of the failed attempt, from 1.
    pub attempt: u64,
    /// Why it failed.
    pub message: String,
    /// The time of the next attempt.
    pub next: Option<Timestamp>,
}

impl SessionStatus {
    /// The retry that the session waits for, if there is one.
    pub fn into_retry(self) -> Option<Retry> {
        (self.kind == "retry").then(|| Retry {
            attempt: self.attempt.and_then(|number| number.as_u64()).unwrap_or(1),
            message: self
                .message
                .map_or_else(|| "no reason given".to_owned(), bounded_text),
            next: self
                .next
                .and_then(|number| number.as_f64())
                .and_then(|ms| Timestamp::from_millisecond(ms as i64).ok()),
        })
    }
}

/// The answer of `GET /session/status`: an object with session ids as keys.
#[derive(Debug, Default)]
pub(super) struct SessionStatuses(pub(super) Vec<SessionStatus>);

impl Tolerant for SessionStatuses {
    fn from_object<'de, A: MapAccess<'de>>(mut object: A) -> Result<Self, A::Error> {
        let mut statuses = Vec::new();
        while let Some((_, Read(status))) = object.next_entry::<String, _>()? {
            statuses.push(status);
        }
        Ok(Self(statuses))
    }
}

tolerant_objects!(
    PermissionAsked,
    QuestionsAsked,
    QuestionAsked,
    QuestionOption,
    SessionStatus
);
