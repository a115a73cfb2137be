#!/usr/bin/env bash
# Boots a real kernel from a disk image in a directory, and looks afterwards at what the guest left there.
#
#   vm.sh kernel                      prepare kernel and initramfs (once; the other subcommands do it when needed)
#   vm.sh image DIR                   make DIR/vm.img: an ext4 root file system with busybox and an init of its own
#   vm.sh boot DIR NONCE [CACHE]      boot it; the guest writes files named after NONCE and powers off
#   vm.sh verify DIR NONCE            check the file system and read those files back
#
# The directory may be a plain one or a mount, and may be remounted between the steps: nothing is remembered outside
# the image. CACHE is QEMU's cache mode of the drive (writeback, none, writethrough…). Every step is bounded in time,
# and loop devices and mounts are given back however it ends. Needs root, for the loop mount of `image`.
set -euo pipefail

readonly IMAGE_SIZE=64M
# A boot takes some 5 s under emulation on an idle machine; the rest is for busy ones.
readonly BOOT_LIMIT=180
readonly STEP_LIMIT=60
# The initramfs loads these and what they depend on, in this order. Most of it, ext4 included, is
# built into the kernel of today and is skipped then.
readonly MODULES=(virtio_pci virtio_blk crc32c_generic ext4)

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
readonly root
readonly kernel_dir=$root/target/tools/kernel
readonly vm_dir=$root/target/tools/vm
readonly busybox=/bin/busybox

scratch=$(mktemp -d)
readonly scratch
loop=
mounted=
machine=

say() { printf 'vm: %s\n' "$*"; }
fail() { printf 'vm: %s\n' "$*" >&2; exit 1; }
bounded() { timeout --kill-after=10 "$STEP_LIMIT" "$@"; }

release() {
  if [[ -n $mounted ]]; then bounded umount "$mounted" && mounted=; fi
  if [[ -n $loop ]]; then bounded losetup --detach "$loop" && loop=; fi
}
cleanup() {
  if [[ -n $machine ]]; then
    kill "$machine" || true
    wait "$machine" || true
  fi
  # A mount that is still busy must not keep the loop device: the lazy unmount lets both go.
  release || { umount --lazy "$mounted"; losetup --detach "$loop"; } 2>/dev/null || true
  rm -rf "$scratch"
}
trap cleanup EXIT
# Bash runs the EXIT trap on a signal only when the signal has a trap of its own.
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

kernel_version() {
  local kernel=("$kernel_dir"/boot/vmlinuz-*)
  [[ -e ${kernel[0]} ]] || fail "no kernel in target/tools; run tests/support/setup.sh kernel"
  printf '%s\n' "${kernel[0]##*/vmlinuz-}"
}

# Copies a module and what it depends on into the tree and appends them to its load order.
add_module() {
  local tree=$1 version=$2 module=$3 kind path name
  modprobe --set-version "$version" --dirname "$kernel_dir" --show-depends "$module" >"$scratch/depends" ||
    fail "the kernel has no module $module"
  while read -r kind path _; do
    # The other kind is `builtin`.
    [[ $kind == insmod ]] || continue
    name=$(basename "$path")
    name=${name%.xz}
    name=${name%.zst}
    [[ ! -e $tree/modules/$name ]] || continue
    case $path in
      *.xz) xz --decompress --stdout "$path" >"$tree/modules/$name" ;;
      *.zst) zstd --quiet --decompress --stdout "$path" >"$tree/modules/$name" ;;
      *) cp "$path" "$tree/modules/$name" ;;
    esac
    printf '%s\n' "$name" >>"$tree/modules/order"
  done <"$scratch/depends"
}

do_kernel() {
  local version initramfs tree=$scratch/initramfs module
  version=$(kernel_version)
  initramfs=$vm_dir/initramfs-$version
  # Rebuilt when another kernel, another busybox or another version of this script is there.
  if [[ $initramfs -nt $busybox && $initramfs -nt ${BASH_SOURCE[0]} ]]; then
    return 0
  fi
  [[ -x $busybox ]] || fail "no $busybox; run tests/support/setup.sh packages"
  mkdir -p "$vm_dir" "$tree"/{bin,dev,proc,sys,modules,newroot}
  cp "$busybox" "$tree/bin/busybox"
  depmod --basedir "$kernel_dir" "$version"
  for module in "${MODULES[@]}"; do
    add_module "$tree" "$version" "$module"
  done
  cat >"$tree/init" <<'INIT'
#!/bin/busybox sh
# Loads the drivers, waits for the disk and hands over to the root file system on it.
export PATH=/bin
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
while read -r module; do
  insmod "/modules/$module" || echo "initramfs: $module failed"
done </modules/order
tries=100
until [ -b /dev/vda ] || [ "$tries" -eq 0 ]; do
  tries=$((tries - 1))
  usleep 100000
done
mount -t ext4 -o rw /dev/vda /newroot || { echo "initramfs: no root file system"; poweroff -f; }
umount /proc /sys
mount --move /dev /newroot/dev
exec switch_root /newroot /sbin/init
INIT
  chmod +x "$tree/init"
  # Uncompressed: the emulated CPU would need longer to unpack it than the host to read it.
  # Renamed into place, so that a boot that runs beside this never sees half of it.
  (cd "$tree" && find . | cpio --quiet --create --format=newc) >"$initramfs.$$"
  mv "$initramfs.$$" "$initramfs"
  say "kernel $version, initramfs of $(wc -l <"$tree/modules/order") modules"
}

do_image() {
  local image=$1/vm.img mount=$scratch/mnt
  [[ $EUID -eq 0 ]] || fail "making the image needs root, for a loop device"
  rm -f "$image"
  bounded truncate --size "$IMAGE_SIZE" "$image"
  bounded mkfs.ext4 -q -F -L blobdir-root "$image"
  mkdir "$mount"
  loop=$(bounded losetup --find --show "$image")
  bounded mount -t ext4 "$loop" "$mount"
  mounted=$mount
  mkdir -p "$mount"/{bin,dev,proc,root,sbin,sys}
  cp "$busybox" "$mount/bin/busybox"
  cat >"$mount/sbin/init" <<'INIT'
#!/bin/busybox sh
# The whole guest: proves that it read and wrote the root file system, then powers off.
busybox() { /bin/busybox "$@"; }
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
for word in $(busybox cat /proc/cmdline); do
  case $word in blobdir.nonce=*) nonce=${word#*=} ;; esac
done
busybox uname -r >"/root/kernel-$nonce"
busybox cp /bin/busybox "/root/copy-$nonce"
echo "$nonce" >"/root/booted-$nonce"
busybox sync
busybox mount -o remount,ro / && echo "guest: booted $nonce"
busybox poweroff -f
INIT
  chmod +x "$mount/sbin/init"
  release
  say "image $(basename "$image"), $IMAGE_SIZE"
}

do_boot() {
  local image=$1/vm.img nonce=$2 cache=${3:-writeback} console=$scratch/console started=$SECONDS status=0 version
  [[ -e $image ]] || fail "no vm.img in $1; run vm.sh image first"
  do_kernel
  version=$(kernel_version)
  # No network, no devices but the disk and a serial line into a file; no terminal is touched.
  timeout --kill-after=10 "$BOOT_LIMIT" qemu-system-x86_64 -accel tcg -m 256 -nodefaults -no-reboot -display none \
    -serial "file:$console" -kernel "$kernel_dir/boot/vmlinuz-$version" -initrd "$vm_dir/initramfs-$version" \
    -append "console=ttyS0 quiet panic=-1 root=/dev/vda rw blobdir.nonce=$nonce" \
    -drive "file=$image,format=raw,if=virtio,cache=$cache" </dev/null &
  # In the background, because bash would put off a signal to this script until a foreground command ended.
  machine=$!
  wait "$machine" || status=$?
  machine=
  if [[ $status -ne 0 ]] || ! grep -q "^guest: booted $nonce" "$console"; then
    # The carriage returns and escapes of a console would garble a CI log.
    tail -n 40 "$console" | tr -d '\r\033' >&2 || true
    [[ $status -ne 124 ]] || fail "the guest did not power off within $BOOT_LIMIT s"
    fail "the guest did not boot (QEMU's exit code was $status)"
  fi
  say "booted and powered off in $((SECONDS - started)) s, cache=$cache"
}

do_verify() {
  local image=$1/vm.img nonce=$2 file
  bounded e2fsck -f -n "$image" >"$scratch/e2fsck" 2>&1 || { cat "$scratch/e2fsck" >&2; fail "the file system has errors"; }
  for file in booted copy kernel; do
    bounded debugfs -R "dump /root/$file-$nonce $scratch/$file" "$image" 2>/dev/null
  done
  [[ $(cat "$scratch/booted" 2>/dev/null) == "$nonce" ]] || fail "the file the guest wrote is not there"
  [[ $(cat "$scratch/kernel") == "$(kernel_version)" ]] || fail "another kernel wrote it: $(cat "$scratch/kernel")"
  cmp "$scratch/copy" "$busybox" || fail "the copy the guest made differs"
  say "verified: file system clean, the files of $nonce are as the guest wrote them"
}

usage() { fail "usage: vm.sh kernel | image DIR | boot DIR NONCE [CACHE] | verify DIR NONCE"; }

case "${1:-} $#" in
  "kernel 1") do_kernel ;;
  "image 2") do_image "$2" ;;
  "boot 3" | "boot 4") do_boot "${@:2}" ;;
  "verify 3") do_verify "$2" "$3" ;;
  *) usage ;;
esac
