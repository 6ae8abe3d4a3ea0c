//! Every metric, in one struct.
//!
//! Goes in: one addition per event through handles that are made once, never looked up on the way of a
//! request, and which threads do not share there. Comes out: [`Metrics::encode`], the OpenMetrics text. Invariant:
//! labels are closed sets or names from the config; nothing that a client sends becomes a label (SEC-09), so memory
//! stays bounded.

mod process;

use process::Process;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Content type of what [`Metrics::encode`] returns.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A closed set of label values.
pub trait Label: Copy + fmt::Debug + Send + Sync + 'static {
    /// Name of the label.
    const KEY: &'static str;
    /// All values; each stands at its [`Label::index`].
    const ALL: &'static [Self];

    /// The value as it is shown.
    fn name(self) -> &'static str;

    /// Where the value stands in [`Label::ALL`].
    fn index(self) -> usize;
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident, $key:literal { $($(#[$value_doc:meta])* $value:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub enum $name { $($(#[$value_doc])* $value,)+ }

        impl Label for $name {
            const KEY: &'static str = $key;
            const ALL: &'static [Self] = &[$(Self::$value,)+];

            fn name(self) -> &'static str {
                match self { $(Self::$value => $text,)+ }
            }

            fn index(self) -> usize {
                self as usize
            }
        }
    };
}

label! {
    /// What an OCSP request was answered with.
    Outcome, "outcome" {
        /// good.
        Good = "good",
        /// revoked, holds included.
        Revoked = "revoked",
        /// A serial that was never issued, in whatever form that is said.
        NotIssued = "not_issued",
        /// unauthorized: an issuer that is not answered for here, or a purged serial.
        Unauthorized = "unauthorized",
        /// malformedRequest.
        Malformed = "malformed_request",
        /// internalError.
        Internal = "internal_error",
        /// tryLater.
        TryLater = "try_later",
        /// sigRequired.
        SigRequired = "sig_required",
    }
}

label! {
    /// The hash algorithm of a CertID.
    Hash, "hash" {
        /// SHA-1.
        Sha1 = "sha1",
        /// SHA-256.
        Sha256 = "sha256",
        /// SHA-384.
        Sha384 = "sha384",
        /// SHA-512.
        Sha512 = "sha512",
        /// GOST R 34.11-94.
        Gost94 = "gost94",
        /// Streebog-256, by either of its names.
        Streebog256 = "streebog256",
        /// Streebog-512, by either of its names.
        Streebog512 = "streebog512",
        /// Anything else.
        Other = "other",
    }
}

label! {
    /// How an OCSP request came.
    Method, "method" {
        /// In the path.
        Get = "get",
        /// In the path, answered without the body.
        Head = "head",
        /// In the body.
        Post = "post",
    }
}

label! {
    /// Where an OCSP answer's signature came from.
    Origin, "from" {
        /// The cache.
        Cache = "cache",
        /// The cache, after its time and just before it was signed anew.
        Overdue = "overdue",
        /// It was made for this request and kept.
        Signed = "signed",
        /// It was made for this request alone: a nonce, or several certificates.
        Live = "live",
    }
}

label! {
    /// Whose budget for signatures that serve one request alone was used up.
    Limit, "limit" {
        /// The issuer's.
        Issuer = "issuer",
        /// The client's.
        Client = "client",
    }
}

label! {
    /// Why an OCSP answer was signed that nobody waited for.
    Presigned, "reason" {
        /// Its elder was asked for.
        Hot = "hot",
        /// All answers of the issuer are kept signed.
        All = "all",
    }
}

label! {
    /// What a signature was made for.
    Purpose, "purpose" {
        /// An OCSP response.
        Ocsp = "ocsp",
        /// A CRL.
        Crl = "crl",
    }
}

label! {
    /// A file that was asked for.
    Document, "document" {
        /// The current complete CRL.
        Complete = "crl",
        /// The current delta CRL.
        Delta = "delta_crl",
        /// A CRL by its number.
        Numbered = "numbered_crl",
        /// An issuer's certificate.
        Certificate = "certificate",
    }
}

label! {
    /// Why a connection was closed from this side before its time.
    Cut, "reason" {
        /// The request's head did not come in time.
        Header = "header_timeout",
        /// The request's body did not come in time.
        Body = "body_timeout",
        /// The client read too slowly.
        Write = "slow_reader",
        /// Newer versions of the list that the client was reading are being read.
        Superseded = "newer_list",
        /// What came was not HTTP as we accept it.
        Protocol = "protocol_error",
        /// The server stopped and the connection was not done by the deadline.
        Stop = "shutdown",
    }
}

/// Threads that count without disturbing each other; more of them share.
const LANES: usize = 32;
/// The most values that a [`Label`] has.
const VALUES: usize = 16;

/// One thread's counters, on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Lane([AtomicU64; VALUES]);

/// A counter for each value of a closed set: counting is one addition where no other thread adds. Clones share it.
#[derive(Clone, Debug)]
pub struct By<L> {
    lanes: Arc<[Lane]>,
    label: PhantomData<L>,
}

impl<L: Label> By<L> {
    fn register(registry: &mut Registry, name: &'static str, help: &'static str) -> Self {
        const { assert!(L::ALL.len() <= VALUES) };
        let by = Self { lanes: std::iter::repeat_with(Lane::default).take(LANES).collect(), label: PhantomData };
        registry.register_collector(Box::new(Counted { by: by.clone(), name, help }));
        by
    }

    /// Counts one.
    pub fn count(&self, value: L) {
        self.add(value, 1);
    }

    /// Counts `n`.
    pub fn add(&self, value: L, n: u64) {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local!(static LANE: usize = NEXT.fetch_add(1, Ordering::Relaxed) % LANES);
        // A thread that is ending counts in the first.
        let lane = LANE.try_with(|lane| *lane).unwrap_or(0);
        if let Some(counter) = self.lanes.get(lane).and_then(|lane| lane.0.get(value.index())) {
            counter.fetch_add(n, Ordering::Relaxed);
        }
    }

    /// How many were counted.
    #[must_use]
    pub fn get(&self, value: L) -> u64 {
        let counters = self.lanes.iter().filter_map(|lane| lane.0.get(value.index()));
        counters.map(|counter| counter.load(Ordering::Relaxed)).sum()
    }
}

/// Shows a [`By`].
#[derive(Debug)]
struct Counted<L> {
    by: By<L>,
    name: &'static str,
    help: &'static str,
}

impl<L: Label> Collector for Counted<L> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = format!("{}.", self.help);
        let mut family = encoder.encode_descriptor(self.name, &help, None, MetricType::Counter)?;
        for value in L::ALL {
            let counter = ConstCounter::new(self.by.get(*value));
            counter.encode(family.encode_family(&[(L::KEY, value.name())])?)?;
        }
        Ok(())
    }
}

/// How long something takes: of what each thread does, one time in [`Timed::ONE_IN`] is measured, since looking at the
/// clock twice would cost more than a kept answer's share of it. Clones share it.
#[derive(Clone, Debug)]
pub struct Timed {
    histogram: Histogram,
}

thread_local! {
    /// How many times are left until this thread measures again.
    static LEFT: Cell<u8> = const { Cell::new(0) };
}

impl Timed {
    /// Of so many times one is measured.
    pub const ONE_IN: u8 = 16;

    fn register(registry: &mut Registry, name: &'static str, help: &'static str) -> Self {
        let bounds = [5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 5e-2, 0.1, 0.5, 1.0];
        let histogram = Histogram::new(bounds);
        registry.register(name, help, histogram.clone());
        Self { histogram }
    }

    /// When it began, if this time is measured.
    #[must_use]
    pub fn begin(&self) -> Option<Instant> {
        // A thread that is ending measures nothing.
        LEFT.try_with(|left| left.get() == 0).unwrap_or(false).then(Instant::now)
    }

    /// It is done: whether it was measured or not, it counts towards the next time that is.
    pub fn end(&self, began: Option<Instant>) {
        _ = LEFT.try_with(|left| left.set(left.get().checked_sub(1).unwrap_or(Self::ONE_IN - 1)));
        if let Some(began) = began {
            self.histogram.observe(began.elapsed().as_secs_f64());
        }
    }
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct SourceLabel {
    source: String,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ComponentLabel {
    component: String,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct StateLabel {
    component: String,
    state: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct RoleLabel {
    issuer: String,
    role: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct FileLabel {
    database: &'static str,
    file: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct ListLabel {
    issuer: String,
    list: &'static str,
}

#[derive(Clone, Debug, EncodeLabelSet, Eq, Hash, PartialEq)]
struct DestinationLabel {
    issuer: String,
    destination: String,
}

/// One of the two current lists of an issuer.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum List {
    /// The complete CRL.
    Complete,
    /// The delta CRL.
    Delta,
}

type Seconds = Gauge<f64, AtomicU64>;

/// One feed's figures. Clones share them.
#[derive(Clone, Debug)]
pub struct Feed {
    /// Unix second up to which the index is known to agree with the database.
    pub as_of: Gauge,
    /// Certificates in the index.
    pub certificates: Gauge,
    /// Changes applied, the initial load left out.
    pub changes: Counter,
    /// Seconds by which `as_of` is behind the clock.
    pub lag: Gauge,
    /// Differences that a reconcile found and mended.
    pub mended: Counter,
    /// Numbers of the change log that nothing was found under and that are still asked for.
    pub gaps: Gauge,
    /// Rows left out or amended because they cannot be understood.
    pub odd: Counter,
    /// Rows not believed because they take back what was known.
    pub refused: Counter,
    /// Rows of issuers that the config does not name.
    pub strangers: Counter,
    /// Rows that at present are left out, amended or not believed.
    pub doubtful: Gauge,
    /// Unix second at which all was last read or compared.
    pub reconciled: Gauge,
    /// Certificates that the database has lost and that keep their last status.
    pub vanished: Gauge,
    /// Times that everything had to be read anew.
    pub reloads: Counter,
    /// Times that the database could not be read.
    pub failures: Counter,
}

/// One list's figures. Clones share them.
#[derive(Clone, Debug)]
pub struct Crl {
    /// CRLNumber of the current list.
    pub number: Gauge,
    /// Its entries.
    pub entries: Gauge,
    /// Its size.
    pub bytes: Gauge,
    /// Its thisUpdate, in Unix seconds.
    pub this_update: Gauge,
    /// Its nextUpdate, in Unix seconds.
    pub next_update: Gauge,
    last_build: Seconds,
    builds: Counter,
    /// Builds that failed; the last good list goes on being served (CRL-94).
    pub failures: Counter,
}

impl Crl {
    /// Counts a build that succeeded, and how long it took.
    pub fn built(&self, took: Duration) {
        self.builds.inc();
        self.last_build.set(took.as_secs_f64());
    }
}

/// The figures of one place where an issuer's lists go. Clones share them.
#[derive(Clone, Debug)]
pub struct Destination {
    /// CRLNumber of the complete list that is there.
    pub number: Gauge,
    /// Seconds for which it has lacked a list; 0 while it has all.
    pub lag: Gauge<f64, AtomicU64>,
    /// Lists written there.
    pub written: Counter,
    /// Times that they could not be written.
    pub failures: Counter,
}

/// The figures of the public listener. Clones share them.
#[derive(Clone, Debug)]
pub struct Connections {
    /// Connections that are open now.
    pub open: Gauge,
    /// Connections accepted since the start, those refused at the cap included.
    pub accepted: Counter,
    /// Connections closed at once because the cap was reached.
    pub refused: Counter,
    /// Connections closed from this side before their time.
    pub cut: By<Cut>,
    /// Requests whose handler panicked: always a fault of Jarchy.
    pub panics: Counter,
}

#[derive(Clone, Debug)]
struct Families {
    as_of: Family<SourceLabel, Gauge>,
    certificates: Family<SourceLabel, Gauge>,
    changes: Family<SourceLabel, Counter>,
    feed_lag: Family<SourceLabel, Gauge>,
    mended: Family<SourceLabel, Counter>,
    gaps: Family<SourceLabel, Gauge>,
    odd: Family<SourceLabel, Counter>,
    refused: Family<SourceLabel, Counter>,
    strangers: Family<SourceLabel, Counter>,
    doubtful: Family<SourceLabel, Gauge>,
    reconciled: Family<SourceLabel, Gauge>,
    vanished: Family<SourceLabel, Gauge>,
    reloads: Family<SourceLabel, Counter>,
    feed_failures: Family<SourceLabel, Counter>,
    number: Family<ListLabel, Gauge>,
    entries: Family<ListLabel, Gauge>,
    bytes: Family<ListLabel, Gauge>,
    this_update: Family<ListLabel, Gauge>,
    next_update: Family<ListLabel, Gauge>,
    last_build: Family<ListLabel, Seconds>,
    builds: Family<ListLabel, Counter>,
    crl_failures: Family<ListLabel, Counter>,
    shown: Family<DestinationLabel, Gauge>,
    lag: Family<DestinationLabel, Seconds>,
    written: Family<DestinationLabel, Counter>,
    write_failures: Family<DestinationLabel, Counter>,
    component: Family<ComponentLabel, Gauge>,
    component_state: Family<StateLabel, Gauge>,
    certificate_end: Family<RoleLabel, Gauge>,
    files: Family<FileLabel, Gauge>,
}

/// Every metric. Clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// OCSP requests by what they were answered with.
    pub outcomes: By<Outcome>,
    /// OCSP requests by the hash algorithm of their first CertID.
    pub hashes: By<Hash>,
    /// OCSP requests by method.
    pub methods: By<Method>,
    /// Signatures made.
    pub signatures: By<Purpose>,
    /// Signatures that could not be made.
    pub signature_failures: By<Purpose>,
    /// OCSP answers by where their signature came from.
    pub answers: By<Origin>,
    /// How long an OCSP answer takes from the request's octets to its own.
    pub answer_time: Timed,
    /// Signatures for one request alone that were refused.
    pub live_refused: By<Limit>,
    /// OCSP answers signed ahead.
    pub presigned: By<Presigned>,
    /// How far behind its time the refresher was with the last answer that it signed, in seconds.
    pub refresh_lag: Gauge,
    /// Signed OCSP answers that are kept.
    pub cache_entries: Gauge,
    /// Memory that they take.
    pub cache_bytes: Gauge,
    /// CRLs and certificates asked for.
    pub documents: By<Document>,
    /// The public listener.
    pub connections: Connections,
    /// 1 while the process is ready; set when it is asked for.
    pub ready: Gauge,
    /// Whether the config was taken when it was last read, at the start or since (1), or refused (0).
    pub config_taken: Gauge,
    /// Unix second at which it was last taken.
    pub config_taken_at: Gauge,
    families: Families,
    registry: Arc<Registry>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

fn register<M: Metric + Clone + Default + EncodeMetric>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

impl Metrics {
    /// All at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut all = Registry::default();
        all.register_collector(Box::new(Process::starting()));
        let r = all.sub_registry_with_prefix("jarchy");
        r.register("build", "The version that runs", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
        let connections = Connections {
            open: register(r, "connections_open", "Connections that are open now"),
            accepted: register(r, "connections_accepted", "Connections accepted"),
            refused: register(r, "connections_refused", "Connections closed at once because the cap was reached"),
            cut: By::register(r, "connections_cut", "Connections closed from this side before their time"),
            panics: register(r, "handler_panics", "Requests whose handler panicked"),
        };
        let families = Families::register(r);
        Self {
            outcomes: By::register(r, "ocsp_requests", "OCSP requests by what they were answered with"),
            hashes: By::register(r, "ocsp_requests_by_hash", "OCSP requests by hash algorithm of the CertID"),
            methods: By::register(r, "ocsp_requests_by_method", "OCSP requests by method"),
            signatures: By::register(r, "signatures", "Signatures made"),
            signature_failures: By::register(r, "signature_failures", "Signatures that could not be made"),
            answers: By::register(r, "ocsp_answers", "OCSP answers by where their signature came from"),
            answer_time: Timed::register(r, "ocsp_answer_seconds", "How long one in 16 OCSP answers took to make"),
            live_refused: By::register(r, "ocsp_live_refused", "Signatures for one request alone that were refused"),
            presigned: By::register(r, "ocsp_presigned", "OCSP answers signed before anybody asked for them"),
            refresh_lag: register(r, "ocsp_refresh_lag_seconds", "How late the last answer was signed anew"),
            cache_entries: register(r, "ocsp_cache_entries", "Signed OCSP answers that are kept"),
            cache_bytes: register(r, "ocsp_cache_bytes", "Memory that signed OCSP answers take"),
            documents: By::register(r, "documents", "CRLs and certificates asked for"),
            connections,
            ready: register(r, "ready", "1 while the process is ready"),
            config_taken: register(r, "config_reload_success", "1 if the config was taken when it was last read"),
            config_taken_at: register(r, "config_reload_success_seconds", "When it was last taken, Unix time"),
            families,
            registry: Arc::new(all),
        }
    }

    /// The figures of the feed from `source`.
    #[must_use]
    pub fn feed(&self, source: &str) -> Feed {
        let (label, f) = (SourceLabel { source: source.to_owned() }, &self.families);
        Feed {
            as_of: f.as_of.get_or_create_owned(&label),
            certificates: f.certificates.get_or_create_owned(&label),
            changes: f.changes.get_or_create_owned(&label),
            lag: f.feed_lag.get_or_create_owned(&label),
            mended: f.mended.get_or_create_owned(&label),
            gaps: f.gaps.get_or_create_owned(&label),
            odd: f.odd.get_or_create_owned(&label),
            refused: f.refused.get_or_create_owned(&label),
            strangers: f.strangers.get_or_create_owned(&label),
            doubtful: f.doubtful.get_or_create_owned(&label),
            reconciled: f.reconciled.get_or_create_owned(&label),
            vanished: f.vanished.get_or_create_owned(&label),
            reloads: f.reloads.get_or_create_owned(&label),
            failures: f.feed_failures.get_or_create_owned(&label),
        }
    }

    /// The figures of one list of `issuer`.
    #[must_use]
    pub fn crl(&self, issuer: &str, list: List) -> Crl {
        let list = match list {
            List::Complete => "complete",
            List::Delta => "delta",
        };
        let (label, f) = (ListLabel { issuer: issuer.to_owned(), list }, &self.families);
        Crl {
            number: f.number.get_or_create_owned(&label),
            entries: f.entries.get_or_create_owned(&label),
            bytes: f.bytes.get_or_create_owned(&label),
            this_update: f.this_update.get_or_create_owned(&label),
            next_update: f.next_update.get_or_create_owned(&label),
            last_build: f.last_build.get_or_create_owned(&label),
            builds: f.builds.get_or_create_owned(&label),
            failures: f.crl_failures.get_or_create_owned(&label),
        }
    }

    /// The figures of the lists of `issuer` at `destination`, a directory of the config.
    #[must_use]
    pub fn destination(&self, issuer: &str, destination: &str) -> Destination {
        let label = DestinationLabel { issuer: issuer.to_owned(), destination: destination.to_owned() };
        let f = &self.families;
        Destination {
            number: f.shown.get_or_create_owned(&label),
            lag: f.lag.get_or_create_owned(&label),
            written: f.written.get_or_create_owned(&label),
            failures: f.write_failures.get_or_create_owned(&label),
        }
    }

    /// Forgets all components, so that those which are gone are no longer shown.
    pub fn clear_components(&self) {
        self.families.component.clear();
        self.families.component_state.clear();
    }

    /// Shows whether a component is ready (1) or not (0), and the name of its state.
    pub fn set_component(&self, component: &str, ready: bool, state: &'static str) {
        let label = ComponentLabel { component: component.to_owned() };
        self.families.component.get_or_create(&label).set(ready.into());
        let label = StateLabel { component: component.to_owned(), state };
        self.families.component_state.get_or_create(&label).set(1);
    }

    /// Shows the Unix second at which the certificate ends that `issuer` has in this role.
    pub fn set_certificate_end(&self, issuer: &str, role: &'static str, end: i64) {
        self.families.certificate_end.get_or_create(&RoleLabel { issuer: issuer.to_owned(), role }).set(end);
    }

    /// Shows how many octets a file of a database has.
    pub fn set_file(&self, database: &'static str, file: &'static str, octets: u64) {
        let octets = i64::try_from(octets).unwrap_or(i64::MAX);
        self.families.files.get_or_create(&FileLabel { database, file }).set(octets);
    }

    /// All metrics as OpenMetrics text, of type [`CONTENT_TYPE`].
    #[must_use]
    pub fn encode(&self) -> String {
        let mut out = String::new();
        // Writing to a String does not fail; should a metric not encode itself, the rest is still of use.
        if let Err(error) = encode(&mut out, &self.registry) {
            tracing::error!(%error, "metrics could not be encoded");
        }
        out
    }
}

impl Families {
    fn register(r: &mut Registry) -> Self {
        Self {
            as_of: register(r, "feed_as_of_seconds", "Unix second up to which the index agrees with the database"),
            certificates: register(r, "feed_certificates", "Certificates in the index"),
            changes: register(r, "feed_changes", "Changes applied after the initial load"),
            feed_lag: register(r, "feed_lag_seconds", "Seconds by which the index may be behind the database"),
            mended: register(r, "feed_mended", "Differences that a reconcile found and mended"),
            gaps: register(r, "feed_gaps", "Numbers missing in the change log that are still asked for"),
            odd: register(r, "feed_odd_rows", "Rows left out or amended because they cannot be understood"),
            refused: register(r, "feed_refused_rows", "Rows not believed because they take back what was known"),
            strangers: register(r, "feed_stranger_rows", "Rows read of issuers that the config does not name"),
            doubtful: register(r, "feed_doubtful_rows", "Rows that are left out, amended or not believed at present"),
            reconciled: register(
                r,
                "feed_reconciled_seconds",
                "When all was last read or compared with the database, Unix time",
            ),
            vanished: register(r, "feed_vanished", "Certificates lost by the database that keep their last status"),
            reloads: register(r, "feed_reloads", "Times that everything had to be read anew"),
            feed_failures: register(r, "feed_failures", "Times that the database could not be read"),
            number: register(r, "crl_number", "CRLNumber of the current list"),
            entries: register(r, "crl_entries", "Entries of the current list"),
            bytes: register(r, "crl_bytes", "Size of the current list"),
            this_update: register(r, "crl_this_update_seconds", "thisUpdate of the current list, Unix time"),
            next_update: register(r, "crl_next_update_seconds", "nextUpdate of the current list, Unix time"),
            last_build: register(r, "crl_last_build_seconds", "How long the last build took"),
            builds: register(r, "crl_builds", "Builds that succeeded"),
            crl_failures: register(r, "crl_failures", "Builds that failed"),
            shown: register(r, "crl_destination_number", "CRLNumber of the complete list at the destination"),
            lag: register(r, "crl_destination_lag_seconds", "For how long the destination has lacked a list"),
            written: register(r, "crl_destination_writes", "Lists written to the destination"),
            write_failures: register(r, "crl_destination_failures", "Times that lists could not be written there"),
            component: register(r, "component_ready", "1 while the component can do its work"),
            component_state: register(r, "component_state", "1 for the state that the component is in"),
            certificate_end: register(r, "certificate_not_after_seconds", "When a certificate ends, Unix time"),
            files: register(r, "database_file_bytes", "Size of the files of the SQLite databases"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_counted_is_shown() {
        let metrics = Metrics::new();
        metrics.outcomes.count(Outcome::Good);
        metrics.clone().outcomes.count(Outcome::Good);
        metrics.feed("demo").as_of.set(1_795_000_000);
        let delta = metrics.crl("demo", List::Delta);
        delta.number.set(7);
        delta.built(Duration::from_millis(1_500));
        metrics.set_component("feed:demo", false, "failed");
        metrics.set_certificate_end("demo", "ocsp", 1_800_000_000);
        metrics.set_file("state", "wal", 4_096);
        let text = metrics.encode();
        for line in [
            "jarchy_ocsp_requests_total{outcome=\"good\"} 2",
            "jarchy_ocsp_requests_total{outcome=\"revoked\"} 0",
            "jarchy_feed_as_of_seconds{source=\"demo\"} 1795000000",
            "jarchy_crl_number{issuer=\"demo\",list=\"delta\"} 7",
            "jarchy_crl_last_build_seconds{issuer=\"demo\",list=\"delta\"} 1.5",
            "jarchy_component_ready{component=\"feed:demo\"} 0",
            "jarchy_component_state{component=\"feed:demo\",state=\"failed\"} 1",
            "jarchy_certificate_not_after_seconds{issuer=\"demo\",role=\"ocsp\"} 1800000000",
            "jarchy_database_file_bytes{database=\"state\",file=\"wal\"} 4096",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
        let figure = |name: &str| -> f64 {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.unwrap_or_else(|| panic!("{name} is missing in\n{text}")).parse().unwrap()
        };
        assert!(figure("process_start_time_seconds") > 1.7e9 && figure("process_cpu_seconds_total") > 0.0);
        if cfg!(target_os = "linux") {
            assert!(figure("process_resident_memory_bytes") > 1e6);
            assert!((1.0..=figure("process_max_fds")).contains(&figure("process_open_fds")));
        }
    }

    #[test]
    fn one_time_in_sixteen_is_measured() {
        let metrics = Metrics::new();
        for _ in 0..10 * u32::from(Timed::ONE_IN) {
            metrics.answer_time.end(metrics.answer_time.begin());
        }
        let text = metrics.encode();
        assert!(text.contains("jarchy_ocsp_answer_seconds_count 10\n"), "{text}");
    }

    /// The rules for Prometheus that operators copy name only what there is.
    #[test]
    fn every_alert_is_whole_and_its_metrics_exist() {
        let metrics = Metrics::new();
        _ = (metrics.feed("demo"), metrics.crl("demo", List::Complete), metrics.destination("demo", "/srv/crl"));
        metrics.set_component("feed:demo", true, "ok");
        metrics.set_certificate_end("demo", "ca", 0);
        let shown = metrics.encode();
        let rules = include_str!("../deploy/prometheus-alerts.yml");
        let alerts: Vec<_> = rules.split("- alert: ").skip(1).collect();
        assert!(alerts.len() >= 6);
        for alert in alerts {
            for part in ["expr: ", "for: ", "severity: ", "summary: "] {
                assert!(alert.contains(part), "{part:?} is missing in {alert}");
            }
            let words = alert.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'));
            let named: Vec<_> =
                words.filter(|word| word.starts_with("jarchy_") || word.starts_with("process_")).collect();
            assert!(!named.is_empty(), "{alert}");
            for name in named {
                let there =
                    shown.lines().any(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])));
                assert!(there, "{name} is not shown:\n{shown}");
            }
        }
    }

    #[test]
    fn every_value_stands_at_its_index() {
        fn check<L: Label + PartialEq>() {
            assert!(L::ALL.iter().enumerate().all(|(at, value)| value.index() == at));
        }
        check::<Outcome>();
        check::<Hash>();
        check::<Method>();
        check::<Purpose>();
        check::<Origin>();
        check::<Limit>();
        check::<Presigned>();
        check::<Document>();
        check::<Cut>();
    }
}
