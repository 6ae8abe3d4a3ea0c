//! The lists of each issuer: who makes them, who spreads them, and operators who want one at once.
//!
//! Goes in: what the config says of an issuer's CRLs. Comes out: tasks that run until the stop, and the
//! desks at which an operator's wish is heard.

use super::{Common, watched};
use crate::config::{self, Config, ShardBy};
use crate::crl::publish::{Directory, Mirror};
use crate::crl::{Demand, Division, Outlet, Part, Parts, Publisher, PublisherConfig, Share, Shelf};
use crate::health::Health;
use crate::http::admin::{Refused, ServedList};
use crate::index::Index;
use crate::pki::{Issuer, IssuerName, Time};
use crate::sign::Signer;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long an operator who wants a list waits for it.
const DEMAND_TIME: Duration = Duration::from_secs(60);

/// What makes and spreads one list of an issuer.
pub(super) struct List {
    pub(super) part: Part,
    /// The path that its certificates name, if it is not the usual one and yet ours.
    pub(super) path: Option<String>,
    publisher: Publisher,
    pub(super) shelf: Arc<Shelf>,
    mirrors: Vec<Mirror>,
}

impl List {
    /// Runs until `stop` says true.
    pub(super) fn spawn(self, tasks: &mut JoinSet<()>, health: &Health, stop: &watch::Receiver<bool>) {
        for mirror in self.mirrors {
            tasks.spawn(watched("crl-to", health, mirror.run(stop.clone())));
        }
        tasks.spawn(watched("crl", health, self.publisher.run(stop.clone())));
    }
}

/// Whom to ask for a list at once: by issuer, the scopes and what takes the wish.
pub(super) type Desks = BTreeMap<IssuerName, Vec<(String, Arc<Demand>)>>;

/// Whether the lists are divided by what the database says of each certificate.
pub(super) fn keeps_shards(crl: &config::Crl) -> bool {
    crl.shards.as_ref().is_some_and(|shards| shards.by != ShardBy::Hash)
}

/// One publisher for each list: one for all certificates, or one for each shard of them.
pub(super) async fn lists(
    crl: &config::Crl,
    issuer: &Issuer,
    index: &Arc<Index>,
    config: &Config,
    common: &Common,
) -> anyhow::Result<Vec<List>> {
    let defaults = PublisherConfig::default();
    let settings = PublisherConfig {
        interval: crl.interval,
        lifetime: crl.lifetime,
        delta_lifetime: crl.delta_lifetime,
        delta_window: crl.delta_window,
        max_staleness: config.database.max_staleness,
        debounce: crl.debounce,
        max_delay: crl.max_delay.unwrap_or(defaults.max_delay),
        history_bytes: defaults.history_bytes,
        history: crl.history,
        public_url: config.server.public_url.clone(),
        deltas: true,
        part_url: crl.shards.as_ref().map_or(defaults.part_url, |shards| shards.url.clone()),
        keep_expired: crl.keep_expired,
        next_publish: crl.next_publish,
        ca_issuers: crl.ca_issuers.clone(),
        last: crl.last,
    };
    let (count, rule) = crl
        .shards
        .as_ref()
        .map_or_else(|| (0, "hash".to_owned()), |shards| (shards.count.get(), shards.by.to_string()));
    common.state.divide(&issuer.name, count, &rule).await?;
    if keeps_shards(crl) {
        index.keep_shards();
    }
    let shares = match &crl.shards {
        None => vec![Share::whole(Arc::clone(index))],
        Some(shards) => {
            let division = match shards.by {
                ShardBy::Hash | ShardBy::Database => Division::Shards(shards.count),
                ShardBy::Kind => Division::Kinds,
            };
            Share::divided(Arc::clone(index), division, shards.unsharded)
        }
    };
    let signer = Arc::new(Signer::from_file(&crl.key, &issuer.certificate)?.guarded(Arc::clone(&common.guard)));
    let mut lists = Vec::new();
    for share in shares {
        let (part, shelf) = (share.part(), Arc::new(Shelf::new()));
        let mirrors = mirrors(crl, issuer, part, &shelf, common);
        let outlet = |mirror: &Mirror| Arc::new(mirror.directory.clone()) as Arc<dyn Outlet>;
        let parts = Parts {
            issuer: issuer.clone(),
            signer: Arc::clone(&signer),
            share,
            state: common.state.clone(),
            clock: Arc::clone(&common.guard),
            shelf: Arc::clone(&shelf),
            outlets: mirrors.iter().map(outlet).collect(),
            health: common.health.clone(),
            metrics: common.metrics.clone(),
        };
        // CRL-68: a list that is short and comes often needs no delta.
        let settings = PublisherConfig { deltas: part == Part::Whole, ..settings.clone() };
        let path = path(part, &settings, &issuer.name);
        let publisher = Publisher::new(settings, parts)?.leased(common.leases.of(&issuer.name));
        lists.push(List { part, path, publisher, shelf, mirrors });
    }
    Ok(lists)
}

/// Where a part's list is asked for here by those who have its URL from a certificate.
fn path(part: Part, settings: &PublisherConfig, issuer: &IssuerName) -> Option<String> {
    let public_url = settings.public_url.as_deref()?.trim_end_matches('/');
    let path = part.url(&settings.part_url, public_url, issuer)?.strip_prefix(public_url)?.to_owned();
    let is_usual = part.name().is_some_and(|name| path == format!("/crl/{issuer}/{name}.crl"));
    (path.starts_with('/') && !is_usual).then_some(path)
}

/// Where one list goes besides HTTP.
fn mirrors(crl: &config::Crl, issuer: &Issuer, part: Part, shelf: &Arc<Shelf>, common: &Common) -> Vec<Mirror> {
    let mirror = |to: &config::Destination| {
        let (scope, place) = (part.scope(&issuer.name), to.directory.display().to_string());
        Mirror {
            health: common.health.component(&format!("crl-to:{scope}:{place}")),
            metrics: common.metrics.destination(scope.as_str(), &place),
            directory: Directory::new(to.directory.clone(), scope, issuer),
            shelf: Arc::clone(shelf),
            clock: Arc::clone(&common.clock),
        }
    };
    crl.publish.iter().map(mirror).collect()
}

/// The desks of an issuer with `lists`.
pub(super) fn desk(issuer: &IssuerName, lists: &[List]) -> Vec<(String, Arc<Demand>)> {
    lists.iter().map(|list| (list.part.scope(issuer).to_string(), list.publisher.demand())).collect()
}

/// Has new lists of an issuer made, and waits until they are served.
pub(super) async fn publish_now(
    issuer: &IssuerName,
    desk: Vec<(String, Arc<Demand>)>,
    now: Time,
    health: &Health,
) -> Result<Vec<ServedList>, Refused> {
    tracing::info!(%issuer, "an operator wants new CRLs");
    let components: Vec<String> = desk.iter().map(|(scope, _)| format!("crl:{scope}")).collect();
    let mut wishes: JoinSet<ServedList> = JoinSet::new();
    for (scope, demand) in desk {
        wishes.spawn(async move { ServedList { scope, number: demand.list(now).await } });
    }
    let made = tokio::time::timeout(DEMAND_TIME, wishes.join_all()).await;
    made.map(|mut lists| {
        lists.sort_by(|a, b| a.scope.cmp(&b.scope));
        lists
    })
    .map_err(|_| {
        let reason = health
            .report()
            .into_iter()
            .filter(|report| components.contains(&report.component))
            .find_map(|report| report.reason)
            .unwrap_or_else(|| "the index does not yet agree with the database".to_owned());
        Refused::Late(format!("no new CRL within {} s: {reason}", DEMAND_TIME.as_secs()))
    })
}
