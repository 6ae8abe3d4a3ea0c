//! `jarchy healthcheck`: whether the service of a config file is ready, for container engines and scripts.

use super::{ConfigFile, client};
use anyhow::{Context, bail};
use clap::Args;
use hyper::{Method, StatusCode, Uri};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Ask a running service whether it is ready; exit status 0 if it is.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  jarchy healthcheck --config /etc/jarchy/jarchy.toml")]
pub struct Healthcheck {
    #[command(flatten)]
    config: ConfigFile,
}

impl Healthcheck {
    /// Asks, and prints to `out` what every component says.
    ///
    /// # Errors
    /// If it is not ready, or does not answer.
    pub async fn run(self, out: &mut dyn Write) -> anyhow::Result<()> {
        let config = self.config.load()?;
        let admin =
            config.server.admin.context("this service has no operator's listener to ask: set [server] admin")?;
        let url: Uri = format!("http://{}", reachable(admin)).parse()?;
        let (status, body) = client::send(&url, Method::GET, "/health/ready", Vec::new()).await?;
        writeln!(out, "{}", String::from_utf8_lossy(&body).trim_end())?;
        if status != StatusCode::OK {
            bail!("not ready (HTTP status {status})");
        }
        Ok(())
    }
}

/// Who listens everywhere can be asked on the loopback address.
pub(super) fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}
