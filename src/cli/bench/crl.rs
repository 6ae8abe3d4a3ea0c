//! `jarchy bench crl`: measures the server of a CRL.

use super::{Output, PaceOptions, Run, random};
use crate::cli::crl::der;
use crate::cli::read_certificate;
use crate::load::Target;
use crate::load::list::{Downloads, Mix};
use crate::load::status::Share;
use crate::pki::list::List;
use crate::pki::{Certificate, Clock, SystemClock};
use crate::sign::verify;
use clap::Args;
use hyper::Uri;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// Measure the server of a CRL, and check every octet that it sends.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  jarchy bench crl http://127.0.0.1:8080/crl/demo.crl --issuer ca.pem -c 8
  jarchy bench crl http://127.0.0.1:8080/crl/demo.crl --issuer ca.pem --conditional 80% --range 5%

Signature, issuer and dates are checked of each version of the list; every other answer must have the very octets of
the version whose ETag it carries.

Exit status: as of jarchy bench.")]
pub(super) struct Crl {
    /// The list, as http://HOST[:PORT]/PATH
    url: Uri,
    /// Certificate of the CA that signs the list
    #[arg(long, value_name = "FILE")]
    issuer: PathBuf,
    /// How many requests carry If-None-Match with the ETag of the present list
    #[arg(long, value_name = "SHARE", default_value = "none")]
    conditional: Share,
    /// How many requests ask for a part of the list
    #[arg(long, value_name = "SHARE", default_value = "none")]
    range: Share,
    /// Begin the random choices here, to repeat a run
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    #[command(flatten)]
    pace: PaceOptions,
    #[command(flatten)]
    output: Output,
}

impl Crl {
    pub(super) async fn run(self, out: &mut (dyn Write + Send)) -> anyhow::Result<ExitCode> {
        let ca = read_certificate(&self.issuer)?;
        let plan = self.pace.plan(&self.url)?;
        let seed = self.seed.map_or_else(random, Ok)?;
        let check = move |bytes: &[u8]| check(bytes, &ca).map_err(|error| format!("{error:#}"));
        let mix = Arc::new(Mix::new(self.conditional, self.range, seed, check));
        let settings = vec![
            ("conditional", self.conditional.to_string()),
            ("range", self.range.to_string()),
            ("seed", seed.to_string()),
        ];
        let close = self.pace.new_connections;
        let new = move |target: &Target, thread| Downloads::new(mix.clone(), target, close, thread);
        Run { url: &self.url, settings, plan, pace: &self.pace, output: &self.output }.measure(new, out).await
    }
}

/// Whether a list is the CA's and of now.
fn check(bytes: &[u8], ca: &Certificate) -> anyhow::Result<()> {
    let bytes = der(bytes.to_vec())?;
    let list = List::read(&bytes)?;
    anyhow::ensure!(list.issuer == ca.subject(), "it is of another CA: {}", list.issuer_text());
    verify::signature(ca.spki(), list.algorithm, list.tbs, list.signature)?;
    let now = SystemClock.now();
    let is_over = list.next_update.is_some_and(|until| until <= now);
    anyhow::ensure!(list.this_update <= now && !is_over, "it is for another time than {now}");
    Ok(())
}
