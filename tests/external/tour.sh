#!/usr/bin/env bash
# Shows what a mounted tree of page blobs can do, with every command it runs: a file, a disk image, a file system in it,
# and a virtual machine that boots from one.
#
#   tour.sh [TREE]      in the current directory without TREE; under `blobdir demo` the page blobs are in its disks/
#
# Ends with exit code 0 when everything was as it should be. Without root it stops before the loop device.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here
cd "${1:-.}"
[[ ! -d disks ]] || cd disks
# For any one command; the slowest is the virtual machine, which takes a few seconds on a quiet machine.
readonly LIMIT=200

scratch=$(mktemp -d)
readonly scratch
loop=
cleanup() {
  if [[ -n $loop ]]; then
    umount --quiet "$scratch/mnt" || true
    losetup --detach "$loop" || true
  fi
  rm -rf --one-file-system "$scratch"
}
trap cleanup EXIT
# Bash runs the EXIT trap on a signal only when the signal has a trap of its own.
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

title() { printf '\n== %s\n' "$*"; }
# Shows a command and runs it, bounded.
run() {
  printf '$ %s\n' "$*"
  timeout --kill-after=10 "$LIMIT" "$@"
}

title "An ordinary file of any length, in $PWD"
seq 1 20000 >"$scratch/numbers"
run cp "$scratch/numbers" numbers.txt
run dd if=numbers.txt of=copy.txt bs=511 conv=fsync status=none
run cmp copy.txt "$scratch/numbers"
run ls -l numbers.txt copy.txt

title "A disk image: as long as you like, and stored only where it was written"
run truncate --size 64M disk.img
run mkfs.ext4 -q -F disk.img
run du -h --apparent-size disk.img
run du -h disk.img

if [[ $EUID -ne 0 ]]; then
  echo "The rest of the tour mounts the image, for which it must be run as root."
  exit 0
fi

title "The file system in it, mounted and written"
mkdir "$scratch/mnt"
echo '$ losetup --find --show disk.img'
loop=$(losetup --find --show disk.img)
run mount -t ext4 "$loop" "$scratch/mnt"
run cp "$scratch/numbers" "$scratch/mnt/numbers.txt"
run umount "$scratch/mnt"
run losetup --detach "$loop"
loop=
run e2fsck -f -n disk.img

title "A virtual machine with its root file system in the tree"
run "$here/vm.sh" image "$PWD"
run "$here/vm.sh" boot "$PWD" tour
run "$here/vm.sh" verify "$PWD" tour

title "All of it worked"
