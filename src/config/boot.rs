//! What machines boot: the settings of the menu and of UEFI.

use std::path::PathBuf;

use bytes::Bytes;

use super::raw::{List, Value};
use super::{Checker, PARAMETERS_MAX, RootDoors, Wrong, value};
use crate::boot::UefiBy;
use crate::boot::menu::{Cms, CopyToRam, MenuSettings, Overrides, Root};
use crate::text::Word;
use crate::uki::Stub;

impl Checker<'_> {
    pub(super) fn root(&self, doors: &RootDoors) -> Result<Option<Root>, Wrong> {
        self.read("root", &self.raw.root, |text| value::root(text, doors))
    }

    pub(super) fn menu(&self, doors: &RootDoors) -> Result<MenuSettings, Wrong> {
        let raw = self.raw;
        let verify = self.read("cms-verify", &raw.cms_verify, value::truth)?.unwrap_or(true);
        Ok(MenuSettings {
            roots: doors.roots(self.root(doors)?),
            copytoram: self.read("copytoram", &raw.copytoram, value::copytoram)?.unwrap_or(CopyToRam::Auto),
            timeout: self.read("menu-timeout", &raw.menu_timeout, value::menu_timeout)?.unwrap_or(10),
            cms: if verify { Cms::Verify } else { Cms::Skip },
            parameters: self.parameters(&raw.kernel_parameters, 0)?,
        })
    }

    pub(super) fn stub(&self) -> Result<Option<Stub>, Wrong> {
        let stub =
            |value: &Value| value::stub(&self.path(value)).map_err(|why| self.wrong("stub", value, &why));
        self.raw.stub.as_ref().map(stub).transpose()
    }

    /// A file that is named on the command line, or from the directory of the configuration file.
    fn path(&self, value: &Value) -> PathBuf {
        if value.is_of_file() { self.resolve(&value.text) } else { PathBuf::from(&value.text) }
    }

    /// What UEFI gets: whoever names an iPXE wants it.
    pub(super) fn uefi(&self) -> Result<UefiBy, Wrong> {
        let raw = self.raw;
        match (self.read("uefi", &raw.uefi, value::uefi)?, &raw.ipxe) {
            (Some(UefiBy::Composed), Some(value)) => {
                Err(self.wrong("ipxe", value, "is for `uefi = ipxe`: leave out one of the two"))
            }
            (Some(by), _) => Ok(by),
            (None, Some(_)) => Ok(UefiBy::Ipxe),
            (None, None) => Ok(UefiBy::Composed),
        }
    }

    pub(super) fn ipxe(&self, uefi: UefiBy) -> Result<Option<Bytes>, Wrong> {
        let (found, key, value) = match (uefi, &self.raw.ipxe, &self.raw.uefi) {
            (UefiBy::Composed, ..) | (UefiBy::Ipxe, None, None) => return Ok(None),
            (UefiBy::Ipxe, Some(value), _) => (value::ipxe(&self.path(value)), "ipxe", value),
            (UefiBy::Ipxe, None, Some(value)) => (value::ipxe_of_host(), "uefi", value),
        };
        found.map(Some).map_err(|why| self.wrong(key, value, &why))
    }

    /// Kernel parameters, behind others that take so many bytes.
    pub(super) fn parameters(&self, list: &Option<List>, before: usize) -> Result<Vec<Word>, Wrong> {
        let words = self.read_all("kernel-parameters", list, value::parameter)?;
        let bytes = before + length(&words);
        match list.iter().flat_map(|list| list.0.last()).next() {
            Some(last) if bytes > PARAMETERS_MAX => {
                let why = format!("makes them {bytes} bytes long: {PARAMETERS_MAX} fit, leave some out");
                Err(self.wrong("kernel-parameters", last, &why))
            }
            _ => Ok(words),
        }
    }

    /// What is otherwise for an image or some machines. Its kernel parameters stand behind others of so many bytes.
    pub(super) fn overrides(
        &self,
        (root, copytoram, parameters): (&Option<Value>, &Option<Value>, &Option<List>),
        doors: &RootDoors,
        before: usize,
    ) -> Result<Overrides, Wrong> {
        let overrides = Overrides {
            root: self.read("root", root, |text| value::root(text, doors))?,
            copytoram: self.read("copytoram", copytoram, value::copytoram)?,
            parameters: self.parameters(parameters, before)?,
        };
        match (copytoram, &overrides) {
            (Some(value), Overrides { root: Some(Root::Http), copytoram: Some(CopyToRam::No), .. }) => {
                Err(self.wrong("copytoram", value, "cannot be with `root = http`, which always copies"))
            }
            _ => Ok(overrides),
        }
    }
}

/// Bytes that parameters take in a command line.
pub(super) fn length(parameters: &[Word]) -> usize {
    parameters.iter().map(|word| word.as_str().len() + 1).sum()
}
