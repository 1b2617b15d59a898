//! An object of a store, and the error of a request for it.

use std::fmt::Debug;
use std::io;
use std::ops::Range;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// An object in the state in which it was found. Another `etag` is another content.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Object {
    /// Address without credentials, such as `s3://images/arch/archlinux.iso`.
    pub url: String,
    /// In bytes.
    pub size: u64,
    /// Entity tag (RFC 9110, section 8.8.3), with its quotes.
    pub etag: String,
}

/// Reason for which a store did not give what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// The object was replaced: nothing of it will come any more.
    #[error("the object was replaced in the store")]
    Replaced,
    /// The object, or its bucket, is not there.
    #[error("the store has no such object")]
    NotFound,
    #[error("the store refuses access: {0}")]
    Refused(String),
    /// What this host has of credentials cannot be used. No store was asked.
    #[error("{0}")]
    Credentials(String),
    /// It has TLS, and a certificate that is not accepted.
    #[error("its certificate is not accepted: {0}")]
    Certificate(CertificateFault),
    /// No answer, an answer in time of trouble (5xx), or one that was cut short.
    #[error("{0}")]
    Unreachable(String),
}

/// Reason for which the certificate of a store is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CertificateFault {
    #[error("this host does not know its authority")]
    UnknownAuthority,
    /// With the words of the TLS library.
    #[error("{0}")]
    OtherName(String),
    #[error("it has expired, or is not valid yet")]
    Dates,
    #[error("{0}")]
    Other(String),
}

impl CertificateFault {
    /// Returns what to do.
    pub(crate) const fn advice(&self) -> &'static str {
        match self {
            // rustls-native-certs: the file is read instead of those of the host.
            Self::UnknownAuthority => {
                "add the certificate of the authority to those of this host, or name a file of it in SSL_CERT_FILE"
            }
            Self::OtherName(_) => "use a name of the store for which its certificate is",
            Self::Dates => "renew the certificate of the store, or set the clock of this host",
            Self::Other(_) => "give the store another certificate",
        }
    }
}

impl FetchError {
    /// Returns the error of a store that caused `error`.
    pub(crate) fn cause(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

impl From<FetchError> for io::Error {
    fn from(error: FetchError) -> Self {
        let kind = match error {
            FetchError::Replaced => io::ErrorKind::StaleNetworkFileHandle,
            FetchError::NotFound => io::ErrorKind::NotFound,
            FetchError::Refused(_) | FetchError::Credentials(_) => io::ErrorKind::PermissionDenied,
            FetchError::Certificate(_) | FetchError::Unreachable(_) => io::ErrorKind::HostUnreachable,
        };
        io::Error::new(kind, error)
    }
}

/// The way to the bytes of objects. Calls wait for the network, so only threads that may wait call.
pub(crate) trait Fetch: Debug + Send + Sync {
    /// Fetches these bytes of the object, as long as it is as it was found. The answer has the
    /// length of `range`.
    ///
    /// # Errors
    /// [`FetchError`], after the few repetitions and the few seconds of one request.
    fn fetch(&self, object: &Object, range: Range<u64>) -> Result<Bytes, FetchError>;
}
