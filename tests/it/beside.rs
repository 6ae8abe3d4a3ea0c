//! Jarchy beside CAs that other programs run: OpenSSL's and easy-rsa's index.txt, driven by the real `openssl ca`
//! and `easyrsa`, and a CA's own CRLs. Each with the config sample of its kind.

use crate::crl_commands::admin;
use crate::harness::{Said, Server, contains, jarchy, openssl, run, text, wait_until};
use crate::publish::number;
use crate::servers::free_port;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// A CA in a folder, run by `openssl ca`, and one delegate for OCSP.
pub(crate) struct OpensslCa {
    dir: TempDir,
}

const CNF: &str = "[ca]
default_ca = main
[main]
dir = .
database = index.txt
new_certs_dir = newcerts
certificate = ca.crt
private_key = ca.key
serial = serial
crlnumber = crlnumber
default_md = sha256
default_days = 100
default_crl_days = 7
policy = any
unique_subject = no
crl_extensions = crl
[any]
commonName = supplied
[crl]
authorityKeyIdentifier = keyid
[req]
distinguished_name = dn
prompt = no
[dn]
[delegate]
extendedKeyUsage = OCSPSigning
noCheck = ignored
keyUsage = critical, digitalSignature
[ca_cert]
basicConstraints = critical, CA:true
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
";

impl OpensslCa {
    pub(crate) fn new() -> Self {
        let ca = Self { dir: tempfile::tempdir().unwrap() };
        for (name, content) in
            [("ca.cnf", CNF), ("index.txt", ""), ("index.txt.attr", "unique_subject = no\n"), ("crlnumber", "01\n")]
        {
            fs::write(ca.path(name), content).unwrap();
        }
        // Beyond 64 bits, and with a first digit of 8 or more, so that the INTEGER needs a sign octet.
        fs::write(ca.path("serial"), "F0E1D2C3B4A5968778695A4B3C2D1E0F\n").unwrap();
        fs::create_dir(ca.path("newcerts")).unwrap();
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-config", "ca.cnf"];
        let new = ["req", "-x509", "-days", "3650", "-subj", "/CN=Main", "-extensions", "ca_cert"];
        ca.openssl(&[&new[..], &key, &["-keyout", "ca.key", "-out", "ca.crt"]].concat());
        ca.issue("ocsp", &["-extensions", "delegate", "-extfile", "ca.cnf"]);
        fs::set_permissions(ca.path("ocsp.key"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        ca
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs `openssl` in the CA's folder.
    pub(crate) fn openssl(&self, arguments: &[&str]) -> String {
        let done = Command::new("openssl").args(arguments).current_dir(self.dir.path()).output().unwrap();
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    }

    /// Issues the certificate `NAME.crt` with more arguments of `openssl ca`.
    pub(crate) fn issue(&self, name: &str, more: &[&str]) {
        let (key, request, certificate) = (format!("{name}.key"), format!("{name}.csr"), format!("{name}.crt"));
        let subject = format!("/CN={name}");
        let new =
            ["req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-config", "ca.cnf"];
        self.openssl(&[&new[..], &["-subj", &subject, "-keyout", &key, "-out", &request]].concat());
        let sign = ["ca", "-batch", "-notext", "-config", "ca.cnf", "-in", &request, "-out", &certificate];
        self.openssl(&[&sign[..], more].concat());
    }

    pub(crate) fn revoke(&self, name: &str, reason: &[&str]) {
        let certificate = format!("{name}.crt");
        self.openssl(&[&["ca", "-config", "ca.cnf", "-revoke", &certificate][..], reason].concat());
    }

    /// A certificate of this CA that its database knows nothing of.
    fn forge(&self, name: &str) {
        self.openssl(&[
            "req",
            "-new",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-config",
            "ca.cnf",
            "-subj",
            "/CN=forged",
            "-keyout",
            "forged.key",
            "-out",
            "forged.csr",
        ]);
        let certificate = format!("{name}.crt");
        self.openssl(&[
            "x509",
            "-req",
            "-in",
            "forged.csr",
            "-CA",
            "ca.crt",
            "-CAkey",
            "ca.key",
            "-set_serial",
            "0x7777",
            "-days",
            "10",
            "-out",
            &certificate,
        ]);
    }

    fn serve(&self, sample: &str) -> Server {
        serve(self.dir.path(), self.dir.path(), sample, |config| config)
    }

    fn ask(&self, server: &Server, name: &str) -> String {
        ask(server, &self.path("ca.crt"), &self.path(&format!("{name}.crt"))).all()
    }

    fn wait_for(&self, server: &Server, name: &str, status: &str) {
        wait_until(&format!("{name} is {status}"), || contains(&self.ask(server, name), status));
    }
}

/// Serves the config sample in `dir`, where the files stand that it names.
pub(crate) fn serve(dir: &Path, work: &Path, sample: &str, edit: impl FnOnce(String) -> String) -> Server {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/config").join(sample);
    let config = edit(fs::read_to_string(sample).unwrap());
    let file = dir.join("jarchy.toml");
    fs::write(
        &file,
        format!("[server]\nlisten = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\ngrace = \"0s\"\n\n{config}"),
    )
    .unwrap();
    let log = work.join("log");
    // Of an earlier server in the same folder.
    let _ = fs::remove_file(&log);
    Server::start(&["serve", "--config", text(&file)], &log)
}

pub(crate) fn ask(server: &Server, ca: &Path, certificate: &Path) -> Said {
    let (ca, url) = (text(ca), format!("{}/ocsp", server.url));
    openssl(&["ocsp", "-issuer", ca, "-CAfile", ca, "-url", &url, "-resp_text", "-cert", text(certificate)])
}

fn health(server: &Server) -> String {
    run("curl", &["-sS", &format!("http://{}/health/ready", admin(server))]).out
}

#[test]
fn openssl_ca_issues_revokes_and_lets_expire_while_jarchy_looks_on() {
    let ca = OpensslCa::new();
    ca.issue("early", &[]);
    ca.revoke("early", &["-crl_reason", "superseded"]);
    ca.issue("steady", &["-enddate", "20600101000000Z"]);
    ca.forge("forged");
    let server = ca.serve("index-txt.toml");
    let said = ca.ask(&server, "early");
    assert!(said.contains("early.crt: revoked") && said.contains("Reason: superseded"), "{said}");
    assert!(said.contains("Response verify OK"), "{said}");
    contains(&ca.ask(&server, "steady"), "steady.crt: good").unwrap();
    contains(&ca.ask(&server, "forged"), "unauthorized (6)").unwrap();

    ca.issue("late", &[]);
    ca.wait_for(&server, "late", "late.crt: good");
    ca.revoke("late", &["-crl_compromise", "20261101000000Z"]);
    ca.wait_for(&server, "late", "Reason: keyCompromise");
    ca.issue("held", &[]);
    ca.revoke("held", &["-crl_hold", "holdInstructionReject"]);
    ca.wait_for(&server, "held", "Reason: certificateHold");
    ca.issue("over", &["-startdate", "20200101000000Z", "-enddate", "20210101000000Z"]);
    ca.openssl(&["ca", "-config", "ca.cnf", "-updatedb"]);
    assert!(fs::read_to_string(ca.path("index.txt")).unwrap().contains("\nE\t210101000000Z"));
    ca.wait_for(&server, "over", "over.crt: good");

    // Put beside and renamed, as careful programs do; and written over in place.
    let index = fs::read_to_string(ca.path("index.txt")).unwrap();
    let revoked = |name: &str| {
        let line = index.lines().find(|line| line.ends_with(&format!("/CN={name}"))).unwrap();
        index.replace(
            line,
            &line.replacen("V\t", "R\t", 1).replacen("Z\t\t", "Z\t261120000000Z,cessationOfOperation\t", 1),
        )
    };
    fs::write(ca.path("index.new"), revoked("steady")).unwrap();
    fs::rename(ca.path("index.new"), ca.path("index.txt")).unwrap();
    ca.wait_for(&server, "steady", "Reason: cessationOfOperation");
    assert!(health(&server).contains("\"status\": \"ready\""), "{}", health(&server));
    server.stop();
}

#[test]
fn a_half_written_index_is_not_taken_for_the_truth_and_a_line_that_is_none_is_named() {
    let ca = OpensslCa::new();
    ca.issue("one", &[]);
    ca.issue("two", &[]);
    ca.revoke("two", &["-crl_reason", "keyCompromise"]);
    let server = ca.serve("index-txt.toml");
    contains(&ca.ask(&server, "two"), "two.crt: revoked").unwrap();
    let index = fs::read_to_string(ca.path("index.txt")).unwrap();

    // The line of `one` is only half there, and that of `two` is not.
    let half = &index[..index.find("/CN=one").unwrap()];
    fs::write(ca.path("index.txt"), half).unwrap();
    wait_until("health tells of it", || contains(&health(&server), "its last line has no end"));
    contains(&ca.ask(&server, "one"), "one.crt: good").unwrap();
    contains(&ca.ask(&server, "two"), "two.crt: revoked").unwrap();

    let broken = index.replace("/CN=one\n", "/CN=one\nV\tsometime\t\t0A\tunknown\t/CN=odd\n");
    fs::write(ca.path("index.txt"), broken).unwrap();
    wait_until("the line is named", || {
        let health = health(&server);
        contains(&health, "serial 0A: the row is left out (")
            .and_then(|()| contains(&health, "index.txt, line 3): notAfter"))
    });
    contains(&ca.ask(&server, "one"), "one.crt: good").unwrap();

    fs::write(ca.path("index.txt"), format!("{index}V\tnever\n")).unwrap();
    wait_until("a line that names nothing is told", || {
        contains(&health(&server), "index.txt, line 4: the row is left out: 2 fields where six are expected")
    });

    // What can be read of a revocation counts, and what cannot is told, for as long as it stands there.
    let strange = |index: &str| index.replace(",keyCompromise\t", ",stolen\t");
    fs::write(ca.path("index.txt"), strange(&index)).unwrap();
    wait_until("the amended line is named", || {
        let health = health(&server);
        contains(&health, "the row is taken with something amended (")
            .and_then(|()| contains(&health, "index.txt, line 3): reason"))
    });
    contains(&ca.ask(&server, "two"), "two.crt: revoked").unwrap();
    fs::write(ca.path("index.txt"), &index).unwrap();
    wait_until("health has nothing to tell", || contains(&health(&server), "\"status\": \"ready\""));
    ca.issue("three", &[]);
    ca.wait_for(&server, "three", "three.crt: good");
    server.stop();
}

/// `easyrsa` of Debian in a folder of its own.
struct EasyRsa {
    dir: TempDir,
}

impl EasyRsa {
    const PROGRAM: &str = "/usr/share/easy-rsa/easyrsa";

    fn run(&self, arguments: &[&str]) {
        let done = Command::new(Self::PROGRAM)
            .args(arguments)
            .current_dir(self.dir.path())
            .env("EASYRSA", "/usr/share/easy-rsa")
            .env("EASYRSA_PKI", self.dir.path().join("pki"))
            .envs([("EASYRSA_BATCH", "1"), ("EASYRSA_ALGO", "ec"), ("EASYRSA_CURVE", "prime256v1")])
            .output()
            .unwrap();
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    }

    fn pki(&self, name: &str) -> PathBuf {
        self.dir.path().join("pki").join(name)
    }
}

#[test]
fn easy_rsa_issues_revokes_and_renews_while_jarchy_looks_on() {
    if !Path::new(EasyRsa::PROGRAM).exists() {
        println!("SKIPPED: {} is not installed", EasyRsa::PROGRAM);
        assert!(std::env::var_os("JARCHY_REQUIRE_SERVICES").is_none(), "easy-rsa is needed");
        return;
    }
    let ca = EasyRsa { dir: tempfile::tempdir().unwrap() };
    ca.run(&["init-pki"]);
    ca.run(&["build-ca", "nopass"]);
    ca.run(&["build-client-full", "alice", "nopass"]);
    ca.run(&["--days=9800", "build-client-full", "bob", "nopass"]);
    ca.run(&["--days=20", "build-client-full", "carol", "nopass"]);
    // easy-rsa's CA may not sign OCSP responses itself, so it issues a delegate.
    ca.run(&["gen-req", "ocsp", "nopass"]);
    let extensions = ca.dir.path().join("delegate.cnf");
    fs::write(&extensions, "extendedKeyUsage = OCSPSigning\nkeyUsage = critical, digitalSignature\n").unwrap();
    let [ca_file, key, request, certificate] =
        ["ca.crt", "private/ca.key", "reqs/ocsp.req", "ocsp.crt"].map(|name| text(&ca.pki(name)).to_owned());
    let sign = ["x509", "-req", "-in", &request, "-CA", &ca_file, "-CAkey", &key, "-days", "30", "-set_serial", "0x55"];
    openssl(&[&sign[..], &["-extfile", text(&extensions), "-out", &certificate]].concat()).ok("x509");
    fs::copy(ca.pki("private/ocsp.key"), ca.pki("ocsp.key")).unwrap();
    fs::set_permissions(ca.pki("ocsp.key"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    for name in ["alice", "bob", "carol"] {
        fs::copy(ca.pki(&format!("issued/{name}.crt")), ca.dir.path().join(format!("{name}.crt"))).unwrap();
    }

    let server = serve(&ca.pki(""), ca.dir.path(), "index-txt.toml", |config| config);
    let asked = |name: &str| ask(&server, &ca.pki("ca.crt"), &ca.dir.path().join(format!("{name}.crt"))).all();
    for name in ["alice", "bob", "carol"] {
        contains(&asked(name), &format!("{name}.crt: good")).unwrap();
    }
    ca.run(&["revoke", "alice", "keyCompromise"]);
    wait_until("alice is revoked", || contains(&asked("alice"), "Reason: keyCompromise"));
    ca.run(&["renew", "carol", "nopass"]);
    fs::copy(ca.pki("issued/carol.crt"), ca.dir.path().join("renewed.crt")).unwrap();
    wait_until("the renewed one is known", || contains(&asked("renewed"), "renewed.crt: good"));
    contains(&asked("carol"), "carol.crt: good").unwrap();
    ca.run(&["revoke-renewed", "carol", "superseded"]);
    wait_until("the one before is revoked", || contains(&asked("carol"), "Reason: superseded"));
    contains(&asked("renewed"), "renewed.crt: good").unwrap();
    server.stop();
}

impl OpensslCa {
    /// Makes a list and puts it into its place at once.
    fn list(&self, name: &str, more: &[&str]) {
        let list = ["ca", "-config", "ca.cnf", "-gencrl", "-out", "made.crl"];
        self.openssl(&[&list[..], more].concat());
        fs::rename(self.path("made.crl"), self.path(name)).unwrap();
    }

    /// What `openssl crl` says of a list: thisUpdate, nextUpdate.
    fn dates(&self, name: &str) -> [String; 2] {
        let said = self.openssl(&["crl", "-in", name, "-noout", "-lastupdate", "-nextupdate"]);
        let dates: Vec<&str> = said.lines().filter_map(|line| line.split_once('=')).map(|(_, date)| date).collect();
        [0, 1].map(|at| dates[at].to_owned())
    }

    /// Writes the row of a certificate anew, as a CA's own software would.
    fn rewrite(&self, name: &str, edit: impl FnOnce(&str) -> String) {
        let index = fs::read_to_string(self.path("index.txt")).unwrap();
        let line = index.lines().find(|line| line.ends_with(&format!("/CN={name}"))).unwrap();
        fs::write(self.path("index.txt"), index.replace(line, &edit(line))).unwrap();
    }

    /// Lifts the hold of a certificate, for the next list.
    fn release(&self, name: &str) {
        self.rewrite(name, |line| {
            let fields: Vec<&str> = line.split('\t').collect();
            format!("V\t{}\t\t{}\t{}\t{}", fields[1], fields[3], fields[4], fields[5])
        });
    }
}

/// The sample, with a file in the place of its URLs, and `absent` as given.
fn of_file(absent: &'static str) -> impl FnOnce(String) -> String {
    move |sample| {
        let kept = sample.lines().filter(|line| !line.starts_with("delta ") && !line.starts_with("poll "));
        let line = |line: &str| match line {
            line if line.starts_with("url ") => "path = \"ca.crl\"".to_owned(),
            line if line.starts_with("absent ") => format!("absent = {absent:?}"),
            line => line.to_owned(),
        };
        kept.map(line).collect::<Vec<_>>().join("\n")
    }
}

#[test]
fn a_crl_is_answered_from_to_its_last_second_and_never_backwards() {
    let ca = OpensslCa::new();
    for name in ["gone", "held", "fine"] {
        ca.issue(name, &[]);
    }
    ca.forge("forged");
    ca.revoke("gone", &["-crl_compromise", "20261101000000Z"]);
    ca.revoke("held", &["-crl_reason", "certificateHold"]);
    ca.list("ca.crl", &["-crlsec", "600"]);
    fs::copy(ca.path("ca.crl"), ca.path("first.crl")).unwrap();
    let server = serve(ca.dir.path(), ca.dir.path(), "crl-source.toml", of_file("good"));
    let [this_update, next_update] = ca.dates("ca.crl");
    for (name, status) in [
        ("gone", "Reason: keyCompromise"),
        ("held", "Reason: certificateHold"),
        ("fine", "fine.crt: good"),
        ("forged", "forged.crt: good"),
    ] {
        let said = ca.ask(&server, name);
        contains(&said, status).unwrap();
        contains(&said, &format!("This Update: {this_update}")).unwrap();
        contains(&said, &format!("Next Update: {next_update}")).unwrap();
        contains(&said, "Response verify OK").unwrap();
    }

    ca.revoke("fine", &["-crl_reason", "superseded"]);
    ca.release("held");
    ca.list("ca.crl", &["-crldays", "7"]);
    ca.wait_for(&server, "fine", "Reason: superseded");
    ca.wait_for(&server, "held", "held.crt: good");

    // An older list, and another CA's, put into its place.
    fs::copy(ca.path("first.crl"), ca.path("old.crl")).unwrap();
    fs::rename(ca.path("old.crl"), ca.path("ca.crl")).unwrap();
    wait_until("health tells of the older list", || contains(&health(&server), "it is older than the one before"));
    contains(&ca.ask(&server, "fine"), "Reason: superseded").unwrap();
    contains(&ca.ask(&server, "held"), "held.crt: good").unwrap();
    let other = OpensslCa::new();
    other.list("other.crl", &["-crldays", "7"]);
    fs::copy(other.path("other.crl"), ca.path("other.crl")).unwrap();
    fs::rename(ca.path("other.crl"), ca.path("ca.crl")).unwrap();
    wait_until("health tells of the signature", || contains(&health(&server), "the signature does not match"));
    contains(&ca.ask(&server, "fine"), "Reason: superseded").unwrap();
    ca.list("ca.crl", &["-crldays", "7"]);
    let is_ready = || contains(&health(&server), "\"status\": \"ready\"");
    wait_until("nothing is wrong any more", is_ready);
    fs::rename(ca.path("ca.crl"), ca.path("away.crl")).unwrap();
    wait_until("health tells that it is gone", || contains(&health(&server), "No such file"));
    fs::rename(ca.path("away.crl"), ca.path("ca.crl")).unwrap();
    wait_until("it is back", is_ready);
    server.stop();

    // A release that nobody saw, and a list that lapses.
    ca.revoke("held", &["-crl_reason", "certificateHold"]);
    ca.list("ca.crl", &["-crldays", "7"]);
    let server = serve(ca.dir.path(), ca.dir.path(), "crl-source.toml", of_file("unknown"));
    ca.wait_for(&server, "held", "Reason: certificateHold");
    contains(&ca.ask(&server, "forged"), "forged.crt: unknown").unwrap();
    server.stop();
    wait_until("a later second", || {
        let [made, _] = ca.dates("ca.crl");
        ca.release("held");
        ca.list("ca.crl", &["-crldays", "7"]);
        if ca.dates("ca.crl")[0] > made { Ok(()) } else { Err(made) }
    });
    let server = serve(ca.dir.path(), ca.dir.path(), "crl-source.toml", of_file("good"));
    ca.wait_for(&server, "held", "held.crt: good");
    ca.list("ca.crl", &["-crlsec", "1"]);
    wait_until("nothing new is signed", || contains(&ca.ask(&server, "forged"), "trylater"));
    contains(&ca.ask(&server, "gone"), "Reason: keyCompromise").unwrap();
    wait_until("health tells why", || contains(&health(&server), "the CRL has lapsed"));
    ca.list("ca.crl", &["-crldays", "7"]);
    ca.wait_for(&server, "forged", "forged.crt: good");
    server.stop();
}

/// `python3 -m http.server` on a folder.
struct Web {
    child: std::process::Child,
    port: String,
}

impl Web {
    fn start(folder: &Path) -> Self {
        let mut python = Command::new("python3");
        python.args(["-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]).current_dir(folder);
        let mut child =
            python.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn().unwrap();
        let mut first = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.take().unwrap()), &mut first).unwrap();
        let port = first.split(" port ").nth(1).and_then(|rest| rest.split(' ').next()).expect(&first).to_owned();
        Self { child, port }
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        // Already gone, or past asking.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_crl_and_its_delta_are_fetched_from_a_web_server() {
    let ca = OpensslCa::new();
    for name in ["gone", "fine"] {
        ca.issue(name, &[]);
    }
    let delta = "[delta]\nauthorityKeyIdentifier = keyid\n2.5.29.27 = critical, DER:02:01:01\n";
    fs::write(ca.path("ca.cnf"), format!("{CNF}{delta}")).unwrap();
    ca.revoke("gone", &[]);
    fs::create_dir(ca.path("www")).unwrap();
    ca.list("www/ca.crl", &["-crldays", "7"]);
    ca.list("www/delta.crl", &["-crldays", "1", "-crlexts", "delta"]);
    let web = Web::start(&ca.path("www"));
    let local = |sample: String| sample.replace(":8000/", &format!(":{}/", web.port));
    let server = serve(ca.dir.path(), ca.dir.path(), "crl-source.toml", local);
    contains(&ca.ask(&server, "gone"), "gone.crt: revoked").unwrap();
    contains(&ca.ask(&server, "fine"), "fine.crt: good").unwrap();
    ca.revoke("fine", &["-crl_reason", "keyCompromise"]);
    wait_until("the delta tells", || {
        ca.list("www/delta.crl", &["-crldays", "1", "-crlexts", "delta"]);
        contains(&ca.ask(&server, "fine"), "Reason: keyCompromise")
    });
    drop(web);
    wait_until("health tells that it cannot be fetched", || contains(&health(&server), "cannot be fetched"));
    contains(&ca.ask(&server, "fine"), "Reason: keyCompromise").unwrap();
    assert!(health(&server).contains("\"status\": \"ready\""), "{}", health(&server));
    server.stop();
}

/// nginx on the folder `www` of a CA; it writes down what it answered, and what it was asked by.
struct Nginx {
    child: std::process::Child,
    asked: PathBuf,
}

impl Nginx {
    fn start(ca: &OpensslCa, port: u16) -> Option<Self> {
        let at = text(ca.dir.path());
        let temporary =
            ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|kind| format!("{kind}_temp_path {at}/{kind};"));
        let config = format!(
            "daemon off;\nmaster_process off;\npid {at}/pid;\nerror_log {at}/errors;\nevents {{}}\nhttp {{\n{}\n\
             log_format asked escape=none '$status $http_if_none_match $http_if_modified_since';\naccess_log {at}/asked asked;\n\
             server {{ listen 127.0.0.1:{port}; root {at}/www; }}\n}}\n",
            temporary.join("\n")
        );
        fs::write(ca.path("nginx.conf"), config).unwrap();
        let (file, errors) = (ca.path("nginx.conf"), ca.path("errors"));
        match Command::new("nginx").args(["-e", text(&errors), "-c", text(&file)]).spawn() {
            Ok(child) => Some(Self { child, asked: ca.path("asked") }),
            Err(error) => {
                println!("SKIPPED: nginx: {error}");
                assert!(std::env::var_os("JARCHY_REQUIRE_SERVICES").is_none(), "nginx is needed");
                None
            }
        }
    }

    /// Status, If-None-Match and If-Modified-Since of each request.
    fn asked(&self) -> Vec<String> {
        fs::read_to_string(&self.asked).unwrap_or_default().lines().map(str::to_owned).collect()
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Already gone, or past asking.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_list_that_has_not_changed_is_not_sent_again() {
    let ca = OpensslCa::new();
    ca.issue("fine", &[]);
    fs::create_dir(ca.path("www")).unwrap();
    ca.list("www/ca.crl", &["-crldays", "7"]);
    let port = free_port();
    let Some(nginx) = Nginx::start(&ca, port) else { return };
    wait_until("nginx listens", || {
        std::net::TcpStream::connect(("127.0.0.1", port)).map(drop).map_err(|e| e.to_string())
    });
    let local = |sample: String| {
        let lines = sample.lines().filter(|line| !line.starts_with("delta "));
        lines.map(|line| line.replace(":8000/", &format!(":{port}/"))).collect::<Vec<_>>().join("\n")
    };
    let server = serve(ca.dir.path(), ca.dir.path(), "crl-source.toml", local);
    let unchanged = |asked: &[String]| asked.iter().filter(|line| line.starts_with("304 ")).count();
    let wait_for = |unchanged_now: usize| {
        wait_until("it is asked again", || {
            let asked = nginx.asked();
            if unchanged(&asked) >= unchanged_now { Ok(()) } else { Err(asked.join("\n")) }
        });
    };
    wait_for(2);
    let asked = nginx.asked();
    assert_eq!(asked[0], "200  ");
    let [status, tag, since] = *asked[1].splitn(3, ' ').collect::<Vec<_>>() else { panic!("{asked:?}") };
    assert!(status == "304" && tag.starts_with('"') && since.ends_with(" GMT"), "{asked:?}");
    assert!(asked[1..].iter().all(|line| *line == asked[1]), "{asked:?}");

    ca.revoke("fine", &["-crl_reason", "superseded"]);
    ca.list("www/ca.crl", &["-crldays", "7"]);
    ca.wait_for(&server, "fine", "Reason: superseded");
    let before = nginx.asked();
    wait_for(unchanged(&before) + 1);
    let asked = nginx.asked();
    let sent: Vec<&String> = asked.iter().filter(|line| line.starts_with("200 ")).collect();
    assert_eq!(sent, ["200  ", &format!("200 {tag} {since}")], "sent once more, when it was another");
    assert!(!asked.last().unwrap().contains(tag), "{asked:?}");

    drop(nginx);
    wait_until("health tells of it", || contains(&health(&server), "cannot be fetched"));
    let Some(_nginx) = Nginx::start(&ca, port) else { return };
    wait_until("it can be fetched again", || contains(&health(&server), "\"status\": \"ready\""));
    server.stop();
}

#[test]
fn the_number_of_the_ca_s_last_list_is_taken_over_though_there_is_no_database() {
    let ca = OpensslCa::new();
    for name in ["gone", "fine"] {
        ca.issue(name, &[]);
    }
    ca.revoke("gone", &["-crl_reason", "superseded"]);
    // Above what Jarchy would begin with.
    let last = 0x7FFF_FFF0;
    fs::write(ca.path("crlnumber"), format!("{last:X}\n")).unwrap();
    ca.list("last.crl", &["-crldays", "7"]);
    fs::set_permissions(ca.path("ca.key"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let with_lists = |sample: String| format!("{sample}\n[issuer.crl]\nkey = \"ca.key\"\n");
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/config/index-txt.toml");
    fs::write(ca.path("jarchy.toml"), with_lists(fs::read_to_string(sample).unwrap())).unwrap();
    let (list, config) = (ca.path("last.crl"), ca.path("jarchy.toml"));
    let adopt = || jarchy(&["crl", "adopt", "main", text(&list), "--config", text(&config)]);

    let index = fs::read_to_string(ca.path("index.txt")).unwrap();
    ca.release("gone");
    let said = adopt();
    assert!(!said.status.success(), "{said:#?}");
    contains(&said.err, "1 of its entries are not revoked in the database").unwrap();
    fs::write(ca.path("index.txt"), index).unwrap();
    contains(&adopt().ok("adopt").out, &format!("the next CRL of main has a number above {last}")).unwrap();

    let server = serve(ca.dir.path(), ca.dir.path(), "index-txt.toml", with_lists);
    let to = ca.path("new.crl");
    server.fetch("/crl/main.crl", &to);
    assert!(number(&to) > last, "{}", number(&to));
    server.stop();
}

#[test]
fn what_index_txt_attr_says_is_told() {
    let ca = OpensslCa::new();
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/config/index-txt.toml");
    fs::copy(sample, ca.path("jarchy.toml")).unwrap();
    let config = ca.path("jarchy.toml");
    let check = || jarchy(&["source", "check", "--config", text(&config)]).ok("source check").out;
    // As `openssl ca` itself wrote it.
    contains(&check(), "index.txt.attr: unique_subject = no").unwrap();
    fs::write(ca.path("index.txt.attr"), "unique_subject = maybe\n").unwrap();
    contains(&check(), "index.txt.attr, line 1: \"unique_subject = maybe\" is neither yes nor no; write").unwrap();
    fs::remove_file(ca.path("index.txt.attr")).unwrap();
    assert!(!check().contains("unique_subject"));
}

#[test]
fn source_check_says_what_is_wrong_with_a_list_and_how_to_mend_it() {
    let ca = OpensslCa::new();
    ca.issue("gone", &[]);
    ca.revoke("gone", &[]);
    // Deltas on the list with number 2, which is there, and on 7, which is not.
    let on = |number: u8| format!("authorityKeyIdentifier = keyid\n2.5.29.27 = critical, DER:02:01:{number:02}\n");
    fs::write(ca.path("ca.cnf"), format!("{CNF}[on_two]\n{}[on_seven]\n{}", on(2), on(7))).unwrap();
    fs::create_dir(ca.path("www")).unwrap();
    ca.list("over.crl", &["-crlsec", "1"]);
    ca.list("ca.crl", &["-crldays", "7"]);
    ca.list("delta.crl", &["-crldays", "7", "-crlexts", "on_two"]);
    ca.list("ahead.crl", &["-crldays", "7", "-crlexts", "on_seven"]);
    fs::write(ca.path("www/page.crl"), "<html>Please log in</html>\n").unwrap();
    let twin = OpensslCa::new();
    twin.list("twin.crl", &["-crldays", "7"]);
    fs::copy(twin.path("twin.crl"), ca.path("twin.crl")).unwrap();
    let web = Web::start(&ca.path("www"));
    let check = |place: &str| {
        let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/config/crl-source.toml");
        let sample = fs::read_to_string(sample).unwrap();
        let lines =
            sample.lines().filter(|line| !["url ", "delta ", "poll "].iter().any(|name| line.starts_with(name)));
        let line = |line: &str| if line.starts_with("kind ") { format!("{line}\n{place}") } else { line.to_owned() };
        let config = ca.path("jarchy.toml");
        fs::write(&config, lines.map(line).collect::<Vec<_>>().join("\n")).unwrap();
        jarchy(&["source", "check", "--config", text(&config)])
    };
    let at = |path: &str| format!("url = \"http://127.0.0.1:{}/{path}\"", web.port);
    for (place, status, said) in [
        ("path = \"ca.crl\"\ndelta = \"delta.crl\"".to_owned(), 0, "it speaks for"),
        ("path = \"ca.crl\"\ndelta = \"ahead.crl\"".to_owned(), 0, "builds on complete CRL 7, and the one here is 2"),
        (
            "path = \"ca.crl\"\ndelta = \"ca.crl\"".to_owned(),
            0,
            "it is a complete list, which belongs in `path` or `url`",
        ),
        ("path = \"delta.crl\"".to_owned(), 1, "it is a delta, which belongs in `delta`"),
        ("path = \"over.crl\"".to_owned(), 4, "until a newer list comes, nothing but revoked is answered"),
        ("path = \"twin.crl\"".to_owned(), 1, "the signature does not match; is `certificate` of the same key?"),
        ("path = \"none.crl\"".to_owned(), 1, "none.crl: No such file"),
        (at("none.crl"), 1, "none.crl cannot be fetched: the server answered 404"),
        (at("page.crl"), 1, "page.crl: neither a CRL in DER nor in PEM, it begins with \"<html>Please log in"),
    ] {
        wait_until(&place, || {
            let answer = check(&place);
            contains(&answer.all(), said)?;
            if answer.status.code() == Some(status) { Ok(()) } else { Err(format!("{answer:#?}")) }
        });
    }
}
