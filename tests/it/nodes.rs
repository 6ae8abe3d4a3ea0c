//! Two nodes on one issuance database, each with the CA's key and a state store of its own.

use crate::crl_commands::admin;
use crate::harness::{Demo, Said, Server, contains, jarchy, openssl, run, text, wait_until};
use crate::servers::{self, Engine};
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

/// A folder with the demo's CA, and a config that names the issuance database.
struct Node {
    _work: TempDir,
    dir: PathBuf,
}

impl Node {
    /// `database` is what stands in the config.
    fn new(database: &str) -> Self {
        let (work, dir) = Demo::copied();
        let config = fs::read_to_string(dir.join("jarchy.toml")).unwrap();
        let config = config.replace("#path = \"issuance.db\"", database);
        fs::write(dir.join("jarchy.toml"), config.replace("admin = \"off\"", "admin = \"127.0.0.1:0\"")).unwrap();
        Self { _work: work, dir }
    }

    fn file(&self, name: &str) -> String {
        text(&self.dir.join(name)).to_owned()
    }

    fn begin(&self, log: &str) -> Server {
        let arguments = ["serve", "--config", &self.file("jarchy.toml"), "--listen", "127.0.0.1:0"];
        Server::spawn(&arguments, &self.dir.join(log))
    }

    fn operator(&self, arguments: &[&str]) -> Said {
        jarchy(&[arguments, &["--config", &self.file("jarchy.toml")]].concat())
    }

    /// Number and text of the list that is served.
    fn list(&self, server: &Server) -> (u64, String) {
        let file = self.dir.join("served.crl");
        server.fetch("/crl/demo.crl", &file);
        let read = ["crl", "-inform", "DER", "-in", text(&file), "-noout", "-text", "-crlnumber"];
        let said = openssl(&read).ok("crl").out;
        let number = said.lines().find_map(|line| line.strip_prefix("crlNumber=0x")).unwrap();
        (u64::from_str_radix(number, 16).unwrap(), said)
    }
}

/// In what state a server says that its lists are, and why.
fn lists(server: &Server) -> String {
    let said = run("curl", &["-sS", &format!("http://{}/health/ready", admin(server))]).ok("health").out;
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    let all = said["components"].as_array().unwrap();
    let lists = all.iter().find(|component| component["name"] == "crl:demo").unwrap();
    format!("{} {}", lists["state"].as_str().unwrap(), lists["reason"])
}

/// One makes the lists, the other says who does, and takes over when it is told to.
fn one_makes_the_lists(first: &Node, second: &Node) {
    let mut one = first.begin("log");
    one.url = one.serving();
    let mut two = second.begin("log");
    wait_until("the second is at work", || contains(&two.log(), "health and metrics"));
    wait_until("it says who makes the lists", || {
        let said = lists(&two);
        contains(&said, "failed")?;
        contains(&said, "the CRLs of demo are made at")?;
        contains(&said, "jarchy crl take-over demo")
    });
    contains(&lists(&one), "ok").unwrap();
    assert!(!second.operator(&["crl", "get", "demo", "--output", &second.file("none.crl")]).status.success());

    let taken = second.operator(&["crl", "take-over", "demo", "--by", "boris"]).ok("take-over").out;
    contains(&taken, "are made here from now on, no longer at").unwrap();
    contains(&second.operator(&["crl", "take-over", "demo"]).ok("again").out, "nothing to do").unwrap();
    two.url = two.serving();
    wait_until("the first says that it makes none", || contains(&lists(&one), "jarchy crl take-over demo"));
    let (before, _) = first.list(&one);
    first.operator(&["revoke", &first.file("good.pem"), "--reason", "superseded"]).ok("revoke");
    let good = openssl(&["x509", "-in", &first.file("good.pem"), "-noout", "-serial"]).ok("x509").out;
    let good = good.trim().trim_start_matches("serial=").to_owned();
    wait_until("the second lists it", || contains(&second.list(&two).1, &good));
    assert!(second.list(&two).0 > before, "numbers go on above those of the first");
    let (after, list) = first.list(&one);
    assert!(after == before && !list.contains(&good), "what the first had is served as it was");

    // Whoever makes them may be restarted; another does not come in between.
    two.stop();
    let mut two = second.begin("later.log");
    two.url = two.serving();
    contains(&lists(&two), "ok").unwrap();
    contains(&lists(&one), "jarchy crl take-over demo").unwrap();
}

#[test]
fn promise_5_of_two_nodes_on_one_file_one_makes_the_lists() {
    let first = Node::new("#path = \"issuance.db\"");
    let second = Node::new(&format!("path = {:?}", first.file("issuance.db")));
    one_makes_the_lists(&first, &second);
}

#[test]
fn promise_5_of_two_nodes_on_one_server_one_makes_the_lists() {
    for server in Engine::ALL.into_iter().filter_map(servers::Server::shared) {
        let database = server.database();
        let setting = format!("url = {:?}", database.url());
        let (first, second) = (Node::new(&setting), Node::new(&setting));
        let (ca, key, other) = (first.file("ca.pem"), first.file("ca.key"), first.file("other"));
        let init = ["init", "--dir", &other, "--issuer", "demo", "--ca-cert", &ca, "--ca-key", &key, "--crl-only"];
        jarchy(&[&init[..], &["--database", &database.url()]].concat()).ok("init");
        first.operator(&["add", &first.file("good.pem")]).ok("add");
        one_makes_the_lists(&first, &second);
    }
}
