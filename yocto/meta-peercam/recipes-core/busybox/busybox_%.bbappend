# What nobody uses where nobody logs in, and who breaks in would be glad of.
FILESEXTRAPATHS:prepend := "${THISDIR}/${BPN}:"
SRC_URI:append:df-peercam = " file://peercam.cfg"
