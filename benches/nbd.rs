//! The hot object of the NBD door: one turn of a transmission, from request bytes to a queued batch.
//!
//! Cases: 1 and 64 reads of 4 KiB, 8 of 128 KiB, each with simple and with structured replies.

mod common;

use std::hint::black_box;

use bytes::BytesMut;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use isowire::export::{AllCached, Batch};
use isowire::nbd::session::{Replies, Transmission};
use isowire::nbd::wire::{Cmd, REQUEST_MAGIC};

const SIZE: u64 = 1 << 30;

fn reads(count: u64, len: u32) -> BytesMut {
    let mut bytes = Vec::new();
    for cookie in 0..count {
        let offset = cookie * 7919 * 2048 % (SIZE - u64::from(len));
        bytes.extend_from_slice(&REQUEST_MAGIC.to_be_bytes());
        bytes.extend_from_slice(&[0, 0]);
        bytes.extend_from_slice(&Cmd::READ.0.to_be_bytes());
        bytes.extend_from_slice(&cookie.to_be_bytes());
        bytes.extend_from_slice(&offset.to_be_bytes());
        bytes.extend_from_slice(&len.to_be_bytes());
    }
    BytesMut::from(&bytes[..])
}

fn turn(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("nbd turn");
    for (name, replies) in [("simple", Replies::Simple), ("structured", Replies::Structured)] {
        for (count, len) in [(1, 4096), (64, 4096), (8, 131_072)] {
            let export = common::export(SIZE);
            let mut batch = Batch::of_export(&export);
            let mut session = Transmission::new(replies);
            let requests = reads(count, len);
            group.throughput(Throughput::Elements(count));
            group.bench_function(format!("{name} {count} x {len}"), |bencher| {
                bencher.iter_batched_ref(
                    || requests.clone(),
                    |input| {
                        black_box(session.handle(&export, input, &AllCached, &mut batch));
                        batch.advance(batch.len());
                    },
                    BatchSize::SmallInput,
                );
            });
        }
    }
    group.finish();
}

criterion_group!(benches, turn);
criterion_main!(benches);
