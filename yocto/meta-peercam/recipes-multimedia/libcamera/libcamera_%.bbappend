# libcamerasrc, which reads cameras at the CSI connector. meta-raspberrypi adds the Raspberry Pi's pipelines.
PACKAGECONFIG:append:df-peercam = " gst"
