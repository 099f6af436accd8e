//! Elements that several graphs have in common.

use gstreamer as gst;
use peercam::capture::Error;

use super::plugins;

/// A builder for an element, or an error with the package to install if GStreamer does not have it.
pub fn element(name: &str) -> Result<gst::element_factory::ElementBuilder<'_>, Error> {
    match gst::ElementFactory::find(name) {
        Some(_) => Ok(gst::ElementFactory::make(name)),
        None => Err(Error::MissingElement { element: name.to_owned(), package: plugins::package(name).into() }),
    }
}

/// Parses caps.
pub fn caps(text: &str) -> Result<gst::Caps, Error> {
    text.parse().map_err(Error::broken)
}

/// An element that lets only these caps pass.
pub fn filter(text: &str) -> Result<gst::Element, Error> {
    element("capsfilter")?.property("caps", caps(text)?).build().map_err(Error::broken)
}

/// The elements that output access units in Annex B with SPS and PPS before each key frame.
pub fn parser() -> Result<[gst::Element; 2], Error> {
    let parse = element("h264parse")?.property("config-interval", -1).build().map_err(Error::broken)?;
    Ok([parse, filter("video/x-h264,stream-format=byte-stream,alignment=au")?])
}

/// A queue between the source of pictures and their processing.
pub fn queue() -> Result<gst::Element, Error> {
    let queue = element("queue")?
        // If the encoder is too slow, pictures are dropped before they are encoded, the oldest first, so that the
        // output stays current. One waits while another is encoded.
        .property("max-size-buffers", 1_u32)
        .property("max-size-bytes", 0_u32)
        .property("max-size-time", 0_u64)
        .property_from_str("leaky", "downstream");
    queue.build().map_err(Error::broken)
}
