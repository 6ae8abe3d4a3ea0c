//! SQLite database files that are Jarchy's own: opening, making, and bringing up to date.
//!
//! Goes in: a path and what kind of database belongs there. Comes out: a pool of connections in WAL mode,
//! each commit on the disk before it returns (`synchronous = FULL`), five seconds of patience with other
//! writers; and copies of what is in use. Knows nothing of what the tables mean.
//!
//! Invariant: a file that is not of the kind asked for is left exactly as it was. It is therefore looked
//! at through a read-only connection first; `PRAGMA application_id` tells whose it is, `PRAGMA
//! user_version` how many of the kind's migrations it has seen.

use super::{DbError, Mode, PATIENCE};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, SqliteConnection};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Pause before a busy file is tried again.
const RETRY: Duration = Duration::from_millis(20);
/// How long whoever closes a file waits for those that still read it.
const CLOSING: Duration = Duration::from_millis(500);
/// SQLite has one writer at a time; the others read.
const CONNECTIONS: u32 = 4;
/// SQLite's result code for a file whose header is not SQLite's.
const NOT_A_DATABASE: &str = "26";

/// One kind of database.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// What people call it: "issuance database".
    pub name: &'static str,
    /// The number in the file's header that no other kind has.
    pub application_id: i32,
    /// Permissions of a new file, of which the umask takes away; SQLite gives those of the file to what it puts beside.
    pub permissions: u32,
    /// SQL that leads from each version to the next; only ever appended to.
    pub migrations: &'static [&'static str],
}

/// What a file's header says of it.
enum Found {
    /// No file, or one without a single table: also what an interrupted creation leaves.
    Nothing,
    /// Of the kind, with so many migrations applied.
    Version(usize),
}

/// Opens the database of `kind` at `path`.
///
/// # Errors
/// If it is missing (except with [`Mode::Create`]), somebody else's, newer than this program, or SQLite refuses.
pub async fn open(path: &Path, kind: &Kind, mode: Mode) -> Result<SqlitePool, DbError> {
    let started = Instant::now();
    loop {
        match attempt(path, kind, mode).await {
            // While another process switches a new file to WAL, recovers one after a crash or closes it as
            // the last, SQLite reports "busy" at once, whatever the time-out for statements is.
            Err(DbError::Sql { source, .. }) if is_busy(&source) && started.elapsed() < PATIENCE => {
                tokio::time::sleep(RETRY).await;
            }
            outcome => return outcome,
        }
    }
}

/// Ends all connections of `pool`. What stands in the log beside the file goes into the file first, so that it alone
/// is the whole database wherever nobody else writes to it.
pub async fn close(pool: &SqlitePool) {
    if let Ok(mut connection) = pool.acquire().await {
        let settle = format!("PRAGMA busy_timeout = {}; PRAGMA wal_checkpoint(TRUNCATE)", CLOSING.as_millis());
        if let Err(error) = sqlx::raw_sql(AssertSqlSafe(settle)).execute(&mut *connection).await {
            tracing::debug!(%error, "what was written last stays in the -wal file");
        }
    }
    pool.close().await;
}

/// Makes one whole file of the database of `kind` at `path`, without `-wal` and `-shm`, unless another process has it
/// open: a reader that was the last to close it cannot.
///
/// # Errors
/// As [`open`].
pub async fn settle(path: &Path, kind: &Kind) -> Result<(), DbError> {
    let (log, started) = (beside(path, "-wal"), Instant::now());
    loop {
        close(&open(path, kind, Mode::ReadWrite).await?).await;
        // Connections that were dropped close in threads of their own.
        if !log.exists() || started.elapsed() > CLOSING {
            return Ok(());
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// Copies the database of `kind` at `path`, as it is at this moment, to the new file `to`, readable by its owner only;
/// others go on reading and writing meanwhile.
///
/// # Errors
/// As [`open`]; or if `to` is there already, or cannot be written: then nothing is left there.
pub async fn copy(path: &Path, kind: &Kind, to: &Path) -> Result<(), DbError> {
    let pool = open(path, kind, Mode::ReadWrite).await?;
    let copied = copy_into(&pool, to).await;
    close(&pool).await;
    copied.map_err(|source| DbError::Copy { name: kind.name, to: to.to_owned(), source })
}

async fn copy_into(pool: &SqlitePool, to: &Path) -> Result<(), sqlx::Error> {
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    // Under its name only when it is whole and on the disk.
    let new = tempfile::NamedTempFile::new_in(folder)?;
    let name = new.path().to_str().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidFilename))?;
    sqlx::query("VACUUM INTO ?").bind(name).execute(pool).await?;
    new.as_file().sync_all()?;
    new.persist_noclobber(to).map_err(|refused| refused.error)?;
    Ok(File::open(folder)?.sync_all()?)
}

/// How many octets the database at `path` takes: its `main` file and the `wal` beside it.
#[must_use]
pub fn sizes(path: &Path) -> [(&'static str, u64); 2] {
    [("main", path.to_owned()), ("wal", beside(path, "-wal"))]
        .map(|(name, file)| (name, file.metadata().map_or(0, |file| file.len())))
}

/// `path` with `suffix` behind it.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Makes the file, empty, with the permissions of `kind`: SQLite would give it whatever the umask leaves.
fn make(path: &Path, kind: &Kind) -> io::Result<()> {
    match OpenOptions::new().write(true).create_new(true).mode(kind.permissions).open(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.map(drop),
    }
}

/// Whether SQLite refused because another connection is at work (SQLITE_BUSY and its extended codes).
fn is_busy(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|refused| refused.code()?.parse::<u32>().ok());
    code.is_some_and(|code| code & 0xff == 5)
}

async fn attempt(path: &Path, kind: &Kind, mode: Mode) -> Result<SqlitePool, DbError> {
    let known = kind.migrations.len();
    let up_to_date = match inspect(path, kind).await? {
        Found::Nothing if mode != Mode::Create => {
            return Err(DbError::Missing { name: kind.name, place: path.display().to_string() });
        }
        Found::Nothing => false,
        Found::Version(found) if found > known => {
            return Err(DbError::Newer { name: kind.name, place: path.display().to_string(), found, known });
        }
        Found::Version(found) => found == known,
    };
    let sql = |source| DbError::Sql { name: kind.name, place: path.display().to_string(), source };
    if mode == Mode::Create && !up_to_date {
        make(path, kind).map_err(|error| sql(error.into()))?;
    }
    let options = SqliteConnectOptions::new().filename(path).busy_timeout(PATIENCE);
    let options = match mode {
        Mode::ReadOnly if !up_to_date => {
            return Err(DbError::Older { name: kind.name, place: path.display().to_string() });
        }
        Mode::ReadOnly => options.read_only(true),
        Mode::Create | Mode::ReadWrite => options
            .create_if_missing(false)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .pragma("recursive_triggers", "ON"),
    };
    let pool = SqlitePoolOptions::new()
        .max_connections(CONNECTIONS)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
        .connect_with(options)
        .await
        .map_err(sql)?;
    if !up_to_date {
        migrate(&pool, kind).await.map_err(sql)?;
    }
    Ok(pool)
}

async fn inspect(path: &Path, kind: &Kind) -> Result<Found, DbError> {
    let sql = |source| DbError::Sql { name: kind.name, place: path.display().to_string(), source };
    match path.metadata() {
        Ok(file) if file.is_file() => {}
        Ok(_) => return Err(DbError::NotSqlite { name: kind.name, place: path.display().to_string() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => return Err(sql(error.into())),
    }
    let read = async {
        let options = SqliteConnectOptions::new().filename(path).read_only(true).busy_timeout(PATIENCE);
        let mut connection = options.connect().await?;
        // One state of the file: without a transaction another process could write between the three.
        let mut snapshot = connection.begin().await?;
        let header = header(&mut snapshot).await;
        snapshot.rollback().await?;
        connection.close().await?;
        header
    };
    let (application_id, version, tables) = read.await.map_err(|error| match &error {
        sqlx::Error::Database(refused) if refused.code().as_deref() == Some(NOT_A_DATABASE) => {
            DbError::NotSqlite { name: kind.name, place: path.display().to_string() }
        }
        _ => sql(error),
    })?;
    match usize::try_from(version) {
        Ok(version) if application_id == kind.application_id => Ok(Found::Version(version)),
        Ok(0) if application_id == 0 && tables == 0 => Ok(Found::Nothing),
        _ => Err(DbError::Foreign {
            name: kind.name,
            place: path.display().to_string(),
            found: format!("application_id {application_id:#010x}"),
        }),
    }
}

/// application_id, user_version and number of tables, views and triggers.
async fn header(connection: &mut SqliteConnection) -> Result<(i32, i32, i64), sqlx::Error> {
    let tables = sqlx::query_scalar("SELECT count(*) FROM sqlite_schema").fetch_one(&mut *connection).await?;
    let application_id = sqlx::query_scalar("PRAGMA application_id").fetch_one(&mut *connection).await?;
    let version = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut *connection).await?;
    Ok((application_id, version, tables))
}

/// Applies what is missing, all of it or nothing; another process may have done it meanwhile.
async fn migrate(pool: &SqlitePool, kind: &Kind) -> Result<(), sqlx::Error> {
    let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
    let (_, version, _) = header(&mut transaction).await?;
    let done = usize::try_from(version).unwrap_or(0);
    for migration in kind.migrations.iter().skip(done) {
        sqlx::raw_sql(*migration).execute(&mut *transaction).await?;
    }
    // A PRAGMA takes no parameters; these are numbers of our own.
    let stamp = format!(
        "PRAGMA application_id = {}; PRAGMA user_version = {}",
        kind.application_id,
        kind.migrations.len().max(done)
    );
    sqlx::raw_sql(AssertSqlSafe(stamp)).execute(&mut *transaction).await?;
    transaction.commit().await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const OLD: Kind = Kind {
        name: "test database",
        application_id: 0x7465_7374,
        permissions: 0o640,
        migrations: &["CREATE TABLE a(x INTEGER) STRICT"],
    };
    const NEW: Kind = Kind {
        migrations: &[
            "CREATE TABLE a(x INTEGER) STRICT",
            "CREATE TABLE b(y INTEGER) STRICT; INSERT INTO b VALUES (7);",
        ],
        ..OLD
    };

    async fn y(pool: &SqlitePool) -> i64 {
        sqlx::query_scalar("SELECT y FROM b").fetch_one(pool).await.unwrap()
    }

    #[tokio::test]
    async fn a_new_database_is_wal_and_stays_what_it_was_when_created_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let pool = open(&path, &OLD, Mode::Create).await.unwrap();
        let mode: String = sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&pool).await.unwrap();
        let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous").fetch_one(&pool).await.unwrap();
        assert_eq!((mode.as_str(), synchronous), ("wal", 2));
        sqlx::query("INSERT INTO a VALUES (1)").execute(&pool).await.unwrap();
        pool.close().await;
        let pool = open(&path, &OLD, Mode::Create).await.unwrap();
        let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM a").fetch_one(&pool).await.unwrap();
        assert_eq!(rows, 1);
    }

    #[tokio::test]
    async fn the_file_alone_is_the_database_also_when_the_last_to_close_it_only_read() {
        let dir = tempfile::tempdir().unwrap();
        let (path, alone) = (dir.path().join("a.db"), dir.path().join("alone.db"));
        let writer = open(&path, &NEW, Mode::Create).await.unwrap();
        let reader = open(&path, &NEW, Mode::ReadOnly).await.unwrap();
        assert_eq!(y(&reader).await, 7);
        writer.close().await;
        reader.close().await;
        let left = beside(&path, "-wal").metadata().map_or(0, |log| log.len());
        assert!(left > 0, "SQLite tidies up after readers now: settle() is not needed any more");
        settle(&path, &NEW).await.unwrap();
        assert!(!beside(&path, "-wal").exists() && !beside(&path, "-shm").exists());
        std::fs::copy(&path, &alone).unwrap();
        assert_eq!(y(&open(&alone, &NEW, Mode::ReadOnly).await.unwrap()).await, 7);

        // While others read, what is closed is whole as well, only the empty log stays.
        let reader = open(&path, &NEW, Mode::ReadOnly).await.unwrap();
        assert_eq!(y(&reader).await, 7);
        let writer = open(&path, &NEW, Mode::ReadWrite).await.unwrap();
        sqlx::query("UPDATE b SET y = 8").execute(&writer).await.unwrap();
        close(&writer).await;
        std::fs::copy(&path, &alone).unwrap();
        assert_eq!(y(&open(&alone, &NEW, Mode::ReadWrite).await.unwrap()).await, 8);
    }

    #[tokio::test]
    async fn a_new_file_and_what_is_beside_it_is_only_for_those_whom_its_kind_names() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let kind = Kind { permissions: 0o600, ..NEW };
        let pool = open(&path, &kind, Mode::Create).await.unwrap();
        for file in [&path, &beside(&path, "-wal"), &beside(&path, "-shm")] {
            let mode = file.metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{}", file.display());
        }
        pool.close().await;
    }

    #[tokio::test]
    async fn a_copy_of_what_is_in_use_is_whole_and_takes_the_place_of_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (path, to) = (dir.path().join("a.db"), dir.path().join("copy.db"));
        let pool = open(&path, &NEW, Mode::Create).await.unwrap();
        let mut busy = pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
        sqlx::query("UPDATE b SET y = 8").execute(&mut *busy).await.unwrap();
        copy(&path, &NEW, &to).await.unwrap();
        busy.commit().await.unwrap();
        assert_eq!(to.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let refused = copy(&path, &NEW, &to).await.unwrap_err().to_string();
        assert!(refused.contains("copy.db: File exists"), "{refused}");
        let files = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(files, 4, "the file, its log and index, the copy, and nothing half done");
        assert_eq!(y(&open(&to, &NEW, Mode::ReadWrite).await.unwrap()).await, 7);
    }

    #[tokio::test]
    async fn who_may_not_write_and_who_must_wait_are_told_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let pool = open(&path, &NEW, Mode::Create).await.unwrap();
        let reader = open(&path, &NEW, Mode::ReadOnly).await.unwrap();
        let refused = sqlx::query("UPDATE b SET y = 8").execute(&reader).await.unwrap_err();
        let said = super::super::told(&refused);
        assert!(said.contains("readonly") && said.contains("needs to write to the file and to its folder"), "{said}");
        let options = SqliteConnectOptions::new().filename(dir.path().join("none/a.db")).create_if_missing(true);
        let said = super::super::told(&options.connect().await.unwrap_err());
        assert!(said.contains("needs to write to the file and to its folder"), "{said}");
        let _held = pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
        let options = SqliteConnectOptions::new().filename(&path).busy_timeout(Duration::ZERO);
        let mut other = options.connect().await.unwrap();
        let refused = sqlx::query("UPDATE b SET y = 8").execute(&mut other).await.unwrap_err();
        let said = super::super::told(&refused);
        assert!(said.contains("another program") && said.contains("try again"), "{said}");
    }

    #[tokio::test]
    async fn an_older_database_is_brought_up_to_date_only_when_it_may_be_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        open(&path, &OLD, Mode::Create).await.unwrap().close().await;
        assert!(matches!(open(&path, &NEW, Mode::ReadOnly).await, Err(DbError::Older { .. })));
        assert_eq!(y(&open(&path, &NEW, Mode::ReadWrite).await.unwrap()).await, 7);
        assert_eq!(y(&open(&path, &NEW, Mode::ReadOnly).await.unwrap()).await, 7);
        let newer = open(&path, &OLD, Mode::ReadWrite).await.unwrap_err();
        assert!(newer.to_string().contains("newer Jarchy (version 2 of its tables, this one knows 1)"), "{newer}");
    }

    #[tokio::test]
    async fn an_interrupted_creation_is_finished_and_else_nothing_is_made_unasked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        for mode in [Mode::ReadWrite, Mode::ReadOnly] {
            let missing = open(&path, &NEW, mode).await.unwrap_err();
            assert!(missing.to_string().contains("there is no test database at"), "{missing}");
        }
        assert!(!path.exists());
        std::fs::write(&path, b"").unwrap();
        assert!(matches!(open(&path, &NEW, Mode::ReadWrite).await, Err(DbError::Missing { .. })));
        assert_eq!(y(&open(&path, &NEW, Mode::Create).await.unwrap()).await, 7);
    }

    #[tokio::test]
    async fn what_belongs_to_others_is_named_and_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let foreign = dir.path().join("foreign.db");
        let options = SqliteConnectOptions::new().filename(&foreign).create_if_missing(true);
        let mut connection = options.connect().await.unwrap();
        sqlx::raw_sql("CREATE TABLE theirs(x)").execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        let other_kind = dir.path().join("other.db");
        open(&other_kind, &Kind { application_id: 5, ..OLD }, Mode::Create).await.unwrap().close().await;
        let text = dir.path().join("notes.txt");
        std::fs::write(&text, "not a database at all, but longer than a header of one hundred bytes: ".repeat(3))
            .unwrap();

        for (path, words) in [
            (&foreign, "belongs to another program"),
            (&other_kind, "belongs to another program"),
            (&text, "is not an SQLite database"),
            (&dir.path().to_owned(), "is not an SQLite database"),
        ] {
            let before = std::fs::read(path).ok();
            for mode in [Mode::Create, Mode::ReadWrite, Mode::ReadOnly] {
                let error = open(path, &OLD, mode).await.unwrap_err();
                assert!(error.to_string().contains(words), "{error}");
            }
            assert_eq!(std::fs::read(path).ok(), before);
        }
    }

    #[tokio::test]
    async fn two_that_create_at_once_make_one_database() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.db");
        let (one, two) = tokio::join!(open(&path, &NEW, Mode::Create), open(&path, &NEW, Mode::Create));
        assert_eq!(y(&one.unwrap()).await, 7);
        assert_eq!(y(&two.unwrap()).await, 7);
    }
}
