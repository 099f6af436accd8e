# GStreamer's own WebRTC, for a second viewer on the board (packagegroup-peercam-webrtcbin): peercam has its own. Each
# element is a separate package, so none of it is in an image that does not request it.
PACKAGECONFIG:append:df-peercam = " dtls sctp srtp webrtc"

# The software encoder under a BSD licence. Its library's recipe exists only where its licence flag is accepted.
PACKAGECONFIG:append:df-peercam = "${@bb.utils.contains_any('LICENSE_FLAGS_ACCEPTED', 'commercial commercial_openh264', ' openh264', '', d)}"
