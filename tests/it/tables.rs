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

/// EJBCA's tables, with the columns that Jarchy reads and the types of EJBCA's own DDL; `newer` with those that came
/// with 6.6 and later.
fn ejbca_tables(engine: Engine, newer: bool) -> String {
    let (string, long, int, blob) = match engine {
        Engine::Postgres => ("TEXT", "INT8", "INT4", "TEXT"),
        Engine::MariaDb => ("VARCHAR(250) BINARY", "BIGINT(20)", "INT(11)", "LONGTEXT"),
    };
    let newer = if newer { format!(", notBefore {long}, invalidityDate {long}") } else { String::new() };
    let columns = format!(
        "fingerprint {string} NOT NULL, base64Cert {blob}, cAFingerprint {string}, certificateProfileId {int} NOT NULL, \
         expireDate {long} NOT NULL, issuerDN {string} NOT NULL, revocationDate {long} NOT NULL, \
         revocationReason {int} NOT NULL, rowVersion {int} NOT NULL, serialNumber {string} NOT NULL, \
         status {int} NOT NULL, subjectDN {string} NOT NULL, type {int} NOT NULL, updateTime {long} NOT NULL{newer}"
    );
    format!(
        "CREATE TABLE CertificateData ({columns}, PRIMARY KEY (fingerprint)); \
         CREATE TABLE NoConflictCertificateData (id {string} NOT NULL, {columns}, PRIMARY KEY (id)); \
         CREATE TABLE Base64CertData (fingerprint {string} NOT NULL, base64Cert {blob}, rowVersion {int} NOT NULL, \
         PRIMARY KEY (fingerprint)); \
         CREATE TABLE CAData (cAId {int} NOT NULL, data {blob} NOT NULL, expireTime {long} NOT NULL, name {string}, \
         rowProtection {blob}, rowVersion {int} NOT NULL, status {int} NOT NULL, subjectDN {string}, \
         updateTime {long} NOT NULL, PRIMARY KEY (cAId));"
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
    database.sql(&ejbca_tables(database.server.engine, false));
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
    contains(&said, "this version of EJBCA has no notBefore, this version of EJBCA has no invalidityDate").unwrap();
    contains(&said, "every row was understood").unwrap();
}

#[test]
fn ejbca_s_own_tables_are_followed_with_rights_to_read_only() {
    for server in Engine::ALL.into_iter().filter_map(servers::Server::shared) {
        beside_ejbca(&server.database());
    }
}

/// The sample with these lines in the place of those about hashes and throw-away certificates.
fn with<'a>(url: &str, lines: &'a str) -> impl Fn(String) -> String + 'a {
    let edit = at(url.to_owned());
    move |sample| {
        edit(sample)
            .replace("hashes = true", lines)
            .replace("commit_grace = \"10s\"", "commit_grace = \"1s\"")
            .replace("no_conflict = true\n", "")
    }
}

fn newer_ejbca(database: &Database<'_>) {
    let ca = OpensslCa::new();
    for name in ["fine", "gone", "upgraded", "foreign"] {
        ca.issue(name, &[]);
    }
    database.sql(&ejbca_tables(database.server.engine, true));
    let (root, now) = (Issued::of(&ca, "ca"), millis());
    let put = |name: &str, issuer: &str, status: i32, dates: &str| {
        let (reason, revoked_at) = if status == 40 { (1, now - 60_000) } else { (-1, -1) };
        let row = EjbcaRow { status, reason, revoked_at, written: now - 30_000, certificate: None };
        let issued = if name == "ca" { &root } else { &Issued::of(&ca, name) };
        // The fingerprint of an earlier certificate of the CA, as after its renewal.
        database.sql(&ejbca_row("renewed", issued, "CertificateData", &row));
        let whose = format!("issuerDN = '{issuer}', subjectDN = 'CN={name}'");
        let of = format!("WHERE fingerprint = '{}'", issued.fingerprint);
        database.sql(&format!("UPDATE CertificateData SET {whose}{dates} {of}"));
    };
    put("fine", "CN=Main", 20, ", notBefore = 1790000000000");
    put("gone", "CN=Main", 40, ", notBefore = 1790000000000, invalidityDate = 1793491200000");
    put("upgraded", "CN=Main", 40, "");
    put("foreign", "CN=Other", 20, ", notBefore = 1790000000000");
    for (id, name, dn) in [(-17, "Main CA", "CN=Main"), (18, "Other''s CA", "CN=Other")] {
        database.sql(&format!("INSERT INTO CAData VALUES ({id}, '', 0, '{name}', NULL, 0, 1, '{dn}', 0)"));
    }
    let url = reader(database);

    let server = serve(&ca.path(""), &ca.path(""), "ejbca.toml", with(&url, "ca_name = \"Main CA\""));
    contains(&asked(&server, &ca, "fine"), "fine.crt: good").unwrap();
    contains(&asked(&server, &ca, "gone"), "Reason: keyCompromise").unwrap();
    contains(&asked(&server, &ca, "upgraded"), "Reason: keyCompromise").unwrap();
    contains(&asked(&server, &ca, "foreign"), "unauthorized (6)").unwrap();
    server.stop();
    let said = check(&ca).ok("source check").out;
    for words in [
        "rows of CertificateData with issuerDN \"CN=Main\", which is CA \"Main CA\" (cAId -17); notBefore is read, \
         invalidityDate is read",
        "  2026-09-21T14:13:20Z to 2030-03-17T17:46:40Z  good\n",
        "  2026-09-21T14:13:20Z to 2030-03-17T17:46:40Z  revoked at ",
        "keyCompromise, invalid since 2026-11-01T00:00:00Z\n",
        "  ? to 2030-03-17T17:46:40Z  revoked at ",
        "3 rows: 1 good, 2 revoked",
    ] {
        contains(&said, words).unwrap();
    }

    let refused = |lines: &str| {
        let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/config/ejbca.toml");
        let config = with(&url, lines)(fs::read_to_string(sample).unwrap());
        fs::write(ca.path("jarchy.toml"), config).unwrap();
        let said = check(&ca);
        assert!(!said.status.success(), "{said:#?}");
        said.err
    };
    let said = refused("ca_name = \"main ca\"");
    contains(
        &said,
        "EJBCA has no CA \"main ca\" (`ca_name`); it has: \"Main CA\" (CN=Main), \"Other's CA\" (CN=Other)",
    )
    .unwrap();
    // The other CA's name, with the certificate of this one.
    put("ca", "CN=Main", 20, "");
    database
        .sql(&format!("UPDATE CertificateData SET subjectDN = 'CN=Main' WHERE fingerprint = '{}'", root.fingerprint));
    let said = refused("ca_name = \"Other's CA\"");
    contains(&said, "is CN=Other, but `certificate` is that of CN=Main: \"Main CA\" (CN=Main) has this name").unwrap();
    database.sql("DELETE FROM CAData");
    contains(&refused("ca_name = \"Main CA\""), "CAData is empty, as for a VA").unwrap();
    database.sql("DROP TABLE CAData");
    contains(&refused("ca_name = \"Main CA\""), "there is no table CAData that this user may read").unwrap();
}

#[test]
fn a_newer_ejbca_tells_not_before_and_invalidity_date_and_its_cas_are_named_as_it_names_them() {
    for server in Engine::ALL.into_iter().filter_map(servers::Server::shared) {
        newer_ejbca(&server.database());
    }
}

/// The database of a VA whose publisher writes revoked certificates only, and a DN that SQL must quote.
fn ejbca_of_revoked_alone(database: &Database<'_>) {
    let ca = OpensslCa::new();
    for name in ["fine", "gone", "held", "foreign"] {
        ca.issue(name, &[]);
    }
    database.sql(&ejbca_tables(database.server.engine, false));
    let put = |name: &str, dn: &str, reason: i32| {
        let row = EjbcaRow { status: 40, reason, revoked_at: millis(), written: millis(), certificate: None };
        let issued = Issued::of(&ca, name);
        database.sql(&ejbca_row("unknown", &issued, "CertificateData", &row));
        let dn = match database.server.engine {
            Engine::Postgres => dn.to_owned(),
            Engine::MariaDb => dn.replace('\\', r"\\"),
        };
        let of = format!("WHERE fingerprint = '{}'", issued.fingerprint);
        database.sql(&format!("UPDATE CertificateData SET issuerDN = '{}' {of}", dn.replace('\'', "''")));
    };
    let dn = r"CN=Main\, the 'first',O=Any";
    put("gone", dn, 4);
    put("held", dn, 6);
    put("foreign", "CN=Main, the first,O=Any", 4);
    let lines = format!("only_revoked = true\nabsent = \"unknown\"\nissuer_dn = {dn:?}");
    let url = reader(database);
    let server = serve(&ca.path(""), &ca.path(""), "ejbca.toml", with(&url, &lines));
    for (name, status) in [
        ("gone", "Reason: superseded"),
        ("held", "Reason: certificateHold"),
        ("fine", "fine.crt: unknown"),
        ("foreign", "foreign.crt: unknown"),
    ] {
        contains(&asked(&server, &ca, name), status).unwrap();
    }
    put("fine", dn, 1);
    wait_until("it is revoked", || contains(&asked(&server, &ca, "fine"), "Reason: keyCompromise"));
    // When a hold is over, such a publisher deletes the row.
    let delete = |name: &str| {
        let serial = Issued::of(&ca, name).decimal;
        database.sql(&format!("DELETE FROM CertificateData WHERE serialNumber = '{serial}'"));
    };
    delete("held");
    delete("gone");
    wait_until("its hold is over", || contains(&asked(&server, &ca, "held"), "held.crt: good"));
    contains(&asked(&server, &ca, "gone"), "Reason: superseded").unwrap();
    put("held", dn, 6);
    wait_until("it is on hold again", || contains(&asked(&server, &ca, "held"), "Reason: certificateHold"));
    server.stop();
    delete("held");
    let server = serve(&ca.path(""), &ca.path(""), "ejbca.toml", with(&url, &lines));
    wait_until("its hold ended unseen", || contains(&asked(&server, &ca, "held"), "held.crt: good"));
    contains(&asked(&server, &ca, "gone"), "Reason: superseded").unwrap();
    server.stop();
    let said = check(&ca).ok("source check").out;
    contains(&said, &format!("rows of CertificateData with issuerDN {dn:?}")).unwrap();
    contains(&said, "1 rows: 0 good, 1 revoked, 0 on hold").unwrap();
    contains(&said, "it does not tell what was issued").unwrap();
}

#[test]
fn a_va_of_revoked_certificates_alone_says_what_the_config_chose_of_all_others() {
    for server in Engine::ALL.into_iter().filter_map(servers::Server::shared) {
        ejbca_of_revoked_alone(&server.database());
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
        contains(&said.err, "do the queries and names in [issuer.source] fit its table?").unwrap();
        let config = fs::read_to_string(ca.path("jarchy.toml")).unwrap();
        fs::write(ca.path("jarchy.toml"), config.replace("FROM issued", "FROM isued")).unwrap();
        contains(&check(&ca).err, "is the database in `url` the CA's, and can this user see the table?").unwrap();
        let (no_one, url) = (format!("no_one_{}", database.name), database.url());
        let (grantless, url) = match database.server.engine {
            Engine::Postgres => {
                (format!("CREATE ROLE {no_one} LOGIN"), url.replace("postgres@", &format!("{no_one}@")))
            }
            Engine::MariaDb => (format!("CREATE USER {no_one}"), url.replace("root@", &format!("{no_one}@"))),
        };
        database.sql(&grantless);
        let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/config/sql.toml");
        fs::write(ca.path("jarchy.toml"), at(url)(fs::read_to_string(sample).unwrap())).unwrap();
        contains(&check(&ca).err, "GRANT SELECT on the").unwrap();
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

    // Before there is any database.
    let said = import(&["--dry-run"]);
    contains(&said.out, "issuer main: 4 certificates would be added, 0 would be brought up to date").unwrap();
    assert!(!ca.path("issuance.db").exists());
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

#[test]
fn changes_are_asked_for_by_a_number_too_and_found_as_far_back_as_the_overlap() {
    for server in Engine::ALL.into_iter().filter_map(servers::Server::shared) {
        let (database, ca) = (server.database(), OpensslCa::new());
        for name in ["one", "two"] {
            ca.issue(name, &[]);
        }
        database.sql(
            "CREATE TABLE issued (ca VARCHAR(20), serial_no VARCHAR(60), valid_from BIGINT, valid_to BIGINT, \
             state VARCHAR(20), revoked_on BIGINT, revocation_reason VARCHAR(30), version BIGINT)",
        );
        let serial = |name: &str| Issued::of(&ca, name).decimal;
        for (serial, version) in [(serial("one"), 900), (serial("two"), 950), ("7".to_owned(), 1_000)] {
            database.sql(&format!(
                "INSERT INTO issued VALUES ('main', '{serial}', 1790000000000, 1900000000000, 'ISSUED', NULL, NULL, {version})"
            ));
        }
        let edit = at(reader(&database));
        let by_number = move |sample: String| {
            let sample = edit(sample).replace("written >= {since}", "version >= {since}");
            let sample = sample.replace("changed_at = \"written\"\n", "").replace("released_at = \"written\"\n", "");
            sample.replace("position = \"written\"", "position = \"version\"\nposition_as = \"number\"\noverlap = 20")
        };
        let server = serve(&ca.path(""), &ca.path(""), "sql.toml", by_number);
        contains(&asked(&server, &ca, "one"), "one.crt: good").unwrap();
        let revoke = |name: &str, version: i64| {
            database.sql(&format!(
                "UPDATE issued SET state = 'REVOKED', revocation_reason = 'superseded', revoked_on = {}, version = {version} \
                 WHERE serial_no = '{}'",
                millis(),
                serial(name)
            ));
        };
        // Its number was drawn before the newest one that is there.
        revoke("one", 985);
        wait_until("it is revoked", || contains(&asked(&server, &ca, "one"), "Reason: superseded"));
        // So far back nobody looks but the reconcile.
        revoke("two", 970);
        database.sql("UPDATE issued SET state = 'LOST', version = 1001 WHERE serial_no = '7'");
        wait_until("a later one was looked at", || contains(&server.log(), "serial 07: the row is left out"));
        contains(&asked(&server, &ca, "two"), "two.crt: good").unwrap();
        revoke("two", 1_002);
        wait_until("it is revoked too", || contains(&asked(&server, &ca, "two"), "Reason: superseded"));
        server.stop();
    }
}

#[test]
fn an_import_from_a_crl_revokes_what_is_there_and_makes_nothing_up() {
    let ca = OpensslCa::new();
    for name in ["gone", "held", "fine", "stranger"] {
        ca.issue(name, &[]);
    }
    ca.revoke("gone", &["-crl_compromise", "20261101000000Z"]);
    ca.revoke("held", &["-crl_reason", "certificateHold"]);
    ca.revoke("stranger", &["-crl_reason", "superseded"]);
    let certificate = |name: &str| ca.path(&format!("{name}.crt"));
    let config = ca.path("jarchy.toml");
    let source = "[issuer.source]\nkind = \"crl\"\npath = \"ca.crl\"\nabsent = \"good\"\n\n";
    let ours = "[[issuer]]\nname = \"main\"\ncertificate = \"ca.crt\"\n\n";
    let ocsp = "[issuer.ocsp]\ncertificate = \"ocsp.crt\"\nkey = \"ocsp.key\"\n";
    let own = format!("{ours}{ocsp}");
    let beside = format!("{ours}{source}{ocsp}");
    let import = || {
        fs::write(&config, &beside).unwrap();
        jarchy(&["import", "--config", text(&config)])
    };
    let add = |name: &str| {
        fs::write(&config, &own).unwrap();
        jarchy(&["add", text(&certificate(name)), "--config", text(&config)]).ok("add");
    };
    ca.openssl(&["ca", "-config", "ca.cnf", "-gencrl", "-crldays", "7", "-out", "ca.crl"]);
    contains(&import().out, "0 certificates added, 0 brought up to date, 0 are there already, 3 refused").unwrap();
    ["gone", "held", "fine"].into_iter().for_each(add);
    let said = import();
    assert_eq!(said.status.code(), Some(3), "{said:#?}");
    contains(&said.out, "0 certificates added, 2 brought up to date, 0 are there already, 1 refused").unwrap();
    contains(&said.out, "the source does not say how long it is valid: put the certificate in with `jarchy add`")
        .unwrap();

    add("stranger");
    let said = import().ok("import again");
    contains(&said.out, "0 certificates added, 1 brought up to date, 2 are there already, 0 refused").unwrap();
    fs::write(&config, &own).unwrap();
    let status = |name: &str| jarchy(&["status", text(&certificate(name)), "--config", text(&config)]).ok("status").out;
    contains(&status("gone"), "keyCompromise").and_then(|()| contains(&status("gone"), "2026-11-01")).unwrap();
    contains(&status("held"), "hold").unwrap();
    contains(&status("stranger"), "superseded").unwrap();
    contains(&status("fine"), "good").unwrap();
}
