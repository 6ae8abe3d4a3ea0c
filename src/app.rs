//! The only place that builds Jarchy's parts and connects them; it also owns the signals and the order of
//! starting and stopping.
//!
//! Goes in: a [`Config`] and bound sockets. Comes out: a running service, and at the end its exit.
//!
//! ```text
//! source ─► feed ─► index ─┬─► ocsp ─┐
//!             │            │         ├─► http
//!             └─► state ◄──┴─► crl ──┘
//! ```
//!
//! Invariant: nothing is said to be ready before the first load is done. Stopping goes from the outside
//! in: unready, no new connections, answers under way finished, lists, feed, state (architecture: HTTP).

use crate::config::{self, Config, OcspSigner};
use crate::crl::{Parts, Publisher, PublisherConfig, Shelf};
use crate::feed::Feed;
use crate::health::Health;
use crate::http::admin::Admin;
use crate::http::server::{self, Server};
use crate::http::{Files, Site};
use crate::index::Index;
use crate::metrics::Metrics;
use crate::ocsp::request::Limits;
use crate::ocsp::{Authority, LiveRate, NoncePolicy, NotIssued, Policy, Presign, Responder, refresh};
use crate::pki::{Certificate, Clock, Issuer, SystemClock};
use crate::registry::Registry;
use crate::sign::Signer;
use crate::source::sqlite::SqliteSource;
use crate::state::State;
use anyhow::Context;
use arc_swap::ArcSwap;
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How long an HTTP cache may keep a list: short, because the next revocation makes a new one.
const LIST_MAX_AGE: Duration = Duration::from_secs(60);
/// How often it is looked whether everything has become ready.
const READY_CHECK: Duration = Duration::from_millis(10);

/// Binds the public sockets of `config`, one for each thread, at `listen`.
///
/// # Errors
/// If the address cannot be had.
pub fn bind(listen: SocketAddr, config: &config::Server) -> anyhow::Result<Vec<TcpListener>> {
    Ok(server::bind(listen, config.threads.get())?)
}

/// What every part is given.
struct Common {
    clock: Arc<dyn Clock>,
    health: Health,
    metrics: Metrics,
    state: State,
}

/// One issuer with its parts.
struct Built {
    issuer: Issuer,
    index: Arc<Index>,
    authority: Authority,
    publisher: Option<(Publisher, Arc<Shelf>)>,
}

/// Serves until SIGTERM or SIGINT; `on_ready` is called once everything can be answered.
///
/// # Errors
/// If anything that the config names cannot be used. Once it serves it goes on, whatever fails, and says
/// so in health and log.
pub async fn serve(
    config: Config,
    listeners: Vec<TcpListener>,
    on_ready: impl FnOnce(SocketAddr),
) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    let state = State::open(&config.state.path).await?;
    let common = Common { clock: Arc::new(SystemClock), health: Health::new(), metrics: Metrics::new(), state };
    // A database that is missing or somebody else's is better said now than waited for.
    open_registry(&config).await?.close().await;
    let issuers = issuers(&config, &common).await?;
    let indexes: HashMap<_, _> =
        issuers.iter().map(|built| (built.issuer.name.clone(), Arc::clone(&built.index))).collect();
    let source = SqliteSource::new(config.database.path.clone(), config.database.poll);
    let feed = Feed::new(
        source,
        indexes,
        common.state.clone(),
        Arc::clone(&common.clock),
        common.metrics.feed("database"),
        common.health.component("feed:database"),
    );

    // From here on nothing fails any more but the sockets.
    let (stop_outside, outside) = watch::channel(false);
    let (stop_inside, inside) = watch::channel(false);
    let (site, responder, publishers) = assemble(issuers, &config, &common);
    let limits = limits(&config.server);
    let site = Arc::new(ArcSwap::from_pointee(site));
    let server = Server::start(listeners, site, limits, &common.metrics, &common.health, &outside)?;
    let mut outer_tasks = JoinSet::new();
    if let Some(address) = config.server.admin {
        let listener = admin_listener(address)?;
        tracing::info!(address = %listener.local_addr()?, "health and metrics");
        let admin = Admin::new(common.health.clone(), common.metrics.clone());
        outer_tasks.spawn(admin.run(listener, inside.clone()));
    }
    let mut inner_tasks = JoinSet::new();
    inner_tasks.spawn(feed.run(inside.clone()));
    inner_tasks.spawn(refresh::run(responder, inside.clone()));
    for publisher in publishers {
        inner_tasks.spawn(publisher.run(inside.clone()));
    }

    let address = server.address();
    tokio::select! {
        () = ready(&common.health) => {
            on_ready(address);
            signals.next().await;
        }
        () = signals.next() => {}
    }

    tracing::info!("stopping");
    common.health.stop();
    stop_outside.send_replace(true);
    let cut = server.stopped().await;
    if cut > 0 {
        tracing::warn!(connections = cut, "cut at the end of the time for draining");
    }
    stop_inside.send_replace(true);
    inner_tasks.join_all().await;
    outer_tasks.join_all().await;
    common.state.close().await;
    tracing::info!("stopped");
    Ok(())
}

async fn ready(health: &Health) {
    while !health.ready() {
        tokio::time::sleep(READY_CHECK).await;
    }
}

/// SIGTERM and SIGINT; listened for from the start, so that none is missed.
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        let handler = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self { terminate: handler(SignalKind::terminate())?, interrupt: handler(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Opens the issuance database of `config`, and registers there the issuers that it does not know yet.
///
/// # Errors
/// If it is missing or somebody else's, or calls another CA by the name of one of these.
pub async fn open_registry(config: &Config) -> anyhow::Result<Registry> {
    let registry = Registry::open(&config.database.path).await?;
    let known = registry.issuers().await?;
    for issuer in &config.issuers {
        let certificate = read_certificate(&issuer.certificate)?;
        match known.iter().find(|known| known.name == issuer.name) {
            None => registry.add_issuer(&issuer.name, &certificate).await?,
            Some(found) => anyhow::ensure!(
                found.certificate.spki() == certificate.spki() && found.certificate.subject() == certificate.subject(),
                "{}: this is another CA than the one that {} calls \"{}\": a CA with a new name or key is another \
                 issuer and needs a name of its own",
                issuer.certificate.display(),
                config.database.path.display(),
                issuer.name
            ),
        }
    }
    Ok(registry)
}

async fn issuers(config: &Config, common: &Common) -> anyhow::Result<Vec<Built>> {
    let mut built = Vec::new();
    for (issuer, id) in config.issuers.iter().zip(0..) {
        let context = || format!("issuer \"{}\"", issuer.name);
        built.push(build(issuer, id, config, common).with_context(context)?);
    }
    if built.iter().any(|built| built.publisher.is_some()) {
        common.state.claim().await?;
    }
    Ok(built)
}

fn build(settings: &config::Issuer, id: u32, config: &Config, common: &Common) -> anyhow::Result<Built> {
    let certificate = read_certificate(&settings.certificate)?;
    let issuer = Issuer { name: settings.name.clone(), certificate };
    let index = Arc::new(Index::new());
    let (signer, delegate) = match &settings.ocsp.signer {
        OcspSigner::Ca { key } => (Signer::from_file(key, &issuer.certificate)?, None),
        OcspSigner::Delegate { certificate, key } => {
            let delegate = read_certificate(certificate)?;
            (Signer::from_file(key, &delegate)?, Some(delegate))
        }
    };
    let policy = Policy {
        lifetime: settings.ocsp.lifetime,
        max_age_good: settings.ocsp.max_age,
        max_age_uncertain: settings.ocsp.max_age_uncertain,
        not_issued: match settings.ocsp.not_issued {
            config::NotIssued::Unauthorized => NotIssued::Unauthorized,
            config::NotIssued::Unknown => NotIssued::Unknown,
        },
        nonce: match settings.ocsp.nonce {
            config::Nonce::Live => NoncePolicy::Live,
            config::Nonce::CachedReply => NoncePolicy::CachedReply,
            config::Nonce::Off => NoncePolicy::Off,
        },
        max_staleness: config.database.max_staleness,
        live_rate: LiveRate { issuer: settings.ocsp.live_rate, client: settings.ocsp.live_rate_per_client },
        presign: match settings.ocsp.presign {
            config::Presign::None => Presign::None,
            config::Presign::Hot => Presign::Hot,
            config::Presign::All => Presign::All { rate: settings.ocsp.presign_rate.get() },
        },
    };
    let now = common.clock.now();
    let shared = Arc::new(issuer.clone());
    let authority = Authority::new(id, shared, Arc::clone(&index), Arc::new(signer), delegate.as_ref(), policy, now)?;
    let publisher = settings.crl.as_ref().map(|crl| publisher(crl, &issuer, &index, config, common)).transpose()?;
    Ok(Built { issuer, index, authority, publisher })
}

fn publisher(
    crl: &config::Crl,
    issuer: &Issuer,
    index: &Arc<Index>,
    config: &Config,
    common: &Common,
) -> anyhow::Result<(Publisher, Arc<Shelf>)> {
    let shelf = Arc::new(Shelf::new());
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
        public_url: config.server.public_url.clone(),
    };
    let parts = Parts {
        issuer: issuer.clone(),
        signer: Arc::new(Signer::from_file(&crl.key, &issuer.certificate)?),
        index: Arc::clone(index),
        state: common.state.clone(),
        clock: Arc::clone(&common.clock),
        shelf: Arc::clone(&shelf),
        health: common.health.clone(),
        metrics: common.metrics.clone(),
    };
    Ok((Publisher::new(settings, parts)?, shelf))
}

/// What HTTP serves, who answers, and who makes the lists.
fn assemble(issuers: Vec<Built>, config: &Config, common: &Common) -> (Site, Arc<Responder>, Vec<Publisher>) {
    let (mut authorities, mut publishers, mut files) = (Vec::new(), Vec::new(), BTreeMap::new());
    for Built { issuer, authority, publisher, .. } in issuers {
        let (publisher, shelf) = publisher.unzip();
        authorities.push(authority);
        publishers.extend(publisher);
        let certificate = Bytes::copy_from_slice(issuer.certificate.der());
        files.insert(issuer.name, Files::new(shelf, certificate, LIST_MAX_AGE));
    }
    let (clock, metrics) = (Arc::clone(&common.clock), common.metrics.clone());
    let cache_bytes = config.server.limits.ocsp_cache_mib.get().saturating_mul(1 << 20);
    let responder = Responder::new(authorities, cache_bytes, Limits::default(), Arc::clone(&clock), metrics.clone());
    let responder = Arc::new(responder);
    (Site::new(Arc::clone(&responder), files, clock, metrics), responder, publishers)
}

fn limits(server: &config::Server) -> server::Limits {
    let config::Limits {
        max_connections,
        max_connections_per_address,
        header_timeout,
        idle_timeout,
        body_timeout,
        write_timeout,
        ocsp_cache_mib: _,
    } = server.limits;
    server::Limits {
        connections: max_connections.get(),
        connections_per_address: max_connections_per_address.get(),
        header_time: header_timeout,
        idle_time: idle_timeout,
        body_time: body_timeout,
        drain_time: write_timeout,
        stop_time: server.drain,
        ..server::Limits::default()
    }
}

fn admin_listener(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let [listener] = <[TcpListener; 1]>::try_from(server::bind(address, 1).context("the operator's listener")?)
        .map_err(|_| anyhow::anyhow!("{address}: no socket"))?;
    Ok(listener)
}

fn read_certificate(path: &Path) -> anyhow::Result<Certificate> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read the certificate {}", path.display()))?;
    Certificate::from_file_bytes(&bytes).with_context(|| path.display().to_string())
}
