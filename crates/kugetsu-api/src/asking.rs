//! What opencode asks a person, and what it is answered.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum RequestDetail {
    /// May this be done?
    Permission {
        /// The permission class.
        permission: String,
        /// What it applies to.
        patterns: Vec<String>,
    },
    /// Questions, each with its options.
    Questions(Vec<QuestionDetail>),
    /// What another program wrote into a stream or a record; kugetsu itself writes none.
    #[schemars(skip)]
    Other(Value),
}

/// One question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QuestionDetail {
    /// A few words.
    pub header: String,
    /// All of it.
    pub question: String,
    /// The labels to choose from.
    pub options: Vec<String>,
    /// Whether several may be chosen.
    pub multiple: bool,
}

/// What a request was answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum RequestAnswer {
    /// `allow` or `reject`.
    Word(String),
    /// For each question the labels that were chosen.
    Labels(Vec<Vec<String>>),
}

/// As it is in JSON.
impl std::fmt::Display for RequestDetail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write_json(self, f)
    }
}

/// As it is in JSON.
impl std::fmt::Display for RequestAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write_json(self, f)
    }
}

fn write_json(value: &impl Serialize, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
    let value = serde_json::to_value(value).map_err(|_| std::fmt::Error)?;
    write!(f, "{value}")
}
