//! Where a publisher goes on after a start: what is committed, and what has changed since.
//!
//! Goes in: the state store and the index. Comes out: the ledger and the changes that no list tells yet. An
//! entry that nothing explains away stays listed (promise 6).

use super::entries::Entries;
use super::read::{List, ReadError, Word};
use super::revision::Ledger;
use super::share::{Beginning, Known, fold, prune_key};
use super::{PublishError, Publisher, blocking, ca_mark};
use crate::index::{Change, Record};
use crate::pki::{Serial, Status, Time, hash::sha256};
use crate::state::{Form, ListRow, Slot};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

/// What the store still has of a scope's lists.
#[derive(Default)]
struct Opened {
    /// The complete lists; empty if the last of them cannot be read.
    window: Vec<ListRow>,
    /// The last of them, and its entries.
    entries: Entries,
    complete: Option<Bytes>,
    /// The delta of the same number.
    delta: Option<(ListRow, Bytes)>,
    /// The numbers of those that are not there any more.
    lost: Vec<u64>,
}

impl Publisher {
    /// Reads what was committed before, and serves it as long as it lasts.
    pub(super) async fn reopen(&mut self) -> Result<(), PublishError> {
        self.state.claim().await?;
        let ca = &self.terms.issuer.certificate;
        self.state.begin_scope(&self.scope, &ca_mark(ca)).await?;
        let rows = self.state.lists(&self.scope).await?;
        let last = self.state.last(&self.scope, Slot::Any).await?;
        let regular = self.state.last(&self.scope, Slot::Regular).await?;
        let pruned = self.state.pruned(&self.scope).await?;
        let last_regular = regular.map(|list| list.this_update);
        let mut ledger = Ledger { last, last_regular, pruned, ..Ledger::default() };
        let Opened { window, entries, complete, delta, lost } = self.open_lists(rows).await?;
        self.state.lose(&self.scope, &lost).await?;
        if window.is_empty() {
            // Without the last list nobody can say what changed since an older one: a fresh start, with
            // numbers that go on.
            self.ledger = Arc::new(ledger);
            return Ok(());
        }
        ledger.window = window;
        ledger.entries = entries;
        ledger.complete = complete;
        ledger.delta_next_update = delta.as_ref().map(|(row, _)| row.next_update);
        let journal = self.state.journal(&self.scope).await?;
        ledger.journal = journal.into_iter().map(|row| (row.serial, (row.number, row.released_at))).collect();
        let delta_bytes = delta.as_ref().map(|(_, bytes)| bytes.clone());
        ledger.delta = delta.map(|(row, _)| row);
        self.ledger = Arc::new(ledger);
        if self.ledger.last.as_ref().is_some_and(|last| last.next_update > self.clock.now()) {
            self.show(delta_bytes);
        }
        Ok(())
    }

    /// Finds out what the last list does not tell yet: changes while nothing ran here.
    pub(super) async fn reconcile(&mut self) -> Result<(), PublishError> {
        let released = self.state.released(&self.terms.issuer.name).await?;
        let mut taken = std::mem::take(Arc::make_mut(&mut self.pending));
        // Before the view: a change that is noted may not be visible yet, one that is visible is noted.
        fold(&mut taken, self.share.take_changes());
        let beginning = self.share.beginning().await.map_err(|_| PublishError::Panicked)?;
        let (ledger, ours) = (Arc::clone(&self.ledger), self.share.filter());
        let cutoff = self.terms.cutoff(ledger.last_regular);
        let found = blocking(move || Ok(compare(&ledger, cutoff, beginning, ours, taken, &released)?)).await?;
        Arc::make_mut(&mut self.ledger).entries = found.entries;
        self.pending = Arc::new(found.pending);
        self.kept = found.kept;
        self.alarm();
        self.last_due = !self.has_ended() && self.is_last(self.clock.now()).await?;
        self.first = Instant::now();
        self.latest = self.first;
        Ok(())
    }

    /// Reads the last complete list and its delta. If the last is not whole, none counts.
    async fn open_lists(&self, rows: Vec<ListRow>) -> Result<Opened, PublishError> {
        let mut opened = Opened::default();
        let mut deltas = Vec::new();
        for row in rows {
            match Form::from(&row) {
                Form::Delta => deltas.push(row),
                Form::Complete => opened.window.push(row),
            }
        }
        let Some(last) = opened.window.last().cloned() else { return Ok(opened) };
        let Some((bytes, entries)) = self.open_complete(&last).await? else {
            opened.lost = opened.window.drain(..).map(|row| row.number).collect();
            return Ok(opened);
        };
        (opened.complete, opened.entries) = (Some(bytes), entries);
        if let Some(delta) = deltas.pop().filter(|delta| delta.number == last.number) {
            match self.state.list_bytes(&self.scope, &delta).await {
                Ok(Some(bytes)) if List::read(&bytes).is_ok() => opened.delta = Some((delta, bytes.into())),
                Ok(_) => self.unreadable(&delta, &"it is not a delta any more"),
                Err(error) => self.unreadable(&delta, &error),
            }
        }
        Ok(opened)
    }

    /// A complete list as it was published, and its entries in the chunks in which they are stored.
    async fn open_complete(&self, row: &ListRow) -> Result<Option<(Bytes, Entries)>, PublishError> {
        let parts = match self.state.parts(&self.scope, row).await {
            Ok(Some(parts)) => parts,
            Ok(None) => {
                self.unreadable(row, &"it is gone from the store");
                return Ok(None);
            }
            Err(error) => {
                self.unreadable(row, &error);
                return Ok(None);
            }
        };
        let wanted = row.sha256;
        let opened = blocking(move || {
            let bytes = parts.join();
            let whole = sha256(&bytes) == wanted && List::read(&bytes).is_ok();
            Ok(Entries::from_stored(parts.chunks).filter(|_| whole).map(|entries| (Bytes::from(bytes), entries)))
        })
        .await?;
        if opened.is_none() {
            self.unreadable(row, &"it is not what was published");
        }
        Ok(opened)
    }

    fn unreadable(&self, row: &ListRow, error: &dyn fmt::Display) {
        tracing::error!(scope = %self.scope, number = row.number, %error, "a published CRL cannot be read");
    }
}

/// What the last list says against what the index knows.
struct Found {
    /// The entries of the last list; if there is none, those of the first list to be.
    entries: Entries,
    pending: BTreeMap<Serial, Change>,
    kept: BTreeSet<Serial>,
}

fn compare(
    ledger: &Ledger,
    cutoff: Option<Time>,
    beginning: Beginning,
    ours: impl Fn(&Serial) -> bool,
    taken: BTreeMap<Serial, Change>,
    released: &BTreeSet<Serial>,
) -> Result<Found, ReadError> {
    let Beginning { view, revoked } = beginning;
    let is_over = |known: &Known| cutoff.is_some_and(|cutoff| known.prune_key < cutoff);
    let Some(last) = &ledger.complete else {
        let listed = revoked.iter().filter(|listed| !is_over(listed));
        let entries = Entries::from_sorted(listed.map(|listed| (&listed.serial, &listed.said, listed.prune_key)));
        let news = |(serial, change): &(Serial, Change)| ours(serial) && view.get(serial) != Some(change.record);
        let pending = taken.into_iter().filter(news);
        return Ok(Found { entries, pending: pending.collect(), kept: BTreeSet::new() });
    };

    let mut keys: Vec<Time> = Vec::new();
    let (mut pending, mut kept) = (BTreeMap::new(), BTreeSet::new());
    let tell = |serial: Serial, pending: &mut BTreeMap<Serial, Change>| {
        pending.extend(view.get(&serial).map(|record| (serial, Change { record, released: false })));
    };
    let mut revoked = revoked.into_iter().peekable();
    for entry in List::read(last)?.entries() {
        let entry = entry?;
        let (serial, Word::Revoked(said)) = (entry.serial, entry.word) else { continue };
        while let Some(known) = revoked.next_if(|known| known.serial < serial) {
            if !is_over(&known) {
                tell(known.serial, &mut pending);
            }
        }
        if let Some(known) = revoked.next_if(|known| known.serial == serial) {
            keys.push(known.prune_key);
            if known.said != said {
                tell(serial, &mut pending);
            }
            continue;
        }
        let record = view.get(&serial);
        keys.push(record.as_ref().map_or(Time::MAX, prune_key));
        if let Some(revocation) = record.as_ref().and_then(|record| record.status.revocation()) {
            // It was not known when it was listed that it belongs elsewhere.
            if *revocation != said {
                tell(serial, &mut pending);
            }
        } else if released.contains(&serial) || taken.get(&serial).is_some_and(|change| change.released) {
            let unknown = Record {
                not_before: Time::default(),
                not_after: Time::MAX,
                status: Status::Good,
                since: Time::default(),
                sha256: None,
            };
            pending.insert(serial, Change { record: record.unwrap_or(unknown), released: true });
        } else {
            kept.insert(serial);
        }
    }
    for known in revoked.filter(|known| !is_over(known)) {
        tell(known.serial, &mut pending);
    }
    // What came in between is newer than the view, or a release that no list shows.
    let is_listed = |serial: &Serial| ledger.entries.get(serial).is_some();
    let news = taken.into_iter().filter(|(serial, change)| {
        (ours(serial) || is_listed(serial)) && (change.released || view.get(serial) != Some(change.record))
    });
    fold(&mut pending, news.collect());
    Ok(Found { entries: ledger.entries.keyed(&keys), pending, kept })
}
