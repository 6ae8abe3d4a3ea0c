//! Sources: what Jarchy reads of an issuance database, whichever kind it is.
//!
//! Goes in: a database that somebody else writes. Comes out: [`Row`]s, each the *present* state of one
//! certificate, a [`Position`] from which reading goes on, and a [`Currency`]: up to when a reading proves
//! the index right. An adapter only reads; order, retries, time-outs and what is believed are the feed's.
//!
//! Invariants: a change names a certificate and its row is read anew, no earlier than the position that
//! covers it was taken; so replaying is harmless, and no order matters. A call that the feed gave up waiting
//! for is dropped in the middle; whatever state that leaves the adapter in, [`Source::open`] comes next.

pub mod any;
pub mod crl;
mod fetch;
mod file;
pub mod index_txt;
pub mod mariadb;
mod own;
pub mod postgres;
pub mod sql;
pub mod sqlite;

use crate::pki::{Serial, Status, Time};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

/// What a source says of one certificate at the moment of reading.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Row {
    /// The issuer by the name that the database, or the config for it, gives it.
    pub issuer: Arc<str>,
    /// The serial number.
    pub serial: Serial,
    /// notBefore.
    pub not_before: Time,
    /// notAfter.
    pub not_after: Time,
    /// Good or revoked.
    pub status: Status,
    /// When the row last changed, by the database's clock.
    pub changed_at: Time,
    /// When a hold was last lifted, if one ever was: the record without which no revocation is taken back.
    pub released_at: Option<Time>,
    /// The CRL shard whose URL the certificate carries, where the database says it.
    pub shard: Option<u32>,
    /// Whether the certificate is a CA's, where the database says it.
    pub ca: Option<bool>,
    /// SHA-256 of the certificate; `None` while only its precertificate is known.
    pub sha256: Option<[u8; 32]>,
}

/// Names a certificate, also where its serial is none that could be answered for.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Key {
    /// The issuer as in [`Row::issuer`].
    pub issuer: Arc<str>,
    /// Content octets of the serial.
    pub serial: Vec<u8>,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "issuer {:?}, serial ", self.issuer)?;
        self.serial.iter().try_for_each(|octet| write!(f, "{octet:02X}"))
    }
}

/// A row that cannot be understood, or not in full; it is counted and reported, and the rest goes on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OddRow {
    /// Which certificate, where that much can be read.
    pub key: Option<Key>,
    /// Which row, for the operator to find it: what [`Key`] displays, or the line of a file.
    pub name: String,
    /// What is wrong with it.
    pub why: String,
    /// What became of it.
    pub fate: Fate,
}

/// What becomes of an [`OddRow`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fate {
    /// It is left out.
    LeftOut,
    /// It is among the rows, with something else in the place of what could not be read.
    Amended,
}

impl OddRow {
    /// A row of the certificate that `key` names, which is left out.
    #[must_use]
    pub fn of(key: Key, why: impl Into<String>) -> Self {
        Self { name: key.to_string(), key: Some(key), why: why.into(), fate: Fate::LeftOut }
    }
}

/// What the database had and has no more.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Gone {
    /// The database itself recorded that it was deleted.
    Deleted(Key),
    /// It is just not there any more; not believed before an operator confirms it.
    Missing(Key),
    /// A row that was told as an [`OddRow`] of this name, and named no certificate.
    Odd(String),
}

/// Where the change stream has been read to: opaque to everyone but the adapter, and of use after a restart.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Position {
    /// Which database, and how often it was restored: `identity/epoch`, or what stands for that.
    pub database: String,
    /// The adapter's own: how far it has come, and what it saw there last.
    pub cursor: String,
}

/// Up to when a reading proves that the index is right, relative to this machine's clock just before the
/// reading began.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Currency {
    /// Up to that moment: all that was committed before it has been given.
    Present,
    /// Up to this time, by the clock of whoever wrote it: a replica's heartbeat; this machine's clock was compared.
    At(Time),
    /// Up to so long before that moment: the database keeps no order of commits.
    Lagging(Duration),
    /// Up to `at`, and nothing that follows from it holds after `until`: thisUpdate and nextUpdate of a CRL.
    Until {
        /// thisUpdate.
        at: Time,
        /// nextUpdate.
        until: Time,
    },
    /// Nothing is proved: `as_of` stands still.
    Unknown,
}

/// Some rows, and what they reach up to.
#[derive(Debug)]
pub struct Batch {
    /// The rows, each at most a few milliseconds old; about a thousand at most.
    pub rows: Vec<Row>,
    /// Certificates that are there no more, for sources that can tell.
    pub gone: Vec<Gone>,
    /// What could not be understood.
    pub odd: Vec<OddRow>,
    /// From where to go on.
    pub position: Position,
    /// Whether this is all there is, as far as `currency` says; else the next batch is asked for at once.
    pub drained: bool,
    /// What a drained batch proves; of no meaning in another.
    pub currency: Currency,
    /// Numbers of the change log that nothing was found under and that are still asked for.
    pub gaps: usize,
}

/// One page of the whole database in the order of its key.
#[derive(Debug)]
pub struct Page {
    /// The rows.
    pub rows: Vec<Row>,
    /// What could not be understood.
    pub odd: Vec<OddRow>,
    /// Where the next page begins; `None` after the last.
    pub next: Option<PageKey>,
}

/// Where a page ends, in the adapter's own words.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PageKey(pub String);

/// What waiting for a commit came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Waited {
    /// Something was, or may have been, committed.
    News,
    /// Nothing was, and this much that proves.
    Quiet(Currency),
}

/// Why a source could not be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The position belongs to another database, to one that was restored since, or to changes that were
    /// trimmed: everything must be read anew.
    #[error("the position in the change log does not fit the database: {0}")]
    Position(String),
    /// The file is gone or another one stands in its place.
    #[error("{0} was replaced or removed")]
    Replaced(PathBuf),
    /// A file cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// The database cannot be opened.
    #[error(transparent)]
    Open(#[from] crate::db::DbError),
    /// A statement failed.
    #[error("reading the issuance database: {0}")]
    Sql(#[from] sqlx::Error),
    /// It did not answer in time.
    #[error("the issuance database did not answer within {} s ({what})", after.as_secs())]
    Late {
        /// What was asked of it.
        what: &'static str,
        /// How long it was waited for.
        after: Duration,
    },
    /// The pages go on from nowhere, as the database was opened anew since: only the first one can be asked for.
    #[error("reading page by page was interrupted")]
    Interrupted,
    /// What was read is nothing that the adapter knows.
    #[error("{0}")]
    Content(String),
}

/// An issuance database of some kind, read by one feed.
pub trait Source: Send {
    /// Opens it anew after an error, or for the first time.
    fn open(&mut self) -> impl Future<Output = Result<(), SourceError>> + Send;

    /// The end of the change stream, to be taken before the first page: what happens while the pages are
    /// read comes again as changes.
    fn head(&mut self) -> impl Future<Output = Result<Position, SourceError>> + Send;

    /// About `at_most` certificates, after `key`. A page without rows need not be the last one. After
    /// [`Source::open`] some can only begin anew: [`SourceError::Interrupted`].
    fn page(
        &mut self,
        after: Option<&PageKey>,
        at_most: usize,
    ) -> impl Future<Output = Result<Page, SourceError>> + Send;

    /// The present rows of what changed after `position`.
    fn changes(&mut self, position: &Position) -> impl Future<Output = Result<Batch, SourceError>> + Send;

    /// Waits until something was committed since the last drained batch, at most `patience`; with none it
    /// only looks.
    fn wait(&mut self, patience: Duration) -> impl Future<Output = Result<Waited, SourceError>> + Send;

    /// The rows that the database has now under `keys`, a thousand at most, in no order. What is under none
    /// of them any more is left out.
    fn reread(&mut self, keys: &[Key]) -> impl Future<Output = Result<(Vec<Row>, Vec<OddRow>), SourceError>> + Send;

    /// Whether a serial that the source does not name was never issued: false of a CRL or a table of
    /// revocations alone (promise 1).
    fn knows_issued(&self) -> bool {
        true
    }

    /// What one who looks into the source should know of how it is read.
    fn remarks(&self) -> Vec<String> {
        Vec::new()
    }

    /// What an operator should know though the source can be read, as long as it is so.
    fn complaint(&self) -> Option<String> {
        None
    }
}
