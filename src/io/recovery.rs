//! Recovery files: dirty sectors that could not be sent, kept on local disk until somebody decides.
//!
//! A file is written whole, synced, and only then given its name, so that one that has a name is
//! complete. Everything in it is under SHA-256: what is applied later is what was written then.
//!
//! ```text
//! file     = magic header record* end
//! header   = source path version reason (each: length u32, UTF-8)  blob length u64  sum
//! record   = 1u8 start u64 length u64 bytes sum      data
//!          | 0u8 start u64 length u64 sum            zeros
//! end      = 2u8 records u64 0u64 sum
//! sum      = SHA-256 of the item, 32 bytes           numbers are little-endian
//! ```
//!
//! This module knows files of its own making, not who reads them or where they are applied.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::dirty::Taken;
use super::span::{SECTOR, Span};

const MAGIC: &[u8; 16] = b"blobdir-recover1";
/// The ending of the names of recovery files.
pub const EXTENSION: &str = "recovery";
/// Longest text of the header, in bytes; names and reasons are far shorter.
const MAX_TEXT: usize = 64 << 10;
/// Longest data record, in bytes: an extent stays inside one block.
const MAX_RECORD: u64 = super::span::BLOCK;

const ZEROS: u8 = 0;
const DATA: u8 = 1;
const END: u8 = 2;

/// What the sectors belong to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Origin {
    /// The source as it was mounted, without secrets.
    pub source: String,
    /// The path inside it.
    pub path: String,
    /// The version that the sectors were written over, as far as it was known.
    pub version: String,
    /// Why they were not sent.
    pub reason: String,
    /// Length of the file as it was seen here, in bytes.
    pub len: u64,
}

/// A recovery file in memory.
#[derive(Clone, Debug)]
pub struct Recovery {
    /// What the sectors belong to.
    pub origin: Origin,
    /// The sectors, in order; none twice.
    pub extents: Vec<Taken>,
}

impl Recovery {
    /// Bytes that were written and not sent, zeros included.
    pub fn bytes(&self) -> u64 {
        self.extents.iter().map(|extent| extent.span.len()).sum()
    }

    /// Writes it into `dir` under a name of its own and returns that. It is on the disk then.
    pub fn save(&self, dir: &Path) -> io::Result<PathBuf> {
        fs::create_dir_all(dir)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let name = dir.join(format!("{now}-{}.{EXTENSION}", std::process::id()));
        let partial = name.with_extension("partial");
        // Only the owner: it is the content of somebody's disk.
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
        let result = self.write(&file).and_then(|()| file.sync_all());
        if let Err(error) = result {
            let _ = fs::remove_file(&partial);
            return Err(error);
        }
        fs::rename(&partial, &name)?;
        File::open(dir)?.sync_all()?;
        Ok(name)
    }

    fn write(&self, file: &File) -> io::Result<()> {
        let mut out = BufWriter::new(file);
        out.write_all(MAGIC)?;
        let mut header = Vec::new();
        let Origin { source, path, version, reason, len } = &self.origin;
        for text in [source, path, version, reason] {
            let text = &text.as_bytes()[..text.len().min(MAX_TEXT)];
            header.extend((text.len() as u32).to_le_bytes());
            header.extend(text);
        }
        header.extend(len.to_le_bytes());
        write_summed(&mut out, &[&header])?;
        for extent in &self.extents {
            let kind = if extent.bytes.is_some() { DATA } else { ZEROS };
            let head = item(kind, extent.span.start, extent.span.len());
            write_summed(&mut out, &[&head, extent.bytes.as_deref().unwrap_or_default()])?;
        }
        write_summed(&mut out, &[&item(END, self.extents.len() as u64, 0)])?;
        out.flush()
    }

    /// Reads and checks one.
    ///
    /// Errors: `InvalidData` if it is not a recovery file, is cut off, or does not match its sums.
    pub fn load(path: &Path) -> io::Result<Recovery> {
        let mut input = BufReader::new(File::open(path)?);
        let mut magic = [0; MAGIC.len()];
        input.read_exact(&mut magic).map_err(cut_off)?;
        if magic != *MAGIC {
            return Err(damaged("it is not a recovery file of this version"));
        }
        let mut summed = Summed { input: &mut input, sum: Sha256::new() };
        let origin = Origin {
            source: summed.text()?,
            path: summed.text()?,
            version: summed.text()?,
            reason: summed.text()?,
            len: summed.number()?,
        };
        summed.check()?;
        let mut extents: Vec<Taken> = Vec::new();
        loop {
            let kind = summed.bytes(1)?[0];
            let (start, len) = (summed.number()?, summed.number()?);
            if kind == END {
                summed.check()?;
                if start != extents.len() as u64 {
                    return Err(damaged("records are missing"));
                }
                return Ok(Recovery { origin, extents });
            }
            let span = Span::at(start, len);
            let after = extents.last().map_or(0, |last| last.span.end);
            let aligned = span.start.is_multiple_of(SECTOR) && span.end.is_multiple_of(SECTOR);
            if !aligned || span.is_empty() || span.start < after {
                return Err(damaged("its spans are not sectors in order"));
            }
            let bytes = match kind {
                ZEROS => None,
                DATA if len <= MAX_RECORD => Some(Bytes::from(summed.bytes(len as usize)?)),
                _ => return Err(damaged("it holds a record of an unknown kind")),
            };
            summed.check()?;
            extents.push(Taken { span, bytes });
        }
    }
}

/// The recovery files in `dir`, oldest first; none if there is no such directory.
pub fn list(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == EXTENSION) {
            found.push(path);
        }
    }
    // Names begin with the time, in nanoseconds of the same number of digits.
    found.sort();
    Ok(found)
}

fn item(kind: u8, first: u64, second: u64) -> [u8; 17] {
    let mut bytes = [kind; 17];
    bytes[1..9].copy_from_slice(&first.to_le_bytes());
    bytes[9..].copy_from_slice(&second.to_le_bytes());
    bytes
}

fn write_summed(out: &mut impl Write, parts: &[&[u8]]) -> io::Result<()> {
    let mut sum = Sha256::new();
    for part in parts {
        sum.update(part);
        out.write_all(part)?;
    }
    out.write_all(&sum.finalize())
}

/// Reads items and the sums behind them.
struct Summed<'a, R> {
    input: &'a mut R,
    sum: Sha256,
}

impl<R: Read> Summed<'_, R> {
    fn bytes(&mut self, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        self.input.read_exact(&mut bytes).map_err(cut_off)?;
        self.sum.update(&bytes);
        Ok(bytes)
    }

    fn number(&mut self) -> io::Result<u64> {
        let mut number = [0; 8];
        number.copy_from_slice(&self.bytes(8)?);
        Ok(u64::from_le_bytes(number))
    }

    fn text(&mut self) -> io::Result<String> {
        let mut len = [0; 4];
        len.copy_from_slice(&self.bytes(4)?);
        let len = u32::from_le_bytes(len) as usize;
        if len > MAX_TEXT {
            return Err(damaged("its header is too long"));
        }
        String::from_utf8(self.bytes(len)?).map_err(|_| damaged("its header is not text"))
    }

    /// Ends an item.
    fn check(&mut self) -> io::Result<()> {
        let mut stored = [0; 32];
        self.input.read_exact(&mut stored).map_err(cut_off)?;
        let sum = std::mem::take(&mut self.sum).finalize();
        if sum[..] != stored {
            return Err(damaged("its content does not match its checksum"));
        }
        Ok(())
    }
}

fn damaged(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_owned())
}

fn cut_off(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::UnexpectedEof { damaged("it is cut off") } else { error }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn example() -> Recovery {
        let origin = Origin {
            source: "az://account/container".to_owned(),
            path: "vm/root ü.img".to_owned(),
            version: "\"0x8D\"".to_owned(),
            reason: "the lease was lost".to_owned(),
            len: 5000,
        };
        let data = Taken { span: Span::at(512, 1024), bytes: Some(vec![7; 1024].into()) };
        let zeros = Taken { span: Span::at(4096, 1 << 40), bytes: None };
        Recovery { origin, extents: vec![data, zeros] }
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("kept");
        assert_eq!(list(&dir).unwrap(), Vec::<PathBuf>::new());
        let (first, second) = (example().save(&dir).unwrap(), example().save(&dir).unwrap());
        assert_eq!(list(&dir).unwrap(), [first.clone(), second]);
        let loaded = Recovery::load(&first).unwrap();
        assert_eq!(loaded.origin, example().origin);
        assert_eq!(loaded.bytes(), example().bytes());
        for (loaded, saved) in loaded.extents.iter().zip(&example().extents) {
            assert_eq!((loaded.span, &loaded.bytes), (saved.span, &saved.bytes));
        }
    }

    #[test]
    fn a_directory_that_takes_no_file_is_an_error_and_leaves_none() {
        let dir = tempfile::NamedTempFile::new().unwrap();
        assert!(example().save(dir.path()).is_err());
    }

    proptest! {
        #[test]
        fn no_damage_goes_unnoticed(at in 0usize..1400, bit in 0u8..8, cut in any::<bool>()) {
            let dir = tempfile::tempdir().unwrap();
            let path = example().save(dir.path()).unwrap();
            let mut bytes = fs::read(&path).unwrap();
            let at = at % bytes.len();
            if cut { bytes.truncate(at) } else { bytes[at] ^= 1 << bit }
            fs::write(&path, bytes).unwrap();
            prop_assert!(Recovery::load(&path).is_err());
        }

        #[test]
        fn anything_at_all_is_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("x.recovery");
            fs::write(&path, [&MAGIC[..], &bytes].concat()).unwrap();
            prop_assert!(Recovery::load(&path).is_err());
        }
    }
}
