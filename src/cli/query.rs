//! `jarchy query`: asks any OCSP responder, checks what it says, and shows it.

use super::{client, read_certificate};
use crate::ocsp::check::{self, CheckError, Verified};
use crate::ocsp::request::{encode, encode_cert_id};
use crate::ocsp::response::CertStatus;
use crate::pki::{Certificate, Clock, HashAlgorithm, Issuer, Reason, Serial, SystemClock};
use anyhow::{Context, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use clap::{Args, ValueEnum};
use hyper::{Method, StatusCode, Uri};
use ring::rand::{SecureRandom, SystemRandom};
use std::fmt::Write as _;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Ask an OCSP responder for the status of a certificate and check the answer.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  jarchy query http://127.0.0.1:8080/ocsp --issuer ca.pem good.pem\n\n\
    Exit status: 0 good, 3 revoked, 4 unknown, 1 no answer that can be believed.")]
pub struct Query {
    /// The responder, as http://HOST[:PORT]/PATH
    url: Uri,
    /// The certificate (PEM or DER), or its serial number in hex or as dec:NUMBER
    certificate: String,
    /// Certificate of the CA that issued it
    #[arg(long, value_name = "FILE")]
    issuer: PathBuf,
    /// Ask by GET instead of POST
    #[arg(long)]
    get: bool,
    /// Hash by which the request names the issuer
    #[arg(long, value_enum, default_value_t = HashName::Sha1)]
    hash: HashName,
    /// Send no nonce
    #[arg(long)]
    no_nonce: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum HashName {
    Sha1,
    Sha256,
    Sha384,
    Sha512,
}

impl From<HashName> for HashAlgorithm {
    fn from(name: HashName) -> Self {
        match name {
            HashName::Sha1 => Self::Sha1,
            HashName::Sha256 => Self::Sha256,
            HashName::Sha384 => Self::Sha384,
            HashName::Sha512 => Self::Sha512,
        }
    }
}

impl Query {
    /// Asks, and prints to `out` what came back.
    ///
    /// # Errors
    /// If there is no answer, or none that proves anything.
    pub async fn run(self, out: &mut dyn Write) -> anyhow::Result<ExitCode> {
        let name = "query".parse()?;
        let issuer = Issuer { name, certificate: read_certificate(&self.issuer)? };
        let serial = self.serial(&issuer.certificate)?;
        let cert_id = encode_cert_id(&issuer.hashes(self.hash.into()), serial.as_bytes());
        let nonce = if self.no_nonce { None } else { Some(random_nonce()?) };
        let nonce = nonce.as_ref().map(<[u8; 32]>::as_slice);
        let request = encode(&cert_id, nonce);
        let response = exchange(&self.url, request, self.get).await?;
        let checked = check::check(&response, &cert_id, nonce, &issuer.certificate, SystemClock.now());
        let verified = checked.map_err(|error| explain(error, &serial))?;
        let text = if self.json { json(&verified, &serial) } else { text(&verified, &serial, nonce.is_some()) };
        writeln!(out, "{text}")?;
        Ok(match verified.status {
            CertStatus::Good => ExitCode::SUCCESS,
            CertStatus::Revoked(_) => ExitCode::from(3),
            CertStatus::Unknown => ExitCode::from(4),
        })
    }

    fn serial(&self, ca: &Certificate) -> anyhow::Result<Serial> {
        let path = Path::new(&self.certificate);
        if !path.exists() {
            return self.certificate.parse().with_context(|| format!("there is no file {:?} either", self.certificate));
        }
        let certificate = read_certificate(path)?;
        ensure!(
            certificate.issuer() == ca.subject(),
            "{} was not issued by {} but by another CA: name that one with --issuer",
            path.display(),
            self.issuer.display()
        );
        Ok(certificate.serial())
    }
}

fn explain(error: CheckError, serial: &Serial) -> anyhow::Error {
    let hint = match error {
        CheckError::Failure(6) => {
            ": it does not answer for this CA, or it does not know this serial number, or no longer"
        }
        CheckError::Failure(3) => ": it cannot answer at the moment",
        _ => "",
    };
    anyhow::anyhow!("serial {serial}: {error}{hint}")
}

fn random_nonce() -> anyhow::Result<[u8; 32]> {
    let mut nonce = [0; 32];
    let filled = SystemRandom::new().fill(&mut nonce);
    filled.map_err(|_| anyhow::anyhow!("the system gives no random numbers"))?;
    Ok(nonce)
}

/// Sends a request as a client would: POST, or GET with the request in the path.
async fn exchange(url: &Uri, request: Vec<u8>, get: bool) -> anyhow::Result<Bytes> {
    let (status, body) = if get {
        client::send(url, Method::GET, &get_path(url.path(), &request), Vec::new()).await?
    } else {
        client::send(url, Method::POST, url.path(), request).await?
    };
    ensure!(status == StatusCode::OK, "{url} answered with HTTP status {status}");
    Ok(body)
}

/// base64 with the three characters escaped that mean something else in a URL (RFC 6960 A.1).
fn get_path(base: &str, request: &[u8]) -> String {
    let mut path = base.trim_end_matches('/').to_owned() + "/";
    for character in BASE64_STANDARD.encode(request).chars() {
        match character {
            '+' => path.push_str("%2B"),
            '/' => path.push_str("%2F"),
            '=' => path.push_str("%3D"),
            plain => path.push(plain),
        }
    }
    path
}

const fn word(status: &CertStatus) -> &'static str {
    match status {
        CertStatus::Good => "good",
        CertStatus::Revoked(_) => "revoked",
        CertStatus::Unknown => "unknown",
    }
}

fn text(verified: &Verified, serial: &Serial, nonce_sent: bool) -> String {
    let mut text = format!("{serial}: {}", word(&verified.status));
    if let CertStatus::Revoked(revocation) = verified.status {
        _ = write!(text, " since {}", revocation.at);
        if revocation.reason != Reason::Unspecified {
            _ = write!(text, ", reason {}", revocation.reason);
        }
    }
    let Verified { this_update, next_update, produced_at, signer, .. } = verified;
    let role = if verified.delegated { "delegate of the CA" } else { "the CA itself" };
    let nonce = match (nonce_sent, verified.nonce_echoed) {
        (false, _) => "",
        (true, true) => "\n  nonce        echoed",
        (true, false) => "\n  nonce        not echoed: the answer was signed beforehand",
    };
    _ = write!(
        text,
        "\n  thisUpdate   {this_update}\n  nextUpdate   {next_update}\n  producedAt   {produced_at}\n  signed by    \
         {signer} ({role}), verified{nonce}"
    );
    text
}

fn json(verified: &Verified, serial: &Serial) -> String {
    let revocation = match verified.status {
        CertStatus::Revoked(revocation) => Some(revocation),
        _ => None,
    };
    serde_json::json!({
        "serial": serial.to_string(),
        "status": word(&verified.status),
        "revocationTime": revocation.map(|revocation| revocation.at.to_string()),
        "reason": revocation.map(|revocation| revocation.reason.name()),
        "thisUpdate": verified.this_update.to_string(),
        "nextUpdate": verified.next_update.to_string(),
        "producedAt": verified.produced_at.to_string(),
        "signer": verified.signer,
        "delegated": verified.delegated,
        "nonceEchoed": verified.nonce_echoed,
    })
    .to_string()
}
