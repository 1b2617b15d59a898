//! The cache of images in object stores.

use std::path::PathBuf;

use rustix::process::geteuid;

use super::dhcp::directory;
use super::{Checker, ConfigError, Environment, ImageConfig, value};
use crate::store::Place;

/// Default of `cache-size`.
const CACHE_SIZE: u64 = 20 << 30;

/// Cache of images in object stores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CacheConfig {
    pub(crate) directory: PathBuf,
    /// Bytes that it may take.
    pub(crate) size: u64,
}

impl Checker<'_> {
    /// Returns the cache, which images in object stores need.
    pub(super) fn cache(&self, images: &[ImageConfig]) -> Result<Option<CacheConfig>, ConfigError> {
        let options = self.options;
        let size = self.read("cache-size", &options.cache_size, value::cache_size)?.unwrap_or(CACHE_SIZE);
        let named = options.cache_dir.as_ref().map(|value| self.path(value));
        if !images.iter().any(|image| Place::is_url(&image.path)) {
            return Ok(None);
        }
        let directory = named.or_else(|| cache_directory(self.variables, geteuid().is_root()));
        let directory = directory.ok_or_else(|| {
            ConfigError::new(
                "no directory for what is fetched from object stores: name one with `--cache-dir DIR`",
            )
        })?;
        Ok(Some(CacheConfig { directory, size }))
    }
}

/// Returns the directory of the cache: systemd's, else that of the XDG Base Directory Specification.
pub(super) fn cache_directory(variables: Environment<'_>, is_root: bool) -> Option<PathBuf> {
    // systemd.exec(5): CacheDirectory= sets CACHE_DIRECTORY.
    directory(variables, "CACHE_DIRECTORY")
        // isowire becomes another user, to whom root's home is closed.
        .or_else(|| is_root.then(|| PathBuf::from("/var/cache/isowire")))
        .or_else(|| directory(variables, "XDG_CACHE_HOME").map(|cache| cache.join("isowire")))
        // The default of XDG_CACHE_HOME is ~/.cache.
        .or_else(|| directory(variables, "HOME").map(|home| home.join(".cache/isowire")))
}
