# All on by default; named because a distribution that trims the list would have no camera.
# v4l2: v4l2src, and the encoders and decoders that the kernel has, probed at run time. gudev: cameras that are plugged in.
# jpeg: cameras that send JPEG, and snapshots.
PACKAGECONFIG:append:df-peercam = " gudev jpeg v4l2"
