//! nginx in front, as the README has it.

use crate::harness::{Demo, Said, Server, contains, openssl, run, text, wait_until};
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

const README: &str = include_str!("../../README.md");

/// nginx; ended when dropped.
struct Nginx {
    child: Child,
    url: String,
}

impl Nginx {
    /// Runs the README's sample before `server`; `None` if there is no nginx here.
    fn start(dir: &Path, server: &Server) -> Option<Self> {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let sample = README.split("```nginx\n").nth(1).unwrap().split("```").next().unwrap();
        let at = text(dir);
        let sample = sample
            .replace("/var/cache/nginx/jarchy", &format!("{at}/cache"))
            .replace("127.0.0.1:8080", &server.address().to_string())
            .replace("listen 80;", &format!("listen 127.0.0.1:{port};"));
        let temporary =
            ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|kind| format!("{kind}_temp_path {at}/{kind};"));
        let config = format!(
            "daemon off;\nmaster_process off;\npid {at}/pid;\nerror_log {at}/errors;\nevents {{}}\nhttp {{\naccess_log off;\n\
             {}\n{sample}}}\n",
            temporary.join("\n")
        );
        let (file, errors) = (dir.join("nginx.conf"), dir.join("errors"));
        fs::write(&file, config).unwrap();
        let child = Command::new("nginx").args(["-e", text(&errors), "-c", text(&file)]).stdin(Stdio::null()).spawn();
        let child = match child {
            Ok(child) => child,
            Err(error) => {
                println!("SKIPPED: nginx: {error}");
                assert!(std::env::var_os("JARCHY_REQUIRE_SERVICES").is_none(), "nginx is needed");
                return None;
            }
        };
        let nginx = Self { child, url: format!("http://127.0.0.1:{port}") };
        wait_until("nginx listens", || {
            let errors = || fs::read_to_string(&errors).unwrap_or_default();
            TcpStream::connect(("127.0.0.1", port)).map(drop).map_err(|error| format!("{error} {}", errors()))
        });
        Some(nginx)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Already gone, or past asking.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// id-pkix-ocsp-nonce: an answer with it was signed for one client alone.
const NONCE: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 2];

/// What `curl` with `arguments` gets of `url`, and the head it came with.
fn curl(url: &str, body: &Path, arguments: &[&str]) -> (String, Vec<u8>) {
    let fixed = ["-sS", "--path-as-is", "-D", "-", "-o", text(body), url];
    let Said { out, .. } = run("curl", &[&fixed, arguments].concat()).ok(url);
    (out.to_lowercase(), fs::read(body).unwrap())
}

#[test]
fn nginx_as_the_readme_has_it_changes_no_request_caches_for_the_max_age_and_tells_clients_apart() {
    let (work, dir) = Demo::copied();
    let file = dir.join("jarchy.toml");
    let config = fs::read_to_string(&file).unwrap();
    let edited = config
        .replace("#trusted_proxies = []", "trusted_proxies = [\"127.0.0.1\"]")
        .replace("#live_rate_per_client = 100", "live_rate_per_client = 1")
        .replacen("#max_age = \"1m\"", "max_age = \"2s\"", 1);
    assert_eq!(config.lines().zip(edited.lines()).filter(|(before, after)| before != after).count(), 3, "{config}");
    fs::write(&file, edited).unwrap();
    let log = work.path().join("log");
    let demo =
        Demo { server: Server::start(&["demo", "--dir", text(&dir), "--listen", "127.0.0.1:0"], &log), dir, work };
    let front = demo.scratch("nginx");
    fs::create_dir(&front).unwrap();
    let Some(nginx) = Nginx::start(&front, &demo.server) else { return };
    let (body, asked) = (demo.scratch("body"), demo.scratch("asked"));
    let (ca, good) = (demo.file("ca.pem"), demo.file("good.pem"));
    let make = |arguments: &[&str]| {
        openssl(&[&["ocsp", "-issuer", &ca, "-reqout", text(&asked)], arguments].concat()).ok("a request");
        let base64 = openssl(&["base64", "-A", "-in", text(&asked)]).ok("base64").out;
        format!("/ocsp/{base64}")
    };

    // Two slashes side by side would be one to whoever tidies paths up.
    let path = (0..10_000_u32).find_map(|n| {
        let path = make(&["-no_nonce", "-serial", &format!("0xfffffff{n:05x}")]);
        path["/ocsp/".len()..].contains("//").then_some(path)
    });
    let path = path.expect("two slashes");
    let posted = curl(&format!("{}/ocsp", demo.server.url), &body, &["--data-binary", &format!("@{}", text(&asked))]);
    for path in [path.clone(), path.replace('/', "%2F").replacen("%2F", "/", 2), path.replace('+', "%2b")] {
        assert_eq!(curl(&format!("{}{path}", nginx.url), &body, &[]).1, posted.1, "{path}");
    }
    assert_ne!(posted.1, b"\x30\x03\x0a\x01\x01", "malformed");

    // Kept for the max-age, and not until nextUpdate.
    let path = make(&["-no_nonce", "-cert", &good]);
    let get = || curl(&format!("{}{path}", nginx.url), &body, &[]);
    let first = get();
    assert!(first.0.contains("x-cache: miss"), "{}", first.0);
    wait_until("it is kept", || contains(&get().0, "x-cache: hit"));
    let serial = demo.serial("good");
    demo.operator(&["revoke", "--reason", "superseded", &serial]).ok("revoke");
    wait_until("it is asked for again", || match get() {
        (_, body) if body == first.1 => Err("as before".to_owned()),
        _ => Ok(()),
    });
    assert!(demo.ask("good", &[]).contains("good.pem: revoked"));

    // Each client has its own share of signatures.
    make(&["-cert", &good]);
    let url = format!("{}/ocsp", nginx.url);
    let own = |client: &str| {
        let arguments = ["--interface", client, "--data-binary", &format!("@{}", text(&asked))];
        let (_, answer) = curl(&url, &body, &arguments);
        usize::from(answer.windows(NONCE.len()).any(|octets| octets == NONCE))
    };
    let greedy = (0..40).map(|_| own("127.0.0.2")).sum::<usize>();
    assert!((1..20).contains(&greedy), "{greedy}");
    // Some may share a budget by the hash of their addresses.
    let modest = (3..23).map(|n| own(&format!("127.0.0.{n}"))).sum::<usize>();
    assert!(modest > 16, "{modest}");
}
