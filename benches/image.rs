//! The image: opening it with its 10,000 entries, and finding names in it.
//!
//! Cases: `open`, `child` (a name in a directory of 10,000), `child_ignoring_case`, `resolve` (a
//! path with a detour), `miss`.

#[path = "../tests/common/mod.rs"]
mod common;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

use isowire::image::{Image, NodeId};

use common::iso::odd;
use common::needs::needs;

fn image(c: &mut Criterion) {
    needs!(["xorriso"]);
    let path = odd("rock");
    let image = Image::open(&path).expect("an ISO");
    let index = &image.index;
    let many = index.resolve(NodeId::ROOT, b"/many").expect("a directory of 10,000");

    let mut group = c.benchmark_group("image");
    group.throughput(Throughput::Elements(index.len() as u64));
    group.bench_function("open", |b| b.iter(|| Image::open(&path).expect("an ISO").index.len()));
    group.throughput(Throughput::Elements(1));
    group.bench_function("child", |b| b.iter(|| index.child(many, black_box(b"entry-07654"))));
    group.bench_function("child_ignoring_case", |b| {
        b.iter(|| index.child_ignoring_case(many, black_box(b"ENTRY-07654")));
    });
    group.bench_function("resolve", |b| {
        b.iter(|| index.resolve(NodeId::ROOT, black_box(b"/many/../many/entry-07654")));
    });
    group.bench_function("miss", |b| b.iter(|| index.child(many, black_box(b"airootfs.erofs"))));
    group.finish();
}

criterion_group!(benches, image);
criterion_main!(benches);
