//! Why a call on the tree failed: the store's reason, or one that only a file system has.

use std::fmt;

use crate::store;

/// The result of a call on the tree.
pub type Result<T> = std::result::Result<T, Error>;

/// A failed call.
#[derive(Clone, Debug)]
pub enum Error {
    /// The store, or the data path over it, failed.
    Store(store::Error),
    /// The inode was forgotten or its blob replaced; looking the name up again helps.
    StaleInode,
    /// No such file or directory handle.
    BadHandle,
    /// A name longer than [`super::NAME_MAX`].
    NameTooLong,
    /// No extended attribute of that name.
    NoAttribute,
    /// A combination of arguments that means nothing.
    Invalid(&'static str),
    /// An offset beyond the end where there must be data.
    NoSuchOffset,
    /// Something that blobs cannot do.
    Unsupported(&'static str),
    /// No answer within the hard deadline of a call.
    Deadline,
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Error {
        Error::Store(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Store(error) => error.fmt(f),
            Error::StaleInode => f.write_str("the file was replaced; open it again"),
            Error::BadHandle => f.write_str("no such handle"),
            Error::NameTooLong => write!(f, "a name is at most {} bytes", super::NAME_MAX),
            Error::NoAttribute => f.write_str("no such extended attribute"),
            Error::Invalid(what) | Error::Unsupported(what) => f.write_str(what),
            Error::NoSuchOffset => f.write_str("the offset is beyond the end of the file"),
            Error::Deadline => f.write_str("no answer within the deadline"),
        }
    }
}
