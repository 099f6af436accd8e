//! Cameras that need libcamera: sensors at a CSI port, behind the board's image processor.

use gstreamer as gst;
use gstreamer::prelude::*;
use peercam::capture::Error;

/// GStreamer's device provider for libcamera's cameras.
const PROVIDER: &str = "libcameraprovider";

/// Formats in the order of preference. Encoders accept the first ones directly; a board whose CPU processes the
/// pictures (libcamera's `simple` pipeline) only has the last ones, which need a conversion.
const FORMATS: [&str; 12] =
    ["NV12", "I420", "YV12", "NV21", "YUY2", "UYVY", "YVYU", "VYUY", "BGRx", "RGBx", "RGB", "BGR"];

/// A camera that libcamera has found.
#[derive(Debug)]
pub struct CsiCamera {
    /// libcamera's ID of it.
    pub id: String,
    formats: gst::Caps,
}

impl CsiCamera {
    /// The format to capture. By itself, `libcamerasrc` uses the one that libcamera lists first (GStreamer 1.22,
    /// libcamera 0.0.3), which may need a conversion.
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

/// All cameras; none without GStreamer's plugin for libcamera. Cameras in use are listed too, and not disturbed.
pub fn cameras() -> Vec<CsiCamera> {
    let provider = gst::DeviceProviderFactory::by_name(PROVIDER);
    let devices = provider.map(|provider| provider.devices()).unwrap_or_default();
    let camera = |device: gst::Device| Some(CsiCamera { id: device.display_name().into(), formats: device.caps()? });
    devices.into_iter().filter_map(camera).collect()
}

/// The camera of the configuration: the one with this ID, or the first.
pub fn camera(id: Option<&str>) -> Result<CsiCamera, Error> {
    let found = cameras().into_iter().find(|camera| id.is_none_or(|id| camera.id == id));
    found.ok_or_else(|| Error::Absent { device: id.map_or("a camera of libcamera".into(), in_words) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_that_needs_no_conversion_is_preferred_wherever_it_is_listed() {
        gst::init().unwrap();
        let of = |formats: &str| CsiCamera { id: "sensor".into(), formats: formats.parse().unwrap() };
        let size = "width=[16,4096],height=[16,4096]";
        let listed = of(&format!("video/x-raw,format=RGB,{size};video/x-raw,format=NV12,{size}"));
        assert_eq!(listed.format().unwrap(), "NV12");
        assert_eq!(of(&format!("video/x-raw,format=RGB,{size}")).format().unwrap(), "RGB");
        let error = of("video/x-bayer,format=rggb").format().unwrap_err();
        assert!(error.to_string().contains("x-bayer"), "{error}");
    }
}
