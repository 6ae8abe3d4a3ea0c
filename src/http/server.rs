//! The public listener: threads, sockets, limits, and stopping.
//!
//! Goes in: sockets that are already bound, one for each thread. Comes out: a running [`Server`], which
//! ends when it is told to and its connections are done. Each thread has a runtime of its own and shares
//! no lock with the others while it answers, so that a list being built or a slow key elsewhere does not
//! hold up an answer here.
//!
//! Invariant: memory and time of every connection are bounded by [`Limits`] (SEC-13, promise 10).

use super::Site;
use super::hot::Hot;
use super::io::{Handled, Io};
use super::proxy::{FORWARDED_FOR, Peer};
use crate::health::{Component, Health};
use crate::metrics::{Connections, Cut, Metrics};
use crate::ocsp::neighbourhood;
use arc_swap::ArcSwap;
use hyper::Request;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;
use thiserror::Error;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};

/// Connections that the kernel may hold for us until we accept them; it has a cap of its own.
const BACKLOG: i32 = 4096;
/// How long to wait when connections cannot be accepted, mostly for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Octets that the kernel holds unsent for one client. More would only hide how slowly it reads, and
/// fill the memory: what it has sent and not heard back of comes on top.
const UNSENT_OCTETS: u32 = 64 * 1024;

/// What one client, and all of them, may take.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections open at once; more are closed as they come. 10,000.
    pub connections: usize,
    /// Connections open at once from one address (IPv6: one /64) that is no trusted proxy's. 2,500.
    pub connections_per_address: usize,
    /// From opening the connection, or from its first octet, until a request's head is complete. 5 s.
    pub header_time: Duration,
    /// From one answer until the next request begins. 15 s.
    pub idle_time: Duration,
    /// Until a request's body is complete. 10 s.
    pub body_time: Duration,
    /// Until an OCSP answer is made; then it is tryLater. 10 s (HTTP-20).
    pub answer_time: Duration,
    /// The waiting time in which a client has to take `drain_octets` of an answer. 15 s.
    pub drain_time: Duration,
    /// What it has to take in that time. 16 KiB, so that it reads at least 1 KiB/s.
    pub drain_octets: usize,
    /// A request's head in octets, 8 KiB at least. 16 KiB.
    pub head_octets: usize,
    /// The address in it, from its path on. 4 KiB (HTTP-03).
    pub target_octets: usize,
    /// A request's body in octets. 64 KiB (HTTP-11).
    pub body_octets: usize,
    /// How long connections may go on after the server was told to stop. 20 s.
    pub stop_time: Duration,
    /// Whose `X-Forwarded-For` is believed: networks, each an address and how many of its first bits count. None.
    pub trusted_proxies: Vec<(IpAddr, u8)>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            connections_per_address: 2_500,
            header_time: Duration::from_secs(5),
            idle_time: Duration::from_secs(15),
            body_time: Duration::from_secs(10),
            answer_time: Duration::from_secs(10),
            drain_time: Duration::from_secs(15),
            drain_octets: 16 * 1024,
            head_octets: 16 * 1024,
            target_octets: 4096,
            body_octets: 64 * 1024,
            stop_time: Duration::from_secs(20),
            trusted_proxies: Vec::new(),
        }
    }
}

/// An address on which nobody can listen.
#[derive(Debug, Error)]
#[error("cannot listen on {address}: {source}{}", advice(source))]
pub struct BindError {
    /// The address.
    pub address: SocketAddr,
    /// What the system says.
    pub source: io::Error,
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; another program, perhaps another jarchy, has this port: stop it or choose another"
        }
        io::ErrorKind::AddrNotAvailable => "; this machine has no such address: use one of its own, or 0.0.0.0 or [::]",
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need the capability CAP_NET_BIND_SERVICE: grant it or choose a higher port"
        }
        _ => "",
    }
}

/// Binds `count` sockets (at least one) to the same address, between which the kernel shares out the
/// connections. Port 0 becomes one free port for all of them.
///
/// # Errors
/// [`BindError`], also if another Jarchy of the same user has the port, which SO_REUSEPORT alone would let
/// us share unnoticed.
pub fn bind(address: SocketAddr, count: usize) -> Result<Vec<TcpListener>, BindError> {
    let failed = |source| BindError { address, source };
    // The first is bound without SO_REUSEPORT, so that it fails if anybody has the port; from then on
    // nobody can have it who is not of this user and wants to share.
    let first = socket(address).and_then(|socket| bound(socket, address)).map_err(failed)?;
    let actual =
        first.local_addr().and_then(|actual| actual.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into()));
    let actual = actual.map_err(failed)?;
    let mut sockets = vec![first];
    if count > 1 {
        sockets.iter().try_for_each(|first| first.set_reuse_port(true)).map_err(failed)?;
        for _ in 1..count {
            let next = socket(address).and_then(|socket| {
                socket.set_reuse_port(true)?;
                bound(socket, actual)
            });
            sockets.push(next.map_err(failed)?);
        }
    }
    let listening = |socket: Socket| socket.listen(BACKLOG).map(|()| socket.into());
    sockets.into_iter().map(listening).collect::<io::Result<_>>().map_err(failed)
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of an earlier run that still wait for their last packets do not hold the port.
    socket.set_reuse_address(true)?;
    Ok(socket)
}

fn bound(socket: Socket, address: SocketAddr) -> io::Result<Socket> {
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Counts the connections, all and by address.
#[derive(Debug, Default)]
struct Gate {
    open: AtomicUsize,
    by_address: Mutex<HashMap<IpAddr, usize>>,
}

/// One connection's place; it is free again when this is dropped.
#[derive(Debug)]
struct Place {
    gate: Arc<Gate>,
    address: IpAddr,
    metrics: Connections,
}

impl Gate {
    fn enter(self: &Arc<Self>, peer: Peer, limits: &Limits, metrics: &Connections) -> Option<Place> {
        let address = neighbourhood(peer.address);
        if self.open.fetch_add(1, Ordering::Relaxed) >= limits.connections {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let count = by_address.entry(address).or_default();
        if *count >= limits.connections_per_address && !peer.is_proxy {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        *count += 1;
        metrics.open.inc();
        Some(Place { gate: Arc::clone(self), address, metrics: metrics.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.metrics.open.dec();
        self.gate.open.fetch_sub(1, Ordering::Relaxed);
        let mut by_address = self.gate.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut count) = by_address.entry(self.address) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// What the threads have in common.
#[derive(Debug)]
struct Shared {
    site: Arc<ArcSwap<Site>>,
    limits: Arc<Limits>,
    gate: Arc<Gate>,
    metrics: Connections,
    health: Component,
}

/// The running listener.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    threads: Vec<oneshot::Receiver<usize>>,
}

impl Server {
    /// Serves `site` on `listeners`, a thread for each, until `stop` becomes true or its sender is gone.
    ///
    /// # Errors
    /// If there is no listener, or a thread or its runtime cannot be made.
    pub fn start(
        listeners: Vec<TcpListener>,
        site: Arc<ArcSwap<Site>>,
        limits: Limits,
        metrics: &Metrics,
        health: &Health,
        stop: &watch::Receiver<bool>,
    ) -> io::Result<Self> {
        let address = listeners.first().ok_or(io::ErrorKind::InvalidInput)?.local_addr()?;
        let shared = Arc::new(Shared {
            site,
            limits: Arc::new(limits),
            gate: Arc::default(),
            metrics: metrics.connections.clone(),
            health: health.component("http"),
        });
        let mut threads = Vec::new();
        for (number, listener) in listeners.into_iter().enumerate() {
            threads.push(spawn(number, listener, &shared, stop.clone())?);
        }
        shared.health.ok();
        Ok(Self { address, threads })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until it has stopped and its connections are done; how many had to be cut at the deadline.
    pub async fn stopped(self) -> usize {
        let mut cut = 0;
        for thread in self.threads {
            // A thread that panicked has said so in health.
            cut += thread.await.unwrap_or(0);
        }
        cut
    }
}

fn spawn(
    number: usize,
    listener: TcpListener,
    shared: &Arc<Shared>,
    stop: watch::Receiver<bool>,
) -> io::Result<oneshot::Receiver<usize>> {
    prepare(&listener)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let listener = {
        let _guard = runtime.enter();
        tokio::net::TcpListener::from_std(listener)?
    };
    let (done, finished) = oneshot::channel();
    let shared = Arc::clone(shared);
    thread::Builder::new().name(format!("http-{number}")).spawn(move || {
        let alarm = Alarm(shared.health.clone());
        let cut = runtime.block_on(work(listener, &shared, stop));
        // Ends the connections that are left.
        drop(runtime);
        drop(alarm);
        // Nobody may be waiting for it.
        _ = done.send(cut);
    })?;
    Ok(finished)
}

/// Accepted sockets inherit these, which saves two calls for each.
fn prepare(listener: &TcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let socket = SockRef::from(listener);
    #[cfg(target_os = "linux")]
    socket.set_tcp_notsent_lowat(UNSENT_OCTETS)?;
    // An answer goes out with one write, and has nothing to wait for.
    socket.set_tcp_nodelay(true)
}

/// Tells health if its thread panics, which no request should be able to bring about.
struct Alarm(Component);

impl Drop for Alarm {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.dead("a thread that serves HTTP has panicked");
        }
    }
}

/// Waits until `stop` is true. That its sender is gone also means that nobody wants us any more.
pub(super) async fn told(stop: &mut watch::Receiver<bool>) {
    _ = stop.wait_for(|stop| *stop).await;
}

/// Accepts until told to stop, then waits for the connections; returns how many were left at the deadline.
async fn work(listener: tokio::net::TcpListener, shared: &Arc<Shared>, mut stop: watch::Receiver<bool>) -> usize {
    let (ending, ended) = watch::channel(false);
    let mut is_failing = false;
    loop {
        tokio::select! {
            () = told(&mut stop) => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, client)) => {
                    if std::mem::take(&mut is_failing) {
                        shared.health.ok();
                    }
                    open(stream, client.ip(), shared, ended.clone());
                }
                // The client left before we came.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    is_failing = true;
                    shared.health.degraded(format!("connections cannot be accepted: {error}"));
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
    // Closing the socket would reset those whom the kernel has already greeted for us.
    while let Ok(Ok((stream, client))) = tokio::time::timeout(Duration::ZERO, listener.accept()).await {
        open(stream, client.ip(), shared, ended.clone());
    }
    drop((listener, ended));
    ending.send_replace(true);
    if tokio::time::timeout(shared.limits.stop_time, ending.closed()).await.is_ok() {
        return 0;
    }
    // Connections are the only tasks of this runtime.
    let left = tokio::runtime::Handle::current().metrics().num_alive_tasks();
    shared.metrics.cut.add(Cut::Stop, u64::try_from(left).unwrap_or(0));
    left
}

/// Serves a connection until `ended` is true, or closes it if there are too many.
fn open(stream: TcpStream, client: IpAddr, shared: &Arc<Shared>, mut ended: watch::Receiver<bool>) {
    shared.metrics.accepted.inc();
    let peer = Peer::new(client, &shared.limits);
    let Some(place) = shared.gate.enter(peer, &shared.limits, &shared.metrics) else {
        shared.metrics.refused.inc();
        return;
    };
    let shared = Arc::clone(shared);
    let handled = Arc::new(Handled::default());
    let hot = Hot::new(Arc::clone(&shared.site), Arc::clone(&shared.limits), peer);
    let io = Io::new(stream, Arc::clone(&handled), hot, Arc::clone(&shared.limits), shared.metrics.clone());
    tokio::spawn(async move {
        let _place = place;
        if let Some(io) = plain(io, &mut ended).await {
            // In a box, because most connections never come to it.
            Box::pin(other(io, peer, handled, &shared, ended)).await;
        }
    });
}

/// Answers plain requests. Comes back with the socket if there is more for it to do.
async fn plain(mut io: Io, ended: &mut watch::Receiver<bool>) -> Option<Io> {
    // However it ends, there is nobody to tell.
    let goes_on = tokio::select! {
        biased;
        goes_on = poll_fn(|cx| io.poll_plain(cx)) => goes_on,
        () = told(ended) => poll_fn(|cx| io.poll_finish(cx)).await,
    };
    if goes_on.ok()? {
        return Some(io);
    }
    _ = io.shutdown().await;
    None
}

/// Has hyper serve a connection.
async fn other(io: Io, peer: Peer, handled: Arc<Handled>, shared: &Shared, mut ended: watch::Receiver<bool>) {
    let head_octets = shared.limits.head_octets.max(8192);
    let service = service_fn(|request: Request<Incoming>| {
        let (site, handled) = (shared.site.load_full(), Arc::clone(&handled));
        async move {
            handled.begin();
            let lines = request.headers().get_all(FORWARDED_FOR).iter().map(HeaderValue::as_bytes);
            let client = peer.client(&shared.limits, lines);
            let answer = site.answer(client, request, &shared.limits).await;
            handled.end(answer.headers().contains_key(CONNECTION), answer.body().lease());
            Ok::<_, Infallible>(answer)
        }
    });
    // Time-outs are those of `Io`. `pipeline_flush` would make hyper drop its own 400 and 431. Without
    // `half_close`, who sends a request and closes that side gets no answer that takes a moment to make.
    let mut http = http1::Builder::new();
    let connection = http.max_buf_size(head_octets).half_close(true).serve_connection(TokioIo::new(io), service);
    let mut connection = pin!(connection);
    let served = tokio::select! {
        biased;
        served = connection.as_mut() => served,
        () = told(&mut ended) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    match served {
        Err(error) if error.is_parse() => shared.metrics.cut.count(Cut::Protocol),
        // No other body of ours fails.
        Err(error) if error.is_user() => shared.metrics.cut.count(Cut::Superseded),
        _ => {}
    }
}
