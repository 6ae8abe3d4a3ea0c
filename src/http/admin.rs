//! The operator's listener: health and metrics, on loopback unless the config says otherwise.
//!
//! Goes in: what components said of themselves and what was counted. Comes out: `/health/live`, `/health/ready` and
//! `/health/ready/<issuer>` (200 or 503, JSON), `/metrics` (OpenMetrics text). Nothing here changes anything: what
//! an operator wants done, as by `POST /crl/now/<issuer>`, leaves as a [`Command`] for whoever built the
//! parts, and is taken only from this machine and from no browser's page.
//! It runs on the general runtime, so that a flood on the public listener does not hide how we are.

use super::server::told;
use crate::health::{self, Health, Report};
use crate::metrics::{self, Metrics};
use crate::pki::{Clock, IssuerName, SystemClock, Time};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};

/// Operators and their monitoring open few connections.
const CONNECTIONS: usize = 64;
/// Until a request's head is complete, and between requests; a scraper comes every 15 s or less often.
const HEADER_TIME: Duration = Duration::from_secs(10);
/// How long a connection may live at all: answers are small, and a scraper opens another.
const LIFETIME: Duration = Duration::from_secs(300);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long connections may go on after the stop.
const STOP_TIME: Duration = Duration::from_secs(1);
/// Commands that may wait to be taken up.
const COMMANDS: usize = 16;

/// Octets of the name of who gives a command.
const ACTOR: usize = 255;
const ROUTES: &str = "/health/live\n/health/ready\n/health/ready/<issuer>\n/metrics\nPOST /crl/now/<issuer>\nPOST /database/reconcile\n\
    POST /database/confirm-drop\n";

/// What an operator wants done.
#[derive(Debug)]
pub enum Command {
    /// New lists of an issuer, whatever their schedule says.
    PublishNow {
        /// Which one.
        issuer: IssuerName,
        /// The numbers of the lists once they are served, or why there are none.
        reply: oneshot::Sender<Result<Vec<ServedList>, Refused>>,
    },
    /// A comparison of all that is known with the issuance databases, now.
    Reconcile {
        /// What came of it for each feed.
        reply: oneshot::Sender<Result<Vec<FeedReport>, Refused>>,
    },
    /// To let go of certificates that the issuance databases have lost.
    ConfirmDrop {
        /// On whose word; not empty.
        actor: String,
        /// What came of it for each feed.
        reply: oneshot::Sender<Result<Vec<FeedReport>, Refused>>,
    },
}

/// What a feed did on demand.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FeedReport {
    /// Its component in health.
    pub feed: String,
    /// What it counted.
    pub counted: Vec<(&'static str, u64)>,
}

/// A list that was made on demand and is served.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServedList {
    /// The scope that it covers, as the state store calls it.
    pub scope: String,
    /// CRLNumber.
    pub number: u64,
}

/// Why a command is not obeyed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Refused {
    /// There is no such issuer, or it has no CRLs.
    Unknown,
    /// Not in time; with the reason as far as it is known.
    Late(String),
}

type Answer = Response<Full<Bytes>>;

/// What the listener tells.
#[derive(Clone, Debug)]
pub struct Admin {
    health: Health,
    metrics: Metrics,
    issuers: Arc<[IssuerName]>,
    commands: mpsc::Sender<Command>,
}

impl Admin {
    /// Tells of `health`, of all and of each of `issuers`, and of `metrics`; what operators want done comes out of the
    /// channel.
    #[must_use]
    pub fn new(health: Health, metrics: Metrics, issuers: Arc<[IssuerName]>) -> (Self, mpsc::Receiver<Command>) {
        let (commands, wanted) = mpsc::channel(COMMANDS);
        (Self { health, metrics, issuers, commands }, wanted)
    }

    /// Serves on `listener` until `stop` becomes true or its sender is gone.
    ///
    /// # Errors
    /// If the socket cannot be used.
    pub async fn run(self, listener: TcpListener, mut stop: watch::Receiver<bool>) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let (graceful, places) = (GracefulShutdown::new(), Arc::new(Semaphore::new(CONNECTIONS)));
        loop {
            tokio::select! {
                () = told(&mut stop) => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => self.open(stream, peer, &places, &graceful),
                    Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
                }
            }
        }
        drop(listener);
        // Those that are left end with the runtime.
        _ = tokio::time::timeout(STOP_TIME, graceful.shutdown()).await;
        Ok(())
    }

    fn open(&self, stream: TcpStream, peer: SocketAddr, places: &Arc<Semaphore>, graceful: &GracefulShutdown) {
        let Ok(place) = Arc::clone(places).try_acquire_owned() else { return };
        let admin = self.clone();
        let service = service_fn(move |request| {
            let admin = admin.clone();
            async move { Ok::<_, Infallible>(admin.answer(request, peer).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIME)
            .max_buf_size(16 * 1024)
            .serve_connection(TokioIo::new(stream), service);
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            // However it ends, there is nobody to tell.
            _ = tokio::time::timeout(LIFETIME, connection).await;
            drop(place);
        });
    }

    async fn answer(&self, request: Request<Incoming>, peer: SocketAddr) -> Answer {
        let path = request.uri().path();
        if path.starts_with("/crl/now/") || path.starts_with("/database/") {
            return match refusal(&request, peer) {
                Some(refusal) => refusal,
                None => self.obey(request).await,
            };
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "Only GET and HEAD are allowed here.\n");
            answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        match request.uri().path() {
            "/health/live" => self.health("live", "dead", self.health.live(), None),
            "/health/ready" => self.health("ready", "not ready", self.health.ready(), None),
            "/metrics" => self.metrics(),
            "/" => text(StatusCode::OK, ROUTES),
            path => self.ready_for(path.strip_prefix("/health/ready/")),
        }
    }

    /// How it stands with one issuer alone: a load balancer that shares out its paths asks for no more.
    fn ready_for(&self, name: Option<&str>) -> Answer {
        let Some(name) = name else {
            return text(StatusCode::NOT_FOUND, "There is nothing here. What is served stands at /.\n");
        };
        match self.issuers.iter().find(|issuer| issuer.as_str() == name) {
            Some(issuer) => self.health("ready", "not ready", self.health.ready_for(name), Some(issuer)),
            None => text(StatusCode::NOT_FOUND, "There is no issuer of this name.\n"),
        }
    }

    /// Has done what an operator wants.
    async fn obey(&self, request: Request<Incoming>) -> Answer {
        let path = request.uri().path();
        if let Some(issuer) = path.strip_prefix("/crl/now/") {
            return self.publish_now(issuer).await;
        }
        match path {
            "/database/reconcile" => self.ask_feeds(|reply| Command::Reconcile { reply }).await,
            "/database/confirm-drop" => match actor(request).await {
                Some(actor) => self.ask_feeds(|reply| Command::ConfirmDrop { actor, reply }).await,
                None => text(StatusCode::BAD_REQUEST, "The body says who confirms it, in at most 255 octets.\n"),
            },
            _ => text(StatusCode::NOT_FOUND, "There is no such command. What is served stands at /.\n"),
        }
    }

    /// `POST /crl/now/<issuer>`: has lists made, and answers once they are served.
    async fn publish_now(&self, issuer: &str) -> Answer {
        let Ok(issuer) = issuer.parse() else { return unknown() };
        let list = |list: ServedList| serde_json::json!({ "scope": list.scope, "number": list.number });
        self.command("lists", list, |reply| Command::PublishNow { issuer, reply }).await
    }

    async fn ask_feeds(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<Vec<FeedReport>, Refused>>) -> Command,
    ) -> Answer {
        let report = |report: FeedReport| {
            let name = ("feed".to_owned(), report.feed.into());
            let counted = report.counted.into_iter().map(|(what, count)| (what.to_owned(), count.into()));
            serde_json::Value::Object([name].into_iter().chain(counted).collect())
        };
        self.command("feeds", report, command).await
    }

    /// Hands a command on; the answer is JSON in which the outcome stands under `name`.
    async fn command<T>(
        &self,
        name: &str,
        told: impl Fn(T) -> serde_json::Value,
        command: impl FnOnce(oneshot::Sender<Result<Vec<T>, Refused>>) -> Command,
    ) -> Answer {
        let (reply, done) = oneshot::channel();
        let stopping = || text(StatusCode::SERVICE_UNAVAILABLE, "The service is stopping.\n");
        if self.commands.send(command(reply)).await.is_err() {
            return stopping();
        }
        match done.await {
            Ok(Ok(outcome)) => {
                let outcome: Vec<_> = outcome.into_iter().map(told).collect();
                let body = serde_json::json!({ name: outcome });
                answer(StatusCode::OK, HeaderValue::from_static("application/json"), format!("{body}\n"))
            }
            Ok(Err(Refused::Unknown)) => unknown(),
            Ok(Err(Refused::Late(reason))) => answer(
                StatusCode::SERVICE_UNAVAILABLE,
                HeaderValue::from_static("text/plain; charset=utf-8"),
                format!("{reason}\n"),
            ),
            Err(_) => stopping(),
        }
    }

    fn health(&self, yes: &str, no: &str, is: bool, of: Option<&IssuerName>) -> Answer {
        let report = self.health.report();
        let told = report.iter().filter(|report| of.is_none_or(|of| health::concerns(&report.component, of.as_str())));
        let components: Vec<_> = told.map(component).collect();
        let body = serde_json::json!({
            "status": if is { yes } else { no },
            "time": SystemClock.now().to_string(),
            "components": components,
        });
        let status = if is { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        answer(status, HeaderValue::from_static("application/json"), format!("{body:#}\n"))
    }

    fn metrics(&self) -> Answer {
        self.metrics.ready.set(self.health.ready().into());
        self.metrics.clear_components();
        for report in self.health.report() {
            self.metrics.set_component(&report.component, report.state.is_ready(), report.state.name());
        }
        answer(StatusCode::OK, HeaderValue::from_static(metrics::CONTENT_TYPE), self.metrics.encode())
    }
}

/// Why what is a command is not even looked at.
fn refusal(request: &Request<Incoming>, peer: SocketAddr) -> Option<Answer> {
    if *request.method() != Method::POST {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "This is a command: use POST.\n");
        answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        return Some(answer);
    }
    // A page that a browser on this machine shows must not be able to command us.
    let strange = !peer.ip().to_canonical().is_loopback() || request.headers().contains_key(header::ORIGIN);
    strange.then(|| text(StatusCode::FORBIDDEN, "Commands are taken only from this machine, and not from browsers.\n"))
}

fn unknown() -> Answer {
    text(StatusCode::NOT_FOUND, "There is no issuer of this name that publishes CRLs.\n")
}

/// Who gives a command, from its body.
async fn actor(request: Request<Incoming>) -> Option<String> {
    let body = Limited::new(request.into_body(), ACTOR).collect();
    let body = tokio::time::timeout(HEADER_TIME, body).await.ok()?.ok()?.to_bytes();
    let actor = str::from_utf8(&body).ok()?.trim();
    (!actor.is_empty()).then(|| actor.to_owned())
}

fn component(report: &Report) -> serde_json::Value {
    let mut value = serde_json::json!({
        "name": report.component,
        "state": report.state.name(),
        "since": time(report.since).to_string(),
    });
    if let (Some(fields), Some(reason)) = (value.as_object_mut(), &report.reason) {
        fields.insert("reason".into(), reason.as_str().into());
    }
    value
}

fn time(moment: SystemTime) -> Time {
    Time::default() + moment.duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn text(status: StatusCode, body: &'static str) -> Answer {
    answer(status, HeaderValue::from_static("text/plain; charset=utf-8"), body)
}

fn answer(status: StatusCode, content_type: HeaderValue, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, content_type);
    answer.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::{Read, Write};
    use std::net::SocketAddr;

    fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.write_all(format!("{request} HTTP/1.0\r\n\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn operators_see_health_and_metrics_and_it_ends_when_told() {
        let (health, metrics) = (Health::new(), Metrics::new());
        let feed = health.component("feed:demo");
        let [listener] = super::super::server::bind("127.0.0.1:0".parse().unwrap(), 1).unwrap().try_into().unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        let (admin, mut commands) = Admin::new(health, metrics, Arc::new(["demo".parse().unwrap()]));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::spawn(async move {
                    let report = |what| FeedReport { feed: "feed:demo".to_owned(), counted: vec![(what, 3)] };
                    while let Some(command) = commands.recv().await {
                        match command {
                            Command::PublishNow { issuer, reply } => {
                                let list = ServedList { scope: issuer.to_string(), number: 7 };
                                let known = issuer.as_str() == "demo";
                                reply.send(if known { Ok(vec![list]) } else { Err(Refused::Unknown) }).unwrap();
                            }
                            Command::Reconcile { reply } => reply.send(Ok(vec![report("mended")])).unwrap(),
                            Command::ConfirmDrop { actor, reply } => {
                                assert_eq!(actor, "boris");
                                reply.send(Ok(vec![report("forgotten")])).unwrap();
                            }
                        }
                    }
                });
                admin.run(listener, stopped).await
            })
        });
        let starting = ask(address, "GET /health/ready");
        assert!(starting.starts_with("HTTP/1.0 503 "), "{starting}");
        feed.ok();
        assert!(ask(address, "GET /health/ready").starts_with("HTTP/1.0 200 "));
        feed.failed("no such \"host\"");
        let failed = ask(address, "GET /health/ready");
        let (head, body) = failed.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.0 503 ") && head.contains("application/json"), "{head}");
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        let component = &body["components"][0];
        assert_eq!((&body["status"], &component["state"]), (&"not ready".into(), &"failed".into()));
        assert_eq!((&component["name"], &component["reason"]), (&"feed:demo".into(), &"no such \"host\"".into()));
        assert!(ask(address, "GET /health/live").starts_with("HTTP/1.0 200 "));
        let shown = ask(address, "GET /metrics");
        assert!(shown.contains(metrics::CONTENT_TYPE) && shown.ends_with("# EOF\n"), "{shown}");
        assert!(
            shown.contains("jarchy_component_ready{component=\"feed:demo\"} 0") && shown.contains("jarchy_ready 0")
        );
        assert!(shown.contains("jarchy_component_state{component=\"feed:demo\",state=\"failed\"} 1"), "{shown}");
        let of_issuer = ask(address, "GET /health/ready/demo");
        assert!(of_issuer.starts_with("HTTP/1.0 503 ") && of_issuer.contains("feed:demo"), "{of_issuer}");
        assert!(ask(address, "GET /health/ready/other").starts_with("HTTP/1.0 404 "));
        assert!(ask(address, "POST /metrics").starts_with("HTTP/1.0 405 "));
        assert!(ask(address, "GET /health").starts_with("HTTP/1.0 404 "));
        let made = ask(address, "POST /crl/now/demo");
        assert!(
            made.starts_with("HTTP/1.0 200 ") && made.contains(r#"{"lists":[{"number":7,"scope":"demo"}]}"#),
            "{made}"
        );
        let reconciled = ask(address, "POST /database/reconcile");
        assert!(reconciled.ends_with("{\"feeds\":[{\"feed\":\"feed:demo\",\"mended\":3}]}\n"), "{reconciled}");
        let dropped = ask(address, "POST /database/confirm-drop HTTP/1.0\r\nContent-Length: 5\r\n\r\nboris");
        assert!(dropped.ends_with("{\"feeds\":[{\"feed\":\"feed:demo\",\"forgotten\":3}]}\n"), "{dropped}");
        for (request, status) in [
            ("GET /crl/now/demo", 405),
            ("GET /database/reconcile", 405),
            ("POST /database/other", 404),
            ("POST /database/confirm-drop", 400),
            ("POST /crl/now/other", 404),
            ("POST /crl/now/..%2f", 404),
            ("POST /crl/now/demo HTTP/1.0\r\nOrigin: http://evil.example\r\nX: y", 403),
        ] {
            let said = ask(address, request);
            assert!(said.starts_with(&format!("HTTP/1.0 {status} ")), "{request}: {said}");
        }
        stop.send(true).unwrap();
        thread.join().unwrap().unwrap();
    }
}
