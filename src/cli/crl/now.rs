//! `jarchy crl now`: has the running service make a new list, and waits until it is served.

use super::configured;
use crate::cli::{ConfigFile, client, healthcheck::reachable};
use crate::pki::IssuerName;
use anyhow::{Context, bail};
use clap::Args;
use hyper::{Method, StatusCode, Uri};
use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

/// Longer than the service itself waits for a list.
const PATIENCE: Duration = Duration::from_secs(90);

/// Have the running service make a new CRL at once, and wait until it is served.
///
/// The new list tells everything that the database held when the command was given. The schedule stays.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  jarchy crl now demo --config /etc/jarchy/jarchy.toml\n\n\
    The operator's listener ([server] admin) takes this command only from the same machine.")]
pub(super) struct Now {
    /// Issuer of the config file
    issuer: IssuerName,
    /// The operator's listener, if it is not where the config file says
    #[arg(long, value_name = "ADDR:PORT", value_parser = crate::config::address)]
    admin: Option<SocketAddr>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigFile,
}

impl Now {
    pub(super) async fn run(self, out: &mut (dyn Write + Send)) -> anyhow::Result<()> {
        let config = self.config.load()?;
        configured(&config, &self.issuer)?;
        let off = "this service has no operator's listener that takes commands: set [server] admin and start it again";
        let admin = reachable(self.admin.or(config.server.admin).context(off)?);
        let url: Uri = format!("http://{admin}").parse()?;
        let path = format!("/crl/now/{}", self.issuer);
        let (status, body) = client::send_within(PATIENCE, &url, Method::POST, &path, Vec::new()).await?;
        let said = String::from_utf8_lossy(&body);
        if status != StatusCode::OK {
            bail!("{} (HTTP status {})", said.trim_end(), status.as_u16());
        }
        if self.json {
            writeln!(out, "{}", said.trim_end())?;
            return Ok(());
        }
        let answer: serde_json::Value = serde_json::from_str(&said).with_context(|| format!("{url} is no Jarchy"))?;
        for list in answer["lists"].as_array().into_iter().flatten() {
            let scope = list["scope"].as_str().unwrap_or_default();
            writeln!(out, "{scope}: CRL {} is served", list["number"])?;
        }
        Ok(())
    }
}
