//! Real servers.
#![allow(clippy::unwrap_used)]
use super::*;
use crate::servers::{self, Database};

const KIND: ServerKind = crate::registry::SERVER_KIND;

/// Opens and closes a database of the issuance kind on whichever server it is.
async fn open(database: &Database<'_>, mode: Mode) -> Result<(), DbError> {
    let server: Server = database.url().parse().unwrap();
    match server.engine() {
        Engine::Postgres => server.postgres(&KIND, mode).await?.close().await,
        Engine::MariaDb => server.mariadb(&KIND, mode).await?.close().await,
    }
    Ok(())
}

fn on_each_server(test: impl AsyncFn(Database<'_>)) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for server in servers::Engine::ALL.into_iter().filter_map(servers::Server::shared) {
        runtime.block_on(test(server.database()));
    }
}

fn meta(database: &Database<'_>) -> String {
    let table = if database.url().starts_with("postgres") { "jarchy.meta" } else { "meta" };
    database.sql(&format!("SELECT kind, version, identity, epoch FROM {table}"))
}

#[test]
fn a_database_is_made_once_and_stays_what_it_is() {
    on_each_server(async |database| {
        for mode in [Mode::ReadWrite, Mode::ReadOnly] {
            let missing = open(&database, mode).await.unwrap_err().to_string();
            assert!(
                missing.contains("there is no issuance database at") && missing.contains("jarchy init"),
                "{missing}"
            );
        }
        let (one, two) = tokio::join!(open(&database, Mode::Create), open(&database, Mode::Create));
        one.unwrap();
        two.unwrap();
        let made = meta(&database);
        for mode in [Mode::Create, Mode::ReadWrite, Mode::ReadOnly] {
            open(&database, mode).await.unwrap();
        }
        assert_eq!(meta(&database), made);
    });
}
