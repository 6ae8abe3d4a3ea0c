//! The durable store: what this node must still know after a crash, an upgrade or the loss of the database.
//!
//! Goes in: revocations that were answered or listed, and what becomes of each CRL scope:
//! numbers, lists, and the journal of changes that deltas are made from. Comes out: the same after a
//! restart. It is one SQLite file. It knows nothing of ASN.1 or of when a list is due.
//!
//! A complete list is kept as its head, its tail, and the chunks of entries between them, which it shares
//! with the lists before and after it: each chunk bears the numbers from and until which lists contain it.
//! So one more revocation costs one chunk and one transaction, not a file as long as the list, and every
//! list of the past can be put together again byte for byte; its SHA-256 proves it.
//!
//! Invariants: what a call has returned from is on the disk; a revocation leaves only by a recorded
//! release (promise 12); a CRL number is given out once (promise 5); at most one process publishes.

use crate::db::{self, DbError, Kind, Mode};
use crate::pki::{IssuerName, Reason, Revocation, Serial, Time, hash::sha256};
use bytes::Bytes;
use sqlx::query::Query;
use sqlx::sqlite::{Sqlite, SqliteArguments, SqliteRow};
use sqlx::{AssertSqlSafe, Executor, Row, SqliteConnection, SqlitePool, Transaction};
use std::collections::BTreeSet;
use std::fmt;
use std::fs::{File, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;

const KIND: Kind = Kind {
    name: "state store",
    // "JyST".
    application_id: 0x4a79_5354,
    migrations: &[
        r"
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
    ",
        r"
        -- pruned: entries of certificates that ended before this second may have left the lists; NULL: none has.
        -- oldest: the first complete list that deltas still build on.
        ALTER TABLE scopes ADD COLUMN pruned INTEGER;
        ALTER TABLE scopes ADD COLUMN oldest INTEGER NOT NULL DEFAULT 0;
        UPDATE scopes SET pruned = (SELECT max(this_update) FROM lists WHERE lists.scope = scopes.scope AND regular = 1);
        -- added: octets that the store grew by. void: an operator's word took back what its times say.
        -- Lists of the first version were files; the next one starts afresh, with numbers that go on.
        ALTER TABLE lists ADD COLUMN added INTEGER NOT NULL DEFAULT 0;
        ALTER TABLE lists ADD COLUMN void INTEGER NOT NULL DEFAULT 0 CHECK (void IN (0, 1));
        UPDATE lists SET kept = 0;
        -- What stands before and after the entries of a list that is kept; a delta stands in head as a whole.
        CREATE TABLE bodies (
            scope TEXT NOT NULL,
            number INTEGER NOT NULL,
            delta INTEGER NOT NULL,
            head BLOB NOT NULL,
            tail BLOB NOT NULL,
            UNIQUE (scope, number, delta)
        ) STRICT;
        -- Entries of complete lists: a chunk belongs to the lists from number since on, and before until.
        -- place: sorts as the serials do.
        CREATE TABLE chunks (
            scope TEXT NOT NULL,
            place BLOB NOT NULL,
            sha256 BLOB NOT NULL,
            since INTEGER NOT NULL,
            until INTEGER,
            der BLOB NOT NULL
        ) STRICT;
        CREATE INDEX chunks_open ON chunks (scope, sha256) WHERE until IS NULL;
        CREATE INDEX chunks_life ON chunks (scope, since, until);
        CREATE INDEX chunks_over ON chunks (scope, until) WHERE until IS NOT NULL;
        -- Into how many shards an issuer's certificates were divided, by which rule: never another (CRL-70).
        CREATE TABLE divisions (issuer TEXT PRIMARY KEY, shards INTEGER NOT NULL, rule TEXT NOT NULL) STRICT, WITHOUT ROWID;
        -- What operators decided about numbers and the clock; only ever added to.
        CREATE TABLE decisions (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            at INTEGER NOT NULL,
            actor TEXT NOT NULL,
            what TEXT NOT NULL
        ) STRICT;
        -- The clock said seen when it should have said expected, and nobody has settled that yet.
        CREATE TABLE clock (
            id INTEGER PRIMARY KEY CHECK (id = 1),
            seen INTEGER NOT NULL,
            expected INTEGER NOT NULL
        ) STRICT;
    ",
        r"
        -- Certificates that the database lost, and that an operator let go of. kept: it stays revoked.
        CREATE TABLE dropped (
            issuer TEXT NOT NULL,
            serial BLOB NOT NULL,
            at INTEGER NOT NULL,
            kept INTEGER NOT NULL CHECK (kept IN (0, 1)),
            PRIMARY KEY (issuer, serial)
        ) STRICT, WITHOUT ROWID;
    ",
    ],
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
    /// By how much the store grew for it.
    pub added: u64,
}

/// One of the two lists that a number stands for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Form {
    /// The complete one.
    Complete,
    /// The delta.
    Delta,
}

impl Form {
    const fn is_delta(self) -> bool {
        matches!(self, Self::Delta)
    }
}

impl From<&ListRow> for Form {
    fn from(row: &ListRow) -> Self {
        if row.base.is_some() { Self::Delta } else { Self::Complete }
    }
}

/// A list that is to be committed.
#[derive(Clone, Debug)]
pub struct NewList {
    /// What is remembered of it for ever.
    pub row: ListRow,
    /// What stands before its entries; of a delta all of it.
    pub head: Bytes,
    /// What stands after them.
    pub tail: Bytes,
}

/// A chunk of entries that is new in a complete list.
#[derive(Clone, Debug)]
pub struct NewChunk {
    /// Sorts as the entries do.
    pub place: Vec<u8>,
    /// Of the entries.
    pub sha256: [u8; 32],
    /// The entries in DER.
    pub der: Bytes,
}

/// How the entries of a complete list differ from those of the one before.
#[derive(Clone, Debug, Default)]
pub struct Turnover {
    /// No chunk of the list before is in this one, whichever they were.
    pub afresh: bool,
    /// SHA-256 of chunks that are in the list before only.
    pub gone: Vec<[u8; 32]>,
    /// Chunks that are in this list only.
    pub new: Vec<NewChunk>,
}

/// Which of the lists that deltas no longer build on stay all the same.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Keep {
    /// None, but their numbers and hashes.
    Window,
    /// Those from this second on.
    Since(Time),
    /// All.
    All,
}

/// A clock that cannot be right.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Doubt {
    /// What it said.
    pub seen: Time,
    /// What it should have said.
    pub expected: Time,
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
    pub lists: Vec<NewList>,
    /// The entries of the complete list.
    pub turnover: Turnover,
    /// Changes that these lists are the first to tell.
    pub changes: Vec<JournalRow>,
    /// The oldest complete list that deltas build on; the journal up to it is let go.
    pub oldest: u64,
    /// What becomes of older lists.
    pub keep: Keep,
    /// Entries of certificates that ended before this second may have left the lists.
    pub pruned: Option<Time>,
}

/// The store; clones share it.
#[derive(Clone, Debug)]
pub struct State(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    pool: SqlitePool,
    path: PathBuf,
    claim: tokio::sync::Mutex<Option<File>>,
}

impl State {
    /// Opens the store at `path`, or makes it.
    ///
    /// # Errors
    /// If the file cannot be made or read, or is no state store.
    pub async fn open(path: &Path) -> Result<Self, StateError> {
        let pool = db::open(path, &KIND, Mode::Create).await?;
        Ok(Self(Arc::new(Shared { pool, path: path.to_owned(), claim: tokio::sync::Mutex::default() })))
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

    /// Certificates of `issuer` that the database lost and an operator let go of, and that stay revoked.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn dropped(&self, issuer: &IssuerName) -> Result<BTreeSet<Serial>, StateError> {
        let rows = sqlx::query("SELECT serial FROM dropped WHERE issuer = ? AND kept = 1").bind(issuer.as_str());
        let rows = rows.fetch_all(&self.0.pool).await.map_err(self.sql())?;
        rows.iter().map(|row| self.serial("dropped", row)).collect()
    }

    /// Writes down that `actor` let go of certificates which the database lost, each with whether it stays
    /// revoked.
    ///
    /// # Errors
    /// If it could not be written; then nothing was.
    pub async fn drop_lost(
        &self,
        issuer: &IssuerName,
        lost: &[(Serial, bool)],
        actor: &str,
        now: Time,
    ) -> Result<(), StateError> {
        let kept = lost.iter().filter(|(_, kept)| *kept).count();
        let what = format!(
            "{issuer}: let go of {} certificates that the database has lost; {kept} of them stay revoked",
            lost.len()
        );
        let mut transaction = self.begin().await?;
        for (serial, kept) in lost {
            let row = sqlx::query("INSERT OR REPLACE INTO dropped VALUES (?, ?, ?, ?)").bind(issuer.as_str());
            let row = row.bind(serial.as_bytes()).bind(now.unix()).bind(*kept);
            row.execute(&mut *transaction).await.map_err(self.sql())?;
        }
        self.decide(&mut transaction, now, actor, &what).await?;
        transaction.commit().await.map_err(self.sql())
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

    /// Begins or continues the lists of `scope`, which are signed by the CA with this SHA-256 of name and key.
    ///
    /// # Errors
    /// [`StateError::OtherCa`] if they were begun by another CA.
    pub async fn begin_scope(&self, scope: &Scope, ca: &[u8; 32]) -> Result<(), StateError> {
        let query = sqlx::query("INSERT INTO scopes (scope, ca, reserved) VALUES (?, ?, 0) ON CONFLICT DO NOTHING");
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

    /// The highest number that was ever given out in `scope`; 0 before the first.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn reserved(&self, scope: &Scope) -> Result<u64, StateError> {
        let query = sqlx::query_scalar("SELECT reserved FROM scopes WHERE scope = ?").bind(&scope.0);
        let number: Option<i64> = query.fetch_optional(&self.0.pool).await.map_err(self.sql())?;
        self.number("scopes", number.unwrap_or(0))
    }

    /// The second from which on the lists of `scope` name every expired certificate too; `None` if none
    /// has left them yet.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn pruned(&self, scope: &Scope) -> Result<Option<Time>, StateError> {
        let query = sqlx::query_scalar("SELECT pruned FROM scopes WHERE scope = ?").bind(&scope.0);
        let pruned: Option<Option<i64>> = query.fetch_optional(&self.0.pool).await.map_err(self.sql())?;
        Ok(pruned.flatten().map(Time::from_unix))
    }

    /// All scopes that lists were made for.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn scopes(&self) -> Result<Vec<Scope>, StateError> {
        let query = sqlx::query_scalar("SELECT scope FROM scopes ORDER BY scope");
        let names: Vec<String> = query.fetch_all(&self.0.pool).await.map_err(self.sql())?;
        Ok(names.into_iter().map(Scope).collect())
    }

    /// Remembers for good how an issuer's certificates are divided into shards; 0 stands for not at all.
    ///
    /// # Errors
    /// [`StateError::Division`] if they were divided otherwise before.
    pub async fn divide(&self, issuer: &IssuerName, shards: u32, rule: &str) -> Result<(), StateError> {
        let query = sqlx::query("SELECT shards, rule FROM divisions WHERE issuer = ?").bind(issuer.as_str());
        let known = query.fetch_optional(&self.0.pool).await.map_err(self.sql())?;
        let Some(known) = known else {
            if shards > 0 {
                let query = sqlx::query("INSERT INTO divisions VALUES (?, ?, ?)").bind(issuer.as_str());
                query.bind(shards).bind(rule).execute(&self.0.pool).await.map_err(self.sql())?;
            }
            return Ok(());
        };
        let (known_shards, known_rule): (i64, String) = (self.get(&known, 0)?, self.get(&known, 1)?);
        if known_shards == i64::from(shards) && known_rule == rule {
            return Ok(());
        }
        let name = |shards: i64, rule: &str| match shards {
            0 => "no shards".to_owned(),
            _ => format!("{shards} shards by {rule}"),
        };
        Err(StateError::Division {
            path: self.0.path.clone(),
            issuer: issuer.clone(),
            known: name(known_shards, &known_rule),
            wanted: name(i64::from(shards), rule),
        })
    }

    /// The lists of `scope` that are kept and that deltas build on, by number, complete before delta.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn lists(&self, scope: &Scope) -> Result<Vec<ListRow>, StateError> {
        let rows = sqlx::query(
            "SELECT number, base, this_update, next_update, regular, sha256, bytes, entries, added \
             FROM lists WHERE scope = ?1 AND kept = 1 AND void = 0 \
             AND number >= (SELECT oldest FROM scopes WHERE scope = ?1) \
             AND (delta = 0 OR number = (SELECT max(number) FROM lists WHERE scope = ?1)) ORDER BY number, delta",
        );
        let rows = rows.bind(&scope.0).fetch_all(&self.0.pool).await.map_err(self.sql())?;
        rows.iter().map(|row| self.list(row)).collect()
    }

    /// Every list of `scope` that was ever committed, by number, complete before delta, and whether it is kept.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn history(&self, scope: &Scope) -> Result<Vec<(ListRow, bool)>, StateError> {
        let rows = sqlx::query(
            "SELECT number, base, this_update, next_update, regular, sha256, bytes, entries, added, kept \
             FROM lists WHERE scope = ? ORDER BY number, delta",
        );
        let rows = rows.bind(&scope.0).fetch_all(&self.0.pool).await.map_err(self.sql())?;
        rows.iter().map(|row| Ok((self.list(row)?, self.get(row, 9)?))).collect()
    }

    /// The list of `scope` with this number, whether or not it is kept.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn list_numbered(&self, scope: &Scope, number: u64, form: Form) -> Result<Option<ListRow>, StateError> {
        let query = sqlx::query(
            "SELECT number, base, this_update, next_update, regular, sha256, bytes, entries, added \
             FROM lists WHERE scope = ? AND number = ? AND delta = ?",
        );
        let query = query.bind(&scope.0).bind(stored(number)).bind(form.is_delta());
        let row = query.fetch_optional(&self.0.pool).await.map_err(self.sql())?;
        row.as_ref().map(|row| self.list(row)).transpose()
    }

    /// The last list of `scope` that was dated `at` or before, whether or not it is kept.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn list_at(&self, scope: &Scope, at: Time, form: Form) -> Result<Option<ListRow>, StateError> {
        let query = sqlx::query(
            "SELECT number, base, this_update, next_update, regular, sha256, bytes, entries, added \
             FROM lists WHERE scope = ? AND this_update <= ? AND delta = ? ORDER BY number DESC LIMIT 1",
        );
        let query = query.bind(&scope.0).bind(at.unix()).bind(form.is_delta());
        let row = query.fetch_optional(&self.0.pool).await.map_err(self.sql())?;
        row.as_ref().map(|row| self.list(row)).transpose()
    }

    /// The list in DER; `None` if it was let go. Its SHA-256 is for the caller to check, see [`State::list_bytes`].
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn parts(&self, scope: &Scope, row: &ListRow) -> Result<Option<ListParts>, StateError> {
        let form = Form::from(row);
        // One state of the store: otherwise a commit in between could let go of half the list.
        let mut snapshot = self.0.pool.begin().await.map_err(self.sql())?;
        let query = sqlx::query("SELECT head, tail FROM bodies WHERE scope = ? AND number = ? AND delta = ?");
        let query = query.bind(&scope.0).bind(stored(row.number)).bind(form.is_delta());
        let Some(body) = query.fetch_optional(&mut *snapshot).await.map_err(self.sql())? else { return Ok(None) };
        let chunks: Vec<Vec<u8>> = if form == Form::Delta {
            Vec::new()
        } else {
            let query = sqlx::query_scalar(
                "SELECT der FROM chunks WHERE scope = ?1 AND since <= ?2 AND (until IS NULL OR until > ?2) ORDER BY place",
            );
            query.bind(&scope.0).bind(stored(row.number)).fetch_all(&mut *snapshot).await.map_err(self.sql())?
        };
        snapshot.rollback().await.map_err(self.sql())?;
        let (head, tail): (Vec<u8>, Vec<u8>) = (self.get(&body, 0)?, self.get(&body, 1)?);
        Ok(Some(ListParts { head, chunks: chunks.into_iter().map(Bytes::from).collect(), tail }))
    }

    /// The list in DER, byte for byte as it was published; `None` if it was let go.
    ///
    /// # Errors
    /// If the store cannot be read, or what is kept is not what was published.
    pub async fn list_bytes(&self, scope: &Scope, row: &ListRow) -> Result<Option<Vec<u8>>, StateError> {
        let Some(parts) = self.parts(scope, row).await? else { return Ok(None) };
        let wanted = row.sha256;
        let joined = tokio::task::spawn_blocking(move || {
            let whole = parts.join();
            (sha256(&whole) == wanted).then_some(whole)
        });
        let whole = joined.await.ok().flatten();
        let changed = || self.damaged("chunks", format!("CRL {} of {scope} is not what was published", row.number));
        whole.map(Some).ok_or_else(changed)
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
            added: self.number("lists", self.get(row, 8)?)?,
        })
    }

    /// The last complete list of `scope` that was committed, whether or not it is kept; with
    /// [`Slot::Regular`] the last that was made for a regular slot. Lists that an operator declared void
    /// do not count.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn last(&self, scope: &Scope, slot: Slot) -> Result<Option<ListRow>, StateError> {
        let query = sqlx::query(
            "SELECT number, base, this_update, next_update, regular, sha256, bytes, entries, added \
             FROM lists WHERE scope = ? AND delta = 0 AND regular >= ? AND void = 0 ORDER BY number DESC LIMIT 1",
        );
        let query = query.bind(&scope.0).bind(slot == Slot::Regular);
        let row = query.fetch_optional(&self.0.pool).await.map_err(self.sql())?;
        row.as_ref().map(|row| self.list(row)).transpose()
    }

    /// The latest thisUpdate of any list that was committed and not declared void.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn latest(&self) -> Result<Option<Time>, StateError> {
        let query = sqlx::query_scalar("SELECT max(this_update) FROM lists WHERE void = 0");
        let latest: Option<i64> = query.fetch_one(&self.0.pool).await.map_err(self.sql())?;
        Ok(latest.map(Time::from_unix))
    }

    /// An operator's word: CRL numbers of `scope` go on above `number`, which was found published.
    ///
    /// # Errors
    /// If it could not be written.
    pub async fn adopt(&self, scope: &Scope, number: u64, actor: &str, now: Time) -> Result<(), StateError> {
        let mut transaction = self.begin().await?;
        let query = sqlx::query("UPDATE scopes SET reserved = max(reserved, ?) WHERE scope = ?");
        let query = query.bind(stored(number)).bind(&scope.0);
        query.execute(&mut *transaction).await.map_err(self.sql())?;
        self.decide(&mut transaction, now, actor, &format!("CRL numbers of {scope} go on above {number}")).await?;
        transaction.commit().await.map_err(self.sql())
    }

    /// An operator's word: lists of `scope` that are dated after `now` are void. Their numbers stay used;
    /// the next list is made afresh, with a higher number and its true thisUpdate (promise 13). Returns how
    /// many complete lists that were.
    ///
    /// # Errors
    /// If it could not be written.
    pub async fn supersede(&self, scope: &Scope, actor: &str, now: Time) -> Result<u64, StateError> {
        let mut transaction = self.begin().await?;
        let query = sqlx::query(
            "UPDATE lists SET void = 1, kept = 0 WHERE scope = ? AND this_update > ? AND void = 0 RETURNING delta",
        );
        let query = query.bind(&scope.0).bind(now.unix());
        let rows = query.fetch_all(&mut *transaction).await.map_err(self.sql())?;
        let complete = rows.iter().filter(|row| row.try_get::<i64, _>(0).is_ok_and(|delta| delta == 0)).count();
        if complete > 0 {
            // What came before them no longer leads to what comes next.
            for sql in [
                "UPDATE lists SET kept = 0 WHERE scope = ? AND delta = 1",
                "UPDATE scopes SET oldest = reserved + 1 WHERE scope = ?",
                "DELETE FROM journal WHERE scope = ?",
            ] {
                let query = sqlx::query(sql).bind(&scope.0);
                query.execute(&mut *transaction).await.map_err(self.sql())?;
            }
        }
        // Who says so also says that the clock is right now.
        sqlx::query("DELETE FROM clock").execute(&mut *transaction).await.map_err(self.sql())?;
        let what = format!("{complete} CRLs of {scope} that are dated after {now} are void");
        self.decide(&mut transaction, now, actor, &what).await?;
        transaction.commit().await.map_err(self.sql())?;
        Ok(u64::try_from(complete).unwrap_or(u64::MAX))
    }

    async fn decide(
        &self,
        connection: &mut SqliteConnection,
        now: Time,
        actor: &str,
        what: &str,
    ) -> Result<(), StateError> {
        let query = sqlx::query("INSERT INTO decisions (at, actor, what) VALUES (?, ?, ?)");
        let query = query.bind(now.unix()).bind(actor).bind(what);
        query.execute(connection).await.map(drop).map_err(self.sql())
    }

    /// What operators decided about numbers and the clock: when, who, what; oldest first.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn decisions(&self) -> Result<Vec<(Time, String, String)>, StateError> {
        let rows = sqlx::query("SELECT at, actor, what FROM decisions ORDER BY id");
        let rows = rows.fetch_all(&self.0.pool).await.map_err(self.sql())?;
        rows.iter().map(|row| Ok((self.time(row, 0)?, self.get(row, 1)?, self.get(row, 2)?))).collect()
    }

    /// A doubt about the clock that was neither settled by the clock itself nor by an operator.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn clock_doubt(&self) -> Result<Option<Doubt>, StateError> {
        let query = sqlx::query("SELECT seen, expected FROM clock");
        let row = query.fetch_optional(&self.0.pool).await.map_err(self.sql())?;
        row.map(|row| Ok(Doubt { seen: self.time(&row, 0)?, expected: self.time(&row, 1)? })).transpose()
    }

    /// Remembers a doubt about the clock over a restart, or forgets it because the clock is right again.
    ///
    /// # Errors
    /// If it could not be written.
    pub async fn set_clock_doubt(&self, doubt: Option<Doubt>) -> Result<(), StateError> {
        let done = match doubt {
            None => sqlx::query("DELETE FROM clock").execute(&self.0.pool).await,
            Some(Doubt { seen, expected }) => {
                let query = sqlx::query("INSERT OR REPLACE INTO clock VALUES (1, ?, ?)");
                query.bind(seen.unix()).bind(expected.unix()).execute(&self.0.pool).await
            }
        };
        done.map(drop).map_err(self.sql())
    }

    /// An operator's word: the clock, which says `now`, is right. Whether there was a doubt.
    ///
    /// # Errors
    /// If it could not be written.
    pub async fn confirm_clock(&self, actor: &str, now: Time) -> Result<bool, StateError> {
        let mut transaction = self.begin().await?;
        let gone = sqlx::query("DELETE FROM clock").execute(&mut *transaction).await.map_err(self.sql())?;
        self.decide(&mut transaction, now, actor, &format!("the clock is right when it says {now}")).await?;
        transaction.commit().await.map_err(self.sql())?;
        Ok(gone.rows_affected() > 0)
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

    /// Writes the lists of a revision and all that follows from them, all of it or nothing.
    ///
    /// # Errors
    /// [`StateError::Overtaken`] if the number is not the last that was reserved, or is not above all that
    /// were committed. Nothing is written then, nor after any other error.
    pub async fn commit(&self, scope: &Scope, revision: &Revision) -> Result<(), StateError> {
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
        commit_lists(&mut transaction, &scope.0, revision).await.map_err(self.sql())?;
        commit_chunks(&mut transaction, &scope.0, revision).await.map_err(self.sql())?;
        let_go(&mut transaction, &scope.0, revision).await.map_err(self.sql())?;
        transaction.commit().await.map_err(self.sql())
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

/// What a list is put together from.
#[derive(Clone, Debug)]
pub struct ListParts {
    /// What stands before the entries; of a delta all of it.
    pub head: Vec<u8>,
    /// The entries of a complete list, in order.
    pub chunks: Vec<Bytes>,
    /// What stands after them.
    pub tail: Vec<u8>,
}

impl ListParts {
    /// The list.
    #[must_use]
    pub fn join(&self) -> Vec<u8> {
        let entries: usize = self.chunks.iter().map(Bytes::len).sum();
        let mut whole = Vec::with_capacity(self.head.len() + entries + self.tail.len());
        whole.extend_from_slice(&self.head);
        self.chunks.iter().for_each(|chunk| whole.extend_from_slice(chunk));
        whole.extend_from_slice(&self.tail);
        whole
    }
}

async fn commit_lists(connection: &mut SqliteConnection, scope: &str, revision: &Revision) -> Result<(), sqlx::Error> {
    for NewList { row, head, tail } in &revision.lists {
        let query = sqlx::query(
            "INSERT INTO lists (scope, number, delta, base, this_update, next_update, regular, sha256, bytes, entries, \
             added, kept) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1)",
        );
        let query = query.bind(scope).bind(stored(row.number)).bind(row.base.is_some()).bind(row.base.map(stored));
        let query = query.bind(row.this_update.unix()).bind(row.next_update.unix()).bind(row.regular);
        let query = query.bind(row.sha256.as_slice()).bind(stored(row.bytes)).bind(stored(row.entries));
        query.bind(stored(row.added)).execute(&mut *connection).await?;
        let query = sqlx::query("INSERT INTO bodies VALUES (?, ?, ?, ?, ?)").bind(scope).bind(stored(row.number));
        query.bind(row.base.is_some()).bind(&head[..]).bind(&tail[..]).execute(&mut *connection).await?;
    }
    insert(connection, "INSERT OR REPLACE INTO journal VALUES ", 3, scope, &revision.changes, |query, row| {
        let query = query.bind(row.serial.as_bytes().to_vec()).bind(stored(row.number));
        query.bind(row.released_at.map(Time::unix))
    })
    .await?;
    let trim = sqlx::query("DELETE FROM journal WHERE scope = ? AND number <= ?");
    trim.bind(scope).bind(stored(revision.oldest)).execute(&mut *connection).await?;
    let state = sqlx::query("UPDATE scopes SET oldest = ?, pruned = ? WHERE scope = ?").bind(stored(revision.oldest));
    state.bind(revision.pruned.map(Time::unix)).bind(scope).execute(&mut *connection).await.map(drop)
}

async fn commit_chunks(connection: &mut SqliteConnection, scope: &str, revision: &Revision) -> Result<(), sqlx::Error> {
    let (number, turnover) = (stored(revision.number), &revision.turnover);
    if turnover.afresh {
        let end = sqlx::query("UPDATE chunks SET until = ? WHERE scope = ? AND until IS NULL");
        end.bind(number).bind(scope).execute(&mut *connection).await?;
    }
    for sha256 in &turnover.gone {
        let end = sqlx::query("UPDATE chunks SET until = ? WHERE scope = ? AND sha256 = ? AND until IS NULL");
        end.bind(number).bind(scope).bind(sha256.as_slice()).execute(&mut *connection).await?;
    }
    let head = "INSERT INTO chunks (scope, place, sha256, since, der) VALUES ";
    insert(connection, head, 4, scope, &turnover.new, |query, chunk| {
        query.bind(chunk.place.clone()).bind(chunk.sha256.to_vec()).bind(number).bind(chunk.der.to_vec())
    })
    .await
}

/// Drops what nobody may ask for any more; the rows of `lists` stay for ever.
async fn let_go(connection: &mut SqliteConnection, scope: &str, revision: &Revision) -> Result<(), sqlx::Error> {
    let since = match revision.keep {
        Keep::Window => Some(i64::MAX),
        Keep::Since(time) => Some(time.unix()),
        Keep::All => None,
    };
    if let Some(since) = since {
        let gone = sqlx::query(
            "UPDATE lists SET kept = 0 WHERE scope = ?1 AND kept = 1 AND this_update < ?4 \
             AND ((delta = 0 AND number < ?2) OR (delta = 1 AND number < ?3)) RETURNING number, delta",
        );
        let gone = gone.bind(scope).bind(stored(revision.oldest)).bind(stored(revision.number)).bind(since);
        for row in gone.fetch_all(&mut *connection).await? {
            let body = sqlx::query("DELETE FROM bodies WHERE scope = ? AND number = ? AND delta = ?").bind(scope);
            let (number, delta): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
            body.bind(number).bind(delta).execute(&mut *connection).await?;
        }
    }
    if revision.turnover.afresh {
        // What lists that were lost or declared void have left.
        let bodies = sqlx::query(
            "DELETE FROM bodies WHERE scope = ?1 AND NOT EXISTS (SELECT 1 FROM lists WHERE lists.scope = ?1 \
             AND lists.number = bodies.number AND lists.delta = bodies.delta AND kept = 1)",
        );
        bodies.bind(scope).execute(&mut *connection).await?;
    }
    let chunks = sqlx::query(
        "DELETE FROM chunks WHERE scope = ?1 AND until IS NOT NULL \
         AND until <= (SELECT min(number) FROM lists WHERE scope = ?1 AND delta = 0 AND kept = 1)",
    );
    chunks.bind(scope).execute(&mut *connection).await.map(drop)
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

    /// A list whose only entry is its own number; the delta of the same number differs from it.
    fn list(number: u64, base: Option<u64>) -> NewList {
        let head = Bytes::from(format!("{number} {base:?} "));
        let entry = if base.is_some() { Bytes::new() } else { entry(number) };
        let tail = if base.is_some() { Bytes::new() } else { Bytes::from(" end") };
        let whole = [&head[..], &entry, &tail].concat();
        let this_update = Time::from_unix(NOW + i64::try_from(number).unwrap());
        let row = ListRow {
            number,
            base,
            this_update,
            next_update: Time::MAX,
            regular: true,
            sha256: sha256(&whole),
            bytes: whole.len() as u64,
            entries: 1,
            added: 9,
        };
        NewList { row, head, tail }
    }

    fn row(number: u64, base: Option<u64>) -> ListRow {
        list(number, base).row
    }

    fn entry(number: u64) -> Bytes {
        Bytes::from(format!("entry {number}"))
    }

    fn revision(number: u64, oldest: u64) -> Revision {
        let change = JournalRow { serial: serial(number), number, released_at: None };
        let delta = (oldest < number).then(|| list(number, Some(oldest)));
        let lists = std::iter::once(list(number, None)).chain(delta).collect();
        let chunk = NewChunk { place: vec![1], sha256: sha256(&entry(number)), der: entry(number) };
        let gone = vec![sha256(&entry(number - 1))];
        let turnover = Turnover { afresh: false, gone, new: vec![chunk] };
        Revision { number, lists, turnover, changes: vec![change], oldest, keep: Keep::Window, pruned: None }
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
        state.commit(&store.scope, &revision(13, 12)).await.unwrap();
        let kept: Vec<_> =
            state.history(&store.scope).await.unwrap().iter().map(|(l, kept)| (l.number, *kept)).collect();
        let expected = [(10, false), (11, false), (11, false), (12, true), (12, false), (13, true), (13, true)];
        assert_eq!(kept, expected, "numbers and hashes stay for ever");
        for (row, kept) in state.history(&store.scope).await.unwrap() {
            let bytes = state.list_bytes(&store.scope, &row).await.unwrap();
            assert_eq!(bytes.is_some(), kept, "{row:?}");
        }
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
    async fn crl_95_every_list_comes_back_by_number_and_by_time() {
        let store = Store::new();
        let state = store.open().await;
        state.begin_scope(&store.scope, &[1; 32]).await.unwrap();
        for number in 10..20 {
            state.reserve(&store.scope, number).await.unwrap();
            let keep = if number < 15 { Keep::All } else { Keep::Since(Time::from_unix(NOW + 12)) };
            state.commit(&store.scope, &Revision { keep, ..revision(number, number.max(11) - 1) }).await.unwrap();
        }
        for number in 10..20 {
            let row = state.list_numbered(&store.scope, number, Form::Complete).await.unwrap().unwrap();
            assert_eq!(state.list_at(&store.scope, row.this_update, Form::Complete).await.unwrap(), Some(row.clone()));
            let bytes = state.list_bytes(&store.scope, &row).await.unwrap();
            let expected = format!("{number} None entry {number} end");
            assert_eq!(bytes, (number >= 12).then(|| expected.into_bytes()), "{number}");
            if number > 12 {
                let delta = state.list_numbered(&store.scope, number, Form::Delta).await.unwrap().unwrap();
                assert!(state.list_bytes(&store.scope, &delta).await.unwrap().is_some());
            }
        }
        assert_eq!(state.list_at(&store.scope, Time::from_unix(NOW), Form::Complete).await.unwrap(), None);
        let late = state.list_at(&store.scope, Time::MAX, Form::Complete).await.unwrap().unwrap();
        assert_eq!(late.number, 19);
    }

    #[tokio::test]
    async fn a_list_that_is_not_what_was_published_is_not_given_out() {
        let store = Store::new();
        let state = store.open().await;
        state.begin_scope(&store.scope, &[1; 32]).await.unwrap();
        state.reserve(&store.scope, 10).await.unwrap();
        state.commit(&store.scope, &revision(10, 10)).await.unwrap();
        sqlx::query("UPDATE chunks SET der = x'00'").execute(&state.0.pool).await.unwrap();
        let error = state.list_bytes(&store.scope, &row(10, None)).await.unwrap_err();
        assert!(error.to_string().contains("not what was published"), "{error}");
    }

    #[tokio::test]
    async fn crl_70_a_division_into_shards_is_for_ever() {
        let store = Store::new();
        let state = store.open().await;
        state.divide(&store.issuer, 0, "hash").await.unwrap();
        state.divide(&store.issuer, 16, "hash").await.unwrap();
        state.divide(&store.issuer, 16, "hash").await.unwrap();
        for (shards, rule) in [(17, "hash"), (16, "database"), (0, "hash")] {
            let error = state.divide(&store.issuer, shards, rule).await.unwrap_err().to_string();
            assert!(error.contains("16 shards by hash"), "{error}");
        }
    }

    #[tokio::test]
    async fn promise_5_and_13_operators_words_are_written_down() {
        let store = Store::new();
        let state = store.open().await;
        state.begin_scope(&store.scope, &[1; 32]).await.unwrap();
        let now = Time::from_unix(NOW);
        state.adopt(&store.scope, 5_000, "anna", now).await.unwrap();
        assert_eq!(state.reserve(&store.scope, 7).await.unwrap(), 5_001);
        state.commit(&store.scope, &revision(5_001, 5_001)).await.unwrap();
        assert_eq!(state.supersede(&store.scope, "anna", now).await.unwrap(), 1);
        assert_eq!(state.last(&store.scope, Slot::Any).await.unwrap(), None);
        assert!(state.lists(&store.scope).await.unwrap().is_empty());
        assert_eq!(state.latest().await.unwrap(), None);
        assert_eq!(state.reserve(&store.scope, 7).await.unwrap(), 5_002, "its number stays used");
        let doubt = Doubt { seen: now, expected: now + std::time::Duration::from_secs(99) };
        state.set_clock_doubt(Some(doubt)).await.unwrap();
        assert_eq!(state.clock_doubt().await.unwrap(), Some(doubt));
        assert!(state.confirm_clock("boris", now).await.unwrap());
        assert_eq!(state.clock_doubt().await.unwrap(), None);
        let actors: Vec<_> = state.decisions().await.unwrap().into_iter().map(|(_, actor, _)| actor).collect();
        assert_eq!(actors, ["anna", "anna", "boris"]);
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
