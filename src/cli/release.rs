//! `jarchy release`: lifts a hold.

use super::select::{self, Audited, IssuerChoice};
use crate::registry::Registry;
use std::io::Write;

/// Lift the hold on a certificate, which is good again.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Example:\n  jarchy release 0A1B2C --by helpdesk\n\nOnly a hold can be lifted; every other \
                        revocation is final.")]
pub struct Release {
    /// Serial number (0A1B, 0a:1b, 0x0a1b, dec:2587) or file of the certificate
    #[arg(value_name = "SERIAL|CERT.PEM")]
    certificate: String,
    #[command(flatten)]
    issuer: IssuerChoice,
    #[command(flatten)]
    audited: Audited,
}

impl Release {
    /// Runs the command.
    ///
    /// # Errors
    /// If the certificate is unknown or not on hold.
    pub async fn run(self, registry: &Registry, out: &mut dyn Write) -> anyhow::Result<()> {
        let entry = select::find(registry, &self.certificate, &self.issuer).await?;
        let released = registry.release(&entry.issuer, &entry.serial, &self.audited.audit()?).await?;
        writeln!(out, "released {released} from hold: it is good again")?;
        Ok(())
    }
}
