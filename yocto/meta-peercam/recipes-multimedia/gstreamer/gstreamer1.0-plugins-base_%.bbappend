# opusenc: off by default. alsasrc: on wherever the distribution has ALSA, which peercam's recipe requires.
PACKAGECONFIG:append:df-peercam = " opus"
