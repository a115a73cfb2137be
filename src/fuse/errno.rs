//! THE mapping from reasons to errnos. No errno stands anywhere else.

use fuser::Errno;

use crate::store::ErrorKind;
use crate::vfs::Error;

/// The caller gave less room than the value needs.
pub(super) const NO_ROOM: Errno = Errno::ERANGE;

/// What every file that is no device says to an ioctl.
pub(super) const NOT_A_TERMINAL: Errno = Errno::ENOTTY;

/// What a failed call returns to the process that made it.
pub(super) fn errno(error: &Error) -> Errno {
    match error {
        Error::Store(error) => errno_of_kind(error.kind()),
        Error::StaleInode => Errno::ESTALE,
        Error::BadHandle => Errno::EBADF,
        Error::NameTooLong => Errno::ENAMETOOLONG,
        Error::NoAttribute => Errno::ENODATA,
        Error::Invalid(_) => Errno::EINVAL,
        Error::NoSuchOffset => Errno::ENXIO,
        Error::Unsupported(_) => Errno::EOPNOTSUPP,
        Error::Deadline => Errno::ETIMEDOUT,
    }
}

fn errno_of_kind(kind: ErrorKind) -> Errno {
    match kind {
        ErrorKind::NotFound => Errno::ENOENT,
        ErrorKind::AlreadyExists => Errno::EEXIST,
        ErrorKind::IsDirectory => Errno::EISDIR,
        ErrorKind::NotDirectory => Errno::ENOTDIR,
        ErrorKind::NotEmpty => Errno::ENOTEMPTY,
        ErrorKind::PermissionDenied | ErrorKind::Unauthenticated => Errno::EACCES,
        ErrorKind::ReadOnly => Errno::EROFS,
        ErrorKind::Stale => Errno::ESTALE,
        // Never ENOSYS: the kernel would remember that for the whole mount.
        ErrorKind::Unsupported => Errno::EOPNOTSUPP,
        ErrorKind::InvalidRange | ErrorKind::BadName => Errno::EINVAL,
        ErrorKind::Quota => Errno::ENOSPC,
        ErrorKind::Busy => Errno::EBUSY,
        ErrorKind::TimedOut => Errno::ETIMEDOUT,
        ErrorKind::TooLarge => Errno::EFBIG,
        ErrorKind::CrossDevice => Errno::EXDEV,
        ErrorKind::Fenced
        | ErrorKind::Unavailable
        | ErrorKind::RateLimited
        | ErrorKind::Corrupt
        | ErrorKind::Other => Errno::EIO,
    }
}
