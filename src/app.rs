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
//! in: unready, grace, no new connections, answers under way finished, lists, feed, state (architecture: HTTP).

mod check;
mod clock;
mod commands;
mod leases;
mod lists;
mod snapshot;
mod sources;

pub use check::check;
pub use leases::this_node;
pub use sources::source_of;

use crate::config::{self, Config, OcspSigner};
use crate::crl::Shelf;
use crate::db::{self, DbError, Place};
use crate::feed::{Desk, Fed, Feed, Pace};
use crate::health::{Component, Health};
use crate::http::admin::Admin;
use crate::http::server::{self, Server};
use crate::http::{Files, PartList, Site};
use crate::index::Index;
use crate::metrics::Metrics;
use crate::ocsp::request::Limits;
use crate::ocsp::{
    Authority, Credential, LiveRate, NoncePolicy, NotIssued, NotYetValid, Policy, Presign, Requestors, Responder,
    ResponderId, Signers, refresh,
};
use crate::pki::{Certificate, Clock, ClockGuard, GuardedClock, Issuer, IssuerName, SystemClock, Time};
use crate::registry::{self, Registry, RegistryError};
use crate::sign::Signer;
use crate::source::{Position, Source};
use crate::state::State;
use crate::telemetry::Logs;
use anyhow::Context;
use arc_swap::ArcSwap;
use bytes::Bytes;
use clock::ClockWatch;
use commands::obey;
use leases::Leases;
use lists::{Desks, List, desk};
use std::collections::{BTreeMap, HashMap};
use std::net::{SocketAddr, TcpListener};
use std::ops::RangeFrom;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// How often it is looked whether the signers' certificates still have time and are not revoked, and how large the databases are.
const LOOK: Duration = Duration::from_secs(1);
/// How long before the last of them ends health says so; of one that lives less than three times as long, when two
/// thirds of its life are over.
const SIGNER_WARNING: Duration = Duration::from_secs(30 * 86_400);
/// How often it is looked whether everything has become ready.
const READY_CHECK: Duration = Duration::from_millis(10);
/// How long to wait before a database that was out of reach at the start is asked again.
const DATABASE_CHECK: Duration = Duration::from_millis(500);
/// How far everything else stands behind the threads that answer, as `nice` counts.
const BEHIND: i32 = 10;
/// Nobody stands further behind.
const LAST: i32 = 19;

/// Binds the public sockets of `config`, one for each thread, at `listen`.
///
/// # Errors
/// If the address cannot be had.
pub fn bind(listen: SocketAddr, config: &config::Server) -> anyhow::Result<Vec<TcpListener>> {
    Ok(server::bind(listen, config.threads.get())?)
}

/// For each thread of the runtime on which [`serve`] runs, when it begins: what is done there (reading changes,
/// making lists, signing ahead) waits for those that answer, which stay where the thread is that calls this.
pub fn stand_behind() -> impl Fn() + Send + Sync + 'static {
    #[cfg(target_os = "linux")]
    let ours = rustix::process::getpriority_process(None).unwrap_or(0);
    #[cfg(not(target_os = "linux"))]
    let ours = 0;
    // Threads inherit from the one that starts them: it is set, not added.
    move || be_nice(ours + BEHIND)
}

/// How far this thread, and those that it starts, stand behind others.
fn be_nice(level: i32) {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, level.min(LAST)) {
        tracing::debug!(%error, "the priority stays as it is");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = level;
}

/// A feed that is ready to run.
struct ReadyFeed {
    /// Its name in health.
    component: String,
    desk: Desk,
    /// Up to where it has read.
    position: watch::Receiver<Option<Position>>,
    /// When that was last proved.
    reconciled: watch::Receiver<Time>,
    /// Runs it until it is told to stop.
    run: Box<dyn FnOnce(watch::Receiver<bool>) -> Running>,
}

/// What runs until it is told to stop.
type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What every part is given.
struct Common {
    clock: Arc<dyn Clock>,
    guard: Arc<ClockGuard>,
    health: Health,
    metrics: Metrics,
    state: State,
    leases: Arc<Leases>,
}

impl Common {
    /// For whoever remembers moments.
    fn guarded(&self) -> Arc<dyn Clock> {
        Arc::new(GuardedClock(Arc::clone(&self.guard)))
    }
}

/// What stays of an issuer when the config is read again.
struct Lasting {
    issuer: Issuer,
    index: Arc<Index>,
    shelf: Option<Arc<Shelf>>,
    parts: Vec<PartList>,
}

/// Everything that is served, and how to make it anew.
struct Service {
    common: Common,
    issuers: Vec<Lasting>,
    /// Numbers of signers, never given twice.
    ids: RangeFrom<u32>,
    /// The one that answers, for the refresher to follow.
    responder: watch::Sender<Arc<Responder>>,
    site: Arc<ArcSwap<Site>>,
    logs: Logs,
}

/// Serves until SIGTERM or SIGINT; SIGHUP reads the config again. `on_ready` is called once everything can
/// be answered, but for issuers that have failed beside others that have not.
///
/// # Errors
/// If anything that the config names cannot be used. Once it serves it goes on, whatever fails, and says
/// so in health and log.
pub async fn serve(
    config: Config,
    listeners: Vec<TcpListener>,
    logs: Logs,
    on_ready: impl FnOnce(SocketAddr),
) -> anyhow::Result<()> {
    let mut signals = Signals::listen()?;
    let state = State::open(&config.state.path).await?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let guard = Arc::new(ClockGuard::new(Arc::clone(&clock)));
    let leases = Arc::new(Leases::new(&config));
    let common = Common { clock, guard, health: Health::new(), metrics: Metrics::new(), state, leases };
    let watch = ClockWatch::begin(&common).await?;
    let in_reach = is_in_reach(&config).await?;
    let mut restored = snapshot::restore(&config, in_reach, &*common.guarded()).await;
    let mut issuers = Vec::new();
    let (mut lists, mut desks) = (Vec::new(), Desks::new());
    for settings in &config.issuers {
        let index = Arc::new(restored.indexes.remove(&settings.name).unwrap_or_default());
        let (lasting, own) = lasting(settings, index, &config, &common)
            .await
            .with_context(|| format!("issuer \"{}\"", settings.name))?;
        if !own.is_empty() {
            desks.insert(settings.name.clone(), desk(&settings.name, &own));
        }
        issuers.push(lasting);
        lists.extend(own);
    }
    if !lists.is_empty() {
        common.state.claim().await?;
    }
    let mut ids = 0..;
    let (site, responder) = assemble(&config, &issuers, &mut ids, &common)?;
    let (in_reach, waited) = watch::channel(in_reach);
    let feeds = sources::feeds(&config, &issuers, restored.known, waited, &common);

    // Before anyone is served: whoever is refused a start has answered nothing.
    let operators = config.server.admin.map(admin_listener).transpose()?;

    // From here on nothing fails any more but the sockets.
    let (stop_outside, outside) = watch::channel(false);
    let (stop_inside, inside) = watch::channel(false);
    let site = Arc::new(ArcSwap::from_pointee(site));
    let limits = limits(&config.server);
    let server = Server::start(listeners, Arc::clone(&site), limits, &common.metrics, &common.health, &outside)?;
    let mut outer_tasks = JoinSet::new();
    if let Some(listener) = operators {
        tracing::info!(address = %listener.local_addr()?, "health and metrics");
        let names = issuers.iter().map(|lasting| lasting.issuer.name.clone()).collect();
        let (admin, wanted) = Admin::new(common.health.clone(), common.metrics.clone(), names);
        let lines = feeds.iter().map(|feed| (feed.component.clone(), feed.desk.clone())).collect();
        tokio::spawn(obey(wanted, desks, lines, Arc::clone(&common.clock), common.health.clone()));
        let (health, stop) = (common.health.clone(), inside.clone());
        outer_tasks.spawn(watched("admin", &common.health, async move {
            if let Err(error) = admin.run(listener, stop).await {
                health.component("admin").dead(error.to_string());
            }
        }));
    }
    let writer = snapshot::Writer::start(&config, &issuers, &feeds)?;
    let mut inner_tasks = JoinSet::new();
    for ReadyFeed { component, run, .. } in feeds {
        inner_tasks.spawn(watched(&component, &common.health, run(inside.clone())));
    }
    let (responder, responders) = watch::channel(responder);
    let refresher = refresh::run(responders, inside.clone());
    inner_tasks.spawn(watched("refresher", &common.health, refresher));
    inner_tasks.spawn(watched("clock", &common.health, watch.run(inside.clone())));
    if common.leases.are_any() {
        let place = config.database.place.clone();
        let (leases, health) = (Arc::clone(&common.leases), common.health.component("publishing"));
        let keep = leases.keep(place, common.state.clone(), health, inside.clone());
        inner_tasks.spawn(watched("publishing", &common.health, keep));
    }
    for list in lists {
        list.spawn(&mut inner_tasks, &common.health, &inside);
    }

    let address = server.address();
    let health = common.health.clone();
    let mut service = Service { common, issuers, ids, responder, site, logs };
    let has_served = tokio::select! {
        has_served = service.run(&config, &mut signals, || on_ready(address)) => has_served,
        () = async {
            if !*in_reach.borrow() {
                registered(&config, &health.component(&sources::component(sources::DATABASE))).await;
                in_reach.send_replace(true);
            }
            std::future::pending().await
        } => false,
    };

    service.common.health.stop();
    let grace = config.server.grace;
    if has_served && !grace.is_zero() {
        tracing::info!(?grace, "no longer ready, and serving on until others know; another signal ends that");
        tokio::select! {
            () = tokio::time::sleep(grace) => {}
            () = signals.stop() => {}
        }
    }
    tracing::info!("stopping");
    stop_outside.send_replace(true);
    tokio::select! {
        cut = server.stopped() => if cut > 0 {
            tracing::warn!(connections = cut, "cut at the end of the time for draining");
        },
        // Whoever says it twice means now; the threads end with the process.
        () = signals.stop() => tracing::warn!("stopping at once: connections that were being drained are cut"),
    }
    stop_inside.send_replace(true);
    inner_tasks.join_all().await;
    outer_tasks.join_all().await;
    if let Err(error) = tokio::task::spawn_blocking(|| writer.finish()).await {
        tracing::error!(%error, "writing the index file failed");
    }
    service.common.state.close().await;
    if let Place::File(path) = &config.database.place
        && config.uses_database()
        && let Err(error) = db::settle(path, &registry::KIND).await
    {
        tracing::warn!("{error}; what was written last may stand in the -wal file beside it");
    }
    tracing::info!("stopped");
    Ok(())
}

impl Service {
    /// Looks after what is served until a signal says stop. Whether it was ever ready.
    async fn run(&mut self, config: &Config, signals: &mut Signals, on_ready: impl FnOnce()) -> bool {
        self.config_taken(true);
        self.look(config);
        let (mut on_ready, mut looking) = (Some(on_ready), tokio::time::interval(LOOK));
        loop {
            tokio::select! {
                _ = signals.terminate.recv() => return on_ready.is_none(),
                _ = signals.interrupt.recv() => return on_ready.is_none(),
                () = ready(&self.common.health, &self.issuers), if on_ready.is_some() => {
                    on_ready.take().into_iter().for_each(|tell| tell());
                }
                _ = signals.hangup.recv() => {
                    let reloaded = self.reload(config);
                    self.config_taken(reloaded.is_ok());
                    match reloaded {
                        Ok(()) => tracing::info!("the config was read again"),
                        Err(error) => tracing::error!("the config stays as it was: {error:#}"),
                    }
                }
                _ = looking.tick() => self.look(config),
            }
        }
    }

    /// Shows what came of reading the config.
    fn config_taken(&self, taken: bool) {
        let Metrics { config_taken, config_taken_at, .. } = &self.common.metrics;
        config_taken.set(taken.into());
        if taken {
            config_taken_at.set(self.common.clock.now().unix());
        }
    }

    /// What needs no more than a look now and then.
    fn look(&self, config: &Config) {
        self.watch_signers();
        let database = match &config.database.place {
            Place::File(path) if config.uses_database() => Some(("issuance", path)),
            _ => None,
        };
        for (database, path) in database.into_iter().chain([("state", &config.state.path)]) {
            for (file, octets) in db::sizes(path) {
                self.common.metrics.set_file(database, file, octets);
            }
        }
    }

    /// Takes over keys, delegates, what is answered, and the log level. Listeners, databases, the list of
    /// issuers and the times of CRLs need a restart: what of them differs from `started` is named in the log.
    fn reload(&mut self, started: &Config) -> anyhow::Result<()> {
        let config = Config::load(&started.file)?;
        let names = config.issuers.iter().map(|issuer| &issuer.name);
        anyhow::ensure!(
            names.eq(self.issuers.iter().map(|lasting| &lasting.issuer.name)),
            "other issuers than before: that needs a restart"
        );
        let (site, responder) = assemble(&config, &self.issuers, &mut self.ids, &self.common)?;
        let now = self.common.clock.now();
        let present = self.responder.borrow().clone();
        for Signers { issuer, signs, from, until, .. } in responder.look_after_signers(now) {
            let signed = present.look_after_signers(now).any(|was| was.issuer == issuer && was.signs);
            anyhow::ensure!(
                signs || !signed,
                "issuer \"{issuer}\": none of its certificates for OCSP is valid now, the last one from {from} to {until}"
            );
        }
        self.logs.set_level(&config.log.level)?;
        self.responder.send_replace(responder);
        self.site.store(Arc::new(site));
        self.watch_signers();
        let differing = config::show::changed(started, &config);
        let left: Vec<_> = differing.iter().map(String::as_str).filter(|name| needs_restart(name)).collect();
        if !left.is_empty() {
            tracing::warn!("needs a restart: {}", left.join(", "));
        }
        Ok(())
    }

    /// Has the keys of delegates that were revoked sign no more (OCSP-56), and tells in time that none will be left
    /// that may sign (promise 3, SEC-20).
    fn watch_signers(&self) {
        let now = self.common.clock.now();
        let metrics = &self.common.metrics;
        for Signers { issuer, signs, from, until, revoked } in self.responder.borrow().look_after_signers(now) {
            let health = self.common.health.component(&format!("ocsp:{issuer}"));
            let warning = SIGNER_WARNING.min(until.since(from) / 3);
            if let [delegate, ..] = revoked[..] {
                let (subject, serial) = (delegate.subject_text(), delegate.serial());
                let told = format!(
                    "the CA has revoked the OCSP certificate of \"{subject}\", {serial}: its key signs no more; put \
                     another into [issuer.ocsp] and send SIGHUP"
                );
                if signs { health.degraded(told) } else { health.failed(told) }
            } else if signs && now + warning < until {
                health.ok();
            } else if signs {
                health
                    .degraded(format!("the certificate of the last signer ends at {until}: have the next one issued"));
            } else if until < now {
                health.failed(format!("the certificate of the last signer ended at {until}"));
            } else {
                health.failed(format!("the certificate of the last signer is valid from {from} on, not yet"));
            }
            metrics.set_certificate_end(issuer, "ocsp", until.unix());
        }
        for Lasting { issuer, .. } in &self.issuers {
            metrics.set_certificate_end(issuer.name.as_str(), "ca", issuer.certificate.not_after().unix());
        }
    }
}

/// Whether a setting, as `issuer.main.crl.interval`, is not taken over by a reload.
fn needs_restart(setting: &str) -> bool {
    let of_issuer = setting.strip_prefix("issuer.").and_then(|setting| setting.split_once('.'));
    match of_issuer {
        None => !matches!(setting, "log.level" | "server.limits.ocsp_cache_mib"),
        Some((_, "ca_revoked_at" | "ca_revoked_reason" | "end_of_life" | "hold" | "crl.max_age")) => false,
        Some((_, setting)) => !setting.starts_with("ocsp."),
    }
}

/// Runs `part`. Should it panic, only a restart helps; nobody would notice otherwise, as what it said of
/// itself last stays in the health.
fn watched(
    name: &str,
    health: &Health,
    part: impl Future<Output = ()> + Send + 'static,
) -> impl Future<Output = ()> + Send + 'static {
    let (name, health, part) = (name.to_owned(), health.clone(), tokio::spawn(part));
    async move {
        if let Err(error) = part.await {
            health.component(&name).dead(format!("it ended abnormally: {error}"));
        }
    }
}

/// Whether the issuance database of `config`, if there is one, can be asked. One that is missing or somebody else's is
/// better said now than waited for; what waiting may mend keeps nobody from what is known without it (promise 12).
async fn is_in_reach(config: &Config) -> anyhow::Result<bool> {
    if !config.uses_database() {
        return Ok(true);
    }
    match open_registry(config).await {
        Ok(registry) => registry.close().await,
        Err(error) if may_pass(&error) => {
            tracing::warn!("{error}: nothing but known revocations is answered until it can be read");
            return Ok(false);
        }
        Err(error) => return Err(error),
    }
    Ok(true)
}

fn may_pass(error: &anyhow::Error) -> bool {
    match error.downcast_ref::<RegistryError>() {
        Some(RegistryError::Db(DbError::Sql { source, .. }) | RegistryError::Sql(source)) => db::may_pass(source),
        _ => false,
    }
}

/// Waits until the issuance database of `config` is there and knows its issuers.
async fn registered(config: &Config, health: &Component) {
    loop {
        match open_registry(config).await {
            Ok(registry) => return registry.close().await,
            Err(error) => health.failed(format!("{error:#}")),
        }
        tokio::time::sleep(DATABASE_CHECK).await;
    }
}

fn start(
    name: &str,
    source: impl Source + 'static,
    issuers: HashMap<IssuerName, Fed>,
    config: &Config,
    known: Option<(Position, Time)>,
    in_reach: Option<watch::Receiver<bool>>,
    common: &Common,
) -> ReadyFeed {
    let component = sources::component(name);
    let feed = Feed::new(
        source,
        issuers,
        common.state.clone(),
        common.guarded(),
        common.metrics.feed(name),
        common.health.component(&component),
    );
    let ready = async move {
        if let Some(mut in_reach) = in_reach {
            // Who would say so goes only when all ends.
            _ = in_reach.wait_for(|in_reach| *in_reach).await;
        }
    };
    let config::Database { max_staleness, reconcile, .. } = config.database;
    let feed = feed.paced(Pace { max_staleness, reconcile: Some(reconcile), ..Pace::default() }).resume(known);
    let (desk, position, reconciled) = (feed.desk(), feed.position(), feed.reconciled());
    ReadyFeed {
        component,
        desk,
        position,
        reconciled,
        run: Box::new(move |stop| Box::pin(feed.run_after(ready, stop))),
    }
}

/// Returns once some of the issuers can be answered for, and of the others it is known that they cannot.
async fn ready(health: &Health, issuers: &[Lasting]) {
    let names = || issuers.iter().map(|lasting| lasting.issuer.name.as_str());
    let settled = |name| health.ready_for(name) || health.failed_for(name);
    while !(names().any(|name| health.ready_for(name)) && names().all(settled)) {
        tokio::time::sleep(READY_CHECK).await;
    }
}

/// SIGTERM, SIGINT and SIGHUP; listened for from the start, so that none is missed.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> anyhow::Result<Self> {
        let handler = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            terminate: handler(SignalKind::terminate())?,
            interrupt: handler(SignalKind::interrupt())?,
            hangup: handler(SignalKind::hangup())?,
        })
    }

    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Opens the issuance database of `config`, and registers there the issuers that it does not know yet.
///
/// # Errors
/// If it is missing or somebody else's, or calls another CA by the name of one of these; or if every issuer of
/// the config has a source of its own, so that there is none.
pub async fn open_registry(config: &Config) -> anyhow::Result<Registry> {
    anyhow::ensure!(
        config.uses_database(),
        "{}: every issuer has a source of its own, so that there is no issuance database to work on: certificates are \
         issued and revoked by the CA's own software",
        config.file.display()
    );
    let registry = Registry::open(&config.database.place).await?;
    register(config, &registry, |issuer| issuer.source.is_none()).await?;
    Ok(registry)
}

/// The same for an import of the certificates of `issuer` from its own source. With `create` it is made if it is not
/// there, and `issuer` registered; else nothing is changed, and there may be none.
///
/// # Errors
/// As [`open_registry`].
pub async fn open_registry_for(config: &Config, issuer: &IssuerName, create: bool) -> anyhow::Result<Option<Registry>> {
    if !create {
        return match Registry::open(&config.database.place).await {
            Err(RegistryError::Db(DbError::Missing { .. })) => Ok(None),
            opened => Ok(Some(opened?)),
        };
    }
    let registry = Registry::create(&config.database.place).await?;
    register(config, &registry, |settings| settings.name == *issuer).await?;
    Ok(Some(registry))
}

/// Makes those issuers of `config` known that are not yet.
async fn register(config: &Config, registry: &Registry, which: impl Fn(&config::Issuer) -> bool) -> anyhow::Result<()> {
    for (issuer, certificate) in unregistered(config, registry, which).await? {
        registry
            .add_issuer(&issuer.name, &certificate)
            .await
            .with_context(|| format!("cannot register issuer \"{}\" in {}", issuer.name, config.database.place))?;
    }
    Ok(())
}

/// Those issuers of `config` that are not known yet, if the others are the CAs that they are called.
async fn unregistered<'a>(
    config: &'a Config,
    registry: &Registry,
    which: impl Fn(&config::Issuer) -> bool,
) -> anyhow::Result<Vec<(&'a config::Issuer, Certificate)>> {
    let (known, mut new) = (registry.issuers().await?, Vec::new());
    for issuer in config.issuers.iter().filter(|issuer| which(issuer)) {
        let certificate = read_certificate(&issuer.certificate)?;
        match known.iter().find(|known| known.name == issuer.name) {
            None => new.push((issuer, certificate)),
            Some(found) => anyhow::ensure!(
                found.certificate.spki() == certificate.spki() && found.certificate.subject() == certificate.subject(),
                "{}: this is another CA than the one that {} calls \"{}\": a CA with a new name or key is another \
                 issuer and needs a name of its own",
                issuer.certificate.display(),
                config.database.place,
                issuer.name
            ),
        }
    }
    Ok(new)
}

/// The parts of an issuer that outlive a reload, and who makes its lists.
async fn lasting(
    settings: &config::Issuer,
    index: Arc<Index>,
    config: &Config,
    common: &Common,
) -> anyhow::Result<(Lasting, Vec<List>)> {
    let certificate = read_certificate(&settings.certificate)?;
    let issuer = Issuer { name: settings.name.clone(), certificate };
    let lists = match &settings.crl {
        Some(crl) => lists::lists(crl, &issuer, &index, config, common).await?,
        None => Vec::new(),
    };
    let (mut whole, mut parts) = (None, Vec::new());
    for list in &lists {
        let shelf = Arc::clone(&list.shelf);
        match list.part.name() {
            None => whole = Some(shelf),
            Some(name) => parts.push(PartList { name, path: list.path.clone(), shelf }),
        }
    }
    Ok((Lasting { issuer, index, shelf: whole, parts }, lists))
}

/// What HTTP serves: everything that may change with the config.
fn assemble(
    config: &Config,
    issuers: &[Lasting],
    ids: &mut RangeFrom<u32>,
    common: &Common,
) -> anyhow::Result<(Site, Arc<Responder>)> {
    let (mut authorities, mut files) = (Vec::new(), BTreeMap::new());
    for (settings, Lasting { issuer, index, shelf, parts }) in config.issuers.iter().zip(issuers) {
        let context = || format!("issuer \"{}\"", settings.name);
        let credentials = credentials(settings, issuer, ids, common).with_context(context)?;
        // Requests about an issuer that has CRLs only are of nobody's certificates.
        if !credentials.is_empty() {
            let (shared, index) = (Arc::new(issuer.clone()), Arc::clone(index));
            let policy = policy(settings, config);
            let authority = Authority::new(shared, index, credentials, policy, common.guard.believed());
            let authority = authority.with_context(context)?;
            authorities.push(match &settings.ocsp.requestors {
                Some(files) => authority.only_for(requestors(files).with_context(context)?),
                None => authority,
            });
        }
        let certificate = Bytes::copy_from_slice(issuer.certificate.der());
        let (max_age, interval) =
            settings.crl.as_ref().map_or_else(Default::default, |crl| (crl.max_age, crl.interval));
        let served = Files::new(shelf.clone(), certificate, max_age).published_every(interval);
        files.insert(issuer.name.clone(), served.with_parts(parts.clone()));
    }
    let (clock, metrics) = (Arc::clone(&common.clock), common.metrics.clone());
    let cache_bytes = config.server.limits.ocsp_cache_mib.get().saturating_mul(1 << 20);
    let responder = Responder::new(authorities, cache_bytes, Limits::default(), Arc::clone(&clock), metrics.clone());
    let responder = Arc::new(responder);
    Ok((Site::new(Arc::clone(&responder), files, clock, metrics), responder))
}

/// The keys that sign OCSP responses for one issuer, each with a number that `ids` has not given before.
fn credentials(
    settings: &config::Issuer,
    issuer: &Issuer,
    ids: &mut RangeFrom<u32>,
    common: &Common,
) -> anyhow::Result<Vec<Credential>> {
    let load = |signer: &OcspSigner| {
        let (signer, delegate) = match signer {
            OcspSigner::Ca { key } => (Signer::from_file(key, &issuer.certificate)?, None),
            OcspSigner::Delegate { certificate, key } => {
                let delegate = read_certificate(certificate)?;
                (Signer::from_file(key, &delegate)?, Some(delegate))
            }
        };
        let id = ids.next().context("no numbers are left for signers: restart the service")?;
        Ok(Credential::new(id, Arc::new(signer.guarded(Arc::clone(&common.guard))), delegate))
    };
    settings.ocsp.signers.iter().map(load).collect()
}

fn policy(settings: &config::Issuer, config: &Config) -> Policy {
    let ocsp = &settings.ocsp;
    let name = &settings.name;
    let crl_url = config.server.public_url.as_ref().filter(|_| ocsp.crl_id);
    Policy {
        lifetime: ocsp.lifetime,
        max_age_good: ocsp.max_age,
        max_age_uncertain: ocsp.max_age_uncertain,
        not_issued: match (settings.source.as_ref().and_then(|source| source.absent), ocsp.not_issued) {
            (Some(config::Absent::Good), _) => NotIssued::Good,
            (Some(config::Absent::Unknown), _) | (None, config::NotIssued::Unknown) => NotIssued::Unknown,
            (Some(config::Absent::Unauthorized), _) | (None, config::NotIssued::Unauthorized) => {
                NotIssued::Unauthorized
            }
            (None, config::NotIssued::Revoked) => NotIssued::Revoked,
        },
        not_yet_valid: match ocsp.not_yet_valid {
            config::NotYetValid::Status => NotYetValid::Status,
            config::NotYetValid::Unknown => NotYetValid::Unknown,
        },
        nonce: match ocsp.nonce {
            config::Nonce::Live => NoncePolicy::Live,
            config::Nonce::CachedReply => NoncePolicy::CachedReply,
            config::Nonce::Off => NoncePolicy::Off,
        },
        max_staleness: config.database.max_staleness,
        retention: ocsp.retention,
        archive_cutoff: ocsp.archive_cutoff,
        cert_hash: ocsp.cert_hash,
        invalidity_date: ocsp.invalidity_date,
        crl_url: crl_url.map(|url| format!("{url}/crl/{name}.crl").into()),
        responder_id: match ocsp.responder_id {
            config::ResponderId::ByKey => ResponderId::ByKey,
            config::ResponderId::ByName => ResponderId::ByName,
        },
        ca_revoked: settings.ca_revoked,
        end_of_life: settings.end_of_life,
        live_rate: LiveRate { issuer: ocsp.live_rate, client: ocsp.live_rate_per_client },
        presign: match ocsp.presign {
            config::Presign::None => Presign::None,
            config::Presign::Hot => Presign::Hot,
            config::Presign::All => Presign::All { rate: ocsp.presign_rate.get() },
        },
        requires_nocheck: settings.profile.policy().requires_nocheck,
    }
}

fn requestors(files: &[PathBuf]) -> anyhow::Result<Requestors> {
    let mut trusted = Vec::new();
    for file in files {
        let context = || format!("cannot read the certificates of requestors in {}", file.display());
        let bytes = std::fs::read(file).with_context(context)?;
        trusted.extend(Certificate::all_from_file_bytes(&bytes).with_context(context)?);
    }
    Ok(Requestors::new(trusted))
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
        trusted_proxies: server.trusted_proxies.clone(),
        ..server::Limits::default()
    }
}

fn admin_listener(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let sockets = server::bind(address, 1).context("the operator's listener, [server] admin in the config")?;
    sockets.into_iter().next().with_context(|| format!("{address}: no socket"))
}

fn read_certificate(path: &Path) -> anyhow::Result<Certificate> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read the certificate {}", path.display()))?;
    Certificate::from_file_bytes(&bytes).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_panics_calls_for_a_restart_and_does_not_keep_the_rest_from_stopping() {
        let health = Health::new();
        let mut parts = JoinSet::new();
        parts.spawn(watched("sound", &health, async {}));
        parts.spawn(watched("faulty", &health, async { panic!("a fault of Jarchy") }));
        parts.join_all().await;
        assert!(!health.live() && !health.ready());
        let dead: Vec<_> =
            health.report().into_iter().filter(|part| part.state == crate::health::State::Dead).collect();
        assert_eq!(dead.iter().map(|part| part.component.as_str()).collect::<Vec<_>>(), ["faulty"]);
    }
}
