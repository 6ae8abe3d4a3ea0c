//! Jarchy's own issuance database: every certificate that the CA has issued, and what became of it.
//!
//! Goes in: certificates, and orders to revoke, hold, release or correct. Comes out: rows, events, and
//! refusals that say what to do instead. It is an SQLite file, or stands on a PostgreSQL or MariaDB server.
//! The truth is kept by the database itself (`schema.sql`, `schema_postgres.sql`, `schema_mariadb.sql`: checks
//! and triggers), because a CA's own software writes to it as well; what is judged here is judged for the
//! sake of a better message, inside the transaction that then writes. Knows nothing of OCSP and CRLs.
//!
//! How a CA's software writes here with plain SQL is told in `howto.sql` and its siblings, which tests run.

mod error;
mod ops;
mod publishers;
mod sql;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use error::RegistryError;
pub use ops::{Added, Correction, HolderRevocation, NewCertificate, Order};
pub use publishers::{Claim, LAPSE, Node, Publisher};

use crate::db::{DbError, Kind, Mode, Place, ServerKind};
use crate::pki::{Certificate, Issuer, IssuerName, Reason, Revocation, Serial, Status, Time};
use sql::{Pool, Record, Session, Value};
use std::fmt;
use std::str::FromStr;
use thiserror::Error;

/// The issuance database as [`db`] knows it; the application_id reads `JReg`.
pub const KIND: Kind = Kind {
    name: "issuance database",
    application_id: 0x4a52_6567,
    // Holders' references are nobody's business but the CA's, whose software may write here as another user.
    permissions: 0o660,
    migrations: &[include_str!("schema.sql"), include_str!("schema_ca.sql"), include_str!("schema_publishers.sql")],
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
    pool: Pool,
    /// As messages name it.
    place: String,
}

/// How often an order is tried again whose transaction the server gave up for another's sake.
const ATTEMPTS: u32 = 5;

/// `SELECT` of whole rows of `certificates`, with what comes after FROM.
macro_rules! select {
    ($tail:literal) => {
        concat!(
            "SELECT issuer, serial, not_before, not_after, sha256, holder, medium, renews, shard, ca, status, ",
            "revoked_at, reason, invalidity_date, released_at, changed_at FROM jarchy.certificates ",
            $tail
        )
    };
}

impl Registry {
    /// Makes the database at `place`; one that is there already is opened and kept.
    ///
    /// # Errors
    /// As [`crate::db::open`].
    pub async fn create(place: impl Into<Place>) -> Result<Self, RegistryError> {
        Self::open_as(&place.into(), Mode::Create).await
    }

    /// Opens the database at `place`.
    ///
    /// # Errors
    /// As [`crate::db::open`].
    pub async fn open(place: impl Into<Place>) -> Result<Self, RegistryError> {
        Self::open_as(&place.into(), Mode::ReadWrite).await
    }

    /// Opens the database at `place` and changes nothing.
    ///
    /// # Errors
    /// As [`crate::db::open`].
    pub async fn read_only(place: impl Into<Place>) -> Result<Self, RegistryError> {
        Self::open_as(&place.into(), Mode::ReadOnly).await
    }

    async fn open_as(place: &Place, mode: Mode) -> Result<Self, RegistryError> {
        Ok(Self { pool: Pool::open(place, mode).await?, place: place.to_string() })
    }

    /// Where the database is: a path, or a URL without password.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Ends all connections; the last one to leave tidies up SQLite's log files.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Does `work` in one transaction. It may be done again from the start where the server undid it because two
    /// transactions waited for each other.
    async fn write<T>(&self, work: impl AsyncFn(&mut Session) -> Result<T, RegistryError>) -> Result<T, RegistryError> {
        let mut attempts = 1..;
        loop {
            let outcome = match self.pool.write().await {
                Ok(mut session) => match work(&mut session).await {
                    Ok(done) => session.commit().await.map(|()| done).map_err(RegistryError::from),
                    refused => refused,
                },
                Err(error) => Err(error.into()),
            };
            match outcome {
                Err(RegistryError::Sql(error)) if error::gave_way(&error) && attempts.next() < Some(ATTEMPTS) => {}
                // With its name: who may write to it is a question of that file.
                Err(RegistryError::Sql(source)) => {
                    return Err(DbError::Sql { name: KIND.name, place: self.place.clone(), source }.into());
                }
                outcome => return outcome,
            }
        }
    }

    /// Registers a CA; doing it again with the same certificate changes nothing.
    ///
    /// # Errors
    /// If the name stands for another certificate, or this CA's name and key for another issuer.
    pub async fn add_issuer(&self, name: &IssuerName, certificate: &Certificate) -> Result<(), RegistryError> {
        let registered = self.write(async |session| {
            if check_new_issuer(session, name, certificate).await? {
                let insert = "INSERT INTO jarchy.issuers(name, certificate) VALUES (?, ?)";
                session.execute(insert, [name.as_str().into(), certificate.der().into()]).await?;
            }
            Ok(())
        });
        match registered.await {
            // Somebody else may have registered it at the same time.
            Err(RegistryError::Refused(why)) => {
                let mut session = self.pool.read().await?;
                let known = check_new_issuer(&mut session, name, certificate).await?;
                if known { Err(RegistryError::Refused(why)) } else { Ok(()) }
            }
            outcome => outcome,
        }
    }

    /// All registered CAs, by name.
    ///
    /// # Errors
    /// If a row holds what is no CA certificate, or the database refuses.
    pub async fn issuers(&self) -> Result<Vec<Issuer>, RegistryError> {
        read_issuers(&mut self.pool.read().await?).await
    }

    /// The row of one certificate.
    ///
    /// # Errors
    /// If the row breaks the schema's rules, or the database refuses.
    pub async fn get(&self, issuer: &IssuerName, serial: &Serial) -> Result<Option<Entry>, RegistryError> {
        read_entry(&mut self.pool.read().await?, issuer, serial).await
    }

    /// The certificate with this serial; `issuer` is needed only where several have issued it.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`], [`RegistryError::Ambiguous`], [`RegistryError::UnknownIssuer`], and as
    /// [`Registry::get`].
    pub async fn find(&self, serial: &Serial, issuer: Option<&IssuerName>) -> Result<Entry, RegistryError> {
        let mut session = self.pool.read().await?;
        self.check_issuer(&mut session, issuer).await?;
        // By way of the issuers, as the key begins with them.
        let all = select!("WHERE serial = ? AND issuer IN (SELECT name FROM jarchy.issuers)");
        let one = select!("WHERE serial = ? AND issuer = ?");
        let serial_octets = serial.as_bytes().into();
        let rows = match issuer {
            None => session.select(all, [serial_octets]).await?,
            Some(issuer) => session.select(one, [serial_octets, issuer.as_str().into()]).await?,
        };
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
        self.read_holder(&mut self.pool.read().await?, holder, issuer).await
    }

    async fn read_holder(
        &self,
        session: &mut Session,
        holder: &str,
        issuer: Option<&IssuerName>,
    ) -> Result<Vec<Entry>, RegistryError> {
        self.check_issuer(session, issuer).await?;
        let all = select!("WHERE holder = ? ORDER BY not_before, not_after, issuer, serial");
        let mut entries = entries(&session.select_to_change(all, [holder.into()]).await?)?;
        // MariaDB thinks nothing of spaces at the end.
        entries
            .retain(|entry| entry.holder.as_deref() == Some(holder) && issuer.is_none_or(|name| entry.issuer == *name));
        if entries.is_empty() {
            return Err(RegistryError::NoHolder { holder: holder.to_owned(), place: self.place.clone() });
        }
        Ok(entries)
    }

    /// What happened to a certificate, oldest first.
    ///
    /// # Errors
    /// If the database refuses.
    pub async fn events(&self, issuer: &IssuerName, serial: &Serial) -> Result<Vec<Event>, RegistryError> {
        // `before` alone is a word of MariaDB's language.
        let all = "SELECT kind, actor, received_at, effective_at, recorded_at, events.before, events.after \
                   FROM jarchy.events WHERE issuer = ? AND serial = ? ORDER BY id";
        let rows = self.pool.read().await?.select(all, [issuer.as_str().into(), serial.as_bytes().into()]).await?;
        Ok(rows.iter().map(event).collect::<Result<_, _>>()?)
    }

    async fn check_issuer(&self, session: &mut Session, issuer: Option<&IssuerName>) -> Result<(), RegistryError> {
        let Some(name) = issuer else { return Ok(()) };
        let rows = session.select("SELECT name FROM jarchy.issuers ORDER BY name", []).await?;
        let known: Vec<String> =
            rows.iter().map(|row| row.text("name").map(Option::unwrap_or_default)).collect::<Result<_, _>>()?;
        if known.iter().any(|known| known == name.as_str()) {
            return Ok(());
        }
        Err(RegistryError::UnknownIssuer { name: name.clone(), known, place: self.place.clone() })
    }

    fn unknown(&self, issuer: Option<IssuerName>, serial: Serial) -> RegistryError {
        RegistryError::Unknown { issuer, serial, place: self.place.clone() }
    }
}

/// Whether the CA is yet to be registered.
async fn check_new_issuer(
    session: &mut Session,
    name: &IssuerName,
    certificate: &Certificate,
) -> Result<bool, RegistryError> {
    for known in read_issuers(session).await? {
        let same_ca =
            known.certificate.subject() == certificate.subject() && known.certificate.spki() == certificate.spki();
        match (&known.name == name, known.certificate.der() == certificate.der()) {
            (true, true) => return Ok(false),
            (true, false) => return Err(RegistryError::IssuerDiffers(name.clone())),
            (false, _) if same_ca => {
                return Err(RegistryError::IssuerTwice { name: name.clone(), known: known.name });
            }
            (false, _) => {}
        }
    }
    Ok(true)
}

async fn read_issuers(session: &mut Session) -> Result<Vec<Issuer>, RegistryError> {
    let rows = session.select("SELECT name, certificate FROM jarchy.issuers ORDER BY name", []).await?;
    let columns =
        |row: &Record| Ok((row.text("name")?.unwrap_or_default(), row.octets("certificate")?.unwrap_or_default()));
    let rows: Vec<(String, Vec<u8>)> = rows.iter().map(columns).collect::<Result<_, sqlx::Error>>()?;
    rows.into_iter()
        .map(|(name, certificate)| match (name.parse(), Certificate::from_der(&certificate)) {
            (Ok(name), Ok(certificate)) => Ok(Issuer { name, certificate }),
            (Err(error), _) => Err(RegistryError::Issuer { name, source: error.into() }),
            (_, Err(error)) => Err(RegistryError::Issuer { name, source: error.into() }),
        })
        .collect()
}

async fn read_entry(
    session: &mut Session,
    issuer: &IssuerName,
    serial: &Serial,
) -> Result<Option<Entry>, RegistryError> {
    let one = select!("WHERE issuer = ? AND serial = ?");
    let rows = session.select_to_change(one, [issuer.as_str().into(), serial.as_bytes().into()]).await?;
    rows.first().map(entry).transpose()
}

fn entries(rows: &[Record]) -> Result<Vec<Entry>, RegistryError> {
    rows.iter().map(entry).collect()
}

/// A row as the schema's checks let it be; anything else was forced past them.
fn entry(row: &Record) -> Result<Entry, RegistryError> {
    let maybe_time = |name: &str| row.integer(name).map(|at| at.map(Time::from_unix));
    let broken = |what| RegistryError::Row {
        issuer: row.text("issuer").ok().flatten().unwrap_or_default(),
        serial: row.octets("serial").ok().flatten().unwrap_or_default(),
        what,
    };
    let time = |name: &'static str| maybe_time(name)?.ok_or_else(|| broken(name));
    let reason = match row.integer("reason")? {
        None => Reason::Unspecified,
        Some(code) => u8::try_from(code).ok().and_then(Reason::from_code).ok_or_else(|| broken("reason"))?,
    };
    let status = match (row.text("status")?.as_deref(), maybe_time("revoked_at")?) {
        (Some("good"), None) => Status::Good,
        (Some("revoked"), Some(at)) => {
            Status::Revoked(Revocation { at, reason, invalidity_date: maybe_time("invalidity_date")? })
        }
        _ => return Err(broken("status")),
    };
    let serial = |octets: Vec<u8>, what| Serial::from_content(&octets).map_err(|_| broken(what));
    let shard = row.integer("shard")?.map(u32::try_from).transpose().map_err(|_| broken("shard"))?;
    let medium = row.text("medium")?.map(|medium| medium.parse()).transpose().map_err(|_| broken("medium"))?;
    let ca = row.integer("ca")?.map(|ca| ca == 1);
    Ok(Entry {
        issuer: row.text("issuer")?.unwrap_or_default().parse().map_err(|_| broken("issuer"))?,
        serial: serial(row.octets("serial")?.unwrap_or_default(), "serial")?,
        not_before: time("not_before")?,
        not_after: time("not_after")?,
        sha256: row.octets("sha256")?.map(TryInto::try_into).transpose().map_err(|_| broken("sha256"))?,
        holder: row.text("holder")?,
        medium,
        renews: row.octets("renews")?.map(|octets| serial(octets, "renews")).transpose()?,
        shard,
        ca,
        status,
        released_at: maybe_time("released_at")?,
        changed_at: time("changed_at")?,
    })
}

fn event(row: &Record) -> Result<Event, sqlx::Error> {
    let json = |name: &str| -> Result<serde_json::Value, sqlx::Error> {
        Ok(row.text(name)?.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
    };
    let (before, after) = (json("before")?, json("after")?);
    let old = |field: &str| before.get(field).cloned().unwrap_or_default();
    let fields = after.as_object().into_iter().flatten();
    let time = |name: &str| row.integer(name).map(|at| Time::from_unix(at.unwrap_or_default()));
    Ok(Event {
        kind: row.text("kind")?.unwrap_or_default(),
        actor: row.text("actor")?,
        received_at: row.integer("received_at")?.map(Time::from_unix),
        effective_at: time("effective_at")?,
        recorded_at: time("recorded_at")?,
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
