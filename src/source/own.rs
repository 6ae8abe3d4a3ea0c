//! What the readers of Jarchy's own tables have in common, whichever server those stand on: what the columns of a
//! row mean together, the rows of the change log, the heartbeat, and the comparison of clocks.
//!
//! The tables check their rows themselves; what was forced past them makes an odd row.

use super::{Batch, Currency, Gone, Key, OddRow, Position, Row, SourceError, Waited};
use crate::pki::guard::TOLERANCE;
use crate::pki::hash::sha256;
use crate::pki::{Clock, Reason, Revocation, Serial, Status, SystemClock, Time};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How often a primary's heartbeat is written.
const BEAT: Duration = Duration::from_secs(1);
/// How long after a refusal that is tried again.
const REFUSED: Duration = Duration::from_secs(10);

/// The columns of one certificate.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Columns<'a> {
    pub(super) serial: &'a [u8],
    pub(super) not_before: Option<i64>,
    pub(super) not_after: Option<i64>,
    pub(super) revoked: bool,
    pub(super) revoked_at: Option<i64>,
    pub(super) reason: Option<i64>,
    pub(super) invalidity_date: Option<i64>,
    pub(super) changed_at: Option<i64>,
    pub(super) released_at: Option<i64>,
    pub(super) shard: Option<i64>,
    pub(super) ca: Option<bool>,
    pub(super) sha256: Option<&'a [u8]>,
}

impl Columns<'_> {
    /// The row of `issuer`.
    pub(super) fn row(&self, issuer: &Arc<str>) -> Result<Row, OddRow> {
        let odd = |why: String| OddRow::of(Key { issuer: Arc::clone(issuer), serial: self.serial.to_vec() }, why);
        let needed = |value: Option<i64>, column: &str| {
            value.map(Time::from_unix).ok_or_else(|| odd(format!("{column} is missing")))
        };
        let status = if self.revoked {
            // A reason that cannot be published is published as none.
            let reason = self.reason.and_then(|code| Reason::from_code(u8::try_from(code).ok()?)).unwrap_or_default();
            let invalidity_date = self.invalidity_date.map(Time::from_unix);
            Status::Revoked(Revocation { at: needed(self.revoked_at, "revoked_at")?, reason, invalidity_date })
        } else {
            Status::Good
        };
        let shard = self.shard.map(u32::try_from).transpose();
        Ok(Row {
            issuer: Arc::clone(issuer),
            serial: Serial::from_content(self.serial).map_err(|error| odd(error.to_string()))?,
            not_before: needed(self.not_before, "not_before")?,
            not_after: needed(self.not_after, "not_after")?,
            status,
            changed_at: needed(self.changed_at, "changed_at")?,
            released_at: self.released_at.map(Time::from_unix),
            shard: shard.map_err(|_| odd("shard is no number of a shard".to_owned()))?,
            ca: self.ca,
            sha256: self.sha256.and_then(|octets| octets.try_into().ok()),
        })
    }
}

/// A row of the change log.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) seq: i64,
    /// Its transaction, where the log tells.
    pub(super) xid: i64,
    pub(super) at: i64,
    pub(super) issuer: Arc<str>,
    pub(super) serial: Vec<u8>,
}

impl Change {
    pub(super) fn digest(&self) -> String {
        digest(self.seq, self.at, &self.issuer, &self.serial)
    }
}

/// Rows of the log, and what there is of each one's certificate.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) changes: Vec<Change>,
    rows: Vec<Row>,
    gone: Vec<Gone>,
    odd: Vec<OddRow>,
}

impl Found {
    pub(super) fn add(&mut self, change: Change, columns: Option<Columns<'_>>) {
        match columns.map(|columns| columns.row(&change.issuer)) {
            Some(Ok(row)) => self.rows.push(row),
            Some(Err(odd)) => self.odd.push(odd),
            None => {
                let (issuer, serial) = (Arc::clone(&change.issuer), change.serial.clone());
                self.gone.push(Gone::Missing(Key { issuer, serial }));
            }
        }
        self.changes.push(change);
    }

    pub(super) fn batch(self, position: Position, drained: bool, currency: Currency, gaps: usize) -> Batch {
        let Self { rows, gone, odd, .. } = self;
        Batch { rows, gone, odd, position, drained, currency, gaps }
    }
}

/// Cursors stand in positions as JSON.
pub(super) fn cursor_of<C: DeserializeOwned>(position: &Position) -> Result<C, SourceError> {
    serde_json::from_str(&position.cursor).map_err(|_| SourceError::Position("it is of another kind".to_owned()))
}

/// The position of `cursor` in `database`.
pub(super) fn position_at(cursor: &impl Serialize, database: String) -> Position {
    // Numbers and texts always become JSON.
    Position { database, cursor: serde_json::to_string(cursor).unwrap_or_default() }
}

/// When the heartbeat of a primary is to be written. Reading does not depend on it: a refusal is told once and tried
/// again later.
#[derive(Debug)]
pub(super) struct Pulse {
    /// Whether the server lets it be written, as far as is known without trying.
    pub(super) allowed: bool,
    due: Instant,
    refused: bool,
}

impl Pulse {
    pub(super) fn new() -> Self {
        Self { allowed: false, due: Instant::now(), refused: false }
    }

    pub(super) fn is_due(&self) -> bool {
        self.allowed && self.due <= Instant::now()
    }

    pub(super) fn tried<T>(&mut self, outcome: Result<T, sqlx::Error>) {
        if let Err(error) = &outcome
            && !self.refused
        {
            tracing::warn!(%error, "the heartbeat for replicas cannot be written");
        }
        self.refused = outcome.is_err();
        self.due = Instant::now() + if self.refused { REFUSED } else { BEAT };
    }
}

/// This machine's clock beside those of the servers (promise 13).
#[derive(Debug, Default)]
pub(super) struct Clocks {
    /// That they differ by more than [`TOLERANCE`].
    pub(super) complaint: Option<String>,
}

impl Clocks {
    /// What a look proves that began at `before`: a replica, by its primary's clock, up to `replayed`, 0 for nothing.
    /// `server` is what the clock of the server itself said meanwhile.
    pub(super) fn compare(&mut self, before: Time, server: i64, replayed: Option<i64>) -> Currency {
        let (before, now) = (before.unix(), SystemClock.now().unix());
        let ahead = |clock: i64| if clock > now { clock - now } else { (clock - before).min(0) };
        let tolerance = i64::try_from(TOLERANCE.as_secs()).unwrap_or(i64::MAX);
        let told = |whose: &str, ahead: i64| {
            let direction = if ahead > 0 { "ahead of" } else { "behind" };
            (ahead.abs() > tolerance).then(|| {
                let seconds = ahead.abs();
                format!("{whose} is {seconds} s {direction} this machine's: have both follow one time service")
            })
        };
        let primary = replayed.map_or(0, |replayed| ahead(replayed).max(0));
        self.complaint = told("the clock of the database's server", ahead(server))
            .or_else(|| told("the clock of the replica's primary, by what was replayed of it,", primary));
        match replayed {
            None => Currency::Present,
            Some(at) if at > 0 && primary <= tolerance => Currency::At(Time::from_unix(at)),
            Some(_) => Currency::Unknown,
        }
    }
}

/// The part of a source that is there while it is open.
pub(super) fn opened<T>(open: &mut Option<T>) -> Result<&mut T, SourceError> {
    open.as_mut().ok_or_else(|| SourceError::Content("the database is not open".to_owned()))
}

/// What is looked at for news.
pub(super) trait Peek {
    /// Whether anything was committed since what has been seen.
    fn peek(&mut self) -> impl Future<Output = Result<Waited, SourceError>> + Send;
}

/// Looks every `poll` until there is news, at most for `patience`.
pub(super) async fn watch(on: &mut impl Peek, poll: Duration, patience: Duration) -> Result<Waited, SourceError> {
    let until = Instant::now() + patience;
    loop {
        let waited = on.peek().await?;
        let left = until.saturating_duration_since(Instant::now());
        if waited == Waited::News || left.is_zero() {
            return Ok(waited);
        }
        tokio::time::sleep(poll.min(left)).await;
    }
}

/// What a change said, in hex, so that a restored backup which used its number again is noticed.
pub(super) fn digest(sequence: i64, at: i64, issuer: &str, serial: &[u8]) -> String {
    hex(&sha256(&[&sequence.to_be_bytes()[..], &at.to_be_bytes(), issuer.as_bytes(), b"/", serial].concat()))
}

/// Octets as text.
pub(super) fn hex(octets: &[u8]) -> String {
    use std::fmt::Write as _;
    octets.iter().fold(String::with_capacity(octets.len() * 2), |mut text, octet| {
        // Writing to a String does not fail.
        _ = write!(text, "{octet:02x}");
        text
    })
}

/// `known` if it is the same text: rows of one issuer mostly stand together.
pub(super) fn interned(known: &mut Arc<str>, name: &str) -> Arc<str> {
    if **known != *name {
        *known = name.into();
    }
    Arc::clone(known)
}

#[cfg(test)]
pub(super) mod testing {
    #![allow(clippy::unwrap_used)]
    use super::super::{Batch, Position, Source, SourceError};

    pub(crate) fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Runtime::new().unwrap().block_on(test);
    }

    /// What the serials of the rows, `c` and a number, count.
    pub(crate) fn numbers(batch: &Batch) -> Vec<i64> {
        let number = |octets: &[u8]| std::str::from_utf8(&octets[1..]).unwrap().parse().unwrap();
        batch.rows.iter().map(|row| number(row.serial.as_bytes())).collect()
    }

    /// Why the change stream does not go on from `position`.
    pub(crate) async fn gap(source: &mut impl Source, position: &Position) -> String {
        match source.changes(position).await.unwrap_err() {
            SourceError::Position(why) => why,
            other => panic!("{other}"),
        }
    }
}
