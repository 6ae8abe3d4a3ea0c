//! Numbers, lists and the journal of each scope (promise 5).
//!
//! A complete list is kept as its head, its tail, and the chunks of entries between them, which it shares
//! with the lists before and after it: each chunk bears the numbers from and until which lists contain it.
//! So one more revocation costs one chunk and one transaction, not a file as long as the list, and every
//! list of the past can be put together again byte for byte; its SHA-256 proves it.

use super::{Scope, State, StateError, insert, stored};
use crate::pki::{IssuerName, Serial, Time, hash::sha256};
use bytes::Bytes;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection};

/// Chunks that one INSERT takes: of 12 kB each, and SQLite holds a copy.
const CHUNKS_AT_ONCE: usize = 32;

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

impl State {
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

    /// The highest number that was ever given out in any scope of `issuer`; 0 before the first.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn highest(&self, issuer: &IssuerName) -> Result<u64, StateError> {
        let query = sqlx::query_scalar(
            "SELECT coalesce(max(reserved), 0) FROM scopes WHERE scope = ?1 OR substr(scope, 1, length(?1) + 1) = ?1 || '/'",
        );
        let number: i64 = query.bind(issuer.as_str()).fetch_one(&self.0.pool).await.map_err(self.sql())?;
        self.number("scopes", number)
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

    /// Remembers for good how an issuer's certificates are divided into shards, unless the store is only read; 0 stands
    /// for not at all.
    ///
    /// # Errors
    /// [`StateError::Division`] if they were divided otherwise before.
    pub async fn divide(&self, issuer: &IssuerName, shards: u32, rule: &str) -> Result<(), StateError> {
        let query = sqlx::query("SELECT shards, rule FROM divisions WHERE issuer = ?").bind(issuer.as_str());
        let known = query.fetch_optional(&self.0.pool).await.map_err(self.sql())?;
        let Some(known) = known else {
            if shards > 0 && self.0.mode != crate::db::Mode::ReadOnly {
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
    for few in turnover.new.chunks(CHUNKS_AT_ONCE) {
        insert(connection, head, 4, scope, few, |query, chunk| {
            query.bind(chunk.place.clone()).bind(chunk.sha256.to_vec()).bind(number).bind(chunk.der.to_vec())
        })
        .await?;
    }
    Ok(())
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
