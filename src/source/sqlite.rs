//! Jarchy's own issuance database on SQLite, written by other processes.
//!
//! The change log's AUTOINCREMENT sequence is the order of commits, since SQLite has one writer at a time.
//! `PRAGMA data_version` tells without reading a table whether another connection has committed anything.
//!
//! Invariant: rows and the position that covers them are read in one transaction.

use super::{Batch, OddRow, Page, PageKey, Position, Row, Source, SourceError};
use crate::db::{self, Mode};
use crate::pki::hash::sha256;
use crate::pki::{Reason, Revocation, Serial, Status, Time};
use crate::registry;
use sqlx::pool::PoolConnection;
use sqlx::sqlite::SqliteRow;
use sqlx::{Connection, Row as _, Sqlite, SqliteConnection};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;

/// Rows of one page of the first load.
const PAGE: i64 = 10_000;
/// Changes of one batch.
const BATCH: i64 = 1_000;
/// How often the file is looked at to see whether another one took its place.
const FILE_CHECK: Duration = Duration::from_secs(1);

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
    checked: Instant,
    /// data_version when the change log was last found drained.
    drained_at: Option<i64>,
}

impl SqliteSource {
    /// Reads the file at `path`, looking for commits every `poll`.
    #[must_use]
    pub const fn new(path: PathBuf, poll: Duration) -> Self {
        Self { path, poll, open: None }
    }

    fn open_now(&mut self) -> Result<&mut Open, SourceError> {
        let path = &self.path;
        let open = self.open.as_mut().ok_or_else(|| SourceError::Replaced(path.clone()))?;
        if open.checked.elapsed() >= FILE_CHECK {
            if file_id(path) != Some(open.file) {
                return Err(SourceError::Replaced(path.clone()));
            }
            open.checked = Instant::now();
        }
        Ok(open)
    }
}

fn file_id(path: &Path) -> Option<(u64, u64)> {
    path.metadata().ok().map(|file| (file.dev(), file.ino()))
}

async fn data_version(connection: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("PRAGMA data_version").fetch_one(connection).await
}

impl Source for SqliteSource {
    async fn open(&mut self) -> Result<(), SourceError> {
        self.open = None;
        let file = file_id(&self.path).unwrap_or_default();
        let pool = db::open(&self.path, &registry::KIND, Mode::ReadOnly).await?;
        let connection = pool.acquire().await?;
        self.open = Some(Open { connection, file, checked: Instant::now(), drained_at: None });
        Ok(())
    }

    async fn head(&mut self) -> Result<Position, SourceError> {
        let mut transaction = self.open_now()?.connection.begin().await?;
        let database = database(&mut transaction).await?;
        let last: Option<SqliteRow> =
            sqlx::query("SELECT seq, issuer, serial, at FROM changes ORDER BY seq DESC LIMIT 1")
                .fetch_optional(&mut *transaction)
                .await?;
        Ok(match last {
            Some(row) => Position { database, sequence: row.try_get("seq")?, digest: digest(&row)? },
            None => Position { database, sequence: used_sequence(&mut transaction).await?, digest: [0; 32] },
        })
    }

    async fn page(&mut self, after: Option<&PageKey>) -> Result<Page, SourceError> {
        let (issuer, serial) = after.map_or(("", &[][..]), |key| (key.issuer.as_str(), key.serial.as_slice()));
        let rows = sqlx::query(
            "SELECT issuer, serial, not_before, not_after, status, revoked_at, reason, invalidity_date, changed_at, \
             released_at, shard, ca, sha256 FROM certificates WHERE (issuer, serial) > (?, ?) ORDER BY issuer, serial LIMIT ?",
        )
        .bind(issuer)
        .bind(serial)
        .bind(PAGE)
        .fetch_all(&mut *self.open_now()?.connection)
        .await?;
        let full = i64::try_from(rows.len()).is_ok_and(|len| len == PAGE);
        let next = match rows.last() {
            Some(row) if full => Some(PageKey { issuer: row.try_get("issuer")?, serial: row.try_get("serial")? }),
            _ => None,
        };
        let (rows, odd) = read_all(&rows);
        Ok(Page { rows, odd, next })
    }

    async fn changes(&mut self, position: &Position) -> Result<Batch, SourceError> {
        let open = self.open_now()?;
        // Before the transaction: a commit in between is then looked for once more, never passed over.
        let version = data_version(&mut open.connection).await?;
        let mut transaction = open.connection.begin().await?;
        check(&mut transaction, position).await?;
        let rows = sqlx::query(
            "SELECT seq, changes.issuer, changes.serial, at, not_before, not_after, status, revoked_at, reason, \
             invalidity_date, changed_at, released_at, shard, ca, sha256 FROM changes JOIN certificates USING (issuer, serial) \
             WHERE seq > ? ORDER BY seq LIMIT ?",
        )
        .bind(position.sequence)
        .bind(BATCH)
        .fetch_all(&mut *transaction)
        .await?;
        transaction.commit().await?;
        let drained = i64::try_from(rows.len()).is_ok_and(|len| len < BATCH);
        if drained {
            open.drained_at = Some(version);
        }
        let position = match rows.last() {
            Some(row) => Position { sequence: row.try_get("seq")?, digest: digest(row)?, ..position.clone() },
            None => position.clone(),
        };
        let (rows, odd) = read_all(&rows);
        Ok(Batch { rows, odd, position, drained })
    }

    async fn wait(&mut self, patience: Duration) -> Result<bool, SourceError> {
        let (poll, until) = (self.poll, Instant::now() + patience);
        loop {
            let open = self.open_now()?;
            if Some(data_version(&mut open.connection).await?) != open.drained_at {
                return Ok(true);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            tokio::time::sleep(poll.min(left)).await;
        }
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

fn digest(row: &SqliteRow) -> Result<[u8; 32], sqlx::Error> {
    let (sequence, at): (i64, i64) = (row.try_get("seq")?, row.try_get("at")?);
    let (issuer, serial): (String, Vec<u8>) = (row.try_get("issuer")?, row.try_get("serial")?);
    Ok(sha256(&[&sequence.to_be_bytes()[..], &at.to_be_bytes(), issuer.as_bytes(), b"/", &serial].concat()))
}

/// Whether the change stream goes on from `position`.
async fn check(connection: &mut SqliteConnection, position: &Position) -> Result<(), SourceError> {
    if database(connection).await? != position.database {
        return Err(SourceError::Position("it is another database, or it was declared restored"));
    }
    let at_position = sqlx::query("SELECT seq, issuer, serial, at FROM changes WHERE seq = ?")
        .bind(position.sequence)
        .fetch_optional(&mut *connection)
        .await?;
    if let Some(row) = at_position {
        return match digest(&row)? == position.digest || position.digest == [0; 32] {
            true => Ok(()),
            false => Err(SourceError::Position("the change last read is another one now: a backup was restored")),
        };
    }
    let oldest: Option<i64> = sqlx::query_scalar("SELECT min(seq) FROM changes").fetch_one(&mut *connection).await?;
    let used = used_sequence(connection).await?;
    match oldest {
        _ if used < position.sequence => {
            Err(SourceError::Position("it knows fewer changes than were read: a backup was restored"))
        }
        // Trimmed up to the position, or nothing was ever written.
        Some(oldest) if oldest == position.sequence + 1 => Ok(()),
        None if used == position.sequence => Ok(()),
        _ => Err(SourceError::Position("changes that were not read yet have been trimmed")),
    }
}

fn read_all(rows: &[SqliteRow]) -> (Vec<Row>, Vec<OddRow>) {
    let mut odd = Vec::new();
    let understood = rows.iter().filter_map(|row| read(row).map_err(|why| odd.push(why)).ok()).collect();
    (understood, odd)
}

/// The tables check all this themselves; a column that is of another type all the same makes an odd row.
fn read(row: &SqliteRow) -> Result<Row, OddRow> {
    let issuer = row.try_get::<String, _>("issuer").unwrap_or_default();
    let content = row.try_get::<Vec<u8>, _>("serial").unwrap_or_default();
    let name = || {
        let hex: String = content.iter().map(|octet| format!("{octet:02X}")).collect();
        format!("issuer {issuer:?}, serial {hex}")
    };
    let odd = |why: String| OddRow { name: name(), why };
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
        serial: Serial::from_content(&content).map_err(|error| odd(error.to_string()))?,
        not_before: needed("not_before")?,
        not_after: needed("not_after")?,
        status,
        changed_at: needed("changed_at")?,
        released_at: time("released_at")?,
        shard: row.try_get::<Option<u32>, _>("shard").map_err(|error| odd(error.to_string()))?,
        ca: row.try_get("ca").map_err(|error| odd(error.to_string()))?,
        sha256: row
            .try_get::<Option<Vec<u8>>, _>("sha256")
            .map_err(|error| odd(error.to_string()))?
            .and_then(|octets| octets.try_into().ok()),
        issuer: issuer.clone(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use sqlx::{AssertSqlSafe, SqlitePool};
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

    async fn gap(source: &mut SqliteSource, position: &Position) -> String {
        match source.changes(position).await.unwrap_err() {
            SourceError::Position(why) => why.to_owned(),
            other => panic!("{other}"),
        }
    }

    #[tokio::test]
    async fn reading_goes_on_where_it_stopped_and_replays_from_any_earlier_place() {
        let (_dir, ca, mut source, head) = case(Duration::from_millis(1)).await;
        let batch = source.changes(&head).await.unwrap();
        assert_eq!((batch.rows.len(), batch.drained, &batch.position), (0, true, &head));
        issue(&ca, "04").await;
        assert!(source.wait(Duration::from_secs(30)).await.unwrap());
        let batch = source.changes(&head).await.unwrap();
        assert_eq!((batch.rows.len(), batch.rows[0].serial.as_bytes()), (1, &[4][..]));
        assert_eq!(source.changes(&batch.position).await.unwrap().rows.len(), 0);
        let first = Position { sequence: 0, digest: [0; 32], ..head };
        assert_eq!(source.changes(&first).await.unwrap().rows.len(), 4);
    }

    #[tokio::test]
    async fn a_backup_another_database_and_trimmed_changes_are_noticed() {
        let (_dir, ca, mut source, head) = case(Duration::from_millis(1)).await;
        let other_content = Position { digest: [7; 32], ..head.clone() };
        assert!(gap(&mut source, &other_content).await.contains("a backup was restored"));
        let ahead = Position { sequence: head.sequence + 5, ..head.clone() };
        assert!(gap(&mut source, &ahead).await.contains("knows fewer changes"));
        let early = Position { sequence: 1, digest: [0; 32], ..head.clone() };
        assert_eq!(source.changes(&early).await.unwrap().rows.len(), 2);
        sql(&ca, "DELETE FROM changes WHERE seq < 3").await;
        assert!(gap(&mut source, &early).await.contains("trimmed"));
        assert!(source.changes(&Position { sequence: 2, ..early }).await.is_ok(), "trimmed just up to the position");
        sql(&ca, "UPDATE meta SET epoch = epoch + 1").await;
        assert!(gap(&mut source, &head).await.contains("declared restored"));
    }

    #[tokio::test]
    async fn a_poll_longer_than_the_patience_waits_the_patience_out() {
        let (_dir, _ca, mut source, head) = case(Duration::from_secs(60)).await;
        source.changes(&head).await.unwrap();
        let (patience, began) = (Duration::from_millis(50), Instant::now());
        assert!(!source.wait(patience).await.unwrap());
        assert!(began.elapsed() >= patience, "asked again without a pause: after {:?}", began.elapsed());
    }
}
