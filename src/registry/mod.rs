//! Jarchy's own issuance database: every certificate that the CA has issued, and what became of it.
//!
//! Goes in: certificates, and orders to revoke, hold, release or correct. Comes out: rows, events, and
//! refusals that say what to do instead. The truth is kept by the database itself (`schema.sql`: checks
//! and triggers), because a CA's own software writes to it as well; what is judged here is judged for the
//! sake of a better message, inside the transaction that then writes. Knows nothing of OCSP and CRLs.
//!
//! How a CA's software writes here with plain SQL is told in `howto.sql`, which a test runs.

mod error;
mod ops;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use error::RegistryError;
pub use ops::{Added, Correction, HolderRevocation, NewCertificate, Order};

use crate::db::{self, Kind, Mode, ServerKind};
use crate::pki::{Certificate, Issuer, IssuerName, Reason, Revocation, Serial, Status, Time};
use sqlx::sqlite::{SqlitePool, SqliteRow};
use sqlx::{Row, SqliteConnection};
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use thiserror::Error;

/// The issuance database as [`db`] knows it; the application_id reads `JReg`.
pub const KIND: Kind = Kind {
    name: "issuance database",
    application_id: 0x4a52_6567,
    migrations: &[include_str!("schema.sql"), include_str!("schema_ca.sql")],
};

/// The same on a database server.
pub const SERVER_KIND: ServerKind = ServerKind {
    name: "issuance database",
    postgres: &[include_str!("schema_postgres.sql")],
    mariadb: &[include_str!("schema_mariadb.sql")],
};

/// Where a certificate's private key lives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Medium {
    /// A token or smart card in the holder's hands.
    Token,
    /// A remote signing service.
    Cloud,
    /// Anything else.
    Other,
}

impl Medium {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Token, Self::Cloud, Self::Other];

    /// As it stands in the database.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Cloud => "cloud",
            Self::Other => "other",
        }
    }
}

/// A text that names no medium.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("{0:?} is no medium: use token, cloud or other")]
pub struct UnknownMedium(String);

impl FromStr for Medium {
    type Err = UnknownMedium;

    fn from_str(text: &str) -> Result<Self, UnknownMedium> {
        let named = Self::ALL.into_iter().find(|medium| medium.name() == text);
        named.ok_or_else(|| UnknownMedium(text.to_owned()))
    }
}

/// One row of `certificates`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// Who issued it.
    pub issuer: IssuerName,
    /// Its serial number.
    pub serial: Serial,
    /// notBefore; may lie ahead.
    pub not_before: Time,
    /// notAfter.
    pub not_after: Time,
    /// SHA-256 of its DER; `None` while only the precertificate is known.
    pub sha256: Option<[u8; 32]>,
    /// The CA's reference to its holder.
    pub holder: Option<String>,
    /// Where its key lives.
    pub medium: Option<Medium>,
    /// The serial of the certificate that it follows.
    pub renews: Option<Serial>,
    /// Its shard of the CRL.
    pub shard: Option<u32>,
    /// Whether it is a CA's; `None` where nobody has said so.
    pub ca: Option<bool>,
    /// Good or revoked.
    pub status: Status,
    /// When a hold was last lifted.
    pub released_at: Option<Time>,
    /// When the row last changed.
    pub changed_at: Time,
}

/// One row of `events`.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// issue, hash, revoke, hold, release or update.
    pub kind: String,
    /// Who wanted it.
    pub actor: Option<String>,
    /// When the request came in.
    pub received_at: Option<Time>,
    /// From when it counts.
    pub effective_at: Time,
    /// When the database took it down.
    pub recorded_at: Time,
    /// What changed: field, old value, new value, as JSON.
    pub changed: Vec<(String, serde_json::Value, serde_json::Value)>,
}

/// Who wants a change, and when the request came in (REV-10).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Audit {
    /// Who; not empty.
    pub actor: String,
    /// When.
    pub received_at: Time,
}

/// An opened issuance database.
#[derive(Clone, Debug)]
pub struct Registry {
    pool: SqlitePool,
    path: PathBuf,
}

/// `SELECT` of whole rows of `certificates`, with what comes after FROM.
macro_rules! select {
    ($tail:literal) => {
        concat!(
            "SELECT issuer, serial, not_before, not_after, sha256, holder, medium, renews, shard, ca, status, ",
            "revoked_at, reason, invalidity_date, released_at, changed_at FROM certificates ",
            $tail
        )
    };
}

impl Registry {
    /// Makes the database at `path`; one that is there already is opened and kept.
    ///
    /// # Errors
    /// As [`db::open`].
    pub async fn create(path: &Path) -> Result<Self, RegistryError> {
        Self::open_as(path, Mode::Create).await
    }

    /// Opens the database at `path`.
    ///
    /// # Errors
    /// As [`db::open`].
    pub async fn open(path: &Path) -> Result<Self, RegistryError> {
        Self::open_as(path, Mode::ReadWrite).await
    }

    async fn open_as(path: &Path, mode: Mode) -> Result<Self, RegistryError> {
        Ok(Self { pool: db::open(path, &KIND, mode).await?, path: path.to_owned() })
    }

    /// Where the database is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The connections, for readers with statements of their own.
    #[must_use]
    pub const fn pool(&self) -> &SqlitePool {
        &self.pool
    }

    /// Ends all connections; the last one to leave tidies up SQLite's log files.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Registers a CA; doing it again with the same certificate changes nothing.
    ///
    /// # Errors
    /// If the name stands for another certificate, or this CA's name and key for another issuer.
    pub async fn add_issuer(&self, name: &IssuerName, certificate: &Certificate) -> Result<(), RegistryError> {
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        for known in read_issuers(&mut transaction).await? {
            let same_ca =
                known.certificate.subject() == certificate.subject() && known.certificate.spki() == certificate.spki();
            match (&known.name == name, known.certificate.der() == certificate.der()) {
                (true, true) => return Ok(()),
                (true, false) => return Err(RegistryError::IssuerDiffers(name.clone())),
                (false, _) if same_ca => {
                    return Err(RegistryError::IssuerTwice { name: name.clone(), known: known.name });
                }
                (false, _) => {}
            }
        }
        sqlx::query("INSERT INTO issuers(name, certificate) VALUES (?, ?)")
            .bind(name.as_str())
            .bind(certificate.der())
            .execute(&mut *transaction)
            .await?;
        Ok(transaction.commit().await?)
    }

    /// All registered CAs, by name.
    ///
    /// # Errors
    /// If a row holds what is no CA certificate, or SQLite refuses.
    pub async fn issuers(&self) -> Result<Vec<Issuer>, RegistryError> {
        let mut connection = self.pool.acquire().await?;
        read_issuers(&mut connection).await
    }

    /// The row of one certificate.
    ///
    /// # Errors
    /// If the row breaks the schema's rules, or SQLite refuses.
    pub async fn get(&self, issuer: &IssuerName, serial: &Serial) -> Result<Option<Entry>, RegistryError> {
        let mut connection = self.pool.acquire().await?;
        read_entry(&mut connection, issuer, serial).await
    }

    /// The certificate with this serial; `issuer` is needed only where several have issued it.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`], [`RegistryError::Ambiguous`], [`RegistryError::UnknownIssuer`], and as
    /// [`Registry::get`].
    pub async fn find(&self, serial: &Serial, issuer: Option<&IssuerName>) -> Result<Entry, RegistryError> {
        let mut connection = self.pool.acquire().await?;
        self.check_issuer(&mut connection, issuer).await?;
        let rows = sqlx::query(select!(
            "WHERE serial = ?1 AND issuer IN (SELECT name FROM issuers WHERE ?2 IS NULL OR name = ?2)"
        ))
        .bind(serial.as_bytes())
        .bind(issuer.map(IssuerName::as_str))
        .fetch_all(&mut *connection)
        .await?;
        let mut entries = entries(&rows)?;
        match (entries.pop(), entries.is_empty()) {
            (None, _) => Err(self.unknown(issuer.cloned(), *serial)),
            (Some(entry), true) => Ok(entry),
            (Some(last), false) => {
                let issuers = entries.into_iter().chain([last]).map(|entry| entry.issuer).collect();
                Err(RegistryError::Ambiguous { serial: *serial, issuers })
            }
        }
    }

    /// All certificates of a holder, in the order of their validity.
    ///
    /// # Errors
    /// [`RegistryError::NoHolder`] if there are none, [`RegistryError::UnknownIssuer`], and as [`Registry::get`].
    pub async fn of_holder(&self, holder: &str, issuer: Option<&IssuerName>) -> Result<Vec<Entry>, RegistryError> {
        let mut connection = self.pool.acquire().await?;
        self.read_holder(&mut connection, holder, issuer).await
    }

    async fn read_holder(
        &self,
        connection: &mut SqliteConnection,
        holder: &str,
        issuer: Option<&IssuerName>,
    ) -> Result<Vec<Entry>, RegistryError> {
        self.check_issuer(connection, issuer).await?;
        let rows = sqlx::query(select!(
            "WHERE holder = ?1 AND (?2 IS NULL OR issuer = ?2) ORDER BY not_before, not_after, issuer, serial"
        ))
        .bind(holder)
        .bind(issuer.map(IssuerName::as_str))
        .fetch_all(connection)
        .await?;
        if rows.is_empty() {
            return Err(RegistryError::NoHolder { holder: holder.to_owned(), path: self.path.clone() });
        }
        entries(&rows)
    }

    /// What happened to a certificate, oldest first.
    ///
    /// # Errors
    /// If SQLite refuses.
    pub async fn events(&self, issuer: &IssuerName, serial: &Serial) -> Result<Vec<Event>, RegistryError> {
        let rows = sqlx::query(
            "SELECT kind, actor, received_at, effective_at, recorded_at, before, after FROM events \
             WHERE issuer = ? AND serial = ? ORDER BY id",
        )
        .bind(issuer.as_str())
        .bind(serial.as_bytes())
        .fetch_all(&self.pool)
        .await?;
        Ok(rows.iter().map(event).collect::<Result<_, _>>()?)
    }

    async fn check_issuer(
        &self,
        connection: &mut SqliteConnection,
        issuer: Option<&IssuerName>,
    ) -> Result<(), RegistryError> {
        let Some(name) = issuer else { return Ok(()) };
        let known: Vec<String> =
            sqlx::query_scalar("SELECT name FROM issuers ORDER BY name").fetch_all(connection).await?;
        if known.iter().any(|known| known == name.as_str()) {
            return Ok(());
        }
        Err(RegistryError::UnknownIssuer { name: name.clone(), known, path: self.path.clone() })
    }

    fn unknown(&self, issuer: Option<IssuerName>, serial: Serial) -> RegistryError {
        RegistryError::Unknown { issuer, serial, path: self.path.clone() }
    }
}

async fn read_issuers(connection: &mut SqliteConnection) -> Result<Vec<Issuer>, RegistryError> {
    let rows: Vec<(String, Vec<u8>)> =
        sqlx::query_as("SELECT name, certificate FROM issuers ORDER BY name").fetch_all(connection).await?;
    rows.into_iter()
        .map(|(name, certificate)| match (name.parse(), Certificate::from_der(&certificate)) {
            (Ok(name), Ok(certificate)) => Ok(Issuer { name, certificate }),
            (Err(error), _) => Err(RegistryError::Issuer { name, source: error.into() }),
            (_, Err(error)) => Err(RegistryError::Issuer { name, source: error.into() }),
        })
        .collect()
}

async fn read_entry(
    connection: &mut SqliteConnection,
    issuer: &IssuerName,
    serial: &Serial,
) -> Result<Option<Entry>, RegistryError> {
    let row = sqlx::query(select!("WHERE issuer = ? AND serial = ?"))
        .bind(issuer.as_str())
        .bind(serial.as_bytes())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(entry).transpose()
}

fn entries(rows: &[SqliteRow]) -> Result<Vec<Entry>, RegistryError> {
    rows.iter().map(entry).collect()
}

/// A row as the schema's checks let it be; anything else was forced past them.
fn entry(row: &SqliteRow) -> Result<Entry, RegistryError> {
    let time = |name: &str| row.try_get(name).map(Time::from_unix);
    let maybe_time = |name: &str| row.try_get::<Option<i64>, _>(name).map(|at| at.map(Time::from_unix));
    let octets = |name: &str| row.try_get::<Option<Vec<u8>>, _>(name);
    let broken = |what| RegistryError::Row {
        issuer: row.try_get("issuer").unwrap_or_default(),
        serial: octets("serial").ok().flatten().unwrap_or_default(),
        what,
    };
    let reason = match row.try_get::<Option<i64>, _>("reason")? {
        None => Reason::Unspecified,
        Some(code) => u8::try_from(code).ok().and_then(Reason::from_code).ok_or_else(|| broken("reason"))?,
    };
    let status = match (row.try_get::<&str, _>("status")?, maybe_time("revoked_at")?) {
        ("good", None) => Status::Good,
        ("revoked", Some(at)) => {
            Status::Revoked(Revocation { at, reason, invalidity_date: maybe_time("invalidity_date")? })
        }
        _ => return Err(broken("status")),
    };
    let serial = |octets: Vec<u8>, what| Serial::from_content(&octets).map_err(|_| broken(what));
    let medium: Option<&str> = row.try_get("medium")?;
    Ok(Entry {
        issuer: row.try_get::<&str, _>("issuer")?.parse().map_err(|_| broken("issuer"))?,
        serial: serial(row.try_get("serial")?, "serial")?,
        not_before: time("not_before")?,
        not_after: time("not_after")?,
        sha256: octets("sha256")?.map(TryInto::try_into).transpose().map_err(|_| broken("sha256"))?,
        holder: row.try_get("holder")?,
        medium: medium.map(str::parse).transpose().map_err(|_| broken("medium"))?,
        renews: octets("renews")?.map(|octets| serial(octets, "renews")).transpose()?,
        shard: row.try_get("shard")?,
        ca: row.try_get("ca")?,
        status,
        released_at: maybe_time("released_at")?,
        changed_at: time("changed_at")?,
    })
}

fn event(row: &SqliteRow) -> Result<Event, sqlx::Error> {
    let json = |name: &str| -> Result<serde_json::Value, sqlx::Error> {
        let text: Option<&str> = row.try_get(name)?;
        Ok(text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default())
    };
    let (before, after) = (json("before")?, json("after")?);
    let old = |field: &str| before.get(field).cloned().unwrap_or_default();
    let fields = after.as_object().into_iter().flatten();
    Ok(Event {
        kind: row.try_get("kind")?,
        actor: row.try_get("actor")?,
        received_at: row.try_get::<Option<i64>, _>("received_at")?.map(Time::from_unix),
        effective_at: row.try_get("effective_at").map(Time::from_unix)?,
        recorded_at: row.try_get("recorded_at").map(Time::from_unix)?,
        changed: fields
            .map(|(field, new)| (field.clone(), old(field), new.clone()))
            .filter(|(_, old, new)| old != new)
            .collect(),
    })
}

/// `0A1B (demo)`, as messages name a certificate.
impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.serial, self.issuer)
    }
}
