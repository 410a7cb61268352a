//! Locks between threads and processes: every change of an entry holds the one of its key.
//!
//! # Invariants
//!
//! - A lock is an advisory lock of the system on a file of its own, which ends with its process,
//!   however that ends. Lock files are never moved or deleted.
//! - A held lock is that of the file now under its name: after somebody deleted the whole folder,
//!   no one goes on with a lock that nobody else can see.
//! - At most one file a stripe is open, whatever the number of waiting threads.
//! - Several locks are taken in the order of their stripes.
//! - Nobody waits for one without end.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::layout::{self, STRIPES};

/// The longest that a change waits for others: a process may be stopped while it holds a lock.
const WAIT: Duration = Duration::from_secs(2);

/// The longest pause before the lock is tried again.
const MAX_PAUSE: Duration = Duration::from_millis(2);

#[derive(Debug)]
pub(super) struct Locks {
    folder: PathBuf,
    stripes: Box<[Mutex<Option<fs::File>>]>,
}

/// A held lock.
#[derive(Debug)]
#[must_use = "dropping it releases the lock"]
pub(super) struct Guard<'a> {
    file: MutexGuard<'a, Option<fs::File>>,
}

impl Locks {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            stripes: (0..STRIPES).map(|_| Mutex::default()).collect(),
        }
    }

    /// Waits for the lock of a stripe, for [`WAIT`] at most.
    pub(super) fn lock(&self, stripe: usize) -> io::Result<Guard<'_>> {
        let until = Instant::now() + WAIT;
        // Nothing is half done where a thread can panic.
        let stripe_file = self.stripes[stripe].lock();
        let mut file = stripe_file.unwrap_or_else(PoisonError::into_inner);
        let path = self.folder.join(format!("{stripe:02x}"));
        loop {
            // Whoever waited behind one that gave up gives up at once.
            if Instant::now() > until {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let held = match file.take() {
                Some(held) => held,
                None => self.open(&path)?,
            };
            lock(&held, until)?;
            if is_at(&held, &path)? {
                *file = Some(held);
                return Ok(Guard { file });
            }
        }
    }

    /// Waits for the locks of two stripes, which may be the same.
    pub(super) fn both(
        &self,
        one: usize,
        other: usize,
    ) -> io::Result<(Guard<'_>, Option<Guard<'_>>)> {
        let first = self.lock(one.min(other))?;
        let second = (one != other).then(|| self.lock(one.max(other)));
        Ok((first, second.transpose()?))
    }

    /// Waits for all locks: nobody changes anything.
    pub(super) fn all(&self) -> io::Result<Vec<Guard<'_>>> {
        (0..STRIPES).map(|stripe| self.lock(stripe)).collect()
    }

    /// Closes the lock files that are not in use.
    pub(super) fn close(&self) {
        for stripe in &self.stripes {
            if let Ok(mut file) = stripe.try_lock() {
                *file = None;
            }
        }
    }

    fn open(&self, path: &PathBuf) -> io::Result<fs::File> {
        let mut options = layout::private();
        options.create(true).truncate(false);
        #[cfg(target_os = "linux")]
        std::os::unix::fs::OpenOptionsExt::custom_flags(
            &mut options,
            rustix::fs::OFlags::NOFOLLOW.bits().cast_signed(),
        );
        match options.open(path) {
            Err(error) if layout::is_absent(&error) => {
                layout::make(&self.folder)?;
                options.open(path)
            }
            opened => opened,
        }
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        // Closing the file releases the lock when nothing else does.
        if self
            .file
            .as_ref()
            .is_some_and(|file| file.unlock().is_err())
        {
            *self.file = None;
        }
    }
}

/// The system waits without end, so we ask again and again.
fn lock(file: &fs::File, until: Instant) -> io::Result<()> {
    let mut pause = Duration::from_micros(20);
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(fs::TryLockError::WouldBlock) if Instant::now() > until => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Err(fs::TryLockError::WouldBlock) => {
                std::thread::sleep(pause);
                pause = (pause * 2).min(MAX_PAUSE);
            }
            Err(fs::TryLockError::Error(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(fs::TryLockError::Error(error)) => return Err(error),
        }
    }
}

#[cfg(unix)]
fn is_at(file: &fs::File, path: &PathBuf) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;

    let held = file.metadata()?;
    match fs::metadata(path) {
        Ok(named) => Ok((held.dev(), held.ino()) == (named.dev(), named.ino())),
        Err(error) if layout::is_absent(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// An open file keeps its name where the standard library cannot tell files apart.
#[cfg(not(unix))]
#[allow(clippy::unnecessary_wraps, reason = "as on Unix")]
fn is_at(_: &fs::File, path: &PathBuf) -> io::Result<bool> {
    Ok(path.exists())
}
