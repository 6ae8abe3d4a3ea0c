//! What may be done to the issuance database: add, revoke, hold, release, correct.
//!
//! Invariant: each operation is one transaction that locks what it looks at (SQLite: the database), so what
//! it judged is what it changes.

use super::{Audit, Entry, Medium, Registry, RegistryError, Session, Value, read_entry};
use crate::pki::{Certificate, IssuerName, Reason, Serial, Status, Time};
use ::der::{Decode, asn1::ObjectIdentifier};
use std::time::Duration;

/// The poison extension of a precertificate (RFC 6962 3.1).
const POISON: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.11129.2.4.3");

/// Rows of the change log that are trimmed in one transaction.
const TRIMMED_AT_ONCE: i64 = 10_000;

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
    /// If the database fails; then nothing was added.
    pub async fn add(
        &self,
        batch: &[NewCertificate],
        audit: &Audit,
    ) -> Result<Vec<Result<Added, RegistryError>>, RegistryError> {
        self.write(async |session| {
            let mut answers = Vec::with_capacity(batch.len());
            for new in batch {
                session.mark().await?;
                let answer = add_one(session, new, audit).await;
                match answer {
                    Err(error @ RegistryError::Sql(_)) => return Err(error),
                    Err(_) => session.undo().await?,
                    Ok(_) => {}
                }
                session.unmark().await?;
                answers.push(answer);
            }
            Ok(answers)
        })
        .await
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
        self.write(async |session| {
            let entry = self.known(session, issuer, serial).await?;
            if is_final(&entry.status) {
                return Err(RegistryError::AlreadyRevoked(Box::new(entry)));
            }
            revoke_in(session, &entry, order, audit).await?;
            self.known(session, issuer, serial).await
        })
        .await
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
        self.write(async |session| {
            let now = session.now().await?;
            let all = self.read_holder(session, holder, issuer).await?;
            let (already, open): (Vec<_>, Vec<_>) = all.into_iter().partition(|entry| is_final(&entry.status));
            let (expired, open): (Vec<_>, Vec<_>) = open.into_iter().partition(|entry| entry.not_after < now);
            let (already, expired) = (already.len(), expired.len());
            if open.is_empty() {
                return Err(RegistryError::NothingToRevoke { holder: holder.to_owned(), already, expired });
            }
            let mut revoked = Vec::with_capacity(open.len());
            for entry in &open {
                revoke_in(session, entry, order, audit).await?;
                revoked.push(self.known(session, &entry.issuer, &entry.serial).await?);
            }
            Ok(HolderRevocation { revoked, already, expired })
        })
        .await
    }

    /// Suspends a certificate.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`], [`RegistryError::AlreadyOnHold`], [`RegistryError::RevokedForGood`].
    pub async fn hold(&self, issuer: &IssuerName, serial: &Serial, audit: &Audit) -> Result<Entry, RegistryError> {
        self.write(async |session| {
            let entry = self.known(session, issuer, serial).await?;
            if entry.status.is_hold() {
                return Err(RegistryError::AlreadyOnHold(Box::new(entry)));
            }
            if is_final(&entry.status) {
                return Err(RegistryError::RevokedForGood(Box::new(entry)));
            }
            let now = session.now().await?;
            let update = "UPDATE jarchy.certificates SET status = 'revoked', revoked_at = ?, reason = 6, \
                          actor = ?, received_at = ? WHERE issuer = ? AND serial = ?";
            change(session, update, [now.into()], &entry, audit).await?;
            self.known(session, issuer, serial).await
        })
        .await
    }

    /// Lifts a hold; the certificate is good again.
    ///
    /// # Errors
    /// [`RegistryError::Unknown`], [`RegistryError::NotOnHold`].
    pub async fn release(&self, issuer: &IssuerName, serial: &Serial, audit: &Audit) -> Result<Entry, RegistryError> {
        self.write(async |session| {
            let entry = self.known(session, issuer, serial).await?;
            if !entry.status.is_hold() {
                return Err(RegistryError::NotOnHold(Box::new(entry)));
            }
            let update = "UPDATE jarchy.certificates SET status = 'good', revoked_at = NULL, reason = NULL, \
                          invalidity_date = NULL, actor = ?, received_at = ? WHERE issuer = ? AND serial = ?";
            change(session, update, [], &entry, audit).await?;
            self.known(session, issuer, serial).await
        })
        .await
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
        self.write(async |session| {
            let entry = self.known(session, issuer, serial).await?;
            if entry.status == Status::Good {
                return Err(RegistryError::NotRevoked(Box::new(entry)));
            }
            let update = "UPDATE jarchy.certificates SET reason = coalesce(?, reason), \
                          revoked_at = coalesce(?, revoked_at), invalidity_date = coalesce(?, invalidity_date), \
                          actor = ?, received_at = ? WHERE issuer = ? AND serial = ?";
            let Correction { reason, at, invalidity_date } = *correction;
            let values = [reason.map(Reason::code).into(), at.into(), invalidity_date.into()];
            change(session, update, values, &entry, audit).await?;
            self.known(session, issuer, serial).await
        })
        .await
    }

    /// Forgets which certificates changed longer ago than `age`, except for the last: a reader that was away for
    /// longer loads everything anew. Goes by steps, so that nobody waits long. Returns how many rows went.
    ///
    /// # Errors
    /// If the database fails; what went before that is gone.
    pub async fn trim(&self, age: Duration) -> Result<u64, RegistryError> {
        // Looked for only once, and while others write: it reads all that is to go.
        let Some(kept) = first_kept(&mut self.pool.read().await?, age).await? else { return Ok(0) };
        let mut gone = 0;
        while let Some(step) = self.write(async |session| trim_step(session, kept).await).await? {
            gone += step;
        }
        Ok(gone)
    }

    /// Tells every reader that a backup was put in the place of the database, so that they load everything anew.
    /// Returns the new epoch.
    ///
    /// # Errors
    /// If the database fails.
    pub async fn declare_restored(&self) -> Result<i64, RegistryError> {
        self.write(async |session| {
            session.execute("UPDATE jarchy.meta SET epoch = epoch + 1", []).await?;
            let rows = session.select("SELECT epoch FROM jarchy.meta", []).await?;
            Ok(rows.first().map(|row| row.integer("epoch")).transpose()?.flatten().unwrap_or_default())
        })
        .await
    }

    async fn known(&self, session: &mut Session, issuer: &IssuerName, serial: &Serial) -> Result<Entry, RegistryError> {
        let entry = read_entry(session, issuer, serial).await?;
        entry.ok_or_else(|| self.unknown(Some(issuer.clone()), *serial))
    }
}

/// The oldest row of the change log that is younger than `age`, else the newest.
async fn first_kept(session: &mut Session, age: Duration) -> Result<Option<i64>, sqlx::Error> {
    let since = session.now().await? - age;
    let kept = seq(session, "SELECT min(seq) AS seq FROM jarchy.changes WHERE at > ?", [since.into()]).await?;
    let newest = seq(session, "SELECT max(seq) AS seq FROM jarchy.changes", []).await?;
    Ok(kept.or(newest))
}

/// Trims the oldest rows of the change log before `kept`: how many, or `None` if there are none to trim.
async fn trim_step(session: &mut Session, kept: i64) -> Result<Option<u64>, RegistryError> {
    let oldest = seq(session, "SELECT min(seq) AS seq FROM jarchy.changes", []).await?;
    let Some(oldest) = oldest.filter(|oldest| *oldest < kept) else { return Ok(None) };
    let until = kept.min(oldest.saturating_add(TRIMMED_AT_ONCE));
    Ok(Some(session.execute("DELETE FROM jarchy.changes WHERE seq < ?", [Value::Integer(Some(until))]).await?))
}

async fn seq<const N: usize>(
    session: &mut Session,
    select: &'static str,
    values: [Value; N],
) -> Result<Option<i64>, sqlx::Error> {
    let rows = session.select(select, values).await?;
    Ok(rows.first().map(|row| row.integer("seq")).transpose()?.flatten())
}

async fn revoke_in(session: &mut Session, entry: &Entry, order: &Order, audit: &Audit) -> Result<(), RegistryError> {
    if order.reason == Reason::CertificateHold {
        return Err(RegistryError::Hold);
    }
    // revoked_at is there already if the certificate is on hold (REV-11).
    let update = "UPDATE jarchy.certificates SET status = 'revoked', revoked_at = coalesce(?, revoked_at, ?), \
                  reason = ?, invalidity_date = coalesce(?, invalidity_date), actor = ?, received_at = ? \
                  WHERE issuer = ? AND serial = ?";
    let now = session.now().await?;
    let values = [order.at.into(), now.into(), Some(order.reason.code()).into(), order.invalidity_date.into()];
    change(session, update, values, entry, audit).await
}

/// Runs an UPDATE whose last four parameters are who wants it, when received, and of which certificate.
async fn change<const N: usize>(
    session: &mut Session,
    update: &'static str,
    values: [Value; N],
    entry: &Entry,
    audit: &Audit,
) -> Result<(), RegistryError> {
    let (serial, issuer) = (entry.serial.as_bytes().into(), entry.issuer.as_str().into());
    let last = [audit.actor.as_str().into(), audit.received_at.into(), issuer, serial];
    session.execute(update, values.into_iter().chain(last)).await?;
    Ok(())
}

fn is_final(status: &Status) -> bool {
    status.revocation().is_some() && !status.is_hold()
}

async fn add_one(session: &mut Session, new: &NewCertificate, audit: &Audit) -> Result<Added, RegistryError> {
    if let Some(known) = read_entry(session, &new.issuer, &new.serial).await? {
        return complete(session, known, new, audit).await;
    }
    match insert(session, new, audit).await {
        Ok(()) => Ok(Added::New),
        Err(refusal @ RegistryError::Refused(_)) => {
            // Another writer may have been faster.
            session.undo().await?;
            match read_entry(session, &new.issuer, &new.serial).await? {
                Some(known) => complete(session, known, new, audit).await,
                None => Err(refusal),
            }
        }
        Err(error) => Err(error),
    }
}

/// Adds what is not known yet of a certificate that is.
async fn complete(
    session: &mut Session,
    known: Entry,
    new: &NewCertificate,
    audit: &Audit,
) -> Result<Added, RegistryError> {
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
    let update = "UPDATE jarchy.certificates SET sha256 = coalesce(sha256, ?), holder = coalesce(holder, ?), \
                  medium = coalesce(medium, ?), renews = coalesce(renews, ?), shard = coalesce(shard, ?), \
                  ca = coalesce(ca, ?), actor = ?, received_at = ? WHERE issuer = ? AND serial = ?";
    change(session, update, particulars(new), &known, audit).await?;
    Ok(Added::Completed)
}

/// What may be filled in later: sha256, holder, medium, renews, shard, ca.
fn particulars(new: &NewCertificate) -> [Value; 6] {
    [
        new.sha256.as_ref().map(<[u8; 32]>::as_slice).into(),
        new.holder.as_deref().into(),
        new.medium.map(Medium::name).into(),
        new.renews.as_ref().map(Serial::as_bytes).into(),
        new.shard.into(),
        new.ca.map(u8::from).into(),
    ]
}

async fn insert(session: &mut Session, new: &NewCertificate, audit: &Audit) -> Result<(), RegistryError> {
    let revocation = new.status.revocation();
    let insert = "INSERT INTO jarchy.certificates(issuer, serial, not_before, not_after, sha256, holder, medium, \
                  renews, shard, ca, status, revoked_at, reason, invalidity_date, actor, received_at) \
                  VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    let key: [Value; 4] =
        [new.issuer.as_str().into(), new.serial.as_bytes().into(), new.not_before.into(), new.not_after.into()];
    let status = [
        if revocation.is_some() { "revoked" } else { "good" }.into(),
        revocation.map(|revocation| revocation.at).into(),
        revocation.map(|revocation| revocation.reason.code()).into(),
        revocation.and_then(|revocation| revocation.invalidity_date).into(),
        audit.actor.as_str().into(),
        audit.received_at.into(),
    ];
    session.execute(insert, key.into_iter().chain(particulars(new)).chain(status)).await?;
    Ok(())
}
