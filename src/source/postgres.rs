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
//! reader of the primary writes, or up to the last commit that was replayed; of both only as much as the clock of
//! the primary and that of its reader agree on. One that is promoted is opened anew.
//!
//! A load is one long `COPY`, of which the next pages are read while one is taken in. A standby may cancel it for the
//! replay's sake, a server that bounds its statements for their sake; so after a load that was broken off the next one
//! asks for each page by itself, as a reconcile always does, which rests in between.
//!
//! Invariants: rows, the cursor that covers them, and what proves that the log is the same one as before
//! come out of one statement, hence one snapshot. A crash of the server that takes numbers of transactions
//! back cannot hide any: numbers beyond the newest row seen count as unread.

use super::own::{Change, Clocks, Columns, Found, Peek, Pulse, cursor_of, hex, interned, opened, position_at, watch};
use super::{Batch, Currency, Key, OddRow, Page, PageKey, Position, Row, Source, SourceError, Waited};
use crate::db::{Mode, Server};
use crate::pki::{Clock, SystemClock};
use crate::registry;
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnection, PgListener, PgPool, PgRow};
use sqlx::{Postgres, Row as _};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

/// Changes of one batch.
const BATCH: i64 = 1_000;
/// Pages of so many rows are those of a load.
const LARGE: usize = 5_000;
/// Pages of a load that wait to be taken in, at most.
const AHEAD: usize = 2;
/// Where all pages of a load but the first begin.
const STREAMED: &str = "the next of the load";

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
    pulse: Pulse,
    clocks: Clocks,
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
    /// Those before it that are not read yet, as runs from one to another: on a standby there may be very many.
    unread: BTreeMap<i64, i64>,
    /// Of the last one that was read only the rows up to this one have been.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    within: Option<(i64, i64)>,
    /// The newest row seen and what it said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    last: Option<Last>,
    /// Who trimmed the log last, as far as this has seen.
    trimmer: i64,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct Last {
    seq: i64,
    digest: String,
}

impl From<&Change> for Last {
    fn from(change: &Change) -> Self {
        Self { seq: change.seq, digest: change.digest() }
    }
}

impl Cursor {
    /// Goes on over what `look` showed, of which there may be more if it is `full`.
    fn advance(&mut self, look: &Look, full: bool) {
        let changes = &look.found.changes;
        let (known, mut reached) = (self.newest, i64::MAX);
        self.within = None;
        if let Some(last) = changes.last() {
            if last.xid >= self.newest {
                self.newest = last.xid;
                self.last = Some(last.into());
            }
            if full {
                reached = last.xid;
                self.within = Some((last.xid, last.seq));
            }
        }
        // Of those that were passed only they are left of which nothing showed the end; of the others, all.
        let mut left = look.snapshot.open_among(known.saturating_add(1), self.newest.min(reached - 1));
        if reached > known && full {
            left.push((reached, reached));
        }
        for (first, last) in std::mem::take(&mut self.unread) {
            left.extend(look.before.open_among(first, last.min(reached - 1)));
            if last >= reached {
                left.push((first.max(reached), last));
            }
        }
        let read: BTreeSet<i64> = changes.iter().map(|change| change.xid).filter(|xid| *xid < reached).collect();
        for (mut first, last) in left {
            for xid in read.range(first..=last) {
                if first < *xid {
                    self.unread.insert(first, xid - 1);
                }
                first = xid + 1;
            }
            if first <= last {
                self.unread.insert(first, last);
            }
        }
        self.trimmer = look.trimmer;
    }

    /// The oldest transaction that has ended, as far as `snapshot` tells, and is not read.
    fn oldest_ended(&self, snapshot: &Snapshot) -> i64 {
        let ended = self.unread.iter().find_map(|(&first, &last)| {
            let open = snapshot.open_among(first, last).into_iter();
            let next = open.fold(first, |next, (first, last)| if first == next { last + 1 } else { next });
            (next <= last).then_some(next)
        });
        ended.unwrap_or_else(|| self.newest.saturating_add(1))
    }

    /// Transactions that are waited for.
    fn open(&self) -> usize {
        self.unread.iter().map(|(first, last)| usize::try_from(last - first + 1).unwrap_or(0)).sum()
    }
}

/// Which transactions may still commit: those that are named, and all from `unnamed` on.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Snapshot {
    running: BTreeSet<i64>,
    unnamed: i64,
    /// From here on none has ended.
    xmax: i64,
}

impl Snapshot {
    /// `pg_snapshot`; on a standby it names nobody who is under way.
    fn parse(text: &str, standby: bool) -> Option<Self> {
        let mut parts = text.split(':');
        let (xmin, xmax) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let running = parts.next()?.split(',').filter(|xid| !xid.is_empty()).map(str::parse);
        let unnamed = if standby { xmin } else { xmax };
        Some(Self { running: running.collect::<Result<_, _>>().ok()?, unnamed, xmax })
    }

    /// Those from `first` to `last` that may still commit, as runs.
    fn open_among(&self, first: i64, last: i64) -> Vec<(i64, i64)> {
        let named = self.running.iter().filter(|xid| (first..=last).contains(*xid)).map(|xid| (*xid, *xid));
        let unnamed = first.max(self.unnamed);
        named.chain((unnamed <= last).then_some((unnamed, last))).collect()
    }
}

impl PostgresSource {
    /// Reads the database on `server`; on a standby looks for changes every `poll`.
    #[must_use]
    pub const fn new(server: Server, poll: Duration) -> Self {
        Self { server, poll, open: None, broken_off: false }
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
    /// On a standby, which of `runs` are under way; and who trimmed the log last. Asked before the snapshot of a look is
    /// taken, which then shows what all the others wrote.
    async fn ask(&mut self, runs: &BTreeMap<i64, i64>) -> Result<(Snapshot, i64), SourceError> {
        let (first, last): (Vec<i64>, Vec<i64>) = runs.iter().unzip();
        let rows = sqlx::query(
            "SELECT pg_snapshot_xmax(s)::text::int8, m.xmin::text::int8, r.xid \
             FROM jarchy.meta m CROSS JOIN pg_current_snapshot() AS s LEFT JOIN LATERAL (SELECT xid FROM ( \
               SELECT generate_series(greatest(first, pg_snapshot_xmin(s)::text::int8), \
                 least(last, pg_snapshot_xmax(s)::text::int8 - 1)) AS xid FROM unnest($1::int8[], $2::int8[]) AS run(first, last) \
               ) AS those WHERE pg_xact_status(xid::text::xid8) = 'in progress') AS r ON true",
        )
        .bind(first)
        .bind(last)
        .fetch_all(&mut *self.connection)
        .await?;
        let row = rows.first().ok_or_else(|| unreadable("the row of meta"))?;
        let (xmax, trimmer) = (row.try_get(0)?, row.try_get(1)?);
        let running =
            rows.iter().filter_map(|row| row.try_get::<Option<i64>, _>(2).transpose()).collect::<Result<_, _>>()?;
        Ok((Snapshot { running, unnamed: xmax, xmax }, trimmer))
    }

    /// One look at the log: what `cursor` leaves unread, and everything that proves where we are.
    async fn look(&mut self, cursor: &Cursor, at_most: i64) -> Result<Look, SourceError> {
        let asked = match self.woken {
            None if !cursor.unread.is_empty() => Some(self.ask(&cursor.unread).await?),
            _ => None,
        };
        let runs = cursor.unread.iter().map(|(first, last)| (*first, *last));
        let runs = runs.chain([(cursor.newest.saturating_add(1), i64::MAX)]);
        let (first, last): (Vec<i64>, Vec<i64>) = runs.unzip();
        // Behind which row of its first transaction each begins: mostly before all of them.
        let begun = |xid: &i64| cursor.within.filter(|(within, _)| within == xid).map_or(-1, |(_, seq)| seq);
        let after: Vec<i64> = first.iter().map(begun).collect();
        let sampled = SystemClock.now();
        let rows = sqlx::query(concat!(
            "SELECT pg_current_snapshot()::text, pg_is_in_recovery(), m.identity || '/' || m.epoch, \
             m.trimmed::text::int8, m.xmin::text::int8, jarchy.now(), h.at, h.ahead, \
             floor(extract(epoch FROM pg_last_xact_replay_timestamp()))::int8, \
             has_table_privilege('jarchy.heartbeat', 'UPDATE') AND NOT current_setting('transaction_read_only')::bool, \
             l.xid::text::int8, l.seq, l.at, l.issuer, l.serial, c.xid::text::int8, c.seq, c.at, c.issuer, c.serial, r.* \
             FROM jarchy.meta m JOIN jarchy.heartbeat h ON true LEFT JOIN jarchy.changes l ON l.seq = $1 LEFT JOIN ( \
               SELECT unread.* FROM unnest($2::int8[], $3::int8[], $4::int8[]) AS run(first, last, after), LATERAL ( \
                 SELECT seq, xid, at, issuer, serial FROM jarchy.changes WHERE xid <= last::text::xid8 \
                   AND (xid, seq) > (first::text::xid8, after) ORDER BY xid, seq LIMIT $5 \
               ) AS unread ORDER BY xid, seq LIMIT $5 \
             ) c ON true LEFT JOIN LATERAL (SELECT ",
            columns!(),
            " FROM jarchy.certificates WHERE issuer = c.issuer AND serial = c.serial) AS r ON true ORDER BY c.xid, c.seq"
        ))
        .bind(cursor.last.as_ref().map_or(-1, |last| last.seq))
        .bind(first)
        .bind(last)
        .bind(after)
        .bind(at_most)
        .fetch_all(&mut *self.connection)
        .await?;
        let row = rows.first().ok_or_else(|| unreadable("the row of meta"))?;
        let standby: bool = row.try_get(1)?;
        if standby != self.woken.is_none() {
            return Err(SourceError::Content("the standby was promoted: it is opened anew as a primary".to_owned()));
        }
        self.pulse.allowed = row.try_get(9)?;
        // A standby has replayed everything up to the heartbeat, and all commits before the last one that it has; those
        // of the same second may stand in another order.
        let (heartbeat, ahead, commit): (i64, i64, Option<i64>) = (row.try_get(6)?, row.try_get(7)?, row.try_get(8)?);
        let replayed = commit.map_or(heartbeat, |commit| heartbeat.max(commit - 1 - ahead));
        let currency = self.clocks.compare(sampled, row.try_get(5)?, standby.then_some(replayed));
        let snapshot = Snapshot::parse(row.try_get(0)?, standby).ok_or_else(|| unreadable("the snapshot"))?;
        let (before, trimmer) = match asked {
            Some(asked) => asked,
            None => (snapshot.clone(), row.try_get(4)?),
        };
        let mut issuer = Arc::from("");
        let last = change(row, 10, &mut issuer)?;
        let (database, trimmed) = (row.try_get(2)?, row.try_get(3)?);
        let mut found = Found::default();
        for row in &rows {
            // Without changes there is one row that names none.
            let Some(change) = change(row, 15, &mut issuer)? else { break };
            found.add(change, decode(row, 20)?);
        }
        let last = last.as_ref().map(Last::from);
        Ok(Look { snapshot, before, standby, database, trimmed, trimmer, last, currency, found })
    }

    /// Writes the heartbeat when it is time; losing one in a crash does no harm. It says what both clocks agree on, and
    /// goes back only from what the server's own has not reached yet. If somebody else has it in hand, so much the better.
    async fn beat(&mut self) {
        if !self.pulse.is_due() {
            return;
        }
        let beat = sqlx::query(
            "UPDATE jarchy.heartbeat AS h SET at = n.at, ahead = n.now - n.at FROM ( \
               SELECT id, now, least(now, $1) AS at FROM jarchy.heartbeat, (SELECT jarchy.now()) AS clock(now) \
               WHERE at < least(now, $1) OR at > now FOR UPDATE OF heartbeat SKIP LOCKED \
             ) AS n WHERE h.id = n.id",
        );
        let written = beat.bind(SystemClock.now().unix()).execute(&mut *self.connection).await;
        self.pulse.tried(written);
    }
}

fn unreadable(what: &str) -> SourceError {
    SourceError::Content(format!("{what} of the database cannot be read"))
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
    snapshot: Snapshot,
    /// What is known of those that were unread before: as of the snapshot, or on a standby a little earlier.
    before: Snapshot,
    standby: bool,
    database: String,
    /// The newest transaction of which a row was ever trimmed.
    trimmed: i64,
    /// Who trimmed the log last; no later than `before`.
    trimmer: i64,
    /// The row that was seen last, as it is now.
    last: Option<Last>,
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
        match (&cursor.last, &self.last) {
            (Some(seen), Some(is)) if seen != is => {
                return unfit("the change last read is another one now: a backup was restored");
            }
            (Some(_), None) if self.standby && self.snapshot.xmax <= cursor.newest => {
                return Err(SourceError::Content(
                    "this standby has not replayed yet what was read elsewhere before; waiting for it".to_owned(),
                ));
            }
            (Some(_), None) if self.trimmed < cursor.newest => {
                return unfit("the change last read is not there: a backup was restored");
            }
            _ => {}
        }
        // What still ran when the log was trimmed cannot have lost anything by that.
        if self.trimmer != cursor.trimmer && self.trimmed >= cursor.oldest_ended(&self.before) {
            return unfit("changes that were not read yet have been trimmed");
        }
        Ok(())
    }
}

/// The row of the log whose columns begin at `first`.
fn change(row: &PgRow, first: usize, issuer: &mut Arc<str>) -> Result<Option<Change>, sqlx::Error> {
    let Some(xid) = row.try_get(first)? else { return Ok(None) };
    let (seq, at) = (row.try_get(first + 1)?, row.try_get(first + 2)?);
    let issuer = interned(issuer, row.try_get(first + 3)?);
    Ok(Some(Change { seq, xid, at, issuer, serial: row.try_get(first + 4)? }))
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
        let (mut listening, mut woken) = (JoinSet::new(), None);
        if !standby {
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.eager_reconnect(false);
            listener.listen("jarchy_changes").await?;
            let wake = Arc::new(Notify::new());
            listening.spawn(listen(listener, Arc::clone(&wake)));
            woken = Some(wake);
        }
        let (pulse, clocks) = (Pulse::new(), Clocks::default());
        self.open = Some(Open { pool, connection, woken, listening, pulse, clocks, load: None, seen: None });
        Ok(())
    }

    async fn head(&mut self) -> Result<Position, SourceError> {
        let open = opened(&mut self.open)?;
        let asked = match open.woken {
            None => Some(open.ask(&BTreeMap::from([(0, i64::MAX)])).await?),
            Some(_) => None,
        };
        let row = sqlx::query(
            "SELECT pg_current_snapshot()::text, m.identity || '/' || m.epoch, m.trimmed::text::int8, \
             m.xmin::text::int8, c.xid::text::int8, c.seq, c.at, c.issuer, c.serial \
             FROM jarchy.meta m LEFT JOIN (SELECT * FROM jarchy.changes ORDER BY xid DESC, seq DESC LIMIT 1) c ON true",
        )
        .fetch_one(&mut *open.connection)
        .await?;
        let (snapshot, trimmer) = match asked {
            Some(asked) => asked,
            None => {
                (Snapshot::parse(row.try_get(0)?, false).ok_or_else(|| unreadable("the snapshot"))?, row.try_get(3)?)
            }
        };
        let mut cursor = Cursor { newest: row.try_get(2)?, trimmer, ..Cursor::default() };
        if let Some(newest) = change(&row, 4, &mut Arc::from(""))? {
            cursor.unread = snapshot.open_among(0, newest.xid).into_iter().collect();
            (cursor.newest, cursor.last) = (newest.xid, Some((&newest).into()));
        }
        Ok(position_at(&cursor, row.try_get(1)?))
    }

    async fn page(&mut self, after: Option<&PageKey>, at_most: usize) -> Result<Page, SourceError> {
        let streams = at_most >= LARGE && !self.broken_off;
        let open = opened(&mut self.open)?;
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
        let mut cursor: Cursor = cursor_of(position)?;
        let open = opened(&mut self.open)?;
        let look = open.look(&cursor, BATCH).await?;
        look.check(&cursor, &position.database)?;
        let full = i64::try_from(look.found.changes.len()).is_ok_and(|len| len >= BATCH);
        cursor.advance(&look, full);
        let (position, gaps) = (position_at(&cursor, position.database.clone()), cursor.open());
        open.seen = Some((position.database.clone(), cursor));
        Ok(look.found.batch(position, !full, look.currency, gaps))
    }

    async fn wait(&mut self, patience: Duration) -> Result<Waited, SourceError> {
        let open = opened(&mut self.open)?;
        open.beat().await;
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
        watch(open, self.poll, patience).await
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
        .fetch_all(&mut *opened(&mut self.open)?.connection)
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

    fn complaint(&self) -> Option<String> {
        self.open.as_ref().and_then(|open| open.clocks.complaint.clone())
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
