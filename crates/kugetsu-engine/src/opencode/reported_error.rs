//! The errors that opencode reports, and their meaning for a turn.
//!
//! All sources report the same object (measured on 1.3.2 and 1.18.33): `{name, data: {message, ...}}`; an `APIError`
//! has `data.statusCode`, `data.isRetryable` and `data.responseHeaders` as well. An error that `run` makes itself may
//! be plain text or `{name, message}`.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Number, Value};

use super::tolerant::{Tolerant, tolerant, tolerant_objects};

/// How much of a text in an error is kept, in bytes. A provider may answer with a page of any size.
const MAX_TEXT: usize = 2048;

/// Cuts a text of an error, and says so at its end.
pub(super) fn bounded_text(mut text: String) -> String {
    let length = text.len();
    if length > MAX_TEXT {
        text.truncate(text.floor_char_boundary(MAX_TEXT));
        text.shrink_to_fit();
        text.push_str(&format!(" [cut: {length} bytes in all]"));
    }
    text
}

/// Cuts each text of an error object.
fn bounded(payload: Value) -> Value {
    match payload {
        Value::String(text) => bounded_text(text).into(),
        Value::Array(items) => items.into_iter().map(bounded).collect(),
        Value::Object(fields) => fields
            .into_iter()
            .map(|(name, value)| (name, bounded(value)))
            .collect(),
        other => other,
    }
}

/// An error that opencode reported.
#[derive(Clone, Debug, PartialEq)]
pub struct ErrorPayload {
    /// The meaning for the turn.
    pub kind: ErrorKind,
    /// The error's name, for people and logs.
    pub name: String,
    /// The error's message; the name if the message is empty.
    pub message: String,
    /// The whole object; long texts in it are cut.
    pub payload: Value,
}

/// The meaning of an error for a turn. Errors that a turn treats alike have the same kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The model's provider does not answer now and may answer later.
    ProviderUnavailable {
        /// The waiting time that the provider asks for, if it states one.
        retry_after: Option<Duration>,
    },
    /// The error names no cause; the cause is in opencode's log.
    CauseInLog,
    /// Any other error, for which a retry would not help.
    Other,
}

impl ErrorPayload {
    /// Reads opencode's error object.
    pub fn read(payload: Value) -> Self {
        // Reading cannot fail, because only invalid JSON is an error and an object in memory is valid.
        let error: ErrorObject = tolerant(&payload).unwrap_or_default();
        let named = |text: Option<String>| text.filter(|text| !text.is_empty());
        let kind = error.data.kind();
        let name = named(error.name).unwrap_or_else(|| "Error".to_owned());
        let message = named(error.data.message)
            .or_else(|| named(error.message))
            .unwrap_or_else(|| name.clone());
        let kind = match kind {
            // On 1.18.33, a failure has no type of its own, only this message.
            ErrorKind::Other if format!("{name}: {message}").contains("Check server logs") => {
                ErrorKind::CauseInLog
            }
            kind => kind,
        };
        Self {
            kind,
            name: bounded_text(name),
            message: bounded_text(message),
            payload: bounded(payload),
        }
    }

    /// An error that opencode did not report, but that ends the turn nevertheless.
    pub fn outside(name: &str, message: String) -> Self {
        Self {
            kind: ErrorKind::Other,
            name: name.to_owned(),
            message: bounded_text(message),
            payload: Value::Null,
        }
    }
}

/// Whether the message of an error says that opencode does not know the model (both versions: `Model not found: ...`).
pub fn names_unknown_model(message: &str) -> bool {
    message.contains("Model not found")
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ErrorObject {
    #[serde(deserialize_with = "tolerant")]
    name: Option<String>,
    #[serde(deserialize_with = "tolerant")]
    message: Option<String>,
    #[serde(deserialize_with = "tolerant")]
    data: ErrorData,
}

impl Tolerant for ErrorObject {
    fn from_text(text: &str) -> Self {
        Self {
            message: Some(text.to_owned()),
            ..Self::default()
        }
    }

    fn from_object<'de, A: serde::de::MapAccess<'de>>(object: A) -> Result<Self, A::Error> {
        Self::deserialize(serde::de::value::MapAccessDeserializer::new(object))
    }
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ErrorData {
    #[serde(deserialize_with = "tolerant")]
    message: Option<String>,
    /// The HTTP status that the provider answered with.
    #[serde(deserialize_with = "tolerant")]
    status_code: Option<Number>,
    #[serde(deserialize_with = "tolerant")]
    is_retryable: bool,
    #[serde(deserialize_with = "tolerant")]
    response_headers: ResponseHeaders,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct ResponseHeaders {
    #[serde(deserialize_with = "tolerant")]
    retry_after: Option<String>,
}

tolerant_objects!(ErrorData, ResponseHeaders);

impl ErrorData {
    fn kind(&self) -> ErrorKind {
        let status = self.status_code.as_ref().and_then(Number::as_u64);
        // 1.18.33 retries six times within 70 s and then passes on the provider's error.
        if self.is_retryable && status.is_some_and(|status| status == 429 || status >= 500) {
            // The value is in seconds (RFC 9110, 10.2.3); the form with a date is ignored.
            let seconds = self.response_headers.retry_after.as_deref();
            let seconds = seconds.and_then(|text| text.trim().parse::<u32>().ok());
            return ErrorKind::ProviderUnavailable {
                retry_after: seconds.map(|seconds| Duration::from_secs(seconds.into())),
            };
        }
        ErrorKind::Other
    }
}

/// Why a tool call was not executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A permission was refused, which ends opencode's work.
    Permission,
    /// A question was left without an answer, which ends opencode's work.
    Question,
    /// A rule denies the call, or the refusal told the model why. The model continues.
    Policy,
}

/// Whether a tool call failed because it was refused. Measured on 1.3.2 and 1.18.33: "The user rejected permission to
/// use this specific tool call." (with `... with the following feedback: TEXT`, if the reply has a message), "The user
/// has specified a rule which prevents you from using this specific tool call." and "The user dismissed this question".
pub fn refusal(tool_error: &str) -> Option<Refusal> {
    if tool_error.contains("dismissed this question") {
        Some(Refusal::Question)
    } else if tool_error.contains("rule which prevents you from using this")
        || tool_error
            .contains("rejected permission to use this specific tool call with the following feedback")
    {
        Some(Refusal::Policy)
    } else if tool_error.contains("rejected permission") {
        Some(Refusal::Permission)
    } else {
        None
    }
}
