# GStreamer's own WebRTC, for whoever builds a second viewer on the board (packagegroup-peercam-webrtcbin): peercam brings
# its own. Each element is a package of its own, so none of it is in an image that does not ask for it.
PACKAGECONFIG:append:df-peercam = " dtls sctp srtp webrtc"

# The software encoder that is under a BSD licence. Its library's recipe exists only where its licence flag is accepted.
PACKAGECONFIG:append:df-peercam = "${@bb.utils.contains_any('LICENSE_FLAGS_ACCEPTED', 'commercial commercial_openh264', ' openh264', '', d)}"
