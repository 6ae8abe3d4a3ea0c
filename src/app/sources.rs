//! The sources that the config names: one feed for `[database]`, and one for each issuer with a source of its own.

use super::{Common, Lasting, ReadyFeed, read_certificate, start};
use crate::config::source::{From, Layout, Place, Source as Settings};
use crate::config::{self, Config, ShardBy};
use crate::db;
use crate::feed::{Fed, Parts};
use crate::pki::{Issuer, IssuerName, Time};
use crate::source::Position;
use crate::source::any::Any;
use crate::source::crl::{self, CrlSource};
use crate::source::index_txt::IndexTxt;
use crate::source::mariadb::MariaDbSource;
use crate::source::postgres::PostgresSource;
use crate::source::sql::{Dialect, Rhythm, SqlSource, Table, presets};
use crate::source::sqlite::SqliteSource;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::watch;

/// The name of the feed of `[database]`.
pub(super) const DATABASE: &str = "database";

/// The name in health of the feed `name`.
pub(super) fn component(name: &str) -> String {
    format!("feed:{name}")
}

/// One feed for each source, under the name of its health component. `known` is up to where the indexes know
/// the database already; it is left alone until it is `in_reach`.
pub(super) fn feeds(
    config: &Config,
    issuers: &[Lasting],
    known: Option<(Position, Time)>,
    in_reach: watch::Receiver<bool>,
    common: &Common,
) -> Vec<ReadyFeed> {
    let (mut feeds, mut in_database) = (Vec::new(), HashMap::new());
    for (settings, lasting) in config.issuers.iter().zip(issuers) {
        let reasons = settings.profile.policy().reasons;
        let shards = settings.crl.as_ref().and_then(|crl| crl.shards.as_ref());
        let parts = match shards.map(|shards| shards.by) {
            Some(ShardBy::Kind) => Parts::Kinds,
            _ => Parts::Shards,
        };
        let hashes = settings.ocsp.cert_hash;
        let fed = Fed { index: Arc::clone(&lasting.index), reasons, hashes, parts };
        match &settings.source {
            None => _ = in_database.insert(settings.name.clone(), fed),
            Some(source) => {
                let (name, source) = (format!("issuer:{}", settings.name), adapter(source, &lasting.issuer));
                let fed = HashMap::from([(settings.name.clone(), fed)]);
                feeds.push(start(&name, source, fed, config, None, None, common));
            }
        }
    }
    if !in_database.is_empty() {
        feeds.push(database_feed(config, in_database, known, in_reach, common));
    }
    feeds
}

fn database_feed(
    config: &Config,
    fed: HashMap<IssuerName, Fed>,
    known: Option<(Position, Time)>,
    in_reach: watch::Receiver<bool>,
    common: &Common,
) -> ReadyFeed {
    let (name, poll, in_reach) = (DATABASE, config.database.poll, Some(in_reach));
    match &config.database.place {
        db::Place::File(path) => {
            start(name, SqliteSource::new(path.clone(), poll), fed, config, known, in_reach, common)
        }
        db::Place::Server(server) => match server.engine() {
            db::Engine::Postgres => {
                start(name, PostgresSource::new(db::Server::clone(server), poll), fed, config, known, in_reach, common)
            }
            db::Engine::MariaDb => {
                start(name, MariaDbSource::new(db::Server::clone(server), poll), fed, config, known, in_reach, common)
            }
        },
    }
}

/// What reads the certificates of `settings`, where it has a source of its own.
///
/// # Errors
/// If the CA's certificate cannot be read.
pub fn source_of(settings: &config::Issuer) -> anyhow::Result<Option<Any>> {
    let Some(source) = &settings.source else { return Ok(None) };
    let certificate = read_certificate(&settings.certificate)?;
    Ok(Some(adapter(source, &Issuer { name: settings.name.clone(), certificate })))
}

fn adapter(source: &Settings, issuer: &Issuer) -> Any {
    let place = |place: &Place| match place {
        Place::File(path) => crl::Place::File(path.clone()),
        Place::Url(uri) => crl::Place::Url(uri.clone()),
    };
    match &source.from {
        From::IndexTxt { path, certificates } => {
            let source = IndexTxt::new(path.clone(), certificates.clone(), &issuer.name, source.poll);
            Any::IndexTxt(Box::new(source))
        }
        From::Crl { list, delta } => {
            let source = CrlSource::new(issuer, place(list), delta.as_ref().map(place), source.poll);
            Any::Crl(Box::new(source))
        }
        From::Sql { place, commit_grace, overlap, layout } => {
            let rhythm = Rhythm { poll: source.poll, commit_grace: *commit_grace, overlap: i64::from(*overlap) };
            let reading = |table| SqlSource::new(issuer, place.clone(), table, rhythm);
            let source = match layout {
                Layout::Ejbca(ejbca) => SqlSource::beside_ejbca(issuer, place.clone(), ejbca.clone(), rhythm),
                Layout::Cfssl => reading(presets::cfssl(Dialect::of(place), &issuer.certificate)),
                Layout::Queries(table) => reading(Table::clone(table)),
            };
            Any::Sql(Box::new(source))
        }
    }
}
