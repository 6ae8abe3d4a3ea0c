//! The durable store: what this node must still know after a crash, an upgrade or the loss of the database.
//!
//! Goes in: revocations that were answered or listed, feed positions, and what becomes of each CRL scope:
//! numbers, lists, and the journal of changes that deltas are made from. Comes out: the same after a
//! restart. It is one SQLite file, and beside it a directory with the published lists, each named by its
//! SHA-256. It knows nothing of ASN.1 or of when a list is due.
//!
//! Invariants: what a call has returned from is on the disk; a revocation leaves only by a recorded
//! release (promise 12); a CRL number is given out once (promise 5); at most one process publishes.

use crate::db::{self, DbError, Kind, Mode};
use crate::pki::{IssuerName, Reason, Revocation, Serial, Time};
use sqlx::query::Query;
use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteRow};
use sqlx::{AssertSqlSafe, Executor, Row, SqliteConnection, SqlitePool, Transaction};
use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::NamedTempFile;
use thiserror::Error;

const KIND: Kind = Kind {
    name: "state store",
    // "JyST".
    application_id: 0x4a79_5354,
    migrations: &[r"
        CREATE TABLE revocations (
            issuer TEXT NOT NULL,
            serial BLOB NOT NULL,
            not_before INTEGER NOT NULL,
            not_after INTEGER NOT NULL,
            revoked_at INTEGER NOT NULL,
            reason INTEGER NOT NULL,
            invalidity_date INTEGER,
            learned INTEGER NOT NULL,
            PRIMARY KEY (issuer, serial)
        ) STRICT, WITHOUT ROWID;
        -- Serials of which a release from hold was the last that was recorded.
        CREATE TABLE releases (
            issuer TEXT NOT NULL,
            serial BLOB NOT NULL,
            PRIMARY KEY (issuer, serial)
        ) STRICT, WITHOUT ROWID;
        CREATE TABLE positions (source TEXT PRIMARY KEY, position BLOB NOT NULL) STRICT, WITHOUT ROWID;
        -- ca: SHA-256 of name and key, so that another CA under the same scope is noticed.
        -- reserved: the highest CRL number that was ever given out.
        CREATE TABLE scopes (scope TEXT PRIMARY KEY, ca BLOB NOT NULL, reserved INTEGER NOT NULL) STRICT, WITHOUT ROWID;
        -- Every list that was ever committed; kept: its file is still there. base is NULL for complete lists.
        CREATE TABLE lists (
            scope TEXT NOT NULL,
            number INTEGER NOT NULL,
            delta INTEGER NOT NULL CHECK (delta IN (0, 1) AND delta = (base IS NOT NULL)),
            base INTEGER CHECK (base < number),
            this_update INTEGER NOT NULL,
            next_update INTEGER NOT NULL,
            regular INTEGER NOT NULL CHECK (regular IN (0, 1)),
            sha256 BLOB NOT NULL,
            bytes INTEGER NOT NULL,
            entries INTEGER NOT NULL,
            kept INTEGER NOT NULL CHECK (kept IN (0, 1)),
            PRIMARY KEY (scope, number, delta)
        ) STRICT, WITHOUT ROWID;
        CREATE INDEX lists_kept ON lists (scope, number) WHERE kept = 1;
        -- The revision that last changed a serial, back to the oldest list that is still a base.
        CREATE TABLE journal (
            scope TEXT NOT NULL,
            serial BLOB NOT NULL,
            number INTEGER NOT NULL,
            released_at INTEGER,
            PRIMARY KEY (scope, serial)
        ) STRICT, WITHOUT ROWID;
        CREATE INDEX journal_number ON journal (scope, number);
    "],
};

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
    #[error("state store {path}: {source}")]
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
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A revocation that was seen, with what is needed to answer and to list it without the database.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Seen {
    /// notBefore of the certificate.
    pub not_before: Time,
    /// notAfter of the certificate.
    pub not_after: Time,
    /// The revocation or hold.
    pub revocation: Revocation,
    /// When this node learned of it; see `index::Record::since`.
    pub learned: Time,
}

/// A list that was, or is to be, committed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ListRow {
    /// CRLNumber.
    pub number: u64,
    /// BaseCRLNumber of a delta.
    pub base: Option<u64>,
    /// thisUpdate.
    pub this_update: Time,
    /// nextUpdate.
    pub next_update: Time,
    /// Whether it was made for a regular slot.
    pub regular: bool,
    /// Of the whole list; also the name of its file.
    pub sha256: [u8; 32],
    /// Its size.
    pub bytes: u64,
    /// How many entries it has.
    pub entries: u64,
}

/// Which lists are meant.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Slot {
    /// All.
    Any,
    /// Those of regular slots (CRL-51).
    Regular,
}

/// The last change of a serial, as lists tell it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct JournalRow {
    /// Which certificate.
    pub serial: Serial,
    /// The revision that first told the change.
    pub number: u64,
    /// When a hold was lifted, if that was the change.
    pub released_at: Option<Time>,
}

/// What is committed at once.
#[derive(Clone, Debug)]
pub struct Revision {
    /// The number that [`State::reserve`] gave.
    pub number: u64,
    /// The complete list and, if there is one, its delta.
    pub lists: Vec<ListRow>,
    /// Changes that these lists are the first to tell.
    pub changes: Vec<JournalRow>,
    /// The oldest complete list that stays; older ones, older deltas, and the journal up to it are let go.
    pub oldest: u64,
}

/// The store; clones share it.
#[derive(Clone, Debug)]
pub struct State(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    pool: SqlitePool,
    path: PathBuf,
    lists: PathBuf,
    claim: tokio::sync::Mutex<Option<File>>,
}

impl State {
    /// Opens the store at `path`, or makes it. The directory with the lists is named after it:
    /// `jarchy-state-crl` beside `jarchy-state.db`.
    ///
    /// # Errors
    /// If the file cannot be made or read, or is no state store.
    pub async fn open(path: &Path) -> Result<Self, StateError> {
        let pool = db::open(path, &KIND, Mode::Create).await?;
        let mut name = path.file_stem().unwrap_or_default().to_owned();
        name.push("-crl");
        let lists = path.with_file_name(name);
        Ok(Self(Arc::new(Shared { pool, path: path.to_owned(), lists, claim: tokio::sync::Mutex::default() })))
    }

    /// Closes the file properly; what is asked afterwards fails.
    pub async fn close(&self) {
        self.0.pool.close().await;
    }

    /// The revocations of `issuer` that were recorded and not released since.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn revocations(&self, issuer: &IssuerName) -> Result<Vec<(Serial, Seen)>, StateError> {
        let rows = sqlx::query(
            "SELECT serial, not_before, not_after, revoked_at, reason, invalidity_date, learned \
             FROM revocations WHERE issuer = ? ORDER BY serial",
        );
        let rows = rows.bind(issuer.as_str()).fetch_all(&self.0.pool).await.map_err(self.sql())?;
        rows.iter().map(|row| self.seen(row)).collect()
    }

    fn seen(&self, row: &SqliteRow) -> Result<(Serial, Seen), StateError> {
        let serial = self.serial("revocations", row)?;
        let code: i64 = self.get(row, 4)?;
        let reason = u8::try_from(code).ok().and_then(Reason::from_code);
        let reason = reason.ok_or_else(|| self.damaged("revocations", format!("reason {code} at serial {serial}")))?;
        let seen = Seen {
            not_before: self.time(row, 1)?,
            not_after: self.time(row, 2)?,
            revocation: Revocation {
                at: self.time(row, 3)?,
                reason,
                invalidity_date: self.get::<Option<i64>>(row, 5)?.map(Time::from_unix),
            },
            learned: self.time(row, 6)?,
        };
        Ok((serial, seen))
    }

    /// Records revocations before anyone is told of them; `None` records that a hold was lifted. Of
    /// several for one serial the last counts.
    ///
    /// # Errors
    /// If they could not be written; then none was.
    pub async fn record(&self, issuer: &IssuerName, batch: &[(Serial, Option<Seen>)]) -> Result<(), StateError> {
        if batch.is_empty() {
            return Ok(());
        }
        let mut transaction = self.begin().await?;
        self.record_in(&mut transaction, issuer.as_str(), batch).await.map_err(self.sql())?;
        transaction.commit().await.map_err(self.sql())
    }

    async fn record_in(
        &self,
        connection: &mut SqliteConnection,
        issuer: &str,
        batch: &[(Serial, Option<Seen>)],
    ) -> Result<(), sqlx::Error> {
        let any = sqlx::query("SELECT 1 FROM releases WHERE issuer = ? LIMIT 1").bind(issuer);
        let mut any_released = any.fetch_optional(&mut *connection).await?.is_some();
        // Runs of the same kind, so that the last word on a serial is also the last that is written.
        for run in batch.chunk_by(|(_, a), (_, b)| a.is_some() == b.is_some()) {
            let mut revoked: Vec<(Serial, Seen)> =
                run.iter().filter_map(|(serial, seen)| Some((*serial, (*seen)?))).collect();
            // In the order of the table: a million at random places would touch every page many times. The
            // sort is stable, so the last of several still counts.
            revoked.sort_by(|(a, _), (b, _)| a.as_bytes().cmp(b.as_bytes()));
            if revoked.is_empty() {
                any_released = true;
                for (serial, _) in run {
                    each(connection, "DELETE FROM revocations WHERE issuer = ? AND serial = ?", issuer, serial).await?;
                    each(connection, "INSERT OR REPLACE INTO releases VALUES (?, ?)", issuer, serial).await?;
                }
                continue;
            }
            if any_released {
                for (serial, _) in &revoked {
                    each(connection, "DELETE FROM releases WHERE issuer = ? AND serial = ?", issuer, serial).await?;
                }
            }
            insert(
                connection,
                "INSERT OR REPLACE INTO revocations VALUES ",
                7,
                issuer,
                &revoked,
                |query, (serial, seen)| {
                    query
                        .bind(serial.as_bytes().to_vec())
                        .bind(seen.not_before.unix())
                        .bind(seen.not_after.unix())
                        .bind(seen.revocation.at.unix())
                        .bind(i64::from(seen.revocation.reason.code()))
                        .bind(seen.revocation.invalidity_date.map(Time::unix))
                        .bind(seen.learned.unix())
                },
            )
            .await?;
        }
        Ok(())
    }

    /// Serials of `issuer` of which a release from hold was the last that was recorded.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn released(&self, issuer: &IssuerName) -> Result<BTreeSet<Serial>, StateError> {
        let rows = sqlx::query("SELECT serial FROM releases WHERE issuer = ?").bind(issuer.as_str());
        let rows = rows.fetch_all(&self.0.pool).await.map_err(self.sql())?;
        rows.iter().map(|row| self.serial("releases", row)).collect()
    }

    /// Where the feed from `source` has read to.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn position(&self, source: &str) -> Result<Option<Vec<u8>>, StateError> {
        let query = sqlx::query_scalar("SELECT position FROM positions WHERE source = ?").bind(source);
        query.fetch_optional(&self.0.pool).await.map_err(self.sql())
    }

    /// Remembers where the feed from `source` has read to.
    ///
    /// # Errors
    /// If it could not be written.
    pub async fn set_position(&self, source: &str, position: &[u8]) -> Result<(), StateError> {
        let query = sqlx::query("INSERT OR REPLACE INTO positions VALUES (?, ?)").bind(source).bind(position);
        query.execute(&self.0.pool).await.map(drop).map_err(self.sql())
    }

    /// Makes this process the only one that publishes from this store, until it ends or drops the store.
    /// Lists that a crash left half written are removed. Further calls change nothing.
    ///
    /// # Errors
    /// [`StateError::Claimed`] if another process publishes.
    pub async fn claim(&self) -> Result<(), StateError> {
        let mut claim = self.0.claim.lock().await;
        if claim.is_some() {
            return Ok(());
        }
        let lock = lock(&self.0.path)?;
        let kept = sqlx::query_scalar("SELECT sha256 FROM lists WHERE kept = 1");
        let kept: Vec<Vec<u8>> = kept.fetch_all(&self.0.pool).await.map_err(self.sql())?;
        let names: BTreeSet<String> = kept.iter().map(|sha256| file_name(sha256)).collect();
        self.sweep(&names).map_err(self.file(&self.0.lists))?;
        *claim = Some(lock);
        Ok(())
    }

    fn sweep(&self, kept: &BTreeSet<String>) -> io::Result<()> {
        fs::create_dir_all(&self.0.lists)?;
        for entry in fs::read_dir(&self.0.lists)? {
            let entry = entry?;
            let name = entry.file_name();
            let ours = name.to_str().is_some_and(|name| {
                name.starts_with(TEMPORARY) || (name.len() == 68 && name.ends_with(".crl") && !kept.contains(name))
            });
            if ours {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Begins or continues the lists of `scope`, which are signed by the CA with this SHA-256 of name and key.
    ///
    /// # Errors
    /// [`StateError::OtherCa`] if they were begun by another CA.
    pub async fn begin_scope(&self, scope: &Scope, ca: &[u8; 32]) -> Result<(), StateError> {
        let query = sqlx::query("INSERT INTO scopes VALUES (?, ?, 0) ON CONFLICT DO NOTHING");
        query.bind(&scope.0).bind(ca.as_slice()).execute(&self.0.pool).await.map_err(self.sql())?;
        let known = sqlx::query_scalar("SELECT ca FROM scopes WHERE scope = ?").bind(&scope.0);
        let known: Vec<u8> = known.fetch_one(&self.0.pool).await.map_err(self.sql())?;
        if known == ca { Ok(()) } else { Err(StateError::OtherCa { path: self.0.path.clone(), scope: scope.clone() }) }
    }

    /// Gives out a number above all that were given out before, and no less than `at_least`. A number
    /// that is never committed leaves a gap.
    ///
    /// # Errors
    /// If it could not be written.
    pub async fn reserve(&self, scope: &Scope, at_least: u64) -> Result<u64, StateError> {
        let query =
            sqlx::query_scalar("UPDATE scopes SET reserved = max(reserved + 1, ?) WHERE scope = ? RETURNING reserved");
        let query = query.bind(stored(at_least)).bind(&scope.0);
        let number: i64 = query.fetch_one(&self.0.pool).await.map_err(self.sql())?;
        self.number("scopes", number)
    }

    /// The lists of `scope` whose files are kept, by number, complete before delta.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn lists(&self, scope: &Scope) -> Result<Vec<ListRow>, StateError> {
        let rows = sqlx::query(
            "SELECT number, base, this_update, next_update, regular, sha256, bytes, entries \
             FROM lists WHERE scope = ? AND kept = 1 ORDER BY number, delta",
        );
        let rows = rows.bind(&scope.0).fetch_all(&self.0.pool).await.map_err(self.sql())?;
        rows.iter().map(|row| self.list(row)).collect()
    }

    fn list(&self, row: &SqliteRow) -> Result<ListRow, StateError> {
        let sha256: Vec<u8> = self.get(row, 5)?;
        let base: Option<i64> = self.get(row, 1)?;
        Ok(ListRow {
            number: self.number("lists", self.get(row, 0)?)?,
            base: base.map(|base| self.number("lists", base)).transpose()?,
            this_update: self.time(row, 2)?,
            next_update: self.time(row, 3)?,
            regular: self.get(row, 4)?,
            sha256: sha256.try_into().map_err(|_| self.damaged("lists", "no SHA-256".to_owned()))?,
            bytes: self.number("lists", self.get(row, 6)?)?,
            entries: self.number("lists", self.get(row, 7)?)?,
        })
    }

    /// The last complete list of `scope` that was committed, whether or not it is kept; with
    /// [`Slot::Regular`] the last that was made for a regular slot.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn last(&self, scope: &Scope, slot: Slot) -> Result<Option<ListRow>, StateError> {
        let query = sqlx::query(
            "SELECT number, base, this_update, next_update, regular, sha256, bytes, entries \
             FROM lists WHERE scope = ? AND delta = 0 AND regular >= ? ORDER BY number DESC LIMIT 1",
        );
        let query = query.bind(&scope.0).bind(slot == Slot::Regular);
        let row = query.fetch_optional(&self.0.pool).await.map_err(self.sql())?;
        row.as_ref().map(|row| self.list(row)).transpose()
    }

    /// The journal of `scope`.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn journal(&self, scope: &Scope) -> Result<Vec<JournalRow>, StateError> {
        let rows = sqlx::query("SELECT serial, number, released_at FROM journal WHERE scope = ?").bind(&scope.0);
        let rows = rows.fetch_all(&self.0.pool).await.map_err(self.sql())?;
        let row = |row: &SqliteRow| {
            Ok(JournalRow {
                serial: self.serial("journal", row)?,
                number: self.number("journal", self.get(row, 1)?)?,
                released_at: self.get::<Option<i64>>(row, 2)?.map(Time::from_unix),
            })
        };
        rows.iter().map(row).collect()
    }

    /// Names the lists of a revision, whose files are written, and all that follows from them; returns the
    /// SHA-256 of those that are let go, whose files [`State::discard`] may remove once nobody serves them.
    ///
    /// # Errors
    /// [`StateError::Overtaken`] if the number is not the last that was reserved, or is not above all that
    /// were committed. Nothing is written then, nor after any other error.
    pub async fn commit(&self, scope: &Scope, revision: &Revision) -> Result<Vec<[u8; 32]>, StateError> {
        let mut transaction = self.begin().await?;
        let holds = sqlx::query_scalar(
            "SELECT count(*) FROM scopes WHERE scope = ?1 AND reserved = ?2 \
             AND ?2 > (SELECT coalesce(max(number), -1) FROM lists WHERE scope = ?1)",
        );
        let holds = holds.bind(&scope.0).bind(stored(revision.number));
        if holds.fetch_one(&mut *transaction).await.map_err(self.sql()).map(|n: i64| n != 1)? {
            let (path, scope) = (self.0.path.clone(), scope.clone());
            return Err(StateError::Overtaken { path, scope, number: revision.number });
        }
        let gone = self.commit_in(&mut transaction, &scope.0, revision).await.map_err(self.sql())?;
        transaction.commit().await.map_err(self.sql())?;
        Ok(gone.into_iter().filter_map(|sha256| sha256.try_into().ok()).collect())
    }

    async fn commit_in(
        &self,
        connection: &mut SqliteConnection,
        scope: &str,
        revision: &Revision,
    ) -> Result<Vec<Vec<u8>>, sqlx::Error> {
        let (number, oldest) = (stored(revision.number), stored(revision.oldest));
        for list in &revision.lists {
            let query = sqlx::query("INSERT INTO lists VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1)");
            let query =
                query.bind(scope).bind(stored(list.number)).bind(list.base.is_some()).bind(list.base.map(stored));
            let query = query.bind(list.this_update.unix()).bind(list.next_update.unix()).bind(list.regular);
            let query = query.bind(list.sha256.as_slice()).bind(stored(list.bytes)).bind(stored(list.entries));
            query.execute(&mut *connection).await?;
        }
        insert(connection, "INSERT OR REPLACE INTO journal VALUES ", 3, scope, &revision.changes, |query, row| {
            let query = query.bind(row.serial.as_bytes().to_vec()).bind(stored(row.number));
            query.bind(row.released_at.map(Time::unix))
        })
        .await?;
        let trim = sqlx::query("DELETE FROM journal WHERE scope = ? AND number <= ?").bind(scope).bind(oldest);
        trim.execute(&mut *connection).await?;
        let gone = sqlx::query_scalar(
            "UPDATE lists SET kept = 0 WHERE scope = ? AND kept = 1 \
             AND ((delta = 0 AND number < ?) OR (delta = 1 AND number < ?)) RETURNING sha256",
        );
        gone.bind(scope).bind(oldest).bind(number).fetch_all(&mut *connection).await
    }

    /// Lists that can no longer be read are no longer counted among those that are kept.
    ///
    /// # Errors
    /// If it could not be written.
    pub async fn lose(&self, scope: &Scope, numbers: &[u64]) -> Result<(), StateError> {
        for number in numbers {
            let query = sqlx::query("UPDATE lists SET kept = 0 WHERE scope = ? AND number = ?");
            query.bind(&scope.0).bind(stored(*number)).execute(&self.0.pool).await.map_err(self.sql())?;
        }
        Ok(())
    }

    /// Where the list with this SHA-256 is kept.
    #[must_use]
    pub fn list_path(&self, sha256: &[u8; 32]) -> PathBuf {
        self.0.lists.join(file_name(sha256))
    }

    /// Writes lists, each under its SHA-256, so that they outlive a crash. Blocks.
    ///
    /// # Errors
    /// If one could not be written.
    pub fn store(&self, lists: &[(&[u8; 32], &[u8])]) -> Result<(), StateError> {
        let write = || {
            for (sha256, bytes) in lists {
                let mut file = NamedTempFile::with_prefix_in(TEMPORARY, &self.0.lists)?;
                file.write_all(bytes)?;
                readable_by_all(file.as_file())?;
                file.as_file().sync_all()?;
                file.persist(self.list_path(sha256))?;
            }
            sync_directory(&self.0.lists)
        };
        write().map_err(self.file(&self.0.lists))
    }

    /// Removes lists that were let go. One that cannot be removed is left for the next start. Blocks.
    pub fn discard(&self, gone: &[[u8; 32]]) {
        for sha256 in gone {
            let path = self.list_path(sha256);
            if let Err(error) = fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "a CRL that is no longer needed could not be removed");
            }
        }
    }

    async fn begin(&self) -> Result<Transaction<'static, Sqlite>, StateError> {
        // IMMEDIATE: a transaction that begins by reading could otherwise be refused when it comes to write.
        self.0.pool.begin_with("BEGIN IMMEDIATE").await.map_err(self.sql())
    }

    fn sql(&self) -> impl Fn(sqlx::Error) -> StateError {
        |source| StateError::Sql { path: self.0.path.clone(), source }
    }

    fn file(&self, path: &Path) -> impl Fn(io::Error) -> StateError {
        |source| StateError::File { path: path.to_owned(), source }
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

/// Prefix of files that are being written.
const TEMPORARY: &str = ".tmp-";

fn file_name(sha256: &[u8]) -> String {
    let mut name = String::with_capacity(68);
    for octet in sha256 {
        // Writing to a String does not fail.
        let _ = write!(name, "{octet:02x}");
    }
    name + ".crl"
}

/// SQLite's integers have 63 bits for a number that is not negative; CRL numbers begin at Unix seconds.
fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

async fn each(
    connection: &mut SqliteConnection,
    sql: &'static str,
    issuer: &str,
    serial: &Serial,
) -> Result<(), sqlx::Error> {
    connection.execute(sqlx::query(sql).bind(issuer).bind(serial.as_bytes())).await.map(drop)
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

#[cfg(unix)]
fn readable_by_all(file: &File) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    // What is published anyway; a temporary file is private until then.
    file.set_permissions(fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn readable_by_all(_: &File) -> io::Result<()> {
    Ok(())
}

#[cfg(unix)]
fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(not(unix))]
fn sync_directory(_: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::print_stdout)]
    use super::*;
    use std::time::Instant;

    const NOW: i64 = 1_795_327_200;

    fn serial(n: u64) -> Serial {
        Serial::from_magnitude(&n.to_be_bytes()).unwrap()
    }

    fn seen(reason: Reason) -> Seen {
        let at = Time::from_unix(NOW);
        Seen {
            not_before: Time::from_unix(NOW - 1_000),
            not_after: Time::from_unix(NOW + 1_000),
            revocation: Revocation { at, reason, invalidity_date: Some(Time::from_unix(NOW - 9)) },
            learned: Time::from_unix(NOW + 1),
        }
    }

    fn row(number: u64, base: Option<u64>) -> ListRow {
        let mut sha256 = [0; 32];
        sha256[..8].copy_from_slice(&number.to_be_bytes());
        sha256[31] = base.is_some().into();
        let this_update = Time::from_unix(NOW);
        ListRow { number, base, this_update, next_update: Time::MAX, regular: true, sha256, bytes: 3, entries: 0 }
    }

    fn revision(number: u64, oldest: u64) -> Revision {
        let change = JournalRow { serial: serial(number), number, released_at: None };
        let delta = (oldest < number).then(|| row(number, Some(oldest)));
        let lists = std::iter::once(row(number, None)).chain(delta).collect();
        Revision { number, lists, changes: vec![change], oldest }
    }

    struct Store {
        dir: tempfile::TempDir,
        issuer: IssuerName,
        scope: Scope,
    }

    impl Store {
        fn new() -> Self {
            let issuer: IssuerName = "demo".parse().unwrap();
            Self { dir: tempfile::tempdir().unwrap(), scope: Scope::whole(&issuer), issuer }
        }

        async fn open(&self) -> State {
            State::open(&self.dir.path().join("jarchy-state.db")).await.unwrap()
        }
    }

    #[tokio::test]
    async fn promise_12_revocations_outlive_a_restart_and_go_only_by_release() {
        let store = Store::new();
        let state = store.open().await;
        let hold = seen(Reason::CertificateHold);
        state
            .record(&store.issuer, &[(serial(1), Some(hold)), (serial(2), Some(seen(Reason::Superseded)))])
            .await
            .unwrap();
        state.record(&store.issuer, &[(serial(1), None), (serial(3), Some(hold)), (serial(3), None)]).await.unwrap();
        state.record(&"other".parse().unwrap(), &[(serial(9), Some(hold))]).await.unwrap();
        state.close().await;

        let state = store.open().await;
        let all = state.revocations(&store.issuer).await.unwrap();
        assert_eq!(all, [(serial(2), seen(Reason::Superseded))]);
        assert_eq!(state.released(&store.issuer).await.unwrap(), BTreeSet::from([serial(1), serial(3)]));
        // On hold again: the old release explains nothing any more.
        state.record(&store.issuer, &[(serial(1), Some(hold))]).await.unwrap();
        assert_eq!(state.released(&store.issuer).await.unwrap(), BTreeSet::from([serial(3)]));
        assert_eq!(state.revocations(&store.issuer).await.unwrap().len(), 2);
    }

    #[tokio::test]
    async fn positions_are_remembered_by_source() {
        let store = Store::new();
        let state = store.open().await;
        assert_eq!(state.position("a").await.unwrap(), None);
        state.set_position("a", b"17").await.unwrap();
        state.set_position("a", b"18").await.unwrap();
        assert_eq!(state.position("a").await.unwrap().as_deref(), Some(&b"18"[..]));
        assert_eq!(state.position("b").await.unwrap(), None);
    }

    #[tokio::test]
    async fn promise_5_numbers_never_come_twice() {
        let store = Store::new();
        let state = store.open().await;
        state.begin_scope(&store.scope, &[1; 32]).await.unwrap();
        assert_eq!(state.reserve(&store.scope, 1_000).await.unwrap(), 1_000);
        assert_eq!(state.reserve(&store.scope, 1_000).await.unwrap(), 1_001);
        assert_eq!(state.reserve(&store.scope, 5).await.unwrap(), 1_002, "the clock went back");
        state.close().await;
        let state = store.open().await;
        assert_eq!(state.reserve(&store.scope, 5).await.unwrap(), 1_003);
    }

    #[tokio::test]
    async fn a_scope_belongs_to_one_ca() {
        let store = Store::new();
        let state = store.open().await;
        state.begin_scope(&store.scope, &[1; 32]).await.unwrap();
        state.begin_scope(&store.scope, &[1; 32]).await.unwrap();
        let error = state.begin_scope(&store.scope, &[2; 32]).await.unwrap_err();
        assert!(error.to_string().contains("another CA"), "{error}");
    }

    #[tokio::test]
    async fn a_commit_names_lists_and_lets_older_ones_go() {
        let store = Store::new();
        let state = store.open().await;
        state.begin_scope(&store.scope, &[1; 32]).await.unwrap();
        for (number, oldest) in [(10, 10), (11, 10), (12, 10)] {
            state.reserve(&store.scope, number).await.unwrap();
            state.commit(&store.scope, &revision(number, oldest)).await.unwrap();
        }
        let lists: Vec<_> = state.lists(&store.scope).await.unwrap().iter().map(|l| (l.number, l.base)).collect();
        assert_eq!(lists, [(10, None), (11, None), (12, None), (12, Some(10))]);
        state.reserve(&store.scope, 13).await.unwrap();
        let gone = state.commit(&store.scope, &revision(13, 12)).await.unwrap();
        assert_eq!(gone, [row(10, None).sha256, row(11, None).sha256, row(12, Some(10)).sha256]);
        let journal: Vec<u64> = state.journal(&store.scope).await.unwrap().iter().map(|row| row.number).collect();
        assert_eq!(journal, [13], "what the base tells needs no journal");
        assert_eq!(state.last(&store.scope, Slot::Regular).await.unwrap(), Some(row(13, None)));
    }

    #[tokio::test]
    async fn promise_5_whoever_was_overtaken_commits_nothing() {
        let store = Store::new();
        let (one, two) = (store.open().await, store.open().await);
        one.begin_scope(&store.scope, &[1; 32]).await.unwrap();
        let mine = one.reserve(&store.scope, 10).await.unwrap();
        let theirs = two.reserve(&store.scope, 10).await.unwrap();
        let late = one.commit(&store.scope, &revision(mine, mine)).await.unwrap_err();
        assert!(matches!(late, StateError::Overtaken { .. }), "{late}");
        assert!(two.lists(&store.scope).await.unwrap().is_empty());
        two.commit(&store.scope, &revision(theirs, theirs)).await.unwrap();
        let again = two.commit(&store.scope, &revision(theirs, theirs)).await.unwrap_err();
        assert!(matches!(again, StateError::Overtaken { .. }), "{again}");
    }

    #[tokio::test]
    async fn a_second_publisher_is_refused_and_told_by_whom() {
        let store = Store::new();
        let one = store.open().await;
        one.claim().await.unwrap();
        one.claim().await.unwrap();
        let two = store.open().await;
        let refused = two.claim().await.unwrap_err();
        assert!(matches!(refused, StateError::Claimed { .. }), "{refused}");
        assert!(refused.to_string().contains(&format!("process {}", std::process::id())), "{refused}");
        two.record(&store.issuer, &[(serial(1), Some(seen(Reason::Superseded)))]).await.unwrap();
        drop(one);
        two.claim().await.unwrap();
    }

    #[tokio::test]
    async fn a_start_removes_what_a_crash_left_and_nothing_else() {
        let store = Store::new();
        let state = store.open().await;
        state.claim().await.unwrap();
        state.begin_scope(&store.scope, &[1; 32]).await.unwrap();
        state.reserve(&store.scope, 10).await.unwrap();
        let (kept, orphan) = (row(10, None).sha256, [7; 32]);
        state.store(&[(&kept, b"one"), (&orphan, b"two")]).unwrap();
        state.commit(&store.scope, &revision(10, 10)).await.unwrap();
        let directory = store.dir.path().join("jarchy-state-crl");
        let foreign = [".tmp-half", "notes.txt"].map(|name| directory.join(name));
        for path in &foreign {
            fs::write(path, b"").unwrap();
        }
        state.close().await;
        drop(state);

        let state = store.open().await;
        state.claim().await.unwrap();
        let exists = [state.list_path(&kept), state.list_path(&orphan), foreign[0].clone(), foreign[1].clone()];
        assert_eq!(exists.map(|path| path.exists()), [true, false, false, true]);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = fs::metadata(state.list_path(&kept)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o644);
        }
    }

    #[tokio::test]
    async fn many_revocations_are_recorded_in_one_go() {
        let count = if std::env::var_os("JARCHY_LONG").is_some() { 1_000_000 } else { 20_123 };
        let store = Store::new();
        let state = store.open().await;
        let batch: Vec<_> = (0..count)
            .map(|n: u64| (serial(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)), Some(seen(Reason::Superseded))))
            .collect();
        let begun = Instant::now();
        state.record(&store.issuer, &batch).await.unwrap();
        let recorded = begun.elapsed();
        let all = state.revocations(&store.issuer).await.unwrap();
        println!("{count} revocations: recorded in {recorded:?}, read in {:?}", begun.elapsed() - recorded);
        let mut serials: Vec<Serial> = all.iter().map(|(serial, _)| *serial).collect();
        serials.sort_unstable();
        serials.dedup();
        assert_eq!(serials.len() as u64, count);
        assert!(all.iter().all(|(_, stored)| *stored == seen(Reason::Superseded)));
    }
}
