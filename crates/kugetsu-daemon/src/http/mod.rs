//! The HTTP API. One file for each group of paths.

pub(crate) mod access;
pub(crate) mod logins;
mod openapi;
mod operations;
mod page;
mod problem;
pub(crate) mod rates;
pub(crate) mod room;
pub(crate) mod serve;
mod sessions;
pub(crate) mod slots;
mod status;
mod tasks;
pub(crate) mod tls;

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use axum::routing::{delete, get, post};
use axum::{Router, middleware};
use kugetsu_api::{RefContext, Scope};
use kugetsu_engine::settings::Settings;
use tokio::net::{TcpListener, UnixListener};
use tokio_rustls::TlsAcceptor;

use crate::app::App;
pub use openapi::openapi;
use problem::{Answer, Problem};
use serve::{Limits, Listener, OpenFiles, serve};
#[cfg(feature = "internals")]
pub use tasks::spec_of_request;

/// The longest body of a request.
const MAX_BODY: usize = 1 << 20;
/// The longest body of what only commands on this machine send: an environment and the text about a session.
const MAX_LOCAL_BODY: usize = 16 << 20;

type Shared = State<Arc<App>>;

/// How many items a page of a list has unless the request says otherwise, and at most.
const PAGE: usize = 100;
const MAX_PAGE: usize = 1000;

/// The states that a query names, separated by commas.
fn states<T: std::str::FromStr<Err = String>>(query: Option<&str>) -> Answer<Vec<T>> {
    let states = query.into_iter().flat_map(|states| states.split(','));
    let states: Result<_, String> = states.map(str::parse).collect();
    states.map_err(Problem::usage)
}

/// How references of requests are read: the daemon stands in no checkout, so there is no origin.
fn ref_context(settings: &Settings) -> RefContext {
    RefContext {
        default_instance: settings.instance.clone(),
        origin: None,
    }
}

/// Serves the socket until the daemon ends.
pub(crate) async fn serve_socket(app: Arc<App>, socket: UnixListener, files: OpenFiles) {
    let closing = app.closing();
    let router = shared(&app).merge(slots_of(&app)).with_state(app);
    serve(
        Listener::Socket(socket),
        router,
        Limits::of_socket(files),
        closing,
    )
    .await;
}

/// Serves an address until the daemon ends.
pub(crate) async fn serve_address(
    app: Arc<App>,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    files: OpenFiles,
) {
    let closing = app.closing();
    let listener = Listener::Address {
        listener,
        tls,
        is_shared: app.behind_proxy,
    };
    let router = shared(&app).with_state(app);
    serve(listener, router, Limits::of_address(files), closing).await;
}

/// Serves health and metrics, which tell nothing of content, on an address of their own.
pub(crate) async fn serve_metrics(app: Arc<App>, listener: TcpListener, files: OpenFiles) {
    let closing = app.closing();
    let listener = Listener::Address {
        listener,
        tls: None,
        is_shared: false,
    };
    let router = health()
        .route("/metrics", get(status::metrics))
        .fallback(|| async { Problem::no_such_path() })
        .with_state(app);
    serve(listener, router, Limits::of_address(files), closing).await;
}

fn health() -> Router<Arc<App>> {
    Router::new()
        .route("/healthz", get(status::healthz))
        .route("/readyz", get(status::readyz))
}

/// Counts a request by the pattern of its path.
async fn count(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>();
    let route = route.map_or("none", MatchedPath::as_str).to_owned();
    let method = match *request.method() {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        _ => "other",
    };
    let response = next.run(request).await;
    app.metrics.request(&route, method, response.status().as_u16());
    response
}

/// What only commands on this machine need.
fn slots_of(app: &Arc<App>) -> Router<Arc<App>> {
    let slots = Router::new()
        .route("/v1/slots", post(slots::ask))
        .route("/v1/slots/{slot}/server", post(slots::lend))
        .route("/v1/slots/{slot}/server", delete(slots::give_back))
        .route("/v1/slots/{slot}/end", post(slots::end))
        .route("/v1/spending", post(slots::spent))
        .route("/v1/page-links", post(logins::new_link));
    // The limit is outside, because whoever checks the access reads the body.
    with_scope(slots, app, Scope::Admin).layer(DefaultBodyLimit::max(MAX_LOCAL_BODY))
}

/// What everybody may use who has access.
fn shared(app: &Arc<App>) -> Router<Arc<App>> {
    let visit = middleware::from_fn_with_state(Arc::clone(app), access::visit);
    let logins = Router::new()
        .route("/page/login", post(logins::log_in))
        .route("/page/logout", post(logins::log_out))
        .route_layer(middleware::from_fn_with_state(Arc::clone(app), logins::same_site));
    let mut router = Router::new()
        .route("/", get(page::index))
        .route("/page/{name}", get(page::file))
        .merge(logins)
        .route_layer(visit.clone());
    for operation in operations::all() {
        let handler = match operation.scope {
            // Health tells nothing of content.
            None => operation.handler.route_layer(visit.clone()),
            Some(scope) => operation.handler.route_layer(middleware::from_fn_with_state(
                (Arc::clone(app), scope),
                access::check,
            )),
        };
        router = router.route(operation.path, handler);
    }
    router
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(Arc::clone(app), count))
        .fallback(|| async { Problem::no_such_path() })
        .method_not_allowed_fallback(|| async { Problem::wrong_method() })
}

fn with_scope(router: Router<Arc<App>>, app: &Arc<App>, scope: Scope) -> Router<Arc<App>> {
    router.route_layer(middleware::from_fn_with_state(
        (Arc::clone(app), scope),
        access::check,
    ))
}
