//! Jarchy's own issuance database on MariaDB or MySQL, written by other processes.
//!
//! The change log is numbered when a row is written, and transactions commit in another order: so a cursor
//! is the greatest number seen, and the numbers below it that nothing was found under. Those are asked for at
//! each look until they are filled, or for [`GAPS_FOR`], since one whose transaction was rolled back never is;
//! what a transaction commits that was open for longer is found by the next reconcile. Nothing tells a reader
//! of a commit, so the log is looked at every `poll`.
//!
//! Invariants: rows, the cursor that covers them, and what proves that the log is the same one as before
//! come out of one statement, hence one state of the database. A server that is `read_only` is a replica:
//! what it proves reaches up to the heartbeat that a reader of the primary writes.

use super::own::{Change, Clocks, Columns, Found, Peek, Pulse, cursor_of, hex, interned, opened, position_at, watch};
use super::{Batch, Currency, Key, OddRow, Page, PageKey, Position, Row, Source, SourceError, Waited};
use crate::db::{Mode, Server};
use crate::pki::{Clock, SystemClock};
use crate::registry;
use serde::{Deserialize, Serialize};
use sqlx::mysql::MySqlRow;
use sqlx::pool::PoolConnection;
use sqlx::{AssertSqlSafe, MySql, Row as _};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

/// For how long a number that nothing was found under is asked for again.
pub const GAPS_FOR: Duration = Duration::from_secs(3_600);
/// Runs of such numbers that are asked for at most; beyond it the oldest are given up. Each costs the server
/// some microseconds at each look.
const MOST_GAPS: usize = 5_000;
/// Rows at the end of the log among which holes are looked for at the start.
const GAPS_IN: i64 = 100_000;
/// Changes of one batch.
const BATCH: usize = 1_000;

/// What `certificates` says, in the order in which it is decoded.
macro_rules! columns {
    () => {
        "r.serial, r.not_before, r.not_after, r.status = 'revoked', r.revoked_at, r.reason, r.invalidity_date, \
         r.changed_at, r.released_at, r.shard, r.ca, r.sha256"
    };
}

/// The reader of one database.
#[derive(Debug)]
pub struct MariaDbSource {
    server: Server,
    poll: Duration,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    connection: PoolConnection<MySql>,
    pulse: Pulse,
    clocks: Clocks,
    /// Of which database what has been read, for waiting.
    seen: Option<(String, Cursor)>,
}

/// What has been read; see the module's text.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
struct Cursor {
    /// The greatest number seen.
    newest: i64,
    /// Runs of numbers below it that nothing was found under: first to last, and the second by the database's
    /// clock at which they were missed.
    gaps: BTreeMap<i64, Gap>,
    /// What the row of the greatest number said; empty where there was none.
    digest: String,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct Gap {
    last: i64,
    since: i64,
}

impl Cursor {
    /// Goes on over `changes`, in the order of their numbers, that were read at `now`.
    fn advance(&mut self, changes: &[Change], now: i64) {
        for change in changes {
            if change.seq <= self.newest {
                self.fill(change.seq);
                continue;
            }
            if change.seq > self.newest + 1 {
                self.gaps.insert(self.newest + 1, Gap { last: change.seq - 1, since: now });
            }
            self.newest = change.seq;
            self.digest = change.digest();
        }
        let limit = i64::try_from(GAPS_FOR.as_secs()).unwrap_or(i64::MAX);
        self.gaps.retain(|_, gap| now.saturating_sub(gap.since) <= limit);
        while self.gaps.len() > MOST_GAPS {
            self.gaps.pop_first();
        }
    }

    fn fill(&mut self, seq: i64) {
        let Some((&first, &gap)) = self.gaps.range(..=seq).next_back() else { return };
        if seq > gap.last {
            return;
        }
        self.gaps.remove(&first);
        if first < seq {
            self.gaps.insert(first, Gap { last: seq - 1, ..gap });
        }
        if seq < gap.last {
            self.gaps.insert(seq + 1, gap);
        }
    }

    /// Numbers that are still asked for.
    fn open_gaps(&self) -> usize {
        self.gaps.iter().map(|(first, gap)| usize::try_from(gap.last - first + 1).unwrap_or(0)).sum()
    }
}

impl MariaDbSource {
    /// Reads the database on `server`, looking for changes every `poll`.
    #[must_use]
    pub const fn new(server: Server, poll: Duration) -> Self {
        Self { server, poll, open: None }
    }
}

impl Open {
    /// One look at the log: what `cursor` leaves unread, and everything that proves where we are.
    async fn look(&mut self, cursor: &Cursor, at_most: usize) -> Result<Look, SourceError> {
        // Only numbers are put into the text. The server cannot look into an index for a long OR, but can
        // for each part of a UNION.
        let mut unread = format!("(SELECT seq, at, issuer, serial FROM changes WHERE seq > {} ", cursor.newest);
        // Writing to a String does not fail.
        _ = write!(unread, "ORDER BY seq LIMIT {at_most})");
        for (first, gap) in &cursor.gaps {
            _ = write!(unread, " UNION ALL (SELECT seq, at, issuer, serial FROM changes WHERE ");
            _ = write!(unread, "seq BETWEEN {first} AND {} LIMIT {at_most})", gap.last);
        }
        let sql = format!(
            concat!(
                "SELECT CONCAT(m.identity, '/', m.epoch), m.trimmed, @@GLOBAL.read_only, UNIX_TIMESTAMP(), h.at, \
                 l.seq, l.at, l.issuer, l.serial, c.seq, c.at, c.issuer, c.serial, ",
                columns!(),
                " FROM meta m JOIN heartbeat h LEFT JOIN changes l ON l.seq = {newest} \
                 LEFT JOIN (SELECT * FROM ({unread}) AS u ORDER BY seq LIMIT {at_most}) AS c ON TRUE \
                 LEFT JOIN certificates r ON r.issuer = c.issuer AND r.serial = c.serial ORDER BY c.seq"
            ),
            newest = cursor.newest,
            unread = unread,
            at_most = at_most
        );
        let sampled = SystemClock.now();
        let rows = sqlx::query(AssertSqlSafe(sql)).persistent(false).fetch_all(&mut *self.connection).await?;
        let unreadable = || SourceError::Content("the rows of meta and heartbeat cannot be read".to_owned());
        let row = rows.first().ok_or_else(unreadable)?;
        let replica = row.try_get::<i64, _>(2)? != 0;
        // Some users may write on a replica too, and would vouch for what it has not replayed.
        self.pulse.allowed = !replica;
        let (now, heartbeat): (i64, i64) = (row.try_get(3)?, row.try_get(4)?);
        let currency = self.clocks.compare(sampled, now, replica.then_some(heartbeat));
        let mut issuer = Arc::from("");
        let last = change(row, 5, &mut issuer)?.map(|change| change.digest());
        let (database, trimmed) = (text(row, 0)?.to_owned(), row.try_get(1)?);
        let mut found = Found::default();
        for row in &rows {
            // Without changes there is one row that names none.
            let Some(change) = change(row, 9, &mut issuer)? else { break };
            found.add(change, decode(row, 13)?);
        }
        Ok(Look { database, trimmed, now, last, currency, found })
    }

    /// Writes the heartbeat when it is time. It says what both clocks agree on, and goes back only from what the
    /// server's own has not reached yet.
    async fn beat(&mut self) {
        if !self.pulse.is_due() {
            return;
        }
        let now = SystemClock.now().unix();
        let beat = "UPDATE heartbeat SET at = LEAST(UNIX_TIMESTAMP(), ?) \
                    WHERE at < LEAST(UNIX_TIMESTAMP(), ?) OR at > UNIX_TIMESTAMP()";
        self.pulse.tried(sqlx::query(beat).bind(now).bind(now).execute(&mut *self.connection).await);
    }
}

impl Peek for Open {
    async fn peek(&mut self) -> Result<Waited, SourceError> {
        let Some((database, cursor)) = self.seen.take() else { return Ok(Waited::News) };
        let look = self.look(&cursor, 1).await?;
        look.check(&cursor, &database)?;
        self.seen = Some((database, cursor));
        Ok(if look.found.changes.is_empty() { Waited::Quiet(look.currency) } else { Waited::News })
    }
}

/// What one look showed.
#[derive(Debug)]
struct Look {
    database: String,
    trimmed: i64,
    now: i64,
    /// The row that had the greatest number, as it is now.
    last: Option<String>,
    currency: Currency,
    found: Found,
}

impl Look {
    /// Whether the log goes on from `cursor`, which was read from `database`.
    fn check(&self, cursor: &Cursor, database: &str) -> Result<(), SourceError> {
        let unfit = |why: &str| Err(SourceError::Position(why.to_owned()));
        if self.database != database {
            return unfit("it is another database, or it was declared restored");
        }
        match &self.last {
            Some(is) if !cursor.digest.is_empty() && *is != cursor.digest => {
                return unfit("the change last read is another one now: a backup was restored");
            }
            None if !cursor.digest.is_empty() && self.trimmed < cursor.newest => {
                return unfit("the change last read is not there: a backup was restored");
            }
            _ => {}
        }
        let unread = cursor.gaps.first_key_value().map_or(cursor.newest + 1, |(first, _)| *first);
        if self.trimmed >= unread {
            return unfit("changes that were not read yet have been trimmed");
        }
        Ok(())
    }
}

/// A text column: with a binary collation the server calls it octets.
fn text(row: &MySqlRow, column: usize) -> Result<&str, SourceError> {
    let octets = row.try_get_unchecked::<&[u8], _>(column)?;
    str::from_utf8(octets).map_err(|error| SourceError::Content(format!("a text of the database is none: {error}")))
}

/// The row of the log whose columns begin at `first`.
fn change(row: &MySqlRow, first: usize, issuer: &mut Arc<str>) -> Result<Option<Change>, SourceError> {
    let Some(seq) = row.try_get(first)? else { return Ok(None) };
    let at: Option<i64> = row.try_get(first + 1)?;
    let issuer = interned(issuer, text(row, first + 2)?);
    Ok(Some(Change { seq, xid: 0, at: at.unwrap_or_default(), issuer, serial: row.try_get_unchecked(first + 3)? }))
}

/// The columns of `columns!` from `first` on; `None` where there is no certificate.
fn decode(row: &MySqlRow, first: usize) -> Result<Option<Columns<'_>>, sqlx::Error> {
    let Some(serial) = row.try_get_unchecked(first)? else { return Ok(None) };
    let number = |column: usize| row.try_get_unchecked::<Option<i64>, _>(first + column);
    Ok(Some(Columns {
        serial,
        not_before: number(1)?,
        not_after: number(2)?,
        revoked: number(3)? == Some(1),
        revoked_at: number(4)?,
        reason: number(5)?,
        invalidity_date: number(6)?,
        changed_at: number(7)?,
        released_at: number(8)?,
        shard: number(9)?,
        ca: number(10)?.map(|ca| ca != 0),
        sha256: row.try_get_unchecked(first + 11)?,
    }))
}

impl Source for MariaDbSource {
    async fn open(&mut self) -> Result<(), SourceError> {
        self.open = None;
        let pool = self.server.mariadb(&registry::SERVER_KIND, Mode::ReadOnly).await?;
        let connection = pool.acquire().await?;
        self.open = Some(Open { connection, pulse: Pulse::new(), clocks: Clocks::default(), seen: None });
        Ok(())
    }

    async fn head(&mut self) -> Result<Position, SourceError> {
        let open = opened(&mut self.open)?;
        // Holes far back cannot be filled any more: GAPS_IN rows are more than a busy CA writes while a
        // transaction is open. If there are fewer, the first hole begins where the log was last trimmed.
        let rows = sqlx::query(
            "SELECT CONCAT(m.identity, '/', m.epoch), m.trimmed, UNIX_TIMESTAMP(), c.seq, c.at, c.issuer, c.serial, \
             GREATEST(g.`before`, m.trimmed) + 1, g.seq - 1 \
             FROM meta m LEFT JOIN (SELECT * FROM changes ORDER BY seq DESC LIMIT 1) AS c ON TRUE \
             LEFT JOIN (SELECT seq, LAG(seq) OVER (ORDER BY seq) AS `before` FROM ( \
               (SELECT seq FROM changes ORDER BY seq DESC LIMIT ?) UNION ALL (SELECT trimmed FROM meta) \
               ORDER BY seq DESC LIMIT ?) AS late) AS g ON g.seq > GREATEST(g.`before`, m.trimmed) + 1",
        )
        .bind(GAPS_IN)
        .bind(GAPS_IN)
        .fetch_all(&mut *open.connection)
        .await?;
        let first = rows.first().ok_or_else(|| SourceError::Content("the row of meta cannot be read".to_owned()))?;
        let (database, since) = (text(first, 0)?.to_owned(), first.try_get(2)?);
        let mut cursor = Cursor { newest: first.try_get(1)?, ..Cursor::default() };
        if let Some(newest) = change(first, 3, &mut Arc::from(""))? {
            (cursor.newest, cursor.digest) = (newest.seq, newest.digest());
        }
        for row in &rows {
            if let Some(first) = row.try_get(7)? {
                cursor.gaps.insert(first, Gap { last: row.try_get(8)?, since });
            }
        }
        Ok(position_at(&cursor, database))
    }

    async fn page(&mut self, after: Option<&PageKey>, at_most: usize) -> Result<Page, SourceError> {
        let (issuer, serial) = after.and_then(|PageKey(key)| key.split_once('/')).unwrap_or_default();
        let found = sqlx::query(concat!(
            "SELECT r.issuer, ",
            columns!(),
            " FROM certificates r WHERE (r.issuer = ? AND r.serial > UNHEX(?)) OR r.issuer > ? \
             ORDER BY r.issuer, r.serial LIMIT ?"
        ))
        .bind(issuer)
        .bind(serial)
        .bind(issuer)
        .bind(i64::try_from(at_most).unwrap_or(i64::MAX))
        .fetch_all(&mut *opened(&mut self.open)?.connection)
        .await?;
        let next = match found.last() {
            Some(row) if found.len() >= at_most => {
                Some(PageKey(format!("{}/{}", text(row, 0)?, hex(row.try_get_unchecked(1)?))))
            }
            _ => None,
        };
        let (rows, odd) = all(&found)?;
        Ok(Page { rows, odd, next })
    }

    async fn changes(&mut self, position: &Position) -> Result<Batch, SourceError> {
        let mut cursor: Cursor = cursor_of(position)?;
        let open = opened(&mut self.open)?;
        let look = open.look(&cursor, BATCH).await?;
        look.check(&cursor, &position.database)?;
        let changes = &look.found.changes;
        cursor.advance(changes, look.now);
        let drained = changes.len() < BATCH;
        let (position, gaps) = (position_at(&cursor, position.database.clone()), cursor.open_gaps());
        open.seen = Some((position.database.clone(), cursor));
        Ok(look.found.batch(position, drained, look.currency, gaps))
    }

    async fn wait(&mut self, patience: Duration) -> Result<Waited, SourceError> {
        let open = opened(&mut self.open)?;
        open.beat().await;
        watch(open, self.poll, patience).await
    }

    async fn reread(&mut self, keys: &[Key]) -> Result<(Vec<Row>, Vec<OddRow>), SourceError> {
        let mut serials: BTreeMap<&str, Vec<&[u8]>> = BTreeMap::new();
        for key in keys {
            serials.entry(&key.issuer).or_default().push(&key.serial);
        }
        let (mut rows, mut odd) = (Vec::new(), Vec::new());
        for (issuer, serials) in serials {
            // Only placeholders are put into the text.
            let places = vec!["?"; serials.len()].join(",");
            let sql = format!(
                concat!(
                    "SELECT r.issuer, ",
                    columns!(),
                    " FROM certificates r WHERE r.issuer = ? AND r.serial IN ({places})"
                ),
                places = places
            );
            let query = sqlx::query(AssertSqlSafe(sql)).persistent(false).bind(issuer);
            let query = serials.into_iter().fold(query, sqlx::query::Query::bind);
            let (found, strange) = all(&query.fetch_all(&mut *opened(&mut self.open)?.connection).await?)?;
            rows.extend(found);
            odd.extend(strange);
        }
        Ok((rows, odd))
    }

    fn complaint(&self) -> Option<String> {
        self.open.as_ref().and_then(|open| open.clocks.complaint.clone())
    }
}

/// Rows of an issuer and `columns!`.
fn all(found: &[MySqlRow]) -> Result<(Vec<Row>, Vec<OddRow>), SourceError> {
    let (mut rows, mut odd, mut issuer) = (Vec::with_capacity(found.len()), Vec::new(), Arc::from(""));
    for row in found {
        let issuer = interned(&mut issuer, text(row, 0)?);
        match decode(row, 1)?.map(|columns| columns.row(&issuer)) {
            Some(Ok(row)) => rows.push(row),
            Some(Err(strange)) => odd.push(strange),
            None => {}
        }
    }
    Ok((rows, odd))
}

#[cfg(test)]
mod tests;
