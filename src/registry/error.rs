//! Why the issuance database said no, in words that tell what to do instead.

use super::Entry;
use crate::db::{self, DbError};
use crate::pki::{IssuerName, Serial, Status};
use sqlx::error::DatabaseError;
use sqlx::mysql::MySqlDatabaseError;
use sqlx::sqlite::SqliteError;
use thiserror::Error;

/// Why the issuance database said no.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// It cannot be opened.
    #[error(transparent)]
    Db(#[from] DbError),
    /// The database failed.
    #[error("issuance database: {}", db::told(.0))]
    Sql(sqlx::Error),
    /// A check or trigger of the schema refused; the text is its own.
    #[error("the issuance database refused: {0}")]
    Refused(String),
    /// No such certificate.
    #[error(
        "no certificate with serial {serial}{} in the issuance database {place}: `jarchy add` puts certificates into it",
        of(issuer.as_ref())
    )]
    Unknown {
        /// The issuer asked for, if any.
        issuer: Option<IssuerName>,
        /// The serial asked for.
        serial: Serial,
        /// The database.
        place: String,
    },
    /// Several CAs have issued the serial.
    #[error("serial {serial} was issued by {}: say which with --issuer", list(issuers))]
    Ambiguous {
        /// The serial.
        serial: Serial,
        /// Who issued it.
        issuers: Vec<IssuerName>,
    },
    /// No such CA.
    #[error("no issuer {name} in the issuance database {place}; there {}", there(known))]
    UnknownIssuer {
        /// The name asked for.
        name: IssuerName,
        /// The names that are there.
        known: Vec<String>,
        /// The database.
        place: String,
    },
    /// The issuer's name is taken.
    #[error("issuer {0} is registered with another CA certificate: register this one under another name")]
    IssuerDiffers(IssuerName),
    /// The CA is registered under another name.
    #[error("the CA of issuer {name} is registered already, as {known}: use that name")]
    IssuerTwice {
        /// The new name.
        name: IssuerName,
        /// The one that is there.
        known: IssuerName,
    },
    /// A row of `issuers` that is none.
    #[error("issuer {name} in the issuance database: {source}")]
    Issuer {
        /// Its name.
        name: String,
        /// What is wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A holder without certificates.
    #[error("no certificate of holder {holder:?} in the issuance database {place}")]
    NoHolder {
        /// The reference asked for.
        holder: String,
        /// The database.
        place: String,
    },
    /// All of a holder's certificates are revoked or expired.
    #[error(
        "holder {holder:?} has nothing to revoke: {already} certificates are revoked already, {expired} have expired"
    )]
    NothingToRevoke {
        /// The holder.
        holder: String,
        /// How many are revoked for good.
        already: usize,
        /// How many have expired.
        expired: usize,
    },
    /// Another certificate is known under the serial.
    #[error("{0} is in the issuance database as another certificate: a CA must never issue a serial twice")]
    Conflict(Box<Entry>),
    /// Revoked already.
    #[error("{0} is {state} already; --update changes reason or dates", state = state(.0))]
    AlreadyRevoked(Box<Entry>),
    /// On hold already.
    #[error("{0} is {state} already", state = state(.0))]
    AlreadyOnHold(Box<Entry>),
    /// Asked for a hold of what is revoked for good.
    #[error("{0} is {state}, which is final: it cannot be put on hold", state = state(.0))]
    RevokedForGood(Box<Entry>),
    /// Not on hold.
    #[error("{0} is not on hold, it is {state}{finality}", state = state(.0), finality = finality(.0))]
    NotOnHold(Box<Entry>),
    /// Nothing to correct.
    #[error("{0} is not revoked, so there is nothing to update: leave --update out to revoke it")]
    NotRevoked(Box<Entry>),
    /// certificateHold where a final reason is needed.
    #[error(
        "certificateHold is no reason for a revocation: `jarchy hold` suspends a certificate, `jarchy release` lifts that"
    )]
    Hold,
    /// A row that breaks the schema's own rules.
    #[error(
        "the row of serial x'{}' of issuer {issuer} has a broken {what}: somebody forced it past the checks of the schema",
        hex(serial)
    )]
    Row {
        /// Its issuer.
        issuer: String,
        /// Its serial.
        serial: Vec<u8>,
        /// The column.
        what: &'static str,
    },
}

impl From<sqlx::Error> for RegistryError {
    fn from(error: sqlx::Error) -> Self {
        match error.as_database_error().filter(|said| is_refusal(*said)) {
            Some(refused) => Self::Refused(refused.message().to_owned()),
            None => Self::Sql(error),
        }
    }
}

/// Whether a CHECK, a trigger or a type refused.
fn is_refusal(said: &dyn DatabaseError) -> bool {
    let code = said.code().unwrap_or_default();
    if said.try_downcast_ref::<SqliteError>().is_some() {
        // SQLITE_CONSTRAINT, the primary result code below extended ones.
        return code.parse::<u32>().is_ok_and(|code| code & 0xff == 19);
    }
    // SQLSTATE: values that do not fit, constraints, SIGNAL.
    ["22", "23", "45"].iter().any(|class| code.starts_with(class))
}

/// Whether the server undid a transaction because others held what it waited for.
pub(super) fn gave_way(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(DatabaseError::code);
    // Serialization failure, which MariaDB says for deadlocks too; PostgreSQL's deadlock.
    code.is_some_and(|code| code == "40001" || code == "40P01")
}

/// Whether that may not be done there: no rights, a standby, a file that is only to be read.
pub(super) fn forbids(error: &sqlx::Error) -> bool {
    let Some(said) = error.as_database_error() else { return false };
    let code = said.code().unwrap_or_default();
    if said.try_downcast_ref::<SqliteError>().is_some() {
        // SQLITE_READONLY.
        return code.parse::<u32>().is_ok_and(|code| code & 0xff == 8);
    }
    match said.try_downcast_ref::<MySqlDatabaseError>() {
        // No rights on the table or a column of it; --read-only; a transaction that only reads.
        Some(said) => [1142, 1143, 1290, 1792].contains(&said.number()),
        // No rights; a standby, when a transaction begins or writes.
        None => ["42501", "0A000", "25006"].contains(&&*code),
    }
}

fn of(issuer: Option<&IssuerName>) -> String {
    issuer.map_or_else(String::new, |issuer| format!(" of issuer {issuer}"))
}

fn list(issuers: &[IssuerName]) -> String {
    issuers.iter().map(IssuerName::as_str).collect::<Vec<_>>().join(" and by ")
}

fn there(known: &[String]) -> String {
    if known.is_empty() { "is none yet".to_owned() } else { format!("are: {}", known.join(", ")) }
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02X}")).collect()
}

/// `good`, `on hold since …` or `revoked since … (keyCompromise)`.
pub(crate) fn state(entry: &Entry) -> String {
    match entry.status {
        Status::Good => "good".to_owned(),
        Status::Revoked(revocation) if entry.status.is_hold() => format!("on hold since {}", revocation.at),
        Status::Revoked(revocation) => format!("revoked since {} ({})", revocation.at, revocation.reason),
    }
}

const fn finality(entry: &Entry) -> &'static str {
    match entry.status {
        Status::Good => "",
        Status::Revoked(_) => ", which is final",
    }
}
