//! What a foreign table looks like: the queries, the columns, and how a row of them becomes a [`Row`].
//!
//! Every cell comes as text, of which [`super::cells`] makes what it means. Invariant: a row that says revoked and
//! names a serial is a revocation, whatever else in it cannot be read.

use super::cells::{self, SerialAs, TimesAs};
use crate::pki::{Certificate, Reason, Revocation, Serial, Status, Time};
use crate::source::{Fate, Key, OddRow, Row};
use base64::Engine as _;
use serde::Deserialize;
use std::fmt;
use std::sync::Arc;

/// What a column is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Field {
    /// The serial number.
    Serial,
    /// notBefore.
    NotBefore,
    /// notAfter.
    NotAfter,
    /// One of the words for good or revoked.
    Status,
    /// When it was revoked.
    RevokedAt,
    /// Why.
    Reason,
    /// Since when the key is thought to be in other hands.
    InvalidityDate,
    /// When the row was last written.
    ChangedAt,
    /// When a hold was last lifted.
    ReleasedAt,
    /// The certificate: DER, PEM or base64.
    Certificate,
    /// By what changes are asked for.
    Position,
}

impl Field {
    /// All of them, in the order in which they are selected.
    pub const ALL: [Self; 11] = [
        Self::Serial,
        Self::NotBefore,
        Self::NotAfter,
        Self::Status,
        Self::RevokedAt,
        Self::Reason,
        Self::InvalidityDate,
        Self::ChangedAt,
        Self::ReleasedAt,
        Self::Certificate,
        Self::Position,
    ];

    /// As the config calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Serial => "serial",
            Self::NotBefore => "not_before",
            Self::NotAfter => "not_after",
            Self::Status => "status",
            Self::RevokedAt => "revoked_at",
            Self::Reason => "reason",
            Self::InvalidityDate => "invalidity_date",
            Self::ChangedAt => "changed_at",
            Self::ReleasedAt => "released_at",
            Self::Certificate => "certificate",
            Self::Position => "position",
        }
    }
}

/// What a position is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum PositionAs {
    /// A time, written as the others are.
    Time,
    /// A number that grows.
    Number,
}

/// As it is written in the config.
impl fmt::Display for PositionAs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Time => "time",
            Self::Number => "number",
        })
    }
}

/// How to read one issuer's certificates out of a foreign database.
#[derive(Clone, Debug)]
pub struct Table {
    /// Everything.
    pub snapshot: String,
    /// What changed since `{since}`; without it everything is read whenever it is looked.
    pub changes: Option<String>,
    /// The columns that the queries give, by what they are for.
    pub columns: Vec<(Field, String)>,
    /// How serials are written.
    pub serial_as: SerialAs,
    /// How times are written.
    pub times_as: TimesAs,
    /// What a position is.
    pub position_as: PositionAs,
    /// Statuses that mean good.
    pub good: Vec<String>,
    /// Statuses that mean revoked; without any of both a row is revoked if it says when.
    pub revoked: Vec<String>,
    /// Whether the certificates that are not there were never issued.
    pub knows_issued: bool,
}

/// One row of text, in the order of [`Field::ALL`].
pub(super) type Cells = Vec<Option<String>>;

/// A row, and what of it was amended.
pub(super) type Read = (Row, Option<OddRow>);

impl Table {
    /// The column for `field`.
    pub(super) fn column(&self, field: Field) -> Option<&str> {
        self.columns.iter().find(|(of, _)| *of == field).map(|(_, name)| name.as_str())
    }

    /// What `cells` say; `None` of a certificate of another CA. `now` is when they were read.
    pub(super) fn row(
        &self,
        cells: &Cells,
        issuer: &Arc<str>,
        ca: &Certificate,
        now: Time,
    ) -> Option<Result<Read, OddRow>> {
        let cell = |field: Field| {
            let at = Field::ALL.iter().position(|of| *of == field)?;
            cells.get(at)?.as_deref()
        };
        let mut doubts = Vec::new();
        let certificate = match cell(Field::Certificate).map(certificate) {
            Some(Ok(certificate)) if !is_of(&certificate, ca) => return None,
            Some(Ok(certificate)) => Some(certificate),
            Some(Err(why)) => {
                doubts.push(why);
                None
            }
            None => None,
        };
        let serial = match (cell(Field::Serial), &certificate) {
            (Some(text), _) => cells::serial(text, self.serial_as),
            (None, Some(certificate)) => Ok(certificate.serial()),
            (None, None) => Err("it names no serial".to_owned()),
        };
        let serial = match serial {
            Ok(serial) => serial,
            Err(why) => {
                let name = format!("serial {}", cell(Field::Serial).unwrap_or("NULL"));
                return Some(Err(OddRow { key: None, name, why, fate: Fate::LeftOut }));
            }
        };
        let read = self.row_of(serial, &cell, certificate.as_ref(), issuer, now, &mut doubts);
        let odd = |why| OddRow::of(Key { issuer: Arc::clone(issuer), serial: serial.as_bytes().to_vec() }, why);
        let amended = |doubts: Vec<String>| OddRow { fate: Fate::Amended, ..odd(doubts.join("; ")) };
        let doubt = (!doubts.is_empty()).then(|| amended(doubts));
        Some(read.map(|row| (row, doubt)).map_err(odd))
    }

    fn row_of<'a>(
        &self,
        serial: Serial,
        cell: &impl Fn(Field) -> Option<&'a str>,
        certificate: Option<&Certificate>,
        issuer: &Arc<str>,
        now: Time,
        doubts: &mut Vec<String>,
    ) -> Result<Row, String> {
        let time = |field: Field| cell(field).map_or(Ok(None), |text| cells::time(text, self.times_as));
        let is_revoked = self.is_revoked(cell)?;
        // Of what is revoked, nothing keeps the world from hearing it.
        let mut amended = |read: Result<Option<Time>, String>, what: &str| match read {
            Ok(time) => Ok(time),
            Err(why) if is_revoked => {
                doubts.push(format!("{what}: {why}"));
                Ok(None)
            }
            Err(why) => Err(format!("{what}: {why}")),
        };
        let not_before = amended(time(Field::NotBefore), "notBefore")?;
        let not_after = amended(time(Field::NotAfter), "notAfter")?;
        let changed_at = amended(time(Field::ChangedAt), "time of change")?;
        let released_at = amended(time(Field::ReleasedAt), "time of release")?;
        let not_before = not_before.or_else(|| certificate.map(Certificate::not_before)).unwrap_or_default();
        let status = if is_revoked {
            let at = amended(time(Field::RevokedAt), "revocation date")?;
            let invalidity_date = amended(time(Field::InvalidityDate), "invalidity date")?;
            let (reason, doubt) = cell(Field::Reason).map_or((Reason::Unspecified, None), cells::reason);
            doubts.extend(doubt);
            if at.is_none() {
                doubts.push(
                    "it is revoked and does not say when: the row's last change, or its notBefore, is taken".into(),
                );
            }
            Status::Revoked(Revocation { at: at.or(changed_at).unwrap_or(not_before), reason, invalidity_date })
        } else {
            Status::Good
        };
        Ok(Row {
            issuer: Arc::clone(issuer),
            serial,
            not_before,
            not_after: not_after.or_else(|| certificate.map(Certificate::not_after)).unwrap_or(Time::MAX),
            status,
            changed_at: changed_at.unwrap_or(now),
            released_at: released_at.filter(|_| !is_revoked),
            shard: None,
            ca: certificate.map(|certificate| certificate.is_ca),
            sha256: certificate.map(Certificate::sha256),
        })
    }

    fn is_revoked<'a>(&self, cell: &impl Fn(Field) -> Option<&'a str>) -> Result<bool, String> {
        if self.good.is_empty() && self.revoked.is_empty() {
            let at = cell(Field::RevokedAt).map_or(Ok(None), |text| cells::time(text, self.times_as));
            // A date that cannot be read is one all the same.
            return Ok(at.map_or(true, |at| at.is_some()));
        }
        let text = cells::plain(cell(Field::Status).ok_or("its status is NULL")?);
        let text = text.trim();
        match (self.good.iter().any(|word| word == text), self.revoked.iter().any(|word| word == text)) {
            (_, true) => Ok(true),
            (true, false) => Ok(false),
            (false, false) => Err(format!("status {text:?} is neither among those for good nor for revoked")),
        }
    }
}

/// DER, PEM, or the base64 of DER, in a column of text or of bytes.
fn certificate(text: &str) -> Result<Certificate, String> {
    let octets = cells::octets(text).unwrap_or_else(|| text.as_bytes().to_vec());
    let octets = if octets.first() == Some(&0x30) || octets.starts_with(b"-----") {
        octets
    } else {
        let digits: Vec<u8> = octets.into_iter().filter(|octet| !octet.is_ascii_whitespace()).collect();
        base64::engine::general_purpose::STANDARD.decode(digits).map_err(|_| "its certificate cannot be read")?
    };
    Certificate::from_file_bytes(&octets).map_err(|error| format!("its certificate cannot be read: {error}"))
}

/// Whether it names this CA, by name and where it says so by key.
fn is_of(certificate: &Certificate, ca: &Certificate) -> bool {
    certificate.issuer() == ca.subject()
        && certificate.authority_key_identifier.as_ref().is_none_or(|key| *key == ca.key_identifier())
}
