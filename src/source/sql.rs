//! Anybody's table, read by queries that the operator, or a preset for a known CA, gives.
//!
//! Goes in: a [`Table`] and where it is. Comes out: a row for each certificate, and later for those that were
//! written since. Such a table has no log of changes, so that the guarantee is weaker than elsewhere: what commits
//! within `commit_grace` of being dated is seen at the next look, what takes longer at the next reconcile; and the
//! index counts as right only up to `commit_grace` ago.
//!
//! A table of revoked certificates alone, as of an EJBCA publisher, drops the row of one whose hold is over; so those on
//! hold are asked for, every `commit_grace`.
//!
//! Invariant: the database is only read, on a session that cannot write.

pub mod cells;
mod ejbca;
mod link;
pub mod presets;
pub mod table;

pub use cells::{SerialAs, TimesAs};
pub use link::Dialect;
pub use table::{Field, PositionAs, Table};

use super::{Batch, Currency, Key, OddRow, Page, PageKey, Position, Row, Source, SourceError, Waited};
use crate::db::Place;
use crate::pki::{Certificate, Clock, Issuer, Serial, Status, SystemClock, Time};
use foldhash::fast::FixedState;
use link::{Chunk, Link};
use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;
use table::{Cells, Read};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Rows of one batch of changes.
const BATCH: usize = 1_000;
/// Serials that are asked for at once.
const ASKED: usize = 1_000;

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
    paging: Option<mpsc::Receiver<Chunk>>,
    /// A hash of each row that the last look gave: those that come again are not given again.
    given: HashMap<Serial, u64>,
    hash: FixedState,
    changed: VecDeque<Result<Read, OddRow>>,
    /// On hold, in a table of revoked certificates alone, and when they are to be asked for.
    held: HashSet<Serial>,
    ask: Instant,
    /// Up to where was looked last.
    high: Option<i64>,
    due: Instant,
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
            paging: None,
            given: HashMap::new(),
            hash: FixedState::with_seed(RandomState::new().hash_one(0)),
            changed: VecDeque::new(),
            held: HashSet::new(),
            ask: Instant::now(),
            high: None,
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

    fn read(&self, cells: &Cells, now: Time) -> Option<Result<Read, OddRow>> {
        self.table.row(cells, &self.issuer, &self.ca, now)
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
            _ => text.trim().parse().ok(),
        }
    }

    /// The end of what there is: by our clock where positions are times.
    async fn newest(&mut self) -> Result<i64, SourceError> {
        let now = SystemClock.now().unix().saturating_mul(self.per_second());
        let Some(column) = self.table.column(Field::Position).filter(|_| self.table.position_as == PositionAs::Number)
        else {
            return Ok(now);
        };
        let text = Dialect::of(&self.place).text("p", false);
        let sql = format!("SELECT {text} FROM (SELECT max(q.{column}) AS p FROM ({}) AS q) AS q", self.table.snapshot);
        let rows = self.link()?.all(sql).await?;
        let newest = rows.first().and_then(|row| row.first()?.as_deref()?.trim().parse().ok());
        Ok(newest.unwrap_or(0))
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
        let mut given = HashMap::with_capacity(rows.len());
        let mut newest = high;
        for cells in &rows {
            let Some(read) = self.read(cells, now) else { continue };
            if let Ok((row, _)) = &read {
                self.note_hold(row);
                let hash = self.hash.hash_one(cells);
                given.insert(row.serial, hash);
                newest = newest.max(self.position_of(cells).unwrap_or(newest));
                if self.given.get(&row.serial) == Some(&hash) {
                    continue;
                }
            }
            self.changed.push_back(read);
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

    fn position(&self, high: i64) -> Position {
        Position { database: self.place.to_string(), cursor: high.to_string() }
    }
}

/// Rows, and whatever is to be told of them.
fn sort(read: impl Iterator<Item = Result<Read, OddRow>>) -> (Vec<Row>, Vec<OddRow>) {
    let (mut rows, mut odd) = (Vec::new(), Vec::new());
    for read in read {
        match read {
            Ok((row, doubt)) => {
                rows.push(row);
                odd.extend(doubt);
            }
            Err(why) => odd.push(why),
        }
    }
    (rows, odd)
}

impl Source for SqlSource {
    async fn open(&mut self) -> Result<(), SourceError> {
        (self.link, self.paging) = (None, None);
        self.given.clear();
        self.changed.clear();
        let mut link = Link::open(&self.place).await?;
        if let Some(ejbca) = &self.ejbca {
            let dialect = Dialect::of(&self.place);
            (self.table, self.remarks) = ejbca::look(&mut link, ejbca, dialect, &self.ca).await?;
        }
        self.link = Some(link);
        Ok(())
    }

    async fn head(&mut self) -> Result<Position, SourceError> {
        let newest = self.newest().await?;
        Ok(self.position(newest))
    }

    /// The rows come as the database gives them, over a connection of their own; a page has at least `at_most` of
    /// them, and one whole chunk.
    async fn page(&mut self, after: Option<&PageKey>, at_most: usize) -> Result<Page, SourceError> {
        let mut rest = match (after, self.paging.take()) {
            (Some(_), Some(paging)) => paging,
            (Some(_), None) => return Err(SourceError::Interrupted),
            (None, _) => {
                let (to, rest) = mpsc::channel(2);
                let sql = Dialect::of(&self.place).wrap(&self.table, &self.table.snapshot);
                tokio::spawn(Link::open(&self.place).await?.stream(sql, to));
                rest
            }
        };
        let (mut rows, mut odd, now) = (Vec::new(), Vec::new(), SystemClock.now());
        while rows.len() < at_most {
            let ended = || SourceError::Content("the database ended the query".to_owned());
            let chunk = rest.recv().await.ok_or_else(ended)??;
            if chunk.is_empty() {
                return Ok(Page { rows, odd, next: None });
            }
            let (some, why) = sort(chunk.iter().filter_map(|cells| self.read(cells, now)));
            some.iter().for_each(|row| self.note_hold(row));
            rows.extend(some);
            odd.extend(why);
        }
        self.paging = Some(rest);
        Ok(Page { rows, odd, next: Some(PageKey(String::new())) })
    }

    async fn changes(&mut self, position: &Position) -> Result<Batch, SourceError> {
        if position.database != self.place.to_string() {
            return Err(SourceError::Position("the config names another database than before".to_owned()));
        }
        if self.changed.is_empty() {
            let high = match self.high {
                Some(high) => high,
                None => position.cursor.parse().unwrap_or(0),
            };
            self.high = Some(self.look(high).await?);
            self.due = Instant::now() + self.rhythm.poll;
        }
        let (rows, odd) = sort(self.changed.drain(..self.changed.len().min(BATCH)));
        let drained = self.changed.is_empty();
        let position = match self.high {
            Some(high) if drained => self.position(high),
            _ => position.clone(),
        };
        let currency = Currency::Lagging(self.rhythm.commit_grace);
        Ok(Batch { rows, gone: Vec::new(), odd, position, drained, currency, gaps: 0 })
    }

    async fn wait(&mut self, patience: Duration) -> Result<Waited, SourceError> {
        let until = Instant::now() + patience;
        tokio::time::sleep_until(self.due.min(until)).await;
        Ok(if self.due <= Instant::now() { Waited::News } else { Waited::Quiet(Currency::Unknown) })
    }

    /// In a table of revoked certificates alone, of one that is not there, that its hold is over.
    async fn reread(&mut self, keys: &[Key]) -> Result<(Vec<Row>, Vec<OddRow>), SourceError> {
        let now = SystemClock.now();
        let Some(column) = self.table.column(Field::Serial) else {
            return Err(SourceError::Content("without a column for serials none can be asked for".to_owned()));
        };
        let serials = keys.iter().filter_map(|key| Serial::from_content(&key.serial).ok());
        let spellings: Vec<String> = serials.flat_map(|serial| spellings(&serial, self.table.serial_as)).collect();
        if spellings.is_empty() {
            return Ok((Vec::new(), Vec::new()));
        }
        let dialect = Dialect::of(&self.place);
        let text = dialect.text(column, link::is_hex(&self.table, Field::Serial));
        let text = if self.table.serial_as == SerialAs::Decimal { text } else { format!("upper({text})") };
        let sql = dialect.wrap(&self.table, &self.table.snapshot);
        let rows = self.link()?.all(format!("{sql} WHERE {text} IN ('{}')", spellings.join("', '"))).await?;
        let (mut rows, odd) = sort(rows.iter().filter_map(|cells| self.read(cells, now)));
        if !self.table.knows_issued {
            let refused = odd.iter().filter_map(|odd| Some(odd.key.as_ref()?.serial.as_slice()));
            let there: HashSet<&[u8]> = rows.iter().map(|row| row.serial.as_bytes()).chain(refused).collect();
            let gone = keys.iter().filter(|key| !there.contains(key.serial.as_slice()));
            let gone: Vec<Serial> = gone.filter_map(|key| Serial::from_content(&key.serial).ok()).collect();
            rows.extend(gone.into_iter().map(|serial| self.release(serial, now)));
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

/// How a table may write a serial, in upper case; all digits, so that they can stand in a query as they are.
fn spellings(serial: &Serial, written: SerialAs) -> Vec<String> {
    let hex = serial.to_string();
    let content: String = serial.as_bytes().iter().map(|octet| format!("{octet:02X}")).collect();
    let mut all = match written {
        // PostgreSQL shows text that stands in bytes by its octets.
        SerialAs::Decimal => vec![serial.to_decimal(), in_octets(&serial.to_decimal())],
        SerialAs::Hex => {
            let short = hex.trim_start_matches('0').to_owned();
            let octets = |text: &str| in_octets(text).to_uppercase();
            vec![octets(&hex), octets(&hex.to_lowercase()), format!("0X{hex}"), short, format!("00{hex}"), hex]
        }
        SerialAs::Bytes => vec![format!("\\X{hex}"), format!("\\X{content}"), hex, content],
    };
    all.dedup();
    all
}

fn in_octets(text: &str) -> String {
    let octets: String = text.bytes().map(|octet| format!("{octet:02X}")).collect();
    format!("\\x{octets}")
}

#[cfg(test)]
mod tests;
