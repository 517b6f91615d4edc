//! The public listeners under what the internet does to them: silence, slowness, too many connections, a new certificate, a load balancer.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use futures_util::future::join_all;
use presence_bridge::wire::v1::GetPresenceRequest;
use presence_bridge::world::WorldSettings;
use tonic::Code;

use crate::support::besieged::{Besieged, refused, within_mebibytes};
use crate::support::frames::{END_HEADERS, HEADERS, PREFACE, SETTINGS, Wire, call, frame};
use crate::support::program::Program;
use crate::support::raw::{client, signed};
use crate::support::stage::{Stage, Watcher, quick, until, upns};

const CHANGES: &str = "presence_cloud_listener_certificate_changes_total";
const ENDS: &str =
    "presence_cloud_listener_certificate_expiry_timestamp_seconds{listener=\"grpc\"}";

/// With these lines for the listener of the suites.
fn grpc(keys: impl Into<String>) -> WorldSettings {
    WorldSettings {
        cloud_keys: vec![("grpc", keys.into())],
        ..quick()
    }
}

/// A certificate for this machine and its key, written into these files.
fn write_certificate(folder: &Path) -> String {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let files = ["grpc.pem", "grpc.key"].map(|name| folder.join(name));
    std::fs::write(&files[0], made.cert.pem()).unwrap();
    std::fs::write(&files[1], made.signing_key.serialize_pem()).unwrap();
    let [certificate, key] = files.map(|file| file.display().to_string());
    format!("certificate_file = \"{certificate}\"\nprivate_key_file = \"{key}\"")
}

#[tokio::test]
async fn silence_at_any_stage_ends_the_connection_and_no_other() {
    let besieged = Besieged::new(quick()).await;
    let greeting = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    let stages: [&[u8]; 8] = [
        b"",
        b"G",
        b"GET / HTTP/1.1\r\nHost: clo",
        &PREFACE[..10],
        PREFACE,
        &greeting,
        // Headers that are not all there, and a call whose body never comes.
        &[&greeting[..], &frame(HEADERS, 0, 1, &call("/x"))].concat(),
        &[&greeting[..], &frame(HEADERS, END_HEADERS, 1, &call("/x"))].concat(),
    ];
    let address = besieged.stage.grpc_address();
    let silent = stages.map(|said| async move {
        let mut wire = Wire::connect(address).await;
        wire.say(said).await.unwrap();
        wire.ended().await;
    });
    besieged.meanwhile(join_all(silent)).await;
    besieged.is_well().await;
}

#[tokio::test]
async fn silence_before_and_in_the_middle_of_a_handshake_ends_the_connection() {
    let folder = tempfile::tempdir().unwrap();
    let besieged = Besieged::new(grpc(write_certificate(folder.path()))).await;
    // How a ClientHello begins, and what is none.
    let stages: [&[u8]; 4] = [b"", &[0x16, 3, 1], &[0x16, 3, 1, 2, 0, 1], PREFACE];
    let address = besieged.stage.grpc_address();
    let silent = stages.map(|said| async move {
        let mut wire = Wire::connect(address).await;
        wire.say(said).await.unwrap();
        wire.ended().await;
    });
    besieged.meanwhile(join_all(silent)).await;
    assert_eq!(refused(&besieged.stage, "handshake"), 4);
    besieged.is_well().await;
}

#[tokio::test]
async fn a_new_certificate_is_shown_while_streams_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let besieged = Besieged::new(grpc(write_certificate(folder.path()))).await;
    let (stage, tenant) = (&besieged.stage, &besieged.tenant);
    let told = |name: &str| {
        let metrics = stage.cloud().unwrap().metrics();
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        line.map(|value| value.trim().to_owned())
    };
    let changes = |outcome: &str| {
        told(&format!(
            "{CHANGES}{{listener=\"grpc\",outcome=\"{outcome}\"}}"
        ))
    };
    until("its end is told", || {
        told(ENDS).is_some_and(|ends| ends != "0")
    })
    .await;
    write_certificate(folder.path());
    until("it is taken over", || {
        changes("replaced").as_deref() == Some("1")
    })
    .await;
    // This suite trusts what lies in the file now and nothing else.
    let late = stage.watching_all(tenant, "late").await;
    late.until_all_fresh().await;
    std::fs::write(folder.path().join("grpc.key"), "rubbish").unwrap();
    until("it is told", || changes("failed").as_deref() == Some("1")).await;
    let later = stage.watching_all(tenant, "later").await;
    later.until_all_fresh().await;
    besieged.is_well().await;
    let opened = told("presence_cloud_streams_opened_total{resumed=\"false\"}");
    assert_eq!(opened.as_deref(), Some("3"), "nobody had to come back");
}

/// Connects as a balancer that says this first. True: it was let in.
async fn let_in(stage: &Stage, introduction: &str) -> Option<Wire> {
    let mut wire = Wire::connect(stage.grpc_address()).await;
    let said = [
        introduction.as_bytes(),
        PREFACE,
        &frame(SETTINGS, 0, 0, &[]),
    ]
    .concat();
    let _ = wire.say(&said).await;
    for _ in 0..3_000 {
        if wire.seen().acknowledged > 0 {
            return Some(wire);
        }
        if wire.has_ended() {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("neither let in nor refused");
}

#[tokio::test]
async fn behind_a_balancer_each_caller_is_counted_for_himself() {
    let stage = Stage::new(grpc("proxy_protocol = true")).await;
    let from = |address: &str| format!("PROXY TCP4 {address} 10.0.0.1 50000 443\r\n");
    assert!(let_in(&stage, "").await.is_none(), "nobody is introduced");
    assert_eq!(refused(&stage, "introduction"), 1);
    let one_address = (0..150).map(|_| async { let_in(&stage, &from("192.0.2.1")).await });
    let inside = join_all(one_address).await.into_iter().flatten().count();
    assert!((100..150).contains(&inside), "{inside}");
    assert_eq!(
        refused(&stage, "per_address"),
        150 - u64::try_from(inside).unwrap()
    );
    assert!(let_in(&stage, &from("192.0.2.2")).await.is_some());
    assert!(let_in(&stage, "PROXY UNKNOWN\r\n").await.is_some());
}

#[tokio::test]
async fn a_service_that_has_no_descriptors_left_serves_on_when_it_has_some() {
    let mut stage = Stage::new(quick()).await;
    let tenant = stage.tenant("contoso.example", 5).await;
    let identity = stage.enroll(tenant.id(), "a").await.unwrap();
    stage.world.stop_cloud().await;
    let _program = Program::serve_with_files(stage.folder(), 100);
    let suite = Watcher::new(stage.run_suite(identity, upns(&tenant)));
    suite.until_all_fresh().await;
    let crowd: Vec<Wire> = join_all((0..200).map(|_| Wire::connect(stage.grpc_address()))).await;
    // Its own requests to Microsoft go over connections that it has.
    let person = &upns(&tenant)[0];
    for availability in ["Busy", "Away", "Offline"] {
        tenant.set_presence(person, availability, availability);
        suite.until_holds(person, availability).await;
    }
    drop(crowd);
    let welcome = let_in(&stage, "").await;
    assert!(welcome.is_some(), "there is room again");
    let metrics = stage.operators_url().join("/metrics").unwrap();
    let metrics = reqwest::get(metrics).await.unwrap().text().await.unwrap();
    let failed =
        "presence_cloud_connections_refused_total{listener=\"grpc\",reason=\"accept_failed\"} ";
    let failed = metrics.lines().find_map(|line| line.strip_prefix(failed));
    assert!(failed.is_some_and(|n| n != "0"), "it had none: {failed:?}");
}

#[tokio::test]
async fn a_suite_that_calls_without_pause_loses_its_connection_and_no_other_suffers() {
    let besieged = Besieged::new(quick()).await;
    let (stage, tenant) = (&besieged.stage, &besieged.tenant);
    let identity = stage.enroll(tenant.id(), "rude").await.unwrap();
    let mut rude = client(&identity);
    // Its client connects anew by itself, over and over.
    let hammering = async {
        let (mut answered, mut turned_away) = (0, 0);
        while refused(stage, "unwelcome") < 3 {
            let request = GetPresenceRequest { upns: upns(tenant) };
            match rude.get_presence(signed(&identity, request)).await {
                Ok(_) => answered += 1,
                Err(status) if status.code() == Code::ResourceExhausted => turned_away += 1,
                // The connection ended while it was asking.
                Err(_) => {}
            }
        }
        (answered, turned_away)
    };
    let (answered, turned_away) = besieged.meanwhile(hammering).await;
    // Ten at once and one a second; every twenty refusals cost a connection, give or take what was under way.
    assert!((10..30).contains(&answered), "{answered}");
    assert!((50..=61).contains(&turned_away), "{turned_away}");
    besieged.is_well().await;
}

/// Runs a tool of Debian's to its end, and returns what it says.
async fn tool(program: &str, arguments: &[&str]) -> String {
    let (mut command, name) = (std::process::Command::new(program), program.to_owned());
    command.args(arguments).stdin(Stdio::null());
    let ran = tokio::task::spawn_blocking(move || command.output());
    let ran = ran.await.unwrap();
    let ran =
        ran.unwrap_or_else(|e| panic!("{name} cannot be run ({e}); scripts/setup installs it"));
    String::from_utf8_lossy(&[ran.stdout, ran.stderr].concat()).into_owned()
}

#[tokio::test]
async fn slow_browsers_are_cut_off_and_the_pages_are_there_for_others() {
    let stage = Stage::new(quick()).await;
    let pages = stage.web_url();
    let url = pages.join("/authorize").unwrap();
    let slow = |mode: &'static str, more: &'static [&'static str]| {
        let url = url.as_str();
        async move {
            let mut arguments = vec![
                mode, "-c", "150", "-r", "150", "-i", "1", "-l", "20", "-p", "5", "-u", url,
            ];
            arguments.extend(more);
            (mode, tool("slowhttptest", &arguments).await)
        }
    };
    let attacks = async {
        tokio::join!(
            slow("-H", &[]),
            slow("-B", &["-s", "60000", "-t", "POST"]),
            slow("-X", &["-w", "1", "-y", "10", "-n", "1", "-z", "1"]),
        )
    };
    let others = async {
        loop {
            let answer = reqwest::get(pages.clone()).await.unwrap();
            assert_eq!(answer.status(), 200);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let ended = tokio::select! {
        ended = within_mebibytes(64, attacks) => ended,
        () = others => unreachable!("for ever"),
    };
    for (mode, said) in [ended.0, ended.1, ended.2] {
        let last = said.rsplit("service available:").next().unwrap();
        assert!(last.contains("YES"), "{mode}: {said}");
        // Who reads slowly has had his small page at once, and may rest for a while.
        let cut_off = said.contains("No open connections left");
        assert!(cut_off || mode == "-X", "{mode}: {said}");
    }
}

#[tokio::test]
async fn a_load_generator_without_a_credential_does_not_hinder_suites() {
    let besieged = Besieged::new(quick()).await;
    let url = format!(
        "http://{}/presence.bridge.v1.PresenceService/Watch",
        besieged.stage.grpc_address()
    );
    let arguments = [
        "-n",
        "20000",
        "-c",
        "50",
        "-m",
        "32",
        "-H",
        "content-type: application/grpc",
        "-H",
        ":method: POST",
        &url,
    ];
    let load = tool("h2load", &arguments);
    let said = within_mebibytes(64, besieged.meanwhile(load)).await;
    // Twenty refusals a connection, and it is over.
    let done = said
        .split(" done")
        .next()
        .and_then(|rest| rest.rsplit(' ').next());
    let done: u32 = done
        .and_then(|n| n.parse().ok())
        .unwrap_or_else(|| panic!("{said}"));
    assert!((1..=50 * 32).contains(&done), "{said}");
    assert_eq!(refused(&besieged.stage, "unwelcome"), 50);
    besieged.is_well().await;
}
