//! A row of Jarchy's own tables, whichever server they stand on: what its columns mean together.
//!
//! The tables check all this themselves; what was forced past them makes an odd row.

use super::{Key, OddRow, Row};
use crate::pki::hash::sha256;
use crate::pki::{Reason, Revocation, Serial, Status, Time};
use std::sync::Arc;

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
