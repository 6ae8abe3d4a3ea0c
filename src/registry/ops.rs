//! What may be done to the issuance database: add, revoke, hold, release, correct.
//!
//! Invariant: each operation is one transaction that takes SQLite's write lock before it looks
//! (`BEGIN IMMEDIATE`), so what it judged is what it changes.

use super::{Audit, Entry, Medium, Registry, RegistryError, read_entry};
use crate::pki::{Certificate, IssuerName, Reason, Serial, Status, Time};
use ::der::{Decode, asn1::ObjectIdentifier};
use sqlx::query::Query;
use sqlx::sqlite::SqliteArguments;
use sqlx::{Sqlite, SqliteConnection, Transaction};

/// The poison extension of a precertificate (RFC 6962 3.1).
const POISON: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.11129.2.4.3");

/// A certificate to be added.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NewCertificate {
    /// Who issued it.
    pub issuer: IssuerName,
    /// Its serial number.
    pub serial: Serial,
    /// notBefore; may lie ahead (REV-14).
    pub not_before: Time,
    /// notAfter.
    pub not_after: Time,
    /// SHA-256 of its DER; `None` for a precertificate.
    pub sha256: Option<[u8; 32]>,
    /// The CA's reference to its holder.
    pub holder: Option<String>,
    /// Where its key lives.
    pub medium: Option<Medium>,
    /// The serial of the certificate that it follows.
    pub renews: Option<Serial>,
    /// Its shard of the CRL.
    pub shard: Option<u32>,
    /// Whether it is a CA's, by its basicConstraints.
    pub ca: Option<bool>,
    /// Its status at first; for one that is known already it is not looked at.
    pub status: Status,
}

impl NewCertificate {
    /// What the certificate itself says; good.
    #[must_use]
    pub fn new(issuer: &IssuerName, certificate: &Certificate) -> Self {
        Self {
            issuer: issuer.clone(),
            serial: certificate.serial(),
            not_before: certificate.not_before(),
            not_after: certificate.not_after(),
            sha256: (!is_precertificate(certificate)).then(|| certificate.sha256()),
            holder: None,
            medium: None,
            renews: None,
            shard: None,
            ca: Some(certificate.is_ca),
            status: Status::Good,
        }
    }
}

/// The hash of a precertificate is not that of the certificate that follows it.
fn is_precertificate(certificate: &Certificate) -> bool {
    x509_cert::Certificate::from_der(certificate.der()).is_ok_and(|decoded| {
        let extensions = decoded.tbs_certificate().extensions();
        extensions.is_some_and(|all| all.iter().any(|extension| extension.extn_id == POISON))
    })
}

/// What adding a certificate came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Added {
    /// It was not known before.
    New,
    /// It was known, and lacked something that is now there: its hash, holder, medium, renews, shard
    /// or kind.
    Completed,
    /// It was known like this.
    AlreadyThere,
}

/// A final revocation.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Order {
    /// Why; never [`Reason::CertificateHold`].
    pub reason: Reason,
    /// revocationDate; `None` is now, or the start of the hold that becomes final (REV-11).
    pub at: Option<Time>,
    /// Since when the key is thought to be in other hands.
    pub invalidity_date: Option<Time>,
}

/// A change to a revocation that stands; `None` leaves what is there.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Correction {
    /// Why.
    pub reason: Option<Reason>,
    /// revocationDate.
    pub at: Option<Time>,
    /// Since when the key is thought to be in other hands.
    pub invalidity_date: Option<Time>,
}

/// What became of a holder's certificates.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HolderRevocation {
    /// Revoked now; at least one.
    pub revoked: Vec<Entry>,
    /// How many were revoked for good before.
    pub already: usize,
    /// How many have expired and were left as they are.
    pub expired: usize,
}

impl Registry {
    /// Adds certificates in one transaction; the answers come in the order of `batch`.
    ///
    /// A certificate that is refused does not keep the others out.
    ///
    /// # Errors
    /// If SQLite fails; then nothing was added.
    pub async fn add(
        &self,
        batch: &[NewCertificate],
        audit: &Audit,
    ) -> Result<Vec<Result<Added, RegistryError>>, RegistryError> {
        let mut transaction = self.begin().await?;
        let mut answers = Vec::with_capacity(batch.len());
        for new in batch {
            answers.push(match add_one(&mut transaction, new, audit).await {
                Err(error @ RegistryError::Sql(_)) => return Err(error),
                answer => answer,
            });
        }
        transaction.commit().await?;
        Ok(answers)
    }

    /// Revokes a certificate for good; one on hold too, whose hold then becomes final.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`], [`RegistryError::AlreadyRevoked`], [`RegistryError::Hold`].
    pub async fn revoke(
        &self,
        issuer: &IssuerName,
        serial: &Serial,
        order: &Order,
        audit: &Audit,
    ) -> Result<Entry, RegistryError> {
        let mut transaction = self.begin().await?;
        let entry = self.known(&mut transaction, issuer, serial).await?;
        if is_final(&entry.status) {
            return Err(RegistryError::AlreadyRevoked(Box::new(entry)));
        }
        self.revoke_in(&mut transaction, &entry, order, audit).await?;
        self.finish(transaction, issuer, serial).await
    }

    /// Revokes what a holder has, in one transaction: what has not begun yet and what is on hold too, what
    /// has expired not.
    ///
    /// # Errors
    /// [`RegistryError::NoHolder`], [`RegistryError::NothingToRevoke`], [`RegistryError::Hold`].
    pub async fn revoke_holder(
        &self,
        holder: &str,
        issuer: Option<&IssuerName>,
        order: &Order,
        audit: &Audit,
    ) -> Result<HolderRevocation, RegistryError> {
        let mut transaction = self.begin().await?;
        let now: i64 = sqlx::query_scalar("SELECT unixepoch()").fetch_one(&mut *transaction).await?;
        let all = self.read_holder(&mut transaction, holder, issuer).await?;
        let (already, open): (Vec<_>, Vec<_>) = all.into_iter().partition(|entry| is_final(&entry.status));
        let (expired, open): (Vec<_>, Vec<_>) =
            open.into_iter().partition(|entry| entry.not_after < Time::from_unix(now));
        let (already, expired) = (already.len(), expired.len());
        if open.is_empty() {
            return Err(RegistryError::NothingToRevoke { holder: holder.to_owned(), already, expired });
        }
        let mut revoked = Vec::with_capacity(open.len());
        for entry in &open {
            self.revoke_in(&mut transaction, entry, order, audit).await?;
            revoked.push(self.known(&mut transaction, &entry.issuer, &entry.serial).await?);
        }
        transaction.commit().await?;
        Ok(HolderRevocation { revoked, already, expired })
    }

    /// Suspends a certificate.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`], [`RegistryError::AlreadyOnHold`], [`RegistryError::RevokedForGood`].
    pub async fn hold(&self, issuer: &IssuerName, serial: &Serial, audit: &Audit) -> Result<Entry, RegistryError> {
        let mut transaction = self.begin().await?;
        let entry = self.known(&mut transaction, issuer, serial).await?;
        if entry.status.is_hold() {
            return Err(RegistryError::AlreadyOnHold(Box::new(entry)));
        }
        if is_final(&entry.status) {
            return Err(RegistryError::RevokedForGood(Box::new(entry)));
        }
        let update = sqlx::query(
            "UPDATE certificates SET status = 'revoked', revoked_at = unixepoch(), reason = 6, \
             actor = ?, received_at = ? WHERE issuer = ? AND serial = ?",
        );
        change(&mut transaction, update, (issuer, serial), audit).await?;
        self.finish(transaction, issuer, serial).await
    }

    /// Lifts a hold; the certificate is good again.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`], [`RegistryError::NotOnHold`].
    pub async fn release(&self, issuer: &IssuerName, serial: &Serial, audit: &Audit) -> Result<Entry, RegistryError> {
        let mut transaction = self.begin().await?;
        let entry = self.known(&mut transaction, issuer, serial).await?;
        if !entry.status.is_hold() {
            return Err(RegistryError::NotOnHold(Box::new(entry)));
        }
        let update = sqlx::query(
            "UPDATE certificates SET status = 'good', revoked_at = NULL, reason = NULL, invalidity_date = NULL, \
             actor = ?, received_at = ? WHERE issuer = ? AND serial = ?",
        );
        change(&mut transaction, update, (issuer, serial), audit).await?;
        self.finish(transaction, issuer, serial).await
    }

    /// Changes reason, date or invalidity date of a revocation that stands, audited.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`], [`RegistryError::NotRevoked`], [`RegistryError::Hold`] for that reason.
    pub async fn update(
        &self,
        issuer: &IssuerName,
        serial: &Serial,
        correction: &Correction,
        audit: &Audit,
    ) -> Result<Entry, RegistryError> {
        if correction.reason == Some(Reason::CertificateHold) {
            return Err(RegistryError::Hold);
        }
        let mut transaction = self.begin().await?;
        let entry = self.known(&mut transaction, issuer, serial).await?;
        if entry.status == Status::Good {
            return Err(RegistryError::NotRevoked(Box::new(entry)));
        }
        let update = sqlx::query(
            "UPDATE certificates SET reason = coalesce(?, reason), revoked_at = coalesce(?, revoked_at), \
             invalidity_date = coalesce(?, invalidity_date), actor = ?, received_at = ? WHERE issuer = ? AND serial = ?",
        )
        .bind(correction.reason.map(Reason::code))
        .bind(correction.at.map(Time::unix))
        .bind(correction.invalidity_date.map(Time::unix));
        change(&mut transaction, update, (issuer, serial), audit).await?;
        self.finish(transaction, issuer, serial).await
    }

    async fn begin(&self) -> Result<Transaction<'static, Sqlite>, RegistryError> {
        Ok(self.pool.begin_with("BEGIN IMMEDIATE").await?)
    }

    async fn known(
        &self,
        connection: &mut SqliteConnection,
        issuer: &IssuerName,
        serial: &Serial,
    ) -> Result<Entry, RegistryError> {
        let entry = read_entry(connection, issuer, serial).await?;
        entry.ok_or_else(|| self.unknown(Some(issuer.clone()), *serial))
    }

    /// Commits, and tells what the certificate is now.
    async fn finish(
        &self,
        mut transaction: Transaction<'static, Sqlite>,
        issuer: &IssuerName,
        serial: &Serial,
    ) -> Result<Entry, RegistryError> {
        let entry = self.known(&mut transaction, issuer, serial).await?;
        transaction.commit().await?;
        Ok(entry)
    }

    async fn revoke_in(
        &self,
        connection: &mut SqliteConnection,
        entry: &Entry,
        order: &Order,
        audit: &Audit,
    ) -> Result<(), RegistryError> {
        if order.reason == Reason::CertificateHold {
            return Err(RegistryError::Hold);
        }
        // revoked_at is there already if the certificate is on hold (REV-11).
        let update = sqlx::query(
            "UPDATE certificates SET status = 'revoked', revoked_at = coalesce(?, revoked_at, unixepoch()), reason = ?, \
             invalidity_date = coalesce(?, invalidity_date), actor = ?, received_at = ? WHERE issuer = ? AND serial = ?",
        )
        .bind(order.at.map(Time::unix))
        .bind(order.reason.code())
        .bind(order.invalidity_date.map(Time::unix));
        change(connection, update, (&entry.issuer, &entry.serial), audit).await
    }
}

/// Runs an UPDATE whose last four parameters are who wants it, when received, and of which certificate.
async fn change(
    connection: &mut SqliteConnection,
    update: Query<'_, Sqlite, SqliteArguments>,
    (issuer, serial): (&IssuerName, &Serial),
    audit: &Audit,
) -> Result<(), RegistryError> {
    let update = update.bind(audit.actor.clone()).bind(audit.received_at.unix());
    update.bind(issuer.to_string()).bind(serial.as_bytes().to_vec()).execute(connection).await?;
    Ok(())
}

fn is_final(status: &Status) -> bool {
    status.revocation().is_some() && !status.is_hold()
}

async fn add_one(
    connection: &mut SqliteConnection,
    new: &NewCertificate,
    audit: &Audit,
) -> Result<Added, RegistryError> {
    let Some(known) = read_entry(&mut *connection, &new.issuer, &new.serial).await? else {
        insert(connection, new, audit).await?;
        return Ok(Added::New);
    };
    let same_hash = known.sha256.is_none() || new.sha256.is_none() || known.sha256 == new.sha256;
    if !same_hash || (known.not_before, known.not_after) != (new.not_before, new.not_after) {
        return Err(RegistryError::Conflict(Box::new(known)));
    }
    let fills = (known.sha256.is_none() && new.sha256.is_some())
        || (known.holder.is_none() && new.holder.is_some())
        || (known.medium.is_none() && new.medium.is_some())
        || (known.renews.is_none() && new.renews.is_some())
        || (known.shard.is_none() && new.shard.is_some())
        || (known.ca.is_none() && new.ca.is_some());
    if !fills {
        return Ok(Added::AlreadyThere);
    }
    let update = sqlx::query(
        "UPDATE certificates SET sha256 = coalesce(sha256, ?), holder = coalesce(holder, ?), \
         medium = coalesce(medium, ?), renews = coalesce(renews, ?), shard = coalesce(shard, ?), \
         ca = coalesce(ca, ?), actor = ?, received_at = ? WHERE issuer = ? AND serial = ?",
    )
    .bind(new.sha256.as_ref().map(<[u8; 32]>::as_slice))
    .bind(new.holder.as_deref())
    .bind(new.medium.map(Medium::name))
    .bind(new.renews.as_ref().map(Serial::as_bytes))
    .bind(new.shard)
    .bind(new.ca);
    change(connection, update, (&new.issuer, &new.serial), audit).await?;
    Ok(Added::Completed)
}

async fn insert(connection: &mut SqliteConnection, new: &NewCertificate, audit: &Audit) -> Result<(), RegistryError> {
    let revocation = new.status.revocation();
    sqlx::query(
        "INSERT INTO certificates(issuer, serial, not_before, not_after, sha256, holder, medium, renews, shard, ca, \
         status, revoked_at, reason, invalidity_date, actor, received_at) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(new.issuer.as_str())
    .bind(new.serial.as_bytes())
    .bind(new.not_before.unix())
    .bind(new.not_after.unix())
    .bind(new.sha256.as_ref().map(<[u8; 32]>::as_slice))
    .bind(new.holder.as_deref())
    .bind(new.medium.map(Medium::name))
    .bind(new.renews.as_ref().map(Serial::as_bytes))
    .bind(new.shard)
    .bind(new.ca)
    .bind(if revocation.is_some() { "revoked" } else { "good" })
    .bind(revocation.map(|revocation| revocation.at.unix()))
    .bind(revocation.map(|revocation| revocation.reason.code()))
    .bind(revocation.and_then(|revocation| revocation.invalidity_date).map(Time::unix))
    .bind(audit.actor.as_str())
    .bind(audit.received_at.unix())
    .execute(connection)
    .await?;
    Ok(())
}
