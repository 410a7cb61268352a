//! Zstandard, where it was built with.

#[cfg(feature = "zstd")]
mod built {
    use std::cell::RefCell;

    use zstd::bulk::{Compressor, Decompressor};

    /// Higher ones make JSON and HTML little smaller, and take far longer.
    const LEVEL: i32 = 1;

    thread_local! {
        // Making one takes longer than its work on what is short.
        static PACKER: RefCell<Option<Compressor<'static>>> =
            RefCell::new(Compressor::new(LEVEL).ok());
        static UNPACKER: RefCell<Option<Decompressor<'static>>> =
            RefCell::new(Decompressor::new().ok());
    }

    pub(in crate::entry) fn pack(bytes: &[u8]) -> Option<Vec<u8>> {
        PACKER.with_borrow_mut(|packer| packer.as_mut()?.compress(bytes).ok())
    }

    /// What was packed, if it has this length.
    pub(in crate::entry) fn unpack(packed: &[u8], length: usize) -> Option<Vec<u8>> {
        let unpack = |unpacker: &mut Decompressor<'_>| unpacker.decompress(packed, length).ok();
        let unpacked = UNPACKER.with_borrow_mut(|unpacker| unpacker.as_mut().and_then(unpack))?;
        (unpacked.len() == length).then_some(unpacked)
    }
}

#[cfg(not(feature = "zstd"))]
mod built {
    pub(in crate::entry) fn pack(_: &[u8]) -> Option<Vec<u8>> {
        None
    }

    pub(in crate::entry) fn unpack(_: &[u8], _: usize) -> Option<Vec<u8>> {
        None
    }
}

pub(super) use self::built::{pack, unpack};
