//! The hot objects of the HTTP door: a request's head, and one turn of a session, from request bytes to a queued batch.
//!
//! Cases: the heads of lpxelinux and iPXE; one file, one range, one probe of the copy that the client has, and 64
//! requests in a row.

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use bytes::BytesMut;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use isowire::boot::menu::{Cms, CopyToRam, MenuSettings};
use isowire::boot::{BootConfig, Files, Ports};
use isowire::bootable::Root;
use isowire::export::Batch;
use isowire::http::session::{Resources, Session};
use isowire::http::wire::HttpRequest;
use isowire::image::index::{Index, NodeAttributes, NodeId, NodeKind};
use isowire::image::{Extent, Image, Source};
use isowire::images::{ImageSet, ServedImage};
use jiff::Timestamp;

fn head(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("http head");
    let lpxelinux = include_bytes!("../tests/data/http/lpxelinux.request");
    let ipxe = include_bytes!("../tests/data/http/ipxe.request");
    for (name, head) in [("lpxelinux", &lpxelinux[..]), ("ipxe", &ipxe[..])] {
        group.bench_function(name, |bencher| bencher.iter(|| HttpRequest::parse(black_box(head)).is_ok()));
    }
    group.finish();
}

fn resources() -> Arc<Resources> {
    let attributes = NodeAttributes { mode: 0o444, uid: 0, gid: 0, nlink: 1, mtime: 784_111_777 };
    let mut index = Index::new(attributes);
    let file = NodeKind::File { extents: vec![Extent { offset: 4096, len: 1 << 30 }] };
    let arch =
        index.add(NodeId::ROOT, b"arch", NodeKind::Directory { entries: Vec::new() }, attributes).unwrap();
    index.add(arch, b"airootfs.sfs", file, attributes).unwrap();
    let image = Image::new(Source::open(Path::new("/dev/null")).unwrap(), index).unwrap();
    let images = ImageSet::new(ServedImage::new("arch", image), Vec::new());
    let settings = MenuSettings {
        roots: vec![Root::Nbd],
        copytoram: CopyToRam::Auto,
        timeout: 10,
        cms: Cms::Verify,
        parameters: Vec::new(),
    };
    let files =
        Files::new(Arc::new(images), BootConfig::new(settings, Ports { tftp: 69, http: Some(80) })).unwrap();
    Arc::new(Resources::new(Arc::new(files)))
}

fn turn(criterion: &mut Criterion) {
    let resources = resources();
    let mut session = Session::new(Ipv4Addr::new(10, 0, 0, 1));
    let mut batch = Batch::default();
    let now = Timestamp::from_second(1_795_413_600).unwrap();
    let request = |fields: &str| {
        format!(
            "GET /arch/airootfs.sfs HTTP/1.1\r\nHost: 10.0.0.1\r\nUser-Agent: curl/8.14.1\r\nAccept: */*\r\n{fields}\r\n"
        )
    };
    let mut group = criterion.benchmark_group("http turn");
    for (name, fields, count) in [
        ("whole file", "", 1),
        ("range", "Range: bytes=0-0\r\n", 1),
        ("has it already", "If-None-Match: \"0\", *\r\n", 1),
        ("64 ranges", "Range: bytes=0-4095\r\n", 64),
    ] {
        let requests = BytesMut::from(request(fields).repeat(count).as_bytes());
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(name, |bencher| {
            bencher.iter_batched_ref(
                || requests.clone(),
                |input| {
                    black_box(session.handle(&resources, input, now, &mut batch));
                    batch.advance(batch.len());
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, head, turn);
criterion_main!(benches);
