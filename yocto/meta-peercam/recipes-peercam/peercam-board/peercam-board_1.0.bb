SUMMARY = "What makes a board out of an image with peercam"
DESCRIPTION = "Network, watchdog, log in memory, state on the data partition, which is grown to the card; and no login."
HOMEPAGE = "https://github.com/peercam/peercam"
BUGTRACKER = "https://github.com/peercam/peercam/issues"
SECTION = "base"
CVE_PRODUCT = "peercam"
LICENSE = "MIT | Apache-2.0"
LIC_FILES_CHKSUM = "\
    file://${COMMON_LICENSE_DIR}/MIT;md5=0835ade698e0bcf8506ecda2f7b4f302 \
    file://${COMMON_LICENSE_DIR}/Apache-2.0;md5=89aea4e17d99a7cacdbeed46a0096b10 \
"

# Files that the Debian image also has are taken from it, in the checkout that contains this layer.
# nooelint: oelint.vars.fileextrapaths,oelint.vars.outofcontext - a recipe of the same repository
FILESEXTRAPATHS:prepend := "${THISDIR}/../../../..:"
SRC_URI = "\
    file://image/boot/peercam.toml.example \
    file://image/files/usr/lib/sysctl.d/50-peercam-board.conf \
    file://image/files/usr/lib/systemd/journald.conf.d/memory.conf \
    file://image/files/usr/lib/systemd/network/80-wired.network \
    file://image/files/usr/lib/systemd/network/80-wireless.network \
    file://image/files/usr/lib/systemd/resolved.conf.d/peercam.conf \
    file://image/files/usr/lib/systemd/system.conf.d/watchdog.conf \
    file://image/files/usr/lib/systemd/system/peercam-screen.service \
    file://image/files/usr/lib/systemd/system/peercam-secret.service \
    file://console.conf \
    file://peercam-grow-data \
    file://peercam-grow-data.service \
    file://timesyncd.conf \
    file://var-lib-private.mount \
"

S = "${UNPACKDIR}"

# Its files are the same for all; what it deploys goes to the directory of the machine.
PACKAGE_ARCH = "${MACHINE_ARCH}"

inherit deploy features_check systemd

REQUIRED_DISTRO_FEATURES = "systemd"

do_configure[noexec] = "1"
do_compile[noexec] = "1"

do_install() {
    local shared=${S}/image/files/usr/lib
    install -D -m 0644 ${shared}/sysctl.d/50-peercam-board.conf ${D}${nonarch_libdir}/sysctl.d/50-peercam-board.conf
    install -D -m 0644 ${shared}/systemd/journald.conf.d/memory.conf ${D}${systemd_unitdir}/journald.conf.d/50-peercam.conf
    install -D -m 0644 ${shared}/systemd/resolved.conf.d/peercam.conf ${D}${systemd_unitdir}/resolved.conf.d/50-peercam.conf
    install -D -m 0644 ${shared}/systemd/system.conf.d/watchdog.conf ${D}${systemd_unitdir}/system.conf.d/50-peercam.conf
    install -D -m 0644 ${S}/timesyncd.conf ${D}${systemd_unitdir}/timesyncd.conf.d/50-peercam.conf
    # Before systemd-conf's 80-wired.network.
    install -D -m 0644 ${shared}/systemd/network/80-wired.network ${D}${systemd_unitdir}/network/50-peercam-wired.network
    install -D -m 0644 ${shared}/systemd/network/80-wireless.network ${D}${systemd_unitdir}/network/50-peercam-wireless.network

    install -D -m 0644 ${S}/console.conf ${D}${systemd_system_unitdir}/peercam.service.d/console.conf
    install -m 0644 ${S}/peercam-grow-data.service ${S}/var-lib-private.mount ${D}${systemd_system_unitdir}
    install -m 0644 ${shared}/systemd/system/peercam-screen.service ${D}${systemd_system_unitdir}
    install -m 0644 ${shared}/systemd/system/peercam-secret.service ${D}${systemd_system_unitdir}
    install -D -m 0755 ${S}/peercam-grow-data ${D}${libexecdir}/peercam-grow-data

    # Nobody logs in: there is no user, and root has no password.
    install -d ${D}${sysconfdir}/systemd/system
    for login in autovt@ console-getty getty@ serial-getty@; do
        ln -s /dev/null ${D}${sysconfdir}/systemd/system/${login}.service
    done

    # Mount points of the image.
    install -d -m 0700 ${D}/data
    install -d ${D}/boot/firmware
}

# For the boot partition, as a template for users.
do_deploy() {
    install -m 0644 ${S}/image/boot/peercam.toml.example ${DEPLOYDIR}
}
addtask deploy after do_unpack before do_build

FILES:${PN} += "\
    /boot/firmware \
    /data \
    ${nonarch_libdir}/sysctl.d \
    ${systemd_unitdir} \
"
SYSTEMD_SERVICE:${PN} = "peercam-grow-data.service peercam-screen.service var-lib-private.mount"

RDEPENDS:${PN} = "\
    e2fsprogs-e2fsck \
    e2fsprogs-resize2fs \
    util-linux-mountpoint \
    util-linux-partx \
    util-linux-sfdisk \
    wireless-regdb-static \
    wpa-supplicant \
"
