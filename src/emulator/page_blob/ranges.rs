//! Which pages of a page blob hold data, exactly to the page.
//!
//! A pure map from byte ranges to what happened to them last. File-system holes are too coarse to
//! tell (4096 bytes against 512), and cannot say since which snapshot a page was changed. Knows
//! nothing of files or requests.

use std::collections::BTreeMap;

/// What happened last to a run of pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Page {
    /// How many snapshots the blob had had when it happened.
    pub(super) generation: u32,
    /// Written, as against cleared.
    pub(super) data: bool,
}

/// Runs of pages in order: start to end (exclusive) and state. Neighbours in one state are merged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct PageMap {
    runs: BTreeMap<u64, (u64, Page)>,
}

/// One change of a map, as it is kept in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) start: u64,
    pub(super) end: u64,
    /// `None`: as if never touched.
    pub(super) page: Option<Page>,
}

impl Change {
    /// Bytes of one change in a log.
    pub(super) const ENCODED: usize = 24;

    pub(super) fn encode(self) -> [u8; Self::ENCODED] {
        let mut bytes = [0; Self::ENCODED];
        bytes[0] = match self.page {
            None => b'-',
            Some(Page { data: true, .. }) => b'd',
            Some(Page { data: false, .. }) => b'c',
        };
        let generation = self.page.map_or(0, |page| page.generation);
        bytes[4..8].copy_from_slice(&generation.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.start.to_le_bytes());
        bytes[16..].copy_from_slice(&self.end.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; Self::ENCODED]) -> Option<Self> {
        let number = |at: usize| {
            let mut eight = [0; 8];
            eight.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(eight)
        };
        let generation = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        let page = match bytes[0] {
            b'-' => None,
            b'd' => Some(Page { generation, data: true }),
            b'c' => Some(Page { generation, data: false }),
            _ => return None,
        };
        let (start, end) = (number(8), number(16));
        (start < end).then_some(Self { start, end, page })
    }
}

impl PageMap {
    /// Number of runs.
    pub(super) fn len(&self) -> usize {
        self.runs.len()
    }

    /// The changes that make this map out of an empty one.
    pub(super) fn changes(&self) -> impl Iterator<Item = Change> {
        self.runs.iter().map(|(&start, &(end, page))| Change { start, end, page: Some(page) })
    }

    /// Pages were written. Returns what to log, nothing if the map already says so.
    pub(super) fn write(&mut self, start: u64, end: u64, generation: u32) -> Option<Change> {
        let page = Page { generation, data: true };
        if self.covers(start, end, page) {
            return None;
        }
        let change = Change { start, end, page: Some(page) };
        self.apply(change);
        Some(change)
    }

    /// Pages were cleared. They vanish, except that once there are snapshots it is remembered that
    /// what had been written is gone. Returns what to log.
    pub(super) fn clear(&mut self, start: u64, end: u64, generation: u32) -> Vec<Change> {
        let written: Vec<_> = self.within(start, end).filter(|run| run.2.data).collect();
        let page = (generation > 0).then_some(Page { generation, data: false });
        let mut changes = Vec::with_capacity(written.len());
        for (start, end, _) in written {
            let change = Change { start, end, page };
            self.apply(change);
            changes.push(change);
        }
        changes
    }

    /// Makes a change without asking whether it is one.
    pub(super) fn apply(&mut self, change: Change) {
        let Change { mut start, mut end, page } = change;
        if start >= end {
            return;
        }
        self.split(start);
        self.split(end);
        let inside: Vec<u64> = self.runs.range(start..end).map(|(&at, _)| at).collect();
        for at in inside {
            self.runs.remove(&at);
        }
        let Some(page) = page else { return };
        if let Some((&before, &(before_end, before_page))) = self.runs.range(..start).next_back()
            && before_end == start
            && before_page == page
        {
            start = before;
        }
        if let Some(&(after_end, after_page)) = self.runs.get(&end)
            && after_page == page
        {
            self.runs.remove(&end);
            end = after_end;
        }
        self.runs.insert(start, (end, page));
    }

    /// Ranges that hold data within `start..end`, merged across generations.
    pub(super) fn data(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, u64)> {
        let mut runs = self.within(start, end).filter(|run| run.2.data).peekable();
        std::iter::from_fn(move || {
            let (start, mut end, _) = runs.next()?;
            while let Some(next) = runs.next_if(|next| next.0 == end) {
                end = next.1;
            }
            Some((start, end))
        })
    }

    /// What changed in `start..end` after `generation`: ranges, and whether they now hold data.
    pub(super) fn changed_since(
        &self,
        generation: u32,
        start: u64,
        end: u64,
    ) -> impl Iterator<Item = (u64, u64, bool)> {
        let mut runs =
            self.within(start, end).filter(move |run| run.2.generation > generation).peekable();
        std::iter::from_fn(move || {
            let (start, mut end, page) = runs.next()?;
            while let Some(next) = runs.next_if(|next| next.0 == end && next.2.data == page.data) {
                end = next.1;
            }
            Some((start, end, page.data))
        })
    }

    /// Runs that overlap `start..end`, clipped to it.
    fn within(&self, start: u64, end: u64) -> impl Iterator<Item = (u64, u64, Page)> {
        let first = self
            .runs
            .range(..=start)
            .next_back()
            .filter(|(_, run)| run.0 > start)
            .map_or(start, |(&at, _)| at);
        self.runs
            .range(first..end.max(first))
            .map(move |(&at, &(run_end, page))| (at.max(start), run_end.min(end), page))
    }

    fn covers(&self, start: u64, end: u64, page: Page) -> bool {
        self.runs
            .range(..=start)
            .next_back()
            .is_some_and(|(_, &(run_end, run_page))| run_end >= end && run_page == page)
    }

    /// Makes `at` a border between runs.
    fn split(&mut self, at: u64) {
        if let Some((_, run)) = self.runs.range_mut(..at).next_back()
            && run.0 > at
        {
            let (end, page) = *run;
            run.0 = at;
            self.runs.insert(at, (end, page));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn writes_merge_and_clears_vanish() {
        let mut map = PageMap::default();
        assert!(map.write(0, 512, 0).is_some());
        assert!(map.write(512, 1024, 0).is_some());
        assert!(map.write(0, 1024, 0).is_none());
        assert_eq!(map.data(0, 4096).collect::<Vec<_>>(), [(0, 1024)]);
        assert_eq!(map.data(256, 700).collect::<Vec<_>>(), [(256, 700)]);
        map.clear(512, 8192, 0);
        assert_eq!(map.data(0, 4096).collect::<Vec<_>>(), [(0, 512)]);
        assert_eq!(map.len(), 1);
    }

    #[test]
    fn a_clear_after_a_snapshot_is_remembered() {
        let mut map = PageMap::default();
        map.write(0, 8192, 0);
        map.clear(4096, 5120, 1);
        map.clear(4096, 16384, 1);
        assert_eq!(map.changed_since(0, 0, 16384).collect::<Vec<_>>(), [(4096, 8192, false)]);
        map.write(4096, 4608, 1);
        assert_eq!(
            map.changed_since(0, 0, 16384).collect::<Vec<_>>(),
            [(4096, 4608, true), (4608, 8192, false)]
        );
        assert_eq!(map.changed_since(1, 0, 16384).count(), 0);
        assert_eq!(map.data(0, 16384).collect::<Vec<_>>(), [(0, 4608)]);
    }

    #[test]
    fn changes_survive_their_encoding() {
        for page in [
            None,
            Some(Page { generation: 7, data: true }),
            Some(Page { generation: 0, data: false }),
        ] {
            let change = Change { start: 512, end: u64::MAX, page };
            assert_eq!(Change::decode(&change.encode()), Some(change));
        }
        assert_eq!(Change::decode(&[0; Change::ENCODED]), None);
    }

    proptest! {
        /// Against an array that remembers every page by itself.
        #[test]
        fn agrees_with_a_plain_array(ops in prop::collection::vec((0u64..40, 1u64..20, 0u32..3, any::<bool>()), 1..60)) {
            let mut map = PageMap::default();
            let mut log = Vec::new();
            let mut model: Vec<Option<Page>> = vec![None; 64];
            let mut generation = 0;
            for (start, len, step, write) in ops {
                generation += step / 2;
                let end = start + len;
                if write {
                    log.extend(map.write(start, end, generation));
                } else {
                    log.extend(map.clear(start, end, generation));
                }
                for cell in &mut model[start as usize..end as usize] {
                    *cell = match (write, &cell) {
                        (true, _) => Some(Page { generation, data: true }),
                        (false, Some(Page { data: true, .. })) =>
                            (generation > 0).then_some(Page { generation, data: false }),
                        (false, other) => **other,
                    };
                }
            }
            for (index, cell) in model.iter().enumerate() {
                let at = index as u64;
                let data = map.data(at, at + 1).next().is_some();
                prop_assert_eq!(data, cell.is_some_and(|page| page.data));
                for since in 0..3 {
                    let changed = map.changed_since(since, at, at + 1).next().map(|run| run.2);
                    let expected = cell.filter(|page| page.generation > since).map(|page| page.data);
                    prop_assert_eq!(changed, expected);
                }
            }
            let mut replayed = PageMap::default();
            log.into_iter().for_each(|change| replayed.apply(change));
            prop_assert_eq!(&replayed, &map);
            let mut compacted = PageMap::default();
            map.changes().for_each(|change| compacted.apply(change));
            prop_assert_eq!(&compacted, &map);
        }
    }
}
