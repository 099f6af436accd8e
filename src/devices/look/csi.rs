//! Cameras that libcamera knows how to set up: sensors at a CSI socket, behind the board's image processor.

use gstreamer as gst;
use gstreamer::prelude::*;
use peercam::capture::Error;

/// libcamera's list of them, as GStreamer has it.
const PROVIDER: &str = "libcameraprovider";

/// Formats in the order in which they are taken. Encoders take the first ones as they are; a board whose processor makes
/// the pictures (libcamera's `simple` pipeline) has the last ones only, which cost a conversion.
const FORMATS: [&str; 12] =
    ["NV12", "I420", "YV12", "NV21", "YUY2", "UYVY", "YVYU", "VYUY", "BGRx", "RGBx", "RGB", "BGR"];

/// A camera of libcamera's.
#[derive(Debug)]
pub struct Csi {
    /// By what libcamera finds it again.
    pub id: String,
    formats: gst::Caps,
}

impl Csi {
    /// The format in which its pictures are taken. Left to itself, `libcamerasrc` takes the one that libcamera lists
    /// first (GStreamer 1.22, libcamera 0.0.3), which may be one that has to be converted.
    pub fn format(&self) -> Result<&'static str, Error> {
        let has = |format: &&&str| {
            let wanted = gst::Caps::builder("video/x-raw").field("format", **format).build();
            self.formats.can_intersect(&wanted)
        };
        FORMATS
            .iter()
            .find(has)
            .copied()
            .ok_or_else(|| Error::NoMode { device: in_words(&self.id), formats: self.formats.to_string() })
    }
}

/// Name and source, for people.
pub fn in_words(id: &str) -> String {
    format!("libcamera ({id})")
}

/// All that there are; none without GStreamer's plugin for libcamera. Cameras in use are listed too, and not disturbed.
pub fn cameras() -> Vec<Csi> {
    let provider = gst::DeviceProviderFactory::by_name(PROVIDER);
    let devices = provider.map(|provider| provider.devices()).unwrap_or_default();
    let camera = |device: gst::Device| Some(Csi { id: device.display_name().into(), formats: device.caps()? });
    devices.into_iter().filter_map(camera).collect()
}

/// The one that the configuration means: by its name, or the first.
pub fn camera(id: Option<&str>) -> Result<Csi, Error> {
    let found = cameras().into_iter().find(|camera| id.is_none_or(|id| camera.id == id));
    found.ok_or_else(|| Error::Absent { device: id.map_or("a camera of libcamera's".into(), in_words) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_that_needs_no_conversion_is_taken_wherever_it_is_listed() {
        gst::init().unwrap();
        let of = |formats: &str| Csi { id: "sensor".into(), formats: formats.parse().unwrap() };
        let size = "width=[16,4096],height=[16,4096]";
        let listed = of(&format!("video/x-raw,format=RGB,{size};video/x-raw,format=NV12,{size}"));
        assert_eq!(listed.format().unwrap(), "NV12");
        assert_eq!(of(&format!("video/x-raw,format=RGB,{size}")).format().unwrap(), "RGB");
        let error = of("video/x-bayer,format=rggb").format().unwrap_err();
        assert!(error.to_string().contains("x-bayer"), "{error}");
    }
}
