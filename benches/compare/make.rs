//! The PKI and the requests that all servers and generators share, as files in one folder.

use anyhow::{Context, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jarchy::ocsp::request::{encode, encode_cert_id};
use jarchy::pki::{Certificate, HashAlgorithm, Issuer, Serial};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose};
use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// Serials that are asked for evenly in all groups but `wide`.
pub(crate) const HOT: u64 = 10_000;
const HOST: &str = "Host: ocsp.example\r\n";

/// The serials have 16 octets; the last eight are the number.
pub(crate) fn serial(n: u64) -> anyhow::Result<Serial> {
    Ok(Serial::from_content(&[&[0x5a; 8][..], &n.to_be_bytes()].concat())?)
}

/// A CA, and delegates with keys of P-256 and RSA-2048: `ca.pem`, `p256.pem`, `p256.key`, `rsa.pem`, `rsa.key`.
pub(crate) fn pki(dir: &Path) -> anyhow::Result<()> {
    let ca_key = KeyPair::generate()?;
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::CrlSign, KeyUsagePurpose::KeyCertSign];
    let ca = params.self_signed(&ca_key)?;
    let issuer = rcgen::Issuer::from_params(&params, &ca_key);
    std::fs::write(dir.join("ca.pem"), ca.pem())?;
    write_key(&dir.join("ca.key"), &ca_key.serialize_pem())?;
    for (name, options) in [
        ("p256", &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"][..]),
        ("rsa", &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"][..]),
    ] {
        let made = Command::new("openssl").arg("genpkey").args(options).output().context("openssl genpkey")?;
        ensure!(made.status.success(), "openssl genpkey: {}", String::from_utf8_lossy(&made.stderr));
        let pem = String::from_utf8(made.stdout)?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::OcspSigning];
        let delegate = params.signed_by(&KeyPair::from_pem(&pem)?, &issuer)?;
        std::fs::write(dir.join(format!("{name}.pem")), delegate.pem())?;
        write_key(&dir.join(format!("{name}.key")), &pem)?;
    }
    Ok(())
}

fn write_key(path: &Path, pem: &str) -> anyhow::Result<()> {
    std::fs::write(path, pem)?;
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?)
}

pub(crate) fn issuer(dir: &Path) -> anyhow::Result<Issuer> {
    let certificate = Certificate::from_file_bytes(&std::fs::read(dir.join("ca.pem"))?)?;
    Ok(Issuer { name: "bench".parse()?, certificate })
}

/// What `wrk` sends, each request with its length before it, in an order that no cache guesses: `post`, `get`,
/// `nonce`, and the same with `Connection: close`; for `wide` the head and all of the body but the number.
pub(crate) fn requests(dir: &Path) -> anyhow::Result<()> {
    let hashes = issuer(dir)?.hashes(HashAlgorithm::Sha1);
    let ocsp = |n, nonce: Option<Vec<u8>>| {
        anyhow::Ok(encode(&encode_cert_id(&hashes, serial(n)?.as_bytes()), nonce.as_deref()))
    };
    let post = |body: &[u8], more: &str| {
        let length = body.len();
        let head = format!(
            "POST /ocsp HTTP/1.1\r\n{HOST}{more}Content-Type: application/ocsp-request\r\nContent-Length: {length}\r\n\r\n"
        );
        [head.as_bytes(), body].concat()
    };
    let get = |body: &[u8], more: &str| {
        let text = STANDARD.encode(body).replace('+', "%2B").replace('/', "%2F").replace('=', "%3D");
        format!("GET /ocsp/{text} HTTP/1.1\r\n{HOST}{more}\r\n").into_bytes()
    };
    const CLOSE: &str = "Connection: close\r\n";
    let mut files: [(&str, Vec<u8>); 7] =
        ["post", "get", "nonce", "post-close", "get-close", "file", "file-close"].map(|name| (name, Vec::new()));
    for n in 0..HOT {
        let n = n * 7_919 % HOT;
        let plain = ocsp(n, None)?;
        let nonce = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes().repeat(2);
        let with_nonce = ocsp(n, Some(nonce))?;
        let requests = [
            post(&plain, ""),
            get(&plain, ""),
            post(&with_nonce, ""),
            post(&plain, CLOSE),
            get(&plain, CLOSE),
            format!("GET /answer HTTP/1.1\r\n{HOST}\r\n").into_bytes(),
            format!("GET /answer HTTP/1.1\r\n{HOST}{CLOSE}\r\n").into_bytes(),
        ];
        for ((_, file), request) in files.iter_mut().zip(&requests) {
            file.extend_from_slice(format!("{}\n", request.len()).as_bytes());
            file.extend_from_slice(request);
        }
    }
    for (name, file) in files {
        std::fs::write(dir.join(format!("{name}.requests")), file)?;
    }
    let wide = post(&ocsp(0, None)?, "");
    std::fs::write(dir.join("wide.prefix"), wide.get(..wide.len() - 8).context("a request ends in its serial")?)?;
    Ok(())
}

/// The first request of such a file, and what follows it.
pub(crate) fn split_first(file: &[u8]) -> anyhow::Result<(&[u8], &[u8])> {
    let end = file.iter().position(|octet| *octet == b'\n').context("a length")?;
    let length: usize = std::str::from_utf8(&file[..end])?.parse()?;
    file[end + 1..].split_at_checked(length).context("a request")
}

/// What `openssl ocsp` reads as its database.
pub(crate) fn index_txt(dir: &Path) -> anyhow::Result<()> {
    let mut text = String::new();
    for n in 0..HOT {
        // Writing to a String does not fail.
        let _ = writeln!(text, "V\t491231235959Z\t\t{}\tunknown\t/CN={n}", serial(n)?);
    }
    Ok(std::fs::write(dir.join("index.txt"), text)?)
}

/// The generator's scripts.
pub(crate) fn scripts(dir: &Path) -> anyhow::Result<()> {
    const DONE: &str = r#"
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("result %d %d %d %d %d %d %d\n", summary.requests, summary.duration, summary.bytes,
    e.connect + e.read + e.write + e.timeout + e.status,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
"#;
    const LISTED: &str = r#"
local requests, at = {}, 0
function init(args)
  local file = assert(io.open(args[1], "rb"))
  while true do
    local size = file:read("*n")
    if not size then break end
    file:read(1)
    requests[#requests + 1] = file:read(size)
  end
end
function request()
  at = at % #requests + 1
  return requests[at]
end
"#;
    const WIDE: &str = r#"
local prefix, count
function init(args)
  prefix = assert(io.open(args[1], "rb")):read("*a")
  count = tonumber(args[2])
  math.randomseed(tonumber(args[3]))
end
function request()
  local n = math.random(0, count - 1)
  return prefix .. string.char(0, 0, 0, 0, math.floor(n / 16777216), math.floor(n / 65536) % 256, math.floor(n / 256) % 256, n % 256)
end
"#;
    std::fs::write(dir.join("listed.lua"), [LISTED, DONE].concat())?;
    std::fs::write(dir.join("wide.lua"), [WIDE, DONE].concat())?;
    Ok(std::fs::write(dir.join("plain.lua"), DONE)?)
}
