//! One encoding in a graph: from raw pictures, or from the camera's own H.264, to the frames that are sent.

use std::sync::mpsc;
use std::time::Duration;

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use peercam::capture::Error;

use crate::encoder::Encoder;

use super::Published;
use super::elements::element;

/// Time limit for the pictures in a pad to pass, so that a branch can be removed. They are only passed on to
/// queues, which takes microseconds.
const PASSING: Duration = Duration::from_secs(1);

/// The parts of a branch before it runs, in order of flow.
#[derive(Debug)]
pub struct Branch {
    /// From the queue before the encoder to the parser.
    pub elements: Vec<gst::Element>,
    /// The encoder that can be tuned; `None` if the camera encodes, and for sound.
    pub encoder: Option<Encoder>,
}

/// A branch that runs.
#[derive(Debug)]
pub struct Running {
    branch: Branch,
    sink: gst_app::AppSink,
    published: Published,
    /// Where it is joined to the graph; `None` if it is the graph's only branch.
    joint: Option<(gst::Element, gst::Pad)>,
}

impl Running {
    /// Adds `branch` and `sink` to the pipeline behind `from`.
    pub fn join(
        branch: Branch,
        sink: gst_app::AppSink,
        published: Published,
        pipeline: &gst::Pipeline,
        from: &gst::Element,
    ) -> Result<Self, Error> {
        let all: Vec<_> = branch.elements.iter().chain([sink.upcast_ref()]).cloned().collect();
        pipeline.add_many(&all).map_err(Error::broken)?;
        let mut running = Self { branch, sink, published, joint: None };
        let joined = running.link(&all, from);
        if joined.is_err() {
            running.leave(pipeline);
        }
        joined.map(|()| running)
    }

    fn link(&mut self, all: &[gst::Element], from: &gst::Element) -> Result<(), Error> {
        gst::Element::link_many(all).map_err(Error::broken)?;
        // From the end, so that each element finds the next one ready.
        for element in all.iter().rev() {
            element.sync_state_with_parent().map_err(Error::broken)?;
        }
        let first = all.first().ok_or_else(|| Error::broken("a branch without elements"))?;
        match from.factory().is_some_and(|factory| factory.name() == "tee") {
            false => from.link(first).map_err(Error::broken),
            true => {
                let pad = from.request_pad_simple("src_%u").ok_or_else(|| Error::broken("no pad for a branch"))?;
                let sink = first.static_pad("sink").ok_or_else(|| Error::broken("a branch without a pad"))?;
                self.joint = Some((from.clone(), pad.clone()));
                pad.link(&sink).map(drop).map_err(Error::broken)
            }
        }
    }

    /// Removes the branch from the pipeline, which continues. Blocks until its encoder has stopped.
    pub fn leave(&mut self, pipeline: &gst::Pipeline) {
        if let Some((tee, pad)) = self.joint.take() {
            let (done, idle) = mpsc::channel();
            // Called when no picture is in the pad: at once, or by the thread that passes one on.
            pad.add_probe(gst::PadProbeType::IDLE, move |pad, _| {
                if let Some(peer) = pad.peer() {
                    // An error means that it is not linked, as wanted.
                    pad.unlink(&peer).ok();
                }
                done.send(()).ok();
                gst::PadProbeReturn::Remove
            });
            // It takes longer only if everything is stalled, and then continuing loses nothing.
            idle.recv_timeout(PASSING).ok();
            tee.release_request_pad(&pad);
        }
        for element in self.branch.elements.iter().chain([self.sink.upcast_ref()]) {
            // An element that refuses to stop or to leave is not asked twice: the pipeline stops it in the end.
            element.set_state(gst::State::Null).ok();
            pipeline.remove(element).ok();
        }
    }

    /// The encoder that can be tuned.
    pub fn encoder(&self) -> Option<&Encoder> {
        self.branch.encoder.as_ref()
    }

    /// The frames that it has sent.
    pub fn published(&self) -> &Published {
        &self.published
    }

    /// Whether an element of this name is a part of it.
    pub fn has(&self, name: &str) -> bool {
        self.branch.elements.iter().any(|element| element.name() == name) || self.sink.name() == name
    }
}

/// Where branches join a graph.
pub fn tee() -> Result<gst::Element, Error> {
    // While branches are exchanged there may be none for a moment.
    element("tee")?.property("allow-not-linked", true).build().map_err(Error::broken)
}
