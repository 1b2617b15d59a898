//! The images of one moment, found by name, path or handle.

use std::borrow::Cow;
use std::path::Path;
use std::sync::Arc;

use super::ServedImage;
use super::retention::Retained;
use crate::export::{Export, path};
use crate::image::{Identity, NodeId};

/// The export name that archiso's hook asks for (`archiso_nbd_name`, mkinitcpio-archiso
/// `archiso_pxe_nbd`).
pub(crate) const ARCHISO: &str = "archiso";

/// Mount points of an image on archiso and on a server set up by the Arch wiki. Boot menus on an
/// ISO name the former, guides for servers the latter; both mean the default image here.
const MOUNT_POINTS: [&str; 2] = ["/run/archiso/bootmnt", "/mnt/archiso"];

/// Images of one moment, at least one. The first is the default.
#[derive(Debug, Clone)]
pub struct ImageSet {
    default: Arc<ServedImage>,
    others: Vec<Arc<ServedImage>>,
    /// Replaced or removed images: only versioned names and handles mean them.
    pub(super) retained: Vec<Retained>,
}

impl ImageSet {
    /// Creates a set of these images, which must have different names.
    pub fn new(default: ServedImage, others: Vec<ServedImage>) -> Self {
        let others = others.into_iter().map(Arc::new).collect();
        Self { default: Arc::new(default), others, retained: Vec::new() }
    }

    /// Creates a set of these images, the default first; `None` without an image.
    pub(crate) fn of(images: Vec<Arc<ServedImage>>) -> Option<Self> {
        let mut images = images.into_iter();
        Some(Self { default: images.next()?, others: images.collect(), retained: Vec::new() })
    }

    /// Returns the image that a peer means if it names none.
    pub const fn default_image(&self) -> &Arc<ServedImage> {
        &self.default
    }

    /// Iterates over the current images, the default first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<ServedImage>> {
        std::iter::once(&self.default).chain(&self.others)
    }

    /// Iterates over the current images and the retained ones.
    pub(crate) fn known(&self) -> impl Iterator<Item = &Arc<ServedImage>> {
        self.iter().chain(self.retained.iter().map(|retained| &retained.image))
    }

    /// Returns the current image that was opened from this file.
    pub(super) fn by_path(&self, path: &Path) -> Option<&Arc<ServedImage>> {
        self.iter().find(|served| served.path() == path)
    }

    /// Tells whether this very image is current or retained.
    pub(super) fn holds(&self, image: &Arc<ServedImage>) -> bool {
        self.known().any(|known| Arc::ptr_eq(known, image))
    }

    /// Returns the image of this identity for a client with one of its handles.
    pub(crate) fn identified(&self, identity: Identity) -> Option<&ServedImage> {
        let served = self.by_identity(identity)?;
        served.note_call();
        Some(served)
    }

    /// Returns the image of this identity, also a retained one: clients keep replaced images.
    pub(crate) fn by_identity(&self, identity: Identity) -> Option<&Arc<ServedImage>> {
        self.known().find(|served| served.image.identity == identity)
    }

    /// Returns the image of this name or versioned name; `archiso` and the empty name are the
    /// default image.
    pub(crate) fn image(&self, name: &[u8]) -> Option<&ServedImage> {
        // NBD protocol, NBD_OPT_EXPORT_NAME: an empty name asks for the default export.
        if name.is_empty() || name == ARCHISO.as_bytes() {
            return Some(&self.default);
        }
        self.named(name)
    }

    /// Returns the image of this name or [versioned name](ServedImage::versioned_name).
    pub(crate) fn named(&self, name: &[u8]) -> Option<&ServedImage> {
        let by_name = self.iter().find(|served| served.name.as_bytes() == name);
        let named = by_name.or_else(|| self.known().find(|served| served.has_versioned_name(name)))?;
        Some(named)
    }

    /// Returns the export called `name`: a whole image by `archiso`, its name, its versioned name
    /// or the empty name, and a file of it by `NAME:/path/of/a/file`. A name that menus of an image
    /// ask for is that image, the first that asks for it.
    pub(crate) fn export(&self, name: &[u8]) -> Option<Export> {
        // Menus last, so that none takes the name of another image.
        if let Some(ServedImage { image, .. }) = self.image(name).or_else(|| self.by_menu_name(name)) {
            return Some(Export::whole(image));
        }
        // No name contains a colon, but the path of a file may.
        let colon = name.windows(2).position(|pair| pair == b":/")?;
        let (name, file) = name.split_at_checked(colon)?;
        let ServedImage { image, .. } = self.image(name)?;
        let node = path::resolve(&image.index, file.strip_prefix(b":")?).ok()?;
        Export::of_file(image, node)
    }

    /// Returns the image whose menus ask for an NBD export of this name.
    fn by_menu_name(&self, name: &[u8]) -> Option<&ServedImage> {
        let asks = |served: &&Arc<ServedImage>| {
            served.root_names().nbd_exports.iter().any(|export| export.as_bytes() == name)
        };
        Some(self.iter().find(asks)?)
    }

    /// Returns the node that an NFS client mounts by `path`: `/` and the paths below it,
    /// `/run/archiso/bootmnt` and `/mnt/archiso` are in the default image, `/NAME` is the image of
    /// that name or versioned name. A path that menus of an image name is that image, the first
    /// that names it.
    pub(crate) fn node(&self, path: &[u8]) -> Option<(&ServedImage, NodeId)> {
        let (served, node) = self.resolve(path)?;
        served.note_call();
        Some((served, node))
    }

    fn resolve(&self, path: &[u8]) -> Option<(&ServedImage, NodeId)> {
        // Before the tree: an ISO made of a whole system has directories of these names.
        if let Some(rest) = MOUNT_POINTS.iter().find_map(|point| below(path, point.as_bytes())) {
            return resolve_in(&self.default, rest);
        }
        // As in every protocol, the tree of the default image comes first.
        let by_name = || {
            let path = path.strip_prefix(b"/").unwrap_or(path);
            let end = path.iter().position(|&byte| byte == b'/').unwrap_or(path.len());
            let (name, rest) = path.split_at_checked(end)?;
            resolve_in(self.named(name)?, rest)
        };
        // Last, so that no menu takes the path of another image or of a directory.
        resolve_in(&self.default, path).or_else(by_name).or_else(|| self.resolve_menu_path(path))
    }

    /// Resolves a path that menus of an image name, as `/run/NAME/bootmnt` in those of other
    /// distributions.
    fn resolve_menu_path(&self, path: &[u8]) -> Option<(&ServedImage, NodeId)> {
        self.iter().find_map(|served| {
            let rest =
                served.root_names().nfs_paths.iter().find_map(|point| below(path, point.as_bytes()))?;
            resolve_in(served, rest)
        })
    }

    /// Iterates over the paths of whole images for [`ImageSet::node`], for the list of exports.
    pub(crate) fn mount_points(&self) -> impl Iterator<Item = Cow<'_, str>> {
        let fixed = ["/"].into_iter().chain(MOUNT_POINTS).map(Cow::Borrowed);
        let names = self.iter().map(|served| Cow::Owned(format!("/{}", served.name)));
        fixed.chain(names).chain(self.menu_paths().into_iter().map(Cow::Borrowed))
    }

    /// Returns the further paths that menus of the images name.
    fn menu_paths(&self) -> Vec<&str> {
        let mut paths: Vec<&str> = Vec::new();
        for path in self.iter().flat_map(|served| &served.root_names().nfs_paths) {
            let is_name = self.iter().any(|served| path.strip_prefix('/') == Some(&*served.name));
            let is_listed = MOUNT_POINTS.contains(&path.as_str()) || paths.contains(&path.as_str());
            if !is_name && !is_listed {
                paths.push(path);
            }
        }
        paths
    }

    /// Iterates over the names of whole images for [`ImageSet::export`], for the list of exports.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        // Only the default image may be called `archiso`, which is listed already.
        std::iter::once(ARCHISO)
            .chain(self.iter().map(|served| served.name.as_str()).filter(|&name| name != ARCHISO))
            .chain(self.menu_exports())
    }

    /// Returns the further NBD exports that menus of the images ask for.
    fn menu_exports(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for name in self.iter().flat_map(|served| &served.root_names().nbd_exports) {
            if self.image(name.as_bytes()).is_none() && !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        names
    }
}

fn resolve_in<'a>(served: &'a ServedImage, path: &[u8]) -> Option<(&'a ServedImage, NodeId)> {
    Some((served, served.image.index.resolve(NodeId::ROOT, path)?))
}

/// Returns the rest of `path` below the directory `top`; empty for `top` itself.
fn below<'a>(path: &'a [u8], top: &[u8]) -> Option<&'a [u8]> {
    path.strip_prefix(top).filter(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::index::{Index, NodeAttributes, NodeKind};
    use crate::image::{Image, Source};

    /// An image whose root has a directory of this name.
    fn image(name: &str, directory: &str) -> ServedImage {
        let attributes = NodeAttributes { mode: 0o755, uid: 0, gid: 0, nlink: 1, mtime: 0 };
        let mut index = Index::new(attributes);
        let kind = NodeKind::Directory { entries: Vec::new() };
        index.add(NodeId::ROOT, directory.as_bytes(), kind, attributes).unwrap();
        let image = Image::new(Source::open(Path::new("/dev/null")).unwrap(), index).unwrap();
        ServedImage::new(name, image)
    }

    #[test]
    fn mount_path_finds_its_image() {
        let images = ImageSet::new(image("first", "arch"), vec![image("other", "boot")]);
        let found = |path: &str| {
            images.node(path.as_bytes()).map(|(served, node)| format!("{} {}", served.name, node.0))
        };
        for root in
            ["/", "", "/first", "/first/", "/mnt/archiso", "/run/archiso/bootmnt/", "/../..", "/first/.."]
        {
            assert_eq!(found(root).as_deref(), Some("first 0"), "{root}");
        }
        for arch in ["/arch", "/arch/", "//arch", "/first/arch", "/mnt/archiso/arch", "arch"] {
            assert_eq!(found(arch).as_deref(), Some("first 1"), "{arch}");
        }
        assert_eq!(found("/other").as_deref(), Some("other 0"));
        assert_eq!(found("/other/boot/.").as_deref(), Some("other 1"));
        for nothing in [
            "/../../etc",
            "/other/../arch",
            "/boot",
            "/others",
            "/mnt",
            "/mnt/archiso2",
            "/run/archiso/bootmnt/x",
            "/ARCH",
        ] {
            assert_eq!(found(nothing), None, "{nothing}");
        }
    }

    #[test]
    fn versioned_name_means_one_image() {
        let images = ImageSet::new(image("first", "arch"), vec![image("other", "boot")]);
        for served in images.iter() {
            let versioned_name = served.versioned_name();
            assert_eq!(versioned_name, format!("{}~{:016x}", served.name, served.image.identity.0));
            assert_eq!(images.image(versioned_name.as_bytes()).map(|found| &found.name), Some(&served.name));
            let whole = images.export(versioned_name.as_bytes()).expect("a whole image");
            assert!(Arc::ptr_eq(whole.image().unwrap(), &served.image));
            let mounted = |path: String| images.node(path.as_bytes()).map(|(served, _)| &served.name);
            assert_eq!(mounted(format!("/{versioned_name}")), Some(&served.name));
            assert_eq!(mounted(format!("/{versioned_name}/none")), None);
            assert!(images.names().all(|name| name != versioned_name), "it is in no list");
        }
        let [first, other] = [0, 1].map(|n| images.iter().nth(n).unwrap().image.identity);
        for nothing in
            [format!("first~{other}"), format!("first~{first}0"), "first~".into(), format!("~{first}")]
        {
            assert!(images.image(nothing.as_bytes()).is_none(), "{nothing}");
        }
    }

    #[test]
    fn path_of_a_menu_is_mounted() {
        let rescue = |name: &str, path: &str| {
            let menu = format!("LABEL a\nLINUX k\nAPPEND archiso_nfs_srv=${{pxeserver}}:{path}\n");
            let files = [("rescue/x86_64/airootfs.sfs", "root"), ("rescue/boot/syslinux/pxe.cfg", &menu)];
            ServedImage::new(name, crate::boot::tests::image(&files))
        };
        let images = ImageSet::new(
            rescue("first", "/run/rescue/bootmnt/"),
            vec![
                rescue("second", "/run/rescue/bootmnt"),
                rescue("third", "/srv/rescue"),
                rescue("thief", "/second"),
            ],
        );
        let found = |path: &str| Some(&*images.node(path.as_bytes())?.0.name);
        assert_eq!(found("/run/rescue/bootmnt"), Some("first"));
        assert_eq!(found("/run/rescue/bootmnt/rescue/x86_64"), Some("first"));
        assert_eq!(found("/srv/rescue/"), Some("third"));
        assert_eq!(found("/second"), Some("second"), "a menu does not take another image's path");
        assert_eq!((found("/srv"), found("/srv/rescues"), found("/srv/rescue/none")), (None, None, None));
        let listed: Vec<_> = images.mount_points().skip(7).collect();
        assert_eq!(listed, ["/run/rescue/bootmnt", "/srv/rescue"]);
    }

    #[test]
    fn export_of_a_menu_is_found() {
        let named = |name: &str, export: &str| {
            let menu = format!("LABEL a\nLINUX k\nAPPEND archiso_nbd_srv=x archiso_nbd_name={export}\n");
            let files = [("some/x86_64/airootfs.sfs", "root"), ("boot/syslinux/pxe.cfg", &menu)];
            ServedImage::new(name, crate::boot::tests::image(&files))
        };
        let images = ImageSet::new(
            named("first", "archiso"),
            vec![named("second", "rescue"), named("third", "rescue"), named("thief", "second")],
        );
        let found = |name: &str| {
            let export = images.export(name.as_bytes())?;
            images.iter().find(|served| Arc::ptr_eq(&served.image, export.image().unwrap()))
        };
        assert_eq!(found("archiso").unwrap().name, "first");
        assert_eq!(found("rescue").unwrap().name, "second", "the first that asks for it");
        assert_eq!(found("second").unwrap().name, "second", "a menu does not take another image's name");
        assert!(found("rescues").is_none() && found("rescue:/some/x86_64/airootfs.sfs").is_none());
        let listed: Vec<_> = images.names().collect();
        assert_eq!(listed, ["archiso", "first", "second", "third", "thief", "rescue"]);
    }

    #[test]
    fn listed_mount_points_can_be_mounted() {
        let images = ImageSet::new(image("first", "arch"), vec![image("other", "boot")]);
        let paths: Vec<_> = images.mount_points().collect();
        assert_eq!(paths, ["/", "/run/archiso/bootmnt", "/mnt/archiso", "/first", "/other"]);
        assert!(paths.iter().all(|path| images.node(path.as_bytes()).is_some()));
    }
}
