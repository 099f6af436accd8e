SUMMARY = "A camera that streams to browsers: flash it, open a page"
DESCRIPTION = "Read-only root, settings and state on a data partition, hardware watchdog, provisioning by one file, no login."
HOMEPAGE = "https://github.com/peercam/peercam"
BUGTRACKER = "https://github.com/peercam/peercam/issues"
SECTION = "images"
LICENSE = "MIT"
# Vulnerabilities are not reported for images.
CVE_PRODUCT = ""

# Made to be built with conf/distro/include/peercam-image.inc, by one of the files in yocto/kas. runqemu needs it unpacked.
IMAGE_FSTYPES = "wic.zst wic.bmap"
IMAGE_FSTYPES:qemuall = "wic"
WKS_FILE = "peercam.wks.in"
# nooelint: oelint.vars.mispell.unknown - what the wks file asks for
PEERCAM_DISK = "mmcblk0"
# nooelint: oelint.vars.mispell.unknown
PEERCAM_DISK:qemuall = "vda"

IMAGE_FEATURES = "overlayfs-etc read-only-rootfs"
IMAGE_LINGUAS = ""
# packagegroup-machine-base: the firmware and kernel modules that the board asks for.
IMAGE_INSTALL = "\
    packagegroup-core-boot \
    packagegroup-machine-base \
    packagegroup-peercam \
    peercam-board \
    peercam-reboot \
    ${CORE_IMAGE_EXTRA_INSTALL} \
"

inherit core-image

# In addition to the files that the board starts from.
IMAGE_BOOT_FILES:append = " peercam.toml.example"
# nooelint: oelint.vars.mispell.unknown - a task, which oelint takes for a variable
do_image_wic[depends] += "peercam-board:do_deploy"

# Our own script mounts the data partition over /etc before systemd starts: oe-core's script gives up if the partition is
# damaged, and the board would be unreachable.
OVERLAYFS_ETC_MOUNT_POINT = "/data"
OVERLAYFS_ETC_DEVICE = "/dev/mmcblk0p3"
OVERLAYFS_ETC_DEVICE:qemuall = "/dev/vda3"
OVERLAYFS_ETC_FSTYPE = "ext4"
OVERLAYFS_ETC_MOUNT_OPTIONS = "noatime"
OVERLAYFS_ETC_CREATE_MOUNT_DIRS = "0"
OVERLAYFS_ETC_INIT_TEMPLATE := "${THISDIR}/peercam-image/preinit.sh.in"

# runqemu takes the kernel from the directory of the image, and finds the root on its second partition.
QB_DEFAULT_FSTYPE:qemuall = "wic"
# nooelint: oelint.vars.mispell.unknown - not known to oelint
QB_KERNEL_ROOT:qemuall = "/dev/vda2 ro"
