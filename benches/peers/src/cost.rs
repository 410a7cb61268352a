//! What a piece of work costs: time of the processor, and allocations.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use rustix::time::{ClockId, clock_gettime};

/// Counts what each thread allocates.
pub struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // A thread that ends may allocate when its counter is gone.
    let _ = ALLOCATIONS.try_with(|allocations| allocations.set(allocations.get() + 1));
}

// SAFETY: all is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        unsafe { System.realloc(memory, layout, size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        unsafe { System.dealloc(memory, layout) }
    }
}

/// What this thread has used so far.
#[derive(Clone, Copy, Debug)]
pub struct Used {
    pub nanos: u64,
    pub allocations: u64,
}

impl Used {
    pub fn so_far() -> Self {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Self {
            nanos: time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64,
            allocations: ALLOCATIONS.get(),
        }
    }

    pub fn since(self, start: Self) -> Self {
        Self {
            nanos: self.nanos - start.nanos,
            allocations: self.allocations - start.allocations,
        }
    }
}
