//! `jarchy hold`: suspends a certificate, until `jarchy release` or `jarchy revoke`.

use super::select::{self, Audited, IssuerChoice};
use crate::registry::Registry;
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
    /// If the certificate is unknown, on hold already, or revoked for good.
    pub async fn run(self, registry: &Registry, out: &mut dyn Write) -> anyhow::Result<()> {
        let entry = select::find(registry, &self.certificate, &self.issuer).await?;
        let held = registry.hold(&entry.issuer, &entry.serial, &self.audited.audit()?).await?;
        if let Some(revocation) = held.status.revocation() {
            writeln!(out, "put {held} on hold at {}", revocation.at)?;
        }
        Ok(())
    }
}
