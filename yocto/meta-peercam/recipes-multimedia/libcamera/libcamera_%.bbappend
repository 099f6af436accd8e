# libcamerasrc, by which cameras at the CSI connector are read. meta-raspberrypi adds the Raspberry Pi's pipelines.
PACKAGECONFIG:append:df-peercam = " gst"
