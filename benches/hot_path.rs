//! The way of a frame through the process, in pieces: the feed, and beside it the bare limit of moving the same bytes.
//!
//! What a whole viewer costs is measured by `benches/table`; these show which piece a change made dearer.

use std::hint::black_box;
use std::time::Instant;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use peercam::media::{Feed, Frame};

/// A frame of 2 Mbit/s at 30 fps.
const FRAME_BYTES: usize = 2_000_000 / 8 / 30;

fn publish(criterion: &mut Criterion) {
    let data = Bytes::from(vec![7; FRAME_BYTES]);
    let mut group = criterion.benchmark_group("a frame of 2 Mbit/s");
    group.bench_function("copied once (the bare limit)", |bencher| {
        bencher.iter(|| Bytes::copy_from_slice(black_box(&data)));
    });
    for viewers in [0, 1, 20] {
        let feed = Feed::new();
        let subscriptions: Vec<_> = (0..viewers).map(|_| feed.subscribe()).collect();
        group.bench_function(format!("published to {viewers} waiting viewers"), |bencher| {
            let frame = || Frame::new(data.clone(), Instant::now(), true);
            bencher.iter_batched(frame, |frame| feed.publish(frame), BatchSize::SmallInput);
        });
        drop(subscriptions);
    }
    let feed = Feed::new();
    let mut subscription = feed.subscribe();
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime needs nothing here");
    group.bench_function("published and read by one viewer", |bencher| {
        bencher.iter(|| {
            feed.publish(Frame::new(data.clone(), Instant::now(), true));
            runtime.block_on(subscription.next())
        });
    });
    group.finish();
}

criterion_group!(benches, publish);
criterion_main!(benches);
