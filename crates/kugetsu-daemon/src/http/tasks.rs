//! Tasks: submit, list, show, cancel, and follow the events of their turns.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use jiff::Timestamp;
use kugetsu_api::{
    Address, AddressName, ErrorCode, PRIORITIES, RepoRef, SubmittedTask, Task, TaskId, TaskList, TaskRequest,
    TaskSpec,
};
use kugetsu_engine::settings::{Settings, is_allowed, parse_model};
use schemars::JsonSchema;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use uuid::Uuid;

use super::Shared;
use super::access::{Access, StreamPermit};
use super::problem::{Answer, Problem};
use crate::app::App;
use crate::events::{self, Form, Stream};
use crate::queue::{Cancellation, NewTask, QueueError, TaskFilter};
use crate::trace::{self, TRACEPARENT};

/// The header with which a submission can be repeated without making a second task.
const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// The longest idempotency key.
const MAX_KEY: usize = 200;

/// Submits a task.
pub(super) async fn submit(
    State(app): Shared,
    Extension(access): Extension<Access>,
    headers: HeaderMap,
    request: Result<Json<TaskRequest>, JsonRejection>,
) -> Answer<Response> {
    let Json(request) = request?;
    if app.is_ending() {
        return Err(Problem::draining());
    }
    let key = idempotency_key(&headers)?;
    let id = TaskId(Uuid::now_v7());
    // A task is not submitted if its events cannot be sent.
    let permit = request.stream.then(|| access.stream(&app)).transpose()?;
    let engine = app.engine();
    let mut task = new_task(id, request, key, engine.settings())?;
    task.spec.traceparent = traceparent(&headers);
    access.require(task.spec.address.repo())?;
    let left = app.ledger.left(&task.spec.address, Timestamp::now());
    if let Err(used_up) = left {
        return Err(if access.covers_all() {
            used_up.into()
        } else {
            Problem::budget_used_up(used_up.full_in, "what turns may cost today is used up")
        });
    }
    // A repository that nobody set up has nothing that the task could run in.
    let repo = task.spec.address.repo().clone();
    let known = move || engine.base_for(&repo).map(drop);
    match tokio::task::spawn_blocking(known).await {
        Ok(known) => known?,
        Err(_) => {
            return Err(Problem::new(
                ErrorCode::Internal,
                "the repository could not be looked up",
            ));
        }
    }
    let submitted = match app.queue.submit(task).await {
        // It may be the task of a repository that the request may not see.
        Err(QueueError::KeyReused { .. }) if !access.covers_all() => {
            return Err(Problem::new(
                ErrorCode::IdempotencyKeyReused,
                "the idempotency key was used for a task that asks for something else",
            ));
        }
        submitted => submitted?,
    };
    access.require(submitted.task.repo())?;
    let id = submitted.task.task;
    if let Some(permit) = permit {
        return Ok(streamed(app, permit, submitted.task, &headers, true));
    }
    let location = [(header::LOCATION, format!("/v1/tasks/{id}"))];
    let answer = SubmittedTask {
        task_id: id,
        is_new: submitted.is_new,
        task: submitted.task,
    };
    Ok((StatusCode::ACCEPTED, location, Json(answer)).into_response())
}

fn idempotency_key(headers: &HeaderMap) -> Answer<Option<String>> {
    let Some(key) = headers.get(IDEMPOTENCY_KEY) else {
        return Ok(None);
    };
    let key = key
        .to_str()
        .ok()
        .filter(|key| !key.is_empty() && key.len() <= MAX_KEY);
    let problem = || {
        Problem::usage(format!(
            "the header {IDEMPOTENCY_KEY} is not a text of 1 to {MAX_KEY} ASCII characters"
        ))
    };
    key.map(|key| Some(key.to_owned())).ok_or_else(problem)
}

/// The span that a submission belongs to. One that is not valid is ignored, as the specification says.
fn traceparent(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(TRACEPARENT)?.to_str().ok()?.trim();
    // Nothing that a client has made up is kept.
    trace::parse(text).map(|span| trace::write(&span))
}

/// Checks a submission, without looking at the store.
fn new_task(id: TaskId, request: TaskRequest, key: Option<String>, settings: &Settings) -> Answer<NewTask> {
    if request.prompt.trim().is_empty() {
        return Err(Problem::usage("`prompt` is empty"));
    }
    if !PRIORITIES.contains(&request.priority) {
        return Err(Problem::usage(format!(
            "`priority` is not between {} and {}",
            PRIORITIES.start(),
            PRIORITIES.end()
        )));
    }
    let model = request.model.as_deref().map(parse_model).transpose();
    let model = model.map_err(|problem| Problem::usage(format!("`model`: {problem}")))?;
    check_allowed("model", model.as_deref(), &settings.task_models)?;
    check_allowed("agent", request.agent.as_deref(), &settings.task_agents)?;
    let limits = request.limits;
    if limits
        .max_cost_usd
        .is_some_and(|usd| !usd.is_finite() || usd < 0.0)
    {
        return Err(Problem::usage("`limits.max_cost_usd` is not an amount of money"));
    }
    if limits.timeout_seconds == Some(0) {
        return Err(Problem::usage("`limits.timeout_seconds` is 0"));
    }
    Ok(NewTask {
        task: id,
        spec: TaskSpec {
            address: address_of(id, key.as_deref(), &request, settings)?,
            prompt: request.prompt,
            model,
            agent: request.agent,
            worktree: request.worktree,
            policy: request.policy,
            answers: request.answers,
            limits,
            traceparent: None,
        },
        priority: request.priority,
        after: request.after,
        not_before: request.not_before,
        idempotency_key: key,
        submitted: Timestamp::now(),
    })
}

/// Refuses a model or an agent that tasks may not ask for.
fn check_allowed(what: &str, asked: Option<&str>, allowed: &[String]) -> Answer<()> {
    match asked {
        Some(name) if !is_allowed(allowed, name) => Err(Problem::new(
            ErrorCode::NotAllowed,
            format!("tasks may not ask for the {what} `{name}`"),
        )
        .hint(format!("ask for one of: {}", allowed.join(", ")))
        .hint(format!(
            "or leave it out, and the {what} of the settings or the session is used"
        ))),
        _ => Ok(()),
    }
}

/// What a request with this idempotency key would have the queue keep; `None` if it is refused.
#[cfg(feature = "internals")]
pub fn spec_of_request(request: TaskRequest, key: Option<&str>, settings: &Settings) -> Option<TaskSpec> {
    let task = new_task(TaskId(Uuid::now_v7()), request, key.map(str::to_owned), settings);
    task.ok().map(|task| task.spec)
}

/// The session that a task runs in: the one that the request names, or one of its own.
fn address_of(id: TaskId, key: Option<&str>, request: &TaskRequest, settings: &Settings) -> Answer<Address> {
    let context = super::ref_context(settings);
    match (&request.address, &request.context, &request.repo) {
        (Some(address), None, None) => Ok(Address::parse(address, &context)?),
        (None, Some(from), None) => Ok(Address::parse(&from.issue_url, &context)?),
        (None, None, Some(repo)) => {
            // A repeated submission must name the same session.
            let name = match key {
                Some(key) => hex::encode(&Sha256::digest(key)[..16]),
                None => id.0.simple().to_string(),
            };
            let name = format!("task-{name}");
            let name = AddressName::new(&name).map_err(|error| Problem::usage(error.to_string()))?;
            Ok(Address::Named(RepoRef::parse(repo, &context)?, name))
        }
        _ => Err(
            Problem::usage("one of `ref`, `context.issue_url` and `repo` must say where the task runs")
                .hint("for a session of its own in a repository, give `repo`"),
        ),
    }
}

/// A query for tasks.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    /// Only those in one of these states, separated by commas.
    state: Option<String>,
    /// Only those of this repository.
    repo: Option<String>,
    /// Only those of the session with this address.
    #[serde(rename = "ref")]
    address: Option<String>,
    /// Only those submitted before this one: `next` of the page before.
    before: Option<TaskId>,
    /// At most this many, from 1 to 1000; 100 by default.
    limit: Option<usize>,
}

/// Lists tasks, newest first.
pub(super) async fn list(
    State(app): Shared,
    Extension(access): Extension<Access>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Answer<Json<TaskList>> {
    let Query(query) = query?;
    let engine = app.engine();
    let context = super::ref_context(engine.settings());
    let repo = query
        .repo
        .map(|repo| RepoRef::parse(&repo, &context))
        .transpose()?;
    let address = query
        .address
        .map(|text| Address::parse(&text, &context))
        .transpose()?;
    match repo.as_ref().or(address.as_ref().map(Address::repo)) {
        Some(repo) => access.require(repo)?,
        None if access.covers_all() => {}
        None => {
            return Err(Problem::forbidden(
                "the token covers some repositories: name one of them with `repo`",
            ));
        }
    }
    let limit = query.limit.unwrap_or(super::PAGE).clamp(1, super::MAX_PAGE);
    let filter = TaskFilter {
        states: super::states(query.state.as_deref())?,
        repo,
        address: address.map(|address| address.to_string()),
        before: query.before,
        limit: limit + 1,
    };
    let mut tasks = app.queue.list(filter).await?;
    let has_more = tasks.len() > limit;
    tasks.truncate(limit);
    let next = tasks.last().filter(|_| has_more).map(|task| task.task);
    Ok(Json(TaskList { tasks, next }))
}

/// The task with this id, or whose id begins or ends with this text, if the request may see it.
async fn find(app: &App, access: &Access, text: &str) -> Answer<Task> {
    let missing = || {
        Problem::new(ErrorCode::NoTask, format!("there is no task `{text}`"))
            .hint("list the tasks: kugetsu task list")
    };
    let seen = |task: Option<Task>| task.filter(|task| access.covers(task.repo())).ok_or_else(missing);
    if let Ok(id) = text.parse() {
        return seen(app.queue.task(id).await?);
    }
    let found = app.queue.matching(text.to_owned()).await?;
    match found.as_slice() {
        [] => Err(missing()),
        [one] => seen(app.queue.task(*one).await?),
        _ if !access.covers_all() => Err(missing()),
        several => {
            let names: Vec<_> = several.iter().map(ToString::to_string).collect();
            Err(Problem::usage(format!("several tasks match `{text}`"))
                .hint(format!("give more of the id: {}", names.join(", "))))
        }
    }
}

/// Shows a task.
pub(super) async fn show(
    State(app): Shared,
    Extension(access): Extension<Access>,
    task: Result<Path<String>, PathRejection>,
) -> Answer<Json<Task>> {
    find(&app, &access, &task?.0).await.map(Json)
}

/// Cancels a task, also one that is parked. The turn of a running one is stopped; the answer does not wait for its end.
pub(super) async fn cancel(
    State(app): Shared,
    Extension(access): Extension<Access>,
    task: Result<Path<String>, PathRejection>,
) -> Answer<Json<Task>> {
    let id = find(&app, &access, &task?.0).await?.task;
    let task = match app.queue.cancel(id, Timestamp::now()).await? {
        Cancellation::Cancelled(task) => {
            app.tracer.task(&task);
            task
        }
        Cancellation::Over(task) => task,
        Cancellation::Running(task) => {
            app.cancel(id);
            task
        }
    };
    Ok(Json(task))
}

/// Puts a parked task back into the queue.
pub(super) async fn retry(
    State(app): Shared,
    Extension(access): Extension<Access>,
    task: Result<Path<String>, PathRejection>,
) -> Answer<Json<Task>> {
    let id = find(&app, &access, &task?.0).await?.task;
    if app.is_ending() {
        return Err(Problem::draining());
    }
    Ok(Json(app.queue.retry(id, Timestamp::now()).await?))
}

/// How to follow the events of a task.
#[derive(Deserialize, JsonSchema)]
pub(super) struct EventsQuery {
    /// Whether to wait for events that are to come; true by default.
    #[serde(default = "yes")]
    pub(super) follow: bool,
    /// The turn of a session; by default the newest.
    pub(super) turn: Option<Uuid>,
}

fn yes() -> bool {
    true
}

/// The events of a task's turn.
pub(super) async fn events(
    State(app): Shared,
    Extension(access): Extension<Access>,
    task: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    query: Result<Query<EventsQuery>, QueryRejection>,
) -> Answer<Response> {
    let Query(query) = query?;
    let task = find(&app, &access, &task?.0).await?;
    let permit = access.stream(&app)?;
    Ok(streamed(app, permit, task, &headers, query.follow))
}

/// Streams the events of a task.
fn streamed(app: Arc<App>, permit: StreamPermit, task: Task, headers: &HeaderMap, follow: bool) -> Response {
    let stream = stream_of(headers, follow);
    let id = task.task;
    let mut response = respond(stream, permit, |sender| {
        events::follow_task(app, task, stream, sender)
    });
    if let Ok(location) = header::HeaderValue::from_str(&format!("/v1/tasks/{id}")) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// The stream that a request asks for: server-sent events if it accepts them, or JSON lines.
pub(super) fn stream_of(headers: &HeaderMap, follow: bool) -> Stream {
    let accepted = headers.get_all(header::ACCEPT).iter();
    let is_sent_by_server = accepted
        .filter_map(|accepted| accepted.to_str().ok())
        .any(|accepted| accepted.contains("text/event-stream"));
    let resume = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    Stream {
        form: if is_sent_by_server {
            Form::ServerSent
        } else {
            Form::Lines
        },
        follow,
        resume: resume.and_then(events::Position::parse),
    }
}

/// The response whose body `follow` sends, until nobody may read it any more.
pub(super) fn respond<F>(
    stream: Stream,
    permit: StreamPermit,
    follow: impl FnOnce(events::Sender) -> F,
) -> Response
where
    F: Future<Output = ()> + Send + 'static,
{
    // A reader that stalls keeps little in memory.
    let (sender, receiver) = mpsc::channel(1);
    let (seat, revoked) = permit.split();
    let following = follow(sender);
    tokio::spawn(async move {
        tokio::select! {
            () = following => {}
            () = revoked => {}
        }
    });
    let headers = [
        (header::CONTENT_TYPE, stream.form.content_type()),
        (header::CACHE_CONTROL, "no-cache"),
    ];
    let events = ReceiverStream::new(receiver).map(move |bytes| {
        // The stream counts as open until nobody reads it any more.
        let _open = &seat;
        bytes
    });
    (headers, Body::from_stream(events)).into_response()
}
