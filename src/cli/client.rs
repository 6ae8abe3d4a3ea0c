//! One HTTP exchange, for the commands that talk to a server.

use anyhow::{Context, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::net::TcpStream;

/// A responder that takes longer is of no use to anyone (BR-17 allows 10 s).
const TIMEOUT: Duration = Duration::from_secs(15);
/// No honest answer to these commands is larger.
const MAX_RESPONSE: usize = 1 << 20;
/// For a list of ten million entries over a slow line, and how large it may be.
const FETCH_TIMEOUT: Duration = Duration::from_secs(600);
const MAX_LIST: usize = 1 << 30;

/// Sends `body` to `path` at the server of `url` and returns what it says.
pub(super) async fn send(url: &Uri, method: Method, path: &str, body: Vec<u8>) -> anyhow::Result<(StatusCode, Bytes)> {
    send_within(TIMEOUT, url, method, path, body).await
}

/// As [`send`], for what may take longer.
pub(super) async fn send_within(
    timeout: Duration,
    url: &Uri,
    method: Method,
    path: &str,
    body: Vec<u8>,
) -> anyhow::Result<(StatusCode, Bytes)> {
    tokio::time::timeout(timeout, exchange(url, method, path, body, MAX_RESPONSE))
        .await
        .with_context(|| format!("{url} did not answer within {} s", timeout.as_secs()))?
        .with_context(|| format!("asking {url}"))
}

/// Fetches the file that stands at `url`.
pub(super) async fn fetch(url: &Uri) -> anyhow::Result<Bytes> {
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let (status, body) = tokio::time::timeout(FETCH_TIMEOUT, exchange(url, Method::GET, path, Vec::new(), MAX_LIST))
        .await
        .with_context(|| format!("{url} did not come within {} s", FETCH_TIMEOUT.as_secs()))?
        .with_context(|| format!("fetching {url}"))?;
    ensure!(status == StatusCode::OK, "{url} answered with HTTP status {status}");
    Ok(body)
}

async fn exchange(
    url: &Uri,
    method: Method,
    path: &str,
    body: Vec<u8>,
    limit: usize,
) -> anyhow::Result<(StatusCode, Bytes)> {
    ensure!(url.scheme_str() == Some("http"), "only http:// is spoken here (as RFC 5280 8 has it for OCSP and CRLs)");
    let authority = url.authority().context("the URL names no host")?;
    let host = authority.host().trim_matches(['[', ']']);
    let stream = TcpStream::connect((host, authority.port_u16().unwrap_or(80))).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, authority.as_str())
        .header(CONTENT_TYPE, "application/ocsp-request")
        .body(Full::<Bytes>::from(body))?;
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = Limited::new(body, limit).collect().await.map_err(anyhow::Error::from_boxed)?.to_bytes();
    connection.abort();
    Ok((head.status, body))
}
