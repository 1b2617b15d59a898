//! One bucket, or one object behind an HTTP server.

use std::env;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, AwsCredential};
use object_store::http::{HttpBuilder, HttpStore};
use object_store::list::{PaginatedListOptions, PaginatedListStore as _};
use object_store::path::Path as ObjectPath;
use object_store::{
    BackoffConfig, ClientConfigKey, ClientOptions, GetOptions, GetRange, GetResult, ObjectMeta, ObjectStore,
    RetryConfig, StaticCredentialProvider,
};

use super::failure::failure;
use super::profile::{Profile, ProfileError};
use super::service::Connector;
use super::signing::Signing;
use super::{FetchError, Object, Place};

/// Time-outs of a connection: until it is there, between two of its parts, and of a whole answer. A
/// whole answer has a few MiB, which a slow line brings in time.
const OPTIONS: [(ClientConfigKey, &str); 4] = [
    (ClientConfigKey::ConnectTimeout, "1s"),
    (ClientConfigKey::ReadTimeout, "4s"),
    (ClientConfigKey::Timeout, "30s"),
    (ClientConfigKey::UserAgent, concat!("isowire/", env!("CARGO_PKG_VERSION"))),
];

/// Objects of a folder that are listed at most; the names of all are kept in memory.
const OBJECTS_MAX: usize = 10_000;

/// Answers to a list request that are read at most, of a thousand keys each.
const PAGES_MAX: usize = 100;

/// Variables of the environment that have keys.
const KEYS: [&str; 2] = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];

/// Variables by which credentials come. With one of them, no others are looked for.
const CREDENTIALS: [&str; 5] = [
    KEYS[0],
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_SKIP_SIGNATURE",
];

/// The client of one bucket or URL.
pub(super) enum Backend {
    S3 {
        store: AmazonS3,
        /// Says that there are no credentials, if there are none.
        no_keys: Option<String>,
    },
    Http(HttpStore),
}

impl Backend {
    /// Prepares the client for a place. `AWS_*` variables say where buckets are, and have credentials;
    /// what they do not say is taken from the profile.
    ///
    /// # Errors
    /// [`FetchError`] if these cannot be used.
    pub(super) fn of(place: &Place, profile: Result<&Profile, &ProfileError>) -> Result<Self, FetchError> {
        let built = match place {
            Place::S3 { bucket, .. } => {
                let asker = Asker::find(profile)?;
                let store = s3(bucket, profile.ok(), &asker).build();
                store.map(|store| Self::S3 { store, no_keys: asker.no_keys() })
            }
            Place::Http(url) => http(url).build().map(Self::Http),
        };
        built.map_err(|error| failure(&error))
    }

    fn store(&self) -> &dyn ObjectStore {
        match self {
            Self::S3 { store, .. } => store,
            Self::Http(store) => store,
        }
    }

    /// Lists the ISOs of a folder.
    pub(super) async fn list(&self, place: &Place) -> Result<Vec<Object>, FetchError> {
        let (Self::S3 { store, .. }, Place::S3 { bucket, key }) = (self, place) else {
            return Ok(Vec::new());
        };
        let (mut objects, mut page_token) = (Vec::new(), None);
        for _ in 0..PAGES_MAX {
            let options = PaginatedListOptions {
                delimiter: Some("/".into()),
                page_token,
                ..PaginatedListOptions::default()
            };
            let prefix = Some(key.as_str()).filter(|key| !key.is_empty());
            let page = store.list_paginated(prefix, options).await.map_err(|error| self.failure(&error))?;
            // S3 tells strong entity tags of all of them.
            let found = page.result.objects.iter();
            objects
                .extend(found.flat_map(|found| object(format!("s3://{bucket}/{}", found.location), found)));
            page_token = page.page_token;
            if page_token.is_none() || objects.len() > OBJECTS_MAX {
                break;
            }
        }
        match page_token.is_some() || objects.len() > OBJECTS_MAX {
            true => Err(FetchError::Unreachable(
                "the folder has too many objects; put the ISOs into one of their own".into(),
            )),
            false => Ok(objects),
        }
    }

    /// Finds an object, and makes sure that the store sends parts of it.
    pub(super) async fn find(&self, place: &Place) -> Result<Object, FetchError> {
        let options = GetOptions { range: Some(GetRange::Bounded(0..1)), ..GetOptions::default() };
        let found = self.get(place, options).await?;
        object(place.to_string(), &found.meta)
    }

    /// Fetches a part of an object, unless it is another one by now.
    pub(super) async fn fetch(
        &self,
        place: &Place,
        object: &Object,
        range: Range<u64>,
    ) -> Result<Bytes, FetchError> {
        let len = range.end.saturating_sub(range.start);
        let options = GetOptions {
            if_match: Some(object.etag.clone()),
            range: Some(GetRange::Bounded(range)),
            ..GetOptions::default()
        };
        let found = self.get(place, options).await?;
        // A server may not know the condition.
        let has_etag = found.meta.e_tag.as_deref().map(quoted).is_some_and(|etag| etag == object.etag);
        if !has_etag || found.meta.size != object.size {
            return Err(FetchError::Replaced);
        }
        self.body(found, len).await
    }

    async fn get(&self, place: &Place, options: GetOptions) -> Result<GetResult, FetchError> {
        let path = match place {
            // It was checked when the place was parsed.
            Place::S3 { key, .. } => ObjectPath::parse(key).map_err(|_| FetchError::NotFound)?,
            Place::Http(_) => ObjectPath::default(),
        };
        self.store().get_opts(&path, options).await.map_err(|error| self.failure(&error))
    }

    /// Reads the body of an answer, which has this length.
    async fn body(&self, found: GetResult, len: u64) -> Result<Bytes, FetchError> {
        let broken = || FetchError::Unreachable("the answer has another length than asked for".into());
        let len = usize::try_from(len).map_err(|_| broken())?;
        let (mut stream, mut body) = (found.into_stream(), BytesMut::with_capacity(len));
        while let Some(part) = stream.next().await {
            let part = part.map_err(|error| self.failure(&error))?;
            if part.len() > len - body.len() {
                return Err(broken());
            }
            body.extend_from_slice(&part);
        }
        if body.len() == len { Ok(body.freeze()) } else { Err(broken()) }
    }

    /// Returns what to tell about an error.
    fn failure(&self, error: &object_store::Error) -> FetchError {
        match (failure(error), self) {
            // Without credentials, those of an instance in a cloud are asked for.
            (FetchError::Unreachable(why), Self::S3 { no_keys: Some(no_keys), .. }) => {
                FetchError::Unreachable(format!(
                    "{why}; AWS_ACCESS_KEY_ID is not set, and {no_keys} (AWS_SKIP_SIGNATURE=true asks without keys)"
                ))
            }
            (failure, _) => failure,
        }
    }
}

/// Makes an object of what a store tells of it.
fn object(url: String, found: &ObjectMeta) -> Result<Object, FetchError> {
    let refused = |why: &str| Err(FetchError::Unreachable(why.to_owned()));
    let Some(etag) = found.e_tag.as_deref().filter(|etag| !etag.is_empty()) else {
        return refused(
            "its server tells no entity tag (ETag), by which isowire would see that it was replaced",
        );
    };
    // RFC 9110, section 13.1.1: If-Match never holds for a weak one.
    if etag.starts_with("W/") {
        return refused(
            "its server tells a weak entity tag (ETag: W/...), which does not stand for its bytes",
        );
    }
    Ok(Object { url, size: found.size, etag: quoted(etag) })
}

/// Returns an entity tag with its quotes, which some stores leave out in lists.
fn quoted(etag: &str) -> String {
    if etag.starts_with('"') { etag.to_owned() } else { format!("\"{etag}\"") }
}

/// Who asks for what is in a bucket.
enum Asker<'a> {
    /// Variables of the environment say it.
    Variables,
    Profile(&'a AwsCredential),
    /// Nothing on this host says it, for this reason. In a cloud, the instance may have credentials.
    Unknown(&'a ProfileError),
}

impl<'a> Asker<'a> {
    fn find(profile: Result<&'a Profile, &'a ProfileError>) -> Result<Self, FetchError> {
        let unusable = |why| Err(FetchError::Credentials(why));
        let [id, secret] = KEYS.map(|name| env::var_os(name).is_some());
        if id != secret {
            return unusable(format!("only one of {} is set", KEYS.join(" and ")));
        }
        if CREDENTIALS.iter().any(|name| env::var_os(name).is_some()) {
            return Ok(Self::Variables);
        }
        match profile.and_then(|profile| profile.keys.as_ref()) {
            Ok(keys) => Ok(Self::Profile(keys)),
            Err(error @ (ProfileError::NoKeys { .. } | ProfileError::NoFile(_))) => Ok(Self::Unknown(error)),
            Err(error) => unusable(error.to_string()),
        }
    }

    fn no_keys(&self) -> Option<String> {
        match self {
            Self::Unknown(error) => Some(error.to_string()),
            Self::Variables | Self::Profile(_) => None,
        }
    }
}

fn s3(bucket: &str, profile: Option<&Profile>, asker: &Asker<'_>) -> AmazonS3Builder {
    let mut builder = AmazonS3Builder::from_env();
    let is_set = |key| builder.get_config_value(&key).is_some();
    let has_region = is_set(AmazonS3ConfigKey::Region);
    let has_endpoint = is_set(AmazonS3ConfigKey::Endpoint) || is_set(AmazonS3ConfigKey::S3Endpoint);
    if let Some(region) = profile.and_then(|profile| profile.region.as_ref()).filter(|_| !has_region) {
        builder = builder.with_region(region);
    }
    if let Some(endpoint) = profile.and_then(|profile| profile.endpoint.as_ref()).filter(|_| !has_endpoint) {
        builder = builder.with_endpoint(endpoint);
    }
    if let Asker::Profile(AwsCredential { key_id, secret_key, token }) = asker {
        let (key_id, secret_key, token) = (key_id.clone(), secret_key.clone(), token.clone());
        // As a whole: a session token of the environment does not belong to them.
        let keys = StaticCredentialProvider::new(AwsCredential { key_id, secret_key, token });
        builder = builder.with_credentials(Arc::new(keys));
    }
    for (key, value) in OPTIONS {
        builder = builder.with_config(AmazonS3ConfigKey::Client(key), value);
    }
    builder
        .with_bucket_name(bucket)
        .with_retry(retries())
        .with_crypto_provider(Arc::new(Signing))
        .with_http_connector(Connector)
}

fn http(url: &str) -> HttpBuilder {
    let mut options = ClientOptions::new();
    for (key, value) in OPTIONS {
        options = options.with_config(key, value);
    }
    HttpBuilder::new()
        .with_url(url)
        // The operator wrote which of the two it is.
        .with_client_options(options.with_allow_http(true))
        .with_retry(retries())
        .with_http_connector(Connector)
}

/// Returns how often a request is repeated: who waits for it repeats it as well, for longer.
fn retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(1),
            base: 2.0,
        },
        max_retries: 2,
        retry_timeout: Duration::from_secs(10),
    }
}
