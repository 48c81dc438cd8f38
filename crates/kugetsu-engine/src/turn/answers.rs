//! Answers opencode's requests: from the answers file first, then from a supervisor, then by default.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio::sync::mpsc;

use crate::permission::{Action, Rule, evaluate};
use crate::transport::{Answer, Request, RequestKind};
use kugetsu_api::QuestionDetail;

/// Answers that were prepared before the turn (`--answers FILE`).
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Answers {
    /// The label or labels to choose, by a question's id, header or text.
    pub questions: BTreeMap<String, Labels>,
    /// Variables for opencode's environment. Their values are never written anywhere.
    pub secrets: BTreeMap<String, String>,
    /// The answers for requests that nothing else covers.
    pub defaults: Defaults,
    /// Rules for permission requests: the last matching rule decides; `ask` passes the request on.
    pub permissions: Vec<PermissionAnswer>,
}

/// A derived `Debug` could leak secrets into a log.
impl std::fmt::Debug for Answers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answers")
            .field("questions", &self.questions)
            .field("secrets", &self.secrets.keys().collect::<Vec<_>>())
            .field("defaults", &self.defaults)
            .field("permissions", &self.permissions)
            .finish()
    }
}

/// One label or several.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Labels {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl Labels {
    fn list(&self) -> Vec<String> {
        match self {
            Self::One(label) => vec![label.clone()],
            Self::Many(labels) => labels.clone(),
        }
    }
}

/// A permission rule of an answers file; the pattern defaults to `*`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PermissionAnswer {
    /// The permission class.
    pub permission: String,
    /// The commands or paths that the rule covers.
    #[serde(default = "anything")]
    pub pattern: String,
    /// The answer.
    pub action: Action,
}

fn anything() -> String {
    "*".to_owned()
}

/// The answers for requests that nothing else covers.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Defaults {
    /// The strategy for questions; if absent, the setting `on_question` applies.
    pub strategy: Option<Strategy>,
}

/// How to answer a question that nothing else answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// Choose the first option.
    #[default]
    FirstOption,
    /// Give no answer: the tool call fails, and opencode ends the turn without asking the model again.
    Cancel,
}

/// What happens to a request that neither file nor supervisor answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnAsk {
    /// Permissions are denied, and questions are answered by the strategy.
    Answer(Strategy),
    /// The turn ends as blocked, and the record keeps the request.
    Block,
}

/// A reply from a supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Reply {
    /// The request's id.
    pub request: String,
    /// `"allow"`, `"deny"`, a label, several labels, or labels for each question.
    pub answer: Value,
}

/// The source of an answer; counted in the summary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnsweredBy {
    /// The answers file.
    File,
    /// The supervisor.
    Supervisor,
    /// The default.
    Default,
}

impl AnsweredBy {
    /// The name in events.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "answers",
            Self::Supervisor => "supervisor",
            Self::Default => "default",
        }
    }
}

/// Answers requests from the file, the supervisor or the default, in that order.
#[derive(Debug)]
pub struct Responder {
    /// The answers file, if there is one.
    pub answers: Option<Answers>,
    /// The supervisor's replies, and how long to wait for one.
    pub supervisor: Option<(mpsc::Receiver<Reply>, Duration)>,
    /// The default.
    pub on_ask: OnAsk,
}

impl Default for Responder {
    /// A headless turn: permissions are denied and questions are not answered.
    fn default() -> Self {
        Self {
            answers: None,
            supervisor: None,
            on_ask: OnAsk::Answer(Strategy::Cancel),
        }
    }
}

impl Responder {
    /// Whether anything other than the default may answer, so that requests must reach kugetsu.
    pub fn is_interactive(&self) -> bool {
        self.answers.is_some() || self.supervisor.is_some() || self.on_ask == OnAsk::Block
    }

    /// The answer from the file, if it has one.
    pub fn from_file(&self, request: &Request) -> Option<Answer> {
        let answers = self.answers.as_ref()?;
        match &request.kind {
            RequestKind::Permission { permission, patterns } => {
                let rules: Vec<Rule> = answers
                    .permissions
                    .iter()
                    .map(|answer| Rule {
                        permission: answer.permission.clone(),
                        pattern: answer.pattern.clone(),
                        action: answer.action,
                    })
                    .collect();
                decide(&rules, permission, patterns)
            }
            RequestKind::Question(questions) => questions
                .iter()
                .map(|question| {
                    [&request.id, &question.header, &question.question]
                        .into_iter()
                        .find_map(|key| answers.questions.get(key.as_str()))
                        .map(Labels::list)
                })
                .collect::<Option<Vec<_>>>()
                .map(Answer::Labels),
        }
    }

    /// The default answer; `None` if the turn is blocked.
    pub fn by_default(&self, request: &Request) -> Option<Answer> {
        let strategy = match self.on_ask {
            OnAsk::Block => return None,
            OnAsk::Answer(strategy) => {
                let of_file = self.answers.as_ref().and_then(|file| file.defaults.strategy);
                of_file.unwrap_or(strategy)
            }
        };
        Some(match (&request.kind, strategy) {
            (RequestKind::Question(questions), Strategy::FirstOption) => first_options(questions),
            _ => Answer::Reject,
        })
    }
}

/// Decides a request with several patterns: all must be allowed, and one denial denies it.
fn decide(rules: &[Rule], permission: &str, patterns: &[String]) -> Option<Answer> {
    let actions: Vec<_> = patterns
        .iter()
        .map(|pattern| evaluate(rules, permission, pattern).map_or(Action::Ask, |rule| rule.action))
        .collect();
    if actions.contains(&Action::Deny) {
        return Some(Answer::Reject);
    }
    (!actions.is_empty() && actions.iter().all(|action| *action == Action::Allow)).then_some(Answer::Allow)
}

fn first_options(questions: &[QuestionDetail]) -> Answer {
    let first: Option<Vec<_>> = questions
        .iter()
        .map(|question| question.options.first().map(|label| vec![label.clone()]))
        .collect();
    first.map_or(Answer::Reject, Answer::Labels)
}

/// Converts a person's or supervisor's answer to a request; `None` if the answer does not fit the request.
pub fn interpret(request: &RequestKind, answer: &Value) -> Option<Answer> {
    let converted = read(request, answer)?;
    if let (RequestKind::Question(questions), Answer::Labels(labels)) = (request, &converted) {
        let fits =
            |(question, labels): (&QuestionDetail, &Vec<String>)| question.multiple || labels.len() == 1;
        if !questions.iter().zip(labels).all(fits) {
            return None;
        }
    }
    Some(converted)
}

fn read(request: &RequestKind, answer: &Value) -> Option<Answer> {
    let label = |value: &Value| value.as_str().map(str::to_owned);
    let labels = |values: &[Value]| values.iter().map(label).collect::<Option<Vec<_>>>();
    match (request, answer) {
        (RequestKind::Permission { .. }, Value::String(text)) => match text.as_str() {
            "allow" => Some(Answer::Allow),
            "deny" | "reject" => Some(Answer::Reject),
            _ => None,
        },
        (RequestKind::Question(_), Value::String(text))
            if matches!(text.as_str(), "deny" | "reject" | "cancel") =>
        {
            Some(Answer::Reject)
        }
        (RequestKind::Question(questions), Value::String(text)) if questions.len() == 1 => {
            Some(Answer::Labels(vec![vec![text.clone()]]))
        }
        (RequestKind::Question(questions), Value::Array(values)) => {
            if let Some(each) = values
                .iter()
                .map(|value| value.as_array().and_then(|values| labels(values)))
                .collect::<Option<Vec<_>>>()
            {
                return (each.len() == questions.len()).then_some(Answer::Labels(each));
            }
            let flat = labels(values)?;
            if questions.len() == 1 {
                Some(Answer::Labels(vec![flat]))
            } else if flat.len() == questions.len() {
                Some(Answer::Labels(
                    flat.into_iter().map(|label| vec![label]).collect(),
                ))
            } else {
                None
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strategy_of_a_file_precedes_that_of_the_settings() {
        let question = QuestionDetail {
            header: "Colour".to_owned(),
            question: "Which colour?".to_owned(),
            options: vec!["red".to_owned(), "green".to_owned()],
            multiple: false,
        };
        let request = Request {
            id: "que_1".to_owned(),
            kind: RequestKind::Question(vec![question]),
        };
        let first = Answer::Labels(vec![vec!["red".to_owned()]]);
        for (file, setting, expected) in [
            (
                r#"{"defaults": {"strategy": "cancel"}}"#,
                Strategy::FirstOption,
                Answer::Reject,
            ),
            (
                r#"{"defaults": {"strategy": "first_option"}}"#,
                Strategy::Cancel,
                first.clone(),
            ),
            ("{}", Strategy::FirstOption, first),
            ("{}", Strategy::Cancel, Answer::Reject),
        ] {
            let responder = Responder {
                answers: Some(serde_json::from_str(file).unwrap()),
                on_ask: OnAsk::Answer(setting),
                ..Responder::default()
            };
            assert_eq!(
                responder.by_default(&request),
                Some(expected),
                "{file} {setting:?}"
            );
        }
    }
}
