//! Benchmark of TFTP: one step of a transfer, from the bytes of an ACK to the queued window.
//!
//! Cases: windows of 1, 16 and 64 blocks of 1468 bytes.

mod common;

use std::hint::black_box;
use std::time::Instant;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use isowire::codec::Reader;
use isowire::export::Batch;
use isowire::tftp::session::{Limits, Transfer, Transmit};
use isowire::tftp::wire::{Packet, TransferOption, data_header};

/// Length of the file: more than a run transfers.
const SIZE: u64 = 1 << 60;

fn step(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tftp step");
    for windowsize in [1, 16, 64] {
        let export = common::export(SIZE);
        let options = [TransferOption::Blksize(1468), TransferOption::Windowsize(windowsize)];
        let limits = Limits { blksize: 1468, windowsize };
        let now = Instant::now();
        let mut transfer = Transfer::new(now, export.len(), &options, limits);
        assert!(matches!(transfer.poll_transmit(now), Some(Transmit::Oack(_))));
        let mut batch = Batch::default();
        let mut last = 0_u16;
        group.throughput(Throughput::Elements(windowsize.into()));
        group.bench_function(format!("window of {windowsize}"), |bencher| {
            bencher.iter(|| {
                let [high, low] = last.to_be_bytes();
                let ack = black_box([0, 4, high, low]);
                let packet = Packet::parse(&mut Reader::new(&ack)).unwrap();
                transfer.handle_packet(now, &packet);
                let Some(Transmit::Blocks(blocks)) = transfer.poll_transmit(now) else {
                    panic!("every ACK earns a window");
                };
                for block in blocks {
                    batch.push_bytes(&data_header(block.number));
                    export
                        .range(block.offset, block.len)
                        .unwrap()
                        .for_each(|piece| batch.push_piece(piece).unwrap());
                    last = block.number;
                }
                batch.advance(batch.len());
            });
        });
    }
    group.finish();
}

criterion_group!(benches, step);
criterion_main!(benches);
