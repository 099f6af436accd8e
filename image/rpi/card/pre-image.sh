#!/usr/bin/env bash
# shellcheck disable=SC2154 # IGconf_* come from rpi-image-gen
# rpi-image-gen calls this with the root and the directory for genimage's input. It names the partitions by the
# signature of this card in fstab and on the kernel's command line, and fills in genimage's template.
set -euo pipefail
root=$1
output=$2
signature=$(od -An -N4 -tx4 /dev/urandom | tr -d ' ')

mkdir -p "$root/data"
sed "s|@BOOT_UUID@|$signature-01|" "$IGconf_peercam_image/files/etc/fstab" > "$root/etc/fstab"
# As in image/make, with the consoles of this board, of which the last one is /dev/console. rootwait: the card may be
# slower than the kernel.
echo "console=tty1 console=serial0,115200 root=PARTUUID=$signature-02 rootfstype=erofs ro rootwait quiet panic=10" \
  > "$root/boot/firmware/cmdline.txt"
cp "$IGconf_peercam_image/boot/peercam.toml.example" "$root/boot/firmware/"

sed -e "s|@IMAGE@|$IGconf_image_name.$IGconf_image_suffix|" -e "s|@SIGNATURE@|$signature|" genimage.cfg.in \
  > "$output/genimage.cfg"
