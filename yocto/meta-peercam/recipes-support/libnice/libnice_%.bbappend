# nicesrc and nicesink: without them webrtcbin is built, and fails when it is used.
PACKAGECONFIG:append:df-peercam = " gstreamer"
