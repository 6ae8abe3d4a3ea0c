//! `jarchy demo`: a CA with 10,000 certificates and a server that answers for it, to try things out with.
//!
//! Goes in: a folder and an address. Comes out: a running server, and lines that a person can paste into
//! a second terminal. A folder that is there already is served as it is.

mod make;

pub use make::make;

use super::shell_word;
use crate::config::{self, Config};
use crate::http::server;
use crate::{app, telemetry};
use anyhow::Context;
use make::base_url;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

/// Make a demo CA with 10,000 certificates, serve it, and say what can be tried with it.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Example:
  jarchy demo --dir /tmp/demo --listen 127.0.0.1:0

A demo that is in the folder already is continued as it is.")]
pub struct Demo {
    /// Folder of the demo; made if it is not there
    #[arg(long, default_value = "jarchy-demo")]
    dir: PathBuf,
    /// Where to listen; port 0 picks a free one [default: that of the folder's config, or 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR:PORT", value_parser = crate::config::address)]
    listen: Option<SocketAddr>,
}

/// A demo that is about to be served.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// What to serve.
    pub config: Config,
    folder: PathBuf,
    /// The URL that its certificates name, where that is not the one listened on.
    elsewhere: Option<String>,
}

impl Demo {
    /// Makes or continues the demo, and serves it until SIGTERM or SIGINT.
    ///
    /// # Errors
    /// If the address cannot be had, or the folder cannot be made or used.
    pub async fn run(self) -> anyhow::Result<()> {
        // The port first: the certificates that are made name it.
        let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let listeners = server::bind(self.listen()?, threads.get())?;
        let address = listeners.first().context("no socket")?.local_addr()?;
        let prepared = self.prepare(address).await?;
        let logs = telemetry::init(prepared.config.log.format, &prepared.config.log.level)?;
        let config = prepared.config.clone();
        app::serve(config, listeners, logs, |address| announce(&prepared.announcement(address))).await
    }

    /// Where to listen, before anything is made: what is made names the port.
    ///
    /// # Errors
    /// If the folder holds a config file that cannot be used.
    pub fn listen(&self) -> anyhow::Result<SocketAddr> {
        let file = self.dir.join(config::FILE_NAME);
        let configured =
            || if file.exists() { Config::load(&file).map(|config| config.server.listen) } else { Ok(config::LISTEN) };
        Ok(self.listen.map_or_else(configured, Ok)?)
    }

    /// Makes the folder unless it is there, for a server that listens on `addr`.
    ///
    /// # Errors
    /// If the folder holds something else, or cannot be made.
    pub async fn prepare(&self, addr: SocketAddr) -> anyhow::Result<Prepared> {
        let folder = std::path::absolute(&self.dir).context("cannot tell the working directory")?;
        let file = folder.join(config::FILE_NAME);
        if !file.exists() {
            // Stdout begins with the line that scripts wait for.
            let _ = writeln!(
                io::stderr(),
                "jarchy: making a CA with {} certificates in {}",
                make::ISSUED,
                folder.display()
            );
            make(&folder, addr).await?;
        }
        let mut config = Config::load(&file)?;
        let url = base_url(addr);
        let elsewhere = config.server.public_url.take().filter(|named| *named != url);
        config.server.listen = addr;
        // What is made from now on names the URL that works.
        config.server.public_url = Some(url);
        Ok(Prepared { config, folder, elsewhere })
    }
}

impl Prepared {
    /// What is printed once the server listens on `addr`: the line that scripts wait for, then what can be tried.
    #[must_use]
    pub fn announcement(&self, addr: SocketAddr) -> String {
        let url = base_url(addr);
        let file = |name: &str| shell_word(&self.folder.join(name));
        let jarchy = std::env::current_exe().map_or_else(|_| "jarchy".to_owned(), |path| shell_word(&path));
        let (ca, good, config) = (file("ca.pem"), file("good.pem"), file(config::FILE_NAME));
        let (crl, crl_pem) = (file("demo.crl"), file("demo.crl.pem"));
        let ask = format!("openssl ocsp -issuer {ca} -CAfile {ca} -url {url}/ocsp");
        let elsewhere = self.elsewhere.as_ref().map_or_else(String::new, |named| {
            format!("Its certificates name {named}/, as it was made there: whoever follows them asks in vain.\n")
        });
        format!(
            "jarchy: serving {url}/
{elsewhere}
The demo is in {folder}: certificates with their keys, and the config. Try in a second terminal:

What is the status of a certificate? Ask with a nonce, and without.
  {ask} -cert {good}
  {ask} -no_nonce -cert {revoked}
  {jarchy} query {url}/ocsp --issuer {ca} {good}

What do the lists say?
  curl -fsS -o {crl} {url}/crl/demo.crl
  openssl crl -inform DER -in {crl} -noout -crlnumber -lastupdate -nextupdate
  openssl crl -inform DER -in {crl} -out {crl_pem}
  openssl verify -crl_check -CAfile {ca} -CRLfile {crl_pem} {good}

Revoke a certificate, take another off hold, and ask again; within a second the delta lists both.
  {jarchy} revoke {good} --reason key-compromised --config {config}
  {jarchy} release {on_hold} --config {config}
  {ask} -cert {good}
  {ask} -cert {on_hold}
  sleep 1; curl -fsS {url}/crl/demo-delta.crl | openssl crl -inform DER -noout -text

Ctrl-C ends the demo; the same command continues it.
",
            folder = self.folder.display(),
            revoked = file("revoked-key-compromise.pem"),
            on_hold = file("on-hold.pem"),
        )
    }
}

/// Prints `announcement`; that nobody reads it is no reason to stop serving.
pub fn announce(announcement: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(announcement.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn prepared(elsewhere: Option<&str>) -> Prepared {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/config/minimal.toml");
        let config = Config::load(&file).unwrap();
        Prepared { config, folder: "/tmp/a demo".into(), elsewhere: elsewhere.map(str::to_owned) }
    }

    #[test]
    fn scripts_find_the_address_in_the_first_line() {
        let text = prepared(None).announcement("127.0.0.1:4711".parse().unwrap());
        assert_eq!(text.lines().next(), Some("jarchy: serving http://127.0.0.1:4711/"));
        assert_eq!(base_url("0.0.0.0:80".parse().unwrap()), "http://127.0.0.1:80");
        assert_eq!(base_url("[::]:80".parse().unwrap()), "http://[::1]:80");
    }

    #[test]
    fn lines_to_paste_need_no_working_directory_and_no_kind_names() {
        let text = prepared(None).announcement("127.0.0.1:4711".parse().unwrap());
        let lines: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("  ")).collect();
        assert!(lines.len() >= 10, "{text}");
        for line in lines {
            assert!(!line.contains(" a demo") && !line.contains("jarchy-demo/"), "{line}");
            assert!(line.contains("'/tmp/a demo/") || line.contains("http://127.0.0.1:4711/"), "{line}");
        }
    }

    #[test]
    fn certificates_that_name_another_port_are_told_of_in_one_line() {
        let text = prepared(Some("http://127.0.0.1:8080")).announcement("127.0.0.1:4711".parse().unwrap());
        assert!(text.lines().nth(1).unwrap().contains("name http://127.0.0.1:8080/"), "{text}");
    }
}
