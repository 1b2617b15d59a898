//! What the local socket can change: the next boot of a machine, and whether new machines are taken.

use std::fmt::Debug;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::post;

use crate::machines::Mac;

/// The part of the server that the local socket can change.
pub(crate) trait Control: Debug + Send + Sync {
    /// Notes what a machine boots next: the name of an image, `local` or `rule`. Returns what to
    /// say.
    ///
    /// # Errors
    /// The reason in one line.
    fn next(&self, machine: Mac, boot: &str) -> Result<String, String>;

    /// Lets new machines go to other servers, or no longer. Returns what to say.
    ///
    /// # Errors
    /// The reason in one line.
    fn drain(&self, is_draining: bool) -> Result<String, String>;
}

/// Returns the answers to calls of this user's programs.
pub(super) fn router(control: Arc<dyn Control>) -> Router {
    Router::new()
        .route("/next/{machine}/{boot}", post(next))
        .route("/drain", post(drain).delete(end_drain))
        .with_state(control)
}

async fn drain(control: State<Arc<dyn Control>>) -> Result<String, (StatusCode, String)> {
    control.drain(true).map_err(|why| (StatusCode::CONFLICT, why))
}

async fn end_drain(control: State<Arc<dyn Control>>) -> Result<String, (StatusCode, String)> {
    control.drain(false).map_err(|why| (StatusCode::CONFLICT, why))
}

async fn next(
    State(control): State<Arc<dyn Control>>,
    Path((machine, boot)): Path<(String, String)>,
) -> Result<String, (StatusCode, String)> {
    let machine = machine.parse::<Mac>().map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?;
    // Another thread takes over the other tasks of this one while it is written.
    let noted = tokio::task::block_in_place(|| control.next(machine, &boot));
    noted.map_err(|why| (StatusCode::CONFLICT, why))
}
