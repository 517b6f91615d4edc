//! Against real sockets on loopback, with short limits: `reqwest` does its work outside a paused clock.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;

use super::*;

const SHORT: Limits = Limits {
    total: Duration::from_millis(900),
    first_byte: Duration::from_millis(300),
    idle: Duration::from_millis(150),
    max_body: 64 << 10,
};

/// A server of one connection after another; each has sent its request when `answer` gets it.
fn serve(answer: impl Fn(&mut TcpStream) + Send + 'static) -> Url {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
                head.push(byte[0]);
            }
            answer(&mut stream);
        }
    });
    Url::parse(&format!("http://127.0.0.1:{port}")).unwrap()
}

fn serve_bytes(answer: impl AsRef<[u8]> + Send + 'static) -> Url {
    serve(move |stream| drop(stream.write_all(answer.as_ref())))
}

async fn get(url: &Url, limits: Limits) -> Result<http::Response<Bytes>, TransportError> {
    let transport = ReqwestTransport::new(std::slice::from_ref(url), None).unwrap();
    let request = http::Request::get(format!("{url}x?secret=hunter2"));
    transport
        .send(request.body(Bytes::new()).unwrap(), limits)
        .await
}

#[tokio::test]
async fn an_answer_comes_whole_whatever_its_status() {
    let url = serve_bytes("HTTP/1.1 404 Not Found\r\nx-a: b\r\ncontent-length: 4\r\n\r\ngone");
    let response = get(&url, SHORT).await.unwrap();
    assert_eq!(response.status(), 404);
    assert_eq!(response.headers()["x-a"], "b");
    assert_eq!(response.body().as_ref(), b"gone");
}

#[tokio::test]
async fn a_huge_body_is_cut_at_the_limit_without_reading_it_all() {
    let (tell, written) = mpsc::channel();
    let url = serve(move |stream| {
        let chunk = vec![b'a'; 64 << 10];
        let mut sent = 0_usize;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n");
        while sent < 100 << 20 && stream.write_all(&chunk).is_ok() {
            sent += chunk.len();
        }
        tell.send(sent).unwrap();
    });
    assert_eq!(
        get(&url, SHORT).await.unwrap_err(),
        TransportError::TooLarge { limit: 64 << 10 }
    );
    // What was sent beyond the limit sat in the buffers of the two sockets.
    let written = tokio::task::spawn_blocking(move || written.recv());
    assert!(written.await.unwrap().unwrap() < 50 << 20);
}

/// How much a server sends until the client will not have more, and what the client says of it.
async fn flooded_with(head: &'static str, piece: &'static str) -> (TransportError, usize) {
    let (tell, written) = mpsc::channel();
    let url = serve(move |stream| {
        let piece = piece.repeat(1 + (8 << 10) / piece.len());
        let mut sent = 0_usize;
        let _ = stream.write_all(head.as_bytes());
        while sent < 100 << 20 && stream.write_all(piece.as_bytes()).is_ok() {
            sent += piece.len();
        }
        tell.send(sent).unwrap();
    });
    let error = get(&url, SHORT).await.unwrap_err();
    let written = tokio::task::spawn_blocking(move || written.recv());
    (error, written.await.unwrap().unwrap())
}

#[tokio::test]
async fn a_head_without_end_is_not_read_for_ever() {
    for (head, piece) in [
        ("HTTP/1.1 200 OK\r\n", "x-more: of the same\r\n"),
        ("HTTP/1.1 200 OK\r\nx-long: ", "and on"),
        ("HTTP/1.1 200 ", "OK"),
        ("", "HTTP"),
    ] {
        let (error, sent) = flooded_with(head, piece).await;
        assert!(
            matches!(error, TransportError::Interrupted(_)),
            "{piece:?}: {error:?}"
        );
        assert!(sent < 50 << 20, "{piece:?}: {sent}");
    }
}

#[tokio::test]
async fn answers_that_only_announce_an_answer_end_with_the_time_for_its_head() {
    let (error, _) = flooded_with("", "HTTP/1.1 100 Continue\r\n\r\n").await;
    assert!(
        matches!(
            error,
            TransportError::Timeout(Waiting::Head) | TransportError::Interrupted(_)
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_body_that_announces_its_size_is_not_read_at_all() {
    let url = serve_bytes("HTTP/1.1 200 OK\r\ncontent-length: 104857600\r\n\r\n");
    assert_eq!(
        get(&url, SHORT).await.unwrap_err(),
        TransportError::TooLarge { limit: 64 << 10 }
    );
}

#[tokio::test]
async fn a_redirect_is_an_answer_like_any_other() {
    let url = serve_bytes(
        "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:9/\r\ncontent-length: 0\r\n\r\n",
    );
    assert_eq!(get(&url, SHORT).await.unwrap().status(), 302);
}

#[tokio::test]
async fn silence_ends_in_a_timeout_wherever_it_falls() {
    let quiet = |_: &mut TcpStream| std::thread::sleep(Duration::from_secs(2));
    let url = serve(quiet);
    let head = TransportError::Timeout(Waiting::Head);
    assert_eq!(get(&url, SHORT).await.unwrap_err(), head);

    let url = serve(move |stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc");
        quiet(stream);
    });
    let body = TransportError::Timeout(Waiting::Body);
    assert_eq!(get(&url, SHORT).await.unwrap_err(), body);
}

#[tokio::test]
async fn a_body_that_drips_forever_ends_with_the_total_time() {
    let url = serve(|stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n");
        while stream.write_all(b"a").is_ok() {
            std::thread::sleep(Duration::from_millis(40));
        }
    });
    let end = TransportError::Timeout(Waiting::End);
    assert_eq!(get(&url, SHORT).await.unwrap_err(), end);
}

#[tokio::test]
async fn a_connection_that_breaks_is_interrupted_not_an_answer() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "SSH-2.0-OpenSSH\r\n\r\n",
        "",
    ] {
        let error = get(&serve_bytes(answer), SHORT).await.unwrap_err();
        assert!(matches!(error, TransportError::Interrupted(_)), "{error:?}");
    }
}

#[tokio::test]
async fn nobody_listening_is_a_failure_to_connect_that_names_no_url() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = get(&Url::parse(&url).unwrap(), SHORT).await.unwrap_err();
    assert!(matches!(error, TransportError::Connect(_)), "{error:?}");
    assert!(!format!("{error} {error:?}").contains("hunter2"));
}

#[tokio::test]
async fn other_origins_are_forbidden_before_anything_is_sent() {
    let ours = Url::parse("http://127.0.0.1:1").unwrap();
    let transport = ReqwestTransport::new(&[ours], None).unwrap();
    for (url, name) in [
        ("http://127.0.0.1:2/", "127.0.0.1:2"),
        ("https://127.0.0.1:1/", "127.0.0.1:1"),
        ("http://localhost:1/", "localhost:1"),
        (
            "https://graph.microsoft.com/v1.0/me?x=y",
            "graph.microsoft.com",
        ),
    ] {
        let request = http::Request::get(url).body(Bytes::new()).unwrap();
        assert_eq!(
            transport.send(request, SHORT).await.unwrap_err(),
            TransportError::Forbidden(name.into())
        );
    }
}

#[test]
fn plain_http_is_for_loopback_only() {
    let build = |url: &str| ReqwestTransport::new(&[Url::parse(url).unwrap()], None).map(|_| ());
    for good in [
        "https://graph.microsoft.com",
        "http://127.0.0.1:8900",
        "http://[::1]:1",
        "http://localhost",
    ] {
        assert_eq!(build(good), Ok(()), "{good}");
    }
    let plain = TransportSetupError::PlainHttp("graph.microsoft.com".into());
    assert_eq!(build("http://graph.microsoft.com"), Err(plain));
    let other = TransportSetupError::NotAnOrigin("x".into());
    assert_eq!(build("ftp://x"), Err(other));
}

#[test]
fn extra_roots_must_be_certificates() {
    let pem = rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap();
    assert!(ReqwestTransport::new(&[], Some(pem.cert.pem().as_bytes())).is_ok());
    for bad in ["", "no pem"] {
        let error = ReqwestTransport::new(&[], Some(bad.as_bytes())).unwrap_err();
        assert!(matches!(error, TransportSetupError::RootCertificates(_)));
    }
}

/// `1 + matches · 258` times the letter a, as RFC 1951 packs it best: one literal, then copies of it.
fn gzip_of_a(matches: usize) -> Vec<u8> {
    let mut bits = Vec::new();
    // Huffman codes stand with their highest bit first, everything else with its lowest.
    let mut code = |value: u32, length: u32| {
        bits.extend((0..length).rev().map(|bit| value >> bit & 1 == 1));
    };
    code(0b110, 3); // last block, fixed codes
    code(0x30 + u32::from(b'a'), 8);
    for _ in 0..matches {
        code(0xC5, 8); // 258 bytes
        code(0, 5); // from one byte back
    }
    code(0, 7); // end
    let mut out = b"\x1f\x8b\x08\0\0\0\0\0\0\xff".to_vec();
    out.extend(bits.chunks(8).map(|byte| {
        byte.iter()
            .enumerate()
            .fold(0_u8, |sum, (at, bit)| sum | u8::from(*bit) << at)
    }));
    let length = 1 + matches * 258;
    let crc = !(0..length).fold(!0_u32, |crc, _| {
        (0..8).fold(crc ^ u32::from(b'a'), |crc, _| {
            crc >> 1 ^ (0xEDB8_8320 * (crc & 1))
        })
    });
    out.extend(crc.to_le_bytes());
    out.extend(u32::try_from(length).unwrap().to_le_bytes());
    out
}

fn serve_gzip(matches: usize) -> (Url, usize) {
    let body = gzip_of_a(matches);
    let length = body.len();
    let head =
        format!("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: {length}\r\n\r\n");
    (serve_bytes([head.into_bytes(), body].concat()), length)
}

#[tokio::test]
async fn gzip_is_unpacked() {
    let response = get(&serve_gzip(3).0, SHORT).await.unwrap();
    assert_eq!(response.body().as_ref(), [b'a'; 775].as_slice());
}

#[tokio::test]
async fn the_limit_counts_what_gzip_unpacks_to() {
    let (url, packed) = serve_gzip(10_000);
    assert!(packed < SHORT.max_body);
    assert_eq!(
        get(&url, SHORT).await.unwrap_err(),
        TransportError::TooLarge { limit: 64 << 10 }
    );
}

#[tokio::test(start_paused = true)]
async fn new_connections_after_a_503_at_most_once_a_minute() {
    let transport = ReqwestTransport::new(&[], None).unwrap();
    let since = || transport.current.lock().unwrap().since;
    let first = since();
    transport.renew_connections();
    assert_eq!(since(), first);
    tokio::time::advance(FRESH_CONNECTIONS_EVERY).await;
    transport.renew_connections();
    assert!(since() > first);
}

#[tokio::test(start_paused = true)]
async fn a_router_is_held_to_the_same_limits() {
    use axum::routing::get;
    let late = || tokio::time::sleep(Duration::from_mins(1));
    let drip = || {
        let chunks = futures_util::stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_secs(4)).await;
            Some((Ok::<_, std::io::Error>(Bytes::from_static(b"a")), ()))
        });
        Body::from_stream(chunks)
    };
    let stall = || {
        let never = futures_util::stream::pending::<std::io::Result<Bytes>>();
        Body::from_stream(never)
    };
    let broken = || {
        let error = futures_util::stream::iter([Err::<Bytes, _>(std::io::Error::other("cut"))]);
        Body::from_stream(error)
    };
    let transport = RouterTransport(
        axum::Router::new()
            .route("/late", get(move || async move { late().await }))
            .route("/drip", get(move || async move { drip() }))
            .route("/stall", get(move || async move { stall() }))
            .route("/broken", get(move || async move { broken() }))
            .route("/big", get(|| async { vec![0_u8; (4 << 20) + 1] }))
            .route("/fits", get(|| async { vec![0_u8; 4 << 20] })),
    );
    let send = |path: &str| {
        let request = http::Request::get(path).body(Bytes::new()).unwrap();
        transport.send(request, Limits::GRAPH)
    };
    for (path, error, after) in [
        ("/late", TransportError::Timeout(Waiting::Head), 10),
        ("/stall", TransportError::Timeout(Waiting::Body), 5),
        ("/drip", TransportError::Timeout(Waiting::End), 30),
        ("/big", TransportError::TooLarge { limit: 4 << 20 }, 0),
        ("/broken", TransportError::Interrupted("cut".into()), 0),
    ] {
        let start = Instant::now();
        assert_eq!(send(path).await.unwrap_err(), error);
        assert_eq!(start.elapsed().as_secs(), after, "{path}");
    }
    assert_eq!(send("/fits").await.unwrap().body().len(), 4 << 20);
}
