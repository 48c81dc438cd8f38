//! An error on its way to the user: its kind, its causes and its hints are kept apart until one function renders them for
//! people and one for programs.

use std::error::Error;

use kugetsu_api::exit::ExitStatus;
use kugetsu_api::output::Document;
use kugetsu_api::{ErrorCode, ErrorDetail, ErrorOutput};
use kugetsu_engine::operations::EngineError;

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct CommandError {
    code: ErrorCode,
    message: String,
    source: Option<Box<dyn Error + Send + Sync>>,
    hints: Vec<String>,
    subject: Option<String>,
    retryable: bool,
}

impl CommandError {
    /// An error without causes and hints.
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            source: None,
            hints: Vec::new(),
            subject: None,
            retryable: code.retryable(),
        }
    }

    /// An error that another process of kugetsu has told.
    pub(super) fn told(error: ErrorDetail) -> Self {
        Self {
            code: error.code,
            message: error.message,
            source: None,
            hints: error.hints,
            subject: error.subject,
            retryable: error.retryable,
        }
    }

    /// What was asked for is not valid.
    pub(super) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(ErrorCode::Usage, message).hint(hint)
    }

    /// Adds what to do next.
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Names the error behind it. People are shown it after the message, with those behind it.
    pub(super) fn caused_by(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Names the issue or the repository that it is about, where the error itself names none.
    pub(super) fn about(mut self, subject: &impl ToString) -> Self {
        self.subject.get_or_insert_with(|| subject.to_string());
        self
    }

    /// The error of an operation during which this signal was heard: whoever interrupted a wait, or a start-up, is told
    /// so by the code and the status.
    pub(super) fn after(mut self, signal: Option<ExitStatus>) -> Self {
        let code = match signal {
            Some(ExitStatus::Interrupted) => ErrorCode::Interrupted,
            Some(ExitStatus::Terminated) => ErrorCode::Terminated,
            _ => return self,
        };
        self.code = code;
        self.retryable = code.retryable();
        self
    }

    pub(super) fn exit_status(&self) -> ExitStatus {
        self.code.exit_status()
    }

    /// The message and the causes that it does not tell already.
    fn message(&self) -> String {
        let mut text = self.message.clone();
        let mut cause = self.source.as_deref().map(|source| source as &dyn Error);
        while let Some(error) = cause {
            let words = error.to_string();
            if !text.contains(&words) {
                text = format!("{text}: {words}");
            }
            cause = error.source();
        }
        text
    }

    /// For people: the message after the program's name, then each hint on a line of its own.
    pub(super) fn for_people(&self) -> String {
        let mut text = format!("kugetsu: {}", self.message());
        for hint in &self.hints {
            text.push_str("\n  ");
            text.push_str(hint);
        }
        text
    }

    /// For programs.
    pub(super) fn for_programs(&self) -> Document<ErrorOutput> {
        let exit_status = self.exit_status().code();
        Document::new(ErrorOutput {
            error: ErrorDetail {
                code: self.code,
                message: self.message(),
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
            hints: error.hints(),
            subject: error.address(),
            retryable: error.retryable(),
            source: Some(Box::new(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_cause_is_told_once() {
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
        let told = error.for_programs().body.error;
        assert_eq!(told.hints, ["do this", "or that"]);
        assert_eq!(told.hint.as_deref(), Some("do this"));
        assert_eq!(told.subject.as_deref(), Some("a.b/c/d#1"));
    }

    #[test]
    fn a_signal_that_was_heard_is_what_the_command_ended_by() {
        let error = || CommandError::new(ErrorCode::InUse, "in use");
        assert_eq!(error().after(None).exit_status(), ExitStatus::TryAgain);
        for (signal, code) in [
            (ExitStatus::Interrupted, ErrorCode::Interrupted),
            (ExitStatus::Terminated, ErrorCode::Terminated),
        ] {
            let told = error().after(Some(signal)).for_programs();
            assert_eq!(told.body.error.code, code);
            assert_eq!(told.body.exit_status, signal.code());
        }
    }
}
