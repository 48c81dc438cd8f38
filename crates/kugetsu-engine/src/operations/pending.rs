//! What a blocked turn waits for: kept in the record, answered by a person, delivered by the next turn.
//!
//! opencode forgets a request when its server ends, so the answer reaches the model in words, and a permission
//! as a rule for the one turn.

use jiff::Timestamp;
use serde_json::Value;
use uuid::Uuid;

use super::{Engine, EngineError};
use crate::permission::{Action, Rule};
use crate::redact::Redactor;
use crate::store::this_process;
use crate::transport::{Answer, Question, Request, RequestKind};
use crate::turn::answers::interpret;
use kugetsu_api::{Address, ErrorCode, PendingRequest, SessionRecord};

/// A request as the record keeps it.
pub(super) fn of(request: &Request, turn: Uuid, redactor: &Redactor) -> PendingRequest {
    let detail = request.kind.detail();
    let clean = serde_json::from_str(&redactor.clean(&detail.to_string()));
    PendingRequest {
        request: request.id.clone(),
        turn,
        asked: Timestamp::now(),
        kind: request.kind.word().to_owned(),
        detail: clean.unwrap_or_default(),
        answer: None,
    }
}

/// The request as it was asked; `None` where a record was edited into nonsense.
fn kind(pending: &PendingRequest) -> Option<RequestKind> {
    let texts = |value: &Value| -> Option<Vec<String>> {
        let values = value.as_array()?.iter();
        values.map(|text| text.as_str().map(str::to_owned)).collect()
    };
    if pending.kind == "permission" {
        return Some(RequestKind::Permission {
            permission: pending.detail["permission"].as_str()?.to_owned(),
            patterns: texts(&pending.detail["patterns"])?,
        });
    }
    let questions = pending.detail.as_array()?.iter().map(|question| {
        Some(Question {
            header: question["header"].as_str()?.to_owned(),
            question: question["question"].as_str()?.to_owned(),
            options: texts(&question["options"])?,
            multiple: question["multiple"] == true,
        })
    });
    questions.collect::<Option<_>>().map(RequestKind::Question)
}

/// The prompt with the answers before it, and the rules that they stand for.
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
    /// Every record with something that waits for a person.
    pub fn pending(&self) -> Result<Vec<SessionRecord>, EngineError> {
        let mut records = self.store.session_records()?.found;
        records.retain(|record| !record.pending.is_empty());
        Ok(records)
    }

    /// Stores a person's answer to what an issue's last turn was blocked on; the next turn delivers it.
    pub fn answer(&self, address: &Address, answer: &Value) -> Result<SessionRecord, EngineError> {
        let lease = self.store.lease_session(address, this_process("answer"), None)?;
        let mut record = self.record(address)?;
        let Some(pending) = record.pending.first_mut() else {
            return Err(EngineError::NotFound {
                code: ErrorCode::NothingPending,
                problem: format!("nothing of {address} waits for an answer"),
                hint: match record.blocked_rebase() {
                    Some(blocked) => format!("its rebase {blocked}; kugetsu query says what to do"),
                    None => "see what does: kugetsu pending".to_owned(),
                },
            });
        };
        let fits = kind(pending).and_then(|kind| interpret(&kind, answer)).is_some();
        if !fits {
            return Err(EngineError::Usage {
                problem: format!("{answer} does not answer: {}", describe(pending)),
                hint: "a permission takes allow or deny; a question its label, or a label for each question"
                    .to_owned(),
            });
        }
        pending.answer = Some(answer.clone());
        record.updated = Timestamp::now();
        self.store.save_session(&lease, &record)?;
        Ok(record)
    }
}

/// What is asked, for people, in one line.
pub fn describe(pending: &PendingRequest) -> String {
    kind(pending).map_or_else(|| pending.detail.to_string(), |kind| kind.to_string())
}
