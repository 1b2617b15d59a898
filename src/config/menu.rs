//! Settings of the menu and of UEFI boots.

use std::path::PathBuf;

use bytes::Bytes;

use super::raw::{RawValue, ValueOrigin};
use super::{Checker, ConfigError, RootServices, services, value};
use crate::boot::UefiBy;
use crate::boot::menu::{Cms, CopyToRam, MenuSettings, Overrides};
use crate::bootable::Root;
use crate::text::Word;
use crate::uki::Stub;

/// Most bytes of all `kernel-parameters` of a boot together. The kernel's command line holds 2048
/// (x86's COMMAND_LINE_SIZE), of which the image's own parameters and ours need their part.
pub(super) const PARAMETERS_MAX: usize = 600;

/// Values of `root`, `copytoram` and `kernel-parameters` in an `[[image]]` or a `[[machine]]`.
type RawOverrides<'a> = (&'a Option<RawValue>, &'a Option<RawValue>, &'a Option<Vec<RawValue>>);

impl Checker<'_> {
    pub(super) fn root(&self, services: &RootServices) -> Result<Option<Root>, ConfigError> {
        self.read("root", &self.options.root, |text| services::root(text, services))
    }

    pub(super) fn menu(&self, services: &RootServices) -> Result<MenuSettings, ConfigError> {
        let options = self.options;
        let root = self.root(services)?;
        let copytoram = self.copytoram(root, &options.copytoram)?;
        let verify = self.read("cms-verify", &options.cms_verify, value::truth)?.unwrap_or(true);
        Ok(MenuSettings {
            // The root that the operator named comes first, and boots by itself.
            roots: services.roots(root),
            copytoram: copytoram.unwrap_or(CopyToRam::Auto),
            timeout: self.read("menu-timeout", &options.menu_timeout, value::menu_timeout)?.unwrap_or(10),
            cms: if verify { Cms::Verify } else { Cms::Skip },
            parameters: self.parameters(&options.kernel_parameters, 0)?,
        })
    }

    pub(super) fn stub(&self) -> Result<Option<Stub>, ConfigError> {
        let Some(value) = &self.options.stub else { return Ok(None) };
        value::stub(&self.path(value)).map(Some).map_err(|why| self.wrong("stub", value, &why))
    }

    /// Returns a path; one in the configuration file is relative to the directory of that file.
    pub(super) fn path(&self, value: &RawValue) -> PathBuf {
        // A shell has already expanded a path of the command line, which is relative to where it
        // runs.
        match value.origin {
            ValueOrigin::File(_) => self.resolve(&value.text),
            ValueOrigin::CommandLine => PathBuf::from(&value.text),
        }
    }

    /// Returns the program of UEFI machines; `ipxe` implies `uefi = ipxe`.
    pub(super) fn uefi(&self) -> Result<UefiBy, ConfigError> {
        let options = self.options;
        match (self.read("uefi", &options.uefi, value::uefi)?, &options.ipxe) {
            (Some(UefiBy::Composed), Some(value)) => {
                Err(self.wrong("ipxe", value, "needs `uefi = ipxe`; remove one of the two"))
            }
            (Some(by), _) => Ok(by),
            // A path to iPXE is of use for this only.
            (None, Some(_)) => Ok(UefiBy::Ipxe),
            (None, None) => Ok(UefiBy::Composed),
        }
    }

    pub(super) fn ipxe(&self, uefi: UefiBy) -> Result<Option<Bytes>, ConfigError> {
        let (found, key, value) = match (uefi, &self.options.ipxe, &self.options.uefi) {
            (UefiBy::Composed, ..) | (UefiBy::Ipxe, None, None) => return Ok(None),
            (UefiBy::Ipxe, Some(value), _) => (value::ipxe(&self.path(value)), "ipxe", value),
            // The operator named the program but no file: distributions have it at known paths.
            (UefiBy::Ipxe, None, Some(value)) => (value::ipxe_of_host(), "uefi", value),
        };
        found.map(Some).map_err(|why| self.wrong(key, value, &why))
    }

    /// Checks kernel parameters that stand behind `before` bytes of others.
    pub(super) fn parameters(
        &self,
        list: &Option<Vec<RawValue>>,
        before: usize,
    ) -> Result<Vec<Word>, ConfigError> {
        let words = self.read_all("kernel-parameters", list, value::parameter)?;
        let bytes = before + length(&words);
        match list.iter().flatten().last() {
            Some(last) if bytes > PARAMETERS_MAX => {
                let why =
                    format!("{bytes} bytes of kernel parameters; at most {PARAMETERS_MAX} fit, remove some");
                Err(self.wrong("kernel-parameters", last, &why))
            }
            _ => Ok(words),
        }
    }

    /// Checks the overrides of an image or of machines. Their kernel parameters stand behind
    /// `before` bytes of others.
    pub(super) fn overrides(
        &self,
        (root, copytoram, parameters): RawOverrides<'_>,
        services: &RootServices,
        before: usize,
    ) -> Result<Overrides, ConfigError> {
        let root = self.read("root", root, |text| services::root(text, services))?;
        let copytoram = self.copytoram(root, copytoram)?;
        Ok(Overrides { root, copytoram, parameters: self.parameters(parameters, before)? })
    }

    /// Reads `copytoram` of machines whose root the operator chose.
    fn copytoram(
        &self,
        root: Option<Root>,
        value: &Option<RawValue>,
    ) -> Result<Option<CopyToRam>, ConfigError> {
        let copytoram = self.read("copytoram", value, value::copytoram)?;
        match (value, root, copytoram) {
            // archiso_pxe_http downloads the root image before it mounts it.
            (Some(value), Some(Root::Http), Some(CopyToRam::No)) => Err(self.wrong(
                "copytoram",
                value,
                "conflicts with `root = http`, which always copies; change one of them",
            )),
            _ => Ok(copytoram),
        }
    }
}

/// Returns the bytes that parameters take in a command line, each with the space before it.
pub(super) fn length(parameters: &[Word]) -> usize {
    parameters.iter().map(|word| word.as_str().len() + 1).sum()
}
