//! Sessions: list, show, their turns and changes; answers and signals to them; and the summary of all.

use std::sync::Arc;

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::{Extension, Json};
use kugetsu_api::output::{DiffOutput, PendingSession, SessionWithState};
use kugetsu_api::{
    Address, AnswerRequest, RepoRef, SessionList, SessionState, SessionView, SignalRequest, TurnList,
};
use kugetsu_engine::operations::{Engine, EngineError};
use kugetsu_engine::turn::Interrupt;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::watch;

use super::Shared;
use super::access::Access;
use super::problem::Answer;
use super::tasks::{EventsQuery, respond, stream_of};
use crate::app::App;
use crate::events;

/// Runs blocking work on the store.
async fn blocking<T: Send + 'static>(
    app: &Arc<App>,
    work: impl FnOnce(&Engine) -> Result<T, EngineError> + Send + 'static,
) -> Answer<T> {
    let engine = app.engine();
    match tokio::task::spawn_blocking(move || work(&engine)).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(EngineError::Internal("a request to the store failed").into()),
    }
}

/// The session that a path names, if the request may see it.
fn address_of(app: &App, access: &Access, session: Result<Path<String>, PathRejection>) -> Answer<Address> {
    let Path(text) = session?;
    let address = Address::parse(&text, &super::ref_context(app.engine().settings()))?;
    access.require(address.repo())?;
    Ok(address)
}

/// A query for sessions.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    /// Only those in one of these states, separated by commas.
    state: Option<String>,
    /// Only those of this repository.
    repo: Option<String>,
    /// Only those behind this one: `next` of the page before.
    after: Option<String>,
    /// At most this many, from 1 to 1000; 100 by default.
    limit: Option<usize>,
}

/// Lists sessions by reference.
pub(super) async fn list(
    State(app): Shared,
    Extension(access): Extension<Access>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Answer<Json<SessionList>> {
    let Query(query) = query?;
    let context = super::ref_context(app.engine().settings());
    let states: Vec<SessionState> = super::states(query.state.as_deref())?;
    let repo = query
        .repo
        .map(|repo| RepoRef::parse(&repo, &context))
        .transpose()?;
    let after = query
        .after
        .map(|text| Address::parse(&text, &context))
        .transpose()?;
    let after = after.map(|address| address.to_string());
    let limit = query.limit.unwrap_or(super::PAGE).clamp(1, super::MAX_PAGE);
    let found = blocking(&app, move |engine| {
        let mut views: Vec<SessionView> = Vec::new();
        let add = |views: &mut Vec<SessionView>, summary: kugetsu_api::SessionSummary, _: &str| {
            let state = engine.state_of_summary(&summary);
            let wanted = (states.is_empty() || states.contains(&state))
                && repo.as_ref().is_none_or(|repo| repo == summary.address.repo())
                && access.covers(summary.address.repo());
            if wanted {
                views.push(SessionView {
                    state,
                    session: summary.session,
                    updated: summary.updated,
                    issue_title: summary.issue_title,
                    totals: summary.totals,
                    address: summary.address,
                });
            }
        };
        engine.list(add, |mut more| views.append(&mut more))?;
        Ok(views)
    })
    .await?;
    let mut keyed: Vec<(String, SessionView)> = found
        .into_iter()
        .map(|view| (view.address.to_string(), view))
        .collect();
    keyed.sort_by(|(one, _), (other, _)| one.cmp(other));
    let rest = keyed
        .into_iter()
        .filter(|(key, _)| after.as_ref().is_none_or(|after| key > after));
    let mut sessions: Vec<SessionView> = rest.map(|(_, view)| view).take(limit + 1).collect();
    let has_more = sessions.len() > limit;
    sessions.truncate(limit);
    let next = sessions
        .last()
        .filter(|_| has_more)
        .map(|view| view.address.clone());
    Ok(Json(SessionList { sessions, next }))
}

/// Shows a session: its record and its state.
pub(super) async fn show(
    State(app): Shared,
    Extension(access): Extension<Access>,
    session: Result<Path<String>, PathRejection>,
) -> Answer<Json<SessionWithState>> {
    let address = address_of(&app, &access, session)?;
    let shown = blocking(&app, move |engine| {
        let record = engine.record(&address)?;
        let state = engine.state_of(&record);
        Ok(SessionWithState { record, state })
    });
    shown.await.map(Json)
}

/// The turns of a session that have ended, oldest first.
pub(super) async fn turns(
    State(app): Shared,
    Extension(access): Extension<Access>,
    session: Result<Path<String>, PathRejection>,
) -> Answer<Json<TurnList>> {
    let address = address_of(&app, &access, session)?;
    let turns = blocking(&app, move |engine| {
        engine.record(&address)?;
        engine.turns(&address)
    });
    Ok(Json(TurnList { turns: turns.await? }))
}

/// The events of a session's turn: the one that the query names, or the newest.
pub(super) async fn events(
    State(app): Shared,
    Extension(access): Extension<Access>,
    session: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
    query: Result<Query<EventsQuery>, QueryRejection>,
) -> Answer<Response> {
    let address = address_of(&app, &access, session)?;
    let Query(query) = query?;
    let turn = match query.turn {
        Some(turn) => turn,
        None => {
            let address = address.clone();
            blocking(&app, move |engine| engine.newest_turn(&address)).await?
        }
    };
    let stream = stream_of(&headers, query.follow);
    let permit = access.stream(&app)?;
    Ok(respond(stream, permit, |sender| {
        events::follow_turn(app, address, turn, stream, sender)
    }))
}

/// What a session has changed since it began.
pub(super) async fn diff(
    State(app): Shared,
    Extension(access): Extension<Access>,
    session: Result<Path<String>, PathRejection>,
) -> Answer<Json<DiffOutput>> {
    let address = address_of(&app, &access, session)?;
    let (_alive, interrupts) = watch::channel(Interrupt::None);
    let changes = app.engine().changes_since_start(&address, interrupts).await?;
    Ok(Json(DiffOutput { address, changes }))
}

/// Answers the request that blocked a session's turn. The next turn delivers the answer.
pub(super) async fn answer(
    State(app): Shared,
    Extension(access): Extension<Access>,
    session: Result<Path<String>, PathRejection>,
    request: Result<Json<AnswerRequest>, JsonRejection>,
) -> Answer<Json<PendingSession>> {
    let address = address_of(&app, &access, session)?;
    let Json(request) = request?;
    let answered = blocking(&app, move |engine| engine.answer(&address, &request.answer));
    let record = answered.await?;
    Ok(Json(PendingSession {
        address: record.address,
        requests: record.pending,
    }))
}

/// Sends a signal to the running turn of a session.
pub(super) async fn signal(
    State(app): Shared,
    Extension(access): Extension<Access>,
    session: Result<Path<String>, PathRejection>,
    request: Result<Json<SignalRequest>, JsonRejection>,
) -> Answer<StatusCode> {
    let address = address_of(&app, &access, session)?;
    let Json(request) = request?;
    let sent = blocking(&app, move |engine| {
        engine.signal(&address, request.signal).map(drop)
    });
    sent.await?;
    Ok(StatusCode::ACCEPTED)
}

/// One summary of all sessions.
pub(super) async fn query(
    State(app): Shared,
    Extension(access): Extension<Access>,
) -> Answer<Json<kugetsu_api::Query>> {
    access.require_all()?;
    let cache = Arc::clone(&app.query_cache);
    blocking(&app, move |engine| engine.query_from(&cache))
        .await
        .map(Json)
}
