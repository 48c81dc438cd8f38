//! What opencode asks a person, and the answers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The content of a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum RequestDetail {
    /// A permission to do something.
    Permission {
        /// The permission class.
        permission: String,
        /// The commands or paths that the permission covers.
        patterns: Vec<String>,
    },
    /// Questions, each with its options.
    Questions(Vec<QuestionDetail>),
    /// Content that another program wrote into a stream or a record. kugetsu itself never writes it.
    #[schemars(skip)]
    Other(Value),
}

/// One question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QuestionDetail {
    /// A short title.
    pub header: String,
    /// The full text.
    pub question: String,
    /// The labels to choose from.
    pub options: Vec<String>,
    /// Whether several may be chosen.
    pub multiple: bool,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum RequestAnswer {
    /// `allow` or `reject`.
    Decision(String),
    /// The chosen labels for each question.
    Labels(Vec<Vec<String>>),
}

/// Formats as JSON.
impl std::fmt::Display for RequestDetail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write_json(self, f)
    }
}

/// Formats as JSON.
impl std::fmt::Display for RequestAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write_json(self, f)
    }
}

fn write_json(value: &impl Serialize, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
    let value = serde_json::to_value(value).map_err(|_| std::fmt::Error)?;
    write!(f, "{value}")
}
