//! What is served: the current lists from memory, those of the delta window from the state store.
//!
//! Goes in: what a publisher has committed. Comes out: whole lists with their validators, for any number
//! of readers. It makes and judges nothing.
//!
//! Invariant: of each older list at most one copy is in memory, however many ask for it at once; beyond
//! [`RECENT`] bytes none stays there unasked.

use crate::pki::Time;
use crate::state::{ListRow, Scope, State};
use arc_swap::ArcSwap;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::sync::{Arc, Weak};
use tokio::sync::{Mutex, watch};

/// Bytes of older lists that stay in memory for the next who asks.
const RECENT: usize = 16 << 20;

/// A list as it is served.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Published {
    /// CRLNumber.
    pub number: u64,
    /// thisUpdate.
    pub this_update: Time,
    /// nextUpdate.
    pub next_update: Time,
    /// The list in DER.
    pub bytes: Bytes,
    /// Strong entity tag: the SHA-256 in hex, in quotes (CRL-92).
    pub etag: String,
}

impl Published {
    pub(super) fn new(row: &ListRow, bytes: Bytes) -> Self {
        let mut etag = String::with_capacity(66);
        etag.push('"');
        for octet in row.sha256 {
            // Writing to a String does not fail.
            let _ = write!(etag, "{octet:02x}");
        }
        etag.push('"');
        Self { number: row.number, this_update: row.this_update, next_update: row.next_update, bytes, etag }
    }
}

/// What a publisher puts on its shelf, all at once.
#[derive(Debug, Default)]
pub(super) struct Stock {
    pub(super) complete: Option<Arc<Published>>,
    pub(super) delta: Option<Arc<Published>>,
    /// Complete lists that are served by number only.
    pub(super) older: BTreeMap<u64, ListRow>,
    /// Where those come from.
    pub(super) store: Option<(State, Scope)>,
}

#[derive(Debug, Default)]
struct Copies {
    /// Every copy that somebody still reads.
    all: BTreeMap<u64, Weak<Vec<u8>>>,
    /// The last ones that were asked for, newest first.
    recent: VecDeque<Arc<Vec<u8>>>,
}

impl Copies {
    fn keep(&mut self, number: u64, bytes: &Arc<Vec<u8>>) {
        self.all.retain(|_, copy| copy.strong_count() > 0);
        self.all.insert(number, Arc::downgrade(bytes));
        self.recent.retain(|kept| !Arc::ptr_eq(kept, bytes));
        self.recent.push_front(Arc::clone(bytes));
        let mut room = RECENT;
        self.recent.retain(|kept| {
            let fits = room.checked_sub(kept.len());
            room = fits.unwrap_or(0);
            fits.is_some()
        });
    }
}

/// The lists of one issuer that can be had at present. Empty until a publisher has put some on it.
#[derive(Debug, Default)]
pub struct Shelf {
    stock: ArcSwap<Stock>,
    /// Locked while one is read, so that a burst of requests reads it once.
    copies: Mutex<Copies>,
    changes: watch::Sender<()>,
}

impl Shelf {
    /// An empty shelf.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The current complete list.
    #[must_use]
    pub fn complete(&self) -> Option<Arc<Published>> {
        self.stock.load().complete.clone()
    }

    /// The current delta.
    #[must_use]
    pub fn delta(&self) -> Option<Arc<Published>> {
        self.stock.load().delta.clone()
    }

    /// The complete list with this number, if it is the current one or of the delta window (CRL-60). Reads
    /// the state store if it must, without holding up the caller's thread.
    pub async fn numbered(&self, number: u64) -> Option<Arc<Published>> {
        let stock = self.stock.load_full();
        if let Some(current) = stock.complete.as_ref().filter(|complete| complete.number == number) {
            return Some(Arc::clone(current));
        }
        let (row, (state, scope)) = (stock.older.get(&number)?, stock.store.as_ref()?);
        let mut copies = self.copies.lock().await;
        let copy = match copies.all.get(&number).and_then(Weak::upgrade) {
            Some(copy) => copy,
            None => match state.list_bytes(scope, row).await {
                Ok(bytes) => Arc::new(bytes?),
                Err(error) => {
                    tracing::error!(number, %scope, %error, "an older CRL cannot be served");
                    return None;
                }
            },
        };
        copies.keep(number, &copy);
        Some(Arc::new(Published::new(row, Bytes::from_owner(Shared(copy)))))
    }

    /// The numbers of all complete lists on it.
    pub(super) fn numbers(&self) -> BTreeSet<u64> {
        let stock = self.stock.load();
        stock.older.keys().copied().chain(stock.complete.as_ref().map(|complete| complete.number)).collect()
    }

    /// Tells whenever something new is put on it.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    pub(super) fn put(&self, stock: Stock) {
        self.stock.store(Arc::new(stock));
        self.changes.send_replace(());
    }

    /// Puts one list on it, for the tests of whoever serves it.
    #[cfg(test)]
    pub(crate) fn put_complete(&self, complete: Published) {
        self.put(Stock { complete: Some(Arc::new(complete)), ..Stock::default() });
    }
}

struct Shared(Arc<Vec<u8>>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
