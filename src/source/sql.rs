//! Anybody's table, read by queries that the operator, or a preset for a known CA, gives.
//!
//! Goes in: a [`Table`] and where it is. Comes out: a row for each certificate, and later for those that were
//! written since. Such a table has no log of changes, so that the guarantee is weaker than elsewhere: what commits
//! within `commit_grace` of being dated is seen at the next look, what takes longer at the next reconcile; and the
//! index counts as right only up to `commit_grace` ago. The first look goes back from the newest row that the load
//! showed, so that it makes no difference whether the clock of the CA is that of this machine.
//!
//! A table of revoked certificates alone, as of an EJBCA publisher, drops the row of one whose hold is over; so those on
//! hold are asked for, every `commit_grace`.
//!
//! Invariant: the database is only read, on a session that cannot write.

pub mod cells;
mod ejbca;
mod link;
pub mod presets;
mod spelling;
pub mod table;

pub use cells::{SerialAs, TimesAs};
pub use link::Dialect;
pub use table::{Field, PositionAs, Table};

use super::{Batch, Currency, Key, OddRow, Page, PageKey, Position, Row, Source, SourceError, Waited};
use crate::db::Place;
use crate::pki::{Certificate, Clock, Issuer, Serial, Status, SystemClock, Time};
use foldhash::fast::FixedState;
use link::{Chunk, Link};
use spelling::{Column, Forms};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;
use table::{Cells, Read};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Rows of one batch of changes.
const BATCH: usize = 1_000;
/// Serials that are asked for at once.
const ASKED: usize = 1_000;
/// Where reading goes on after a load: from what its rows showed.
const LOADED: &str = "loaded";
/// How far the clock of a CA may be behind ours, seconds: of a table without newer rows no older ones are looked through
/// again and again.
const BEHIND: i64 = 86_400;

/// How often, and how far back.
#[derive(Clone, Copy, Debug)]
pub struct Rhythm {
    /// Between two looks.
    pub poll: Duration,
    /// How long before its commit a row may have been dated.
    pub commit_grace: Duration,
    /// The same where positions are numbers: how many of them back.
    pub overlap: i64,
}

/// The reader of one table.
#[derive(Debug)]
pub struct SqlSource {
    place: Place,
    table: Table,
    /// What the table is made of whenever the database is opened, where that depends on what is there.
    ejbca: Option<presets::Ejbca>,
    remarks: Vec<String>,
    issuer: Arc<str>,
    ca: Certificate,
    rhythm: Rhythm,
    link: Option<Link>,
    load: Option<Load>,
    /// Sessions that may still be at a query that nobody waits for.
    left: Vec<String>,
    /// The newest position among the rows of the pages.
    newest: Option<i64>,
    /// How serials are spelled, in what was read; and whether that was all.
    forms: Forms,
    is_read: bool,
    column: Option<Column>,
    /// A hash of each row that the last look gave: those that come again are not given again.
    given: HashMap<Serial, u64>,
    hash: FixedState,
    changed: VecDeque<Result<Read, OddRow>>,
    /// Up to where was looked for them.
    reached: i64,
    /// On hold, in a table of revoked certificates alone, and when they are to be asked for.
    held: HashSet<Serial>,
    ask: Instant,
    due: Instant,
}

/// A query for all rows, on a connection of its own; whoever lets go of this stops reading.
#[derive(Debug)]
struct Load {
    chunks: mpsc::Receiver<Chunk>,
    session: Option<String>,
    _reading: JoinSet<()>,
}

impl SqlSource {
    /// Reads the certificates of `issuer` at `place`.
    #[must_use]
    pub fn new(issuer: &Issuer, place: Place, table: Table, rhythm: Rhythm) -> Self {
        Self {
            place,
            table,
            ejbca: None,
            remarks: Vec::new(),
            issuer: issuer.name.as_str().into(),
            ca: issuer.certificate.clone(),
            rhythm,
            link: None,
            load: None,
            left: Vec::new(),
            newest: None,
            forms: Forms::default(),
            is_read: false,
            column: None,
            given: HashMap::new(),
            hash: FixedState::with_seed(RandomState::new().hash_one(0)),
            changed: VecDeque::new(),
            reached: 0,
            held: HashSet::new(),
            ask: Instant::now(),
            due: Instant::now(),
        }
    }

    /// Reads the certificates of `issuer` in the database of an EJBCA at `place`.
    #[must_use]
    pub fn beside_ejbca(issuer: &Issuer, place: Place, ejbca: presets::Ejbca, rhythm: Rhythm) -> Self {
        let table = ejbca::unseen(&ejbca);
        Self { ejbca: Some(ejbca), ..Self::new(issuer, place, table, rhythm) }
    }

    fn link(&mut self) -> Result<&mut Link, SourceError> {
        self.link.as_mut().ok_or_else(|| SourceError::Content("the database is not open".to_owned()))
    }

    fn read(&mut self, cells: &Cells, now: Time) -> Option<Result<Read, OddRow>> {
        let read = self.table.row(cells, &self.issuer, &self.ca, now)?;
        let serial = match &read {
            Ok((row, _)) => Some(row.serial),
            Err(odd) => odd.key.as_ref().and_then(|key| Serial::from_content(&key.serial).ok()),
        };
        let at = Field::ALL.iter().position(|field| *field == Field::Serial);
        if let (Some(serial), Some(text)) = (serial, at.and_then(|at| cells.get(at)?.as_deref())) {
            self.forms.learn(text, &serial, self.table.serial_as);
        }
        Some(read)
    }

    /// Units of a position in a second, where it is a time.
    const fn per_second(&self) -> i64 {
        match self.table.times_as {
            TimesAs::Seconds => 1,
            TimesAs::Milliseconds => 1_000,
            TimesAs::Timestamp => 1_000_000,
        }
    }

    /// What `{since}` stands for: `high`, less what may have been committed late.
    fn since(&self, high: i64) -> String {
        let whole = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
        match (self.table.position_as, self.table.times_as) {
            (PositionAs::Number, _) => high.saturating_sub(self.rhythm.overlap).to_string(),
            (PositionAs::Time, TimesAs::Timestamp) => {
                let seconds = Time::from_unix(high.div_euclid(1_000_000) - whole(self.rhythm.commit_grace));
                let zone = if Dialect::of(&self.place) == Dialect::MariaDb { "" } else { "+00:00" };
                format!("'{}{zone}'", seconds.to_string().replace('T', " ").trim_end_matches('Z'))
            }
            (PositionAs::Time, _) => {
                high.saturating_sub(whole(self.rhythm.commit_grace).saturating_mul(self.per_second())).to_string()
            }
        }
    }

    /// The position of a row.
    fn position_of(&self, cells: &Cells) -> Option<i64> {
        let at = Field::ALL.iter().position(|field| *field == Field::Position)?;
        let text = cells::plain(cells.get(at)?.as_deref()?);
        match (self.table.position_as, self.table.times_as) {
            (PositionAs::Time, TimesAs::Timestamp) => cells::micros(text.trim()).ok().flatten(),
            _ => text.trim().split('.').next()?.parse().ok(),
        }
    }

    /// From where to look after a load.
    fn loaded(&self) -> i64 {
        let now = SystemClock.now().unix();
        match self.table.position_as {
            PositionAs::Number => self.newest.unwrap_or(0),
            PositionAs::Time => {
                let units = |seconds: i64| seconds.saturating_mul(self.per_second());
                self.newest.unwrap_or(i64::MIN).clamp(units(now.saturating_sub(BEHIND)), units(now))
            }
        }
    }

    /// Asks for what was written since the last look, and keeps what is not the same as then.
    async fn look(&mut self, high: i64) -> Result<i64, SourceError> {
        let now = SystemClock.now();
        let query = match &self.table.changes {
            Some(changes) => changes.replace("{since}", &self.since(high)),
            None => self.table.snapshot.clone(),
        };
        let sql = Dialect::of(&self.place).wrap(&self.table, &query);
        let rows = self.link()?.all(sql).await?;
        let (mut last, mut newest) = (HashMap::with_capacity(rows.len()), high);
        for cells in &rows {
            match self.read(cells, now) {
                Some(Ok((row, doubt))) => {
                    newest = newest.max(self.position_of(cells).unwrap_or(newest));
                    // Of several rows of one certificate the last counts.
                    last.insert(row.serial, (self.hash.hash_one(cells), (row, doubt)));
                }
                Some(Err(odd)) => self.changed.push_back(Err(odd)),
                None => {}
            }
        }
        let mut given = HashMap::with_capacity(last.len());
        for (serial, (hash, read)) in last {
            given.insert(serial, hash);
            if self.given.get(&serial) != Some(&hash) {
                self.note_hold(&read.0);
                self.changed.push_back(Ok(read));
            }
        }
        self.given = given;
        self.look_for_releases().await?;
        Ok(match self.table.position_as {
            // A clock that is ahead must not hide what others write meanwhile.
            PositionAs::Time => newest.min(now.unix().saturating_mul(self.per_second())),
            PositionAs::Number => newest,
        })
    }

    fn note_hold(&mut self, row: &Row) {
        match row.status.is_hold() {
            true if !self.table.knows_issued => _ = self.held.insert(row.serial),
            _ => _ = self.held.remove(&row.serial),
        }
    }

    /// Asks for those on hold, whose rows are gone when that is over.
    async fn look_for_releases(&mut self) -> Result<(), SourceError> {
        if self.held.is_empty() || self.ask > Instant::now() {
            return Ok(());
        }
        let key = |serial: &Serial| Key { issuer: Arc::clone(&self.issuer), serial: serial.as_bytes().to_vec() };
        let held: Vec<Key> = self.held.iter().map(key).collect();
        for keys in held.chunks(ASKED) {
            let (rows, _) = self.reread(keys).await?;
            for row in rows.into_iter().filter(|row| !row.status.is_hold()) {
                self.note_hold(&row);
                self.changed.push_back(Ok((row, None)));
            }
        }
        self.ask = Instant::now() + self.rhythm.commit_grace;
        Ok(())
    }

    /// Its hold is over, as the table has no row of it any more.
    fn release(&self, serial: Serial, now: Time) -> Row {
        Row {
            issuer: Arc::clone(&self.issuer),
            serial,
            not_before: Time::default(),
            not_after: Time::MAX,
            status: Status::Good,
            changed_at: now,
            released_at: Some(now),
            shard: None,
            ca: None,
            sha256: None,
        }
    }

    fn position(&self, cursor: impl ToString) -> Position {
        Position { database: self.place.to_string(), cursor: cursor.to_string() }
    }

    /// The rows that any of `conditions` finds.
    async fn ask(&mut self, conditions: Vec<String>, now: Time) -> Result<(Vec<Row>, Vec<OddRow>), SourceError> {
        let sql = Dialect::of(&self.place).wrap(&self.table, &self.table.snapshot);
        let mut read = Vec::new();
        for condition in conditions {
            let rows = self.link()?.all(format!("{sql} WHERE {condition}")).await?;
            read.extend(rows.iter().filter_map(|cells| self.read(cells, now)));
        }
        Ok(sort(read))
    }

    /// The column of serials.
    async fn column(&mut self) -> Result<Column, SourceError> {
        if let Some(column) = &self.column {
            return Ok(column.clone());
        }
        let Some(name) = self.table.column(Field::Serial).map(str::to_owned) else {
            return Err(SourceError::Content("without a column for serials none can be asked for".to_owned()));
        };
        let sql = format!("SELECT q.{name} FROM ({}) AS q", self.table.snapshot.trim().trim_end_matches(';'));
        let kind = self.link()?.kind(sql).await?;
        let (written, dialect) = (self.table.serial_as, Dialect::of(&self.place));
        Ok(self.column.insert(Column { name, written, dialect, kind }).clone())
    }
}

/// Rows, and whatever is to be told of them; of several rows of one certificate the last.
fn sort(read: impl IntoIterator<Item = Result<Read, OddRow>>) -> (Vec<Row>, Vec<OddRow>) {
    let (mut rows, mut odd, mut places) = (Vec::new(), Vec::new(), HashMap::new());
    for read in read {
        match read {
            Ok((row, doubt)) => {
                match places.entry(row.serial) {
                    Entry::Occupied(place) => rows[*place.get()] = row,
                    Entry::Vacant(place) => {
                        place.insert(rows.len());
                        rows.push(row);
                    }
                }
                odd.extend(doubt);
            }
            Err(why) => odd.push(why),
        }
    }
    (rows, odd)
}

impl Source for SqlSource {
    async fn open(&mut self) -> Result<(), SourceError> {
        let sessions =
            [self.link.take().and_then(|link| link.number()), self.load.take().and_then(|load| load.session)];
        self.left.extend(sessions.into_iter().flatten());
        self.given.clear();
        self.changed.clear();
        let mut link = Link::open(&self.place).await?;
        for session in self.left.drain(..) {
            link.end(&session).await;
        }
        if let Some(ejbca) = &self.ejbca {
            let dialect = Dialect::of(&self.place);
            (self.table, self.remarks) = ejbca::look(&mut link, ejbca, dialect, &self.ca).await?;
        }
        (self.link, self.column) = (Some(link), None);
        Ok(())
    }

    /// Up to where the rows of the pages reach is known after they were read.
    async fn head(&mut self) -> Result<Position, SourceError> {
        Ok(self.position(LOADED))
    }

    /// The rows come as the database gives them, over a connection of their own; a page has at least `at_most` of
    /// them, and one whole chunk.
    async fn page(&mut self, after: Option<&PageKey>, at_most: usize) -> Result<Page, SourceError> {
        if after.is_none() {
            self.load = None;
            let (link, (to, chunks)) = (Link::open(&self.place).await?, mpsc::channel(2));
            let (session, mut reading) = (link.number(), JoinSet::new());
            reading.spawn(link.stream(Dialect::of(&self.place).wrap(&self.table, &self.table.snapshot), to));
            (self.load, self.newest) = (Some(Load { chunks, session, _reading: reading }), None);
        }
        let (mut read, now) = (Vec::new(), SystemClock.now());
        while read.len() < at_most {
            let ended = || SourceError::Content("the database ended the query".to_owned());
            let load = self.load.as_mut().ok_or(SourceError::Interrupted)?;
            let chunk = load.chunks.recv().await.ok_or_else(ended)??;
            if chunk.is_empty() {
                (self.load, self.is_read) = (None, true);
                break;
            }
            for cells in &chunk {
                let Some(row) = self.read(cells, now) else { continue };
                self.newest = self.newest.max(self.position_of(cells));
                read.push(row);
            }
        }
        let (rows, odd) = sort(read);
        rows.iter().for_each(|row| self.note_hold(row));
        Ok(Page { rows, odd, next: self.load.is_some().then(|| PageKey(String::new())) })
    }

    async fn changes(&mut self, position: &Position) -> Result<Batch, SourceError> {
        if position.database != self.place.to_string() {
            return Err(SourceError::Position("the config names another database than before".to_owned()));
        }
        let from = match position.cursor.as_str() {
            LOADED => self.loaded(),
            cursor => cursor.parse().map_err(|_| SourceError::Position("it is of another kind".to_owned()))?,
        };
        // Rows that wait since an earlier look prove nothing of what was written after it.
        let looks = self.changed.is_empty();
        if looks {
            self.reached = self.look(from).await?;
            self.due = Instant::now() + self.rhythm.poll;
        }
        let (rows, odd) = sort(self.changed.drain(..self.changed.len().min(BATCH)));
        let is_all = self.changed.is_empty();
        let position = self.position(if is_all { self.reached } else { from });
        let currency = Currency::Lagging(self.rhythm.commit_grace);
        Ok(Batch { rows, gone: Vec::new(), odd, position, drained: looks && is_all, currency, gaps: 0 })
    }

    async fn wait(&mut self, patience: Duration) -> Result<Waited, SourceError> {
        let until = Instant::now() + patience;
        tokio::time::sleep_until(self.due.min(until)).await;
        Ok(if self.due <= Instant::now() { Waited::News } else { Waited::Quiet(Currency::Unknown) })
    }

    /// In a table of revoked certificates alone, of one that is not there, that its hold is over.
    async fn reread(&mut self, keys: &[Key]) -> Result<(Vec<Row>, Vec<OddRow>), SourceError> {
        let (now, column) = (SystemClock.now(), self.column().await?);
        let serials: Vec<Serial> = keys.iter().filter_map(|key| Serial::from_content(&key.serial).ok()).collect();
        let (mut rows, mut odd) = self.ask(column.as_seen(&serials, &self.forms), now).await?;
        let mut missing = missing(&serials, &rows, &odd);
        // A release is believed, and that a row is spelled otherwise would be none.
        if !(column.is_bare() && self.is_read && self.forms.are_all() && self.table.knows_issued) {
            let (more, more_odd) = self.ask(column.in_any_form(&missing), now).await?;
            rows.extend(more);
            odd.extend(more_odd);
            missing = self::missing(&serials, &rows, &odd);
        }
        if !self.table.knows_issued {
            rows.extend(missing.into_iter().map(|serial| self.release(serial, now)));
        }
        Ok((rows, odd))
    }

    fn knows_issued(&self) -> bool {
        self.table.knows_issued
    }

    fn remarks(&self) -> Vec<String> {
        self.remarks.clone()
    }
}

/// Those of `serials` of which nothing was read.
fn missing(serials: &[Serial], rows: &[Row], odd: &[OddRow]) -> Vec<Serial> {
    let refused = odd.iter().filter_map(|odd| Some(odd.key.as_ref()?.serial.as_slice()));
    let there: HashSet<&[u8]> = rows.iter().map(|row| row.serial.as_bytes()).chain(refused).collect();
    serials.iter().filter(|serial| !there.contains(serial.as_bytes())).copied().collect()
}

#[cfg(test)]
mod server_tests;
#[cfg(test)]
mod tests;
