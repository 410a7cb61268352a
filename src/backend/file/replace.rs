//! Putting a file where another one may be, with no moment in which there is neither.

use std::fs;
use std::io;
use std::path::Path;

/// Moves `new` to `target`; what was there is gone.
///
/// On Linux the two are exchanged, and the old one is removed under the other name: when ext4
/// renames over a file, it first begins to write out the new one, which makes it wait for the
/// disk. Everywhere else, and where the exchange is not to be had, it is a plain rename.
pub(super) fn replace(new: &Path, target: &Path) -> io::Result<()> {
    if exchange(new, target) {
        // If that fails, it is a leftover like that of a writer who died.
        let _ = fs::remove_file(new);
        return Ok(());
    }
    fs::rename(new, target)
}

#[cfg(target_os = "linux")]
fn exchange(new: &Path, target: &Path) -> bool {
    use rustix::fs::{CWD, RenameFlags, renameat_with};

    renameat_with(CWD, new, CWD, target, RenameFlags::EXCHANGE).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn exchange(_: &Path, _: &Path) -> bool {
    false
}
