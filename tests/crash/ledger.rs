//! What a file may hold after a crash: of every sector the last content that an fsync has covered, or
//! any that it was given since.
//!
//! It is told of every change before it is made and when it has been made, of every fsync when it
//! begins and when it has been acknowledged. One thread changes the file; another may fsync it meanwhile.
//! Changes of one sector reach the service in any order but as a whole, and sectors independently of each
//! other, so each has a history of its own; the length has one too.

use std::collections::VecDeque;
use std::ops::Range;

/// Bytes of a sector.
pub(crate) const SECTOR: usize = 512;

/// One file, as its writer knows it.
#[derive(Debug)]
pub(crate) struct Ledger {
    image: Vec<u8>,
    sectors: Vec<History<Vec<u8>>>,
    lengths: History<usize>,
    /// Sectors of the change that is being made.
    pending: Range<usize>,
    /// It changes the length.
    pending_length: bool,
}

/// How much of each history an fsync will have covered.
#[derive(Debug)]
pub(crate) struct Covered {
    sectors: Vec<usize>,
    length: usize,
}

/// Contents that one place had, oldest first, from the newest that must have survived.
#[derive(Debug)]
struct History<T> {
    values: VecDeque<T>,
    /// Contents before those.
    forgotten: usize,
}

impl<T: PartialEq> History<T> {
    fn of(value: T) -> History<T> {
        History { values: VecDeque::from([value]), forgotten: 0 }
    }

    /// The place of the newest content; of the one before, if that is still being written.
    fn newest(&self, pending: bool) -> usize {
        self.forgotten + self.values.len() - 1 - usize::from(pending)
    }

    /// Nothing older than this place has to be expected any more.
    fn settle(&mut self, place: usize) {
        while self.forgotten < place {
            self.values.pop_front();
            self.forgotten += 1;
        }
    }
}

impl Ledger {
    /// A file that holds this, in the service.
    pub(crate) fn new(content: Vec<u8>) -> Ledger {
        let lengths = History::of(content.len());
        let mut ledger = Ledger {
            sectors: Vec::new(),
            lengths,
            pending: 0..0,
            pending_length: false,
            image: content,
        };
        let count = ledger.image.len().div_ceil(SECTOR);
        ledger.sectors = (0..count).map(|index| History::of(ledger.sector(index))).collect();
        ledger
    }

    /// Length of the file in bytes.
    pub(crate) fn len(&self) -> usize {
        self.image.len()
    }

    /// `bytes` are about to be written at `at`.
    pub(crate) fn write(&mut self, at: usize, bytes: &[u8]) {
        let end = at + bytes.len();
        let old = self.image.len();
        self.image.resize(old.max(end), 0);
        self.image[at..end].copy_from_slice(bytes);
        // What lies between the old end and the place was zeros and stays so.
        self.changed(at..end, old);
    }

    /// The file is about to be cut or made longer.
    pub(crate) fn truncate(&mut self, len: usize) {
        let old = self.image.len();
        self.image.resize(len, 0);
        self.changed(len.min(old)..len.max(old), old);
    }

    /// The change has been made.
    pub(crate) fn made(&mut self) {
        self.pending = 0..0;
        self.pending_length = false;
    }

    /// The change was a truncation, which is in the service when it returns.
    pub(crate) fn truncated(&mut self) {
        self.made();
        self.lengths.settle(self.lengths.newest(false));
        let (last, kept) = (self.image.len() / SECTOR, self.image.len() % SECTOR);
        for sector in self.sectors.iter_mut().skip(last + usize::from(kept > 0)) {
            sector.settle(sector.newest(false));
        }
        // Whatever else the sector at the end holds, nothing of it lies behind the end.
        if let Some(sector) = self.sectors.get_mut(last) {
            for value in &mut sector.values {
                value[kept..].fill(0);
            }
        }
    }

    /// An fsync is about to begin.
    pub(crate) fn covered(&self) -> Covered {
        let newest =
            |(index, sector): (usize, &History<_>)| sector.newest(self.pending.contains(&index));
        Covered {
            sectors: self.sectors.iter().enumerate().map(newest).collect(),
            length: self.lengths.newest(self.pending_length),
        }
    }

    /// It has succeeded.
    pub(crate) fn acknowledged(&mut self, covered: &Covered) {
        for (sector, place) in self.sectors.iter_mut().zip(&covered.sectors) {
            sector.settle(*place);
        }
        self.lengths.settle(covered.length);
    }

    /// Whether the file may hold this now; what is wrong otherwise.
    pub(crate) fn judge(&self, found: &[u8]) -> Result<(), String> {
        if !self.lengths.values.contains(&found.len()) {
            return Err(format!(
                "it is {} bytes long, and may be {:?}",
                found.len(),
                self.lengths.values
            ));
        }
        for (index, sector) in self.sectors.iter().enumerate() {
            let start = (index * SECTOR).min(found.len());
            let seen = &found[start..(start + SECTOR).min(found.len())];
            if !sector.values.iter().any(|value| value.starts_with(seen)) {
                // Of each that it may hold, from where to where it is something else.
                let differs = |value: &Vec<u8>| {
                    let is_other = |at: &usize| value[*at] != seen[*at];
                    let first = (0..seen.len()).find(is_other);
                    let last = (0..seen.len()).rfind(is_other);
                    format!("{:?} to {:?}", first.unwrap_or(0), last.unwrap_or(0))
                };
                let others: Vec<String> = sector.values.iter().map(differs).collect();
                return Err(format!(
                    "sector {index} of {} bytes is none of those that it may be; it differs in {}",
                    found.len(),
                    others.join(", ")
                ));
            }
        }
        Ok(())
    }

    fn changed(&mut self, bytes: Range<usize>, old_len: usize) {
        let count = self.image.len().div_ceil(SECTOR).max(self.sectors.len());
        let zeros = || History::of(vec![0; SECTOR]);
        self.sectors.resize_with(count, zeros);
        self.pending = bytes.start / SECTOR..bytes.end.div_ceil(SECTOR);
        for index in self.pending.clone() {
            let content = self.sector(index);
            self.sectors[index].values.push_back(content);
        }
        self.pending_length = self.image.len() != old_len;
        if self.pending_length {
            self.lengths.values.push_back(self.image.len());
        }
    }

    /// A sector of the image, with zeros behind its end.
    fn sector(&self, index: usize) -> Vec<u8> {
        let start = (index * SECTOR).min(self.image.len());
        let end = (start + SECTOR).min(self.image.len());
        let mut content = self.image[start..end].to_vec();
        content.resize(SECTOR, 0);
        content
    }
}

#[test]
fn what_was_fsynced_may_not_be_older() {
    let mut ledger = Ledger::new(vec![1; 1024]);
    ledger.write(0, &[2; 512]);
    ledger.made();
    assert_eq!(ledger.judge(&[1; 1024]), Ok(()));
    let covered = ledger.covered();
    ledger.write(512, &[3; 512]);
    ledger.acknowledged(&covered);
    let file = |first: u8, second: u8| [[first; 512], [second; 512]].concat();
    assert_eq!(ledger.judge(&file(2, 1)), Ok(()), "the second change came after the fsync began");
    assert_eq!(ledger.judge(&file(2, 3)), Ok(()));
    assert!(ledger.judge(&file(1, 3)).unwrap_err().contains("sector 0"), "the first did not");
    assert!(ledger.judge(&file(2, 2)).is_err(), "nobody has written that");
    assert!(ledger.judge(&[2; 512]).unwrap_err().contains("512 bytes long"));
}

#[test]
fn a_change_that_is_being_made_is_not_covered() {
    let mut ledger = Ledger::new(vec![1; 512]);
    ledger.write(0, &[2; 700]);
    let covered = ledger.covered();
    ledger.made();
    ledger.acknowledged(&covered);
    assert_eq!(ledger.judge(&[1; 512]), Ok(()));
    ledger.acknowledged(&ledger.covered());
    assert!(ledger.judge(&[1; 512]).is_err());
    assert_eq!(ledger.judge(&[2; 700]), Ok(()));
}

#[test]
fn a_truncation_counts_when_it_has_returned() {
    let mut ledger = Ledger::new(vec![1; 1500]);
    ledger.truncate(600);
    assert_eq!(ledger.judge(&[1; 1500]), Ok(()));
    ledger.truncated();
    assert!(ledger.judge(&[1; 1500]).is_err());
    assert_eq!(ledger.judge(&[1; 600]), Ok(()));
    ledger.write(1400, &[2; 100]);
    let mut grown = [1; 1500];
    grown[600..1400].fill(0);
    grown[1400..].fill(2);
    assert_eq!(ledger.judge(&grown), Ok(()));
    for cut_off in [601, 1030] {
        let mut wrong = grown;
        wrong[cut_off] = 1;
        assert!(ledger.judge(&wrong).is_err(), "what was cut off must not come up again");
    }
}
