//! Names under which the menus of an image ask for its root: paths of NFS, exports of NBD.

use super::entries::EntrySelector;
use crate::text::{PlainPath, Word};

/// Most names of each kind of an image; archiso's menus have one.
const NAMES_MAX: usize = 8;
/// Longest name of an NBD export that is taken, in bytes. The protocol allows 4096.
const NBD_NAME_MAX: usize = 255;

/// Names of an image's root in its own menus, each once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct RootNames {
    /// Each with a `/` at its start.
    pub nfs_paths: Vec<String>,
    pub nbd_exports: Vec<String>,
}

impl EntrySelector<'_> {
    pub(super) fn root_names(&self) -> RootNames {
        let mut names = RootNames::default();
        for parameter in self.parameters() {
            let Some((key, value)) = parameter.split_once('=') else { continue };
            // Hooks derived from archiso's have names of their own.
            if key.ends_with("_nfs_srv") {
                add(&mut names.nfs_paths, nfs_path(value));
            } else if key.ends_with("_nbd_name") {
                add(&mut names.nbd_exports, nbd_export(value));
            }
        }
        names
    }
}

fn add(names: &mut Vec<String>, name: Option<String>) {
    let name = name.filter(|name| names.len() < NAMES_MAX && !names.contains(name));
    names.extend(name);
}

/// Returns the path of the NFS export in a value such as `${pxeserver}:/run/archiso/bootmnt`.
fn nfs_path(value: &str) -> Option<String> {
    let (_, path) = value.split_once(":/")?;
    let path = PlainPath::new(path.trim_end_matches('/'))?;
    Some(format!("/{path}"))
}

fn nbd_export(value: &str) -> Option<String> {
    let name = Word::new(value).filter(|name| name.as_str().len() <= NBD_NAME_MAX)?;
    Some(name.as_str().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::tests::image;
    use crate::bootable::root_names;

    #[test]
    fn root_names_are_read_and_bounded() {
        let entry = |more: &str| format!("LABEL a\nLINUX k\nAPPEND archisobasedir=some {more}\n");
        let many: String =
            (0..20).map(|n| entry(&format!("some_nbd_name=n{n} x_nfs_srv=h:/n{n}/"))).collect();
        let long = entry(&format!("archiso_nbd_name={}", "n".repeat(NBD_NAME_MAX + 1)));
        let odd =
            entry("archiso_nbd_name= archiso_nbd_name=${name} archiso_nfs_srv=h archiso_nfs_srv=h:/../x");
        let menu = [odd, long, entry("some_nbd_name=n0"), many].concat();
        let files = [("some/x86_64/airootfs.sfs", "root"), ("boot/syslinux/pxe.cfg", &menu)];
        let RootNames { nfs_paths, nbd_exports } = root_names(&image(&files));
        let named = |prefix: &str| (0..NAMES_MAX).map(|n| format!("{prefix}{n}")).collect::<Vec<_>>();
        assert_eq!((nfs_paths, nbd_exports), (named("/n"), named("n")));
    }
}
