#!/usr/bin/env bash
# Runs tools nobody here wrote on a directory and checks every byte they leave there.
#
#   suite.sh DIR [GROUP...]        groups: dd copy names size loop qemu_img qemu_io fsx fio; all without any
#
# DIR is an ordinary directory or a mount; each group works in a directory of its own inside, and removes it. The
# results are TAP lines with the output of what failed, and a last line 'N passed, N failed'; the exit code is 1 when
# something failed. What a machine cannot run (a tool is missing, `loop` without root) is skipped, or fails where CI=true.
#
#   SUITE_FSX_SEEDS   seeds of the fsx runs, "1 2 3"
#   SUITE_FSX_OPS     operations of each, 20000
#   SUITE_FSX_SCALE   how many times as large as fsx.toml says file and operations are, 1
#   SUITE_FIO_PERCENT how much of the fio runs, 100
set -euo pipefail

readonly GROUPS_ALL=(dd copy names size loop qemu_img qemu_io fsx fio)
# The longest check (20,000 fsx operations) takes some 20 s on a quiet machine.
readonly CHECK_LIMIT=300

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here
readonly fsx=$here/../../target/tools/bin/fsx

passed=0
failed=0
# The process of the check that runs.
running=

# Gives back loop devices over files of this run that a killed check left behind.
release_loops() {
  local device file
  while read -r device file; do
    [[ $file == "$base"/* ]] || continue
    umount --quiet "$device" || true
    losetup --detach "$device" || true
  done < <(losetup --noheadings --output NAME,BACK-FILE 2>/dev/null)
}

# check NAME COMMAND...: one bounded step and its TAP line. The command is a program or one of the functions below; it
# runs in a shell of its own that stops at the first error, in an empty directory on the file system under test ($D),
# beside an empty one for reference copies ($R). A command that outlives its limit is killed with its children.
check() {
  local name=$1 status=0
  shift
  R=$scratch/reference$((passed + failed))
  mkdir "$R"
  # shellcheck disable=SC2016  # all of this is for the inner shell
  timeout --kill-after=10 "$CHECK_LIMIT" bash -euo pipefail -c 'rm -rf "$D"; mkdir "$D"; cd "$D"; "$@"' check "$@" \
    </dev/null >"$scratch/output" 2>&1 &
  # In the background, because bash would put off a signal to this script until a foreground command ended.
  running=$!
  wait "$running" || status=$?
  running=
  # A killed check may have left a mount there, which is not to be emptied.
  release_loops
  rm -rf --one-file-system "$R"
  if [[ $status -eq 0 ]]; then
    passed=$((passed + 1))
    printf 'ok %d - %s: %s\n' $((passed + failed)) "$group" "$name"
    return 0
  fi
  failed=$((failed + 1))
  printf 'not ok %d - %s: %s\n' $((passed + failed)) "$group" "$name"
  [[ $status -ne 124 && $status -ne 137 ]] || echo "# not done within $CHECK_LIMIT s"
  tail -n 30 "$scratch/output" | sed 's/^/#   /'
}

# Whether the group can run here: `needs TOOL...`.
needs() {
  local tool
  for tool in "$@"; do
    command -v "$tool" >/dev/null || { skip "$tool is not installed; run tests/support/setup.sh"; return 1; }
  done
}
skip() {
  if [[ ${CI:-} == true ]]; then
    failed=$((failed + 1))
    printf 'not ok %d - %s: cannot run here: %s\n' $((passed + failed)) "$group" "$1"
  else
    passed=$((passed + 1))
    printf 'ok %d - %s # SKIP %s\n' $((passed + failed)) "$group" "$1"
  fi
}

# -- for use inside checks ---------------------------------------------------------------------------------------------

# Makes the kernel forget a file's pages, so that the next read reaches the file system.
forget() { dd if="$1" iflag=nocache count=0 status=none; }
# Compares a file with its reference copy: as cached, and again from the file system.
same() {
  cmp "$1" "$2"
  forget "$1"
  cmp "$1" "$2"
}
# Fails when the two differ: arguments are what was found and what was expected.
equal() { [[ $1 == "$2" ]] || { printf 'found %s, expected %s\n' "$1" "$2"; return 1; }; }
# Fails when the command succeeds.
fails() { if "$@"; then printf 'succeeded: %s\n' "$*"; return 1; fi; }
# LENGTH bytes with noise at both ends and a run of zeros between, as disk images have.
noise() {
  local third=$(($1 / 3))
  head -c "$third" /dev/urandom
  head -c "$third" /dev/zero
  head -c $(($1 - 2 * third)) /dev/urandom
}
export -f forget same equal fails noise

# -- dd ----------------------------------------------------------------------------------------------------------------

# BLOCK COUNT [FLAGS]: COUNT blocks and a bit more, so that the last block is short.
dd_write() {
  local block=$1 count=$2
  noise $((block * count + block / 3)) >"$R/data"
  # shellcheck disable=SC2086  # no flag, or one
  dd if="$R/data" of=data bs="$block" conv=fsync status=none ${3:-}
  same data "$R/data"
}
dd_read() {
  local block=$1 count=$2
  noise $((block * count + block / 3)) >"$R/data"
  cp "$R/data" data
  forget data
  # shellcheck disable=SC2086  # no flag, or one
  dd if=data bs="$block" status=none ${3:-} | cmp - "$R/data"
}
dd_patch() {
  local i file
  noise 3000000 >"$R/data"
  cp "$R/data" data
  for i in {1..40}; do
    # Odd places and lengths, some over each other, a few past the end.
    head -c $((i * 397)) /dev/urandom >"$R/patch"
    for file in data "$R/data"; do
      dd if="$R/patch" of="$file" bs="$((i * 397))" seek=$((i * 160001 % 3000017)) oflag=seek_bytes \
        conv=notrunc,fsync status=none
    done
  done
  same data "$R/data"
}
dd_append() {
  local i file
  rm -f "$R/data"
  for i in {1..50}; do
    head -c $((i * 37)) /dev/urandom >"$R/patch"
    for file in data "$R/data"; do
      dd if="$R/patch" of="$file" bs=64k oflag=append conv=notrunc status=none
    done
  done
  same data "$R/data"
}
dd_hole() {
  printf end | dd of=data bs=1 seek=20000001 status=none
  printf end | dd of="$R/data" bs=1 seek=20000001 status=none
  same data "$R/data"
  # A hole takes no room: 20 MB of it, in less than 1 MiB.
  [[ $(du -k data | cut -f 1) -lt 1024 ]] || { du -k data; return 1; }
}
export -f dd_write dd_read dd_patch dd_append dd_hole
group_dd() {
  check "write bs=1" dd_write 1 10000
  check "write bs=511" dd_write 511 3001
  check "write bs=4k" dd_write 4096 2500
  check "write bs=1M" dd_write 1048576 40
  check "write bs=4k oflag=dsync" dd_write 4096 50 oflag=dsync
  check "read bs=1" dd_read 1 10000
  check "read bs=511" dd_read 511 3001
  check "read bs=1M" dd_read 1048576 40
  check "write bs=4k oflag=direct" dd_write 4096 500 oflag=direct
  check "write bs=1M oflag=direct" dd_write 1048576 20 oflag=direct
  check "read bs=4k iflag=direct" dd_read 4096 500 iflag=direct
  check "read bs=1M iflag=direct" dd_read 1048576 20 iflag=direct
  check "patches at odd offsets, conv=notrunc" dd_patch
  check "oflag=append" dd_append
  check "a hole before the first byte" dd_hole
}

# -- cp, rsync, mv -----------------------------------------------------------------------------------------------------

# A small tree: nested directories, an empty file, odd sizes, one larger file.
make_tree() {
  local i
  mkdir -p "$1"/a/b/c "$1"/d
  for i in {1..12}; do noise $((i * i * 531)) >"$1/a/file$i"; done
  for i in {1..6}; do noise $((i * 512)) >"$1/a/b/c/file$i.bin"; done
  noise 5000001 >"$1/d/large"
  : >"$1/d/empty"
}
export -f make_tree

cp_round_trip() {
  noise 7654321 >"$R/data"
  cp "$R/data" one
  cp one two
  cp --sparse=always two three
  same three "$R/data"
  cp three "$R/back"
  cmp "$R/back" "$R/data"
  cat one two >four
  cat "$R/data" "$R/data" | cmp - four
}
cp_over() {
  noise 100000 >"$R/long"
  noise 777 >"$R/short"
  cp "$R/long" data
  cp "$R/short" data
  same data "$R/short"
}
cp_tree() {
  make_tree "$R/tree"
  cp -r "$R/tree" tree
  diff -r "$R/tree" tree
  tar -cf - tree | tar -C "$R" --one-top-level=untarred -xf -
  diff -r "$R/tree" "$R/untarred/tree"
}
rsync_in_place() {
  noise 6000000 >"$R/data"
  rsync --inplace "$R/data" data
  same data "$R/data"
  # One change in the middle and a longer tail: rsync sends and writes only those, into the same file.
  printf 'changed' | dd of="$R/data" bs=1 seek=3000001 conv=notrunc status=none
  noise 12345 >>"$R/data"
  rsync --inplace --no-whole-file --checksum "$R/data" data
  same data "$R/data"
}
rsync_tree() {
  make_tree "$R/tree"
  # Without --inplace: each file under a temporary name, then renamed.
  rsync --recursive "$R/tree/" tree/
  diff -r "$R/tree" tree
  noise 4321 >"$R/tree/a/file3"
  rm "$R/tree/a/file5"
  rsync --recursive --checksum --delete "$R/tree/" tree/
  diff -r "$R/tree" tree
}
mv_file() {
  noise 300000 >"$R/data"
  cp "$R/data" one
  mv one two
  [[ ! -e one ]]
  same two "$R/data"
  echo old >three
  mv two three
  same three "$R/data"
  echo kept >four
  mv --no-clobber three four || true
  equal "$(cat four)" kept
  same three "$R/data"
}
mv_directory() {
  make_tree "$R/tree"
  cp -r "$R/tree" tree
  # A directory may be moved by rename or, where that gives EXDEV, by mv itself copying it.
  mv tree moved
  [[ ! -e tree ]]
  diff -r "$R/tree" moved
}
mv_across() {
  noise 200001 >"$R/data"
  cp "$R/data" "$R/copy"
  mv "$R/copy" data
  same data "$R/data"
  mv data "$R/copy"
  [[ ! -e data ]]
  cmp "$R/copy" "$R/data"
}
export -f cp_round_trip cp_over cp_tree rsync_in_place rsync_tree mv_file mv_directory mv_across
group_copy() {
  needs rsync || return 0
  check "cp and back, byte for byte" cp_round_trip
  check "cp of a short file over a long one" cp_over
  check "cp -r and tar of a tree" cp_tree
  check "rsync --inplace" rsync_in_place
  check "rsync of a tree, with renames and --delete" rsync_tree
  check "mv of a file, over another and --no-clobber" mv_file
  check "mv of a directory" mv_directory
  check "mv from and to another file system" mv_across
}

# -- names, find, du ---------------------------------------------------------------------------------------------------

names_odd() {
  local name
  # What a URL or a query string would take for something else.
  for name in 'with space' 'per%20cent' 'hash#mark' 'question?mark' 'plus+and&amp' "quote'\"s" '<angle>' 'a=b;c,d' \
    'grüße' '日本' '~tilde' '[x]' '-dash' '@at:colon' "$(printf 'n%.0s' {1..200})"; do
    echo "$name" >"./$name"
    mkdir "./$name.d"
    echo "$name" >"./$name.d/$name"
  done
  equal "$(find . -type f | wc -l)" 30
  for name in *.d; do
    name=${name%.d}
    equal "$(cat "./$name")" "$name"
    equal "$(cat "./$name.d/$name")" "$name"
    rm "./$name.d/$name"
    rmdir "./$name.d"
    rm "./$name"
  done
  equal "$(find . -mindepth 1 | wc -l)" 0
}
names_find() {
  make_tree tree
  equal "$(find tree -type f | wc -l)" 20
  equal "$(find tree -type d | wc -l)" 5
  equal "$(find tree -type f -empty)" tree/d/empty
  equal "$(find tree -type f -size +4M)" tree/d/large
  equal "$(find tree -name '*.bin' | sort | head -n 1)" tree/a/b/c/file1.bin
  equal "$(stat -c %s tree/d/large)" 5000001
  equal "$(find tree -type f -printf '%s\n' | paste -sd + | bc_sum)" "$(find tree -type f -exec cat {} + | wc -c)"
  find tree -delete
  [[ ! -e tree ]]
}
# Adds up 1+2+3 from its input.
bc_sum() { echo $(($(cat))); }
names_du() {
  local bytes
  make_tree tree
  bytes=$(find tree -type f -exec cat {} + | wc -c)
  # Room taken is at least what is not zeros, and not much more than the length.
  equal "$(du -sb --apparent-size tree/d/large | cut -f 1)" 5000001
  [[ $(du -sk tree/d/large | cut -f 1) -le 6000 ]] || { du -sk tree/d/large; return 1; }
  [[ $(du -sk tree | cut -f 1) -ge $((bytes / 2048)) ]] || { du -sk tree; return 1; }
}
names_many() {
  local i
  mkdir many
  for i in {1..600}; do : >"many/$i"; done
  equal "$(find many -type f | wc -l)" 600
  equal "$(find many -type f -printf '%f\n' | sort -n | tail -n 1)" 600
  rm -r many
  [[ ! -e many ]]
}
names_errors() {
  mkdir dir
  echo x >dir/file
  fails rmdir dir
  fails mkdir dir
  fails cat missing
  fails cat dir
  fails bash -o noclobber -c 'echo y >dir/file'
  equal "$(cat dir/file)" x
}
export -f names_odd names_find bc_sum names_du names_many names_errors
group_names() {
  check "names that a URL would misread" names_odd
  check "find by type, name and size" names_find
  check "du" names_du
  check "600 files in one directory" names_many
  check "errors of rmdir, mkdir, cat and noclobber" names_errors
}

# -- sizes and edits ---------------------------------------------------------------------------------------------------

size_truncate() {
  local size
  noise 70001 >"$R/data"
  cp "$R/data" data
  for size in 70002 512 511 513 1000000 4096 4095 5000001 77 0 1 1048577 1048576; do
    truncate --size "$size" data "$R/data"
    equal "$(stat -c %s data)" "$size"
    cmp data "$R/data"
    # What is cut off must not come back when the file grows again.
    printf '%s' "$size" | tee -a data >>"$R/data"
    cmp data "$R/data"
  done
  same data "$R/data"
}
size_head_tail() {
  noise 2000003 >"$R/data"
  cp "$R/data" data
  forget data
  tail -c 1000 data | cmp - <(tail -c 1000 "$R/data")
  tail -c +1999001 data | cmp - <(tail -c +1999001 "$R/data")
  head -c 1537 data | cmp - <(head -c 1537 "$R/data")
  equal "$(wc -c <data)" 2000003
}
size_append() {
  local i
  for i in {1..300}; do
    echo "line $i" >>data
    echo "line $i" >>"$R/data"
  done
  same data "$R/data"
}
size_edit() {
  seq 1 20000 | tee data >"$R/data"
  sed -i 's/7/seven/g' data "$R/data"
  sed -i '1,100d' data "$R/data"
  same data "$R/data"
  # In place, at the same length and then a shorter one.
  printf 'abc' 1<>data
  printf 'abc' 1<>"$R/data"
  same data "$R/data"
  sort -o data data
  sort -o "$R/data" "$R/data"
  same data "$R/data"
}
size_two_opens() {
  # What one open wrote, another sees at once, and the other way round.
  exec 3<>data 4<>data
  printf 'one' >&3
  equal "$(head -c 3 <&4)" one
  printf 'two' >&4
  equal "$(cat <&3)" two
  exec 3>&- 4>&-
  equal "$(cat data)" onetwo
}
size_unlinked() {
  noise 100003 >"$R/data"
  cp "$R/data" data
  exec 3<data
  rm data
  cmp "$R/data" - <&3
}
export -f size_truncate size_head_tail size_append size_edit size_two_opens size_unlinked
group_size() {
  check "truncate, longer and shorter" size_truncate
  check "head -c, tail -c" size_head_tail
  check "appending with >>" size_append
  check "sed -i, sort -o, writes in place" size_edit
  check "two opens share one state" size_two_opens
  check "an open file survives rm" size_unlinked
}

# -- a file system in a loop device ------------------------------------------------------------------------------------

# on off: whether the loop device does direct I/O on its file.
loop_ext4() {
  local direct=$1 mnt=$R/mnt
  loop=
  # Whatever happens below, the machine gets its device back. The trap runs outside this function: no local names.
  # shellcheck disable=SC2016
  trap 'if [[ -n $loop ]]; then umount --quiet "$R/mnt" || true; losetup --detach "$loop"; fi' EXIT
  make_tree "$R/tree"
  noise 20000000 >"$R/tree/big"
  truncate --size 96M disk.img
  mkfs.ext4 -q -F disk.img
  e2fsck -f -n disk.img
  mkdir "$mnt"
  loop=$(losetup --find --show --direct-io="$direct" disk.img)
  equal "$(losetup --noheadings --output DIO "$loop" | tr -d ' ')" "$([[ $direct == on ]] && echo 1 || echo 0)"
  mount -t ext4 "$loop" "$mnt"
  cp -r "$R/tree" "$mnt/tree"
  sync --file-system "$mnt"
  rm "$mnt/tree/a/file7"
  mv "$mnt/tree/d" "$mnt/elsewhere"
  umount "$mnt"
  losetup --detach "$loop"
  loop=
  e2fsck -f -n disk.img
  # Everything that was cached of the image is forgotten; a fresh device must find it all.
  forget disk.img
  loop=$(losetup --find --show --read-only disk.img)
  mount -t ext4 -o ro "$loop" "$mnt"
  rm "$R/tree/a/file7"
  diff -r "$R/tree/a" "$mnt/tree/a"
  diff -r "$R/tree/d" "$mnt/elsewhere"
  cmp "$R/tree/big" "$mnt/tree/big"
}
export -f loop_ext4
group_loop() {
  needs losetup mkfs.ext4 e2fsck || return 0
  [[ $EUID -eq 0 ]] || { skip "loop devices need root"; return 0; }
  check "mkfs.ext4, losetup, files, e2fsck -f" loop_ext4 off
  check "the same with losetup --direct-io=on" loop_ext4 on
}

# -- qemu-img and qemu-io ----------------------------------------------------------------------------------------------

qemu_create() {
  qemu-img create -q -f raw disk.raw 64M
  equal "$(stat -c %s disk.raw)" 67108864
  qemu-img resize -q -f raw disk.raw 80M
  qemu-img resize -q -f raw --shrink disk.raw 48M
  equal "$(qemu-img info --output json disk.raw | sed -n 's/.*"virtual-size": \([0-9]*\).*/\1/p' | head -n 1)" 50331648
  qemu-img map --output json disk.raw
}
# FORMAT [OPTIONS of convert]
qemu_convert() {
  local format=$1
  noise 30000128 >"$R/source"
  truncate --size 64M "$R/source"
  qemu-img convert -q -f raw -O "$format" "${@:2}" "$R/source" "disk.$format"
  [[ $format == raw ]] || qemu-img check -q -f "$format" "disk.$format"
  forget "disk.$format"
  qemu-img compare -q -f raw -F "$format" "$R/source" "disk.$format"
  # And back, reading what is there.
  qemu-img convert -q -f "$format" -O raw "disk.$format" "$R/back"
  cmp "$R/source" "$R/back"
}
export -f qemu_create qemu_convert
group_qemu_img() {
  needs qemu-img || return 0
  check "create, resize, info, map" qemu_create
  check "convert and compare, raw" qemu_convert raw
  check "convert and compare, raw, O_DIRECT" qemu_convert raw -t none
  check "convert, check and compare, qcow2" qemu_convert qcow2
  check "convert, check and compare, qcow2 compressed" qemu_convert qcow2 -c
  check "convert, check and compare, qcow2 out of order" qemu_convert qcow2 -W -m 8
}

# FORMAT CACHE: patterns at odd places, overlapping, zeroed, discarded, and read again after a reopen.
qemu_patterns() {
  local format=$1 cache=$2
  qemu-img create -q -f "$format" "disk.$format" 32M
  qemu-io -f "$format" -t "$cache" \
    -c 'write -P 0x11 0 1M' -c 'write -P 0x22 511 1025' -c 'write -P 0x33 1048000 9000' \
    -c 'aio_write -P 0x44 8M 4M' -c 'aio_write -P 0x55 16M 64k' -c 'aio_flush' \
    -c 'write -z 9M 1M' -c 'discard 10M 64k' -c 'writev -P 0x66 20M 512 1024 4096' -c 'flush' \
    -c 'read -P 0x11 0 511' -c 'read -P 0x22 511 1025' "disk.$format" 2>&1 | tee "$R/log"
  no_mismatch
  forget "disk.$format"
  qemu-io -f "$format" -t "$cache" -r \
    -c 'read -P 0x11 0 511' -c 'read -P 0x22 511 1025' -c 'read -P 0x11 1536 1046464' -c 'read -P 0x33 1048000 9000' \
    -c 'read -P 0 2M 6M' -c 'read -P 0x44 8M 1M' -c 'read -P 0 9M 1M' -c 'read -P 0x44 11M 1M' -c 'read -P 0 12M 4M' \
    -c 'read -P 0x55 16M 64k' -c 'read -P 0x66 20M 5632' -c 'read -P 0 31M 1M' "disk.$format" 2>&1 | tee "$R/log"
  no_mismatch
}
# Older versions of qemu-io report a wrong pattern and end with success.
no_mismatch() { ! grep --quiet -E 'verification failed|failed:' "$R/log"; }
export -f qemu_patterns no_mismatch
group_qemu_io() {
  needs qemu-img qemu-io || return 0
  check "patterns, raw" qemu_patterns raw writeback
  check "patterns, raw, O_DIRECT" qemu_patterns raw none
  check "patterns, raw, O_SYNC" qemu_patterns raw writethrough
  check "patterns, qcow2" qemu_patterns qcow2 writeback
  check "patterns, qcow2, O_DIRECT" qemu_patterns qcow2 none
}

# -- fsx ---------------------------------------------------------------------------------------------------------------

# SEED OPERATIONS. fsx prints its last operations and keeps the expected contents where something differs.
fsx_run() { "$FSX" -q -f "$FSX_CONFIG" -P "$R" -S "$1" -N "$2" "$D/fsx.$1"; }
export -f fsx_run
group_fsx() {
  local seed operations=${SUITE_FSX_OPS:-20000}
  needs "$fsx" || return 0
  export FSX=$fsx FSX_CONFIG=$here/fsx.toml
  if [[ -n ${SUITE_FSX_SCALE:-} ]]; then
    awk -v scale="$SUITE_FSX_SCALE" '/^(flen|max) = / { $3 *= scale } { print }' "$FSX_CONFIG" >"$scratch/fsx.toml"
    FSX_CONFIG=$scratch/fsx.toml
  fi
  for seed in ${SUITE_FSX_SEEDS:-1 2 3}; do
    check "$operations operations, seed $seed" fsx_run "$seed" "$operations"
  done
}

# -- fio ---------------------------------------------------------------------------------------------------------------

# Writes in random order with a checksum in every block, checks them, and once more after the kernel forgot them.
fio_verify() {
  local options=(--name=verify --filename="$D/data" --ioengine=psync --rw=randwrite --verify=crc32c --verify_fatal=1
    --verify_state_save=0 --randseed=7 --allow_mounted_write=0 --end_fsync=1 "$@")
  # fio leaves state files in its working directory.
  cd "$R"
  fio "${options[@]}" --do_verify=1
  forget "$D/data"
  fio "${options[@]}" --verify_only
}
# So many MiB, or the part of them that is asked for.
fio_size() { echo "$(($1 * 1024 * ${SUITE_FIO_PERCENT:-100} / 100))k"; }
export -f fio_verify
group_fio() {
  needs fio || return 0
  check "4k to 64k, crc32c" fio_verify --size="$(fio_size 48)" --bsrange=4k-64k
  check "3000 bytes, crc32c" fio_verify --size="$(fio_size 9)" --bs=3000 --bs_unaligned=1
  check "4k to 64k, O_DIRECT, crc32c" fio_verify --size="$(fio_size 24)" --bsrange=4k-64k --direct=1
  check "512 bytes to 8k with an fsync every 64, crc32c" fio_verify --size="$(fio_size 8)" --bsrange=512-8k --fsync=64
  check "four writers in one file, crc32c" fio_verify --size="$(fio_size 8)" --bsrange=4k-64k --numjobs=4 \
    --offset_increment="$(fio_size 8)" --thread
}

# -- running -----------------------------------------------------------------------------------------------------------

cleanup() {
  # It passes the signal on to its children.
  if [[ -n $running ]]; then
    kill "$running" || true
    wait "$running" || true
  fi
  release_loops
  # A mount that hangs must not make this hang too.
  timeout --kill-after=10 60 rm -rf --one-file-system "$base" || true
  rm -rf --one-file-system "$scratch"
}

[[ $# -ge 1 && -d $1 ]] || { echo "usage: suite.sh DIR [GROUP...]; groups: ${GROUPS_ALL[*]}" >&2; exit 2; }
target=$(cd "$1" && pwd)
shift
wanted=("$@")
[[ $# -gt 0 ]] || wanted=("${GROUPS_ALL[@]}")
for group in "${wanted[@]}"; do
  declare -F "group_$group" >/dev/null || { echo "suite.sh: no group '$group'; groups: ${GROUPS_ALL[*]}" >&2; exit 2; }
done

scratch=$(mktemp -d)
readonly scratch
base=$target/suite.$$
readonly base
trap cleanup EXIT
# Bash runs the EXIT trap on a signal only when the signal has a trap of its own.
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

mkdir "$base"
export D R
for group in "${wanted[@]}"; do
  D=$base/$group
  "group_$group"
done
echo "1..$((passed + failed))"
echo "$passed passed, $failed failed"
[[ $failed -eq 0 ]]
