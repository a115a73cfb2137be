//! Attributes in the form that the kernel takes.

use fuser::{FileAttr, FileType, INodeNo};

use crate::vfs::{Attr, FileKind};

/// What `stat` tells as the preferred size of reads, in bytes. Small: programs buffer that much for
/// the smallest read, and the kernel's readahead puts large ones together.
const PREFERRED_IO: u32 = 4096;
/// Unit of `st_blocks`, in bytes.
const STAT_BLOCK: u64 = 512;

pub(super) fn file_attr(attr: &Attr) -> FileAttr {
    let time = attr.modified;
    FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.size,
        blocks: attr.allocated.div_ceil(STAT_BLOCK),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: file_type(attr.kind),
        perm: attr.perm,
        nlink: if attr.kind == FileKind::Directory { 2 } else { 1 },
        uid: attr.uid,
        gid: attr.gid,
        rdev: 0,
        blksize: PREFERRED_IO,
        flags: 0,
    }
}

pub(super) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::Regular => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
    }
}
