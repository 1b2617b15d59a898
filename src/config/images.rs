//! Images of the command line and of `[[image]]`.

use std::path::{Path, PathBuf};

use super::raw::RawValue;
use super::{Checker, ConfigError, ImageOptions, RootServices, value};
use crate::boot::menu::Overrides;
use crate::boot::seed::UserData;
use crate::store::{Place, without_secrets};
use crate::text::Word;

/// An ISO, or a folder of ISOs, with its settings. The files may change while the server runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageConfig {
    /// Path on this host, or the URL of a place in an object store.
    pub path: PathBuf,
    /// Name of the image; `None` means the name of its file.
    pub name: Option<Word>,
    /// Overrides for machines that boot it.
    pub overrides: Overrides,
    /// User data for cloud-init on those machines.
    pub user_data: Option<UserData>,
}

impl Checker<'_> {
    /// Checks the images of the command line, else those of the file.
    pub(super) fn images(
        &self,
        services: &RootServices,
        parameters: usize,
    ) -> Result<Vec<ImageConfig>, ConfigError> {
        // A command line that names images is complete: it replaces every [[image]].
        if let Some(network) = self.options.iso.iter().find(|path| value::is_network(path)) {
            return Err(ConfigError::new(format!(
                "`{}`: a network, not an ISO; separate the networks of --allow by commas, without spaces",
                network.display()
            )));
        }
        if !self.options.iso.is_empty() {
            let named = self.options.iso.iter().map(|path| {
                let path = checked(path).map_err(|why| {
                    let shown = without_secrets(&path.to_string_lossy());
                    ConfigError::new(format!("`{}`: {why}", shown.escape_debug()))
                })?;
                Ok(ImageConfig::named_by_its_file(path))
            });
            return named.collect();
        }
        let mut images = Vec::new();
        for options in &self.options.image {
            images.push(self.image(options, services, parameters)?);
        }
        // The first image is the default everywhere else.
        if let Some(position) = self.default_image(&self.options.image)? {
            let default = images.remove(position);
            images.insert(0, default);
        }
        Ok(images)
    }

    fn image(
        &self,
        options: &ImageOptions,
        services: &RootServices,
        parameters: usize,
    ) -> Result<ImageConfig, ConfigError> {
        let overrides = (&options.root, &options.copytoram, &options.kernel_parameters);
        Ok(ImageConfig {
            path: self.image_path(&options.path)?,
            name: self.read("name", &options.name, value::image_name)?,
            overrides: self.overrides(overrides, services, parameters)?,
            user_data: self.user_data(&options.user_data, services)?,
        })
    }

    fn image_path(&self, value: &RawValue) -> Result<PathBuf, ConfigError> {
        let typed = Path::new(&value.text);
        let path = checked(typed).map_err(|why| {
            let shown = RawValue { text: without_secrets(&value.text), ..value.clone() };
            self.wrong("path", &shown, &why)
        })?;
        Ok(if Place::is_url(path) { path.to_owned() } else { self.resolve(&value.text) })
    }

    /// Returns the position of the image with `default = true`.
    fn default_image(&self, images: &[ImageOptions]) -> Result<Option<usize>, ConfigError> {
        let mut default = None;
        for (position, image) in images.iter().enumerate() {
            if self.read("default", &image.default, value::truth)? != Some(true) {
                continue;
            }
            // Two would leave the choice to their order.
            if let (Some(_), Some(value)) = (default, &image.default) {
                return Err(self.wrong("default", value, "second default image; remove one of the two"));
            }
            default = Some(position);
        }
        Ok(default)
    }
}

impl ImageConfig {
    fn named_by_its_file(path: &Path) -> Self {
        Self { path: path.to_path_buf(), name: None, overrides: Overrides::default(), user_data: None }
    }
}

/// Checks the URL of a place in an object store; a path on this host is checked when it is opened.
fn checked(path: &Path) -> Result<&Path, String> {
    match path.to_str().filter(|_| Place::is_url(path)).map(Place::parse) {
        Some(Err(error)) => Err(error.to_string()),
        Some(Ok(_)) | None => Ok(path),
    }
}
