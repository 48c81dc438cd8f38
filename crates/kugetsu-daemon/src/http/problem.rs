//! Errors of the API, as RFC 9457 has them, with the codes of the command line.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{BytesRejection, JsonRejection, PathRejection, QueryRejection};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use kugetsu_api::exit::ExitStatus;
use kugetsu_api::{ErrorCode, ProblemDetails, RefError};
use kugetsu_engine::operations::EngineError;

use crate::ledger::UsedUp;
use crate::queue::QueueError;

/// What the kind of an error begins with; its code follows. The codes are explained in docs/automation.md.
const KIND: &str = "urn:kugetsu:error:";

/// An error of the API.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    code: ErrorCode,
    detail: String,
    hints: Vec<String>,
    retry_after: Option<Duration>,
}

pub(crate) type Answer<T> = Result<T, Problem>;

impl Problem {
    pub(crate) fn new(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self {
            status: status_of(code),
            code,
            detail: detail.into(),
            hints: Vec::new(),
            retry_after: None,
        }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    pub(crate) fn usage(detail: impl Into<String>) -> Self {
        Self::new(ErrorCode::Usage, detail)
    }

    pub(super) fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    pub(crate) fn no_such_path() -> Self {
        Self::new(ErrorCode::NotFound, "the API has no such path")
    }

    pub(crate) fn wrong_method() -> Self {
        Self::usage("the path does not take this method").with_status(StatusCode::METHOD_NOT_ALLOWED)
    }

    /// The request says nothing of who makes it, or something untrue.
    pub(crate) fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(ErrorCode::AccessDenied, detail).with_status(StatusCode::UNAUTHORIZED)
    }

    /// Whoever makes the request may not make it.
    pub(crate) fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(ErrorCode::AccessDenied, detail).with_status(StatusCode::FORBIDDEN)
    }

    /// Nothing more may be spent for this long.
    pub(crate) fn budget_used_up(full_in: Duration, detail: impl Into<String>) -> Self {
        Self {
            retry_after: Some(full_in),
            ..Self::new(ErrorCode::BudgetUsedUp, detail)
        }
    }

    /// The client has asked too often, or has too much open. It may come again after this time.
    pub(crate) fn too_many(wait: Duration, detail: impl Into<String>) -> Self {
        Self {
            retry_after: Some(wait),
            ..Self::new(ErrorCode::TooManyRequests, detail)
        }
    }

    /// The request did not arrive within this time.
    pub(crate) fn too_slow(limit: Duration) -> Self {
        let detail = format!(
            "the body of the request did not arrive within {} s",
            limit.as_secs()
        );
        Self::usage(detail).with_status(StatusCode::REQUEST_TIMEOUT)
    }

    pub(crate) fn draining() -> Self {
        Self::new(ErrorCode::Draining, "the daemon is ending, and takes nothing new")
    }
}

/// The HTTP status of a code. The exit status has the same meaning for a shell.
fn status_of(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::QueueFull | ErrorCode::BudgetUsedUp | ErrorCode::TooManyRequests => {
            return StatusCode::TOO_MANY_REQUESTS;
        }
        ErrorCode::IdempotencyKeyReused | ErrorCode::NotAllowed => {
            return StatusCode::UNPROCESSABLE_ENTITY;
        }
        ErrorCode::InUse | ErrorCode::AlreadyHasSession | ErrorCode::DaemonVersion => {
            return StatusCode::CONFLICT;
        }
        _ => {}
    }
    match code.exit_status() {
        ExitStatus::Usage => StatusCode::BAD_REQUEST,
        ExitStatus::NotFound => StatusCode::NOT_FOUND,
        ExitStatus::Blocked => StatusCode::CONFLICT,
        ExitStatus::Unavailable | ExitStatus::TryAgain => StatusCode::SERVICE_UNAVAILABLE,
        ExitStatus::CannotWrite => StatusCode::INSUFFICIENT_STORAGE,
        ExitStatus::Ok | ExitStatus::Failed | ExitStatus::Interrupted | ExitStatus::Terminated => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let details = ProblemDetails {
            kind: format!("{KIND}{}", self.code),
            title: self.code.meaning().to_owned(),
            status: self.status.as_u16(),
            detail: self.detail,
            code: self.code,
            hints: self.hints,
            retryable: self.code.retryable(),
        };
        let mut response = (self.status, Json(details)).into_response();
        let kind = header::HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
        if let Some(wait) = self.retry_after {
            // Rounded up, so that nobody comes too early.
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            let scheme = header::HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

impl From<UsedUp> for Problem {
    fn from(used_up: UsedUp) -> Self {
        Self::budget_used_up(used_up.full_in, used_up.to_string()).hint("raise the budget: kugetsu config set budget_daily USD, then restart the daemon or send it SIGHUP")
    }
}

impl From<QueueError> for Problem {
    fn from(error: QueueError) -> Self {
        let code = match &error {
            QueueError::KeyReused { .. } => ErrorCode::IdempotencyKeyReused,
            QueueError::NoSuchDependency(_) | QueueError::NotParked { .. } => ErrorCode::Usage,
            QueueError::NoSuchTask(_) => ErrorCode::NoTask,
            QueueError::Full { .. } => ErrorCode::QueueFull,
            QueueError::Unavailable { .. } | QueueError::Unusable { .. } => ErrorCode::StoreUnwritable,
        };
        let problem = Self::new(code, error.to_string());
        match error {
            QueueError::NotParked { .. } => problem.hint("submit another task: kugetsu submit REF MESSAGE"),
            _ => problem,
        }
    }
}

impl From<EngineError> for Problem {
    fn from(error: EngineError) -> Self {
        Self {
            hints: error.hints(),
            ..Self::new(error.code(), error.to_string())
        }
    }
}

impl From<RefError> for Problem {
    fn from(error: RefError) -> Self {
        Self::new(ErrorCode::InvalidRef, error.to_string())
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        Self::usage(rejection.body_text()).with_status(rejection.status())
    }
}

impl From<BytesRejection> for Problem {
    fn from(rejection: BytesRejection) -> Self {
        Self::usage(rejection.body_text()).with_status(rejection.status())
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        Self::usage(rejection.body_text())
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::usage(rejection.body_text())
    }
}
