//! Health, state and end of the daemon.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use kugetsu_api::{DaemonStatus, StopRequest};

use super::Shared;
use super::problem::{Answer, Problem};

/// The daemon lives.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether the daemon takes tasks.
pub(super) async fn readyz(State(app): Shared) -> Result<&'static str, Problem> {
    if app.is_ending() {
        return Err(Problem::draining());
    }
    Ok("ready\n")
}

/// What the daemon is doing.
pub(super) async fn status(State(app): Shared) -> Json<DaemonStatus> {
    Json(app.status())
}

/// Ends the daemon.
pub(super) async fn stop(
    State(app): Shared,
    request: Result<Json<StopRequest>, axum::extract::rejection::JsonRejection>,
) -> Answer<impl IntoResponse> {
    let Json(request) = request?;
    app.stop(request.drain);
    Ok(StatusCode::ACCEPTED)
}
