//! The first thing anybody starts.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::support::visitor::Visitor;

struct Demo(Child);

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn demo(arguments: &[&str]) -> (Demo, impl Iterator<Item = Value>) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_presence-sim"))
        .args(["demo", "--json"])
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (
        Demo(child),
        lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap()),
    )
}

#[test]
fn presence_flows_to_every_suite_and_an_interrupt_ends_it_cleanly() {
    let (mut demo, mut events) = demo(&["--seed", "7"]);
    let started = events.next().unwrap();
    assert_eq!(started["event"], "started");
    let operators = started["operators"].as_str().unwrap();
    assert!(operators.starts_with("http://127.0.0.1:"));
    assert!(started["operators_password"].as_str().unwrap().len() >= 12);
    let folder = PathBuf::from(started["folder"].as_str().unwrap());
    assert!(folder.join("cloud.toml").exists());
    let mut fresh = std::collections::HashSet::new();
    while fresh.len() < 3 {
        let event = events.next().expect("the demo goes on");
        // Two names of Berlin's list are nobody's and a guest's.
        if event["event"] == "heartbeat"
            && event["watched"].as_u64().unwrap() - event["fresh"].as_u64().unwrap() <= 2
        {
            fresh.insert(event["suite"].as_str().unwrap().to_owned());
        }
    }
    let interrupt = Command::new("kill")
        .args(["-INT", &demo.0.id().to_string()])
        .status()
        .unwrap();
    assert!(interrupt.success());
    let summary = events.last().unwrap();
    let code = demo.0.wait().unwrap().code();
    assert_eq!(code, Some(0), "{summary}");
    assert_eq!(
        (&summary["event"], &summary["ok"]),
        (&"summary".into(), &true.into())
    );
    for tenant in summary["tenants"].as_array().unwrap() {
        // 300 names a batch; lists of two suites that do not come at the same moment may take one more.
        assert!(tenant["lookup_requests"].as_u64().unwrap() <= 9, "{tenant}");
        let (requests, sweeps) = (
            tenant["presence_requests"].as_u64().unwrap(),
            tenant["sweeps"].as_u64().unwrap(),
        );
        // People just found are read at once, in up to seven parts; after that four requests a sweep.
        assert!(requests <= sweeps * 4 + 4 + 8, "{tenant}");
    }
    assert!(!folder.exists(), "nothing is left behind");
}

#[tokio::test]
async fn somebody_connects_an_organisation_in_the_browser_and_sees_it_come_alive() {
    let (demo, mut events) = demo(&[]);
    let started = events.next().unwrap();
    let visitor = Visitor::at(started["web"].as_str().unwrap().parse().unwrap());
    let domain = started["connect"].as_str().unwrap();
    visitor.begin(domain, "organisation").await;
    // Microsoft's own pages say who there is: somebody reads them.
    let consent = visitor.authorize().await;
    let back = visitor.at_microsoft(&consent, "", "accept").await;
    let sign_in = visitor.get(&back).await.location();
    let page = visitor.get(&sign_in).await.body;
    let (before, _) = page.split_once(&format!("@{domain}\"")).unwrap();
    let name = before.rsplit_once('"').unwrap().1;
    let back = visitor
        .at_microsoft(&sign_in, &format!("{name}@{domain}"), "accept")
        .await;
    assert_eq!(visitor.get(&back).await.location(), "/authorize");
    assert!(visitor.get("/authorize").await.body.contains("AUTHORIZED"));
    assert_eq!(visitor.post("/complete", &[]).await.status, 200);

    // A suite of it comes alive, with everybody fresh.
    let followed = tokio::task::spawn_blocking(move || {
        let fresh =
            |e: &Value| e["event"] == "heartbeat" && e["suite"] == "Northwind" && e["fresh"] == 300;
        events.by_ref().find(fresh).expect("the demo goes on");
        events
    });
    // A demo to which nobody listens ends.
    let events = followed.await.unwrap();
    let status = visitor.open("/status").await.body;
    assert!(
        status.contains("All 300 people") && status.contains("connected now"),
        "{status}"
    );
    drop((demo, events));
}

#[test]
fn a_demo_without_time_to_flow_says_so_with_its_exit_code() {
    let (mut demo, events) = demo(&["--for", "0ms"]);
    assert_eq!(events.last().unwrap()["ok"], false);
    assert_eq!(demo.0.wait().unwrap().code(), Some(1));
}
