//! The real program, killed at each named point of a renewal, with a Microsoft that lets the old refresh token live and with one that
//! does not.

use presence_bridge::cloud::store::ConnectionKind;
use presence_bridge::simulator::{Options, Switches, Tenant};
use presence_bridge::world::WorldSettings;

use crate::support::program::Program;
use crate::support::stage::{Stage, Watcher, quick, until, upns};

const POINTS: [&str; 5] = [
    "refresh::before_intent",
    "refresh::after_intent",
    "refresh::after_response",
    "refresh::before_commit",
    "refresh::after_commit",
];

struct Scene {
    stage: Stage,
    members: Vec<(Tenant, Watcher)>,
}

impl Scene {
    async fn new(refresh_revokes_old: bool) -> Self {
        let quick = quick();
        let settings = WorldSettings {
            microsoft: Options {
                switches: Switches {
                    refresh_revokes_old,
                    ..Switches::default()
                },
                ..quick.microsoft.clone()
            },
            cloud_keys: vec![("poll", "confirm_refusal_after = \"1s\"".into())],
            ..quick
        };
        let mut stage = Stage::new(settings).await;
        let mut members = Vec::new();
        for domain in ["one.example", "two.example"] {
            let tenant = stage
                .tenant_by(domain, 3, ConnectionKind::ServiceAccount)
                .await;
            let suite = stage.watching_all(&tenant, domain).await;
            suite.until_all_fresh().await;
            members.push((tenant, suite));
        }
        stage.world.stop_cloud().await;
        Self { stage, members }
    }

    /// Starts the program, and kills it when a renewal of at least one tenant has come to this point.
    async fn kill_at(&self, point: &str) {
        let (mut program, marker) = Program::serve_until(self.stage.folder(), point);
        until(&format!("a renewal stands at {point}"), || marker.exists()).await;
        program.kill();
        for (tenant, suite) in &self.members {
            let upn = &upns(tenant)[0];
            until("the suites know that they are alone", || {
                !suite.is_fresh(upn)
            })
            .await;
        }
    }

    /// What each suite is told in the end: whether the tenant is connected, or else why not.
    async fn outcomes(&self) -> Vec<Result<(), String>> {
        let mut outcomes = Vec::new();
        for (tenant, suite) in &self.members {
            let upn = &upns(tenant)[0];
            let mut found = None;
            until("the tenant works again, or is known not to", || {
                let status = suite.status().unwrap();
                found = match status.state {
                    "connected" if suite.is_fresh(upn) => Some(Ok(())),
                    "needs re-authorization" => Some(Err(status.cause.clone())),
                    _ => None,
                };
                found.is_some()
            })
            .await;
            outcomes.extend(found);
        }
        outcomes
    }
}

#[tokio::test]
async fn no_tenant_is_lost_while_microsoft_lets_the_old_token_live() {
    let scene = Scene::new(false).await;
    for point in POINTS.iter().chain(&POINTS) {
        scene.kill_at(point).await;
        let _program = Program::serve(scene.stage.folder());
        assert_eq!(scene.outcomes().await, [Ok(()), Ok(())], "{point}");
    }
}

#[tokio::test]
async fn a_loss_is_told_as_it_is_and_a_new_authorization_mends_it() {
    let scene = Scene::new(true).await;
    let mut losses = 0;
    for point in POINTS {
        scene.kill_at(point).await;
        let _program = Program::serve(scene.stage.folder());
        let outcomes = scene.outcomes().await;
        let lost = outcomes.iter().filter(|o| o.is_err()).count();
        losses += lost;
        // Nobody can have come further than the point; at least one tenant stood there.
        match point {
            "refresh::before_intent" | "refresh::after_intent" => assert_eq!(lost, 0, "{point}"),
            "refresh::after_commit" => assert!(lost < 2, "{point}"),
            _ => assert!(lost > 0, "{point}"),
        }
        for ((tenant, suite), outcome) in scene.members.iter().zip(&outcomes) {
            let Err(cause) = outcome else { continue };
            assert!(
                cause.starts_with("Our service was interrupted while it renewed"),
                "{cause}"
            );
            let remedy = suite.status().unwrap().remedy;
            assert!(remedy.contains("sign-in is needed"), "{remedy}");
            let connected = scene.stage.connect(tenant, ConnectionKind::ServiceAccount);
            connected.await.unwrap();
            suite.until_state("connected").await;
            suite.until_all_fresh().await;
        }
    }
    assert!(losses >= 2);
}
