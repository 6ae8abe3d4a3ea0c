//! Jarchy's own issuance database on PostgreSQL, written by other processes: the primary, or a hot standby.
//!
//! The change log's rows bear the number of their transaction. Transactions commit in another order than
//! they began, so a cursor is not a number but says exactly which transactions have been read: all up to the
//! newest of which a row was seen, less those that were still under way then. What any other transaction
//! wrote is a change, however long that took; and one that stays open holds up nothing. The rows of one
//! transaction become visible at once, so that a batch may end anywhere.
//!
//! `LISTEN` wakes the reader and is believed nothing. On a standby nobody can listen, so that is asked every
//! `poll`; nor does a snapshot there name those that are under way (PostgreSQL keeps them elsewhere), so
//! each is asked for by its number until it has ended. What a standby proves reaches up to the heartbeat that a
//! reader of the primary writes, or up to the last commit that was replayed.
//!
//! A load is one long `COPY`, of which the next pages are read while one is taken in. A standby may cancel it for the
//! replay's sake, a server that bounds its statements for their sake; so after a load that was broken off the next one
//! asks for each page by itself, as a reconcile always does, which rests in between.
//!
//! Invariants: rows, the cursor that covers them, and what proves that the log is the same one as before
//! come out of one statement, hence one snapshot. A crash of the server that takes numbers of transactions
//! back cannot hide any: numbers beyond the newest row seen count as unread.

use super::own::{Columns, digest, hex, interned};
use super::{Batch, Currency, Gone, Key, OddRow, Page, PageKey, Position, Row, Source, SourceError, Waited};
use crate::db::{Mode, Server};
use crate::pki::Time;
use crate::registry;
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgListener, PgPool, PgRow};
use sqlx::{Postgres, Row as _};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Changes of one batch.
const BATCH: i64 = 1_000;
/// Pages of so many rows are those of a load.
const LARGE: usize = 5_000;
/// Pages of a load that wait to be taken in, at most.
const AHEAD: usize = 2;
/// Where all pages of a load but the first begin.
const STREAMED: &str = "the next of the load";
/// How often a primary's heartbeat is written.
const BEAT: Duration = Duration::from_secs(1);

/// Only heartbeats are written here, and none is worth waiting for. What is asked is the same each time and touches a
/// few rows that an index finds; but of tables that were filled a moment ago the server has no statistics: it expects
/// very many, reads all of a table, or compiles for 300 ms.
const SESSION: &str = "SET synchronous_commit = off; SET jit = off; SET plan_cache_mode = force_generic_plan; \
    SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off";

/// What `certificates` says, in the order in which it is decoded.
macro_rules! columns {
    () => {
        "serial, not_before, not_after, status = 'revoked', revoked_at, reason, invalidity_date, changed_at, \
         released_at, shard, ca = 1, sha256"
    };
}

/// The reader of one database.
#[derive(Debug)]
pub struct PostgresSource {
    server: Server,
    poll: Duration,
    open: Option<Open>,
    /// Whether the last load was broken off, so that the next one is careful.
    broken_off: bool,
}

#[derive(Debug)]
struct Open {
    pool: PgPool,
    connection: PoolConnection<Postgres>,
    /// Wakes when something was committed or the listener is lost; `None` on a standby.
    woken: Option<Arc<Notify>>,
    /// The listener; it ends with this, or when its connection does.
    listening: JoinSet<()>,
    /// When the heartbeat was last written; `None` where that is not allowed.
    beat: Option<Instant>,
    /// The load that is under way.
    load: Option<Load>,
    /// Of which database what has been read, for waiting.
    seen: Option<(String, Cursor)>,
}

/// The pages of a load as they are read, on a connection of their own; whoever lets go of this ends it.
#[derive(Debug)]
struct Load {
    pages: mpsc::Receiver<Result<Page, SourceError>>,
    _reading: JoinSet<()>,
}

/// Which transactions have been read; see the module's text.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
struct Cursor {
    /// The newest transaction of which a row was seen.
    newest: i64,
    /// Those before it that are not read yet.
    unread: BTreeSet<i64>,
    /// Of the last one that was read only the rows up to this one have been.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    within: Option<(i64, i64)>,
    /// The newest row seen and what it said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last: Option<Last>,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct Last {
    seq: i64,
    digest: String,
}

impl Cursor {
    fn of(position: &Position) -> Result<Self, SourceError> {
        serde_json::from_str(&position.cursor).map_err(|_| SourceError::Position("it is of another kind".to_owned()))
    }

    fn position(&self, database: String) -> Position {
        // Numbers and texts always become JSON.
        Position { database, cursor: serde_json::to_string(self).unwrap_or_default() }
    }

    /// Goes on over `changes`, in the order of the log, that were read in `snapshot`; `full` if there may be
    /// more of them. All of `ended` had ended before the snapshot.
    fn advance(&mut self, changes: &[Change], snapshot: &Snapshot, full: bool, ended: &BTreeSet<i64>) {
        let mut read: BTreeSet<i64> = changes.iter().map(|change| change.xid).collect();
        read.extend(self.within.take().map(|(xid, _)| xid));
        let known = self.newest;
        let mut reached = i64::MAX;
        if let Some(last) = changes.last() {
            if last.xid >= self.newest {
                self.newest = last.xid;
                self.last = Some(Last { seq: last.seq, digest: last.digest() });
            }
            if full {
                reached = last.xid;
                self.within = Some((last.xid, last.seq));
                self.unread.insert(last.xid);
            }
        }
        self.unread.extend(snapshot.running_among(known.saturating_add(1), self.newest));
        // Of those that were passed only they are left of which the snapshot could not show the end.
        let may_come = |xid: &i64| snapshot.may_run(*xid) && !read.contains(xid) && !ended.contains(xid);
        self.unread.retain(|xid| *xid >= reached || may_come(xid));
    }

    /// The oldest transaction that is not read.
    fn oldest_unread(&self) -> i64 {
        self.unread.first().copied().unwrap_or_else(|| self.newest.saturating_add(1))
    }
}

/// `pg_snapshot`, and whether a standby took it: then it names nobody who is under way.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Snapshot {
    xmin: i64,
    xmax: i64,
    running: BTreeSet<i64>,
    standby: bool,
}

impl Snapshot {
    fn parse(text: &str, standby: bool) -> Option<Self> {
        let mut parts = text.split(':');
        let (xmin, xmax) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let running = parts.next()?.split(',').filter(|xid| !xid.is_empty()).map(str::parse);
        Some(Self { xmin, xmax, running: running.collect::<Result<_, _>>().ok()?, standby })
    }

    /// Whether the transaction may still commit, as far as the snapshot alone tells.
    fn may_run(&self, xid: i64) -> bool {
        xid >= self.xmax || (xid >= self.xmin && (self.standby || self.running.contains(&xid)))
    }

    /// Those from `first` to `last` that may still commit.
    fn running_among(&self, first: i64, last: i64) -> Vec<i64> {
        match self.standby {
            true => (first.max(self.xmin)..=last).collect(),
            false => self.running.iter().copied().filter(|xid| (first..=last).contains(xid)).collect(),
        }
    }
}

/// One row of the log.
#[derive(Clone, Debug)]
struct Change {
    seq: i64,
    xid: i64,
    at: i64,
    issuer: Arc<str>,
    serial: Vec<u8>,
}

impl Change {
    fn digest(&self) -> String {
        digest(self.seq, self.at, &self.issuer, &self.serial)
    }
}

impl PostgresSource {
    /// Reads the database on `server`; on a standby looks for changes every `poll`.
    #[must_use]
    pub const fn new(server: Server, poll: Duration) -> Self {
        Self { server, poll, open: None, broken_off: false }
    }

    fn open_now(&mut self) -> Result<&mut Open, SourceError> {
        self.open.as_mut().ok_or_else(|| SourceError::Content("the database is not open".to_owned()))
    }
}

/// Notes in `woken` that something was committed, or that the connection is lost.
async fn listen(mut listener: PgListener, woken: Arc<Notify>) {
    while let Ok(Some(_)) = listener.try_recv().await {
        woken.notify_one();
    }
    woken.notify_one();
}

impl Open {
    /// One look at the log: what `cursor` leaves unread, and everything that proves where we are.
    async fn look(&mut self, cursor: &Cursor, at_most: i64) -> Result<Look, SourceError> {
        let unread: Vec<String> = cursor.unread.iter().map(i64::to_string).collect();
        // Asked for before the snapshot is taken, which then shows what they wrote.
        let ended: Vec<i64> = match self.woken {
            None if !unread.is_empty() => {
                sqlx::query_scalar(
                    "SELECT x::text::int8 FROM unnest($1::text[]::xid8[]) AS x \
                     WHERE coalesce(pg_xact_status(x), '') <> 'in progress'",
                )
                .bind(&unread)
                .fetch_all(&mut *self.connection)
                .await?
            }
            _ => Vec::new(),
        };
        let (within, after) = cursor.within.unwrap_or_default();
        let rows = sqlx::query(concat!(
            "SELECT pg_current_snapshot()::text, pg_is_in_recovery(), m.identity || '/' || m.epoch, \
             m.trimmed::text::int8, coalesce((SELECT at FROM jarchy.heartbeat), 0), \
             floor(extract(epoch FROM pg_last_xact_replay_timestamp()))::int8, \
             l.seq, l.at, l.issuer, l.serial, c.seq, c.xid::text::int8, c.at, c.issuer, c.serial, r.* \
             FROM jarchy.meta m LEFT JOIN jarchy.changes l ON l.seq = $1 LEFT JOIN ( \
               SELECT * FROM ( \
                 (SELECT seq, xid, at, issuer, serial FROM jarchy.changes WHERE xid = ANY($2::text[]::xid8[]) \
                   AND NOT (xid = $3::text::xid8 AND seq <= $4) ORDER BY xid, seq LIMIT $6) \
                 UNION ALL \
                 (SELECT seq, xid, at, issuer, serial FROM jarchy.changes WHERE xid > $5::text::xid8 \
                   ORDER BY xid, seq LIMIT $6) \
               ) AS unread ORDER BY xid, seq LIMIT $6 \
             ) c ON true LEFT JOIN LATERAL (SELECT ",
            columns!(),
            " FROM jarchy.certificates WHERE issuer = c.issuer AND serial = c.serial) AS r ON true ORDER BY c.xid, c.seq"
        ))
        .bind(cursor.last.as_ref().map_or(-1, |last| last.seq))
        .bind(unread)
        .bind(within.to_string())
        .bind(after)
        .bind(cursor.newest.to_string())
        .bind(at_most)
        .fetch_all(&mut *self.connection)
        .await?;
        let mut look = Look::read(&rows)?;
        look.ended.extend(ended);
        Ok(look)
    }

    /// Writes the heartbeat when it is time; losing one in a crash does no harm.
    async fn beat(&mut self) -> Result<(), SourceError> {
        if self.beat.is_some_and(|beat| beat.elapsed() >= BEAT) {
            sqlx::query("UPDATE jarchy.heartbeat SET at = jarchy.now() WHERE at < jarchy.now()")
                .execute(&mut *self.connection)
                .await?;
            self.beat = Some(Instant::now());
        }
        Ok(())
    }
}

/// What one look showed.
#[derive(Debug)]
struct Look {
    snapshot: Snapshot,
    /// Transactions that had ended before the snapshot.
    ended: BTreeSet<i64>,
    database: String,
    trimmed: i64,
    heartbeat: i64,
    replayed: Option<i64>,
    /// The row that was seen last, as it is now.
    last: Option<Last>,
    changes: Vec<Change>,
    rows: Vec<Row>,
    gone: Vec<Gone>,
    odd: Vec<OddRow>,
}

impl Look {
    fn read(rows: &[PgRow]) -> Result<Self, SourceError> {
        let unreadable = |what: &str| SourceError::Content(format!("{what} of the database cannot be read"));
        let first = rows.first().ok_or_else(|| unreadable("the row of meta"))?;
        let standby = first.try_get(1)?;
        let last = match first.try_get(6)? {
            Some(seq) => {
                Some(Last { seq, digest: digest(seq, first.try_get(7)?, first.try_get(8)?, first.try_get(9)?) })
            }
            None => None,
        };
        let mut look = Self {
            snapshot: Snapshot::parse(first.try_get(0)?, standby).ok_or_else(|| unreadable("the snapshot"))?,
            ended: BTreeSet::new(),
            database: first.try_get(2)?,
            trimmed: first.try_get(3)?,
            heartbeat: first.try_get(4)?,
            replayed: first.try_get(5)?,
            last,
            changes: Vec::new(),
            rows: Vec::new(),
            gone: Vec::new(),
            odd: Vec::new(),
        };
        let mut issuer = Arc::from("");
        for row in rows {
            // Without changes there is one row that names none.
            let Some(seq) = row.try_get(10)? else { break };
            let change = Change {
                seq,
                xid: row.try_get(11)?,
                at: row.try_get(12)?,
                issuer: interned(&mut issuer, row.try_get(13)?),
                serial: row.try_get(14)?,
            };
            match decode(row, 15)?.map(|columns| columns.row(&change.issuer)) {
                Some(Ok(row)) => look.rows.push(row),
                Some(Err(odd)) => look.odd.push(odd),
                None => {
                    let (issuer, serial) = (Arc::clone(&change.issuer), change.serial.clone());
                    look.gone.push(Gone::Missing(Key { issuer, serial }));
                }
            }
            look.changes.push(change);
        }
        Ok(look)
    }

    /// Whether the log goes on from `cursor`, which was read from `database`.
    fn check(&self, cursor: &Cursor, database: &str) -> Result<(), SourceError> {
        let unfit = |why: &str| Err(SourceError::Position(why.to_owned()));
        if self.database != database {
            return unfit("it is another database, or it was declared restored");
        }
        match (&cursor.last, &self.last) {
            (Some(seen), Some(is)) if seen != is => {
                return unfit("the change last read is another one now: a backup was restored");
            }
            (Some(_), None) if self.snapshot.standby && self.snapshot.xmax <= cursor.newest => {
                return Err(SourceError::Content(
                    "this standby has not replayed yet what was read elsewhere before; waiting for it".to_owned(),
                ));
            }
            (Some(_), None) if self.trimmed < cursor.newest => {
                return unfit("the change last read is not there: a backup was restored");
            }
            _ => {}
        }
        if self.trimmed >= cursor.oldest_unread() {
            return unfit("changes that were not read yet have been trimmed");
        }
        Ok(())
    }

    /// On a standby everything up to the heartbeat has been replayed, and all commits before the last one
    /// that was; those of the same second may stand in another order.
    fn currency(&self) -> Currency {
        if !self.snapshot.standby {
            return Currency::Present;
        }
        let proved = self.replayed.map_or(self.heartbeat, |replayed| self.heartbeat.max(replayed - 1));
        if proved > 0 { Currency::At(Time::from_unix(proved)) } else { Currency::Unknown }
    }
}

impl Source for PostgresSource {
    async fn open(&mut self) -> Result<(), SourceError> {
        if let Some(open) = self.open.take() {
            self.broken_off = open.load.is_some();
        }
        let pool = self.server.postgres(&registry::SERVER_KIND, Mode::ReadOnly).await?;
        let mut connection = pool.acquire().await?;
        sqlx::raw_sql(SESSION).execute(&mut *connection).await?;
        let standby: bool = sqlx::query_scalar("SELECT pg_is_in_recovery()").fetch_one(&mut *connection).await?;
        let may_beat = "SELECT NOT pg_is_in_recovery() AND has_table_privilege('jarchy.heartbeat', 'UPDATE')";
        let may_beat: bool = sqlx::query_scalar(may_beat).fetch_one(&mut *connection).await?;
        let (mut listening, mut woken) = (JoinSet::new(), None);
        if !standby {
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.eager_reconnect(false);
            listener.listen("jarchy_changes").await?;
            let wake = Arc::new(Notify::new());
            listening.spawn(listen(listener, Arc::clone(&wake)));
            woken = Some(wake);
        }
        let beat = may_beat.then(|| Instant::now() - BEAT);
        self.open = Some(Open { pool, connection, woken, listening, beat, load: None, seen: None });
        Ok(())
    }

    async fn head(&mut self) -> Result<Position, SourceError> {
        let open = self.open_now()?;
        let row = sqlx::query(
            "SELECT pg_current_snapshot()::text, pg_is_in_recovery(), m.identity || '/' || m.epoch, \
             m.trimmed::text::int8, c.xid::text::int8, c.seq, c.at, c.issuer, c.serial \
             FROM jarchy.meta m LEFT JOIN (SELECT * FROM jarchy.changes ORDER BY xid DESC, seq DESC LIMIT 1) c ON true",
        )
        .fetch_one(&mut *open.connection)
        .await?;
        let snapshot = Snapshot::parse(row.try_get(0)?, row.try_get(1)?)
            .ok_or_else(|| SourceError::Content("the snapshot of the database cannot be read".to_owned()))?;
        let mut cursor = Cursor { newest: row.try_get(3)?, ..Cursor::default() };
        if let Some(newest) = row.try_get(4)? {
            let seq = row.try_get(5)?;
            let digest = digest(seq, row.try_get(6)?, row.try_get(7)?, row.try_get(8)?);
            let unread = snapshot.running_among(snapshot.xmin, newest).into_iter().collect();
            cursor = Cursor { newest, unread, within: None, last: Some(Last { seq, digest }) };
        }
        Ok(cursor.position(row.try_get(2)?))
    }

    async fn page(&mut self, after: Option<&PageKey>, at_most: usize) -> Result<Page, SourceError> {
        let streams = at_most >= LARGE && !self.broken_off;
        let open = self.open_now()?;
        match after {
            Some(PageKey(key)) if key == STREAMED => {}
            None if streams => {
                let (sender, pages) = mpsc::channel(AHEAD);
                let mut reading = JoinSet::new();
                reading.spawn(stream(open.pool.acquire().await?.detach(), at_most, sender));
                open.load = Some(Load { pages, _reading: reading });
            }
            _ => return read_page(&mut open.connection, after, at_most).await,
        }
        let load = open.load.as_mut().ok_or(SourceError::Interrupted)?;
        let ended = || Err(SourceError::Content("reading the pages of a load ended abnormally".to_owned()));
        let page = load.pages.recv().await.unwrap_or_else(ended)?;
        if page.next.is_none() {
            open.load = None;
        }
        Ok(page)
    }

    async fn changes(&mut self, position: &Position) -> Result<Batch, SourceError> {
        let mut cursor = Cursor::of(position)?;
        let open = self.open_now()?;
        let look = open.look(&cursor, BATCH).await?;
        look.check(&cursor, &position.database)?;
        let full = i64::try_from(look.changes.len()).is_ok_and(|len| len >= BATCH);
        cursor.advance(&look.changes, &look.snapshot, full, &look.ended);
        let (currency, position) = (look.currency(), cursor.position(position.database.clone()));
        let gaps = cursor.unread.len();
        open.seen = Some((position.database.clone(), cursor));
        let Look { rows, gone, odd, .. } = look;
        Ok(Batch { rows, gone, odd, position, drained: !full, currency, gaps })
    }

    async fn wait(&mut self, patience: Duration) -> Result<Waited, SourceError> {
        let (poll, until) = (self.poll, Instant::now() + patience);
        let open = self.open_now()?;
        open.beat().await?;
        if let Some(woken) = &open.woken
            && !patience.is_zero()
        {
            let woken = tokio::time::timeout(patience, woken.notified()).await.is_ok();
            if open.listening.try_join_next().is_some() {
                return Err(SourceError::Content("the connection that listens for changes was lost".to_owned()));
            }
            // That nobody woke us proves nothing.
            return Ok(if woken { Waited::News } else { Waited::Quiet(Currency::Unknown) });
        }
        loop {
            let Some((database, cursor)) = open.seen.take() else { return Ok(Waited::News) };
            let look = open.look(&cursor, 1).await?;
            look.check(&cursor, &database)?;
            open.seen = Some((database, cursor));
            if !look.changes.is_empty() {
                return Ok(Waited::News);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Waited::Quiet(look.currency()));
            }
            tokio::time::sleep(poll.min(left)).await;
        }
    }

    async fn reread(&mut self, keys: &[Key]) -> Result<(Vec<Row>, Vec<OddRow>), SourceError> {
        let issuers: Vec<&str> = keys.iter().map(|key| &*key.issuer).collect();
        let serials: Vec<&[u8]> = keys.iter().map(|key| &*key.serial).collect();
        let found = sqlx::query(concat!(
            "SELECT issuer, ",
            columns!(),
            " FROM unnest($1::text[], $2::bytea[]) AS k(issuer, serial) JOIN jarchy.certificates USING (issuer, serial)"
        ))
        .bind(issuers)
        .bind(serials)
        .fetch_all(&mut *self.open_now()?.connection)
        .await?;
        let (mut rows, mut odd, mut issuer) = (Vec::new(), Vec::new(), Arc::from(""));
        for row in &found {
            let issuer = interned(&mut issuer, row.try_get(0)?);
            match decode(row, 1)?.map(|columns| columns.row(&issuer)) {
                Some(Ok(row)) => rows.push(row),
                Some(Err(strange)) => odd.push(strange),
                None => {}
            }
        }
        Ok((rows, odd))
    }
}

/// Hands over the whole table, page by page, until nobody takes them any more.
async fn stream(mut connection: PgConnection, at_most: usize, pages: mpsc::Sender<Result<Page, SourceError>>) {
    let sql = concat!("COPY (SELECT issuer, ", columns!(), " FROM jarchy.certificates) TO STDOUT (FORMAT binary)");
    let mut copy = match Copy::begin(&mut connection, sql).await {
        Ok(copy) => copy,
        Err(error) => {
            // Who has gone needs no answer.
            _ = pages.send(Err(error)).await;
            return;
        }
    };
    loop {
        let page = copy.page(at_most).await.map(|(mut page, rows)| {
            page.next = (rows == at_most).then(|| PageKey(STREAMED.to_owned()));
            page
        });
        let goes_on = page.as_ref().is_ok_and(|page| page.next.is_some());
        if pages.send(page).await.is_err() || !goes_on {
            return;
        }
    }
}

/// One page, by the order of the key. A connection that is given up in the middle of it is of no use any more.
async fn read_page(
    connection: &mut PgConnection,
    after: Option<&PageKey>,
    at_most: usize,
) -> Result<Page, SourceError> {
    let (issuer, serial) = after.and_then(|PageKey(key)| key.split_once('/')).unwrap_or_default();
    // Both are hex, which no quote can leave.
    let sql = format!(
        concat!(
            "COPY (SELECT issuer, ",
            columns!(),
            " FROM jarchy.certificates WHERE (issuer, serial) > (convert_from(decode('{issuer}', 'hex'), 'UTF8'), \
             decode('{serial}', 'hex')) ORDER BY issuer, serial LIMIT {at_most}) TO STDOUT (FORMAT binary)"
        ),
        issuer = issuer,
        serial = serial,
        at_most = at_most
    );
    let mut copy = Copy::begin(connection, &sql).await?;
    // To the end, so that the connection is free again.
    let (mut page, rows) = copy.page(usize::MAX).await?;
    page.next = (rows >= at_most).then(|| PageKey(format!("{}/{}", hex(copy.issuer.as_bytes()), hex(&copy.serial))));
    Ok(page)
}

/// The rows of a `COPY` in binary, which costs both sides a fraction of what a query does.
struct Copy<'a> {
    messages: BoxStream<'a, Result<Bytes, sqlx::Error>>,
    /// Whose row came last.
    issuer: Arc<str>,
    serial: Vec<u8>,
}

impl<'a> Copy<'a> {
    async fn begin(connection: &'a mut PgConnection, sql: &str) -> Result<Self, SourceError> {
        let messages = connection.copy_out_raw(sql).await?;
        Ok(Self { messages, issuer: Arc::from(""), serial: Vec::new() })
    }

    /// The next rows and how many there were; fewer than `at_most` are the last.
    async fn page(&mut self, at_most: usize) -> Result<(Page, usize), SourceError> {
        let unreadable = || SourceError::Content("what COPY sent cannot be read".to_owned());
        let (mut page, mut rows) = (Page { rows: Vec::new(), odd: Vec::new(), next: None }, 0);
        while rows < at_most
            && let Some(message) = self.messages.try_next().await?
        {
            let Some(mut fields) = copy::tuple(&message) else { continue };
            let issuer = fields.next().flatten().and_then(|name| str::from_utf8(name).ok()).ok_or_else(unreadable)?;
            let issuer = interned(&mut self.issuer, issuer);
            let columns = copy::columns(&mut fields).ok_or_else(unreadable)?;
            self.serial.clear();
            self.serial.extend_from_slice(columns.serial);
            rows += 1;
            match columns.row(&issuer) {
                Ok(row) => page.rows.push(row),
                Err(odd) => page.odd.push(odd),
            }
        }
        Ok((page, rows))
    }
}

/// The binary format of `COPY`: a head, then for each row the number of its fields and each field with its
/// length before it, -1 for NULL; numbers in network order.
mod copy {
    use super::super::own::Columns;

    const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

    /// The fields of the row that `message` holds; `None` for the end and for a head alone.
    pub(super) fn tuple(message: &[u8]) -> Option<Fields<'_>> {
        // Flags and the length of an extension that nobody has; the first row stands behind the head.
        let rest = message.strip_prefix(SIGNATURE).and_then(|rest| rest.get(8..)).unwrap_or(message);
        let (count, rest) = rest.split_first_chunk()?;
        (i16::from_be_bytes(*count) > 0).then_some(Fields(rest))
    }

    /// What is left of a row.
    pub(super) struct Fields<'a>(&'a [u8]);

    impl<'a> Iterator for Fields<'a> {
        type Item = Option<&'a [u8]>;

        fn next(&mut self) -> Option<Self::Item> {
            let (length, rest) = self.0.split_first_chunk()?;
            let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
                self.0 = rest;
                return Some(None);
            };
            let (field, rest) = rest.split_at_checked(length)?;
            self.0 = rest;
            Some(Some(field))
        }
    }

    /// The columns of `columns!`; `None` if there are fewer, or others.
    pub(super) fn columns<'a>(fields: &mut Fields<'a>) -> Option<Columns<'a>> {
        Some(Columns {
            serial: fields.next()??,
            not_before: number(fields.next()?)?,
            not_after: number(fields.next()?)?,
            revoked: truth(fields.next()?)? == Some(true),
            revoked_at: number(fields.next()?)?,
            reason: number(fields.next()?)?,
            invalidity_date: number(fields.next()?)?,
            changed_at: number(fields.next()?)?,
            released_at: number(fields.next()?)?,
            shard: number(fields.next()?)?,
            ca: truth(fields.next()?)?,
            sha256: fields.next()?,
        })
    }

    fn number(field: Option<&[u8]>) -> Option<Option<i64>> {
        match field {
            None => Some(None),
            Some(octets) if octets.len() == 8 => Some(octets.try_into().ok().map(i64::from_be_bytes)),
            Some(octets) => Some(Some(i32::from_be_bytes(octets.try_into().ok()?).into())),
        }
    }

    fn truth(field: Option<&[u8]>) -> Option<Option<bool>> {
        match field {
            None => Some(None),
            Some([octet]) => Some(Some(*octet != 0)),
            Some(_) => None,
        }
    }
}

/// The columns of `columns!` from `first` on; `None` where there is no certificate.
fn decode(row: &PgRow, first: usize) -> Result<Option<Columns<'_>>, sqlx::Error> {
    let Some(serial) = row.try_get(first)? else { return Ok(None) };
    Ok(Some(Columns {
        serial,
        not_before: row.try_get(first + 1)?,
        not_after: row.try_get(first + 2)?,
        revoked: row.try_get(first + 3)?,
        revoked_at: row.try_get(first + 4)?,
        reason: row.try_get::<Option<i32>, _>(first + 5)?.map(i64::from),
        invalidity_date: row.try_get(first + 6)?,
        changed_at: row.try_get(first + 7)?,
        released_at: row.try_get(first + 8)?,
        shard: row.try_get::<Option<i32>, _>(first + 9)?.map(i64::from),
        ca: row.try_get(first + 10)?,
        sha256: row.try_get(first + 11)?,
    }))
}

#[cfg(test)]
mod tests;
