//! Health, state and end of the daemon.

use std::sync::LazyLock;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use axum::{Extension, Json};
use jiff::Timestamp;
use kugetsu_api::{DaemonStatus, ErrorCode, StopRequest};

use super::Shared;
use super::access::Access;
use super::problem::{Answer, Problem};
use crate::metrics::MetricsFormat;

/// The daemon lives.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether the daemon takes tasks.
pub(super) async fn readyz(State(app): Shared) -> Result<&'static str, Problem> {
    if app.is_ending() {
        return Err(Problem::draining());
    }
    if let Some(problem) = app.queue.problem() {
        let detail = format!("the queue cannot be written: {problem}");
        return Err(
            Problem::new(ErrorCode::StoreUnwritable, detail).with_status(StatusCode::SERVICE_UNAVAILABLE)
        );
    }
    Ok("ready\n")
}

/// What the daemon is doing.
pub(super) async fn status(
    State(app): Shared,
    Extension(access): Extension<Access>,
) -> Answer<Json<DaemonStatus>> {
    access.require_all()?;
    Ok(Json(app.status()))
}

/// Ends the daemon.
pub(super) async fn stop(
    State(app): Shared,
    Extension(access): Extension<Access>,
    request: Result<Json<StopRequest>, axum::extract::rejection::JsonRejection>,
) -> Answer<impl IntoResponse> {
    access.require_all()?;
    let Json(request) = request?;
    app.stop(request.drain);
    Ok(StatusCode::ACCEPTED)
}

/// What a request accepts that wants the format of OpenMetrics.
const OPEN: &[u8] = b"application/openmetrics-text";

/// What the daemon counts, for Prometheus.
pub(super) async fn metrics(
    State(app): Shared,
    access: Option<Extension<Access>>,
    headers: HeaderMap,
) -> Answer<impl IntoResponse> {
    // On an address of their own, metrics are for everybody.
    if let Some(Extension(access)) = access {
        access.require_all()?;
    }
    let mut accepted = headers.get_all(header::ACCEPT).iter();
    let is_open = accepted.any(|accepted| accepted.as_bytes().windows(OPEN.len()).any(|part| part == OPEN));
    let format = if is_open {
        MetricsFormat::OpenMetrics
    } else {
        MetricsFormat::Text
    };
    let text = app.metrics.text(&app.status(), Timestamp::now(), format);
    Ok(([(header::CONTENT_TYPE, format.content_type())], text))
}

/// The document of the API.
pub(super) async fn openapi() -> Json<&'static serde_json::Value> {
    static DOCUMENT: LazyLock<serde_json::Value> = LazyLock::new(super::openapi);
    Json(&DOCUMENT)
}
