//! What this server offers: images by name, and the names a peer may ask for.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::export::{Export, path};
use crate::image::{Identity, Image, NodeId};

/// The name archiso's hook asks for (`archiso_nbd_name`, mkinitcpio-archiso `archiso_pxe_nbd`).
pub const ARCHISO: &str = "archiso";

/// Where archiso mounts an image, and where the Arch wiki has a server mount it: the boot menus on an ISO name the one,
/// people's recipes the other. Both are the default image here.
const MOUNT_POINTS: [&str; 2] = ["/run/archiso/bootmnt", "/mnt/archiso"];

/// An image and the name it goes by.
#[derive(Debug, Clone)]
pub struct ServedImage {
    pub name: String,
    pub image: Arc<Image>,
}

impl ServedImage {
    /// `NAME~IDENTITY`: a name that goes on meaning this very image when its name comes to mean another one. No image
    /// has a name with a `~`.
    pub fn versioned_name(&self) -> String {
        format!("{}~{}", self.name, self.image.identity)
    }

    fn is_edition(&self, name: &[u8]) -> bool {
        let rest = name.strip_prefix(self.name.as_bytes()).and_then(|rest| rest.strip_prefix(b"~"));
        rest.is_some_and(|identity| identity == self.image.identity.to_string().as_bytes())
    }
}

/// An image in a set, or in several that follow each other.
#[derive(Debug)]
pub struct Listed {
    served: ServedImage,
    /// Whether NFS was asked for it. Handles know nothing of connections, so this is all that tells who lives on it.
    is_called: AtomicBool,
}

impl Listed {
    pub const fn new(served: ServedImage) -> Self {
        Self { served, is_called: AtomicBool::new(false) }
    }

    pub const fn served(&self) -> &ServedImage {
        &self.served
    }

    /// Whether anybody mounted the image or used a handle of it since this was last asked.
    pub fn take_called(&self) -> bool {
        self.is_called.swap(false, Ordering::Relaxed)
    }

    /// Whether somebody besides catalogs has the image: a client of NBD, a transfer.
    pub fn is_held(&self) -> bool {
        Arc::strong_count(&self.served.image) > 1
    }

    fn note_call(&self) {
        // Nearly always it is noted already: to write it again would have all processors wait for each other.
        if !self.is_called.load(Ordering::Relaxed) {
            self.is_called.store(true, Ordering::Relaxed);
        }
    }
}

/// All images of this server. There is always at least one; the first is the default.
#[derive(Debug, Clone)]
pub struct ImageSet {
    default: Arc<Listed>,
    others: Vec<Arc<Listed>>,
    /// Images that were replaced or removed: no name means them any more, but versioned names and handles do.
    retired: Vec<Arc<Listed>>,
}

/// An export, and the image that its ranges are ranges of.
#[derive(Debug, Clone)]
pub struct Found {
    pub image: Arc<Image>,
    pub export: Export,
}

impl ImageSet {
    /// A set of these images. The caller made sure that no two have the same name.
    pub fn new(default: ServedImage, others: Vec<ServedImage>) -> Self {
        let listed = |served| Arc::new(Listed::new(served));
        Self::with_retired(listed(default), others.into_iter().map(listed).collect(), Vec::new())
    }

    /// A set in which those that are `retired` go on being found by whoever knows them.
    pub const fn with_retired(
        default: Arc<Listed>,
        others: Vec<Arc<Listed>>,
        retired: Vec<Arc<Listed>>,
    ) -> Self {
        Self { default, others, retired }
    }

    /// The image that is meant where none is named.
    pub fn default_image(&self) -> &ServedImage {
        self.default.served()
    }

    /// All images, the default first.
    pub fn iter(&self) -> impl Iterator<Item = &ServedImage> {
        self.listed().map(|listed| listed.served())
    }

    fn listed(&self) -> impl Iterator<Item = &Arc<Listed>> {
        std::iter::once(&self.default).chain(&self.others)
    }

    /// The images, and behind them those that were.
    fn known(&self) -> impl Iterator<Item = &Arc<Listed>> {
        self.listed().chain(&self.retired)
    }

    /// The image of this identity, for somebody who comes with a handle of it, and its position in this set.
    pub fn identified(&self, identity: Identity) -> Option<(usize, &ServedImage)> {
        let mut known = self.known().enumerate();
        let (position, listed) = known.find(|(_, listed)| listed.served.image.identity == identity)?;
        listed.note_call();
        Some((position, listed.served()))
    }

    /// The image at a position that [`ImageSet::identified`] gave.
    pub fn at(&self, position: usize) -> Option<&ServedImage> {
        self.known().nth(position).map(|listed| listed.served())
    }

    /// The image of this name or this versioned name; `archiso` and the empty name are the default image.
    pub fn image(&self, name: &[u8]) -> Option<&ServedImage> {
        if name.is_empty() || name == ARCHISO.as_bytes() {
            return Some(self.default_image());
        }
        self.named(name)
    }

    /// The image that has this name itself, or whose [versioned name](ServedImage::versioned_name) it is.
    pub fn named(&self, name: &[u8]) -> Option<&ServedImage> {
        self.find(name).map(|listed| listed.served())
    }

    fn find(&self, name: &[u8]) -> Option<&Arc<Listed>> {
        let by_name = self.listed().find(|listed| listed.served.name.as_bytes() == name);
        by_name.or_else(|| self.known().find(|listed| listed.served.is_edition(name)))
    }

    /// The export called `name`: `archiso`, an image's own name, its versioned name or the empty name is a whole image,
    /// `NAME:/path/of/a/file` one file of it.
    pub fn export(&self, name: &[u8]) -> Option<Found> {
        if let Some(ServedImage { image, .. }) = self.image(name) {
            return Some(Found { image: Arc::clone(image), export: image.whole() });
        }
        let colon = name.windows(2).position(|pair| pair == b":/")?;
        let (name, file) = name.split_at_checked(colon)?;
        let ServedImage { image, .. } = self.image(name)?;
        let node = path::resolve(&image.index, file.strip_prefix(b":")?).ok()?;
        Some(Found { image: Arc::clone(image), export: image.export(node)? })
    }

    /// The node of an image that a client mounts when it asks for `path`: `/` and what is below, `/run/archiso/bootmnt`
    /// and `/mnt/archiso` are the default image, `/NAME` is the image of that name or that versioned name.
    pub fn node(&self, path: &[u8]) -> Option<(&ServedImage, NodeId)> {
        let (listed, node) = self.mounted(path)?;
        listed.note_call();
        Some((listed.served(), node))
    }

    fn mounted(&self, path: &[u8]) -> Option<(&Arc<Listed>, NodeId)> {
        let resolve = |listed: &Listed, path| listed.served.image.index.resolve(NodeId::ROOT, path);
        let default = |path| Some((&self.default, resolve(&self.default, path)?));
        if let Some(rest) = MOUNT_POINTS.iter().find_map(|point| below(path, point.as_bytes())) {
            return default(rest);
        }
        // As everywhere, the tree of the default image comes first.
        default(path).or_else(|| {
            let path = path.strip_prefix(b"/").unwrap_or(path);
            let end = path.iter().position(|&byte| byte == b'/').unwrap_or(path.len());
            let (name, rest) = path.split_at_checked(end)?;
            let listed = self.find(name)?;
            Some((listed, resolve(listed, rest)?))
        })
    }

    /// The paths of whole images for [`ImageSet::node`], as a list of exports shows them.
    pub fn mount_points(&self) -> impl Iterator<Item = Cow<'static, str>> {
        let fixed = ["/"].into_iter().chain(MOUNT_POINTS).map(Cow::Borrowed);
        fixed.chain(self.iter().map(|served| Cow::Owned(format!("/{}", served.name))))
    }

    /// The names of the whole images, as a list of exports shows them.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::once(ARCHISO)
            .chain(self.iter().map(|served| served.name.as_str()).filter(|&name| name != ARCHISO))
    }
}

/// What is left of `path` below the directory `top`; empty for `top` itself.
fn below<'a>(path: &'a [u8], top: &[u8]) -> Option<&'a [u8]> {
    path.strip_prefix(top).filter(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::image::Source;
    use crate::image::index::{Index, NodeAttributes, NodeKind};

    /// An image whose root has a directory of this name.
    fn image(name: &str, directory: &str) -> ServedImage {
        let attributes = NodeAttributes { mode: 0o755, uid: 0, gid: 0, nlink: 1, mtime: 0 };
        let mut index = Index::new(attributes);
        let kind = NodeKind::Directory { entries: Vec::new() };
        index.add(NodeId::ROOT, directory.as_bytes(), kind, attributes).unwrap();
        let image = Image::new(Source::open(Path::new("/dev/null")).unwrap(), index).unwrap();
        ServedImage { name: name.into(), image: Arc::new(image) }
    }

    #[test]
    fn a_path_is_mounted_from_the_default_image_or_the_one_it_names() {
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
    fn an_edition_is_one_image_and_no_other() {
        let images = ImageSet::new(image("first", "arch"), vec![image("other", "boot")]);
        for served in images.iter() {
            let versioned_name = served.versioned_name();
            assert_eq!(versioned_name, format!("{}~{:016x}", served.name, served.image.identity.0));
            assert_eq!(images.image(versioned_name.as_bytes()).map(|found| &found.name), Some(&served.name));
            let whole = images.export(versioned_name.as_bytes()).expect("a whole image");
            assert!(Arc::ptr_eq(&whole.image, &served.image));
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
    fn the_list_of_exports_holds_only_what_can_be_mounted() {
        let images = ImageSet::new(image("first", "arch"), vec![image("other", "boot")]);
        let paths: Vec<_> = images.mount_points().collect();
        assert_eq!(paths, ["/", "/run/archiso/bootmnt", "/mnt/archiso", "/first", "/other"]);
        assert!(paths.iter().all(|path| images.node(path.as_bytes()).is_some()));
    }
}
