//! Real servers.
#![allow(clippy::expect_used, clippy::unwrap_used)]
use super::*;
use crate::servers::{self, Database};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use std::fs::Permissions;
use tempfile::TempDir;

const KIND: ServerKind = crate::registry::SERVER_KIND;

/// Opens and closes a database of the issuance kind on whichever server it is.
async fn open(server: &Server, mode: Mode) -> Result<(), DbError> {
    match server.engine() {
        Engine::Postgres => server.postgres(&KIND, mode).await?.close().await,
        Engine::MariaDb => server.mariadb(&KIND, mode).await?.close().await,
    }
    Ok(())
}

fn on_each_server(test: impl AsyncFn(Database<'_>, Server)) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for server in servers::Engine::ALL.into_iter().filter_map(servers::Server::shared) {
        let database = server.database();
        let url = database.url().parse().unwrap();
        runtime.block_on(test(database, url));
    }
}

fn table(server: &Server, name: &str) -> String {
    if server.engine() == Engine::Postgres { format!("jarchy.{name}") } else { name.to_owned() }
}

#[test]
fn a_database_is_made_once_and_stays_what_it_is() {
    on_each_server(async |database, server| {
        for mode in [Mode::ReadWrite, Mode::ReadOnly] {
            let missing = open(&server, mode).await.unwrap_err().to_string();
            assert!(
                missing.contains("there is no issuance database at") && missing.contains("jarchy init"),
                "{missing}"
            );
        }
        let (one, two) = tokio::join!(open(&server, Mode::Create), open(&server, Mode::Create));
        one.unwrap();
        two.unwrap();
        let meta = format!("SELECT kind, version, identity, epoch FROM {}", table(&server, "meta"));
        let made = database.sql(&meta);
        for mode in [Mode::Create, Mode::ReadWrite, Mode::ReadOnly] {
            open(&server, mode).await.unwrap();
        }
        assert_eq!(database.sql(&meta), made);
        database.sql(&format!("UPDATE {} SET version = 99", table(&server, "meta")));
        let newer = open(&server, Mode::ReadWrite).await.unwrap_err().to_string();
        assert!(newer.contains("newer Jarchy (version 99 of its tables, this one knows 1)"), "{newer}");
    });
}

#[test]
fn a_database_of_another_program_is_left_as_it_is() {
    on_each_server(async |database, server| {
        let theirs = table(&server, "certificates");
        if server.engine() == Engine::Postgres {
            database.sql("CREATE SCHEMA jarchy");
        }
        database.sql(&format!("CREATE TABLE {theirs}(x INT)"));
        for mode in [Mode::Create, Mode::ReadWrite, Mode::ReadOnly] {
            let foreign = open(&server, mode).await.unwrap_err().to_string();
            assert!(foreign.contains("belongs to another program") && foreign.contains("nothing in it"), "{foreign}");
        }
        database.sql(&format!("INSERT INTO {theirs}(x) VALUES (1)"));
        let tables = "SELECT count(*) FROM information_schema.tables WHERE table_schema IN ('jarchy', '{}')";
        assert_eq!(database.sql(&tables.replace("{}", &database.name)).trim(), "1");
    });
}

/// PostgreSQL undoes it by itself.
#[test]
fn an_interrupted_creation_is_finished_on_mariadb() {
    on_each_server(async |database, server| {
        if server.engine() == Engine::Postgres {
            return;
        }
        let whole = KIND.mariadb.first().unwrap();
        let half = whole.split_at(whole.find("CREATE TRIGGER IF NOT EXISTS certificates_update ").unwrap()).0;
        let interrupted = ServerKind { mariadb: &[], ..KIND };
        let pool = MySqlPool::connect_with(server.mariadb_options(&interrupted).unwrap()).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(half)).execute(&pool).await.unwrap();
        pool.close().await;
        assert!(matches!(open(&server, Mode::ReadOnly).await, Err(DbError::Missing { .. })));
        open(&server, Mode::Create).await.unwrap();
        let triggers = "SELECT count(*) FROM information_schema.triggers WHERE trigger_schema = DATABASE()";
        let wanted = whole.matches("CREATE TRIGGER IF NOT EXISTS").count();
        assert_eq!(database.sql(triggers).trim(), wanted.to_string());
        assert_eq!(database.sql("SELECT version FROM meta").trim(), "1");
    });
}

#[test]
fn a_url_says_where_but_never_the_password() {
    for (url, shown) in [
        ("postgres://ca:s3cret@db.example.org/issuance", "postgres://ca@db.example.org:5432/issuance"),
        ("postgresql://ca:s3cret@[::1]:5433/issuance", "postgres://ca@[::1]:5433/issuance"),
        ("mysql://ca:s3cret@10.0.0.1/issuance", "mysql://ca@10.0.0.1:3306/issuance"),
        ("mariadb://ca:s3%40cret@db/issuance", "mysql://ca@db:3306/issuance"),
        ("postgres://ca@localhost/i?host=/run/postgresql", "postgres://ca@localhost:5432/i?host=/run/postgresql"),
        ("mysql://ca@localhost/i?socket=/run/mysqld.sock", "mysql://ca@localhost:3306/i?socket=/run/mysqld.sock"),
    ] {
        let server: Server = url.parse().unwrap();
        assert_eq!((server.to_string(), format!("{server:?}")), (shown.to_owned(), shown.to_owned()));
        assert_eq!(server.has_password(), url.contains("cret"), "{url}");
        assert_eq!(shown.parse::<Server>().unwrap().to_string(), shown);
    }
    for (url, says) in [
        ("sqlite://issuance.db", "postgres://user@host/database"),
        ("issuance.db", "postgres://user@host/database"),
        ("postgres://ca:s3cret@db", "names no database"),
        ("postgres://ca:s3cret@db/", "names no database"),
        ("postgres://ca@db/i?sslmode=disable", "\"sslmode\" cannot stand in the URL"),
        ("mysql://ca@db/i?password=s3cret", "\"password\" cannot stand in the URL"),
        ("postgres://ca:s3cret@db:port/i", "cannot be read"),
    ] {
        let refused = url.parse::<Server>().unwrap_err().to_string();
        assert!(refused.contains(says) && !refused.contains("s3cret"), "{url}: {refused}");
    }
}

#[test]
fn only_what_leaves_the_machine_is_encrypted_unless_asked_for() {
    let encrypted = |url: &str, tls: Tls| url.parse::<Server>().unwrap().with(Credentials::default(), tls).encrypted();
    for here in ["127.0.0.1", "localhost", "[::1]"] {
        assert!(!encrypted(&format!("postgres://ca@{here}/i"), Tls::default()), "{here}");
        assert!(encrypted(&format!("mysql://ca@{here}/i"), Tls { verify: Some(true), ..Tls::default() }), "{here}");
        assert!(encrypted(
            &format!("mysql://ca@{here}/i"),
            Tls { ca_certificate: Some("ca".into()), ..Tls::default() }
        ));
    }
    for away in ["10.0.0.1", "db.example.org"] {
        assert!(encrypted(&format!("postgres://ca@{away}/i"), Tls::default()), "{away}");
        assert!(!encrypted(&format!("postgres://ca@{away}/i"), Tls { verify: Some(false), ..Tls::default() }));
    }
}

/// A CA, and what it signed.
struct Pki {
    dir: TempDir,
    ca: CertifiedIssuer<'static, KeyPair>,
}

impl Pki {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let pki = Self { dir: tempfile::tempdir().unwrap(), ca };
        std::fs::write(pki.file("ca.pem"), pki.ca.pem()).unwrap();
        pki
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Certificate and key, PEM.
    fn issue(&self, name: &str, subject: &str) -> (String, String) {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, subject);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.ca).unwrap().pem(), key.serialize_pem())
    }
}

/// A server that lets in `ca` by password and `pinned` by certificate, both only over TLS.
fn guarded(engine: servers::Engine, pki: &Pki) -> Option<servers::Server> {
    let mut server = servers::Server::start(engine, &[])?;
    let (certificate, key) = pki.issue("127.0.0.1", "server");
    let certificate = server.give("server.pem", &certificate).display().to_string();
    let key = server.give("server.key", &key).display().to_string();
    let ca = server.give("ca.pem", &pki.ca.pem()).display().to_string();
    match engine {
        servers::Engine::Postgres => {
            server.sql("postgres", "CREATE DATABASE jarchy");
            server.sql(
                "postgres",
                "CREATE ROLE ca LOGIN SUPERUSER PASSWORD 's3cret'; CREATE ROLE pinned LOGIN SUPERUSER",
            );
            let hba = "local all all trust\nhostssl all pinned 127.0.0.1/32 cert\nhostssl all all 127.0.0.1/32 scram-sha-256\n";
            std::fs::write(server.data().join("pg_hba.conf"), hba).unwrap();
            let settings =
                [format!("ssl_cert_file={certificate}"), format!("ssl_key_file={key}"), format!("ssl_ca_file={ca}")];
            let options = ["-c", "ssl=on"].into_iter().chain(settings.iter().flat_map(|setting| ["-c", setting]));
            server.restart_with(&options.collect::<Vec<_>>());
        }
        servers::Engine::MariaDb => {
            server.sql("mysql", "CREATE DATABASE jarchy");
            for user in ["'ca'@'127.0.0.1' IDENTIFIED BY 's3cret' REQUIRE SSL", "'pinned'@'127.0.0.1' REQUIRE X509"] {
                server.sql("mysql", &format!("CREATE USER {user}"));
            }
            server.sql(
                "mysql",
                "GRANT ALL ON jarchy.* TO 'ca'@'127.0.0.1'; GRANT ALL ON jarchy.* TO 'pinned'@'127.0.0.1'",
            );
            let options = [format!("--ssl-cert={certificate}"), format!("--ssl-key={key}"), format!("--ssl-ca={ca}")];
            server.restart_with(&options.each_ref().map(String::as_str));
        }
    }
    Some(server)
}

#[test]
fn tls_is_checked_and_passwords_come_from_where_they_are_kept() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (pki, stranger) = (Pki::new("CA of the database"), Pki::new("CA of somebody else"));
    let password = pki.file("password");
    std::fs::write(&password, "s3cret\n").unwrap();
    std::fs::set_permissions(&password, Permissions::from_mode(0o600)).unwrap();
    let (certificate, key) = pki.issue("pinned", "pinned");
    std::fs::write(pki.file("pinned.pem"), certificate).unwrap();
    std::fs::write(pki.file("pinned.key"), key).unwrap();
    std::fs::set_permissions(pki.file("pinned.key"), Permissions::from_mode(0o600)).unwrap();
    for server in servers::Engine::ALL.into_iter().filter_map(|engine| guarded(engine, &pki)) {
        let scheme = if server.engine == servers::Engine::Postgres { "postgres" } else { "mysql" };
        let attempt = |user: &str, host: &str, credentials: Credentials, tls: Tls| {
            let url = format!("{scheme}://{user}@{host}:{}/jarchy", server.port);
            let opened = runtime.block_on(open(&url.parse::<Server>().unwrap().with(credentials, tls), Mode::Create));
            opened.map_err(|error| error.to_string())
        };
        let trusted = || Tls { ca_certificate: Some(pki.file("ca.pem")), ..Tls::default() };
        let kept = || Credentials { password_file: Some(password.clone()) };
        attempt("ca", "127.0.0.1", kept(), trusted()).unwrap();
        attempt("ca:s3cret", "127.0.0.1", Credentials::default(), trusted()).unwrap();

        let other_ca = Tls { ca_certificate: Some(stranger.file("ca.pem")), ..Tls::default() };
        for (what, refused) in [
            ("another CA", attempt("ca", "127.0.0.1", kept(), other_ca)),
            ("another name", attempt("ca", "localhost", kept(), trusted())),
            (
                "a CA that browsers do not trust",
                attempt("ca", "127.0.0.1", kept(), Tls { verify: Some(true), ..Tls::default() }),
            ),
            ("no TLS", attempt("ca", "127.0.0.1", kept(), Tls { verify: Some(false), ..Tls::default() })),
            ("another password", attempt("ca:s3crets", "127.0.0.1", Credentials::default(), trusted())),
        ] {
            let said = refused.expect_err(what);
            assert!(said.contains("issuance database") && !said.contains("s3cret"), "{what}: {said}");
        }

        let own = |name: &str| Some(pki.file(name));
        let pinned = Tls { client_certificate: own("pinned.pem"), client_key: own("pinned.key"), ..trusted() };
        attempt("pinned", "127.0.0.1", Credentials::default(), pinned.clone()).unwrap();
        assert!(attempt("pinned", "127.0.0.1", Credentials::default(), trusted()).is_err());

        for (secret, credentials, tls) in
            [(&password, kept(), trusted()), (&pki.file("pinned.key"), Credentials::default(), pinned)]
        {
            std::fs::set_permissions(secret, Permissions::from_mode(0o640)).unwrap();
            let refused = attempt("ca", "127.0.0.1", credentials, tls).unwrap_err();
            assert!(refused.contains("others may read it (mode 640)"), "{refused}");
            std::fs::set_permissions(secret, Permissions::from_mode(0o600)).unwrap();
        }
    }
}
