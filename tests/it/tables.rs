//! Jarchy beside CAs that keep their certificates in SQL: EJBCA's and cfssl's tables with the column types of their
//! own DDL, and a table of nobody's, on PostgreSQL, MariaDB and SQLite; `source check` and `import`.

use crate::beside::{OpensslCa, ask, serve};
use crate::harness::{Said, Server, contains, jarchy, run, text, wait_until};
use crate::servers::{self, Database, Engine};
use jarchy::pki::Serial;
use std::fs;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

/// A certificate as a row of somebody's table needs it.
struct Issued {
    decimal: String,
    pem: String,
    base64: String,
    fingerprint: String,
}

impl Issued {
    fn of(ca: &OpensslCa, name: &str) -> Self {
        let certificate = format!("{name}.crt");
        let said = ca.openssl(&["x509", "-in", &certificate, "-noout", "-serial", "-fingerprint", "-sha1"]);
        let value = |line: &str| line.split_once('=').unwrap().1.replace(':', "");
        let mut lines = said.lines().map(value);
        let serial: Serial = lines.next().unwrap().parse().unwrap();
        let pem = fs::read_to_string(ca.path(&certificate)).unwrap();
        let base64 = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        Self { decimal: serial.to_decimal(), pem, base64, fingerprint: lines.next().unwrap().to_lowercase() }
    }
}

fn millis() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

fn asked(server: &Server, ca: &OpensslCa, name: &str) -> String {
    ask(server, &ca.path("ca.crt"), &ca.path(&format!("{name}.crt"))).all()
}

/// A user of the database that may only look.
fn reader(database: &Database<'_>) -> String {
    let (name, url) = (format!("reader_{}", database.name), database.url());
    match database.server.engine {
        Engine::Postgres => {
            database.sql(&format!("CREATE ROLE {name} LOGIN; GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}"));
            url.replace("postgres@", &format!("{name}@"))
        }
        Engine::MariaDb => {
            database.sql(&format!("CREATE USER {name}; GRANT SELECT ON {}.* TO {name}", database.name));
            url.replace("root@", &format!("{name}@"))
        }
    }
}

/// The sample with this URL in place of its own, `path` too.
fn at(url: String) -> impl Fn(String) -> String {
    move |sample| {
        let line = |line: &str| match line {
            line if line.starts_with("url = ") || line.starts_with("path = ") => format!("url = {url:?}"),
            line => line.to_owned(),
        };
        sample.lines().map(line).collect::<Vec<_>>().join("\n")
    }
}

fn check(ca: &OpensslCa) -> Said {
    jarchy(&["source", "check", "--config", text(&ca.path("jarchy.toml"))])
}

/// EJBCA's tables, with the columns that Jarchy reads and the types of EJBCA's own DDL.
fn ejbca_tables(engine: Engine) -> String {
    let (string, long, int, blob) = match engine {
        Engine::Postgres => ("TEXT", "INT8", "INT4", "TEXT"),
        Engine::MariaDb => ("VARCHAR(250) BINARY", "BIGINT(20)", "INT(11)", "LONGTEXT"),
    };
    let columns = format!(
        "fingerprint {string} NOT NULL, base64Cert {blob}, cAFingerprint {string}, certificateProfileId {int} NOT NULL, \
         expireDate {long} NOT NULL, issuerDN {string} NOT NULL, revocationDate {long} NOT NULL, \
         revocationReason {int} NOT NULL, rowVersion {int} NOT NULL, serialNumber {string} NOT NULL, \
         status {int} NOT NULL, subjectDN {string} NOT NULL, type {int} NOT NULL, updateTime {long} NOT NULL"
    );
    format!(
        "CREATE TABLE CertificateData ({columns}, PRIMARY KEY (fingerprint)); \
         CREATE TABLE NoConflictCertificateData (id {string} NOT NULL, {columns}, PRIMARY KEY (id)); \
         CREATE TABLE Base64CertData (fingerprint {string} NOT NULL, base64Cert {blob}, rowVersion {int} NOT NULL, \
         PRIMARY KEY (fingerprint));"
    )
}

struct EjbcaRow<'a> {
    status: i32,
    reason: i32,
    revoked_at: i64,
    written: i64,
    /// In the row itself, in Base64CertData, or nowhere.
    certificate: Option<&'a str>,
}

fn ejbca_row(ca_fingerprint: &str, issued: &Issued, table: &str, row: &EjbcaRow<'_>) -> String {
    let EjbcaRow { status, reason, revoked_at, written, certificate } = row;
    let certificate = certificate.map_or_else(|| "NULL".to_owned(), |text| format!("'{text}'"));
    let (id, id_value) =
        if table == "CertificateData" { ("", String::new()) } else { ("id, ", format!("'{written}', ")) };
    format!(
        "INSERT INTO {table} ({id}fingerprint, base64Cert, cAFingerprint, certificateProfileId, expireDate, issuerDN, \
         revocationDate, revocationReason, rowVersion, serialNumber, status, subjectDN, type, updateTime) VALUES \
         ({id_value}'{}', {certificate}, '{ca_fingerprint}', 1, 1900000000000, 'CN=Main', {revoked_at}, {reason}, 0, '{}', \
         {status}, 'CN=x', 1, {written});",
        issued.fingerprint, issued.decimal
    )
}

fn beside_ejbca(database: &Database<'_>) {
    let ca = OpensslCa::new();
    let names = ["active", "notified", "revoked", "held", "archived", "expired", "thrown", "foreign"];
    for name in names {
        ca.issue(name, &[]);
    }
    let of = |name: &str| Issued::of(&ca, name);
    let (root, now) = (of("ca").fingerprint, millis());
    database.sql(&ejbca_tables(database.server.engine));
    let put = |name: &str, status: i32, reason: i32| {
        let revoked_at = if reason == -1 { -1 } else { now - 60_000 };
        let issued = of(name);
        // Here some stand in the row, and some in the table beside it.
        let certificate = (status == 40).then_some(issued.base64.as_str());
        let row = EjbcaRow { status, reason, revoked_at, written: now - 30_000, certificate };
        database.sql(&ejbca_row(&root, &issued, "CertificateData", &row));
        database.sql(&format!("INSERT INTO Base64CertData VALUES ('{}', '{}', 0);", issued.fingerprint, issued.base64));
    };
    put("active", 20, -1);
    put("notified", 21, -1);
    put("revoked", 40, 1);
    put("held", 40, 6);
    put("archived", 60, 4);
    put("expired", 60, -1);
    // A CA that keeps no certificates writes a row for each change of one that was revoked.
    let thrown = of("thrown");
    for (reason, status, written) in [(6, 40, now - 20_000), (3, 40, now - 10_000)] {
        let row = EjbcaRow { status, reason, revoked_at: written, written, certificate: None };
        database.sql(&ejbca_row(&root, &thrown, "NoConflictCertificateData", &row));
    }
    let elsewhere = EjbcaRow { status: 20, reason: -1, revoked_at: -1, written: now, certificate: None };
    database.sql(&ejbca_row("another CA", &of("foreign"), "CertificateData", &elsewhere));

    let url = reader(database);
    let server = serve(&ca.path(""), &ca.path(""), "ejbca.toml", at(url));
    for (name, status) in [
        ("active", "active.crt: good"),
        ("notified", "notified.crt: good"),
        ("revoked", "Reason: keyCompromise"),
        ("held", "Reason: certificateHold"),
        ("archived", "Reason: superseded"),
        ("expired", "expired.crt: good"),
        ("thrown", "Reason: affiliationChanged"),
        ("foreign", "unauthorized (6)"),
    ] {
        contains(&asked(&server, &ca, name), status).unwrap();
    }
    let update = |name: &str, set: String| {
        database.sql(&format!("UPDATE CertificateData SET {set} WHERE serialNumber = '{}'", of(name).decimal));
    };
    update("active", format!("status = 40, revocationReason = 5, revocationDate = {0}, updateTime = {0}", millis()));
    wait_until("it is revoked", || contains(&asked(&server, &ca, "active"), "Reason: cessationOfOperation"));
    update("held", format!("status = 20, revocationReason = -1, revocationDate = -1, updateTime = {}", millis()));
    wait_until("its hold is over", || contains(&asked(&server, &ca, "held"), "held.crt: good"));
    // Dated some seconds before it was committed.
    update(
        "notified",
        format!("status = 40, revocationReason = 1, revocationDate = {0}, updateTime = {0}", millis() - 5_000),
    );
    wait_until("the late one is revoked", || contains(&asked(&server, &ca, "notified"), "Reason: keyCompromise"));
    server.stop();

    let said = check(&ca).ok("source check").out;
    contains(&said, "7 rows").and_then(|()| contains(&said, "hash known")).unwrap();
    contains(&said, "every row was understood").unwrap();
}

#[test]
fn ejbca_s_own_tables_are_followed_with_rights_to_read_only() {
    for server in Engine::ALL.into_iter().filter_map(servers::Server::shared) {
        beside_ejbca(&server.database());
    }
}

/// Where cfssl's table is.
enum Theirs<'a> {
    Server(Database<'a>),
    File(PathBuf),
}

impl Theirs<'_> {
    fn sql(&self, statements: &str) {
        match self {
            Self::Server(database) => _ = database.sql(statements),
            Self::File(file) => _ = run("sqlite3", &[text(file), statements]).ok(statements),
        }
    }

    fn edit(&self) -> Box<dyn Fn(String) -> String> {
        match self {
            Self::Server(database) => Box::new(at(reader(database))),
            Self::File(file) => {
                let file = text(file).to_owned();
                Box::new(move |sample| sample.replace("certs.db", &file))
            }
        }
    }

    /// The column types of cfssl's own migrations.
    fn cfssl_table(&self) -> String {
        let (bytes, time, pem) = match self {
            Self::File(_) => ("blob", "timestamp", "blob"),
            Self::Server(Database { server, .. }) if server.engine == Engine::Postgres => {
                ("bytea", "timestamptz", "bytea")
            }
            Self::Server(_) => ("varbinary(128)", "timestamp DEFAULT '0000-00-00 00:00:00'", "varbinary(4096)"),
        };
        format!(
            "CREATE TABLE certificates (serial_number {bytes} NOT NULL, authority_key_identifier {bytes} NOT NULL, \
             ca_label {bytes}, status {bytes} NOT NULL, reason int, created_at {time}, expiry {time}, revoked_at {time}, \
             pem {pem} NOT NULL, PRIMARY KEY(serial_number, authority_key_identifier));"
        )
    }

    /// The zero that cfssl writes for what is not revoked.
    const fn zero(&self) -> &'static str {
        match self {
            Self::Server(Database { server, .. }) if matches!(server.engine, Engine::MariaDb) => "0000-00-00 00:00:00",
            _ => "0001-01-01 00:00:00+00:00",
        }
    }
}

fn beside_cfssl(theirs: &Theirs<'_>) {
    let ca = OpensslCa::new();
    for name in ["fine", "gone", "late"] {
        ca.issue(name, &[]);
    }
    let key = ca.openssl(&["x509", "-in", "ca.crt", "-noout", "-ext", "subjectKeyIdentifier"]);
    let key = key.lines().nth(1).unwrap().trim().replace(':', "").to_lowercase();
    let mode = match theirs {
        Theirs::Server(Database { server, .. }) if server.engine == Engine::MariaDb => "SET SESSION sql_mode = '';",
        _ => "",
    };
    theirs.sql(&format!("{mode}{}", theirs.cfssl_table()));
    let put = |name: &str, status: &str, reason: i32| {
        let (issued, zero) = (Issued::of(&ca, name), theirs.zero());
        let revoked_at = if status == "revoked" { "CURRENT_TIMESTAMP".to_owned() } else { format!("'{zero}'") };
        theirs.sql(&format!(
            "{mode}INSERT INTO certificates VALUES ('{}', '{key}', '', '{status}', {reason}, CURRENT_TIMESTAMP, \
             '2030-01-01 00:00:00', {revoked_at}, '{}')",
            issued.decimal, issued.pem
        ));
    };
    put("fine", "good", 0);
    put("gone", "revoked", 1);
    let server = serve(&ca.path(""), &ca.path(""), "cfssl.toml", theirs.edit());
    contains(&asked(&server, &ca, "fine"), "fine.crt: good").unwrap();
    contains(&asked(&server, &ca, "gone"), "Reason: keyCompromise").unwrap();
    contains(&asked(&server, &ca, "late"), "unauthorized (6)").unwrap();
    put("late", "good", 0);
    wait_until("the new one is known", || contains(&asked(&server, &ca, "late"), "late.crt: good"));
    theirs.sql(&format!(
        "UPDATE certificates SET status = 'revoked', revoked_at = CURRENT_TIMESTAMP, reason = 4 WHERE serial_number = '{}'",
        Issued::of(&ca, "fine").decimal
    ));
    wait_until("it is revoked", || contains(&asked(&server, &ca, "fine"), "Reason: superseded"));
    server.stop();
    let said = check(&ca).ok("source check").out;
    contains(&said, "3 rows: 1 good, 2 revoked, 0 on hold").unwrap();
    contains(&said, "hash known").unwrap();
}

#[test]
fn cfssl_s_certdb_is_followed_on_each_database_it_can_be_on() {
    let dir = tempfile::tempdir().unwrap();
    beside_cfssl(&Theirs::File(dir.path().join("certs.db")));
    for server in Engine::ALL.into_iter().filter_map(servers::Server::shared) {
        beside_cfssl(&Theirs::Server(server.database()));
    }
}

#[test]
fn any_table_is_followed_by_the_operator_s_own_queries() {
    for server in Engine::ALL.into_iter().filter_map(servers::Server::shared) {
        let (database, ca) = (server.database(), OpensslCa::new());
        for name in ["one", "two", "three"] {
            ca.issue(name, &[]);
        }
        // Serials as numbers of 49 digits, states as words, times of three kinds.
        database.sql(
            "CREATE TABLE issued (ca VARCHAR(20), serial_no DECIMAL(49, 0), valid_from BIGINT, valid_to BIGINT, \
             state VARCHAR(20), revoked_on BIGINT, revocation_reason VARCHAR(30), written BIGINT)",
        );
        let put = |ca: &str, serial: &str, state: &str, reason: &str| {
            let at = if state == "REVOKED" || state == "SUSPENDED" { millis().to_string() } else { "NULL".to_owned() };
            database.sql(&format!(
                "INSERT INTO issued VALUES ('{ca}', {serial}, 1790000000000, 1900000000000, '{state}', {at}, {reason}, {})",
                millis()
            ));
        };
        let serial = |name: &str| Issued::of(&ca, name).decimal;
        put("main", &serial("one"), "ISSUED", "NULL");
        put("main", &serial("two"), "REVOKED", "'keyCompromise'");
        put("main", "77", "LOST", "NULL");
        put("other", &serial("three"), "ISSUED", "NULL");
        let server = serve(&ca.path(""), &ca.path(""), "sql.toml", at(reader(&database)));
        contains(&asked(&server, &ca, "one"), "one.crt: good").unwrap();
        contains(&asked(&server, &ca, "two"), "Reason: keyCompromise").unwrap();
        contains(&asked(&server, &ca, "three"), "unauthorized (6)").unwrap();
        let update = |set: String| {
            database.sql(&format!("UPDATE issued SET {set} WHERE serial_no = {}", serial("one")));
        };
        update(format!("state = 'SUSPENDED', revocation_reason = '6', revoked_on = {0}, written = {0}", millis()));
        wait_until("it is on hold", || contains(&asked(&server, &ca, "one"), "Reason: certificateHold"));
        update(format!("state = 'DELIVERED', revocation_reason = NULL, revoked_on = NULL, written = {}", millis()));
        wait_until("its hold is over", || contains(&asked(&server, &ca, "one"), "one.crt: good"));
        server.stop();

        let said = check(&ca);
        assert_eq!(said.status.code(), Some(3), "{said:#?}");
        contains(&said.out, "2 rows: 1 good, 1 revoked, 0 on hold").unwrap();
        contains(&said.out, "serial 4D: status \"LOST\" is neither among those for good nor for revoked").unwrap();
        // What the queries lack is said by the database, at once.
        let config = fs::read_to_string(ca.path("jarchy.toml")).unwrap();
        fs::write(ca.path("jarchy.toml"), config.replace("\"revoked_on\"", "\"no_such_column\"")).unwrap();
        let said = check(&ca);
        assert!(!said.status.success() && said.err.contains("no_such_column"), "{said:#?}");
    }
}

#[test]
fn an_import_takes_over_what_is_there_goes_on_and_brings_up_to_date() {
    let ca = OpensslCa::new();
    for name in ["one", "two", "three"] {
        ca.issue(name, &[]);
    }
    ca.revoke("two", &["-crl_reason", "superseded"]);
    ca.revoke("three", &["-crl_reason", "certificateHold"]);
    let index = fs::read_to_string(ca.path("index.txt")).unwrap();
    fs::write(ca.path("index.txt"), format!("{index}V\t270101000000Z\t\t77\tunknown\t/CN=lost file\nV\tnever\n"))
        .unwrap();
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/config/index-txt.toml");
    fs::copy(sample, ca.path("jarchy.toml")).unwrap();
    let config = ca.path("jarchy.toml");
    let import = |more: &[&str]| jarchy(&[&["import", "--config", text(&config)], more].concat());

    let refused = ca.path("refused.txt");
    let said = import(&["--report", text(&refused)]);
    assert_eq!(said.status.code(), Some(3), "{said:#?}");
    contains(&said.out, "issuer main: 4 certificates added, 0 brought up to date, 0 are there already, 2 refused")
        .unwrap();
    let named = fs::read_to_string(&refused).unwrap();
    contains(&named, "serial 77: the source does not say from when on it is valid").unwrap();
    contains(&named, "line 6: 2 fields where six are expected").unwrap();

    let said = import(&["--without-not-before", "--dry-run"]);
    contains(&said.out, "1 certificates would be added, 0 would be brought up to date, 4 are there already").unwrap();
    fs::write(ca.path("index.txt"), &index).unwrap();
    ca.revoke("one", &["-crl_compromise", "20261101000000Z"]);
    let said = import(&[]).ok("import");
    contains(&said.out, "0 certificates added, 1 brought up to date, 3 are there already, 0 refused").unwrap();

    // From here on it is Jarchy's own.
    let text_of = fs::read_to_string(&config).unwrap();
    let own = text_of.replace("[issuer.source]\nkind = \"index.txt\"\npath = \"index.txt\"\n", "");
    assert_ne!(own, text_of);
    fs::write(&config, own).unwrap();
    let status = |name: &str| {
        let certificate = ca.path(&format!("{name}.crt"));
        jarchy(&["status", text(&certificate), "--config", text(&config)]).ok("status").out
    };
    contains(&status("one"), "keyCompromise").and_then(|()| contains(&status("one"), "2026-11-01")).unwrap();
    contains(&status("two"), "superseded").unwrap();
    contains(&status("three"), "hold").unwrap();
}
