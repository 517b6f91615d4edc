//! `presence-sim load`: what it tells is so, and it fails when a suite is not told what is so.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use presence_bridge::clock::Clock;
use presence_bridge::config::cloud::CloudConfig;
use presence_bridge::simulator::{Microsoft, Options, TenantSpec};
use serde_json::Value;

use crate::support::program::{Program, until_answered};
use crate::support::stage::{Stage, quick};

struct Load(Child);

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Load {
    fn start(arguments: &[&str]) -> (Self, impl Iterator<Item = Value>) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_presence-sim"))
            .args(["load", "--json"])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let events = lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap());
        (Self(child), events)
    }

    fn code(&mut self) -> Option<i32> {
        self.0.wait().unwrap().code()
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value}"))
}

/// Two tenants of 20 people, three suites each that watch everybody, 40 changes a second.
const SMALL: [&str; 8] = [
    "--tenants",
    "2",
    "--people",
    "20",
    "--suites",
    "3",
    "--rate",
    "40",
];

const QUICK: [&str; 2] = ["--interval", "200ms"];

fn a_load_adds_up(more: &[&str]) {
    let arguments = [&SMALL[..], &QUICK, &["--for", "3s"], more].concat();
    let (mut load, mut events) = Load::start(&arguments);
    let started = events.next().unwrap();
    let summary = events.last().unwrap();
    assert_eq!(load.code(), Some(0), "{summary}");
    assert_eq!(summary["ok"], true);
    let truth = &summary["truth"];
    assert_eq!(
        (number(&truth["watched"]), number(&truth["right"])),
        (120, 120)
    );
    let (changes, due) = (number(&summary["changes"]), number(&summary["due"]));
    assert!((60..=120).contains(&changes), "{summary}");
    assert_eq!(due, changes * 3, "each concerns three suites");
    let delivered = number(&summary["delivered"]);
    assert!((due / 2..=due).contains(&delivered), "{summary}");
    assert_eq!(number(&summary["unexpected"]), 0);
    assert_eq!(number(&summary["disconnects"]), 0);
    let lag = &summary["lag_ms"];
    assert_eq!(number(&lag["count"]), delivered);
    let [p50, p99, max] = ["p50", "p99", "max"].map(|mark| number(&lag[mark]));
    assert!(0 < p50 && p50 <= p99 && p99 <= max, "{summary}");
    let cloud = &summary["cloud"];
    assert_eq!(cloud["pid"], started["cloud_pid"]);
    assert!(cloud["cpu_seconds"].as_f64().unwrap() > 0.0);
    assert!(number(&cloud["resident_most"]) >= number(&cloud["resident_before"]));
    assert!(summary["own_cpu_seconds"].as_f64().unwrap() > 0.0);
    let tenants = summary["requests"]["tenants"].as_array().unwrap();
    assert_eq!(tenants.len(), 2);
    for tenant in tenants {
        assert!(number(&tenant["presence"]) > 1, "{summary}");
        assert_eq!(number(&tenant["throttled"]), 0);
    }
    assert_eq!(number(&summary["requests"]["needed_per_reading"]), 1);
}

#[test]
fn what_it_tells_adds_up_and_nothing_is_wrong_or_missing() {
    a_load_adds_up(&[]);
}

#[test]
fn the_same_with_the_suites_apart() {
    a_load_adds_up(&["--apart"]);
}

#[tokio::test]
async fn a_value_that_does_not_come_fails_it_and_is_named() {
    let arguments = [&SMALL[..], &QUICK, &["--for", "2s", "--patience", "3s"]].concat();
    let (mut load, mut events) = Load::start(&arguments);
    let started = events.next().unwrap();
    let microsoft = started["microsoft"].as_str().unwrap().to_owned();
    // The world is the same for the same seed: so this is one of its people.
    let same = Microsoft::new(Options::default(), Clock::system());
    let spec = TenantSpec {
        domain: "load1.example".into(),
        people: 20,
        ..TenantSpec::default()
    };
    let person = same.add_tenant(spec).people()[3].clone();
    // This person is left out of what Microsoft answers.
    let fault = serde_json::json!({ "name": "missing-user", "user": person.id });
    let set = reqwest::Client::builder()
        .build()
        .unwrap()
        .post(format!("{microsoft}/sim/faults"))
        .header("content-type", "application/json")
        .body(fault.to_string())
        .send();
    let answer = set.await.unwrap();
    assert!(
        answer.status().is_success(),
        "{}",
        answer.text().await.unwrap()
    );
    let summary = events.last().unwrap();
    assert_eq!(load.code(), Some(1), "{summary}");
    assert_eq!(summary["ok"], false);
    let truth = &summary["truth"];
    assert!(number(&truth["right"]) <= 117, "{summary}");
    let examples = truth["examples"].as_array().unwrap();
    let named = |example: &Value| example.as_str().unwrap().starts_with(&person.upn);
    assert!(examples.iter().all(named), "{summary}");
    assert_eq!(examples.len(), 3, "on three suites");
}

#[tokio::test]
async fn one_that_works_with_the_real_microsoft_is_left_alone() {
    let stage = Stage::new(quick()).await;
    let config = stage.folder().join("real.toml");
    let text = std::fs::read_to_string(stage.folder().join("cloud.toml")).unwrap();
    let real = text.replacen(
        &format!("login_url = \"{}\"", stage.microsoft_url()),
        "login_url = \"https://login.microsoftonline.com\"",
        1,
    );
    assert_ne!(text, real);
    std::fs::write(&config, real).unwrap();
    let mut load = Command::new(env!("CARGO_BIN_EXE_presence-sim"));
    let said = load
        .args(["load", "--config"])
        .arg(&config)
        .output()
        .unwrap();
    assert_eq!(said.status.code(), Some(1));
    let said = String::from_utf8_lossy(&said.stderr);
    assert!(said.contains("not a simulated one"), "{said}");
}

#[tokio::test]
async fn one_that_runs_already_is_put_under_load_and_goes_on() {
    let mut stage = Stage::new(quick()).await;
    stage.world.stop_cloud().await;
    let folder = tempfile::tempdir().unwrap();
    for file in ["cloud.toml", "client-secret", "key", "cloud.db"] {
        std::fs::copy(stage.folder().join(file), folder.path().join(file)).unwrap();
    }
    // Its Microsoft has to be where nothing listens.
    drop(stage);
    let program = Program::serve(folder.path());
    let config = folder.path().join("cloud.toml");
    let read = CloudConfig::read(&config).unwrap();
    let ready = read.operators.public_url.join("readyz").unwrap();
    until_answered(ready.clone()).await;
    let load = tokio::task::spawn_blocking(move || {
        let config = config.to_str().unwrap();
        let arguments = [&SMALL[..], &["--for", "1s", "--config", config]].concat();
        let (mut load, events) = Load::start(&arguments);
        let summary = events.last().unwrap();
        (load.code(), summary)
    });
    let (code, summary) = load.await.unwrap();
    assert_eq!(code, Some(0), "{summary}");
    assert_eq!(number(&summary["truth"]["right"]), 120);
    assert!(summary["cloud"].is_null(), "nobody named its process");
    assert!(
        reqwest::get(ready).await.unwrap().status().as_u16() < 600,
        "it goes on"
    );
    drop(program);
}
