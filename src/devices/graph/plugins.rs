//! The GStreamer elements that are used, and the Debian packages that have them.

/// Elements besides the encoders, each with its Debian package (bookworm and trixie).
pub const ELEMENTS: &[(&str, &str)] = &[
    ("queue", "libgstreamer1.0-0"),
    ("capsfilter", "libgstreamer1.0-0"),
    ("appsrc", "gstreamer1.0-plugins-base"),
    ("appsink", "gstreamer1.0-plugins-base"),
    ("tee", "libgstreamer1.0-0"),
    ("videoconvert", "gstreamer1.0-plugins-base"),
    ("videoscale", "gstreamer1.0-plugins-base"),
    ("audioconvert", "gstreamer1.0-plugins-base"),
    ("audioresample", "gstreamer1.0-plugins-base"),
    ("opusenc", "gstreamer1.0-plugins-base"),
    ("alsasrc", "gstreamer1.0-alsa"),
    ("v4l2src", "gstreamer1.0-plugins-good"),
    ("deinterlace", "gstreamer1.0-plugins-good"),
    ("videocrop", "gstreamer1.0-plugins-good"),
    ("jpegdec", "gstreamer1.0-plugins-good"),
    ("jpegenc", "gstreamer1.0-plugins-good"),
    ("h264parse", "gstreamer1.0-plugins-bad"),
    ("avdec_h264", "gstreamer1.0-libav"),
    ("libcamerasrc", "gstreamer1.0-libcamera"),
];

/// The package that has `element`.
pub fn package(element: &str) -> &'static str {
    let encoder = crate::encoder::TABLE.iter().find(|kind| kind.name == element).map(|kind| kind.origin);
    let listed = || ELEMENTS.iter().find(|(name, _)| *name == element).map(|(_, package)| *package);
    encoder.or_else(listed).unwrap_or("GStreamer's plugin packages")
}
