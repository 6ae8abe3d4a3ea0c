//! A CA's own lists, for a CA from which only these can be had.
//!
//! Goes in: a complete CRL, and where there is one its delta, as files or from URLs. Comes out: a row for each
//! entry, and later only for entries that are new or say something else. A list does not tell what was issued, nor
//! when that ends: notBefore is 1970 and notAfter the end of time.
//!
//! Invariants: a list counts only with the CA's signature, for all its certificates and reasons, and with a
//! number that does not go back; else the one before holds. What is told holds from thisUpdate to nextUpdate and
//! no longer. An entry that is gone was released if it was on hold; else it stays what it was, as lists drop the
//! certificates that have expired.

use super::fetch::Fetched;
use super::file::Watched;
use super::{Batch, Currency, Key, OddRow, Page, PageKey, Position, Row, Source, SourceError, Waited};
use crate::pki::list::{Entry, List, Number, REMOVE_FROM_CRL};
use crate::pki::{Certificate, Clock, Issuer, Reason, Revocation, Serial, Status, SystemClock, Time};
use crate::sign::verify;
use bytes::Bytes;
use foldhash::fast::FixedState;
use hyper::Uri;
use rustls_pki_types::{CertificateRevocationListDer, pem::PemObject};
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Rows of one batch of changes.
const BATCH: usize = 1_000;
/// How long opening waits for the first list, and then for the delta, before it is tried again.
const OPENING: Duration = Duration::from_secs(20);
const OPENING_DELTA: Duration = Duration::from_secs(5);
/// How long one look at a file or a transfer takes, so that the other gets its turn.
const STEP: Duration = Duration::from_millis(100);
/// Clocks of CAs may run ahead of ours by so much.
const SKEW: Duration = Duration::from_secs(300);

/// Where a list is.
#[derive(Clone, Debug)]
pub enum Place {
    /// A file, DER or PEM.
    File(PathBuf),
    /// An http:// URL.
    Url(Uri),
}

#[derive(Debug)]
enum Taker {
    File(Watched),
    Url(Fetched),
}

impl Taker {
    fn new(place: Place, poll: Duration) -> Self {
        match place {
            Place::File(path) => Self::File(Watched::new(path)),
            Place::Url(uri) => Self::Url(Fetched::new(uri, poll)),
        }
    }

    fn name(&self) -> String {
        match self {
            Self::File(file) => file.path().display().to_string(),
            Self::Url(fetched) => fetched.uri().to_string(),
        }
    }

    fn reset(&mut self) {
        match self {
            Self::File(file) => file.reset(),
            Self::Url(fetched) => fetched.reset(),
        }
    }

    /// Another list than the one before, in DER, if there is one by `until`.
    async fn next(&mut self, until: Instant) -> Result<Option<Bytes>, String> {
        let text = |error: SourceError| error.to_string();
        let read = match self {
            Self::Url(fetched) => fetched.next(until).await?,
            Self::File(file) => {
                let sound = |bytes: &[u8]| der(bytes.to_vec().into()).and_then(|list| readable(&list));
                let read = if file.is_news().map_err(text)? { file.read(sound).map_err(text)? } else { None };
                match read {
                    Some((bytes, stamp)) => {
                        file.take(stamp);
                        Some(bytes.into())
                    }
                    None => {
                        tokio::time::sleep_until(until).await;
                        None
                    }
                }
            }
        };
        read.map(der).transpose().map_err(|why| format!("{}: {why}", self.name()))
    }
}

/// The list itself, where it came as PEM.
fn der(bytes: Bytes) -> Result<Bytes, String> {
    if bytes.first() == Some(&0x30) {
        return Ok(bytes);
    }
    let list = CertificateRevocationListDer::from_pem_slice(&bytes);
    list.map(|list| Bytes::copy_from_slice(&list)).map_err(|_| "neither a CRL in DER nor in PEM".to_owned())
}

fn readable(list: &[u8]) -> Result<(), String> {
    List::read(list).map(drop).map_err(|error| error.to_string())
}

/// What is remembered of an entry: a hash of it, the lowest bit telling whether it is a hold.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Mark(NonZeroU64);

impl Mark {
    const fn is_hold(self) -> bool {
        self.0.get() & 1 == 1
    }
}

/// A list that counts.
#[derive(Debug)]
struct Taken {
    bytes: Bytes,
    number: Option<Number>,
    /// BaseCRLNumber of a delta.
    base: Option<Number>,
    this_update: Time,
    next_update: Time,
    /// Entries by their serials; `None` for one that a delta takes off the list.
    marks: HashMap<Serial, Option<Mark>>,
}

impl Taken {
    /// The entries from the one on that stands `octets` before their end; they were all read before.
    fn entries(&self, octets: usize) -> impl Iterator<Item = (Entry<'_>, usize)> {
        let mut entries = List::read(&self.bytes).ok().map(|list| list.last_entries(octets));
        std::iter::from_fn(move || {
            let entries = entries.as_mut()?;
            let entry = entries.next()?.ok()?;
            Some((entry, entries.octets_left()))
        })
    }
}

/// The lists that hold together.
#[derive(Clone, Debug)]
struct Lists {
    base: Arc<Taken>,
    delta: Option<Arc<Taken>>,
}

impl Lists {
    /// The delta, where it says more than the complete list and may be combined with it (RFC 5280 5.2.4).
    fn delta(&self) -> Option<&Taken> {
        let fits = |delta: &&Taken| delta.number > self.base.number && delta.base <= self.base.number;
        self.delta.as_deref().filter(fits)
    }

    /// What they say of a serial; `None` if it is not listed.
    fn get(&self, serial: &Serial) -> Option<Mark> {
        let by_delta = self.delta().and_then(|delta| delta.marks.get(serial));
        by_delta.or_else(|| self.base.marks.get(serial)).copied().flatten()
    }

    /// All serials that are listed.
    fn serials(&self) -> impl Iterator<Item = (&Serial, Mark)> {
        let all = self.base.marks.keys().chain(self.delta().into_iter().flat_map(|delta| delta.marks.keys()));
        all.filter_map(|serial| Some((serial, self.get(serial)?)))
    }

    /// The newest thisUpdate.
    fn told_at(&self) -> Time {
        self.delta().map_or(self.base.this_update, |delta| delta.this_update.max(self.base.this_update))
    }

    fn currency(&self) -> Currency {
        let now = SystemClock.now();
        // Without its delta a complete list still holds.
        let fresh = self.delta().filter(|delta| now < delta.next_update);
        let until = fresh.map_or(self.base.next_update, |delta| delta.next_update.min(self.base.next_update));
        Currency::Until { at: self.told_at(), until }
    }

    /// Calls `each` with every entry that holds.
    fn for_each(&self, mut each: impl FnMut(&Entry<'_>)) {
        let overruled = |serial: &Serial| self.delta().is_some_and(|delta| delta.marks.contains_key(serial));
        let base = self.base.entries(usize::MAX).filter(|(entry, _)| !overruled(&entry.serial));
        let delta = self.delta().into_iter().flat_map(|delta| delta.entries(usize::MAX));
        base.chain(delta)
            .filter(|(entry, _)| entry.reason != Some(REMOVE_FROM_CRL))
            .for_each(|(entry, _)| each(&entry));
    }
}

/// The reader of one CA's lists.
#[derive(Debug)]
pub struct CrlSource {
    issuer: Arc<str>,
    ca: Certificate,
    /// Complete list, delta.
    takers: [Option<Taker>; 2],
    /// What came and was not looked at yet.
    news: [Option<Bytes>; 2],
    /// Why the newest of each cannot be had or does not count.
    complaints: [Option<String>; 2],
    lists: Option<Lists>,
    /// Those that are given page by page.
    paging: Option<Lists>,
    /// Was on hold and is listed no more.
    released: HashSet<Serial>,
    changed: VecDeque<Row>,
    hash: FixedState,
}

const BASE: usize = 0;
const DELTA: usize = 1;

impl CrlSource {
    /// Reads the lists of `issuer`, looking for another one every `poll`.
    #[must_use]
    pub fn new(issuer: &Issuer, list: Place, delta: Option<Place>, poll: Duration) -> Self {
        Self {
            issuer: issuer.name.as_str().into(),
            ca: issuer.certificate.clone(),
            takers: [Some(Taker::new(list, poll)), delta.map(|delta| Taker::new(delta, poll))],
            news: [None, None],
            complaints: [None, None],
            lists: None,
            paging: None,
            released: HashSet::new(),
            changed: VecDeque::new(),
            hash: FixedState::with_seed(RandomState::new().hash_one(0)),
        }
    }

    /// Looks whether another list has come, until `until`.
    async fn look(&mut self, which: usize, until: Instant) {
        let Some(taker) = &mut self.takers[which] else { return };
        match taker.next(until).await {
            Ok(None) => {}
            Ok(Some(bytes)) => self.news[which] = Some(bytes),
            Err(why) => self.complain(which, why),
        }
    }

    /// Looks at both for a little while; whether anything came.
    async fn look_at_both(&mut self, until: Instant) -> bool {
        self.look(DELTA, Instant::now()).await;
        self.look(BASE, until.min(Instant::now() + STEP)).await;
        self.news.iter().any(Option::is_some)
    }

    fn complain(&mut self, which: usize, why: String) {
        if self.complaints[which].as_ref() != Some(&why) {
            tracing::warn!(issuer = %self.issuer, "{why}");
        }
        self.complaints[which] = Some(why);
    }

    /// What came, if it counts; else the list before holds.
    fn take(&mut self, which: usize) -> Option<Arc<Taken>> {
        let bytes = self.news[which].take()?;
        let before = self.lists.as_ref().and_then(|lists| match which {
            BASE => Some(&lists.base),
            _ => lists.delta.as_ref(),
        });
        match self.judge(bytes, which == DELTA, before.map(Arc::as_ref)) {
            Ok(taken) => {
                self.complaints[which] = None;
                Some(Arc::new(taken))
            }
            Err(why) => {
                let name = self.takers[which].as_ref().map(Taker::name).unwrap_or_default();
                self.complain(which, format!("{name} does not count: {why}"));
                None
            }
        }
    }

    fn judge(&self, bytes: Bytes, is_delta: bool, before: Option<&Taken>) -> Result<Taken, String> {
        let list = List::read(&bytes).map_err(|error| error.to_string())?;
        let next_update = vouched(&list, &self.ca)?;
        if is_delta != list.base.is_some() {
            return Err(if is_delta { "it is no delta" } else { "it is a delta" }.to_owned());
        }
        let (number, base, this_update) = (list.number, list.base, list.this_update);
        if let Some(before) = before
            && (number < before.number || this_update < before.this_update)
        {
            let text = |number: Option<Number>| number.map_or_else(|| "none".to_owned(), |number| number.to_string());
            return Err(format!(
                "it is older than the one before (number {} of {this_update} after {} of {})",
                text(number),
                text(before.number),
                before.this_update
            ));
        }
        let mut marks = HashMap::new();
        for (nth, entry) in list.entries().enumerate() {
            let entry = entry.map_err(|error| format!("entry {} cannot be read: {error}", nth + 1))?;
            marks.insert(entry.serial, self.mark(&entry));
        }
        Ok(Taken { number, base, this_update, next_update, marks, bytes })
    }

    fn mark(&self, entry: &Entry<'_>) -> Option<Mark> {
        let is_hold = entry.reason == Some(Reason::CertificateHold.code());
        let hash = self.hash.hash_one(entry.raw) & !3 | 2 | u64::from(is_hold);
        NonZeroU64::new(hash).filter(|_| entry.reason != Some(REMOVE_FROM_CRL)).map(Mark)
    }

    fn row(&self, entry: &Entry<'_>, told_at: Time) -> Row {
        let reason = entry.reason.and_then(Reason::from_code).unwrap_or_default();
        let revocation = Revocation { at: entry.at, reason, invalidity_date: entry.invalidity_date };
        self.row_of(entry.serial, Status::Revoked(revocation), told_at)
    }

    /// Its hold is over, as the list of `told_at` has it no more.
    fn release(&self, serial: Serial, told_at: Time) -> Row {
        Row { released_at: Some(told_at), ..self.row_of(serial, Status::Good, told_at) }
    }

    fn row_of(&self, serial: Serial, status: Status, told_at: Time) -> Row {
        Row {
            issuer: Arc::clone(&self.issuer),
            serial,
            not_before: Time::default(),
            not_after: Time::MAX,
            status,
            changed_at: told_at,
            released_at: None,
            shard: None,
            ca: None,
            sha256: None,
        }
    }

    /// Takes over the lists that came, and finds out what is new in them.
    fn take_news(&mut self) {
        let (base, delta) = (self.take(BASE), self.take(DELTA));
        if base.is_none() && delta.is_none() {
            return;
        }
        let before = self.lists.take();
        let base = base.or_else(|| before.as_ref().map(|before| Arc::clone(&before.base)));
        let delta = delta.or_else(|| before.as_ref()?.delta.clone());
        let now = base.map(|base| Lists { base, delta });
        if let (Some(before), Some(now)) = (before, &now) {
            self.compare(&before, now);
        }
        self.lists = now;
    }

    fn compare(&mut self, before: &Lists, now: &Lists) {
        let told_at = now.told_at();
        let mut changed = std::mem::take(&mut self.changed);
        now.for_each(|entry| {
            if before.get(&entry.serial) != self.mark(entry) {
                changed.push_back(self.row(entry, told_at));
            }
        });
        let gone = before.serials().filter(|(serial, mark)| mark.is_hold() && now.get(serial).is_none());
        self.released.extend(gone.map(|(serial, _)| *serial));
        self.released.retain(|serial| now.get(serial).is_none());
        // Said again with each list: the feed believes a release only from one that is later than the hold.
        changed.extend(self.released.iter().map(|serial| self.release(*serial, told_at)));
        self.changed = changed;
    }

    fn lists(&self) -> Result<&Lists, SourceError> {
        let complaint = || self.complaints[BASE].clone().unwrap_or_else(|| "no list has come yet".to_owned());
        self.lists.as_ref().ok_or_else(|| SourceError::Content(complaint()))
    }

    fn position(&self, lists: &Lists) -> Position {
        let taker = self.takers[BASE].as_ref().map(Taker::name).unwrap_or_default();
        Position { database: taker, cursor: lists.told_at().to_string() }
    }
}

/// nextUpdate of a list that the CA vouches for, and that speaks for all its certificates.
fn vouched(list: &List<'_>, ca: &Certificate) -> Result<Time, String> {
    if list.issuer != ca.subject() {
        return Err(format!("it is the list of \"{}\"", list.issuer_text()));
    }
    if list.algorithm != list.signed_algorithm {
        return Err("two algorithms are named for its signature".to_owned());
    }
    verify::signature(ca.spki(), list.algorithm, list.tbs, list.signature)
        .map_err(|error| format!("its signature by \"{}\": {error}", ca.subject_text()))?;
    if let Some(scope) = &list.distribution
        && (scope.only_users || scope.only_cas || scope.only_attributes || scope.only_some_reasons || scope.indirect)
    {
        return Err("it speaks for some of the CA's certificates or reasons only, or for other CAs".to_owned());
    }
    if let Some(unknown) = list.extensions.iter().find(|extension| extension.critical && !extension.is_known()) {
        return Err(format!("it has the critical extension {}, which is not known here", unknown.name()));
    }
    if list.this_update > SystemClock.now() + SKEW {
        return Err(format!("its thisUpdate, {}, lies ahead", list.this_update));
    }
    list.next_update.ok_or_else(|| "without nextUpdate nobody can tell how long it holds".to_owned())
}

impl Source for CrlSource {
    async fn open(&mut self) -> Result<(), SourceError> {
        if self.lists.is_some() {
            return Ok(());
        }
        self.takers.iter_mut().flatten().for_each(Taker::reset);
        let (until, until_delta) = (Instant::now() + OPENING, Instant::now() + OPENING_DELTA);
        self.complaints = [None, None];
        let missing = |source: &Self, which: usize| source.news[which].is_none() && source.complaints[which].is_none();
        while missing(self, BASE) && Instant::now() < until {
            self.look(BASE, Instant::now() + STEP).await;
        }
        while self.takers[DELTA].is_some() && missing(self, DELTA) && Instant::now() < until_delta {
            self.look(DELTA, Instant::now() + STEP).await;
        }
        self.take_news();
        self.lists().map(drop)
    }

    async fn head(&mut self) -> Result<Position, SourceError> {
        let lists = self.lists()?;
        Ok(self.position(lists))
    }

    /// The entries of the complete list, then those of the delta; a page is named by the list and the octets that
    /// are left of it.
    async fn page(&mut self, after: Option<&PageKey>, at_most: usize) -> Result<Page, SourceError> {
        let lists = match (after, self.paging.take()) {
            (Some(_), Some(lists)) => lists,
            (Some(_), None) => return Err(SourceError::Content("reading page by page was interrupted".to_owned())),
            (None, _) => self.lists()?.clone(),
        };
        let (which, octets) = match after.and_then(|key| key.0.split_once(':')) {
            Some((which, octets)) => (which, octets.parse().unwrap_or(0)),
            None => ("base", usize::MAX),
        };
        let (list, other) = match which {
            "base" => (Some(&*lists.base), lists.delta()),
            _ => (lists.delta(), None),
        };
        let (mut rows, mut next, told_at) = (Vec::new(), None, lists.told_at());
        for (entry, left) in list.into_iter().flat_map(|list| list.entries(octets)) {
            let overruled = other.is_some_and(|other| other.marks.contains_key(&entry.serial));
            if !overruled && entry.reason != Some(REMOVE_FROM_CRL) {
                rows.push(self.row(&entry, told_at));
            }
            if rows.len() >= at_most && left > 0 {
                next = Some(PageKey(format!("{which}:{left}")));
                break;
            }
        }
        if next.is_none() && other.is_some() {
            next = Some(PageKey(format!("delta:{}", usize::MAX)));
        }
        self.paging = next.is_some().then_some(lists);
        Ok(Page { rows, odd: Vec::new(), next })
    }

    async fn changes(&mut self, _position: &Position) -> Result<Batch, SourceError> {
        if self.changed.is_empty() {
            self.take_news();
        }
        let rows = self.changed.drain(..self.changed.len().min(BATCH)).collect();
        let lists = self.lists()?;
        Ok(Batch {
            rows,
            gone: Vec::new(),
            odd: Vec::new(),
            position: self.position(lists),
            drained: self.changed.is_empty(),
            currency: lists.currency(),
            gaps: 0,
        })
    }

    async fn wait(&mut self, patience: Duration) -> Result<Waited, SourceError> {
        let until = Instant::now() + patience;
        loop {
            if self.look_at_both(until).await {
                return Ok(Waited::News);
            }
            if Instant::now() >= until {
                return Ok(Waited::Quiet(self.lists()?.currency()));
            }
        }
    }

    /// Of a serial that is not listed, that its hold is over, if it was on hold: so it can be asked whether one was
    /// released while nobody looked.
    async fn reread(&mut self, keys: &[Key]) -> Result<(Vec<Row>, Vec<OddRow>), SourceError> {
        let lists = self.lists()?;
        let told_at = lists.told_at();
        let mut wanted: HashSet<Serial> =
            keys.iter().filter_map(|key| Serial::from_content(&key.serial).ok()).collect();
        let mut rows = Vec::new();
        lists.for_each(|entry| {
            if wanted.remove(&entry.serial) {
                rows.push(self.row(entry, told_at));
            }
        });
        rows.extend(wanted.into_iter().map(|serial| self.release(serial, told_at)));
        Ok((rows, Vec::new()))
    }

    fn knows_issued(&self) -> bool {
        false
    }

    fn complaint(&self) -> Option<String> {
        let complaints = self.complaints.iter().flatten();
        let all: Vec<&str> = complaints.map(String::as_str).collect();
        (!all.is_empty()).then(|| format!("{}; the list before holds until its nextUpdate", all.join("; ")))
    }
}
