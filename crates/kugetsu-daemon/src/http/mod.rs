//! The HTTP API. One file for each group of paths.

mod problem;
pub(crate) mod slots;
mod status;
mod tasks;

use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{delete, get, post};
use tokio::net::UnixListener;

use crate::app::App;
use problem::Problem;

/// The longest body of a request.
const MAX_BODY: usize = 1 << 20;
/// The longest body of what only commands on this machine send: an environment and the text about a session.
const MAX_LOCAL_BODY: usize = 16 << 20;

type Shared = axum::extract::State<Arc<App>>;

/// Serves the socket until the daemon ends.
pub(crate) async fn serve(app: Arc<App>, socket: UnixListener) {
    // `serve` ends only with its task.
    let _ = axum::serve(socket, local(app)).await;
}

/// What the socket serves, which only the owner of the home can reach.
fn local(app: Arc<App>) -> Router {
    let slots = Router::new()
        .route("/v1/slots", post(slots::ask))
        .route("/v1/slots/{slot}/server", post(slots::lend))
        .route("/v1/slots/{slot}/server", delete(slots::give_back))
        .route("/v1/slots/{slot}/end", post(slots::end))
        .layer(DefaultBodyLimit::max(MAX_LOCAL_BODY));
    let tasks = Router::new()
        .route("/v1/tasks", post(tasks::submit).get(tasks::list))
        .route("/v1/tasks/{task}", get(tasks::show))
        .route("/v1/tasks/{task}/cancel", post(tasks::cancel))
        .route("/v1/tasks/{task}/events", get(tasks::events))
        .layer(DefaultBodyLimit::max(MAX_BODY));
    Router::new()
        .route("/healthz", get(status::healthz))
        .route("/readyz", get(status::readyz))
        .route("/v1/status", get(status::status))
        .route("/v1/stop", post(status::stop))
        .merge(slots)
        .merge(tasks)
        .fallback(|| async { Problem::no_such_path() })
        .method_not_allowed_fallback(|| async { Problem::wrong_method() })
        .with_state(app)
}
