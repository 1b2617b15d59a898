//! Parameters by which an initramfs verifies the root file system. Where it lacks what it needs for
//! that, archiso's hook stops at a shell (mkinitcpio-archiso, hooks/archiso,
//! `archiso_mount_handler`).

use super::tree::ImageTree;
use crate::image::NodeId;
use crate::image::arch::Airootfs;
use crate::image::initramfs::Requirement;

/// What an entry boots, as its self-tests see it.
pub(super) struct SelfTest<'a> {
    pub tree: &'a ImageTree<'a>,
    /// Root file system of the entry's architecture.
    pub root: Option<&'a Airootfs>,
    pub initramfs: Option<NodeId>,
}

impl SelfTest<'_> {
    /// Separates the parameters of an entry from those that need what the image lacks. The latter
    /// say so.
    pub(super) fn split<'e>(&self, parameters: &'e [String]) -> (Vec<&'e String>, Vec<String>) {
        let (mut kept, mut left_out) = (Vec::new(), Vec::new());
        for parameter in parameters {
            match self.missing(parameter) {
                None => kept.push(parameter),
                Some(missing) => {
                    let parameter = format!("{parameter}, which needs {missing}");
                    if !left_out.contains(&parameter) {
                        left_out.push(parameter);
                    }
                }
            }
        }
        (kept, left_out)
    }

    /// Returns what a parameter needs and the image lacks.
    fn missing(&self, parameter: &str) -> Option<String> {
        let root = self.root?;
        let path = self.path(root.node);
        // mkinitcpio, init_functions, `parse_cmdline`: a parameter without a value has the value
        // `y`.
        match parameter.strip_suffix("=y").unwrap_or(parameter) {
            "checksum" if !self.has_checksum(root) => {
                Some(format!("{}/airootfs.sha512", path.rsplit_once('/')?.0))
            }
            "verify" if root.gpg_signature.is_none() => Some(format!("{path}.sig")),
            // install/archiso adds gpg only to an initramfs that is built with a key.
            "verify" if !self.may_have(Requirement::Gpg) => {
                Some(format!("the program gpg in {}", self.path(self.initramfs?)))
            }
            "cms_verify" if root.cms_signature.is_none() => Some(format!("{path}.cms.sig")),
            _ => None,
        }
    }

    /// Returns true if the checksum that the hook verifies is there.
    fn has_checksum(&self, root: &Airootfs) -> bool {
        // Until October 2017 the hook verified `airootfs.md5` (archiso, commit acf3ac9).
        root.sha512.is_some() || (root.md5.is_some() && self.may_have(Requirement::Md5Hook))
    }

    /// Returns true if the initramfs has this, or cannot be read to its end.
    fn may_have(&self, requirement: Requirement) -> bool {
        let contents = self.initramfs.and_then(|node| self.tree.content.self_tests(node));
        contents.is_none_or(|contents| contents.found.contains(&requirement) || contents.unread.is_some())
    }

    fn path(&self, node: NodeId) -> String {
        String::from_utf8_lossy(&self.tree.index.path(node)).into_owned()
    }
}
