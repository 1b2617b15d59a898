//! Drivers of network cards in an initramfs: modules, and those that the kernel has built in.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, Read};

/// Drivers of common network cards, wired and virtual, by the names of their modules.
const COMMON: [&str; 11] =
    ["bnx2x", "e1000e", "i40e", "igb", "igc", "ixgbe", "mlx5_core", "r8169", "tg3", "virtio_net", "vmxnet3"];

/// Drivers of other cards. mkinitcpio puts all modules into one directory, so their names have to
/// tell what they are.
const OTHERS: &str = "\
    3c59x 8139cp 8139too alx asix atl1 atl1c atl1e atlantic ax88179_178a b44 be2net bna bnx2 \
    bnxt_en cdc_ether cdc_ncm cxgb3 cxgb4 dl2k e100 e1000 ena enic forcedeth gve hinic hv_netvsc \
    iavf ice igbvf ionic ixgbevf jme macb mlx4_core natsemi ne2k_pci netxen_nic nfp ngbe pcnet32 qede \
    qlcnic r6040 r8152 rtl8150 sfc sis190 sis900 skge sky2 smsc75xx smsc95xx stmmac tulip txgbe usbnet \
    via_rhine via_velocity xen_netfront";

/// Directories of modules.
const MODULES: [&str; 2] = ["lib/modules/", "usr/lib/modules/"];

/// Directory of the drivers of network devices, where an initramfs keeps the kernel's directories.
const NETWORK: &str = "kernel/drivers/net/";

/// Directories in it of drivers of cards. Beside them are those of cables, tunnels and the like.
const CARDS: [&str; 3] = ["ethernet/", "hyperv/", "usb/"];

/// List of the modules that the kernel has built in, by their paths (Linux, `Documentation/kbuild/kbuild.rst`).
const BUILT_IN: &str = "/modules.builtin";

/// Most bytes of that list; the kernel of Arch Linux has 8 thousand.
const BUILT_IN_MAX: u64 = 256 << 10;

/// Drivers of network cards.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NetworkDrivers {
    /// Those of common cards.
    common: BTreeSet<&'static str>,
    has_others: bool,
}

impl NetworkDrivers {
    /// Returns true if there is a driver for each common card.
    pub(super) fn has_all_common(&self) -> bool {
        self.common.len() == COMMON.len()
    }

    /// Returns true if there is no driver for any card.
    pub(crate) fn is_empty(&self) -> bool {
        self.common.is_empty() && !self.has_others
    }

    /// Returns the drivers of common cards.
    pub(crate) fn common(&self) -> Vec<&'static str> {
        self.common.iter().copied().collect()
    }

    /// Returns the drivers of common cards that are not there.
    pub(crate) fn missing(&self) -> Vec<&'static str> {
        COMMON.into_iter().filter(|name| !self.common.contains(name)).collect()
    }

    /// Records the drivers that a file of an initramfs is, or lists.
    pub(super) fn see(&mut self, path: &[u8], content: &mut dyn Read) -> io::Result<()> {
        let Ok(path) = str::from_utf8(path) else { return Ok(()) };
        let path = path.trim_start_matches(['.', '/']);
        if !MODULES.iter().any(|directory| path.starts_with(directory)) {
            return Ok(());
        }
        if path.ends_with(BUILT_IN) {
            let mut list = Vec::new();
            content.take(BUILT_IN_MAX).read_to_end(&mut list)?;
            String::from_utf8_lossy(&list).lines().for_each(|path| self.see_module(path));
        } else {
            self.see_module(path);
        }
        Ok(())
    }

    fn see_module(&mut self, path: &str) {
        let file = path.rsplit('/').next().unwrap_or_default();
        // Modules may be compressed: `.ko`, `.ko.gz`, `.ko.xz`, `.ko.zst`.
        let Some((name, _)) = file.split_once(".ko") else { return };
        // Both characters are the same in the names of modules (modprobe(8)).
        let name = name.replace('-', "_");
        let is_card = || {
            let below = path.split_once(NETWORK).map_or("", |(_, below)| below);
            CARDS.iter().any(|cards| below.starts_with(cards)) || OTHERS.split(' ').any(|other| other == name)
        };
        match COMMON.into_iter().find(|known| *known == name) {
            Some(known) => drop(self.common.insert(known)),
            None => self.has_others |= is_card(),
        }
    }
}

/// Describes the drivers, as the end of "drivers for".
impl fmt::Display for NetworkDrivers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (common, missing) = (self.common().join(", "), self.missing().join(", "));
        match (common.as_str(), missing.as_str()) {
            ("", _) if self.has_others => f.write_str("some network cards, but for no common one"),
            ("", _) => f.write_str("no network card"),
            (common, "") => write!(f, "network cards: {common}"),
            (common, missing) => write!(f, "network cards: {common}; not {missing}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(files: &[(&str, &str)]) -> NetworkDrivers {
        let mut drivers = NetworkDrivers::default();
        for (path, content) in files {
            drivers.see(path.as_bytes(), &mut content.as_bytes()).unwrap();
        }
        drivers
    }

    #[test]
    fn drivers_are_found_in_any_packing_and_built_in() {
        const DIRECTORY: &str = "usr/lib/modules/6.12/kernel/drivers/net";
        let module = |path: &str| seen(&[(&format!("{DIRECTORY}/{path}"), "")]);
        for file in ["e1000e.ko", "e1000e.ko.xz", "e1000e.ko.zst", "e1000e.ko.gz"] {
            assert_eq!(module(&format!("ethernet/intel/e1000e/{file}")).common(), ["e1000e"], "{file}");
        }
        assert_eq!(module("virtio_net.ko").common(), ["virtio_net"]);
        assert_eq!(module("virtio-net.ko").common(), ["virtio_net"]);
        assert_eq!(seen(&[("./lib/modules/6.12/kernel/igb.ko", "")]).common(), ["igb"], "by mkinitcpio");
        for other in ["ethernet/new/new.ko.zst", "../../8139too.ko"] {
            let other = module(other);
            assert!(!other.is_empty() && other.common().is_empty());
        }
        for none in ["phy/realtek.ko", "tun.ko", "ethernet/intel/e1000e", "e1000e", "xe1000e.ko"] {
            assert!(module(none).is_empty(), "{none}");
        }
        assert!(
            seen(&[("lib/e1000e.ko", ""), ("lib/modules/6.12/kernel/drivers/block/nbd.ko", "")]).is_empty()
        );
        let list = "kernel/fs/ext4/ext4.ko\nkernel/drivers/net/ethernet/broadcom/tg3.ko\n";
        assert_eq!(seen(&[("usr/lib/modules/6.12/modules.builtin", list)]).common(), ["tg3"]);
        let behind = format!("{}{list}", "#".repeat(BUILT_IN_MAX as usize));
        assert!(seen(&[("lib/modules/6.12/modules.builtin", &behind)]).is_empty(), "not all is read");
    }

    #[test]
    fn drivers_are_described() {
        assert_eq!(NetworkDrivers::default().to_string(), "no network card");
        let others = NetworkDrivers { has_others: true, ..NetworkDrivers::default() };
        assert_eq!(others.to_string(), "some network cards, but for no common one");
        let some = NetworkDrivers { common: COMMON[..9].iter().copied().collect(), ..others.clone() };
        let words = "network cards: bnx2x, e1000e, i40e, igb, igc, ixgbe, mlx5_core, r8169, tg3; not virtio_net, vmxnet3";
        assert_eq!(some.to_string(), words);
        let all = NetworkDrivers { common: COMMON.into(), ..others };
        assert!(all.has_all_common() && all.to_string().ends_with(", virtio_net, vmxnet3"));
    }
}
