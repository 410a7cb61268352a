//! Where everything is in the folder of a store, and which files are ours.
//!
//! ```text
//! <location>/.locks/00 … 3f                          locks, by key
//! <location>/.trash/<name>                           cleared, to be deleted
//! <location>/<digest of the namespace>/<shard>/<digest of the key>.axc    an entry
//!                                              <digest of the key>.tmp    one being written
//! ```
//!
//! # Invariants
//!
//! - The digest of a key names its shard and its lock too, so that a file's name is enough to
//!   lock it.
//! - What [`Layout::namespaces`] and [`Own::parse`] do not recognise is not ours, and is never
//!   touched.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::key::Key;

/// The folders that a namespace spreads its entries over.
pub(super) const SHARDS: usize = 256;

/// The locks of a store.
pub(super) const STRIPES: usize = 64;

/// Hexadecimal digits of a digest: 128 bits. The file echoes the key, so two keys of one digest
/// would displace, never read each other.
const DIGITS: usize = 32;

const ENTRY: &str = "axc";
const TEMPORARY: &str = "tmp";

#[derive(Clone, Debug)]
pub(super) struct Layout {
    root: PathBuf,
}

/// Where the entry of a key is.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) folder: PathBuf,
    pub(super) file: PathBuf,
    /// Written only by who holds the lock of `stripe`.
    pub(super) temporary: PathBuf,
    pub(super) stripe: usize,
}

/// A file of ours in a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Own {
    Entry { stripe: usize },
    Temporary { stripe: usize },
}

impl Layout {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn locks(&self) -> PathBuf {
        self.root.join(".locks")
    }

    pub(super) fn trash(&self) -> PathBuf {
        self.root.join(".trash")
    }

    pub(super) fn namespace(&self, namespace: &str) -> PathBuf {
        self.root.join(digest(namespace))
    }

    pub(super) fn place(&self, key: &Key) -> Place {
        let name = digest(key.as_str());
        let mut folder = self.namespace(key.namespace());
        folder.push(&name[..2]);
        let file = folder.join(format!("{name}.{ENTRY}"));
        Place {
            temporary: file.with_extension(TEMPORARY),
            stripe: stripe(&name),
            file,
            folder,
        }
    }

    /// The folders of all namespaces there are.
    pub(super) fn namespaces(&self) -> io::Result<Vec<PathBuf>> {
        let namespaces = names(&self.root)?
            .into_iter()
            .filter(|name| is_digest(name));
        let folders = namespaces.map(|name| self.root.join(name));
        Ok(folders.filter(|folder| is_folder(folder)).collect())
    }
}

impl Own {
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (digest, suffix) = name.split_once('.')?;
        if !is_digest(digest) {
            return None;
        }
        let stripe = stripe(digest);
        match suffix {
            ENTRY => Some(Self::Entry { stripe }),
            TEMPORARY => Some(Self::Temporary { stripe }),
            _ => None,
        }
    }
}

/// The folder of a shard in a namespace's.
pub(super) fn shard(namespace: &Path, shard: usize) -> PathBuf {
    namespace.join(format!("{shard:02x}"))
}

/// The names in a folder; of what is none or not there, none. Names that are no text are not
/// ours.
pub(super) fn names(folder: &Path) -> io::Result<Vec<String>> {
    let items = match fs::read_dir(folder) {
        Ok(items) => items,
        Err(error) if is_absent(&error) || error.kind() == io::ErrorKind::NotADirectory => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for item in items {
        names.extend(item?.file_name().into_string().ok());
    }
    Ok(names)
}

/// Makes a folder with what is missing above it, for the owner only.
pub(super) fn make(folder: &Path) -> io::Result<()> {
    let mut maker = fs::DirBuilder::new();
    maker.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut maker, 0o700);
    maker.create(folder)
}

/// Options that make a file for the owner only.
pub(super) fn private() -> fs::OpenOptions {
    let mut options = fs::OpenOptions::new();
    options.write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Removes a file that may be gone already. Whether it was there.
pub(super) fn remove(file: &Path) -> io::Result<bool> {
    match fs::remove_file(file) {
        Ok(()) => Ok(true),
        Err(error) if is_absent(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

pub(super) fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

/// Not by a link: we make none.
fn is_folder(path: &Path) -> bool {
    path.symlink_metadata()
        .is_ok_and(|metadata| metadata.is_dir())
}

fn digest(text: &str) -> String {
    let mut digest = blake3::hash(text.as_bytes()).to_hex().to_string();
    digest.truncate(DIGITS);
    digest
}

fn is_digest(name: &str) -> bool {
    let mut bytes = name.bytes();
    name.len() == DIGITS && bytes.all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Of other digits than those of the shard, so that the entries of a shard have several locks.
fn stripe(digest: &str) -> usize {
    let byte = digest
        .get(2..4)
        .and_then(|digits| usize::from_str_radix(digits, 16).ok());
    byte.unwrap_or_default() % STRIPES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_ours_are_ours() {
        let digest = digest("k");
        let stripe = stripe(&digest);
        let own = |name: String| Own::parse(&name);
        assert_eq!(own(format!("{digest}.axc")), Some(Own::Entry { stripe }));
        assert_eq!(
            own(format!("{digest}.tmp")),
            Some(Own::Temporary { stripe })
        );
        for foreign in [
            digest.clone(),
            format!("{digest}.axc.bak"),
            format!("{}.axc", digest.to_uppercase()),
            format!("0{digest}.axc"),
            "README.axc".to_owned(),
            ".axc".to_owned(),
            format!("{}.axc", "é".repeat(16)),
        ] {
            assert_eq!(Own::parse(&foreign), None, "{foreign}");
        }
    }
}
