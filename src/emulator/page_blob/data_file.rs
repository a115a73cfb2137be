//! Sparse files that hold blobs' bytes and page logs.
//!
//! A file is opened when it is used and closed when many others have been used since, so that a
//! hundred thousand blobs need no hundred thousand descriptors. Knows nothing of blobs.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};

use super::body::read_or_zeros;

/// Descriptors kept open, well below the usual limit of 1024.
const OPEN_FILES: usize = 400;

/// The files that are open, oldest first.
#[derive(Debug, Default)]
pub(super) struct OpenFiles {
    queue: Mutex<VecDeque<Weak<DataFile>>>,
}

/// A file of a blob.
#[derive(Debug)]
pub(super) struct DataFile {
    path: PathBuf,
    file: RwLock<Option<Arc<File>>>,
    open_files: Arc<OpenFiles>,
}

impl DataFile {
    pub(super) fn new(path: PathBuf, open_files: &Arc<OpenFiles>) -> Arc<Self> {
        Arc::new(Self { path, file: RwLock::new(None), open_files: Arc::clone(open_files) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The open file. It is created where it does not exist: an empty file reads as zeros.
    pub(super) fn open(self: &Arc<Self>) -> io::Result<Arc<File>> {
        if let Some(file) = &*self.file.read() {
            return Ok(Arc::clone(file));
        }
        let file = {
            let mut slot = self.file.write();
            if let Some(file) = &*slot {
                return Ok(Arc::clone(file));
            }
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&self.path)?;
            Arc::clone(slot.insert(Arc::new(file)))
        };
        let oldest = {
            let mut queue = self.open_files.queue.lock();
            queue.push_back(Arc::downgrade(self));
            if queue.len() > OPEN_FILES { queue.pop_front() } else { None }
        };
        if let Some(oldest) = oldest.and_then(|weak| weak.upgrade())
            && !Arc::ptr_eq(&oldest, self)
        {
            *oldest.file.write() = None;
        }
        Ok(file)
    }

    /// Fills `bytes` from `offset`; what is past the end of the file is zeros.
    pub(super) fn read(self: &Arc<Self>, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        read_or_zeros(&*self.open()?, bytes, offset)
    }

    pub(super) fn write(self: &Arc<Self>, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.open()?.write_all_at(bytes, offset)
    }

    /// Makes a range read as zeros and gives its storage back.
    pub(super) fn punch(self: &Arc<Self>, start: u64, end: u64) -> io::Result<()> {
        let file = self.open()?;
        let end = end.min(file.metadata()?.len());
        if start >= end {
            return Ok(());
        }
        let offset = |at: u64| i64::try_from(at).map_err(|_| io::ErrorKind::InvalidInput);
        // SAFETY: the descriptor is open for the whole call and no memory is passed.
        let done = unsafe {
            libc::fallocate(
                file.as_raw_fd(),
                libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE,
                offset(start)?,
                offset(end - start)?,
            )
        };
        if done == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EOPNOTSUPP) {
            return Err(error);
        }
        write_zeros(&file, start, end)
    }

    /// Drops what is beyond `size`.
    pub(super) fn shrink(self: &Arc<Self>, size: u64) -> io::Result<()> {
        let file = self.open()?;
        if file.metadata()?.len() > size { file.set_len(size) } else { Ok(()) }
    }

    /// Copies these ranges of another file, by reference where the file system can.
    pub(super) fn copy_from(
        self: &Arc<Self>,
        source: &Arc<Self>,
        ranges: impl Iterator<Item = (u64, u64)>,
    ) -> io::Result<()> {
        let (from, to) = (source.open()?, self.open()?);
        for (start, end) in ranges {
            copy_range(&from, &to, start, start, end - start)?;
        }
        Ok(())
    }

    /// Replaces the whole file in one step.
    pub(super) fn replace(&self, bytes: &[u8]) -> io::Result<()> {
        let fresh = self.path.with_extension("new");
        std::fs::write(&fresh, bytes)?;
        let mut slot = self.file.write();
        *slot = None;
        std::fs::rename(&fresh, &self.path)
    }

    /// Moves the bytes to another name. Where there are none yet there is nothing to move.
    pub(super) fn rename_to(&self, other: &Self) -> io::Result<()> {
        match std::fs::rename(&self.path, &other.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }

    /// Removes the file. Those that still read it keep what they have open.
    pub(super) fn remove(&self) {
        if let Err(error) = std::fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            log::warn!(target: "emulator", "cannot remove a data file: {error}");
        }
    }
}

fn write_zeros(file: &File, start: u64, end: u64) -> io::Result<()> {
    // One megabyte at a time, for file systems that cannot punch holes.
    let zeros = vec![0; 1 << 20];
    let mut at = start;
    while at < end {
        let count = (end - at).min(zeros.len() as u64);
        file.write_all_at(&zeros[..count as usize], at)?;
        at += count;
    }
    Ok(())
}

/// Copies within the kernel, or by reading and writing where it cannot.
pub(super) fn copy_range(
    from: &File,
    to: &File,
    mut source: u64,
    mut target: u64,
    mut len: u64,
) -> io::Result<()> {
    let signed = |at: u64| i64::try_from(at).map_err(|_| io::ErrorKind::InvalidInput);
    while len > 0 {
        let (mut off_in, mut off_out) = (signed(source)?, signed(target)?);
        let count = usize::try_from(len.min(1 << 30)).unwrap_or(1 << 30);
        // SAFETY: both descriptors are open, and both offsets live through the call.
        let done = unsafe {
            libc::copy_file_range(
                from.as_raw_fd(),
                &raw mut off_in,
                to.as_raw_fd(),
                &raw mut off_out,
                count,
                0,
            )
        };
        let done = match done {
            // Past the end of the source: zeros, which the target has there already.
            0 => return Ok(()),
            done if done > 0 => done as u64,
            _ => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => continue,
                error
                    if matches!(
                        error.raw_os_error(),
                        Some(libc::EXDEV | libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP)
                    ) =>
                {
                    let mut bytes = vec![0; len.min(1 << 20) as usize];
                    read_or_zeros(from, &mut bytes, source)?;
                    to.write_all_at(&bytes, target)?;
                    bytes.len() as u64
                }
                error => return Err(error),
            },
        };
        source += done;
        target += done;
        len -= done;
    }
    Ok(())
}

/// A body on its way into a blob. Dropped before it is adopted, its file is removed.
#[derive(Debug)]
pub(super) struct Staged {
    path: PathBuf,
    file: File,
    len: u64,
    adopted: bool,
}

impl Staged {
    pub(super) fn create(path: PathBuf) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        Ok(Self { path, file, len: 0, adopted: false })
    }

    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.len)?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Says how long the file became by other means than [`Staged::append`].
    pub(super) fn set_len(&mut self, len: u64) {
        self.len = len;
    }

    /// Makes the file a blob's own, under its name.
    pub(super) fn adopt(mut self, file: &DataFile) -> io::Result<()> {
        std::fs::rename(&self.path, file.path())?;
        self.adopted = true;
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.adopted
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            log::warn!(target: "emulator", "cannot remove a staged body: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_read_as_zeros_and_copies_are_equal() {
        let dir = tempfile::tempdir().unwrap();
        let open = Arc::new(OpenFiles::default());
        let file = DataFile::new(dir.path().join("a"), &open);
        file.write(&[7; 8192], 1 << 20).unwrap();
        file.punch((1 << 20) + 512, (1 << 20) + 1024).unwrap();
        let copy = DataFile::new(dir.path().join("b"), &open);
        copy.copy_from(&file, [((1 << 20), (1 << 20) + 8192)].into_iter()).unwrap();
        for file in [&file, &copy] {
            let mut bytes = [1; 2048];
            file.read(&mut bytes, (1 << 20) - 512).unwrap();
            assert_eq!(bytes[..512], [0; 512]);
            assert_eq!(bytes[512..1024], [7; 512]);
            assert_eq!(bytes[1024..1536], [0; 512]);
            assert_eq!(bytes[1536..], [7; 512]);
        }
        file.shrink((1 << 20) + 256).unwrap();
        let mut bytes = [1; 512];
        file.read(&mut bytes, 1 << 20).unwrap();
        assert_eq!((bytes[..256].to_vec(), bytes[256..].to_vec()), (vec![7; 256], vec![0; 256]));
    }

    #[test]
    fn few_of_many_files_stay_open() {
        let dir = tempfile::tempdir().unwrap();
        let open = Arc::new(OpenFiles::default());
        let files: Vec<_> = (0..OPEN_FILES + 50)
            .map(|n| DataFile::new(dir.path().join(n.to_string()), &open))
            .collect();
        for file in &files {
            file.write(b"x", 0).unwrap();
        }
        let still_open = files.iter().filter(|file| file.file.read().is_some()).count();
        assert_eq!(still_open, OPEN_FILES);
        let mut byte = [0];
        files[0].read(&mut byte, 0).unwrap();
        assert_eq!(&byte, b"x");
    }

    #[test]
    fn an_abandoned_body_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut staged = Staged::create(dir.path().join("s")).unwrap();
        staged.append(b"block ").unwrap();
        staged.append(b"0").unwrap();
        assert_eq!(staged.len(), 7);
        drop(staged);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
