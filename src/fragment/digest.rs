//! Which templates a process renders, so that markup of other ones is not served.
//!
//! # Invariants
//!
//! - A fragment is served only by processes that render the same templates, as far as they know: by
//!   default, that run the same program.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::OnceLock;

use tokio::runtime::Handle;
use xxhash_rust::xxh3::Xxh3;

use crate::tag::draw;

/// The digest of some templates; see [`Cache::with_templates`](crate::Cache::with_templates).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TemplateDigest(u64);

impl TemplateDigest {
    /// The digest of these sources, in this order: those of a template, and of all that it includes,
    /// extends or imports.
    ///
    /// ```
    /// use axum_cache::fragment::TemplateDigest;
    ///
    /// # macro_rules! include_str { ($path:literal) => { $path } }
    /// let post = TemplateDigest::of([
    ///     include_str!("../templates/base.html"),
    ///     include_str!("../templates/post.html"),
    /// ]);
    /// # assert_ne!(post, TemplateDigest::of(["../templates/post.html"]));
    /// ```
    pub fn of<S: AsRef<[u8]>>(sources: impl IntoIterator<Item = S>) -> Self {
        let mut hasher = Xxh3::new();
        for source in sources {
            let source = source.as_ref();
            hasher.update(&(source.len() as u64).to_le_bytes());
            hasher.update(source);
        }
        Self(hasher.digest())
    }

    pub(super) fn number(self) -> u64 {
        self.0
    }
}

/// That of all templates of this program, which are part of it.
pub(super) async fn of_program() -> u64 {
    static PROGRAM: OnceLock<u64> = OnceLock::new();
    if let Some(digest) = PROGRAM.get() {
        return *digest;
    }
    let digest = match Handle::try_current() {
        Ok(runtime) => runtime.spawn_blocking(read_program).await.ok().flatten(),
        Err(_) => read_program(),
    };
    // A process that cannot know shares its fragments with none.
    *PROGRAM.get_or_init(|| digest.unwrap_or_else(draw))
}

fn read_program() -> Option<u64> {
    // What runs, also if another one has been put in its place.
    let running = PathBuf::from("/proc/self/exe");
    let path = if running.exists() {
        running
    } else {
        std::env::current_exe().ok()?
    };
    let mut hasher = Xxh3::new();
    let mut file = File::open(path).ok()?;
    if cfg!(debug_assertions) {
        // Large, slow to read, and made on the machine where it runs.
        let metadata = file.metadata().ok()?;
        let modified = metadata.modified().ok()?;
        let modified = modified.duration_since(std::time::UNIX_EPOCH).ok()?;
        hasher.update(&metadata.len().to_le_bytes());
        hasher.update(&modified.as_nanos().to_le_bytes());
        return Some(hasher.digest());
    }
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer).ok()? {
            0 => return Some(hasher.digest()),
            read => hasher.update(&buffer[..read]),
        }
    }
}
