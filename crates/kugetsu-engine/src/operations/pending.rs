//! The request that blocked a turn: stored in the record, answered by a person, delivered by the next turn.
//!
//! opencode forgets a request when its server ends. So the answer reaches the model as text in the prompt, and a
//! permission also as a rule for the one turn.

use jiff::Timestamp;
use serde_json::Value;
use uuid::Uuid;

use super::{Engine, EngineError};
use crate::permission::{Action, Rule};
use crate::redact::Redactor;
use crate::store::this_process;
use crate::transport::{Answer, Request, RequestKind};
use crate::turn::answers::interpret;
use kugetsu_api::{Address, ErrorCode, PendingRequest, RequestDetail, SessionRecord};

/// Converts a request to its form in the record, without secrets.
pub(super) fn from_request(request: &Request, turn: Uuid, redactor: &Redactor) -> PendingRequest {
    let detail = request.kind.detail();
    let clean = serde_json::from_str(&redactor.clean(&detail.to_string()));
    PendingRequest {
        request: request.id.clone(),
        turn,
        asked: Timestamp::now(),
        kind: request.kind.kind_name().to_owned(),
        detail: clean.unwrap_or(RequestDetail::Other(Value::Null)),
        answer: None,
    }
}

/// The recorded request; `None` if the record was edited and is not valid.
fn kind(pending: &PendingRequest) -> Option<RequestKind> {
    match pending.detail.clone() {
        RequestDetail::Permission { permission, patterns } => {
            Some(RequestKind::Permission { permission, patterns })
        }
        RequestDetail::Questions(questions) => Some(RequestKind::Question(questions)),
        RequestDetail::Other(_) => None,
    }
}

/// Notes about the requests that the next turn drops, because nobody has answered them or because the preset delivers no
/// answers.
pub(super) fn dropped(record: &SessionRecord) -> Vec<String> {
    let preset = record.policy.preset;
    let dropped = record.pending.iter().filter_map(|request| {
        let what = describe(request);
        match &request.answer {
            None => Some(format!(
                "the turn before waited for an answer, which the prompt of this turn replaces: {what}; \
                 answer first next time: kugetsu answer {}",
                record.address
            )),
            Some(_) if !preset.may_ask() => Some(format!(
                "the preset {preset} delivers no answers, so this one is dropped: {what}"
            )),
            Some(_) => None,
        }
    });
    dropped.collect()
}

/// The prompt with the answers before it, and the rules that the answers grant.
pub(super) fn with_answers(message: &str, pending: &[PendingRequest]) -> (String, Vec<Rule>) {
    let mut lines = Vec::new();
    let mut rules = Vec::new();
    for request in pending {
        let (Some(answer), Some(kind)) = (&request.answer, kind(request)) else {
            continue;
        };
        match (interpret(&kind, answer), kind) {
            (Some(Answer::Allow), RequestKind::Permission { permission, patterns }) => {
                lines.push(format!(
                    "You may use {permission} on {} now.",
                    patterns.join(", ")
                ));
                rules.extend(patterns.into_iter().map(|pattern| Rule {
                    permission: permission.clone(),
                    pattern,
                    action: Action::Allow,
                }));
            }
            (Some(Answer::Reject), RequestKind::Permission { permission, patterns }) => {
                lines.push(format!(
                    "You may not use {permission} on {}. Do without it.",
                    patterns.join(", ")
                ));
            }
            (Some(Answer::Labels(labels)), RequestKind::Question(questions)) => {
                for (question, labels) in questions.iter().zip(labels) {
                    lines.push(format!(
                        "You asked: {} The answer: {}.",
                        question.question,
                        labels.join(", ")
                    ));
                }
            }
            (Some(_), RequestKind::Question(questions)) => {
                for question in questions {
                    lines.push(format!("You asked: {} Decide that yourself.", question.question));
                }
            }
            _ => {}
        }
    }
    if lines.is_empty() {
        return (message.to_owned(), rules);
    }
    if message.trim().is_empty() {
        lines.push("Go on.".to_owned());
        return (lines.join("\n"), rules);
    }
    (format!("{}\n\n{message}", lines.join("\n")), rules)
}

impl Engine {
    /// Every record with a request that waits for a person or whose answer waits for delivery.
    pub fn pending(&self) -> Result<Vec<SessionRecord>, EngineError> {
        let mut records = self.store.session_records()?.found;
        records.retain(|record| !record.pending.is_empty());
        Ok(records)
    }

    /// Stores a person's answer to the request that blocked the session's last turn. The next turn delivers the answer.
    pub fn answer(&self, address: &Address, answer: &Value) -> Result<SessionRecord, EngineError> {
        let lease = self.store.lease_session(address, this_process("answer"), None)?;
        let mut record = self.record(address)?;
        let Some(pending) = record.pending.first_mut() else {
            return Err(EngineError::NotFound {
                code: ErrorCode::NothingPending,
                problem: format!("{address} has no request that waits for an answer"),
                hint: match record.blocked_rebase() {
                    Some(blocked) => format!("its rebase {blocked}; for the next step see: kugetsu query"),
                    None => "list the requests: kugetsu pending".to_owned(),
                },
            });
        };
        let fits = kind(pending).and_then(|kind| interpret(&kind, answer)).is_some();
        if !fits {
            return Err(EngineError::Usage {
                problem: format!("{answer} does not answer: {}", describe(pending)),
                hint: "answer a permission with allow or deny, a question with its label, several questions with a label for each"
                    .to_owned(),
            });
        }
        pending.answer = Some(answer.clone());
        record.updated = Timestamp::now();
        self.store.save_session(&lease, &record)?;
        Ok(record)
    }
}

/// The request in one line, for people.
pub fn describe(pending: &PendingRequest) -> String {
    kind(pending).map_or_else(|| pending.detail.to_string(), |kind| kind.to_string())
}
