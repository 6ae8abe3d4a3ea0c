//! `jarchy hold`: suspends a certificate, until `jarchy release` or `jarchy revoke`.

use super::select::{self, Audited, IssuerChoice};
use crate::config::{self, Config};
use crate::registry::Registry;
use anyhow::bail;
use std::io::Write;

/// Suspend a certificate until it is released or revoked.
#[derive(Clone, Debug, clap::Args)]
#[command(
    after_help = "Example:\n  jarchy hold 0A1B2C --by helpdesk\n\nThe certificate counts as revoked, with reason \
                        certificateHold, until `jarchy release 0A1B2C` or `jarchy revoke 0A1B2C --reason …`."
)]
pub struct Hold {
    /// Serial number (0A1B, 0a:1b, 0x0a1b, dec:2587) or file of the certificate
    #[arg(value_name = "SERIAL|CERT.PEM")]
    certificate: String,
    #[command(flatten)]
    issuer: IssuerChoice,
    #[command(flatten)]
    audited: Audited,
}

impl Hold {
    /// Runs the command.
    ///
    /// # Errors
    /// If the certificate is unknown, on hold already, or revoked for good, or its issuer has no holds.
    pub async fn run(self, registry: &Registry, config: &Config, out: &mut dyn Write) -> anyhow::Result<()> {
        let entry = select::find(registry, &self.certificate, &self.issuer).await?;
        let rules = config.issuer(entry.issuer.as_str());
        if let Some(rules) = rules.filter(|rules| rules.hold == config::Hold::Refused) {
            bail!(
                "certificates of \"{}\" cannot be put on hold: {} refuses it for that issuer (profile {}); revoke it instead",
                entry.issuer,
                config.file.display(),
                rules.profile
            );
        }
        let held = registry.hold(&entry.issuer, &entry.serial, &self.audited.audit()?).await?;
        if let Some(revocation) = held.status.revocation() {
            writeln!(out, "put {held} on hold at {}", revocation.at)?;
        }
        Ok(())
    }
}
