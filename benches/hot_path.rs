//! Benchmarks of the steps of a frame: from the capture process to the service, and through the feed. For comparison,
//! the bare cost of copying the same bytes is measured too.
//!
//! The cost of a whole viewer is measured by `benches/table`; these benchmarks show which step a change made slower.

use std::hint::black_box;
use std::io::{IoSlice, Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Instant;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use peercam::capture::wire::{self, Header, MessageKind};
use peercam::media::{Codec, Feed, Format, Frame, Purpose};

/// A frame of 2 Mbit/s at 30 fps.
const FRAME_BYTES: usize = 2_000_000 / 8 / 30;

fn publish(criterion: &mut Criterion) {
    let data = Bytes::from(vec![7; FRAME_BYTES]);
    let mut group = criterion.benchmark_group("a frame of 2 Mbit/s");
    group.bench_function("copied once (the bare limit)", |bencher| {
        bencher.iter(|| Bytes::copy_from_slice(black_box(&data)));
    });
    for viewers in [0, 1, 20] {
        let feed = Feed::new(Format::of(Codec::Opus));
        let subscriptions: Vec<_> = (0..viewers).map(|_| feed.subscribe(Purpose::Viewer)).collect();
        group.bench_function(format!("published to {viewers} waiting viewers"), |bencher| {
            let frame = || Frame::new(data.clone(), Instant::now(), true);
            bencher.iter_batched(frame, |frame| feed.publish(frame), BatchSize::SmallInput);
        });
        drop(subscriptions);
    }
    let feed = Feed::new(Format::of(Codec::Opus));
    let mut subscription = feed.subscribe(Purpose::Viewer);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without drivers is built");
    group.bench_function("published and read by one viewer", |bencher| {
        bencher.iter(|| {
            feed.publish(Frame::new(data.clone(), Instant::now(), true));
            runtime.block_on(subscription.next())
        });
    });
    group.finish();
}

/// The steps between the two processes: a socket pair, the header of each frame, and the copy into the service.
fn cross(criterion: &mut Criterion) {
    let frame = vec![7; FRAME_BYTES];
    let header = Header {
        kind: MessageKind::Frame,
        is_key: false,
        rendition: 0,
        length: FRAME_BYTES as u32,
        number: 1,
        captured: wire::nanoseconds(Instant::now()),
    };
    let send = |to: &mut UnixStream| {
        let head = header.bytes();
        let sent = to.write_vectored(&[IoSlice::new(&head), IoSlice::new(&frame)]).expect("the other end is open");
        assert_eq!(sent, head.len() + frame.len(), "a socket takes a frame at once");
    };
    let mut group = criterion.benchmark_group("a frame of 2 Mbit/s between processes");
    // This measures processor time.
    let (mut here, mut there) = UnixStream::pair().expect("a pair of sockets");
    group.bench_function("written and read by one thread", |bencher| {
        bencher.iter(|| {
            send(&mut here);
            wire::read(&mut there).expect("a frame")
        });
    });
    // This measures latency: the frame to another thread that sleeps, as it does between frames, and one byte back.
    let (mut here, mut there) = UnixStream::pair().expect("a pair of sockets");
    let reader = thread::spawn(move || {
        while let Ok(Some(_)) = wire::read(&mut there) {
            there.write_all(&[0]).expect("the other end is open");
        }
    });
    group.bench_function("to another thread, and a byte back", |bencher| {
        bencher.iter(|| {
            send(&mut here);
            here.read_exact(&mut [0]).expect("a byte");
        });
    });
    drop(here);
    reader.join().expect("the reader ends with the connection");
    group.finish();
}

criterion_group!(benches, publish, cross);
criterion_main!(benches);
