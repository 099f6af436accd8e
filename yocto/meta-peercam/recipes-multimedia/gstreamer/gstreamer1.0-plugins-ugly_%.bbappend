# The faster software encoder, under the GPL. Its library's recipe exists only where its licence flag is accepted.
PACKAGECONFIG:append:df-peercam = "${@bb.utils.contains_any('LICENSE_FLAGS_ACCEPTED', 'commercial commercial_x264', ' x264', '', d)}"
