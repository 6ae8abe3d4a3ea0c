//! `jarchy revoke`: revokes one certificate or all of a holder's, or corrects a revocation that stands.

use super::select::{self, Audited, IssuerChoice};
use crate::pki::{Reason, Time};
use crate::registry::{Correction, Entry, Order, Registry, RegistryError};
use anyhow::{bail, ensure};
use std::io::Write;

/// Revoke a certificate, or all that a holder has.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  jarchy revoke 0A1B2C --reason token-lost --invalid-since 2026-11-20
  jarchy revoke old.pem --reason superseded --by ra-portal
  jarchy revoke --holder EMP-1042 --reason ceased
  jarchy revoke 0A1B2C --update --reason keyCompromise

Reasons: unspecified, keyCompromise, cACompromise, affiliationChanged, superseded, cessationOfOperation,
privilegeWithdrawn, aACompromise; or the plain cause: key-compromised and token-lost (keyCompromise),
token-broken and token-formatted (superseded), details-changed (affiliationChanged), ceased
(cessationOfOperation). A hold that becomes final keeps its start as the time of revocation.")]
pub struct Revoke {
    /// Serial number (0A1B, 0a:1b, 0x0a1b, dec:2587) or file of the certificate
    #[arg(value_name = "SERIAL|CERT.PEM", conflicts_with = "holder")]
    certificate: Option<String>,
    /// All certificates of this holder that have not expired, those that have not begun yet too
    #[arg(long, value_name = "REF")]
    holder: Option<String>,
    #[command(flatten)]
    issuer: IssuerChoice,
    /// Why: a name of RFC 5280 or a plain cause, see below
    #[arg(long, required_unless_present = "update")]
    reason: Option<Reason>,
    /// Since when the key is thought to be in other hands: 2026-11-22T06:17:54Z or 2026-11-22
    #[arg(long, value_name = "TIME", value_parser = select::past)]
    invalid_since: Option<Time>,
    /// Time of the revocation, if not now
    #[arg(long, value_name = "TIME", value_parser = select::past)]
    at: Option<Time>,
    /// Change reason or dates of a revocation that stands
    #[arg(long, conflicts_with = "holder")]
    update: bool,
    #[command(flatten)]
    audited: Audited,
}

impl Revoke {
    /// Runs the command.
    ///
    /// # Errors
    /// If the certificate or holder is unknown, or revoked already (without `--update`), or not revoked (with it).
    pub async fn run(self, registry: &Registry, out: &mut dyn Write) -> anyhow::Result<()> {
        // Said before anything is looked up: the command is wrong, whatever the certificate.
        if self.reason == Some(Reason::CertificateHold) {
            return Err(RegistryError::Hold.into());
        }
        match (&self.certificate, &self.holder) {
            (Some(certificate), _) if self.update => self.correct(certificate, registry, out).await,
            (Some(certificate), _) => self.revoke(certificate, registry, out).await,
            (None, Some(holder)) => self.revoke_holder(holder, registry, out).await,
            (None, None) => bail!(select::WHICH),
        }
    }

    fn order(&self) -> Order {
        Order { reason: self.reason.unwrap_or_default(), at: self.at, invalidity_date: self.invalid_since }
    }

    async fn revoke(&self, certificate: &str, registry: &Registry, out: &mut dyn Write) -> anyhow::Result<()> {
        let entry = select::find(registry, certificate, &self.issuer).await?;
        let audit = self.audited.audit()?;
        let revoked = registry.revoke(&entry.issuer, &entry.serial, &self.order(), &audit).await?;
        writeln!(out, "revoked {}", told(&revoked))?;
        Ok(())
    }

    async fn revoke_holder(&self, holder: &str, registry: &Registry, out: &mut dyn Write) -> anyhow::Result<()> {
        let (issuer, audit) = (self.issuer.issuer.as_ref(), self.audited.audit()?);
        let done = registry.revoke_holder(holder, issuer, &self.order(), &audit).await?;
        for revoked in &done.revoked {
            writeln!(out, "revoked {}", told(revoked))?;
        }
        writeln!(
            out,
            "holder {holder}: {} revoked, {} left as they were ({} revoked before, {} expired)",
            done.revoked.len(),
            done.already + done.expired,
            done.already,
            done.expired
        )?;
        Ok(())
    }

    async fn correct(&self, certificate: &str, registry: &Registry, out: &mut dyn Write) -> anyhow::Result<()> {
        let correction = Correction { reason: self.reason, at: self.at, invalidity_date: self.invalid_since };
        ensure!(
            correction != Correction::default(),
            "--update needs --reason, --at or --invalid-since: say what changes"
        );
        let before = select::find(registry, certificate, &self.issuer).await?;
        let audit = self.audited.audit()?;
        let after = registry.update(&before.issuer, &before.serial, &correction, &audit).await?;
        if before.status == after.status {
            writeln!(out, "unchanged {}: that is what the database says already", told(&after))?;
        } else {
            writeln!(out, "updated {}", told(&after))?;
        }
        Ok(())
    }
}

/// `0A1B (demo) reason keyCompromise at 2026-11-22T06:17:54Z`.
fn told(entry: &Entry) -> String {
    let Some(revocation) = entry.status.revocation() else { return entry.to_string() };
    let since = revocation.invalidity_date.map_or_else(String::new, |since| format!(", invalid since {since}"));
    format!("{entry} reason {} at {}{since}", revocation.reason, revocation.at)
}
