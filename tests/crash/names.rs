//! Small files that are saved as programs do it: written under another name, fsynced, closed, renamed.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::IntoRawFd as _;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::Scope;

use crate::support::Mount;
use crate::support::random::Random;

/// Names that are replaced again and again.
const SLOTS: usize = 4;
/// The longest file, in bytes.
const LONGEST: u64 = 20_000;

/// What each name may hold.
pub(crate) struct Names {
    slots: Vec<Slot>,
}

/// One name: what it held at the last rename that was acknowledged, and what it was about to get.
#[derive(Clone, Default)]
struct Slot {
    saved: Option<Vec<u8>>,
    /// Written, and perhaps renamed.
    next: Option<Next>,
}

#[derive(Clone)]
struct Next {
    content: Vec<u8>,
    closed: bool,
    renaming: bool,
}

impl Names {
    /// Nothing is there.
    pub(crate) fn new() -> Names {
        Names { slots: vec![Slot::default(); SLOTS] }
    }

    /// Looks whether every name holds what it may.
    pub(crate) fn judge(&mut self, mount: &Mount, round: u64) {
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let (temporary, name) = (temporary(index), name(index));
            let found = read(&mount.path().join(&name));
            let before = read(&mount.path().join(&temporary));
            let next = slot.next.take();
            let renamed = next
                .as_ref()
                .is_some_and(|next| next.renaming && found.as_ref() == Some(&next.content));
            assert!(
                renamed || found == slot.saved,
                "round {round}, {name}: it is neither the old nor the new file"
            );
            match next {
                Some(next) if next.closed && !renamed => {
                    assert!(
                        before == Some(next.content),
                        "round {round}, {temporary}: what was closed is not there"
                    );
                }
                None => assert_eq!(before, None, "round {round}, {temporary}: it was renamed"),
                _ => {}
            }
            if before.is_some() {
                fs::remove_file(mount.path().join(&temporary)).unwrap();
            }
            slot.saved = found;
        }
    }

    /// Saves files until the daemon is gone.
    pub(crate) fn work<'scope, 'env: 'scope>(
        &'env mut self,
        scope: &'scope Scope<'scope, 'env>,
        mount: &Mount,
        random: &mut Random,
        killed: &'env AtomicBool,
    ) {
        let mut random = random.split();
        let root = mount.path().to_owned();
        scope.spawn(move || {
            loop {
                let index = random.below(SLOTS as u64) as usize;
                let count = random.below(LONGEST) as usize;
                let content = random.bytes(count);
                if let Err(error) = save(&root, index, &mut self.slots[index], content) {
                    assert!(killed.load(Ordering::SeqCst), "{}: {error}", name(index));
                    return;
                }
            }
        });
    }
}

fn name(index: usize) -> String {
    format!("saved-{index}")
}

fn temporary(index: usize) -> String {
    format!("saved-{index}.new")
}

fn read(path: &Path) -> Option<Vec<u8>> {
    match fs::read(path) {
        Ok(content) => Some(content),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => panic!("{}: {error}", path.display()),
    }
}

fn save(root: &Path, index: usize, slot: &mut Slot, content: Vec<u8>) -> io::Result<()> {
    let (temporary, name) = (root.join(temporary(index)), root.join(name(index)));
    let next = slot.next.insert(Next { content, closed: false, renaming: false });
    let mut file = File::create(&temporary)?;
    file.write_all(&next.content)?;
    let descriptor = file.into_raw_fd();
    // SAFETY: the descriptor was just given up by its only owner.
    if unsafe { libc::close(descriptor) } != 0 {
        return Err(io::Error::last_os_error());
    }
    next.closed = true;
    next.renaming = true;
    fs::rename(&temporary, &name)?;
    slot.saved = slot.next.take().map(|next| next.content);
    Ok(())
}
