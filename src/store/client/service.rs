//! The way of each request to its server, and what is checked of each answer.

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody,
    HttpService, ReqwestConnector,
};

use super::failure::StatusError;
use super::listing;

/// Longest answer to a list request: a thousand keys of 1024 bytes, each written as six others.
const LISTING_MAX: usize = 8 << 20;

/// Bytes of an answer that are read for the code of an error.
const ERROR_MAX: usize = 16 << 10;

/// Makes the clients of `object_store`.
#[derive(Debug)]
pub(super) struct Connector;

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        // reqwest has none of its own. It is there already after the first time.
        let _ = rustls_graviola::default_provider().install_default();
        let client = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Service(client)))
    }
}

/// Sends requests, and turns answers that are not a success into errors without URLs.
#[derive(Debug)]
struct Service(HttpClient);

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let is_list = request.uri().query().is_some_and(|query| query.contains("list-type=2"));
        // A request for a token of the instance is a PUT, whose status `object_store` looks at.
        let is_read = request.method() == "GET" || request.method() == "HEAD";
        if request.uri().scheme_str() == Some("https") && !has_tls() {
            return Err(HttpError::new(HttpErrorKind::Unknown, std::io::Error::other(NO_TLS)));
        }
        let response = self.0.execute(request).await?;
        if is_read && !response.status().is_success() {
            return Err(status_error(response).await);
        }
        if is_list { without_unusable_keys(response).await } else { Ok(response) }
    }
}

/// Error of a processor on which graviola would panic.
const NO_TLS: &str = "this processor is too old for TLS here (before AVX2); use an endpoint without TLS";

/// Tells whether the processor has the instructions that graviola needs.
#[cfg(target_arch = "x86_64")]
fn has_tls() -> bool {
    is_x86_feature_detected!("aes")
        && is_x86_feature_detected!("ssse3")
        && is_x86_feature_detected!("pclmulqdq")
        && is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("adx")
        && is_x86_feature_detected!("bmi2")
}

/// Tells whether the processor has the instructions that graviola needs.
#[cfg(target_arch = "aarch64")]
fn has_tls() -> bool {
    use std::arch::is_aarch64_feature_detected as has;
    has!("neon") && has!("aes") && has!("pmull") && has!("sha2")
}

async fn status_error(response: HttpResponse) -> HttpError {
    let status = response.status();
    let body = read(response.into_body(), ERROR_MAX).await.unwrap_or_default();
    let error = StatusError::new(status.as_u16(), &String::from_utf8_lossy(&body));
    // The former kind is repeated. RFC 6585, section 4: 429 says "too many requests".
    let is_repeated = status.is_server_error() || status.as_u16() == 429;
    let kind = if is_repeated { HttpErrorKind::Request } else { HttpErrorKind::Unknown };
    HttpError::new(kind, error)
}

async fn without_unusable_keys(response: HttpResponse) -> Result<HttpResponse, HttpError> {
    let (mut parts, body) = response.into_parts();
    let body = read(body, LISTING_MAX).await?;
    let listed = listing::of_isos(&String::from_utf8_lossy(&body));
    parts.headers.remove("content-length");
    Ok(HttpResponse::from_parts(parts, HttpResponseBody::from(listed)))
}

/// Reads a body of at most `max` bytes.
async fn read(body: HttpResponseBody, max: usize) -> Result<Bytes, HttpError> {
    let (mut stream, mut bytes) = (body.bytes_stream(), BytesMut::new());
    while let Some(part) = stream.next().await {
        let part = part?;
        if part.len() > max - bytes.len() {
            return Err(HttpError::new(
                HttpErrorKind::Decode,
                std::io::Error::other("the answer is too long"),
            ));
        }
        bytes.extend_from_slice(&part);
    }
    Ok(bytes.freeze())
}
