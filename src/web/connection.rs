//! One connection: a request, its answer, and the end.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{sleep, timeout};

/// Time for a request. A slower client is dropped, as others may wait for its place.
const REQUEST_DEADLINE: Duration = Duration::from_secs(2);

/// Time for a request and its answer, unless the client watches.
const DEADLINE: Duration = Duration::from_secs(12);

/// Time for which a client watches. A page connects again by itself; the place of a machine that sleeps
/// is free by then.
const WATCH: Duration = Duration::from_secs(3600);

/// Longest head of a request, in bytes; hyper takes no less.
const HEAD_MAX: usize = 8 << 10;

/// Most header fields of a request. Browsers send about fifteen.
const FIELDS_MAX: usize = 64;

/// A stream of bytes, over TCP or a Unix socket.
pub(super) trait ByteStream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> ByteStream for S {}

/// Mark of a connection whose answer goes on.
#[derive(Debug, Clone, Default)]
pub(super) struct Watching(Arc<AtomicBool>);

impl Watching {
    pub(super) fn begin(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Waits for the time at which a connection is over.
    async fn deadline(&self) {
        sleep(DEADLINE).await;
        if self.0.load(Ordering::Relaxed) {
            sleep(WATCH).await;
        }
    }
}

/// Answers one request, and closes the connection.
///
/// # Errors
/// That of the connection, or of a request that is not HTTP.
pub(super) async fn serve(stream: Box<dyn ByteStream>, router: Router) -> io::Result<()> {
    let watching = Watching::default();
    let router = router.layer(Extension(watching.clone()));
    tokio::select! {
        served = serve_request(stream, router) => served,
        () = watching.deadline() => Err(io::ErrorKind::TimedOut.into()),
    }
}

async fn serve_request(stream: Box<dyn ByteStream>, router: Router) -> io::Result<()> {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(REQUEST_DEADLINE);
    builder.max_buf_size(HEAD_MAX).max_headers(FIELDS_MAX).keep_alive(false);
    // Some clients shut down their side once they have asked.
    builder.half_close(true);
    let service = TowerToHyperService::new(router);
    let mut connection = builder.serve_connection(TokioIo::new(stream), service);
    let served = poll_fn(|context| connection.poll_without_shutdown(context)).await;
    let stream = connection.into_parts().io.into_inner();
    timeout(REQUEST_DEADLINE, close(stream)).await??;
    served.map_err(io::Error::other)
}

async fn close(mut stream: Box<dyn ByteStream>) -> io::Result<()> {
    stream.shutdown().await?;
    // RFC 9112 §9.6: closing with unread input resets the connection and loses the response.
    let mut rest = [0; 4096];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}
