SUMMARY = "Camera streaming to browsers over WebRTC"
DESCRIPTION = "Captures a camera and a microphone, encodes once, in hardware where there is any, and answers browsers' offers."
HOMEPAGE = "https://github.com/peercam/peercam"
BUGTRACKER = "https://github.com/peercam/peercam/issues"
SECTION = "multimedia"
CVE_PRODUCT = "peercam"

# peercam's own, and that of every crate that is linked in; yocto/check compares it with what the crates declare.
LICENSE = "(MIT | Apache-2.0) & Apache-2.0 & BSD-3-Clause & ISC & MIT & Unicode-3.0 & Unlicense"
LIC_FILES_CHKSUM = "\
    file://LICENSE-MIT;md5=734b95c06bb4fb27e8f7c730a797eb24 \
    file://LICENSE-APACHE;md5=3b83ef96387f14655fc854ddc3c6bd57 \
"

# clang-native: bindgen reads the kernel's V4L2 header with libclang.
DEPENDS = "\
    alsa-lib \
    clang-native \
    glib-2.0 \
    gstreamer1.0 \
    gstreamer1.0-plugins-base \
"

# The source is the checkout that contains this layer, so the list of crates below is always that of its Cargo.lock
# (docs/decisions/0020). The list has everything that the build reads; yocto/check compiles exactly that.
# nooelint: oelint.vars.fileextrapaths,oelint.vars.outofcontext - a recipe of the same repository
FILESEXTRAPATHS:prepend := "${THISDIR}/../../../..:"
SRC_URI = "\
    file://Cargo.lock;subdir=${BP} \
    file://Cargo.toml;subdir=${BP} \
    file://LICENSE-APACHE;subdir=${BP} \
    file://LICENSE-MIT;subdir=${BP} \
    file://image/boot/peercam.toml.example;subdir=${BP} \
    file://packaging;subdir=${BP} \
    file://src;subdir=${BP} \
    file://systemd;subdir=${BP} \
    file://tests/kit;subdir=${BP} \
    file://web;subdir=${BP} \
"

inherit cargo cargo-update-recipe-crates features_check pkgconfig systemd useradd

require ${BPN}-crates.inc

# The feature enables the options of GStreamer and libcamera that peercam needs; a build without it would make an image
# that has no sound, without an error.
REQUIRED_DISTRO_FEATURES = "alsa peercam systemd"

# bindgen runs libclang in the build, which has to read the headers of the board.
export LIBCLANG_PATH = "${STAGING_LIBDIR_NATIVE}"
export BINDGEN_EXTRA_CLANG_ARGS = "${TOOLCHAIN_OPTIONS} --target=${TARGET_SYS}"
# Otherwise v4l2r uses the build machine's header.
export V4L2R_VIDEODEV2_H_PATH = "${STAGING_INCDIR}/linux"

# The crate aes 0.8 uses the processor's AES on arm64 only with this flag, and still checks at run time whether it exists.
RUSTFLAGS:append:aarch64 = " --cfg aes_armv8"

# do_package strips the symbols and keeps them in peercam-dbg; the release profile would strip them before.
export CARGO_PROFILE_RELEASE_STRIP = "none"

do_install:append() {
    install -d ${D}${systemd_system_unitdir}
    install -m 0644 ${S}/systemd/*.service ${S}/systemd/*.socket ${S}/systemd/*.slice ${S}/systemd/*.path ${D}${systemd_system_unitdir}
    # Only the service starts it.
    install -d ${D}${libexecdir}/peercam
    mv ${D}${bindir}/peercam-capture ${D}${libexecdir}/peercam/
    install -D -m 0644 ${S}/systemd/70-peercam.rules ${D}${nonarch_base_libdir}/udev/rules.d/70-peercam.rules
    install -D -m 0644 ${S}/packaging/peercam.toml ${D}${sysconfdir}/peercam/peercam.toml
}

# With this, everybody who may command the camera may reboot the board: the integrator's choice, so it is a separate package.
PACKAGE_BEFORE_PN = "${PN}-reboot"
FILES:${PN}-reboot += "\
    ${systemd_system_unitdir}/peercam-reboot.path \
    ${systemd_system_unitdir}/peercam-reboot.service \
"
FILES:${PN} += "\
    ${libexecdir}/peercam \
    ${nonarch_base_libdir}/udev/rules.d \
    ${systemd_system_unitdir}/peercam-capture.slice \
    ${systemd_system_unitdir}/peercam-capture.socket \
    ${systemd_system_unitdir}/peercam-capture@.service \
"

# The group that may connect to the socket of the capture processes.
USERADD_PACKAGES = "${PN}"
GROUPADD_PARAM:${PN} = "--system peercam-capture"
CONFFILES:${PN} = "${sysconfdir}/peercam/peercam.toml"

# The class makes the preset too, so the one of systemd/ is not installed.
SYSTEMD_PACKAGES = "${PN} ${PN}-reboot"
SYSTEMD_SERVICE:${PN} = "peercam.service peercam-provision.service peercam-wifi.service"
SYSTEMD_SERVICE:${PN}-reboot = "peercam-reboot.path"

# The elements without which there is no picture or no sound: src/devices/graph/plugins.rs has the list. An encoder is not among
# them, since it may be the kernel's: packagegroup-peercam adds those.
RDEPENDS:${PN} = "\
    gstreamer1.0 \
    gstreamer1.0-plugins-bad-videoparsersbad \
    gstreamer1.0-plugins-base-alsa \
    gstreamer1.0-plugins-base-app \
    gstreamer1.0-plugins-base-audioconvert \
    gstreamer1.0-plugins-base-audioresample \
    gstreamer1.0-plugins-base-opus \
    gstreamer1.0-plugins-base-videoconvertscale \
    gstreamer1.0-plugins-good-deinterlace \
    gstreamer1.0-plugins-good-jpeg \
    gstreamer1.0-plugins-good-video4linux2 \
    gstreamer1.0-plugins-good-videocrop \
"
# For a broker or a relay behind TLS.
RRECOMMENDS:${PN} = "ca-certificates"
RRECOMMENDS:${PN}-reboot = "${PN}"
