# What nobody uses where nobody logs in, and who breaks in would be glad of.
# nooelint: oelint.vars.noncoreoverride - only a path; what is taken from there is for peercam's distributions
FILESEXTRAPATHS:prepend := "${THISDIR}/${BPN}:"
SRC_URI:append:df-peercam = " file://peercam.cfg"
