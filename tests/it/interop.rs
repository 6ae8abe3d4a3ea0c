//! Clients that other people wrote, each as its users run it: GnuTLS, Java, Python's `cryptography`, nginx,
//! OpenSSL with its GOST engine. They ask the responder that stands in the demo's certificates.
//!
//! One that is not on the machine is left out, and that is said aloud; where `JARCHY_REQUIRE_SERVICES` is set
//! its absence is a failure.

use crate::harness::{Server, contains, openssl, run, text, wait_until};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

/// A demo that was made for the port on which it is served: the URLs in its certificates lead to it.
struct Place {
    work: PathBuf,
    dir: PathBuf,
    url: String,
}

impl Place {
    fn file(&self, name: &str) -> String {
        text(&self.dir.join(name)).to_owned()
    }
}

type Client = fn(&Place);

/// The certificates that are asked about, as each client names what is said of them.
const FILES: [&str; 4] = ["good.pem", "revoked-key-compromise.pem", "on-hold.pem", "not-issued.pem"];

/// Whether `program` can be run with `arguments`; says so aloud if not.
fn there_is(program: &str, arguments: &[&str], needed: bool) -> bool {
    let mut tried = Command::new(program);
    tried.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let found = tried.status().is_ok_and(|status| status.success());
    if !found {
        println!("SKIPPED: {program} {} does not work here", arguments.join(" "));
        assert!(!needed || std::env::var_os("JARCHY_REQUIRE_SERVICES").is_none(), "{program} is needed");
    }
    found
}

fn script(name: &str) -> String {
    text(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop").join(name)).to_owned()
}

#[test]
fn clients_find_the_responder_in_the_certificate_and_believe_it() {
    let work = tempfile::tempdir().unwrap();
    let dir = work.path().join("demo");
    let serve = ["demo", "--dir", text(&dir), "--listen", "127.0.0.1:0"];
    let server = Server::start(&serve, &work.path().join("log"));
    let place = &Place { work: work.path().to_owned(), dir, url: format!("{}/ocsp", server.url) };
    let clients: [(&str, Client); 5] =
        [("ocsptool", gnutls), ("java", java), ("cryptography", cryptography), ("nginx", nginx), ("gost", gost)];
    // At once, and each to its end: one that fails does not hide what the others say.
    let failed: Vec<_> = thread::scope(|scope| {
        let running = clients.map(|(name, client)| (name, scope.spawn(move || client(place))));
        running.into_iter().filter_map(|(name, client)| client.join().is_err().then_some(name)).collect()
    });
    assert!(failed.is_empty(), "{failed:?}");
    server.stop();
}

/// SHA-1, POST, HTTP/1.0, with a nonce and without (CLI-11).
fn gnutls(place: &Place) {
    if !there_is("ocsptool", &["--version"], true) {
        return;
    }
    println!("{}", run("ocsptool", &["--version"]).out.lines().next().unwrap());
    let ca = place.file("ca.pem");
    let said = ["good", "revoked", "revoked", "unauthorized"];
    for (file, said) in FILES.into_iter().zip(said) {
        for nonce in ["--nonce", "--no-nonce"] {
            let file = place.file(file);
            let answer =
                run("ocsptool", &["--ask", "--load-cert", &file, "--load-issuer", &ca, "--load-trust", &ca, nonce]);
            let answer = answer.all();
            if said == "unauthorized" {
                assert!(answer.contains("Response Status: unauthorized"), "{answer}");
                continue;
            }
            assert!(answer.contains("Verifying OCSP Response: Success."), "{file} {nonce}: {answer}");
            assert!(answer.contains(&format!("Certificate Status: {said}")), "{file} {nonce}: {answer}");
            let echoed = answer.lines().any(|line| line.trim_start().starts_with("Nonce: "));
            assert_eq!(echoed, nonce == "--nonce", "{answer}");
        }
    }
    println!("ocsptool: good, revoked and unauthorized told apart, with nonce and without");
}

/// SHA-1, GET or POST by length, freshness of every SingleResponse (CLI-20, CLI-22).
fn java(place: &Place) {
    // The compiler is needed to run a source file.
    if !there_is("javac", &["-version"], true) {
        return;
    }
    let (program, ca, files) = (script("Revocation.java"), place.file("ca.pem"), FILES.map(|file| place.file(file)));
    let arguments: Vec<&str> = [&program, &ca].into_iter().chain(&files).map(String::as_str).collect();
    let said = run("java", &arguments).ok("java").out;
    print!("{said}");
    for line in [
        "good.pem: good",
        "revoked-key-compromise.pem: revoked KEY_COMPROMISE, invalid since ",
        "on-hold.pem: revoked CERTIFICATE_HOLD, invalid since null",
        "not-issued.pem: UNSPECIFIED: OCSP response error: UNAUTHORIZED",
    ] {
        contains(&said, line).unwrap();
    }
    // The first revocation came with its invalidity date (OCSP-76).
    assert_eq!(said.matches("invalid since null").count(), 1, "{said}");
}

/// Every hash, POST; verifies both signatures by itself.
fn cryptography(place: &Place) {
    // A python3 of one's own comes first in the path and may lack the system's packages.
    let imports = ["-c", "import cryptography"];
    let pythons = ["python3", "/usr/bin/python3"];
    let Some(python) = pythons.into_iter().find(|python| there_is(python, &imports, *python == pythons[1])) else {
        return;
    };
    let (program, ca, files) = (script("ask.py"), place.file("ca.pem"), FILES.map(|file| place.file(file)));
    let arguments: Vec<&str> = [&program, &ca].into_iter().chain(&files).map(String::as_str).collect();
    let said = run(python, &arguments).ok("cryptography").out;
    println!("{}", said.lines().next().unwrap());
    let expected = ["GOOD", "REVOKED keyCompromise", "REVOKED certificateHold", "UNAUTHORIZED"];
    for (file, expected) in FILES.into_iter().zip(expected) {
        for hash in ["sha1", "sha256", "sha384", "sha512"] {
            for nonce in ["plain", "nonce"] {
                contains(&said, &format!("{file}: {hash} {nonce}: {expected}\n")).unwrap();
            }
        }
    }
    println!("cryptography: four hashes, with nonce and without, as expected");
}

/// A server that was started for a test and ends with it.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Already gone, or past asking.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// GET, HTTP/1.0, and nothing but `good` is stapled (CLI-30).
fn nginx(place: &Place) {
    if !there_is("nginx", &["-v"], true) {
        return;
    }
    println!("{}", run("nginx", &["-v"]).err.trim());
    let dir = place.work.join("nginx");
    fs::create_dir(&dir).unwrap();
    let at = text(&dir);
    let temporary =
        ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|kind| format!("{kind}_temp_path {at}/{kind};"));
    let server = |name: &str| {
        let (certificate, key) = (place.file(&format!("{name}.pem")), place.file(&format!("{name}.key")));
        format!("server {{ listen unix:{at}/{name} ssl; ssl_certificate {certificate}; ssl_certificate_key {key}; }}\n")
    };
    let config = format!(
        "daemon off;\nmaster_process off;\npid {at}/pid;\nerror_log {at}/errors info;\nevents {{}}\nhttp {{\naccess_log off;\n\
         {}\nssl_stapling on;\nssl_stapling_verify on;\nssl_trusted_certificate {};\n{}{}}}\n",
        temporary.join("\n"),
        place.file("ca.pem"),
        server("good"),
        server("revoked-key-compromise"),
    );
    let (file, errors) = (dir.join("nginx.conf"), dir.join("errors"));
    fs::write(&file, config).unwrap();
    let child = Command::new("nginx").args(["-e", text(&errors), "-c", text(&file)]).stdin(Stdio::null()).spawn();
    let _running = Running(child.unwrap());
    let ca = place.file("ca.pem");
    let connect = |name: &str| {
        let socket = format!("{at}/{name}");
        openssl(&["s_client", "-unix", &socket, "-servername", "localhost", "-CAfile", &ca, "-status"]).all()
    };
    // It fetches when the first client has come, which goes without.
    wait_until("nginx staples", || contains(&connect("good"), "OCSP Response Status: successful"));
    let stapled = connect("good");
    contains(&stapled, "Cert Status: good").unwrap();
    contains(&stapled, "Verify return code: 0 (ok)").unwrap();
    wait_until("nginx learns of the revocation", || {
        connect("revoked-key-compromise");
        contains(&fs::read_to_string(&errors).unwrap(), "certificate status \"revoked\" in the OCSP response")
    });
    contains(&connect("revoked-key-compromise"), "OCSP response: no response sent").unwrap();
    println!("nginx: good is stapled, revoked is not");
}

/// CertIDs under the hashes of the GOST world, made by an implementation that is not ours (OCSP-07).
fn gost(place: &Place) {
    let file = place.work.join("gost.cnf");
    let engine =
        "openssl_conf = all\n[all]\nengines = engines\n[engines]\ngost = gost\n[gost]\ndefault_algorithms = ALL\n";
    fs::write(&file, engine).unwrap();
    let with_engine = format!("OPENSSL_CONF='{}' exec openssl \"$@\"", text(&file));
    let gost = |arguments: &[&str]| run("sh", &[&["-c", &with_engine, "openssl"][..], arguments].concat());
    if !gost(&["dgst", "-md_gost94", "/dev/null"]).status.success() {
        println!("SKIPPED: openssl has no GOST engine here (libengine-gost-openssl)");
        assert!(std::env::var_os("JARCHY_REQUIRE_SERVICES").is_none(), "the GOST engine is needed");
        return;
    }
    let (ca, url) = (place.file("ca.pem"), &place.url);
    for hash in ["-md_gost94", "-md_gost12_256", "-md_gost12_512"] {
        for (name, status) in [("good.pem", "good"), ("revoked-key-compromise.pem", "revoked")] {
            let file = place.file(name);
            let ask = ["ocsp", hash, "-issuer", &ca, "-CAfile", &ca, "-cert", &file, "-url", url];
            let said = gost(&ask).all();
            assert!(
                said.contains("Response verify OK") && said.contains(&format!("{name}: {status}\n")),
                "{hash}: {said}"
            );
        }
    }
    println!("openssl with the GOST engine: GOST R 34.11-94 and Streebog find the answers");
}
