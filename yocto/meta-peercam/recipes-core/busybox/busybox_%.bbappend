# Disables programs that are not needed without a login and that would help an intruder.
# nooelint: oelint.vars.noncoreoverride - only a path; what is taken from there is for peercam's distributions
FILESEXTRAPATHS:prepend := "${THISDIR}/${BPN}:"
SRC_URI:append:df-peercam = " file://peercam.cfg"
