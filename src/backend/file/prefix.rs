//! Removing entries by how their keys begin.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::layout::{self, Own};
use super::record::{self, HEAD};
use super::store::{self, Store};

/// What the beginning of a file says, unchecked: its expiry and its key.
type Label = (u64, Vec<u8>);

impl Store {
    /// Removes the entries whose keys begin with `prefix`. How many were live. One that cannot be
    /// removed does not keep the others.
    pub(super) fn delete_prefix(&self, prefix: &str) -> io::Result<u64> {
        let beginnings = (0..=prefix.len()).filter_map(|end| prefix.get(..end));
        let above: Vec<_> = beginnings
            .map(|beginning| self.layout.namespace(beginning))
            .collect();
        let (mut deleted, mut failed) = (0, None);
        for folder in self.layout.namespaces()? {
            // All keys of a namespace begin with it: elsewhere, one tells of all.
            if !above.contains(&folder)
                && !first_key(&folder)?.is_some_and(|key| key.starts_with(prefix.as_bytes()))
            {
                continue;
            }
            for_entries(&folder, |file, stripe| {
                match self.delete_if(&file, stripe, prefix) {
                    Ok(live) => deleted += u64::from(live),
                    Err(error) => drop(failed.get_or_insert(error)),
                }
                true
            })?;
        }
        failed.map_or(Ok(deleted), Err)
    }

    /// Removes an entry if its key begins with `prefix`. Whether it did, and it was live.
    fn delete_if(&self, file: &Path, stripe: usize, prefix: &str) -> io::Result<bool> {
        let doomed = || {
            let label = label(file)?;
            Ok::<_, io::Error>(label.filter(|(_, key)| key.starts_with(prefix.as_bytes())))
        };
        let Some((expires, _)) = doomed()? else {
            return Ok(false);
        };
        let removed = self.remove_if(file, stripe, || Ok(doomed()?.is_some()))?;
        Ok(removed && record::remaining(self.now(), expires).is_some())
    }
}

/// The key of some entry of a namespace.
fn first_key(folder: &Path) -> io::Result<Option<Vec<u8>>> {
    let mut found = Ok(None);
    for_entries(folder, |file, _| {
        let record = store::read(&file).map(|file| file.and_then(|file| record::decode(&file)));
        found = record.map(|record| record.map(|record| record.key.to_vec()));
        matches!(found, Ok(None))
    })?;
    found
}

/// Calls `visit` with the entries of a namespace, and their locks, as long as it returns true.
fn for_entries(folder: &Path, mut visit: impl FnMut(PathBuf, usize) -> bool) -> io::Result<()> {
    for shard in layout::names(folder)? {
        let shard = folder.join(shard);
        for name in layout::names(&shard)? {
            if let Some(Own::Entry { stripe }) = Own::parse(&name)
                && !visit(shard.join(name), stripe)
            {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Values are not read: they may be large.
fn label(file: &Path) -> io::Result<Option<Label>> {
    let mut file = match fs::File::open(file) {
        Ok(file) => file,
        Err(error) if layout::is_absent(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    let mut head = Vec::with_capacity(HEAD);
    file.by_ref().take(HEAD as u64).read_to_end(&mut head)?;
    let Some((expires, key_length)) = record::label_in_head(&head, length) else {
        return Ok(None);
    };
    let mut key = Vec::new();
    file.take(key_length).read_to_end(&mut key)?;
    Ok(Some((expires, key)))
}
