//! The durable store: what this node must still know after a crash, an upgrade or the loss of the database.
//!
//! Goes in: revocations that were answered or listed, and what becomes of each CRL scope:
//! numbers, lists, and the journal of changes that deltas are made from. Comes out: the same after a
//! restart. It is one SQLite file. It knows nothing of ASN.1 or of when a list is due.
//!
//! Invariants: what a call has returned from is on the disk; a revocation leaves only by a recorded
//! release (promise 12); a CRL number is given out once (promise 5); at most one process publishes.

mod decisions;
mod lists;
mod schema;
mod seen;
#[cfg(test)]
mod tests;

pub use decisions::Doubt;
pub use lists::{Form, JournalRow, Keep, ListParts, ListRow, NewChunk, NewList, Revision, Slot, Turnover};
pub use schema::KIND;
pub use seen::Seen;

use crate::db::{self, DbError, Mode};
use crate::pki::{IssuerName, Serial, Time};
use sqlx::query::Query;
use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteRow};
use sqlx::{AssertSqlSafe, Executor, Row, SqliteConnection, SqlitePool, Transaction};
use std::fmt;
use std::fs::{File, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;

/// Rows that one INSERT takes. SQLite binds at most 32,766 values to a statement; beyond some hundreds of
/// rows nothing is gained.
const BATCH: usize = 500;

/// Why the store cannot do what it is asked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StateError {
    /// The file cannot be opened.
    #[error(transparent)]
    Open(#[from] DbError),
    /// SQLite refused.
    #[error("state store {path}: {}", db::told(source))]
    Sql {
        /// The store.
        path: PathBuf,
        /// What it said.
        source: sqlx::Error,
    },
    /// A file or directory beside the store cannot be used.
    #[error("{path}: {source}")]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process publishes from this store.
    #[error("{path} is held by {holder}: only one process may publish CRLs from one state store")]
    Claimed {
        /// The lock file.
        path: PathBuf,
        /// "process 4711", as far as it is known.
        holder: String,
    },
    /// The scope's numbers and lists are another CA's.
    #[error(
        "the state store {path} holds the CRLs of another CA (other name or key) under the name {scope}: give this CA another name, or a state store of its own"
    )]
    OtherCa {
        /// The store.
        path: PathBuf,
        /// The scope.
        scope: Scope,
    },
    /// Another division into shards than the certificates were issued under.
    #[error(
        "the state store {path} knows {issuer} with {known}, and the config now says {wanted}: certificates carry the URL of their shard for life (RFC 5280 5.2.5), so this cannot be changed; put it back, or give the certificates to come an issuer of their own"
    )]
    Division {
        /// The store.
        path: PathBuf,
        /// The issuer.
        issuer: IssuerName,
        /// As it was.
        known: String,
        /// As it would be.
        wanted: String,
    },
    /// Somebody else took a number, or published, since this revision was begun.
    #[error("revision {number} of {scope} was overtaken: another publisher is at work on the state store {path}")]
    Overtaken {
        /// The store.
        path: PathBuf,
        /// The scope.
        scope: Scope,
        /// The number that was reserved.
        number: u64,
    },
    /// A row holds something that Jarchy never writes.
    #[error("state store {path}: table {table} holds a row that is not Jarchy's: {what}")]
    Damaged {
        /// The store.
        path: PathBuf,
        /// The table.
        table: &'static str,
        /// What is wrong.
        what: String,
    },
}

/// What a CRL covers, as a key in the store.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Scope(String);

impl Scope {
    /// Everything that an issuer issued.
    #[must_use]
    pub fn whole(issuer: &IssuerName) -> Self {
        Self(issuer.as_str().to_owned())
    }

    /// A part of an issuer's certificates by its name: `shard-3`, `user`, `ca`.
    #[must_use]
    pub fn part(issuer: &IssuerName, name: &str) -> Self {
        Self(format!("{issuer}/{name}"))
    }

    /// The key: `demo`, or `demo/shard-3`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The store; clones share it.
#[derive(Clone, Debug)]
pub struct State(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    pool: SqlitePool,
    path: PathBuf,
    mode: Mode,
    claim: tokio::sync::Mutex<Option<File>>,
}

impl State {
    /// Opens the store at `path`, or makes it.
    ///
    /// # Errors
    /// If the file cannot be made or read, or is no state store.
    pub async fn open(path: &Path) -> Result<Self, StateError> {
        Self::open_as(path, Mode::Create).await
    }

    /// Opens the store at `path` and changes nothing.
    ///
    /// # Errors
    /// As [`State::open`], or if it is not there or an older one.
    pub async fn read_only(path: &Path) -> Result<Self, StateError> {
        Self::open_as(path, Mode::ReadOnly).await
    }

    async fn open_as(path: &Path, mode: Mode) -> Result<Self, StateError> {
        let pool = db::open(path, &KIND, mode).await?;
        Ok(Self(Arc::new(Shared { pool, path: path.to_owned(), mode, claim: tokio::sync::Mutex::default() })))
    }

    /// Closes the file properly; what is asked afterwards fails.
    pub async fn close(&self) {
        db::close(&self.0.pool).await;
    }

    /// Makes this process the only one that publishes from this store, until it ends or drops the store.
    /// Further calls change nothing.
    ///
    /// # Errors
    /// [`StateError::Claimed`] if another process publishes.
    pub async fn claim(&self) -> Result<(), StateError> {
        let mut claim = self.0.claim.lock().await;
        if claim.is_none() {
            *claim = Some(lock(&self.0.path)?);
        }
        Ok(())
    }

    /// By what others know this store, and with it the node that publishes from it; a copy has the same.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn identity(&self) -> Result<String, StateError> {
        sqlx::query_scalar("SELECT id FROM identity").fetch_one(&self.0.pool).await.map_err(self.sql())
    }

    async fn begin(&self) -> Result<Transaction<'static, Sqlite>, StateError> {
        // IMMEDIATE: a transaction that begins by reading could otherwise be refused when it comes to write.
        self.0.pool.begin_with("BEGIN IMMEDIATE").await.map_err(self.sql())
    }

    fn sql(&self) -> impl Fn(sqlx::Error) -> StateError {
        |source| StateError::Sql { path: self.0.path.clone(), source }
    }

    fn damaged(&self, table: &'static str, what: String) -> StateError {
        StateError::Damaged { path: self.0.path.clone(), table, what }
    }

    fn get<'r, T: sqlx::Decode<'r, Sqlite> + sqlx::Type<Sqlite>>(
        &self,
        row: &'r SqliteRow,
        column: usize,
    ) -> Result<T, StateError> {
        row.try_get(column).map_err(self.sql())
    }

    fn time(&self, row: &SqliteRow, column: usize) -> Result<Time, StateError> {
        Ok(Time::from_unix(self.get(row, column)?))
    }

    /// The serial in the first column.
    fn serial(&self, table: &'static str, row: &SqliteRow) -> Result<Serial, StateError> {
        Serial::from_content(self.get(row, 0)?).map_err(|error| self.damaged(table, error.to_string()))
    }

    fn number(&self, table: &'static str, number: i64) -> Result<u64, StateError> {
        u64::try_from(number).map_err(|_| self.damaged(table, format!("{number} is below zero")))
    }
}

/// SQLite's integers have 63 bits for a number that is not negative; CRL numbers begin at Unix seconds.
fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

type SqliteQuery<'q> = Query<'q, Sqlite, SqliteArguments>;

/// Inserts `rows`, each of `columns` values behind the common first value `key`.
async fn insert<T>(
    connection: &mut SqliteConnection,
    head: &str,
    columns: usize,
    key: &str,
    rows: &[T],
    bind: impl for<'q> Fn(SqliteQuery<'q>, &T) -> SqliteQuery<'q>,
) -> Result<(), sqlx::Error> {
    let mut full = None;
    for batch in rows.chunks(BATCH) {
        let sql = match &full {
            Some(sql) if batch.len() == BATCH => Arc::clone(sql),
            _ => Arc::<str>::from(placeholders(head, columns, batch.len())),
        };
        // Nothing but question marks was added to the statement. The short one at the end is of a length
        // that may never come again: the statement cache is not for it.
        let mut query = sqlx::query(AssertSqlSafe(Arc::clone(&sql))).persistent(batch.len() == BATCH);
        for row in batch {
            query = bind(query.bind(key), row);
        }
        connection.execute(query).await?;
        full = Some(sql);
    }
    Ok(())
}

/// `head` and then `(?, ?, ?), (?, ?, ?)` … Numbered parameters could share the first value, but SQLite finds
/// the names of those by walking a list: for 1 M rows that took 78 s.
fn placeholders(head: &str, columns: usize, rows: usize) -> String {
    let row = format!("(?{})", ", ?".repeat(columns));
    let rows = vec![row; rows];
    head.to_owned() + &rows.join(", ")
}

/// Takes `<store>.lock` and writes into it who holds it.
fn lock(store: &Path) -> Result<File, StateError> {
    let mut path = store.as_os_str().to_owned();
    path.push(".lock");
    let path = PathBuf::from(path);
    let error = |source| StateError::File { path: path.clone(), source };
    // The content is another process's until the lock is taken: nothing is truncated before.
    let mut file = File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(error)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let known = file.read_to_string(&mut holder).is_ok() && !holder.is_empty();
            let holder = if known { holder.trim_end().to_owned() } else { "another process".to_owned() };
            return Err(StateError::Claimed { path, holder });
        }
        Err(TryLockError::Error(source)) => return Err(error(source)),
    }
    let sign = |file: &mut File| {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "process {}", std::process::id())
    };
    sign(&mut file).map_err(error)?;
    Ok(file)
}
