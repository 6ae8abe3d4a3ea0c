//! Sources: what Jarchy reads of an issuance database, whichever kind it is.
//!
//! Goes in: a database that somebody else writes. Comes out: [`Row`]s, each the *present* state of one
//! certificate, and a [`Position`] from which reading goes on. An adapter only reads; order, retries and
//! what is believed are the feed's.
//!
//! Invariant: a change names a certificate and its row is read anew, in one transaction with the position
//! that covers it; so replaying is harmless, and no order matters.

pub mod sqlite;

use crate::pki::{Serial, Status, Time};
use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;

/// What a source says of one certificate at the moment of reading.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Row {
    /// The issuer by the name that the database gives it.
    pub issuer: String,
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

/// A row that cannot be understood; it is left out, counted and reported, and the rest goes on.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct OddRow {
    /// Which row, as far as it can be named.
    pub name: String,
    /// What is wrong with it.
    pub why: String,
}

/// Where the change stream has been read to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Position {
    /// Which database, and how often it was restored: `identity/epoch`.
    pub database: String,
    /// Sequence number of the last change read; 0 before the first.
    pub sequence: i64,
    /// What that change said, so that a restored backup which used the number again is noticed.
    pub digest: [u8; 32],
}

/// Some rows, and what they reach up to.
#[derive(Debug)]
pub struct Batch {
    /// The rows, each at most a few milliseconds old.
    pub rows: Vec<Row>,
    /// What could not be understood.
    pub odd: Vec<OddRow>,
    /// From where to go on.
    pub position: Position,
    /// Whether this is all there is: then everything committed before the reading began has been given.
    pub drained: bool,
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

/// The key of the last row of a page.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PageKey {
    /// The issuer's name in the database.
    pub issuer: String,
    /// Content octets of the serial.
    pub serial: Vec<u8>,
}

/// Why a source could not be read.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The position belongs to another database, to one that was restored since, or to changes that were
    /// trimmed: everything must be read anew.
    #[error("the position in the change log does not fit the database: {0}")]
    Position(&'static str),
    /// The file is gone or another one stands in its place.
    #[error("{0} was replaced or removed")]
    Replaced(PathBuf),
    /// The database cannot be opened.
    #[error(transparent)]
    Open(#[from] crate::db::DbError),
    /// A statement failed.
    #[error("reading the issuance database: {0}")]
    Sql(#[from] sqlx::Error),
}

/// An issuance database of some kind, read by one feed.
pub trait Source: Send {
    /// Opens it anew after an error, or for the first time.
    fn open(&mut self) -> impl Future<Output = Result<(), SourceError>> + Send;

    /// The end of the change stream, to be taken before the first page: what happens while the pages are
    /// read comes again as changes.
    fn head(&mut self) -> impl Future<Output = Result<Position, SourceError>> + Send;

    /// One page of everything, after `key`.
    fn page(&mut self, after: Option<&PageKey>) -> impl Future<Output = Result<Page, SourceError>> + Send;

    /// The present rows of what changed after `position`.
    fn changes(&mut self, position: &Position) -> impl Future<Output = Result<Batch, SourceError>> + Send;

    /// Waits until something was committed since the last drained batch, at most `patience`. `false` says
    /// that nothing was.
    fn wait(&mut self, patience: Duration) -> impl Future<Output = Result<bool, SourceError>> + Send;
}
