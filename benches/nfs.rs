//! One turn of an NFS session: from the bytes of calls to a queued batch.
//!
//! Cases: the parts of a call (record, header, credentials), GETATTR, LOOKUP among 10,000 names,
//! READDIRPLUS of a page of 64 KiB, READ of 4 KiB and of 128 KiB, alone and many at once.

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use bytes::BytesMut;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use isowire::export::{AllCached, Batch};
use isowire::image::index::{Index, NodeAttributes, NodeId, NodeKind};
use isowire::image::{Extent, Image, Source};
use isowire::images::{ImageSet, ServedImage};
use isowire::nfs::handle::FileHandle;
use isowire::nfs::rpc::{self, RpcMessage};
use isowire::nfs::session::Session;
use isowire::nfs::wire::procedure::{GETATTR, LOOKUP, READ, READDIRPLUS};
use isowire::nfs::xdr::Emitter;

const SIZE: u64 = 1 << 30;
const FILE: NodeId = NodeId(1);
const MANY: NodeId = NodeId(2);

/// An image with a large file and a directory of 10,000.
fn images() -> Arc<ImageSet> {
    let attributes = NodeAttributes { mode: 0o755, uid: 0, gid: 0, nlink: 1, mtime: 0 };
    let mut index = Index::new(attributes);
    let file = NodeKind::File { extents: vec![Extent { offset: 0, len: SIZE }] };
    index.add(NodeId::ROOT, b"airootfs.sfs", file, attributes).unwrap();
    let many =
        index.add(NodeId::ROOT, b"many", NodeKind::Directory { entries: Vec::new() }, attributes).unwrap();
    for n in 0..10_000 {
        let name = format!("a-name-as-packages-have-them-{n}");
        index.add(many, name.as_bytes(), NodeKind::File { extents: Vec::new() }, attributes).unwrap();
    }
    let image = Image::new(Source::open(Path::new("/dev/null")).unwrap(), index).unwrap();
    Arc::new(ImageSet::new(ServedImage::new("bench", image), Vec::new()))
}

/// A call as the Linux kernel sends it.
fn call(xid: u32, procedure: u32, args: impl Fn(&mut Emitter<'_>)) -> Vec<u8> {
    let mut record = Vec::new();
    let start = rpc::begin_record(&mut record);
    let mut call = Emitter::new(&mut record);
    [xid, 0, 2, 100_003, 3, procedure, rpc::AUTH_SYS, 28, 0].into_iter().for_each(|word| call.u32(word));
    call.opaque(b"");
    [0, 0, 2, 0, 0, 0, 0].into_iter().for_each(|word| call.u32(word));
    args(&mut call);
    rpc::end_record(&mut record, start, 0);
    record
}

fn parse(criterion: &mut Criterion) {
    let record = call(1, GETATTR, |args| args.opaque(&[7; 16]));
    let mut out = Vec::new();
    criterion.bench_function("nfs parse a call", |bencher| {
        bencher.iter(|| {
            out.clear();
            let record = rpc::next_record(black_box(&record)).unwrap().unwrap();
            let message = RpcMessage::parse(&record.message).unwrap();
            message.answer(&mut out, |call, _| Ok(black_box(call.args.remaining())))
        });
    });
}

fn turn(criterion: &mut Criterion) {
    let images = images();
    let identity = images.default_image().image.identity;
    let on = |node| FileHandle { identity, node }.bytes();
    let read = |n: u32, len: u32| {
        let offset = u64::from(n) * 7919 * 4096 % (SIZE - u64::from(len));
        call(n, READ, |args| {
            args.opaque(&on(FILE));
            args.u64(offset);
            args.u32(len);
        })
    };
    let lookup = |n: u32| {
        call(n, LOOKUP, |args| {
            args.opaque(&on(MANY));
            args.opaque(format!("a-name-as-packages-have-them-{}", n * 97 % 10_000).as_bytes());
        })
    };
    let page = call(0, READDIRPLUS, |args| {
        args.opaque(&on(MANY));
        [5000, identity.0].into_iter().for_each(|word| args.u64(word));
        [65_536, 65_536].into_iter().for_each(|word| args.u32(word));
    });
    let cases: [(&str, Vec<Vec<u8>>); 8] = [
        ("GETATTR", (0..1).map(|n| call(n, GETATTR, |args| args.opaque(&on(FILE)))).collect()),
        ("64 x GETATTR", (0..64).map(|n| call(n, GETATTR, |args| args.opaque(&on(FILE)))).collect()),
        ("512 x GETATTR", (0..512).map(|n| call(n, GETATTR, |args| args.opaque(&on(FILE)))).collect()),
        ("64 x LOOKUP among 10,000", (0..64).map(lookup).collect()),
        ("READDIRPLUS 64 KiB of 10,000", vec![page]),
        ("READ 4 KiB", vec![read(0, 4096)]),
        ("64 x READ 4 KiB", (0..64).map(|n| read(n, 4096)).collect()),
        ("8 x READ 128 KiB", (0..8).map(|n| read(n, 131_072)).collect()),
    ];
    let mut group = criterion.benchmark_group("nfs turn");
    for (name, calls) in cases {
        let mut session = Session::new(([127, 0, 0, 1], 700).into());
        let mut batch = Batch::default();
        group.throughput(Throughput::Elements(calls.len() as u64));
        let input = BytesMut::from(&calls.concat()[..]);
        group.bench_function(name, |bencher| {
            bencher.iter_batched_ref(
                || input.clone(),
                |input| {
                    black_box(session.handle(&images, input, &AllCached, &mut batch));
                    batch.advance(batch.len());
                    session.sent(input);
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, parse, turn);
criterion_main!(benches);
