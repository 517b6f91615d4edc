//! A suite that has a credential and means harm: messages out of all measure, a million names, a watch list that never rests.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream::pending;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use presence_bridge::agent::identity::Identity;
use presence_bridge::clock::Clock;
use presence_bridge::simulator::Endpoint;
use presence_bridge::wire::v1::watch_request::Request as Up;
use presence_bridge::wire::v1::watch_response::Response as Down;
use presence_bridge::wire::v1::{self, AddWatched, ReplaceWatched};
use tokio::net::TcpStream;
use tonic::Code;

use crate::support::besieged::{Besieged, within_mebibytes};
use crate::support::raw::{RawStream, open};
use crate::support::stage::{Stage, quick, upns};

/// A message as gRPC frames it: whether it is compressed, and how long it claims to be.
fn framed(compressed: u8, claimed: u32, message: &[u8]) -> Vec<u8> {
    let mut framed = vec![compressed];
    framed.extend(claimed.to_be_bytes());
    framed.extend(message);
    framed
}

/// Calls a method with these bytes, whatever they are, said to be encoded in this way.
async fn call(
    stage: &Stage,
    identity: &Identity,
    method: &str,
    encoding: &str,
    body: Vec<u8>,
) -> Code {
    let socket = TcpStream::connect(stage.grpc_address()).await.unwrap();
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket))
            .await
            .unwrap();
    let bearer = identity.bearer(Clock::system().now());
    let request = http::Request::post(format!(
        "http://cloud/presence.bridge.v1.PresenceService/{method}"
    ))
    .header("content-type", "application/grpc")
    .header("te", "trailers")
    .header("grpc-encoding", encoding)
    .header("authorization", bearer.to_str().unwrap())
    .body(Full::new(Bytes::from(body)))
    .unwrap();
    let answer = async {
        let answer = client.send_request(request).await.unwrap();
        let told = answer.headers().get("grpc-status").cloned();
        let body = answer.into_body().collect().await.unwrap();
        let told = told.or_else(|| body.trailers()?.get("grpc-status").cloned());
        Code::from_bytes(told.expect("a status").as_bytes())
    };
    tokio::select! {
        code = answer => code,
        ended = connection => panic!("the connection ended: {ended:?}"),
    }
}

#[tokio::test]
async fn messages_out_of_all_measure_cost_one_call_each() {
    let besieged = Besieged::new(quick()).await;
    let stage = &besieged.stage;
    let long = vec![b'a'; 300 << 10];
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap();
    let cases = [
        ("longer than allowed", framed(0, length(&long), &long)),
        ("said to be four gigabytes", framed(0, u32::MAX, b"abc")),
        ("cut off", framed(0, 100, b"ten bytes.")),
        ("cut off in the head", vec![0, 0]),
        (
            "compressed, and nobody agreed to that",
            framed(1, 3, b"abc"),
        ),
        ("a flag that does not exist", framed(7, 3, b"abc")),
        ("no protobuf", framed(0, 8, &[0xff; 8])),
        (
            "a name that is no text",
            framed(0, 4, &[0x0a, 2, 0xc3, 0x28]),
        ),
        ("nothing at all", Vec::new()),
    ];
    let attacks = async {
        for (nth, (what, body)) in cases.into_iter().enumerate() {
            // Each as another suite: one is allowed only so many calls.
            let identity = stage
                .enroll(besieged.tenant.id(), &format!("s{nth}"))
                .await
                .unwrap();
            for method in ["GetPresence", "Watch"] {
                let code = call(stage, &identity, method, "identity", body.clone()).await;
                let refusal = matches!(
                    code,
                    Code::OutOfRange
                        | Code::InvalidArgument
                        | Code::Internal
                        | Code::Unimplemented
                        | Code::ResourceExhausted
                        | Code::Unknown
                );
                assert!(refusal, "{what}: {method}: {code:?}");
            }
        }
    };
    Box::pin(within_mebibytes(32, besieged.meanwhile(attacks))).await;
    besieged.is_well().await;
}

#[tokio::test]
async fn a_call_that_is_begun_and_not_gone_on_with_is_not_waited_for() {
    let besieged = Besieged::new(quick()).await;
    let stage = &besieged.stage;
    let identity = stage.enroll(besieged.tenant.id(), "slow").await.unwrap();
    let socket = TcpStream::connect(stage.grpc_address()).await.unwrap();
    let (client, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket))
            .await
            .unwrap();
    // The first call lets the connection in; a suite may make it, so nobody is cut off for being a stranger.
    let bearer = identity.bearer(Clock::system().now());
    let calls = [
        ("PresenceService/Watch", Code::Ok),
        ("PresenceService/GetPresence", Code::DeadlineExceeded),
        ("EnrollmentService/Enroll", Code::DeadlineExceeded),
        ("EnrollmentService/RenewKey", Code::DeadlineExceeded),
    ];
    let asked = calls.map(|(method, expected)| {
        let mut client = client.clone();
        let request = http::Request::post(format!("http://cloud/presence.bridge.v1.{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("authorization", bearer.to_str().unwrap())
            .body(StreamBody::new(
                pending::<Result<Frame<Bytes>, Infallible>>(),
            ))
            .unwrap();
        async move {
            let answer = client.send_request(request).await.unwrap();
            let told = answer.headers().get("grpc-status");
            // A stream has been opened: how it ends is not said yet.
            let code = told.map_or(Code::Ok, |told| Code::from_bytes(told.as_bytes()));
            assert_eq!(code, expected, "{method}");
        }
    });
    tokio::select! {
        _ = join_all(asked) => {}
        ended = connection => panic!("the connection ended: {ended:?}"),
    }
    besieged.is_well().await;
}

#[tokio::test]
async fn an_encoding_nobody_agreed_to_is_refused_before_anything_is_unpacked() {
    let besieged = Besieged::new(quick()).await;
    let stage = &besieged.stage;
    let identity = stage
        .enroll(besieged.tenant.id(), "compressor")
        .await
        .unwrap();
    for method in ["GetPresence", "Watch"] {
        for encoding in ["gzip", "no such thing"] {
            let body = framed(1, 3, b"abc");
            let code = call(stage, &identity, method, encoding, body).await;
            assert_eq!(code, Code::Unimplemented, "{method} {encoding}");
        }
    }
    besieged.is_well().await;
}

/// Names by the thousand that nobody has.
fn names(nth: usize) -> Vec<String> {
    (0..1000)
        .map(|n| format!("nobody-{}@contoso.example", nth * 1000 + n))
        .collect()
}

#[tokio::test]
async fn a_million_names_end_the_stream_and_are_not_all_asked_for() {
    let besieged = Besieged::new(quick()).await;
    let (stage, tenant) = (&besieged.stage, &besieged.tenant);
    let identity = stage.enroll(tenant.id(), "greedy").await.unwrap();
    let attack = async {
        // Who reads as fast as he asks is told of each name, at the pace of his messages.
        let mut stream = RawStream::start_narrow(&identity, open(vec![]))
            .await
            .unwrap();
        let up = stream.up.clone();
        let flood = async move {
            for nth in 0..1000 {
                let request = Some(Up::Add(AddWatched { upns: names(nth) }));
                if up.send(v1::WatchRequest { request }).await.is_err() {
                    return nth;
                }
            }
            1000
        };
        let (sent, (_, status)) = tokio::join!(flood, stream.read_out());
        (sent, status)
    };
    let (sent, status) = within_mebibytes(256, besieged.meanwhile(attack)).await;
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(sent < 1000, "{sent}");
    besieged.is_well().await;
}

fn last(nth: usize) -> String {
    format!("last-{nth}@contoso.example")
}

#[tokio::test]
async fn ten_thousand_new_watch_lists_are_taken_slowly_and_microsoft_is_not_asked_more_for_them() {
    const SUITES: usize = 20;
    const FLIPS: usize = 500;
    let besieged = Besieged::new(quick()).await;
    let (stage, tenant) = (&besieged.stage, &besieged.tenant);
    let asked = |endpoint| stage.microsoft.requests().of(tenant.id(), endpoint).total;
    let lookups = || asked(Endpoint::Users) + asked(Endpoint::Batch);
    let before = lookups();
    let restless = (0..SUITES).map(|nth| async move {
        let identity = stage
            .enroll(tenant.id(), &format!("restless {nth}"))
            .await
            .unwrap();
        let lists = [upns(tenant), names(nth)[..20].to_vec()];
        let mut stream = RawStream::start(&identity, open(vec![])).await.unwrap();
        assert!(matches!(stream.next().await, Ok(Down::Opened(_))));
        let up = stream.up.clone();
        let flips = async move {
            for nth in 0..FLIPS {
                let upns = lists[nth % 2].clone();
                let request = Some(Up::Replace(ReplaceWatched { upns }));
                up.send(v1::WatchRequest { request }).await.unwrap();
            }
            // What is answered about this one was said after all of it.
            let request = Some(Up::Replace(ReplaceWatched {
                upns: vec![last(nth)],
            }));
            up.send(v1::WatchRequest { request }).await.unwrap();
        };
        let reading = async {
            loop {
                match stream.next().await.unwrap() {
                    Down::Coverage(c) if c.people.iter().any(|p| p.upn == last(nth)) => break,
                    _ => {}
                }
            }
        };
        tokio::join!(flips, reading);
    });
    within_mebibytes(64, besieged.meanwhile(join_all(restless))).await;
    besieged.is_well().await;
    let lookups = lookups() - before;
    // Asked for in batches and within the budget, whatever the suites do: far less often than lists came.
    assert!((1..1_000).contains(&lookups), "{lookups}");
}
