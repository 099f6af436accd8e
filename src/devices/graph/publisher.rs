//! The end of a graph: sends each access unit or packet to the parent.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use peercam::capture::wire::{self, Header, MessageKind};
use peercam::media::h264;

use crate::output::Output;

use super::clock::Clock;
use super::timestamp_smoother::TimestampSmoother;

/// The frames that a branch has sent. Clones share the count.
#[derive(Clone, Debug, Default)]
pub struct Published(Arc<(Mutex<Sent>, Condvar)>);

#[derive(Debug, Default)]
struct Sent {
    count: u64,
    /// The newest key frame, if key frames are kept.
    key_frame: Option<(Instant, Bytes)>,
    keeps_key_frames: bool,
}

impl Published {
    /// No frames so far. Key frames are kept if there are no raw pictures for snapshots.
    pub fn keeping_key_frames(keeps_key_frames: bool) -> Self {
        let published = Self::default();
        published.sent().keeps_key_frames = keeps_key_frames;
        published
    }

    /// Number of frames sent.
    pub fn count(&self) -> u64 {
        self.sent().count
    }

    /// A key frame that is no older than `age`, else the next one, which must come within `limit`. Only in a graph
    /// without raw pictures.
    pub fn key_frame(&self, age: Duration, limit: Duration) -> Option<Bytes> {
        let begun = Instant::now();
        let since = begun.checked_sub(age).unwrap_or(begun);
        let is_old = |sent: &mut Sent| sent.key_frame.as_ref().is_none_or(|(at, _)| *at < since);
        let waited = self.0.1.wait_timeout_while(self.sent(), limit, is_old);
        let (mut sent, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        let is_new = !is_old(&mut sent) && !timeout.timed_out();
        sent.key_frame.clone().filter(|_| is_new).map(|(_, bytes)| bytes)
    }

    fn sent(&self) -> std::sync::MutexGuard<'_, Sent> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, key_frame: Option<&[u8]>) {
        let mut sent = self.sent();
        sent.count += 1;
        if let Some(bytes) = key_frame.filter(|_| sent.keeps_key_frames) {
            sent.key_frame = Some((Instant::now(), Bytes::copy_from_slice(bytes)));
            self.0.1.notify_all();
        }
    }
}

/// Destination of the frames of a graph.
#[derive(Clone, Debug)]
pub struct FrameTarget {
    /// The attempt that they belong to.
    pub attempt: u32,
    /// Sends to the parent.
    pub output: Output,
}

/// A sink that sends its input to the parent.
pub fn sink(target: &FrameTarget, rendition: u16, is_video: bool, published: Published) -> gst_app::AppSink {
    let FrameTarget { attempt, output } = target.clone();
    let clock = Clock::of_process();
    // Only for sound: pictures are as even as their camera makes them.
    let mut smoother = (!is_video).then(TimestampSmoother::default);
    let new_sample = move |appsink: &gst_app::AppSink| {
        let sample = appsink.pull_sample().map_err(|_| gst::FlowError::Eos)?;
        let buffer = sample.buffer().ok_or(gst::FlowError::Error)?;
        let segment = sample.segment().and_then(|segment| segment.downcast_ref::<gst::ClockTime>());
        // x264enc shifts its time stamps by 1000 hours together with their segment, so only running time counts.
        let running = segment.zip(buffer.pts()).and_then(|(segment, pts)| segment.to_running_time(pts));
        let (Some(running), Some(base)) = (running, appsink.base_time()) else { return Ok(gst::FlowSuccess::Ok) };
        let is_key = !buffer.flags().contains(gst::BufferFlags::DELTA_UNIT);
        let stamped = clock.instant(base + running);
        let placed = smoother.as_mut().map_or(Some(stamped), |smoother| smoother.smooth(stamped));
        let Some(captured) = placed else { return Ok(gst::FlowSuccess::Ok) };
        // Sent directly from the encoder's memory. If the parent does not read, this blocks, and pictures are
        // dropped before the encoder, which does not damage the stream.
        let map = buffer.map_readable().map_err(|_| gst::FlowError::Error)?;
        let data = if is_video { h264::without_delimiter(&map) } else { &map };
        let header = Header {
            kind: MessageKind::Frame,
            is_key,
            rendition,
            length: data.len().try_into().map_err(|_| gst::FlowError::Error)?,
            number: attempt,
            captured: wire::nanoseconds(captured),
        };
        if header.length as usize > MessageKind::Frame.most() {
            return Err(gst::FlowError::Error);
        }
        output.send(&header, data);
        published.add(is_key.then_some(data));
        Ok(gst::FlowSuccess::Ok)
    };
    gst_app::AppSink::builder()
        // Frames are sent at once: smoothing is up to the viewer.
        .sync(false)
        .async_(false)
        .enable_last_sample(false)
        .callbacks(gst_app::AppSinkCallbacks::builder().new_sample(new_sample).build())
        .build()
}
