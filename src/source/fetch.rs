//! A file at a URL, fetched again and again, whole only when it changed.
//!
//! Goes in: an http:// URL (RFC 5280 8: lists are checked by their own signature). Comes out: its content when it
//! is another than before. A transfer runs on by itself, so that whoever waits for it may give up and ask later.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Body, Incoming};
use hyper::header::{ETAG, HOST, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED, LOCATION, USER_AGENT};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// Until the head of the answer is there.
const HEAD_TIME: Duration = Duration::from_secs(15);
/// For a list of ten million entries over a slow line, and how large it may be.
const BODY_TIME: Duration = Duration::from_secs(600);
const MOST: usize = 1 << 30;

/// What the server said by which it tells whether there is anything new.
#[derive(Clone, Debug, Default)]
struct Validators {
    etag: Option<HeaderValue>,
    modified: Option<HeaderValue>,
}

/// `None` where nothing changed.
type Outcome = Result<Option<(Bytes, Validators)>, String>;

/// What stands at a URL.
#[derive(Debug)]
pub(super) struct Fetched {
    uri: Uri,
    interval: Duration,
    validators: Validators,
    task: Option<JoinHandle<Outcome>>,
    due: Instant,
}

impl Fetched {
    pub(super) fn new(uri: Uri, interval: Duration) -> Self {
        Self { uri, interval, validators: Validators::default(), task: None, due: Instant::now() }
    }

    pub(super) const fn uri(&self) -> &Uri {
        &self.uri
    }

    /// What is there is wanted whole, whether it changed or not, and at once.
    pub(super) fn reset(&mut self) {
        self.validators = Validators::default();
        if self.task.is_none() {
            self.due = Instant::now();
        }
    }

    /// Waits for a transfer that is due or under way until `until`; `None` if there is nothing new by then.
    ///
    /// # Errors
    /// Why it could not be fetched; it is tried again after the interval.
    pub(super) async fn next(&mut self, until: Instant) -> Result<Option<Bytes>, String> {
        if self.task.is_none() {
            if self.due > until {
                tokio::time::sleep_until(until).await;
                return Ok(None);
            }
            tokio::time::sleep_until(self.due).await;
        }
        let (uri, validators) = (&self.uri, &self.validators);
        let task = self.task.get_or_insert_with(|| tokio::spawn(get(uri.clone(), validators.clone())));
        let Ok(done) = tokio::time::timeout_at(until, task).await else { return Ok(None) };
        self.task = None;
        self.due = Instant::now() + self.interval;
        match done.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(None) => Ok(None),
            Ok(Some((body, validators))) => {
                self.validators = validators;
                Ok(Some(body))
            }
            Err(why) => {
                // When it can be had again it comes whole, so that what was said against it is found out anew.
                self.validators = Validators::default();
                Err(format!("{} cannot be fetched: {why}", self.uri))
            }
        }
    }
}

async fn get(uri: Uri, validators: Validators) -> Outcome {
    let text = |error: hyper::Error| error.to_string();
    let authority = uri.authority().ok_or("the URL names no host")?;
    let address = (authority.host().trim_matches(['[', ']']), authority.port_u16().unwrap_or(80));
    let head = async {
        let unreached = |error: std::io::Error| format!("{error}; are host and port right, and is the server up?");
        let stream = TcpStream::connect(address).await.map_err(unreached)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
        let connection = tokio::spawn(connection);
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let mut request = Request::builder()
            .method(Method::GET)
            .uri(path)
            .header(HOST, authority.as_str())
            .header(USER_AGENT, concat!("jarchy/", env!("CARGO_PKG_VERSION")));
        for (name, value) in [(IF_NONE_MATCH, &validators.etag), (IF_MODIFIED_SINCE, &validators.modified)] {
            if let Some(value) = value {
                request = request.header(name, value);
            }
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
        let answer = sender.send_request(request).await.map_err(text)?;
        Ok::<_, String>((answer, sender, connection))
    };
    let late = |time: Duration| format!("nothing came within {} s", time.as_secs());
    let (answer, _sender, connection) = timeout(HEAD_TIME, head).await.map_err(|_| late(HEAD_TIME))??;
    let (head, body) = answer.into_parts();
    let outcome = match head.status {
        StatusCode::NOT_MODIFIED => Ok(None),
        StatusCode::OK => {
            let body = timeout(BODY_TIME, whole(body)).await.map_err(|_| late(BODY_TIME))??;
            let header = |name| head.headers.get(name).cloned();
            Ok(Some((body, Validators { etag: header(ETAG), modified: header(LAST_MODIFIED) })))
        }
        status => Err(match head.headers.get(LOCATION).and_then(|to| to.to_str().ok()) {
            Some(to) => format!("the server answered {status} and points to {to}: write that address"),
            None => format!("the server answered {status}; is the list there?"),
        }),
    };
    connection.abort();
    outcome
}

/// All of a body, held once.
async fn whole(body: Incoming) -> Result<Bytes, String> {
    let announced = body.size_hint().exact().and_then(|size| usize::try_from(size).ok());
    let (mut body, mut whole) = (Limited::new(body, MOST), Vec::new());
    whole.try_reserve_exact(announced.unwrap_or(0).min(MOST)).map_err(|error| error.to_string())?;
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(|error| error.to_string())?.into_data() {
            whole.extend_from_slice(&data);
        }
    }
    Ok(whole.into())
}
