//! Who vouches for what is stored: a checksum, against rot; or a signature, against forgers.

use std::fmt;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::envelope::PACKED;

/// How long a checksum is.
const CHECKSUM: usize = 8;

/// How long a signature is.
const SIGNATURE: usize = blake3::OUT_LEN;

/// The least length of a secret.
const MIN_SECRET_BYTES: usize = 16;

/// What the keys are for, so that those who use one for something else, too, sign nothing for us.
const CONTEXT: &str = "axum-cache 2026-11-21 signatures of entries";

/// Proves that what is opened is what was sealed. Without keys by a checksum, with keys by the first of them.
#[derive(Clone, Default)]
pub(crate) struct Sealer {
    keys: Vec<[u8; blake3::KEY_LEN]>,
}

/// What stands for the rest of an entry.
#[derive(Clone, Copy)]
pub(super) enum Proof {
    Checksum([u8; CHECKSUM]),
    Signature([u8; SIGNATURE]),
}

impl Sealer {
    /// Signs by the first of these secrets, and believes all of them; `None` if there is none, or one that may
    /// be guessed.
    pub(crate) fn signing<S: AsRef<[u8]>>(secrets: impl IntoIterator<Item = S>) -> Option<Self> {
        let keys = secrets.into_iter().map(|secret| {
            let secret = secret.as_ref();
            let key = blake3::derive_key(CONTEXT, secret);
            (secret.len() >= MIN_SECRET_BYTES).then_some(key)
        });
        let sealer = Self {
            keys: keys.collect::<Option<_>>()?,
        };
        sealer.signs().then_some(sealer)
    }

    /// Whether it signs, and believes nothing that is not signed.
    pub(crate) fn signs(&self) -> bool {
        !self.keys.is_empty()
    }

    /// How long its proofs are.
    pub(super) fn proof_bytes(&self) -> usize {
        proof_bytes(self.signs())
    }

    /// What proves these parts.
    pub(super) fn proof(&self, preamble: &[u8], sealed: &[u8]) -> Proof {
        match self.keys.first() {
            None => Proof::Checksum(checksum(preamble, sealed)),
            Some(key) => Proof::Signature(*signature(key, preamble, sealed).as_bytes()),
        }
    }

    /// Whether `proof` proves these parts.
    pub(super) fn proves(&self, proof: &[u8], preamble: &[u8], sealed: &[u8]) -> bool {
        if !self.signs() {
            return proof == checksum(preamble, sealed);
        }
        // Compared in constant time.
        let Ok(proof) = blake3::Hash::from_slice(proof) else {
            return false;
        };
        let mut keys = self.keys.iter();
        keys.any(|key| signature(key, preamble, sealed) == proof)
    }
}

impl Proof {
    pub(super) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Checksum(checksum) => checksum,
            Self::Signature(signature) => signature,
        }
    }
}

/// How long proofs are that are signatures, or are not.
pub(super) const fn proof_bytes(is_signed: bool) -> usize {
    if is_signed { SIGNATURE } else { CHECKSUM }
}

/// That of a packed body is another one: a bit that flips in the preamble does not make it a plain one.
fn checksum(preamble: &[u8], sealed: &[u8]) -> [u8; CHECKSUM] {
    let is_packed = preamble.get(3) == Some(&PACKED);
    let seed = if is_packed { PACKED.into() } else { 0 };
    xxh3_64_with_seed(sealed, seed).to_be_bytes()
}

fn signature(key: &[u8; blake3::KEY_LEN], preamble: &[u8], sealed: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(preamble).update(sealed).finalize()
}

/// Says nothing of the keys.
impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.keys.len();
        f.debug_struct("Sealer").field("keys", &keys).finish()
    }
}
