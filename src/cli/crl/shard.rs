//! `jarchy crl shard`: which list a certificate belongs to, for the software that issues it: the list's URL
//! has to stand in the certificate (CRL-70, CRL-71).

use super::{ConfigFile, configured};
use crate::cli::on_registry;
use crate::config::{Config, ShardBy, Shards};
use crate::crl::{Kind, Part, shard_of};
use crate::pki::{IssuerName, Serial};
use anyhow::{Context, bail};
use clap::Args;
use serde_json::json;
use std::io::Write;

/// Tell which shard a serial number belongs to, and the URL that goes into the certificate.
#[derive(Args, Debug)]
#[command(after_help = "Example:
  jarchy crl shard 0A1B2C --config /etc/jarchy/jarchy.toml

The shard is the one that the database names, where the config says so and it does; or else the first eight octets of
SHA-256 over the serial number's content octets, as a big-endian number, modulo the number of shards.")]
pub(super) struct Shard {
    /// Serial number (0A1B, 0a:1b, 0x0a1b, dec:2587)
    serial: Serial,
    /// Issuer of the config file, needed only where there are several with shards
    #[arg(long, value_name = "NAME")]
    issuer: Option<IssuerName>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigFile,
}

impl Shard {
    pub(super) async fn run(self, out: &mut (dyn Write + Send)) -> anyhow::Result<()> {
        let config = self.config.load()?;
        let issuer = self.issuer(&config)?;
        let settings = configured(&config, &issuer)?.crl.as_ref().and_then(|crl| crl.shards.as_ref());
        let settings = settings.with_context(|| format!("the certificates of {issuer} are not divided into shards"))?;
        let entry = match settings.by {
            ShardBy::Hash => None,
            ShardBy::Database | ShardBy::Kind => {
                on_registry(&config, async |on| Ok(on.get(&issuer, &self.serial).await?)).await?
            }
        };
        let told = match settings.by {
            ShardBy::Kind => {
                let ca = entry.and_then(|entry| entry.ca).with_context(|| {
                    format!(
                        "the issuance database does not say whether {} is a CA's certificate: those name {}, all others {}",
                        self.serial,
                        list_url(&config, &issuer, settings, Part::Kind(Kind::Ca)),
                        list_url(&config, &issuer, settings, Part::Kind(Kind::User))
                    )
                })?;
                Some(Part::Kind(if ca { Kind::Ca } else { Kind::User }))
            }
            ShardBy::Hash | ShardBy::Database => {
                let shard = entry.and_then(|entry| entry.shard);
                shard.filter(|told| *told < settings.count.get()).map(Part::Shard)
            }
        };
        let part = told.unwrap_or_else(|| Part::Shard(shard_of(&self.serial, settings.count)));
        let url = list_url(&config, &issuer, settings, part);
        let named = match part {
            Part::Shard(shard) => json!(shard),
            Part::Kind(kind) => json!(kind.to_string()),
            Part::Whole => json!(null),
        };
        if self.json {
            let by = if told.is_some() { "database" } else { "hash" };
            writeln!(out, "{}", json!({ "issuer": issuer.as_str(), "shard": named, "by": by, "url": url }))?;
        } else {
            writeln!(out, "shard {}: {url}", named.as_str().map_or_else(|| named.to_string(), str::to_owned))?;
        }
        Ok(())
    }

    fn issuer(&self, config: &Config) -> anyhow::Result<IssuerName> {
        let has_shards = |crl: &crate::config::Crl| crl.shards.is_some();
        let mut those = config.issuers.iter().filter(|issuer| issuer.crl.as_ref().is_some_and(has_shards));
        match (&self.issuer, those.next(), those.next()) {
            (Some(issuer), _, _) => Ok(issuer.clone()),
            (None, Some(only), None) => Ok(only.name.clone()),
            (None, None, _) => bail!("no issuer of {} has shards: set [issuer.crl] shards", config.file.display()),
            (None, Some(_), Some(_)) => bail!("several issuers have shards: say which one with --issuer"),
        }
    }
}

fn list_url(config: &Config, issuer: &IssuerName, settings: &Shards, part: Part) -> String {
    let public_url = config.server.public_url.as_deref().unwrap_or_default();
    part.url(&settings.url, public_url, issuer).unwrap_or_default()
}
