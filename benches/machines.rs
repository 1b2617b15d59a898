//! What the registry costs the data path: the tracker counts each batch that left.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use isowire::export::{Batch, Export};
use isowire::image::arch::{Airootfs, AirootfsFormat, Archiso};
use isowire::image::index::{Index, NodeAttributes};
use isowire::image::{Extent, Image, NodeId, NodeKind, Source};
use isowire::images::{ImageSet, ServedImage};
use isowire::machines::{ConnectionTracker, Protocol, Registry};

const AIROOTFS: Extent = Extent { offset: 64 << 20, len: 800 << 20 };

/// An image of which only the map counts.
fn image() -> Arc<Image> {
    let plain = NodeAttributes { mode: 0o644, uid: 0, gid: 0, nlink: 1, mtime: 0 };
    let mut index = Index::new(plain);
    let kind = NodeKind::File { extents: vec![AIROOTFS] };
    let node = index.add(NodeId::ROOT, b"airootfs.sfs", kind, plain).unwrap();
    let root = Airootfs {
        arch: "x86_64".into(),
        node,
        format: AirootfsFormat::Squashfs,
        size: AIROOTFS.len,
        sha512: None,
        md5: None,
        cms_signature: None,
        gpg_signature: None,
    };
    let mut image = Image::new(Source::open(Path::new("/dev/null")).unwrap(), index).unwrap();
    image.archiso = Some(Archiso {
        install_dir: "arch".into(),
        kernels: Vec::new(),
        airootfs: vec![root],
        uuid_file: None,
        syslinux_dir: None,
        lpxelinux: None,
        syslinux_menus: Vec::new(),
        loader_entries: Vec::new(),
    });
    Arc::new(image)
}

/// Replies of `len` bytes each, from all over the root file system.
fn batch(image: &Arc<Image>, replies: u64, len: u64) -> Batch {
    let export = Export::of_file(image, NodeId(1)).unwrap();
    let mut batch = Batch::default();
    for reply in 0..replies {
        batch.push_bytes(&[0; 16]);
        let offset = reply * (6_700_417 & !4095) % (AIROOTFS.len - len);
        export.range(offset, len).unwrap().for_each(|piece| batch.push_piece(piece).unwrap());
    }
    batch
}

fn bench(c: &mut Criterion) {
    let image = image();
    let served = ServedImage::new("arch", Arc::clone(&image));
    let registry = Arc::new(Registry::new(Instant::now()));
    registry.serve(&ImageSet::new(served, Vec::new()));
    let peer = [10, 0, 0, 9].into();
    let mut tracker = ConnectionTracker::new(registry, peer, Protocol::Nbd, Instant::now());
    let mut group = c.benchmark_group("tracker");
    for (name, replies, len) in [("128 replies of 4 KiB", 128, 4 << 10), ("one of 1 MiB", 1, 1 << 20)] {
        let batch = batch(&image, replies, len);
        group.throughput(Throughput::Elements(replies));
        group.bench_function(name, |b| {
            b.iter(|| tracker.sent(black_box(&batch), batch.len(), Instant::now()));
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
