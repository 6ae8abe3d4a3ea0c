//! A foreign table on real servers: what they do of what they are asked.
#![allow(clippy::unwrap_used)]

use super::tests::main_issuer;
use super::*;
use crate::servers::{Database, Engine, Server};

const ROWS: usize = 4_000;

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Runtime::new().unwrap().block_on(test);
}

fn source(database: &Database<'_>, snapshot: &str, serial_as: SerialAs) -> SqlSource {
    let table = Table {
        snapshot: snapshot.to_owned(),
        changes: None,
        columns: [(Field::Serial, "serial"), (Field::NotAfter, "ends")]
            .map(|(of, name)| (of, name.to_owned()))
            .to_vec(),
        serial_as,
        times_as: TimesAs::Seconds,
        position_as: PositionAs::Time,
        good: Vec::new(),
        revoked: Vec::new(),
        knows_issued: true,
    };
    let rhythm = Rhythm { poll: Duration::from_millis(5), commit_grace: Duration::from_secs(10), overlap: 0 };
    SqlSource::new(&main_issuer(), Place::Server(Box::new(database.url().parse().unwrap())), table, rhythm)
}

fn key(serial: u64) -> Key {
    let serial = Serial::from_magnitude(&serial.to_be_bytes()).unwrap();
    Key { issuer: "main".into(), serial: serial.as_bytes().to_vec() }
}

/// The types that CAs give their serials, and how the number `n` is written there.
fn columns(engine: Engine) -> Vec<(&'static str, &'static str, SerialAs)> {
    use SerialAs::{Bytes, Decimal, Hex};
    match engine {
        Engine::Postgres => vec![
            ("TEXT", "n::text", Decimal),
            ("VARCHAR(50)", "upper(to_hex(n))", Hex),
            ("CHAR(40)", "lpad(to_hex(n), 40, '0')", Hex),
            ("NUMERIC(49)", "n", Decimal),
            ("INT8", "n", Decimal),
            ("INT4", "n", Decimal),
            ("BYTEA", "decode(lpad(to_hex(n), 8, '0'), 'hex')", Bytes),
            // As of cfssl.
            ("BYTEA", "convert_to(n::text, 'UTF8')", Decimal),
        ],
        Engine::MariaDb => vec![
            // As of EJBCA.
            ("VARCHAR(250) BINARY", "n", Decimal),
            ("VARCHAR(50) CHARACTER SET latin1", "hex(n)", Hex),
            ("CHAR(40)", "lpad(lower(hex(n)), 40, '0')", Hex),
            ("DECIMAL(49)", "n", Decimal),
            ("BIGINT UNSIGNED", "n", Decimal),
            ("INT", "n", Decimal),
            ("VARBINARY(20)", "unhex(lpad(hex(n), 8, '0'))", Bytes),
            ("VARBINARY(128)", "n", Decimal),
        ],
    }
}

fn made(database: &Database<'_>, table: &str, (kind, spelled, _): (&str, &str, SerialAs)) {
    let numbers = match database.server.engine {
        Engine::Postgres => format!("generate_series(1, {ROWS}) AS n"),
        Engine::MariaDb => format!("(SELECT seq AS n FROM seq_1_to_{ROWS}) AS n"),
    };
    let analyze = if database.server.engine == Engine::Postgres { "ANALYZE" } else { "ANALYZE TABLE" };
    database.sql(&format!(
        "DROP TABLE IF EXISTS {table}; CREATE TABLE {table}(serial {kind} PRIMARY KEY, ends BIGINT); \
         INSERT INTO {table} SELECT {spelled}, 2000000000 FROM {numbers}; {analyze} {table}"
    ));
}

/// Whether the server reads no table whole for `sql`.
fn assert_by_index(database: &Database<'_>, sql: &str, of: &str) {
    let plan = database.sql(&format!("EXPLAIN {sql}"));
    let is_by_index = match database.server.engine {
        Engine::Postgres => plan.contains("Index") && !plan.contains("Seq Scan"),
        Engine::MariaDb => {
            let kinds = plan.lines().map(|line| line.split('\t').skip(2).take(2).collect::<Vec<_>>());
            let mut of_tables = kinds.filter(|kinds| !kinds[0].starts_with('<'));
            of_tables.all(|kinds| ["range", "ref", "eq_ref", "const"].contains(&kinds[1]))
        }
    };
    assert!(is_by_index, "{of}: {plan}");
}

/// Else a reconcile of a large table would read all of it again for every thousand serials.
#[test]
fn single_serials_are_found_by_the_column_s_index_whatever_its_type() {
    for server in Engine::ALL.into_iter().filter_map(Server::shared) {
        let database = server.database();
        run(async {
            for (number, column) in columns(server.engine).into_iter().enumerate() {
                made(&database, "certs", column);
                let mut snapshots = vec![("SELECT serial, ends FROM certs;", 1)];
                if number == 0 {
                    made(&database, "thrown", column);
                    let both =
                        "SELECT serial, ends FROM certs UNION ALL SELECT serial, ends FROM thrown WHERE ends > 1";
                    snapshots.push((both, 2));
                }
                for (snapshot, each) in snapshots {
                    let (mut source, mut after, mut seen) = (source(&database, snapshot, column.2), None, 0);
                    source.open().await.unwrap();
                    loop {
                        let page = source.page(after.as_ref(), 5_000).await.unwrap();
                        assert_eq!(page.odd, []);
                        seen += page.rows.len();
                        after = page.next;
                        if after.is_none() {
                            break;
                        }
                    }
                    assert!(seen >= ROWS && seen <= ROWS * each, "{seen}");
                    let asked: Vec<Key> = [1, 255, 4_000, 4_001, u64::MAX].into_iter().map(key).collect();
                    let (rows, odd) = source.reread(&asked).await.unwrap();
                    let mut found: Vec<String> = rows.iter().map(|row| row.serial.to_decimal()).collect();
                    found.sort();
                    assert_eq!((found, odd.len()), (vec!["1".to_owned(), "255".to_owned(), "4000".to_owned()], 0));
                    let many: Vec<Key> = (0..1_000).map(|n| key(3_500 + n)).collect();
                    assert_eq!(source.reread(&many).await.unwrap().0.len(), 501, "{column:?}");

                    let serials: Vec<Serial> =
                        asked.iter().map(|key| Serial::from_content(&key.serial).unwrap()).collect();
                    let conditions = source.column().await.unwrap().as_seen(&serials, &source.forms);
                    assert_eq!(conditions.len(), 1);
                    let sql = Dialect::of(&source.place).wrap(&source.table, &source.table.snapshot);
                    assert_by_index(&database, &format!("{sql} WHERE {}", conditions[0]), &format!("{column:?}"));
                }
            }
        });
    }
}

/// A server goes on with a query whose client is gone, so that those of several tries would pile up.
#[test]
fn a_query_that_nobody_waits_for_any_more_is_ended_when_the_database_is_opened_anew() {
    for server in Engine::ALL.into_iter().filter_map(Server::shared) {
        let database = server.database();
        database.sql(
            "CREATE TABLE certs(serial BIGINT PRIMARY KEY, ends BIGINT); INSERT INTO certs VALUES (1, 2000000000)",
        );
        let (slow, running) = match server.engine {
            Engine::Postgres => (
                "SELECT serial, ends FROM certs, pg_sleep(600)",
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' \
                 AND pid <> pg_backend_pid()",
            ),
            Engine::MariaDb => (
                "SELECT serial, ends FROM certs WHERE SLEEP(600) = 0",
                "SELECT count(*) FROM information_schema.processlist WHERE db = DATABASE() AND command <> 'Sleep' \
                 AND id <> CONNECTION_ID()",
            ),
        };
        let running = || database.sql(running).trim().parse::<u32>().unwrap();
        let until = async |count: u32| {
            let patience = Instant::now() + Duration::from_secs(30);
            while running() != count {
                assert!(Instant::now() < patience, "{} queries run, not {count}", running());
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        run(async {
            let mut source = source(&database, slow, SerialAs::Decimal);
            for ask in ["a page", "a look"] {
                source.open().await.unwrap();
                let position = source.position(0);
                tokio::select! {
                    _ = async { match ask {
                        "a page" => source.page(None, 10).await.map(drop),
                        _ => source.changes(&position).await.map(drop),
                    } } => panic!("{ask} came"),
                    () = until(1) => {}
                }
                source.open().await.unwrap();
                until(0).await;
            }
        });
    }
}
