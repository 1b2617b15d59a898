//! `[[image]]` and the images of the command line.

use std::path::{Path, PathBuf};

use super::{Checker, ConfigError, ImageOptions, RootServices, value};
use crate::boot::menu::Overrides;
use crate::text::Word;

/// The path of an ISO, or of a folder of ISOs. The images there may change while we run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub path: PathBuf,
    /// The name of the image; `None` means that its file's name gives it.
    pub name: Option<Word>,
    /// Overrides for its images.
    pub overrides: Overrides,
}

impl Checker<'_> {
    /// Checks the images of the command line, else those of the file.
    pub(super) fn images(
        &self,
        services: &RootServices,
        parameters: usize,
    ) -> Result<Vec<Place>, ConfigError> {
        if !self.options.iso.is_empty() {
            return Ok(self.options.iso.iter().map(|path| Place::named_by_its_file(path)).collect());
        }
        let images = &self.options.image;
        let image = |image| self.image(image, services, parameters);
        let mut places = images.iter().map(image).collect::<Result<Vec<_>, _>>()?;
        if places.is_empty() {
            return Err(ConfigError::new(
                "no image to serve: name an ISO, as in `isowire serve archlinux.iso`",
            ));
        }
        if let Some(default) = self.default_image(images)? {
            let default = places.remove(default);
            places.insert(0, default);
        }
        Ok(places)
    }

    fn image(
        &self,
        options: &ImageOptions,
        services: &RootServices,
        parameters: usize,
    ) -> Result<Place, ConfigError> {
        let overrides = (&options.root, &options.copytoram, &options.kernel_parameters);
        Ok(Place {
            path: self.resolve(&options.path.text),
            name: self.read("name", &options.name, value::image_name)?,
            overrides: self.overrides(overrides, services, parameters)?,
        })
    }

    /// Returns the position of the image with `default = true`.
    fn default_image(&self, images: &[ImageOptions]) -> Result<Option<usize>, ConfigError> {
        let mut default = None;
        for (position, image) in images.iter().enumerate() {
            if self.read("default", &image.default, value::truth)? != Some(true) {
                continue;
            }
            if let (Some(_), Some(value)) = (default, &image.default) {
                return Err(self.wrong("default", value, "second default image; remove one of the two"));
            }
            default = Some(position);
        }
        Ok(default)
    }
}

impl Place {
    fn named_by_its_file(path: &Path) -> Self {
        Self { path: path.to_path_buf(), name: None, overrides: Overrides::default() }
    }
}
