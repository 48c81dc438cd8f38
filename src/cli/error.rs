//! Errors for the user. The kind, the causes and the hints stay separate until one function renders them for people and
//! another for programs.

use std::error::Error;

use kugetsu_api::exit::ExitStatus;
use kugetsu_api::output::Document;
use kugetsu_api::{ErrorCode, ErrorDetail, ErrorOutput};
use kugetsu_engine::operations::EngineError;
use kugetsu_engine::{WAY_OUT, is_full};

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct CommandError {
    code: ErrorCode,
    message: String,
    source: Option<Box<dyn Error + Send + Sync>>,
    notes: Vec<String>,
    hints: Vec<String>,
    subject: Option<String>,
    retryable: bool,
    /// The status of the signal that arrived during the command.
    signal: Option<ExitStatus>,
}

impl CommandError {
    /// An error without causes and hints.
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            source: None,
            notes: Vec::new(),
            hints: Vec::new(),
            subject: None,
            retryable: code.retryable(),
            signal: None,
        }
    }

    /// An error that another process of kugetsu reported.
    pub(super) fn received(error: ErrorDetail) -> Self {
        Self {
            code: error.code,
            message: error.message,
            source: None,
            notes: error.notes,
            hints: error.hints,
            subject: error.subject,
            retryable: error.retryable,
            signal: None,
        }
    }

    /// An error about invalid input.
    pub(super) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(ErrorCode::Usage, message).hint(hint)
    }

    /// Adds a next step.
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Adds the underlying error. People see it after the message, followed by its own causes.
    pub(super) fn caused_by(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        let source = source.into();
        if source.downcast_ref().is_some_and(is_full) {
            self.hints.push(WAY_OUT.to_owned());
        }
        self.source = Some(source);
        self
    }

    /// Adds the session or repository that the error is about, if the error does not name one.
    pub(super) fn about(mut self, subject: &impl ToString) -> Self {
        self.subject.get_or_insert_with(|| subject.to_string());
        self
    }

    /// The error of an operation during which this signal arrived. The signal decides the exit status; the code still
    /// tells what went wrong.
    pub(super) fn after(mut self, signal: Option<ExitStatus>) -> Self {
        self.signal = signal;
        self
    }

    pub(super) fn code(&self) -> ErrorCode {
        self.code
    }

    pub(super) fn exit_status(&self) -> ExitStatus {
        self.signal.unwrap_or_else(|| self.code.exit_status())
    }

    /// The message and any causes that the message does not already contain.
    fn message(&self) -> String {
        let mut text = self.message.clone();
        let mut cause = self.source.as_deref().map(|source| source as &dyn Error);
        while let Some(error) = cause {
            let cause_text = error.to_string();
            if !text.contains(&cause_text) {
                text = format!("{text}: {cause_text}");
            }
            cause = error.source();
        }
        text
    }

    /// Renders for people: each note and the message after the program's name, then each hint, on separate lines.
    pub(super) fn for_people(&self) -> String {
        let mut text = String::new();
        for note in &self.notes {
            text.push_str(&format!("kugetsu: {note}\n"));
        }
        text.push_str(&format!("kugetsu: {}", self.message()));
        for hint in &self.hints {
            text.push_str("\n  ");
            text.push_str(hint);
        }
        text
    }

    /// Renders for programs.
    pub(super) fn for_programs(&self) -> Document<ErrorOutput> {
        let exit_status = self.exit_status().code();
        Document::new(ErrorOutput {
            error: ErrorDetail {
                code: self.code,
                message: self.message(),
                notes: self.notes.clone(),
                hints: self.hints.clone(),
                hint: self.hints.first().cloned(),
                subject: self.subject.clone(),
                retryable: self.retryable,
                exit_status,
            },
            exit_status,
        })
    }
}

impl<E: Into<EngineError>> From<E> for CommandError {
    fn from(error: E) -> Self {
        let error: EngineError = error.into();
        Self {
            code: error.code(),
            message: error.to_string(),
            notes: error.notes().to_vec(),
            hints: error.hints(),
            subject: error.address(),
            retryable: error.retryable(),
            signal: None,
            source: Some(Box::new(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_cause_is_reported_once() {
        let error =
            CommandError::new(ErrorCode::System, "no event loop").caused_by(io::Error::other("no memory"));
        assert_eq!(error.for_people(), "kugetsu: no event loop: no memory");
        let error = error.caused_by(io::Error::other("event loop"));
        assert_eq!(error.for_people(), "kugetsu: no event loop");
    }

    #[test]
    fn every_hint_has_a_line_for_people_and_the_first_one_a_field_of_its_own() {
        let error = CommandError::usage("wrong", "do this")
            .hint("or that")
            .about(&"a.b/c/d#1");
        assert_eq!(error.for_people(), "kugetsu: wrong\n  do this\n  or that");
        let detail = error.for_programs().body.error;
        assert_eq!(detail.hints, ["do this", "or that"]);
        assert_eq!(detail.hint.as_deref(), Some("do this"));
        assert_eq!(detail.subject.as_deref(), Some("a.b/c/d#1"));
    }

    #[test]
    fn a_received_signal_decides_the_status_of_the_command() {
        let error = || CommandError::new(ErrorCode::InUse, "in use");
        assert_eq!(error().after(None).exit_status(), ExitStatus::TryAgain);
        for signal in [ExitStatus::Interrupted, ExitStatus::Terminated] {
            let printed = error().after(Some(signal)).for_programs();
            assert_eq!(printed.body.error.code, ErrorCode::InUse);
            assert_eq!(printed.body.error.exit_status, signal.code());
            assert_eq!(printed.body.exit_status, signal.code());
        }
    }
}
