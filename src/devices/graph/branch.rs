//! One encoding of what a graph captures: from raw pictures, or what the camera has encoded, to what is sent.

use std::sync::mpsc;
use std::time::Duration;

use gstreamer as gst;
use gstreamer::prelude::*;
use gstreamer_app as gst_app;
use peercam::capture::Error;

use crate::encoder::Encoder;

use super::Published;
use super::elements::element;

/// How long the pictures of a graph may take to pass by, so that a branch can be taken off. They are passed on to queues,
/// which takes microseconds.
const PASSING: Duration = Duration::from_secs(1);

/// The parts of a branch before it runs, in order of flow.
#[derive(Debug)]
pub struct Branch {
    /// From the queue in front of the encoder to the parser.
    pub elements: Vec<gst::Element>,
    /// What is turned at run time; none where the camera encodes, and for sound.
    pub encoder: Option<Encoder>,
}

/// A branch that runs.
#[derive(Debug)]
pub struct Running {
    branch: Branch,
    sink: gst_app::AppSink,
    published: Published,
    /// Where it is joined to the graph; none where it is the graph's only one.
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

    /// Takes the branch out of the pipeline, which goes on. Blocks for as long as its encoder takes to stop.
    pub fn leave(&mut self, pipeline: &gst::Pipeline) {
        if let Some((tee, pad)) = self.joint.take() {
            let (done, idle) = mpsc::channel();
            // Called when no picture is within the pad, at once or by the thread that passes one.
            pad.add_probe(gst::PadProbeType::IDLE, move |pad, _| {
                if let Some(peer) = pad.peer() {
                    // Not linked is what it is to be.
                    pad.unlink(&peer).ok();
                }
                done.send(()).ok();
                gst::PadProbeReturn::Remove
            });
            // Longer it takes only where all stands still, and then nothing is lost by going on.
            idle.recv_timeout(PASSING).ok();
            tee.release_request_pad(&pad);
        }
        for element in self.branch.elements.iter().chain([self.sink.upcast_ref()]) {
            // An element that refuses to stop or to leave is not asked twice: the pipeline stops it at last.
            element.set_state(gst::State::Null).ok();
            pipeline.remove(element).ok();
        }
    }

    /// What is turned at run time.
    pub fn encoder(&self) -> Option<&Encoder> {
        self.branch.encoder.as_ref()
    }

    /// What was sent of it.
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
    // Between two branches there may be none for a moment.
    element("tee")?.property("allow-not-linked", true).build().map_err(Error::broken)
}
