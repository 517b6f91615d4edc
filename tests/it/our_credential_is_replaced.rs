//! Two credentials of ours are valid at once: one can end without any tenant noticing.

use presence_bridge::cloud::store::ConnectionKind;
use presence_bridge::simulator::{AppRegistration, Endpoint, Options, Switches};
use presence_bridge::world::WorldSettings;

use crate::support::stage::{Stage, Watcher, quick, until};

fn assert_connected(suite: &Watcher) {
    let status = suite.status().unwrap();
    assert_eq!((status.state, status.cause.as_str()), ("connected", ""));
}

#[tokio::test]
async fn when_the_first_secret_expires_the_second_is_used_and_when_both_do_it_is_our_fault() {
    let quick = quick();
    let settings = WorldSettings {
        microsoft: Options {
            // Renewed all the time: a token is good for a second or two before the last moment comes.
            switches: Switches {
                expires_in: Some(32),
                ..Switches::default()
            },
            ..quick.microsoft.clone()
        },
        ..quick
    };
    let mut stage = Stage::new(settings).await;
    let (folder, client_id) = (stage.folder().to_owned(), stage.client_id());
    let first = std::fs::read_to_string(folder.join("client-secret")).unwrap();
    let second = "the-next-secret".to_owned();
    stage.microsoft.register_app(AppRegistration {
        client_id,
        secrets: vec![first.clone(), second.clone()],
        ..AppRegistration::default()
    });
    // The operator adds the next secret beside the first one.
    stage.world.stop_cloud().await;
    std::fs::copy(folder.join("client-secret"), folder.join("next-secret")).unwrap();
    std::fs::write(folder.join("next-secret"), &second).unwrap();
    let config = std::fs::read_to_string(folder.join("cloud.toml")).unwrap();
    let more = "\n[[microsoft.credential]]\nclient_secret_file = \"next-secret\"\n\n[store]\n";
    std::fs::write(folder.join("cloud.toml"), config.replace("[store]\n", more)).unwrap();
    stage.world.start_cloud().await.unwrap();

    let mut members = Vec::new();
    for (domain, kind) in [
        ("one.example", ConnectionKind::Organisation),
        ("two.example", ConnectionKind::ServiceAccount),
    ] {
        let tenant = stage.tenant_by(domain, 3, kind).await;
        let suite = stage.watching_all(&tenant, domain).await;
        suite.until_all_fresh().await;
        members.push((tenant, suite));
    }
    let counts = |n: usize| {
        let requests = stage.microsoft.requests();
        requests.of(members[n].0.id(), Endpoint::Token)
    };

    stage.microsoft.expire_secret(client_id, &first);
    for (n, (_, suite)) in members.iter().enumerate() {
        let end = counts(n).ok + 3;
        until("tokens are given, and nobody notices anything", || {
            assert_connected(suite);
            counts(n).ok >= end
        })
        .await;
        suite.until_all_fresh().await;
    }
    let refused: u64 = (0..2).map(|n| counts(n).errors).sum();
    assert!(
        (1..=2).contains(&refused),
        "the refused secret is not tried again and again: {refused}"
    );

    stage.microsoft.expire_secret(client_id, &second);
    for (_, suite) in &members {
        suite.until_state("degraded").await;
        let status = suite.status().unwrap();
        assert!(status.cause.contains("our side"), "{}", status.cause);
    }
}
