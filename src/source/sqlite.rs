//! Jarchy's own issuance database on SQLite, written by other processes.
//!
//! The change log's AUTOINCREMENT sequence is the order of commits, since SQLite has one writer at a time.
//! `PRAGMA data_version` tells without reading a table whether another connection has committed anything.
//! The cursor is `<sequence>:<digest of that change>`, in hex.
//!
//! Invariants: rows and the position that covers them are read in one transaction; nothing is read, and
//! nothing vouched for, from a file that no longer stands at the path.

use super::own::{Peek, digest, hex, interned, watch};
use super::{Batch, Currency, Key, OddRow, Page, PageKey, Position, Row, Source, SourceError, Waited};
use crate::db::{self, Mode};
use crate::pki::{Reason, Revocation, Serial, Status, Time};
use crate::registry;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Connection, Row as _, Sqlite, SqliteConnection};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Changes of one batch.
const BATCH: i64 = 1_000;

/// The reader of one SQLite file.
#[derive(Debug)]
pub struct SqliteSource {
    path: PathBuf,
    poll: Duration,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    connection: PoolConnection<Sqlite>,
    /// Device and inode of the file that was opened.
    file: (u64, u64),
    /// data_version when the change log was last found drained.
    drained_at: Option<i64>,
}

/// A cursor taken apart.
struct Cursor {
    /// Sequence number of the last change read; 0 before the first.
    sequence: i64,
    /// What that change said, so that a restored backup which used the number again is noticed; empty
    /// where there was none.
    digest: String,
}

impl Cursor {
    fn of(position: &Position) -> Result<Self, SourceError> {
        let parts = position.cursor.split_once(':');
        let parsed = parts.and_then(|(sequence, digest)| Some((sequence.parse().ok()?, digest.to_owned())));
        let (sequence, digest) = parsed.ok_or_else(|| SourceError::Position("it is of another kind".to_owned()))?;
        Ok(Self { sequence, digest })
    }

    fn at(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        let (sequence, at): (i64, i64) = (row.try_get("seq")?, row.try_get("at")?);
        let (issuer, serial): (String, Vec<u8>) = (row.try_get("issuer")?, row.try_get("serial")?);
        Ok(Self { sequence, digest: digest(sequence, at, &issuer, &serial) })
    }

    fn position(&self, database: String) -> Position {
        Position { database, cursor: format!("{}:{}", self.sequence, self.digest) }
    }
}

impl SqliteSource {
    /// Reads the file at `path`, looking for commits every `poll`.
    #[must_use]
    pub const fn new(path: PathBuf, poll: Duration) -> Self {
        Self { path, poll, open: None }
    }

    fn open_now(&mut self) -> Result<&mut Open, SourceError> {
        let open = self.open.as_mut().filter(|open| file_id(&self.path) == Some(open.file));
        open.ok_or_else(|| SourceError::Replaced(self.path.clone()))
    }
}

fn file_id(path: &Path) -> Option<(u64, u64)> {
    path.metadata().ok().map(|file| (file.dev(), file.ino()))
}

async fn data_version(connection: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("PRAGMA data_version").fetch_one(connection).await
}

impl Peek for SqliteSource {
    async fn peek(&mut self) -> Result<Waited, SourceError> {
        let open = self.open_now()?;
        let drained = Some(data_version(&mut open.connection).await?) == open.drained_at;
        Ok(if drained { Waited::Quiet(Currency::Present) } else { Waited::News })
    }
}

impl Source for SqliteSource {
    async fn open(&mut self) -> Result<(), SourceError> {
        self.open = None;
        let file = file_id(&self.path).unwrap_or_default();
        let pool = db::open(&self.path, &registry::KIND, Mode::ReadOnly).await?;
        let connection = pool.acquire().await?;
        self.open = Some(Open { connection, file, drained_at: None });
        Ok(())
    }

    async fn head(&mut self) -> Result<Position, SourceError> {
        let mut transaction = self.open_now()?.connection.begin().await?;
        let database = database(&mut transaction).await?;
        let last: Option<SqliteRow> =
            sqlx::query("SELECT seq, issuer, serial, at FROM changes ORDER BY seq DESC LIMIT 1")
                .fetch_optional(&mut *transaction)
                .await?;
        let cursor = match last {
            Some(row) => Cursor::at(&row)?,
            None => Cursor { sequence: used_sequence(&mut transaction).await?, digest: String::new() },
        };
        Ok(cursor.position(database))
    }

    async fn page(&mut self, after: Option<&PageKey>, at_most: usize) -> Result<Page, SourceError> {
        let (issuer, serial) = after.and_then(|PageKey(key)| key.split_once('/')).unwrap_or_default();
        let rows = sqlx::query(
            "SELECT issuer, serial, not_before, not_after, status, revoked_at, reason, invalidity_date, changed_at, \
             released_at, shard, ca, sha256 FROM certificates WHERE (issuer, serial) > (?, unhex(?)) \
             ORDER BY issuer, serial LIMIT ?",
        )
        .bind(issuer)
        .bind(serial)
        .bind(i64::try_from(at_most).unwrap_or(i64::MAX))
        .fetch_all(&mut *self.open_now()?.connection)
        .await?;
        let next = match rows.last() {
            Some(row) if rows.len() >= at_most => {
                let (issuer, serial): (String, Vec<u8>) = (row.try_get("issuer")?, row.try_get("serial")?);
                Some(PageKey(format!("{issuer}/{}", hex(&serial))))
            }
            _ => None,
        };
        let (rows, odd) = read_all(&rows);
        Ok(Page { rows, odd, next })
    }

    async fn changes(&mut self, position: &Position) -> Result<Batch, SourceError> {
        let cursor = Cursor::of(position)?;
        let open = self.open_now()?;
        // Before the transaction: a commit in between is then looked for once more, never passed over.
        let version = data_version(&mut open.connection).await?;
        let mut transaction = open.connection.begin().await?;
        check(&mut transaction, position, &cursor).await?;
        let rows = sqlx::query(
            "SELECT seq, changes.issuer, changes.serial, at, not_before, not_after, status, revoked_at, reason, \
             invalidity_date, changed_at, released_at, shard, ca, sha256 FROM changes JOIN certificates USING (issuer, serial) \
             WHERE seq > ? ORDER BY seq LIMIT ?",
        )
        .bind(cursor.sequence)
        .bind(BATCH)
        .fetch_all(&mut *transaction)
        .await?;
        transaction.commit().await?;
        let drained = i64::try_from(rows.len()).is_ok_and(|len| len < BATCH);
        if drained {
            open.drained_at = Some(version);
        }
        let position = match rows.last() {
            Some(row) => Cursor::at(row)?.position(position.database.clone()),
            None => position.clone(),
        };
        let (rows, odd) = read_all(&rows);
        Ok(Batch { rows, gone: Vec::new(), odd, position, drained, currency: Currency::Present, gaps: 0 })
    }

    async fn wait(&mut self, patience: Duration) -> Result<Waited, SourceError> {
        let poll = self.poll;
        watch(self, poll, patience).await
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
                "SELECT issuer, serial, not_before, not_after, status, revoked_at, reason, invalidity_date, changed_at, \
                 released_at, shard, ca, sha256 FROM certificates WHERE issuer = ? AND serial IN ({places})"
            );
            let query = sqlx::query(AssertSqlSafe(sql)).persistent(false).bind(issuer);
            let query = serials.into_iter().fold(query, sqlx::query::Query::bind);
            let (found, strange) = read_all(&query.fetch_all(&mut *self.open_now()?.connection).await?);
            rows.extend(found);
            odd.extend(strange);
        }
        Ok((rows, odd))
    }
}

async fn database(connection: &mut SqliteConnection) -> Result<String, sqlx::Error> {
    sqlx::query_scalar("SELECT identity || '/' || epoch FROM meta").fetch_one(connection).await
}

/// The highest sequence number ever given, also when the log was trimmed to nothing.
async fn used_sequence(connection: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    let used = sqlx::query_scalar("SELECT seq FROM sqlite_sequence WHERE name = 'changes'");
    Ok(used.fetch_optional(connection).await?.unwrap_or(0))
}

/// Whether the change stream goes on from `position`.
async fn check(connection: &mut SqliteConnection, position: &Position, cursor: &Cursor) -> Result<(), SourceError> {
    let unfit = |why: &str| Err(SourceError::Position(why.to_owned()));
    if database(connection).await? != position.database {
        return unfit("it is another database, or it was declared restored");
    }
    let at_position = sqlx::query("SELECT seq, issuer, serial, at FROM changes WHERE seq = ?")
        .bind(cursor.sequence)
        .fetch_optional(&mut *connection)
        .await?;
    if let Some(row) = at_position {
        return match cursor.digest.is_empty() || Cursor::at(&row)?.digest == cursor.digest {
            true => Ok(()),
            false => unfit("the change last read is another one now: a backup was restored"),
        };
    }
    let oldest: Option<i64> = sqlx::query_scalar("SELECT min(seq) FROM changes").fetch_one(&mut *connection).await?;
    let used = used_sequence(connection).await?;
    match oldest {
        _ if used < cursor.sequence => unfit("it knows fewer changes than were read: a backup was restored"),
        // Trimmed up to the position, or nothing was ever written.
        Some(oldest) if oldest == cursor.sequence + 1 => Ok(()),
        None if used == cursor.sequence => Ok(()),
        _ => unfit("changes that were not read yet have been trimmed"),
    }
}

fn read_all(rows: &[SqliteRow]) -> (Vec<Row>, Vec<OddRow>) {
    let (mut odd, mut issuer) = (Vec::new(), Arc::from(""));
    let understood = rows.iter().filter_map(|row| read(row, &mut issuer).map_err(|why| odd.push(why)).ok()).collect();
    (understood, odd)
}

/// The tables check all this themselves; a column that is of another type all the same makes an odd row.
/// `issuer` is that of the row before, as it seldom changes.
fn read(row: &SqliteRow, issuer: &mut Arc<str>) -> Result<Row, OddRow> {
    let name = row.try_get::<&str, _>("issuer").unwrap_or_default();
    let issuer = interned(issuer, name);
    let content = row.try_get::<&[u8], _>("serial").unwrap_or_default();
    let odd = |why: String| OddRow::of(Key { issuer: Arc::clone(&issuer), serial: content.to_vec() }, why);
    let time = |column: &str| {
        let seconds = row.try_get::<Option<i64>, _>(column).map_err(|error| odd(error.to_string()))?;
        Ok(seconds.map(Time::from_unix))
    };
    let needed = |column: &str| time(column)?.ok_or_else(|| odd(format!("{column} is missing")));
    let status = match row.try_get("status").map_err(|error| odd(error.to_string()))? {
        "good" => Status::Good,
        "revoked" => {
            let code = row.try_get::<Option<u8>, _>("reason").map_err(|error| odd(error.to_string()))?;
            // A reason that cannot be published is published as none.
            let reason = code.and_then(Reason::from_code).unwrap_or_default();
            Status::Revoked(Revocation { at: needed("revoked_at")?, reason, invalidity_date: time("invalidity_date")? })
        }
        other => return Err(odd(format!("status {other:?} is unknown"))),
    };
    Ok(Row {
        serial: Serial::from_content(content).map_err(|error| odd(error.to_string()))?,
        not_before: needed("not_before")?,
        not_after: needed("not_after")?,
        status,
        changed_at: needed("changed_at")?,
        released_at: time("released_at")?,
        shard: row.try_get::<Option<u32>, _>("shard").map_err(|error| odd(error.to_string()))?,
        ca: row.try_get("ca").map_err(|error| odd(error.to_string()))?,
        sha256: row
            .try_get::<Option<&[u8]>, _>("sha256")
            .map_err(|error| odd(error.to_string()))?
            .and_then(|octets| octets.try_into().ok()),
        issuer: Arc::clone(&issuer),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::own::testing::gap;
    use super::*;
    use sqlx::{AssertSqlSafe, SqlitePool};
    use std::time::Instant;
    use tempfile::TempDir;

    /// A database with three certificates and its reader, opened and at the head.
    async fn case(poll: Duration) -> (TempDir, SqlitePool, SqliteSource, Position) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.db");
        let ca = db::open(&path, &registry::KIND, Mode::Create).await.unwrap();
        sql(&ca, "INSERT INTO issuers(name, certificate) VALUES ('demo', x'3001')").await;
        for serial in ["01", "02", "03"] {
            issue(&ca, serial).await;
        }
        let mut source = SqliteSource::new(path, poll);
        source.open().await.unwrap();
        let head = source.head().await.unwrap();
        (dir, ca, source, head)
    }

    async fn sql(ca: &SqlitePool, sql: impl Into<String>) {
        sqlx::raw_sql(AssertSqlSafe(sql.into())).execute(ca).await.unwrap();
    }

    async fn issue(ca: &SqlitePool, serial: &str) {
        let row = format!("('demo', x'{serial}', 1790000000, 1821536000)");
        sql(ca, format!("INSERT INTO certificates(issuer, serial, not_before, not_after) VALUES {row}")).await;
    }

    /// The position of `sequence` of which nobody knows what the change said.
    fn at(position: &Position, sequence: i64) -> Position {
        Position { cursor: format!("{sequence}:"), ..position.clone() }
    }

    #[tokio::test]
    async fn reading_goes_on_where_it_stopped_and_replays_from_any_earlier_place() {
        let (_dir, ca, mut source, head) = case(Duration::from_millis(1)).await;
        let batch = source.changes(&head).await.unwrap();
        assert_eq!((batch.rows.len(), batch.drained, &batch.position), (0, true, &head));
        issue(&ca, "04").await;
        assert_eq!(source.wait(Duration::from_secs(30)).await.unwrap(), Waited::News);
        let batch = source.changes(&head).await.unwrap();
        assert_eq!((batch.rows.len(), batch.rows[0].serial.as_bytes()), (1, &[4][..]));
        assert_eq!(source.changes(&batch.position).await.unwrap().rows.len(), 0);
        assert_eq!(source.changes(&at(&head, 0)).await.unwrap().rows.len(), 4);
    }

    #[tokio::test]
    async fn a_backup_another_database_and_trimmed_changes_are_noticed() {
        let (_dir, ca, mut source, head) = case(Duration::from_millis(1)).await;
        let other_content = Position { cursor: "3:07".to_owned(), ..head.clone() };
        assert!(gap(&mut source, &other_content).await.contains("a backup was restored"));
        assert!(gap(&mut source, &at(&head, 8)).await.contains("knows fewer changes"));
        let early = at(&head, 1);
        assert_eq!(source.changes(&early).await.unwrap().rows.len(), 2);
        sql(&ca, "DELETE FROM changes WHERE seq < 3").await;
        assert!(gap(&mut source, &early).await.contains("trimmed"));
        assert!(source.changes(&at(&head, 2)).await.is_ok(), "trimmed just up to the position");
        sql(&ca, "UPDATE meta SET epoch = epoch + 1").await;
        assert!(gap(&mut source, &head).await.contains("declared restored"));
    }

    #[tokio::test]
    async fn a_poll_longer_than_the_patience_waits_the_patience_out() {
        let (_dir, _ca, mut source, head) = case(Duration::from_secs(60)).await;
        source.changes(&head).await.unwrap();
        let (patience, began) = (Duration::from_millis(50), Instant::now());
        assert_eq!(source.wait(patience).await.unwrap(), Waited::Quiet(Currency::Present));
        assert!(began.elapsed() >= patience, "asked again without a pause: after {:?}", began.elapsed());
    }
}
