//! What there is at which path.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::Arc;

use axum::extract::{Path, Request, State};
use axum::http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn, map_response};
use axum::response::sse::{Event, Sse};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use futures_util::stream::{Stream, unfold};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::connection::Watching;
use super::exposition::{Format, exposition};
use super::reports::Reports;
use crate::metrics::process;

/// Pages that may watch at a time; a program can always get a report.
const WATCHERS_MAX: usize = 16;

/// The page, with all that it needs in it.
const PAGE: &str = include_str!("page.html");

/// The page needs nothing from elsewhere, and nothing may come into it.
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Headers of each answer: the status of before is no status.
const HEADERS: [(HeaderName, &str); 4] = [
    (CACHE_CONTROL, "no-store"),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "no-referrer"),
    (CONTENT_SECURITY_POLICY, POLICY),
];

#[derive(Debug, Clone)]
struct Shared {
    reports: Arc<Reports>,
    watchers: Arc<Semaphore>,
}

/// Returns the answers to all requests.
pub(super) fn router(reports: Arc<Reports>) -> Router {
    Router::new()
        .route("/", get(status))
        .route("/events", get(events))
        .route("/log/{machine}", get(log))
        .route("/metrics", get(metrics))
        // Whether the process answers. A fault of one image does not count: a supervisor would restart
        // isowire, and machines on other images would lose their root.
        .route("/healthz", get(async || "ok\n"))
        .fallback(async || (StatusCode::NOT_FOUND, "The status of isowire is at /\n"))
        .layer(map_response(with_headers))
        .with_state(Shared { reports, watchers: Arc::new(Semaphore::new(WATCHERS_MAX)) })
}

/// Returns the answers for requests to this host by address or as `localhost`, and a refusal for others.
pub(super) fn of_this_host(router: Router) -> Router {
    router.layer(from_fn(refuse_other_names))
}

async fn refuse_other_names(request: Request, next: Next) -> Response {
    // RFC 9110 §7.2: browsers always send it.
    let host = request.headers().get(HOST).map(HeaderValue::as_bytes);
    if host.is_none_or(names_this_host) {
        return next.run(request).await;
    }
    (StatusCode::FORBIDDEN, "Ask by address, as in http://127.0.0.1:8081/\n").into_response()
}

fn names_this_host(host: &[u8]) -> bool {
    let Ok(authority) = Authority::try_from(host) else { return false };
    authority.host() == "localhost" || authority.host().parse::<Ipv4Addr>().is_ok()
}

async fn with_headers(mut response: Response) -> Response {
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The page for a browser, JSON for all others.
async fn status(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    // Browsers name it first; curl and `isowire status` take anything.
    if accepts(&headers, "text/html") {
        return Html(PAGE).into_response();
    }
    ([(CONTENT_TYPE, "application/json")], shared.reports.json()).into_response()
}

/// Metrics for Prometheus, in the format that it asks for.
async fn metrics(State(shared): State<Shared>, headers: HeaderMap) -> Response {
    let is_open = accepts(&headers, "application/openmetrics-text");
    let format = if is_open { Format::OpenMetrics } else { Format::Text };
    let text = exposition(&shared.reports.now(), process::read(shared.reports.started), format);
    ([(CONTENT_TYPE, format.media_type())], text).into_response()
}

/// The lines of the log about a machine, by its MAC address or one of its addresses.
async fn log(State(shared): State<Shared>, Path(machine): Path<String>) -> Response {
    match shared.reports.log(&machine) {
        Some(json) => ([(CONTENT_TYPE, "application/json")], json).into_response(),
        None => (StatusCode::NOT_FOUND, "no such machine\n").into_response(),
    }
}

/// Tells whether the client names this type among those that it takes (RFC 9110 §12.5.1).
fn accepts(headers: &HeaderMap, media_type: &str) -> bool {
    let values = headers.get_all(ACCEPT).iter().filter_map(|accepted| accepted.to_str().ok());
    values.into_iter().any(|accepted| accepted.to_ascii_lowercase().contains(media_type))
}

/// A report each second, as events of the type `status`.
async fn events(
    State(shared): State<Shared>,
    Extension(watching): Extension<Watching>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, (StatusCode, &'static str)> {
    let full = (StatusCode::SERVICE_UNAVAILABLE, "too many pages watch: close one\n");
    let place = shared.watchers.try_acquire_owned().map_err(|_| full)?;
    watching.begin();
    let watcher =
        Watcher { first: Some(shared.reports.json()), reports: shared.reports.watch(), _place: place };
    Ok(Sse::new(unfold(watcher, next_event)))
}

/// A page that watches.
struct Watcher {
    first: Option<String>,
    reports: watch::Receiver<Arc<str>>,
    _place: OwnedSemaphorePermit,
}

async fn next_event(mut watcher: Watcher) -> Option<(Result<Event, Infallible>, Watcher)> {
    let event = Event::default().event("status");
    let event = if let Some(first) = watcher.first.take() {
        event.data(first)
    } else {
        watcher.reports.changed().await.ok()?;
        event.data(&**watcher.reports.borrow_and_update())
    };
    Some((Ok(event), watcher))
}
