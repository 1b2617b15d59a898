//! Places of images in object stores: the URLs that an operator writes.

use std::fmt;
use std::path::Path;

/// Beginnings of URLs of places.
const SCHEMES: [&str; 3] = ["s3://", "http://", "https://"];

/// Longest bucket name (Amazon S3, "Bucket naming rules"; older buckets may be longer).
const BUCKET_MAX: usize = 255;

/// Longest key of an object (Amazon S3, "Object key naming guidelines").
const KEY_MAX: usize = 1024;

/// Place of images outside this host: an object, or a folder of objects.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    /// A key that is empty or ends with `/` is a folder.
    S3 { bucket: String, key: String },
    /// An object behind an HTTP server, by its URL.
    Http(String),
}

/// Reason why a URL is not a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PlaceError {
    #[error("this isowire was built without object stores; build it with the cargo feature `store`")]
    NoStores,
    #[error("not a URL of an object store; expected one like s3://bucket/folder/ or https://host/arch.iso")]
    Scheme,
    #[error("credentials in a URL end up in logs; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead")]
    Credentials,
    #[error("a query or a fragment is not possible; expected a URL like https://host/arch.iso")]
    Query,
    #[error("invalid bucket name; expected a URL like s3://bucket/folder/ or s3://bucket/arch.iso")]
    Bucket,
    #[error(
        "invalid key of an object; expected up to {KEY_MAX} bytes without control characters, and no empty part, `.` or `..`"
    )]
    Key,
    #[error("invalid URL; expected one like https://host/arch.iso")]
    Host,
    #[error("a folder of an HTTP server cannot be listed; name an ISO in it, or use s3://")]
    HttpFolder,
}

impl Place {
    /// Tells whether an argument in the place of an ISO is a URL of an object store.
    pub(crate) fn is_url(path: &Path) -> bool {
        path.to_str().is_some_and(|text| SCHEMES.iter().any(|scheme| text.starts_with(scheme)))
    }

    /// Returns the place that a path stands for; `None` for a path on this host.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        Self::parse(path.to_str()?).ok()
    }

    /// Parses a URL.
    ///
    /// # Errors
    /// [`PlaceError`]
    pub(crate) fn parse(url: &str) -> Result<Self, PlaceError> {
        if !cfg!(feature = "store") {
            return Err(PlaceError::NoStores);
        }
        match url.split_once("://") {
            Some(("s3", rest)) => Self::parse_s3(rest),
            Some(("http" | "https", rest)) => check_http(rest).map(|()| Self::Http(url.to_owned())),
            _ => Err(PlaceError::Scheme),
        }
    }

    fn parse_s3(rest: &str) -> Result<Self, PlaceError> {
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.contains('@') {
            return Err(PlaceError::Credentials);
        }
        let is_plain = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
        if !(1..=BUCKET_MAX).contains(&bucket.len()) || !bucket.chars().all(is_plain) {
            return Err(PlaceError::Bucket);
        }
        if !is_key(key.strip_suffix('/').unwrap_or(key)) && !key.is_empty() {
            return Err(PlaceError::Key);
        }
        Ok(Self::S3 { bucket: bucket.to_owned(), key: key.to_owned() })
    }

    /// Tells whether the place is a folder of objects.
    pub(crate) fn is_folder(&self) -> bool {
        match self {
            Self::S3 { key, .. } => key.is_empty() || key.ends_with('/'),
            Self::Http(_) => false,
        }
    }
}

/// Tells whether a store may have an object of this key for us. A path of `object_store` has no
/// empty parts.
pub(crate) fn is_key(key: &str) -> bool {
    let is_part = |part: &str| !matches!(part, "" | "." | "..") && !part.chars().any(char::is_control);
    key.len() <= KEY_MAX && key.split('/').all(is_part)
}

/// Returns a URL without what may be a credential: the user, the password and the query.
pub(crate) fn without_secrets(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let (rest, query) = rest.split_once('?').map_or((rest, ""), |(rest, _)| (rest, "?..."));
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    match authority.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}://...@{host}{path}{query}"),
        None => format!("{scheme}://{rest}{query}"),
    }
}

/// Checks the part of a URL behind the scheme.
fn check_http(rest: &str) -> Result<(), PlaceError> {
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    if host.contains('@') {
        return Err(PlaceError::Credentials);
    }
    // A signed URL has its signature there.
    if rest.contains(['?', '#']) {
        return Err(PlaceError::Query);
    }
    if host.is_empty() || rest.contains(|c: char| c.is_whitespace() || c.is_control() || c == '\\') {
        return Err(PlaceError::Host);
    }
    if path.is_empty() || path.ends_with('/') { Err(PlaceError::HttpFolder) } else { Ok(()) }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::S3 { bucket, key } => write!(f, "s3://{bucket}/{key}"),
            Self::Http(url) => f.write_str(url),
        }
    }
}

#[cfg(all(test, feature = "store"))]
mod tests;
