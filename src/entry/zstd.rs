//! Zstandard, where it was built with.

#[cfg(feature = "zstd")]
mod built {
    use std::cell::RefCell;
    use std::thread::LocalKey;

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
        with(&PACKER, |packer| packer.compress(bytes).ok())
    }

    /// What was packed, if it has this length.
    pub(in crate::entry) fn unpack(packed: &[u8], length: usize) -> Option<Vec<u8>> {
        let unpacked = with(&UNPACKER, |unpacker| {
            unpacker.decompress(packed, length).ok()
        })?;
        (unpacked.len() == length).then_some(unpacked)
    }

    /// Works with what a thread keeps; nothing, if there is none, as where the thread is about to end.
    fn with<T, R>(
        kept: &'static LocalKey<RefCell<Option<T>>>,
        work: impl FnOnce(&mut T) -> Option<R>,
    ) -> Option<R> {
        let worked = kept.try_with(|kept| kept.borrow_mut().as_mut().and_then(work));
        worked.ok().flatten()
    }

    #[cfg(test)]
    mod tests {
        #![allow(clippy::unwrap_used, reason = "a failed test may panic")]

        use std::sync::mpsc::{Sender, channel};

        use super::*;

        struct AtTheEnd(Sender<bool>);

        impl Drop for AtTheEnd {
            fn drop(&mut self) {
                let _ = self
                    .0
                    .send(pack(&[7; 1000]).is_none() && unpack(b"", 3).is_none());
            }
        }

        thread_local! {
            static AT_THE_END: RefCell<Option<AtTheEnd>> = const { RefCell::new(None) };
        }

        #[test]
        fn a_thread_that_ends_packs_nothing() {
            let (ended, end) = channel();
            let thread = std::thread::spawn(|| {
                // What is there first goes last.
                AT_THE_END.set(Some(AtTheEnd(ended)));
                let packed = pack(&[7; 1000]).unwrap();
                unpack(&packed, 1000).unwrap().len()
            });
            assert_eq!(thread.join().unwrap(), 1000);
            assert!(end.recv().unwrap());
        }
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
