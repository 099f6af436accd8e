SUMMARY = "peercam and all that it can use on a board"
DESCRIPTION = "The service with what it needs for CSI cameras, software encoding and time zones; and GStreamer's own WebRTC."
HOMEPAGE = "https://github.com/peercam/peercam"
BUGTRACKER = "https://github.com/peercam/peercam/issues"
SECTION = "multimedia"

# Encoders depend on which licence flags are accepted, and libcamera on the board.
PACKAGE_ARCH = "${MACHINE_ARCH}"

inherit features_check packagegroup

REQUIRED_DISTRO_FEATURES = "alsa peercam systemd"

PACKAGES = "${PN} ${PN}-webrtcbin"

# Software encoders, each only where its licence flag is accepted: openh264 also decodes, for stills of a camera that
# sends H.264 itself.
PEERCAM_OPENH264 = "${@bb.utils.contains_any('LICENSE_FLAGS_ACCEPTED', 'commercial commercial_openh264', 'gstreamer1.0-plugins-bad-openh264', '', d)}"
PEERCAM_X264 = "${@bb.utils.contains_any('LICENSE_FLAGS_ACCEPTED', 'commercial commercial_x264', 'gstreamer1.0-plugins-ugly-x264', '', d)}"

# tzdata: the time zone of the provisioning file.
RDEPENDS:${PN} = "\
    ${PEERCAM_OPENH264} \
    ${PEERCAM_X264} \
    libcamera-gst \
    peercam \
    tzdata \
"

RDEPENDS:${PN}-webrtcbin = "\
    gstreamer1.0-plugins-bad-dtls \
    gstreamer1.0-plugins-bad-sctp \
    gstreamer1.0-plugins-bad-srtp \
    gstreamer1.0-plugins-bad-webrtc \
    gstreamer1.0-plugins-good-rtp \
    gstreamer1.0-plugins-good-rtpmanager \
    libnice \
"
