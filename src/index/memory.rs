//! Memory for the packed octets of segments, in huge pages where the system has them.
//!
//! A lookup reads one place out of gigabytes. With pages of 4 KiB the processor must first look for the page
//! in tables that fit into no cache, which costs about as much as the octets themselves (benches/index.rs).
//! Memory that is mapped for itself also goes back to the system when a segment is replaced.

use memmap2::MmapMut;
use std::ops::{Deref, DerefMut};

/// Octets of a huge page.
const HUGE: usize = 2 << 20;

/// Zeroed octets; whoever made it knows how many of them matter, there may be more.
#[derive(Debug)]
pub(super) enum Memory {
    Heap(Box<[u8]>),
    Mapped(MmapMut),
}

impl Memory {
    /// At least `len` octets, all zero.
    pub(super) fn zeroed(len: usize) -> Self {
        let whole_pages = len - len % HUGE;
        if whole_pages == 0 {
            return Self::Heap(vec![0; len].into());
        }
        // Linux aligns to huge pages what is a multiple of them; what is never touched costs nothing.
        let Ok(map) = MmapMut::map_anon(len.next_multiple_of(HUGE)) else { return Self::Heap(vec![0; len].into()) };
        // The last, broken page stays one of small pages: else every segment would waste half of one.
        use_huge_pages(&map, whole_pages);
        Self::Mapped(map)
    }
}

/// That a system has none is no error.
#[cfg(target_os = "linux")]
fn use_huge_pages(map: &MmapMut, len: usize) {
    if let Err(error) = map.advise_range(memmap2::Advice::HugePage, 0, len) {
        tracing::debug!(%error, "no huge pages for the index");
    }
}

#[cfg(not(target_os = "linux"))]
fn use_huge_pages(_: &MmapMut, _: usize) {}

impl Default for Memory {
    fn default() -> Self {
        Self::Heap(Box::default())
    }
}

impl Deref for Memory {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Heap(octets) => octets,
            Self::Mapped(map) => map,
        }
    }
}

impl DerefMut for Memory {
    fn deref_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Heap(octets) => octets,
            Self::Mapped(map) => map,
        }
    }
}
