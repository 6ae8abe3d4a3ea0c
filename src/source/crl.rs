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
use crate::der::tag;
use crate::pki::list::{Entry, List, Number, REMOVE_FROM_CRL};
use crate::pki::{Certificate, Clock, Issuer, Reason, Revocation, Serial, Status, SystemClock, Time};
use crate::sign::verify;
use bytes::Bytes;
use hyper::Uri;
use rustls_pki_types::{CertificateRevocationListDer, pem::PemObject};
use std::cmp::Ordering;
use std::collections::{HashSet, VecDeque};
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

    /// Another list than the one before, in DER, if there is one by `until`; what goes wrong with a file is told only
    /// then, so that nobody asks again at once.
    async fn next(&mut self, until: Instant) -> Result<Option<Bytes>, String> {
        let read = match self {
            Self::Url(fetched) => fetched.next(until).await?,
            Self::File(file) => {
                let read = changed(file).await;
                if !matches!(read, Ok(Some(_))) {
                    tokio::time::sleep_until(until).await;
                }
                read.map_err(|error| error.to_string())?
            }
        };
        read.map(der).transpose().map_err(|why| format!("{}: {why}", self.name()))
    }
}

/// What stands in `file`, if it is news.
async fn changed(file: &mut Watched) -> Result<Option<Bytes>, SourceError> {
    // As with a URL, what could not be had is news when it is back.
    if !file.is_news().inspect_err(|_| file.reset())? {
        return Ok(None);
    }
    let sound = |bytes: &[u8]| match is_der(bytes) {
        true => readable(bytes),
        false => of_pem(bytes).and_then(|list| readable(&list)),
    };
    let read = file.read(sound).await?;
    Ok(read.map(|(bytes, stamp)| {
        file.take(stamp);
        bytes.into()
    }))
}

/// The list itself, where it came as PEM.
fn der(bytes: Bytes) -> Result<Bytes, String> {
    if is_der(&bytes) { Ok(bytes) } else { of_pem(&bytes).map(Bytes::from) }
}

fn is_der(bytes: &[u8]) -> bool {
    bytes.first() == Some(&tag::SEQUENCE)
}

fn of_pem(bytes: &[u8]) -> Result<Vec<u8>, String> {
    let list = CertificateRevocationListDer::from_pem_slice(bytes);
    list.map(|list| list.as_ref().to_vec()).map_err(|_| {
        let begin = String::from_utf8_lossy(bytes.get(..bytes.len().min(24)).unwrap_or_default());
        format!("neither a CRL in DER nor in PEM, it begins with {begin:?}")
    })
}

fn readable(list: &[u8]) -> Result<(), String> {
    List::read(list).map(drop).map_err(|error| error.to_string())
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
    /// Where each entry stands, in octets before the end of all entries, in the order of their serials; of several
    /// with one serial the last counts.
    order: Vec<u32>,
}

impl Taken {
    /// The entries with serials above `after`, by serial; they were all read before.
    fn entries(&self, after: Option<&Serial>) -> impl Iterator<Item = Entry<'_>> {
        let list = List::read(&self.bytes).ok();
        let entry = move |at: &u32| list.as_ref()?.last_entries(usize::try_from(*at).ok()?).next()?.ok();
        let is_before = |at: &u32| after.is_some_and(|after| entry(at).is_some_and(|entry| entry.serial <= *after));
        let begin = self.order.partition_point(is_before);
        self.order.get(begin..).unwrap_or_default().iter().filter_map(entry)
    }

    fn get(&self, serial: &Serial) -> Option<Entry<'_>> {
        let list = List::read(&self.bytes).ok()?;
        let entry = |at: &u32| list.last_entries(usize::try_from(*at).ok()?).next()?.ok();
        let found = self.order.binary_search_by(|at| entry(at).map(|entry| entry.serial).cmp(&Some(*serial))).ok()?;
        entry(self.order.get(found)?)
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

    /// Why a delta is left out that is newer than the complete list.
    fn unfit_delta(&self) -> Option<String> {
        let delta = self.delta.as_ref().filter(|delta| delta.base > self.base.number)?;
        let text =
            |number: Option<Number>| number.map_or_else(|| "without number".to_owned(), |number| number.to_string());
        Some(format!(
            "the delta {} builds on complete CRL {}, and the one here is {}: the delta is left out until the other comes",
            text(delta.number),
            text(delta.base),
            text(self.base.number)
        ))
    }

    /// What they say of a serial, if it is listed.
    fn get(&self, serial: &Serial) -> Option<Entry<'_>> {
        let by_delta = self.delta().and_then(|delta| delta.get(serial));
        by_delta.or_else(|| self.base.get(serial)).filter(is_listed)
    }

    /// Every entry that holds and has a serial above `after`, by serial.
    fn entries(&self, after: Option<&Serial>) -> impl Iterator<Item = Entry<'_>> {
        let mut base = self.base.entries(after).peekable();
        let mut delta = self.delta().into_iter().flat_map(move |delta| delta.entries(after)).peekable();
        let next = move || {
            let order = match (base.peek(), delta.peek()) {
                (Some(base), Some(delta)) => base.serial.cmp(&delta.serial),
                (_, None) => Ordering::Less,
                (None, _) => Ordering::Greater,
            };
            // What the delta says of a serial overrules the complete list.
            let by_base = if order.is_le() { base.next() } else { None };
            if order.is_ge() { delta.next() } else { by_base }
        };
        std::iter::from_fn(next).filter(is_listed)
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
}

/// Whether it is not one that a delta takes off the list.
fn is_listed(entry: &Entry<'_>) -> bool {
    entry.reason != Some(REMOVE_FROM_CRL)
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
            return Err(match is_delta {
                true => "it is a complete list, which belongs in `path` or `url`",
                false => "it is a delta, which belongs in `delta`",
            }
            .to_owned());
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
        let order = order(&list)?;
        Ok(Taken { number, base, this_update, next_update, order, bytes })
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
        let mut old = before.entries(None).peekable();
        let mut gone = |entry: &Entry<'_>| {
            if entry.reason == Some(Reason::CertificateHold.code()) {
                self.released.insert(entry.serial);
            }
        };
        for entry in now.entries(None) {
            while let Some(old) = old.next_if(|old| old.serial < entry.serial) {
                gone(&old);
            }
            if old.next_if(|old| old.serial == entry.serial).is_none_or(|old| old.raw != entry.raw) {
                changed.push_back(row(&self.issuer, &entry, told_at));
            }
        }
        old.for_each(|old| gone(&old));
        self.released.retain(|serial| now.get(serial).is_none());
        // Said again with each list: the feed believes a release only from one that is later than the hold.
        changed.extend(self.released.iter().map(|serial| release(&self.issuer, *serial, told_at)));
        self.changed = changed;
    }

    fn lists(&self) -> Result<&Lists, SourceError> {
        let name = || self.takers[BASE].as_ref().map(Taker::name).unwrap_or_default();
        let complaint = || self.complaints[BASE].clone().unwrap_or_else(|| format!("{} has not come yet", name()));
        self.lists.as_ref().ok_or_else(|| SourceError::Content(complaint()))
    }

    fn position(&self, lists: &Lists) -> Position {
        let taker = self.takers[BASE].as_ref().map(Taker::name).unwrap_or_default();
        Position { database: taker, cursor: lists.told_at().to_string() }
    }
}

/// Where the entries of `list` stand, see [`Taken`]; every one of them is read.
fn order(list: &List<'_>) -> Result<Vec<u32>, String> {
    let mut entries = list.entries();
    let mut placed: Vec<(Serial, u32)> = Vec::new();
    loop {
        let left = u32::try_from(entries.octets_left()).map_err(|_| "it is larger than 4 GB".to_owned())?;
        let Some(entry) = entries.next() else { break };
        let entry = entry.map_err(|error| format!("entry {} cannot be read: {error}", placed.len() + 1))?;
        placed.push((entry.serial, left));
    }
    // Of several with one serial the last comes first, and stays.
    placed.sort_unstable();
    placed.dedup_by_key(|(serial, _)| *serial);
    Ok(placed.into_iter().map(|(_, left)| left).collect())
}

fn row(issuer: &Arc<str>, entry: &Entry<'_>, told_at: Time) -> Row {
    let reason = entry.reason.and_then(Reason::from_code).unwrap_or_default();
    let revocation = Revocation { at: entry.at, reason, invalidity_date: entry.invalidity_date };
    row_of(issuer, entry.serial, Status::Revoked(revocation), told_at)
}

/// Its hold is over, as the list of `told_at` has it no more.
fn release(issuer: &Arc<str>, serial: Serial, told_at: Time) -> Row {
    Row { released_at: Some(told_at), ..row_of(issuer, serial, Status::Good, told_at) }
}

fn row_of(issuer: &Arc<str>, serial: Serial, status: Status, told_at: Time) -> Row {
    Row {
        issuer: Arc::clone(issuer),
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

/// nextUpdate of a list that the CA vouches for, and that speaks for all its certificates.
fn vouched(list: &List<'_>, ca: &Certificate) -> Result<Time, String> {
    if list.issuer != ca.subject() {
        return Err(format!("it is the list of \"{}\", and not of \"{}\"", list.issuer_text(), ca.subject_text()));
    }
    if list.algorithm != list.signed_algorithm {
        return Err("two algorithms are named for its signature".to_owned());
    }
    verify::signature(ca.spki(), list.algorithm, list.tbs, list.signature).map_err(|error| {
        format!("its signature by \"{}\": {error}; is `certificate` of the same key?", ca.subject_text())
    })?;
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

    /// The entries by serial, so that who keeps them in that order appends; a page is named by the last before it.
    async fn page(&mut self, after: Option<&PageKey>, at_most: usize) -> Result<Page, SourceError> {
        let lists = match (after, self.paging.take()) {
            (Some(_), Some(lists)) => lists,
            (Some(_), None) => return Err(SourceError::Interrupted),
            (None, _) => self.lists()?.clone(),
        };
        let after = after.map(|key| key.0.parse::<Serial>()).transpose().map_err(|_| SourceError::Interrupted)?;
        let (told_at, mut entries) = (lists.told_at(), lists.entries(after.as_ref()));
        // Each page of revocations rewrites the index: of a long list a sixteenth, but not so much that others wait.
        let at_most = at_most.max(lists.base.order.len() / 16).min(at_most.saturating_mul(8)).max(1);
        let rows = entries.by_ref().take(at_most).map(|entry| row(&self.issuer, &entry, told_at));
        let rows: Vec<Row> = rows.collect();
        let next = entries.next().and_then(|_| Some(PageKey(rows.last()?.serial.to_string())));
        drop(entries);
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
        let serials = keys.iter().filter_map(|key| Serial::from_content(&key.serial).ok());
        let rows = serials.map(|serial| match lists.get(&serial) {
            Some(entry) => row(&self.issuer, &entry, told_at),
            None => release(&self.issuer, serial, told_at),
        });
        Ok((rows.collect(), Vec::new()))
    }

    fn knows_issued(&self) -> bool {
        false
    }

    fn complaint(&self) -> Option<String> {
        let kept = ["the list before holds until its nextUpdate", "the complete list holds without it"];
        let complaints =
            self.complaints.iter().zip(kept).filter_map(|(why, kept)| Some(format!("{}; {kept}", why.as_ref()?)));
        let unfit = self.lists.as_ref().and_then(Lists::unfit_delta);
        let all: Vec<String> = complaints.chain(unfit).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }
}
