//! Removing what nobody asks for any more: a part now and then after writes, or all of it at once.
//!
//! A part is one shard of every namespace; with a limit on entries, as many as are needed for its
//! share of the limit to be a meaningful number. When the next part is due depends on how many files
//! stay in this one, so that a write pays for a quarter of a look at another file, however large the
//! store is. Where much had to go, the next part is due sooner: what is dead takes no more room than
//! what lives and some thousand files, while anybody writes.
//!
//! It pauses for longer than it works, unless so much is written meanwhile that it would not keep up.
//!
//! # Invariants
//!
//! - An entry is removed only under its lock, and only if it is still dead there.
//! - A temporary file is removed under its lock: then nobody is writing it.
//! - Only files and folders whose names are ours are removed.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, TryLockError};

use super::Options;
use super::layout::{self, Own, SHARDS};
use super::record::{self, HEAD};
use super::spell::Spell;
use super::store::{self, Store};

/// Writes between two parts, at least.
const LEAST_WRITES: u64 = 8;

/// Folders that a write pays for, most of them not there.
const FOLDERS_A_WRITE: usize = 8;

/// Entries in a part's share of the limit, at least, unless the limit itself is lower: so many
/// keys spread evenly, to some hundredths.
const LEAST_SHARE: usize = 1024;

/// Until a sweep that has begun says when the next one is due; only one that is never run does not.
const MEANWHILE: u64 = 10_000;

/// When the next part is due, and which one it is.
#[derive(Debug)]
pub(super) struct Pace {
    /// Writes so far.
    writes: AtomicU64,
    /// The number of writes from which on a part is due.
    due: AtomicU64,
    /// `None` before the first.
    part: Mutex<Option<usize>>,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self {
            writes: AtomicU64::new(0),
            // Starts anywhere: processes that write little and end sweep in their turn, too.
            due: AtomicU64::new(1 + RandomState::new().hash_one(0) % LEAST_WRITES),
            part: Mutex::default(),
        }
    }

    /// Counts writes. Whether the caller has to sweep now.
    pub(super) fn wrote(&self, writes: usize) -> bool {
        self.writes.fetch_add(writes as u64, Ordering::Relaxed);
        self.is_due()
    }

    fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    /// Tells one caller.
    fn is_due(&self) -> bool {
        let due = self.due.load(Ordering::Relaxed);
        let writes = self.writes();
        let next = writes + MEANWHILE;
        writes >= due
            && self
                .due
                .compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
    }
}

/// What was found in a part.
#[derive(Debug, Default)]
struct Swept {
    /// The number of writes when it began.
    begin: u64,
    folders: usize,
    files: usize,
    removed: usize,
    kept: Vec<Kept>,
    /// The first thing that went wrong; the rest was swept all the same.
    error: Option<io::Error>,
}

impl Swept {
    fn count(&mut self, removed: io::Result<bool>) {
        match removed {
            Ok(removed) => self.removed += usize::from(removed),
            Err(error) => drop(self.error.get_or_insert(error)),
        }
    }

    /// The writes that may pass while this part is swept. More bring more than is removed.
    fn writes_meanwhile(&self, limited: bool) -> u64 {
        let files = if limited { self.files / 4 } else { self.files };
        files as u64
    }

    fn writes_to_next(&self, limited: bool) -> u64 {
        let left = self.files.saturating_sub(self.removed);
        let writes = match limited {
            true => left / 4,
            false if self.removed > self.files / 4 => left,
            false => 4 * left,
        };
        let writes = writes.max(self.folders / FOLDERS_A_WRITE);
        (writes as u64).max(LEAST_WRITES)
    }
}

#[derive(Debug)]
struct Kept {
    expires: u64,
    stripe: usize,
    file: PathBuf,
}

impl Store {
    /// Sweeps the next part, and those that are due by then. What goes wrong is left to the next
    /// round.
    pub(super) fn sweep_parts(&self, spell: &mut Spell) {
        // Nothing is half done where a thread can panic.
        let mut next = match self.pace.part.try_lock() {
            Ok(next) => next,
            Err(TryLockError::Poisoned(error)) => error.into_inner(),
            // No thread waits for one that pauses. If it has just come to its end, the next part is
            // not late for it.
            Err(TryLockError::WouldBlock) => {
                let due = self.pace.writes() + LEAST_WRITES;
                self.pace.due.store(due, Ordering::Relaxed);
                return;
            }
        };
        loop {
            let writes = self.pace.writes();
            let pause = self.sweep_part(&mut next, spell);
            self.pace.due.store(writes + pause, Ordering::Relaxed);
            if spell.is_over() || !self.pace.is_due() {
                return;
            }
        }
    }

    /// Sweeps a part. After how many writes the next one is due.
    fn sweep_part(&self, next: &mut Option<usize>, spell: &mut Spell) -> u64 {
        let parts = self.options.parts();
        // Anywhere, so that processes that live briefly get to all parts together.
        let part = next.unwrap_or_else(|| {
            let _ = self.empty_trash(spell);
            usize::from(RandomState::new().hash_one(parts).to_le_bytes()[0]) % parts
        });
        let swept = self.sweep_shards(part, false, spell);
        *next = Some((part + 1) % parts);
        if part + 1 == parts {
            let _ = self.empty_trash(spell);
            self.remove_empty_namespaces();
        }
        swept.writes_to_next(self.options.max_entries.is_some())
    }

    /// Sweeps everything, and reads every file whole. How many files it removed.
    pub(super) fn sweep(&self, spell: &mut Spell) -> io::Result<u64> {
        let mut removed = 0;
        let mut failed = None;
        for part in 0..self.options.parts() {
            let swept = self.sweep_shards(part, true, spell);
            removed += swept.removed as u64;
            failed = failed.or(swept.error);
        }
        removed += self.empty_trash(spell)?;
        self.remove_empty_namespaces();
        failed.map_or(Ok(removed), Err)
    }

    /// Deletes what was cleared, but for files that are not ours. How many files it deleted.
    pub(super) fn empty_trash(&self, spell: &mut Spell) -> io::Result<u64> {
        let mut removed = 0;
        let trash = self.layout.trash();
        for name in layout::names(&trash)? {
            let namespace = trash.join(name);
            if fs::symlink_metadata(&namespace).is_ok_and(|found| found.is_symlink()) {
                // What it points at is not ours.
                removed += u64::from(layout::remove(&namespace)?);
                continue;
            }
            for shard in (0..SHARDS).map(|shard| layout::shard(&namespace, shard)) {
                let names = layout::names(&shard)?;
                for name in names.iter().filter(|name| Own::parse(name).is_some()) {
                    if spell.is_over() {
                        return Ok(removed);
                    }
                    removed += u64::from(layout::remove(&shard.join(name))?);
                    spell.rest();
                }
                remove_if_empty(&shard);
            }
            remove_if_empty(&namespace);
        }
        Ok(removed)
    }

    /// Moves the folder of a namespace out of the way. All locks are held.
    pub(super) fn move_to_trash(&self, folder: &Path) -> io::Result<()> {
        static MOVES: AtomicU64 = AtomicU64::new(0);
        if !folder.try_exists()? {
            return Ok(());
        }
        let trash = self.layout.trash();
        layout::make(&trash)?;
        let move_of_process = MOVES.fetch_add(1, Ordering::Relaxed);
        let name = RandomState::new().hash_one(move_of_process);
        fs::rename(folder, trash.join(format!("{name:016x}")))
    }

    fn sweep_shards(&self, part: usize, whole: bool, spell: &mut Spell) -> Swept {
        let mut swept = Swept {
            begin: self.pace.writes(),
            ..Swept::default()
        };
        let namespaces = match self.layout.namespaces() {
            Ok(namespaces) => namespaces,
            Err(error) => {
                swept.count(Err(error));
                return swept;
            }
        };
        for namespace in namespaces {
            for shard in self.options.shards(part) {
                let shard = layout::shard(&namespace, shard);
                swept.folders += 1;
                let names = match layout::names(&shard) {
                    Ok(names) => names,
                    Err(error) => {
                        swept.count(Err(error));
                        continue;
                    }
                };
                for name in names {
                    if spell.is_over() {
                        return swept;
                    }
                    self.sweep_file(&shard, name, whole, &mut swept);
                    self.rest(&swept, whole, spell);
                }
                remove_if_empty(&shard);
            }
        }
        self.remove_surplus(&mut swept, whole, spell);
        swept
    }

    fn sweep_file(&self, shard: &Path, name: String, whole: bool, swept: &mut Swept) {
        let Some(own) = Own::parse(&name) else {
            return;
        };
        swept.files += 1;
        let file = shard.join(name);
        let removed = match own {
            Own::Temporary { stripe } => self.remove_if(&file, stripe, || Ok(true)),
            Own::Entry { stripe } => match self.expiry_of_live(&file, whole) {
                Ok(Some(expires)) => {
                    swept.kept.push(Kept {
                        expires,
                        stripe,
                        file,
                    });
                    return;
                }
                Ok(None) => self.remove_if(&file, stripe, || {
                    let expires = self.expiry_of_live(&file, whole)?;
                    Ok(expires.is_none())
                }),
                Err(error) => Err(error),
            },
        };
        swept.count(removed);
    }

    /// Removes what expires soonest, as far as there is more than the limit allows.
    fn remove_surplus(&self, swept: &mut Swept, whole: bool, spell: &mut Spell) {
        let mut kept = std::mem::take(&mut swept.kept);
        let surplus = kept.len().saturating_sub(self.options.share());
        if surplus == 0 {
            return;
        }
        kept.sort_unstable_by_key(|kept| kept.expires);
        for kept in &kept[..surplus] {
            if spell.is_over() {
                return;
            }
            let removed = self.remove_if(&kept.file, kept.stripe, || {
                let expires = self.expiry_of_live(&kept.file, false)?;
                Ok(expires.is_none_or(|expires| expires == kept.expires))
            });
            swept.count(removed);
            self.rest(swept, whole, spell);
        }
    }

    /// Pauses between two files, if that does not let those who write get ahead.
    fn rest(&self, swept: &Swept, whole: bool, spell: &mut Spell) {
        let written = self.pace.writes() - swept.begin;
        let limited = self.options.max_entries.is_some();
        // A sweep of everything is one that somebody asked for; beside it, the parts have their turn.
        if whole || written <= swept.writes_meanwhile(limited) {
            spell.rest();
        }
    }

    /// The expiry of a file that is live and, as far as it is read, sound.
    fn expiry_of_live(&self, file: &Path, whole: bool) -> io::Result<Option<u64>> {
        let expires = if whole {
            let record = store::read(file)?.and_then(|file| record::decode(&file));
            record.map(|record| record.expires)
        } else {
            expiry_in(file)?
        };
        Ok(expires.filter(|expires| record::remaining(self.now(), *expires).is_some()))
    }

    fn remove_empty_namespaces(&self) {
        for namespace in self.layout.namespaces().unwrap_or_default() {
            remove_if_empty(&namespace);
        }
    }
}

impl Options {
    /// The parts that a sweep of everything has.
    fn parts(self) -> usize {
        let parts = self
            .max_entries
            .map_or(SHARDS, |entries| (entries / LEAST_SHARE).clamp(1, SHARDS));
        1 << parts.ilog2()
    }

    fn shards(self, part: usize) -> Range<usize> {
        let shards = SHARDS / self.parts();
        part * shards..(part + 1) * shards
    }

    /// The most entries in a part.
    fn share(self) -> usize {
        self.max_entries
            .map_or(usize::MAX, |entries| entries.div_ceil(self.parts()))
    }
}

fn expiry_in(file: &Path) -> io::Result<Option<u64>> {
    let file = match fs::File::open(file) {
        Ok(file) => file,
        Err(error) if layout::is_absent(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    let mut head = Vec::with_capacity(HEAD);
    file.take(HEAD as u64).read_to_end(&mut head)?;
    Ok(record::expiry_in_head(&head, length))
}

/// The system refuses to remove a folder with anything in it.
fn remove_if_empty(folder: &Path) {
    let _ = fs::remove_dir(folder);
}
