//! One revision of a scope's lists, from the changes that wait to two lists that have been read back.
//!
//! Goes in: the [`Ledger`] (what is committed), the changes since, and the second to date it. Comes out: a
//! [`Draft`] (what the lists shall say, and why anything is missing from them) and the lists themselves.
//! Nothing here touches a disk or a clock, and nothing that fails here leaves a trace.
//!
//! Invariants: the complete list and its delta are twins, of one number, thisUpdate and content (CRL-22);
//! what a list says is the list before it, less what the draft explains, plus what it tells (promise 6).

use super::encode::{self, Head, Pool};
use super::entries::{self, Edit, Entries};
use super::plan::{self, Past};
use super::read::{self, List, ReadError, Word};
use super::{History, KeepExpired, Kind, PublisherConfig};
use crate::index::Change;
use crate::pki::{Issuer, Reason, Revocation, Serial, Status, Time, hash::sha256};
use crate::sign::verify::{self, VerifyError};
use crate::sign::{SignError, Signer};
use crate::state::{JournalRow, Keep, ListRow, NewChunk, NewList, Revision, Turnover};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{ControlFlow, Range};
use std::thread;
use std::time::{Duration, Instant};
use thiserror::Error;

/// Why there is no new revision.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BuildError {
    /// The CA's certificate is over: nothing that it signs is worth anything.
    #[error("the CA's certificate ended at {0}")]
    CaEnded(Time),
    /// The key refused.
    #[error("signing: {0}")]
    Sign(#[from] SignError),
    /// Reading back: the signature is wrong.
    #[error("reading back: {0}")]
    Signature(#[from] VerifyError),
    /// Reading back: not a list.
    #[error("reading back: {0}")]
    Read(#[from] ReadError),
    /// Reading back: the head does not say what it was to say.
    #[error("reading back: the head of the list is not what was asked for")]
    Head,
    /// Reading back: entries that do not follow from the list before and the changes since.
    #[error("reading back: {0}")]
    Entries(#[from] Fault),
    /// The process is stopping.
    #[error("abandoned")]
    Abandoned,
}

/// How a list's entries are not what they must be.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
#[non_exhaustive]
pub enum Fault {
    /// Entries out of order, or one twice (CRL-08).
    #[error("serial {0} is out of order")]
    Order(Serial),
    /// A revocation is not listed, or not as it is.
    #[error("the revocation of serial {0} is not listed as it should be")]
    Absent(Serial),
    /// An entry is new, or another than before, and no change explains it.
    #[error("the entry of serial {0} is new or changed, and nothing explains that")]
    Unasked(Serial),
    /// An entry of the list before is missing, and nothing explains it.
    #[error("the entry of serial {0} is missing, and nothing explains that")]
    Missing(Serial),
    /// There are not as many entries as there should be.
    #[error("{0} entries are listed where {1} should be")]
    Count(usize, usize),
}

/// What does not change from one revision to the next.
#[derive(Debug)]
pub(super) struct Terms {
    pub(super) config: PublisherConfig,
    pub(super) issuer: Issuer,
    /// keyIdentifier of every list (CRL-20).
    pub(super) authority_key: Vec<u8>,
    /// Where the delta is found.
    pub(super) freshest: Option<String>,
    /// Where the list of a part is found, as its certificates say (CRL-71).
    pub(super) distribution: Option<String>,
    /// The one kind of certificates that the lists are about (CRL-76).
    pub(super) only: Option<Kind>,
}

impl Terms {
    /// Entries with a prune key before this have been carried as long as they must (promise 7).
    pub(super) fn cutoff(&self, last_regular: Option<Time>) -> Option<Time> {
        match self.config.keep_expired {
            KeepExpired::No => last_regular,
            KeepExpired::For(time) => last_regular.map(|regular| regular - time),
            KeepExpired::Forever => None,
        }
    }
}

/// What has been committed.
#[derive(Clone, Debug, Default)]
pub(super) struct Ledger {
    /// The complete lists that are kept, in order; the last one is the current one.
    pub(super) window: Vec<ListRow>,
    /// The last complete list that was committed, also if its file has been lost since.
    pub(super) last: Option<ListRow>,
    /// The delta of the last revision.
    pub(super) delta: Option<ListRow>,
    /// nextUpdate of the last delta that there was.
    pub(super) delta_next_update: Option<Time>,
    /// thisUpdate of the last revision of a regular slot.
    pub(super) last_regular: Option<Time>,
    /// Per serial the revision that last told of it, and when a hold was lifted, if that was told.
    pub(super) journal: BTreeMap<Serial, (u64, Option<Time>)>,
    /// Entries of certificates that ended before this second may have left the lists.
    pub(super) pruned: Option<Time>,
    /// The entries of the current complete list.
    pub(super) entries: Entries,
    /// The current complete list, for comparing its successor with it.
    pub(super) complete: Option<Bytes>,
}

impl Ledger {
    /// Takes in what has been committed.
    pub(super) fn advance(&mut self, draft: Draft, made: &Made, revision: &Revision) {
        let oldest = revision.oldest;
        let rows = || revision.lists.iter().map(|list| &list.row);
        self.window.retain(|list| list.number >= oldest);
        self.window.extend(rows().filter(|row| row.base.is_none()).cloned());
        self.last = self.window.last().cloned();
        self.delta = rows().find(|row| row.base.is_some()).cloned();
        self.pruned = revision.pruned;
        self.delta_next_update = self.delta.as_ref().map_or(self.delta_next_update, |delta| Some(delta.next_update));
        if draft.regular {
            self.last_regular = Some(draft.this_update);
        }
        if draft.deltas {
            let told = draft.told.into_iter().map(|(serial, released_at)| (serial, (made.number, released_at)));
            self.journal.extend(told);
        }
        self.journal.retain(|_, (number, _)| *number > oldest);
        self.entries = made.entries.clone();
        self.complete = Some(made.complete.bytes.clone());
    }
}

/// What the next revision shall say.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) this_update: Time,
    pub(super) regular: bool,
    next_update: Time,
    delta_next_update: Time,
    /// The second before which entries may go.
    cutoff: Option<Time>,
    /// Entries of certificates that ended before this second may be missing.
    pruned: Option<Time>,
    /// Whether there are deltas at all.
    deltas: bool,
    /// The oldest complete list that stays in the window.
    oldest: Option<u64>,
    /// BaseCRLNumber of the delta; without an older list there is no delta.
    base: Option<u64>,
    entries: Entries,
    /// Serials of which this revision is the first to tell something; with a time, the release from hold.
    pub(super) told: BTreeMap<Serial, Option<Time>>,
    /// Revocations that came with the changes, listed before or not, in order.
    expected: Vec<(Serial, Revocation)>,
    /// Entries that go, by release or by promise 7.
    pub(super) dropped: BTreeSet<Serial>,
    /// Entries that stay although the index says good without a release.
    pub(super) unexplained: BTreeSet<Serial>,
    /// Changes that this revision is dated too early for.
    pub(super) deferred: BTreeMap<Serial, Change>,
}

impl Draft {
    pub(super) fn new(
        terms: &Terms,
        ledger: &Ledger,
        pending: &BTreeMap<Serial, Change>,
        this_update: Time,
        occasion: Occasion,
    ) -> Result<Self, BuildError> {
        let (config, ends) = (&terms.config, terms.issuer.certificate.not_after());
        if ends <= this_update {
            return Err(BuildError::CaEnded(ends));
        }
        let before = ledger.last.as_ref().map(|list| list.next_update);
        let next_update = match occasion {
            // ETSI-07: the last list of a scope has no end.
            Occasion::Last => Time::MAX,
            _ => plan::next_update(this_update, config.lifetime, before, ends),
        };
        let delta_next_update = plan::next_update(this_update, config.delta_lifetime, ledger.delta_next_update, ends);
        let deltas = config.deltas && occasion != Occasion::Last;
        let past: Vec<Past> = ledger.window.iter().map(Past::from).collect();
        let cut = plan::superfluous(&past, this_update, config.delta_window, config.history_bytes);
        let oldest = past.get(cut).map(|base| base.number);
        let mut draft = Self {
            this_update,
            regular: occasion != Occasion::Change,
            next_update,
            delta_next_update,
            cutoff: terms.cutoff(ledger.last_regular),
            pruned: ledger.pruned,
            deltas,
            oldest,
            base: oldest.filter(|_| deltas),
            entries: ledger.entries.clone(),
            told: BTreeMap::new(),
            expected: Vec::new(),
            dropped: BTreeSet::new(),
            unexplained: BTreeSet::new(),
            deferred: BTreeMap::new(),
        };
        let edits: Vec<(Serial, Edit)> = pending
            .iter()
            .filter_map(|(serial, change)| Some((*serial, draft.take(ledger, *serial, change)?)))
            .collect();
        draft.entries.apply(&edits);
        if let Some(cutoff) = draft.cutoff {
            for (serial, prune_key) in draft.entries.prune(cutoff) {
                draft.prune(serial, prune_key);
            }
        }
        Ok(draft)
    }

    fn prune(&mut self, serial: Serial, prune_key: Time) {
        self.dropped.insert(serial);
        // REV-23: the certificate had ended at its key at the latest.
        self.pruned = self.pruned.max(Some(prune_key + Duration::from_secs(1)));
    }

    /// The edit that a change asks for.
    fn take(&mut self, ledger: &Ledger, serial: Serial, change: &Change) -> Option<Edit> {
        let (record, listed) = (&change.record, ledger.entries.get(&serial));
        match record.status {
            Status::Revoked(revocation) => {
                let prune_key = record.not_after.max(record.since);
                if self.cutoff.is_some_and(|cutoff| prune_key < cutoff) {
                    self.prune(serial, prune_key);
                    return listed.is_some().then_some(Edit::Drop);
                }
                self.expected.push((serial, revocation));
                let mut entry = Vec::new();
                entries::put_revoked(&mut entry, &serial, &revocation);
                if listed.is_none_or(|listed| listed.entry != entry) {
                    self.told.insert(serial, None);
                } else if listed.is_some_and(|listed| listed.prune_key == prune_key) {
                    return None;
                }
                Some(Edit::List { revocation, prune_key })
            }
            Status::Good if change.released && record.since > self.this_update => {
                // Promise 2: this list is dated before the release, so it may not tell it.
                self.deferred.insert(serial, *change);
                None
            }
            Status::Good => {
                let on_hold = |listed: entries::Listed<'_>| {
                    read::listed(listed.entry).is_ok_and(|(_, said)| said.reason == Reason::CertificateHold)
                };
                if !change.released || !listed.is_none_or(on_hold) {
                    // Promise 6: only a recorded release takes a hold off the list, and nothing else anything.
                    if listed.is_some() {
                        self.unexplained.insert(serial);
                    }
                    return None;
                }
                // CRL-66: told also if no list ever showed the hold. A release from before this node's time
                // (`since` is zero) is dated with the list.
                let known = record.since > Time::default();
                self.told.insert(serial, Some(if known { record.since } else { self.this_update }));
                listed.is_some().then(|| self.drop_entry(serial))
            }
        }
    }

    fn drop_entry(&mut self, serial: Serial) -> Edit {
        self.dropped.insert(serial);
        Edit::Drop
    }

    /// What the delta over `base` tells: every serial that changed since, in order (CRL-63).
    fn since(&self, ledger: &Ledger, base: u64) -> Vec<(Serial, Option<Time>)> {
        let older =
            ledger.journal.iter().filter(|(serial, (number, _))| *number > base && !self.told.contains_key(serial));
        let older = older.map(|(serial, (_, released_at))| (*serial, *released_at));
        let mut all: Vec<_> =
            older.chain(self.told.iter().map(|(serial, released_at)| (*serial, *released_at))).collect();
        all.sort_unstable_by_key(|(serial, _)| *serial);
        all
    }

    fn head<'a>(&self, terms: &'a Terms, signer: &Signer, number: u64, base: Option<u64>) -> Head<'a> {
        let (config, certificate) = (&terms.config, &terms.issuer.certificate);
        Head {
            algorithm: signer.algorithm(),
            issuer: certificate.subject(),
            authority_key: &terms.authority_key,
            this_update: self.this_update,
            next_update: if base.is_some() { self.delta_next_update } else { self.next_update },
            number,
            base,
            freshest: terms.freshest.as_deref().filter(|_| self.deltas),
            distribution: terms.distribution.as_deref(),
            only: terms.only,
            expired_since: (config.keep_expired != KeepExpired::No)
                .then(|| self.pruned.unwrap_or_else(|| certificate.not_before())),
            next_publish: config
                .next_publish
                .then(|| plan::slot_after(self.this_update, config.interval))
                .filter(|_| self.next_update < Time::MAX),
            ca_issuers: config.ca_issuers.as_deref(),
        }
    }

    /// Encodes, signs and reads back both lists under `number`. Asks `proceed` between the long steps.
    pub(super) fn make(
        &mut self,
        terms: &Terms,
        ledger: &Ledger,
        number: u64,
        signer: &Signer,
        pool: &Pool,
        proceed: &dyn Fn() -> bool,
    ) -> Result<Made, BuildError> {
        let go_on = || if proceed() { Ok(()) } else { Err(BuildError::Abandoned) };
        let mut restored = BTreeSet::new();
        let complete = loop {
            go_on()?;
            let head = self.head(terms, signer, number, None);
            let (bytes, place) = signed(&head, self.entries.runs(), signer, pool)?;
            go_on()?;
            let (missing, sha256) = self.check_complete(terms, ledger, &head, &bytes)?;
            let Some((serial, _)) = missing.first() else {
                break Product { bytes, sha256, place, entries: count(self.entries.len()) };
            };
            if !restored.is_empty() {
                return Err(Fault::Missing(*serial).into());
            }
            // Promise 6: what goes unexplained stays listed, and the rest is published regardless.
            restored.extend(missing.iter().map(|(serial, _)| *serial));
            let keep = |(serial, revocation)| {
                let prune_key = ledger.entries.get(&serial).map_or(Time::MAX, |listed| listed.prune_key);
                (serial, Edit::List { revocation, prune_key })
            };
            self.entries.apply(&missing.into_iter().map(keep).collect::<Vec<_>>());
        };
        let (begun, mut delta_took) = (Instant::now(), Duration::ZERO);
        let delta = match self.base {
            None => None,
            Some(base) => {
                go_on()?;
                let head = self.head(terms, signer, number, Some(base));
                let told = self.since(ledger, base);
                let (entries, len) = self.delta_entries(&told);
                let (bytes, place) = signed(&head, std::iter::once(entries.as_slice()), signer, &Pool::default())?;
                self.check_delta(terms, &head, &bytes, &told)?;
                delta_took = begun.elapsed();
                Some(Product { sha256: sha256(&bytes), bytes, place, entries: count(len) })
            }
        };
        go_on()?;
        Ok(Made { number, complete, delta, delta_took, entries: self.entries.clone(), restored })
    }

    fn delta_entries(&self, told: &[(Serial, Option<Time>)]) -> (Vec<u8>, usize) {
        let (mut out, mut count) = (Vec::new(), 0);
        for (serial, released_at) in told {
            count += 1;
            match (released_at, self.entries.get(serial)) {
                (Some(at), _) => entries::put_removed(&mut out, serial, *at),
                (None, Some(listed)) => out.extend_from_slice(listed.entry),
                // It was listed, and a regular complete list carried it after its end (CRL-65); expiry is
                // no removal.
                (None, None) => count -= 1,
            }
        }
        (out, count)
    }

    /// Reads a complete list back and returns what is missing from it without an explanation, and its SHA-256.
    fn check_complete(
        &self,
        terms: &Terms,
        ledger: &Ledger,
        head: &Head<'_>,
        bytes: &[u8],
    ) -> Result<(Missing, [u8; 32]), BuildError> {
        let list = List::read(bytes)?;
        check_head(&list, head, ledger)?;
        // Each of the three goes once over the whole list, and they take about the same time.
        let (signature, entries, digest) = thread::scope(|scope| {
            let signature = scope.spawn(|| check_signature(terms, &list));
            let digest = scope.spawn(|| sha256(bytes));
            let entries = self.check_entries(ledger, &list);
            (signature.join(), entries, digest.join())
        });
        signature.unwrap_or(Err(VerifyError::Mismatch))?;
        Ok((entries?, digest.map_err(|_| VerifyError::Mismatch)?))
    }

    /// Walks along the list, the list before it and the changes at once: all three are in order. What stands
    /// there byte for byte as in the list before, which was read when it was made, is not read again.
    fn check_entries(&self, ledger: &Ledger, list: &List<'_>) -> Result<Missing, BuildError> {
        let before = ledger.complete.as_deref().map(List::read).transpose()?;
        let mut before = before.as_ref().map(|list| Previous::new(list.entries()));
        let mut expected = self.expected.iter().peekable();
        let (mut missing, mut last, mut count) = (Vec::new(), Last::None, 0);
        let mut entries = list.entries();
        loop {
            let same = before.as_mut().and_then(|before| before.same(&mut entries));
            if let Some(raw) = same
                && last.may_come_before(raw)?
                && match expected.peek() {
                    None => true,
                    Some((next, _)) => read::serial(raw)? < *next,
                }
            {
                count += 1;
                last = Last::Same(raw);
                continue;
            }
            let (serial, said, raw) = match same {
                Some(raw) => read::listed(raw).map(|(serial, said)| (serial, said, raw))?,
                None => match entries.next().transpose()? {
                    None => break,
                    Some(read::Entry { serial, word: Word::Revoked(said), raw }) => (serial, said, raw),
                    Some(entry) => return Err(Fault::Unasked(entry.serial).into()),
                },
            };
            count += 1;
            if last.serial()?.is_some_and(|last| last >= serial) {
                return Err(Fault::Order(serial).into());
            }
            last = Last::Read(serial);
            let mut asked = false;
            while let Some((wanted, revocation)) = expected.next_if(|(wanted, _)| *wanted <= serial) {
                if *wanted != serial || *revocation != said {
                    return Err(Fault::Absent(*wanted).into());
                }
                asked = true;
            }
            if let Some(before) = before.as_mut().filter(|_| same.is_none()) {
                let known = before.pass(serial, said, raw, |gone| {
                    if !self.dropped.contains(&gone.0) {
                        missing.push(gone);
                    }
                })?;
                if !known && !asked {
                    return Err(Fault::Unasked(serial).into());
                }
            }
        }
        if let Some((serial, _)) = expected.next() {
            return Err(Fault::Absent(*serial).into());
        }
        if count != self.entries.len() {
            return Err(Fault::Count(count, self.entries.len()).into());
        }
        for gone in before.into_iter().flat_map(Previous::rest) {
            let (serial, revocation) = gone?;
            if !self.dropped.contains(&serial) {
                missing.push((serial, revocation));
            }
        }
        Ok(missing)
    }

    /// Reads a delta back: it says of each serial that changed what the complete list says, or that it is removed.
    fn check_delta(
        &self,
        terms: &Terms,
        head: &Head<'_>,
        bytes: &[u8],
        told: &[(Serial, Option<Time>)],
    ) -> Result<(), BuildError> {
        let list = List::read(bytes)?;
        check_head(&list, head, &Ledger::default())?;
        check_signature(terms, &list)?;
        let mut entries = list.entries();
        for (serial, released_at) in told {
            let listed = self.entries.get(serial);
            if released_at.is_none() && listed.is_none() {
                continue;
            }
            let entry = entries.next().ok_or(Fault::Absent(*serial))??;
            let right = match (entry.word, released_at) {
                (Word::Removed(at), Some(released_at)) => at == *released_at && listed.is_none(),
                (Word::Revoked(_), None) => listed.is_some_and(|listed| listed.entry == entry.raw),
                _ => false,
            };
            if entry.serial != *serial || !right {
                return Err(Fault::Absent(*serial).into());
            }
        }
        match entries.next() {
            None => Ok(()),
            Some(entry) => Err(Fault::Unasked(entry?.serial).into()),
        }
    }

    /// What is to be committed, with the rows of both lists.
    pub(super) fn revision(&self, terms: &Terms, ledger: &Ledger, made: &Made) -> Revision {
        let row = |product: &Product, base, next_update, added| ListRow {
            number: made.number,
            base,
            this_update: self.this_update,
            next_update,
            regular: self.regular,
            sha256: product.sha256,
            bytes: count(product.bytes.len()),
            entries: product.entries,
            added: count(added),
        };
        let turnover = turnover(ledger, &made.entries);
        let complete = &made.complete;
        let (head, tail) = (complete.bytes.slice(..complete.place.start), complete.bytes.slice(complete.place.end..));
        let added = head.len() + tail.len() + turnover.new.iter().map(|chunk| chunk.der.len()).sum::<usize>();
        let mut lists = vec![NewList { row: row(complete, None, self.next_update, added), head, tail }];
        lists.extend(made.delta.as_ref().map(|delta| NewList {
            row: row(delta, self.base, self.delta_next_update, delta.bytes.len()),
            head: delta.bytes.clone(),
            tail: Bytes::new(),
        }));
        let oldest = self.oldest.unwrap_or(made.number);
        let told = self.told.iter().map(|(serial, released_at)| JournalRow {
            serial: *serial,
            number: made.number,
            released_at: *released_at,
        });
        Revision {
            number: made.number,
            lists,
            turnover,
            // Without a base there is nothing that a delta could later be compared with.
            changes: told.filter(|row| self.deltas && row.number > oldest).collect(),
            oldest,
            keep: match terms.config.history {
                History::Valid => Keep::Window,
                History::For(time) => Keep::Since(self.this_update - time),
                History::All => Keep::All,
            },
            pruned: self.pruned,
        }
    }
}

/// Which chunks the list before has alone, and which the new one.
fn turnover(ledger: &Ledger, entries: &Entries) -> Turnover {
    let afresh = ledger.window.is_empty();
    let none = Entries::default();
    let before = if afresh { &none } else { &ledger.entries };
    let new = entries.beyond(before).map(|run| NewChunk { sha256: sha256(&run.der), place: run.place, der: run.der });
    let gone = before.beyond(entries).map(|run| sha256(&run.der));
    Turnover { afresh, new: new.collect(), gone: gone.collect() }
}

fn count(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

/// Entries of the list before that are gone without an explanation.
type Missing = Vec<(Serial, Revocation)>;

/// What a revision is made for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Occasion {
    /// Something changed.
    Change,
    /// A regular slot (CRL-51).
    Regular,
    /// Nothing will change any more (ETSI-07).
    Last,
}

impl From<&ListRow> for Past {
    fn from(row: &ListRow) -> Self {
        Self { number: row.number, this_update: row.this_update, bytes: row.added }
    }
}

/// A list that has been signed and read back.
#[derive(Debug)]
pub(super) struct Product {
    pub(super) bytes: Bytes,
    pub(super) sha256: [u8; 32],
    /// Where its entries stand.
    place: Range<usize>,
    pub(super) entries: u64,
}

/// Both lists of a revision.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) number: u64,
    pub(super) complete: Product,
    pub(super) delta: Option<Product>,
    pub(super) delta_took: Duration,
    entries: Entries,
    /// Entries that would have gone missing, and were put back.
    pub(super) restored: BTreeSet<Serial>,
}

fn signed<'a>(
    head: &Head<'_>,
    runs: impl Iterator<Item = &'a [u8]> + Clone + Send,
    signer: &Signer,
    pool: &Pool,
) -> Result<(Bytes, Range<usize>), BuildError> {
    let mut buffer = pool.take();
    let laid = encode::lay(&mut buffer, head, runs);
    let signature = signer.sign(buffer.get(laid.tbs).unwrap_or_default())?;
    let whole = encode::seal(&mut buffer, head, &signature);
    let place = laid.entries.start.saturating_sub(whole.start)..laid.entries.end.saturating_sub(whole.start);
    Ok((pool.serve(buffer, whole), place))
}

/// Everything that the head says must be as asked, and after the list before (SEC-24).
fn check_head(list: &List<'_>, head: &Head<'_>, ledger: &Ledger) -> Result<(), BuildError> {
    let as_asked = list.algorithm == head.algorithm
        && list.issuer == head.issuer
        && list.authority_key == head.authority_key
        && (list.this_update, list.next_update) == (head.this_update, head.next_update)
        && (list.number, list.base) == (head.number, head.base)
        && list.freshest == head.freshest.filter(|_| head.base.is_none())
        && (list.distribution, list.only, list.ca_issuers) == (head.distribution, head.only, head.ca_issuers)
        && (list.expired_since, list.next_publish) == (head.expired_since, head.next_publish);
    let advances =
        ledger.last.as_ref().is_none_or(|last| last.number < list.number && last.this_update < list.this_update);
    let base_is_older = list.base.is_none_or(|base| base < list.number);
    if as_asked && advances && base_is_older { Ok(()) } else { Err(BuildError::Head) }
}

fn check_signature(terms: &Terms, list: &List<'_>) -> Result<(), VerifyError> {
    verify::signature(terms.issuer.certificate.spki(), list.algorithm, list.tbs, list.signature)
}

/// The entry before the present one.
enum Last<'a> {
    None,
    Read(Serial),
    /// Also in the list before, where all that followed upon it was in order.
    Same(&'a [u8]),
}

impl Last<'_> {
    fn serial(&self) -> Result<Option<Serial>, ReadError> {
        match self {
            Self::None => Ok(None),
            Self::Read(serial) => Ok(Some(*serial)),
            Self::Same(raw) => read::serial(raw).map(Some),
        }
    }

    /// Whether it is in order that `next`, which is the same in the list before, comes next.
    fn may_come_before(&self, next: &[u8]) -> Result<bool, ReadError> {
        match self {
            Self::Read(serial) => Ok(*serial < read::serial(next)?),
            Self::None | Self::Same(_) => Ok(true),
        }
    }
}

/// The list before, read only where it differs from the new one.
struct Previous<'a> {
    entries: read::Entries<'a>,
    /// The next entry, if it had to be read.
    next: Option<(Serial, Revocation)>,
}

impl<'a> Previous<'a> {
    const fn new(entries: read::Entries<'a>) -> Self {
        Self { entries, next: None }
    }

    /// Goes past the next entry if it is also the next one of `list`.
    fn same<'b>(&mut self, list: &mut read::Entries<'b>) -> Option<&'b [u8]>
    where
        'a: 'b,
    {
        if self.next.is_some() { None } else { list.pass_same(&mut self.entries) }
    }

    /// Goes past everything up to the entry, calling `gone` with what is not in the new list. Whether the
    /// very same entry stood here.
    fn pass(
        &mut self,
        serial: Serial,
        said: Revocation,
        raw: &[u8],
        mut gone: impl FnMut((Serial, Revocation)),
    ) -> Result<bool, ReadError> {
        loop {
            if self.next.is_none() && self.entries.pass_over(raw) {
                return Ok(true);
            }
            let Some(next) = self.peek()? else { return Ok(false) };
            let step = match next.0.cmp(&serial) {
                std::cmp::Ordering::Less => {
                    gone(next);
                    ControlFlow::Continue(())
                }
                std::cmp::Ordering::Equal => ControlFlow::Break(next.1 == said),
                std::cmp::Ordering::Greater => return Ok(false),
            };
            self.next = None;
            if let ControlFlow::Break(same) = step {
                return Ok(same);
            }
        }
    }

    fn peek(&mut self) -> Result<Option<(Serial, Revocation)>, ReadError> {
        if self.next.is_none() {
            self.next = self.entries.next().transpose()?.and_then(revoked);
        }
        Ok(self.next)
    }

    fn rest(self) -> impl Iterator<Item = Result<(Serial, Revocation), ReadError>> {
        let unread = self.entries.filter_map(|entry| entry.map(revoked).transpose());
        self.next.map(Ok).into_iter().chain(unread)
    }
}

const fn revoked(entry: read::Entry<'_>) -> Option<(Serial, Revocation)> {
    match entry.word {
        Word::Revoked(revocation) => Some((entry.serial, revocation)),
        Word::Removed(_) => None,
    }
}
