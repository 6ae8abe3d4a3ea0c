//! Ends that an operator may rely on.

use crate::crl_commands::admin;
use crate::harness::{DEADLINE, Demo, Server, contains, run, text, wait_until};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// A connection that has been answered once and now says nothing.
fn idle(server: &Server) -> TcpStream {
    let mut stream = server.connect();
    let request = format!("GET /ca/demo.cer HTTP/1.1\r\nHost: {}\r\n\r\n", server.address());
    stream.write_all(request.as_bytes()).unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    stream
}

fn ends_well(signal: &str) {
    let mut demo = Demo::start();
    let _idle = idle(&demo.server);
    let started = Instant::now();
    demo.server.signal(signal);
    let status = demo.server.ended();
    assert_eq!(status.code(), Some(0), "{}", demo.server.log());
    // The default of `drain`; nothing was under way, so that nothing need be waited for.
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

#[test]
fn sigterm_ends_with_0_though_a_client_holds_its_connection() {
    ends_well("TERM");
}

#[test]
fn sigint_ends_with_0_though_a_client_holds_its_connection() {
    ends_well("INT");
}

#[test]
fn a_request_that_never_ends_is_cut_off_at_the_deadline() {
    let (work, dir) = Demo::copied();
    let file = dir.join("jarchy.toml");
    let config = fs::read_to_string(&file).unwrap();
    let longer = config
        .replace("#drain = \"20s\"", "drain = \"1s\"")
        .replace("#body_timeout = \"10s\"", "body_timeout = \"1h\"");
    assert_ne!(config, longer);
    fs::write(&file, longer).unwrap();
    let log = work.path().join("log");
    let mut server = Server::start(&["demo", "--dir", text(&dir), "--listen", "127.0.0.1:0"], &log);

    let mut stuck = server.connect();
    let head =
        "POST /ocsp HTTP/1.1\r\nHost: x\r\nContent-Type: application/ocsp-request\r\nContent-Length: 99\r\n\r\nx";
    stuck.write_all(head.as_bytes()).unwrap();
    // The server has surely taken this connection up once it has answered one that came later.
    drop(idle(&server));
    let started = Instant::now();
    server.signal("TERM");
    assert_eq!(server.ended().code(), Some(0), "{}", server.log());
    assert!(started.elapsed() < DEADLINE, "{:?}", started.elapsed());
}

#[test]
fn a_second_signal_cuts_the_draining_short() {
    let mut demo = Demo::start();
    let mut stuck = demo.server.connect();
    let head =
        "POST /ocsp HTTP/1.1\r\nHost: x\r\nContent-Type: application/ocsp-request\r\nContent-Length: 99\r\n\r\nx";
    stuck.write_all(head.as_bytes()).unwrap();
    drop(idle(&demo.server));
    demo.server.signal("INT");
    // Draining has begun.
    wait_until("nobody is let in", || match TcpStream::connect(demo.server.address()) {
        Ok(_) => Err("still listening".to_owned()),
        Err(_) => Ok(()),
    });
    demo.server.signal("INT");
    assert_eq!(demo.server.ended().code(), Some(0), "{}", demo.server.log());
    // Otherwise it is cut after the body's 10 s, and not by the signal.
    assert!(demo.server.log().contains("stopping at once"), "{}", demo.server.log());
}

#[test]
fn after_the_signal_all_goes_on_for_the_grace_while_it_is_not_ready() {
    let (work, dir) = Demo::copied();
    let file = dir.join("jarchy.toml");
    let config = fs::read_to_string(&file).unwrap();
    let longer = config.replace("admin = \"off\"", "admin = \"127.0.0.1:0\"\ngrace = \"1h\"");
    fs::write(&file, longer).unwrap();
    let log = work.path().join("log");
    let mut server = Server::start(&["demo", "--dir", text(&dir), "--listen", "127.0.0.1:0"], &log);
    let admin = admin(&server);
    let status = |path: &str| {
        run("curl", &["-sS", "-o", "/dev/null", "-w", "%{http_code}", &format!("http://{admin}{path}")]).out
    };
    assert_eq!(status("/health/ready"), "200");
    server.signal("TERM");
    wait_until("it is not ready", || contains(&status("/health/ready"), "503"));
    // Whoever does not know that yet is answered on a new connection.
    drop(idle(&server));
    assert_eq!((&*status("/health/live"), &*status("/metrics")), ("200", "200"));
    server.signal("TERM");
    assert_eq!(server.ended().code(), Some(0), "{}", server.log());
}

#[test]
fn after_the_end_nothing_listens_and_the_folder_can_be_served_again() {
    let mut demo = Demo::start();
    let address = demo.server.address();
    demo.server.signal("TERM");
    assert!(demo.server.ended().success());
    assert!(TcpStream::connect(address).is_err());
    demo.restart_after_end();
    assert!(demo.ask("good", &[]).contains("good.pem: good"));
}
