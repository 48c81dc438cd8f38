//! Every operation of the API, once: its method and path, who may use it, what runs it, and what its document says.

use std::sync::Arc;

use axum::routing::{MethodRouter, get, post};
use kugetsu_api::output::{DiffOutput, PendingSession, SessionWithState};
use kugetsu_api::{
    AnswerRequest, DaemonStatus, Query, Scope, SessionList, SignalRequest, StopRequest, StreamLine,
    SubmittedTask, Task, TaskList, TaskRequest, TurnList,
};
use schemars::{JsonSchema, Schema, SchemaGenerator};

use super::{sessions, status, tasks};
use crate::app::App;
use crate::trace::TRACEPARENT;

/// Makes the schema of a type.
type Describe = fn(&mut SchemaGenerator) -> Schema;

/// The method of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Post,
}

impl Method {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Post => "post",
        }
    }
}

/// What an operation answers if it succeeds.
#[derive(Clone, Copy)]
pub(super) enum Success {
    /// A JSON document with this status.
    Json(u16, Describe),
    /// A JSON document, or a stream of events if the request asks for one.
    JsonOrEvents(u16, Describe),
    /// A stream of events.
    Events,
    /// A document of this media type, with its description.
    Other(&'static str, &'static str),
    /// Nothing but this status.
    Empty(u16),
}

/// An operation of the API.
pub(super) struct Operation {
    pub(super) method: Method,
    pub(super) path: &'static str,
    /// What a request needs to be allowed to do; `None`: nothing.
    pub(super) scope: Option<Scope>,
    pub(super) handler: MethodRouter<Arc<App>>,
    /// The name of the operation in clients.
    pub(super) name: &'static str,
    pub(super) summary: &'static str,
    /// The type whose fields are the parameters of the query.
    pub(super) query: Option<Describe>,
    /// Headers that the operation reads, with their meanings.
    pub(super) headers: &'static [(&'static str, &'static str)],
    pub(super) body: Option<Describe>,
    pub(super) success: Success,
}

fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// Events are lines of the turn's stream.
pub(super) fn event(generator: &mut SchemaGenerator) -> Schema {
    of::<StreamLine>(generator)
}

const TEXT: &str = "text/plain";
const RESUME: (&str, &str) = (
    "last-event-id",
    "The id of the last event that the reader has; the stream begins after it.",
);
const KEY: (&str, &str) = (
    "idempotency-key",
    "A key of your choice, of up to 200 ASCII characters; a repeated request with the same key and body makes no second task.",
);
const PARENT: (&str, &str) = (
    TRACEPARENT,
    "The span that the task belongs to, as in W3C Trace Context; one that is not valid is ignored.",
);

impl Operation {
    fn get(
        path: &'static str,
        handler: MethodRouter<Arc<App>>,
        name: &'static str,
        summary: &'static str,
    ) -> Self {
        Self {
            method: Method::Get,
            path,
            scope: Some(Scope::Read),
            handler,
            name,
            summary,
            query: None,
            headers: &[],
            body: None,
            success: Success::Empty(200),
        }
    }

    fn post(
        path: &'static str,
        handler: MethodRouter<Arc<App>>,
        name: &'static str,
        summary: &'static str,
        body: Option<Describe>,
    ) -> Self {
        Self {
            method: Method::Post,
            body,
            ..Self::get(path, handler, name, summary)
        }
    }

    fn needs(self, scope: Scope) -> Self {
        Self {
            scope: Some(scope),
            ..self
        }
    }

    fn for_everybody(self) -> Self {
        Self { scope: None, ..self }
    }

    fn query<T: JsonSchema>(self) -> Self {
        Self {
            query: Some(of::<T>),
            ..self
        }
    }

    fn headers(self, headers: &'static [(&'static str, &'static str)]) -> Self {
        Self { headers, ..self }
    }

    fn answers(self, success: Success) -> Self {
        Self { success, ..self }
    }

    fn gives<T: JsonSchema>(self, status: u16) -> Self {
        self.answers(Success::Json(status, of::<T>))
    }
}

/// Every operation that is served over the network and over the socket.
pub(super) fn all() -> Vec<Operation> {
    vec![
        Operation::get(
            "/healthz",
            get(status::healthz),
            "health",
            "Whether the daemon lives",
        )
        .for_everybody()
        .answers(Success::Other(TEXT, "`ok`")),
        Operation::get(
            "/readyz",
            get(status::readyz),
            "ready",
            "Whether the daemon takes tasks",
        )
        .for_everybody()
        .answers(Success::Other(TEXT, "`ready`")),
        Operation::get(
            "/v1/openapi.json",
            get(status::openapi),
            "openapi",
            "This document",
        )
        .for_everybody()
        .answers(Success::Other("application/json", "The document")),
        Operation::get(
            "/metrics",
            get(status::metrics),
            "metrics",
            "What the daemon counts, for Prometheus",
        )
        .answers(Success::Other(
            TEXT,
            "Metrics in the text format of Prometheus, or in that of OpenMetrics if the request accepts `application/openmetrics-text`",
        )),
        Operation::get(
            "/v1/status",
            get(status::status),
            "status",
            "What the daemon is doing",
        )
        .gives::<DaemonStatus>(200),
        Operation::get(
            "/v1/tasks",
            get(tasks::list),
            "listTasks",
            "List tasks, newest first",
        )
        .query::<tasks::ListQuery>()
        .gives::<TaskList>(200),
        Operation::post(
            "/v1/tasks",
            post(tasks::submit),
            "submitTask",
            "Submit a task; it is durable when this answers",
            Some(of::<TaskRequest>),
        )
        .needs(Scope::Submit)
        .headers(&[KEY, RESUME, PARENT])
        .answers(Success::JsonOrEvents(202, of::<SubmittedTask>)),
        Operation::get("/v1/tasks/{task}", get(tasks::show), "showTask", "Show a task").gives::<Task>(200),
        Operation::post(
            "/v1/tasks/{task}/cancel",
            post(tasks::cancel),
            "cancelTask",
            "Cancel a task; the turn of a running one is stopped, and this does not wait for its end",
            None,
        )
        .needs(Scope::Submit)
        .gives::<Task>(200),
        Operation::post(
            "/v1/tasks/{task}/retry",
            post(tasks::retry),
            "retryTask",
            "Put a parked task back into the queue, at its old place; a task that waits or runs stays as it is",
            None,
        )
        .needs(Scope::Submit)
        .gives::<Task>(200),
        Operation::get(
            "/v1/tasks/{task}/events",
            get(tasks::events),
            "taskEvents",
            "The events of a task's turns, until it has ended",
        )
        .query::<tasks::EventsQuery>()
        .headers(&[RESUME])
        .answers(Success::Events),
        Operation::get(
            "/v1/sessions",
            get(sessions::list),
            "listSessions",
            "List sessions by reference",
        )
        .query::<sessions::ListQuery>()
        .gives::<SessionList>(200),
        Operation::get(
            "/v1/sessions/{session}",
            get(sessions::show),
            "showSession",
            "Show a session: its record and its state",
        )
        .gives::<SessionWithState>(200),
        Operation::get(
            "/v1/sessions/{session}/turns",
            get(sessions::turns),
            "listTurns",
            "The turns of a session that have ended, oldest first",
        )
        .gives::<TurnList>(200),
        Operation::get(
            "/v1/sessions/{session}/events",
            get(sessions::events),
            "sessionEvents",
            "The events of a session's turn, the newest one by default, until it has ended",
        )
        .query::<tasks::EventsQuery>()
        .headers(&[RESUME])
        .answers(Success::Events),
        Operation::get(
            "/v1/sessions/{session}/diff",
            get(sessions::diff),
            "diffSession",
            "What a session has changed since it began",
        )
        .gives::<DiffOutput>(200),
        Operation::post(
            "/v1/sessions/{session}/answer",
            post(sessions::answer),
            "answerSession",
            "Answer the request that blocked a session's turn; the next turn delivers the answer",
            Some(of::<AnswerRequest>),
        )
        .needs(Scope::Admin)
        .gives::<PendingSession>(200),
        Operation::post(
            "/v1/sessions/{session}/signal",
            post(sessions::signal),
            "signalSession",
            "Pause, resume or stop the running turn of a session",
            Some(of::<SignalRequest>),
        )
        .needs(Scope::Admin)
        .answers(Success::Empty(202)),
        Operation::get(
            "/v1/query",
            get(sessions::query),
            "query",
            "One summary of all sessions",
        )
        .gives::<Query>(200),
        Operation::post(
            "/v1/stop",
            post(status::stop),
            "stop",
            "End the daemon",
            Some(of::<StopRequest>),
        )
        .needs(Scope::Admin)
        .answers(Success::Empty(202)),
    ]
}
