//! From a change at the simulated Microsoft to the suite that shows it, through the whole product on loopback.
//!
//! Prints the delay as a part of the sweep interval, because that is what decides it. Bounded: 2,000 people, 40 changes.

use std::io::Write as _;
use std::time::Duration;

use presence_bridge::cloud::store::ConnectionKind;
use presence_bridge::simulator::TenantSpec;
use presence_bridge::world::{World, WorldSettings};
use tokio::time::Instant;

const CHANGES: u32 = 40;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // `cargo test` builds benches too and runs them with this argument: once is enough to see that it works.
    let changes = if std::env::args().any(|a| a == "--test") {
        2
    } else {
        CHANGES
    };
    let interval = Duration::from_secs(1);
    let folder = tempfile::tempdir()?;
    let world = World::start(
        folder.path(),
        WorldSettings {
            interval,
            ..WorldSettings::default()
        },
    )
    .await?;
    let spec = TenantSpec {
        domain: "contoso.example".into(),
        people: 2_000,
        ..TenantSpec::default()
    };
    let tenant = world.add_tenant(spec, ConnectionKind::Organisation).await?;
    let upns: Vec<String> = tenant.people().iter().map(|p| p.upn.clone()).collect();
    let mut suite = world.suite(&tenant, "bench", upns.clone()).await?;
    let held = |upn: &str| {
        let view = suite.handle.view();
        view.person(upn)
            .and_then(|p| p.value.as_ref())
            .map(|v| v.presence.availability.as_str().to_owned())
    };
    while upns.iter().any(|upn| held(upn).is_none()) {
        let _ = tokio::time::timeout(Duration::from_millis(50), suite.events.recv()).await;
    }
    let drain = suite.handle.clone();
    let mut delays = Vec::new();
    let mut rng = fastrand::Rng::with_seed(1);
    for n in 0..changes {
        tokio::time::sleep(interval.mul_f64(rng.f64())).await;
        let upn = &upns[rng.usize(..upns.len())];
        let state = if n % 2 == 0 { "Busy" } else { "Away" };
        let before = drain
            .view()
            .person(upn)
            .and_then(|p| p.value.as_ref())
            .map(|v| v.sequence);
        tenant.set_presence(upn, state, state);
        let began = Instant::now();
        while drain
            .view()
            .person(upn)
            .and_then(|p| p.value.as_ref())
            .map(|v| v.sequence)
            == before
        {
            let _ = tokio::time::timeout(Duration::from_millis(1), suite.events.recv()).await;
            if began.elapsed() > interval * 5 {
                break;
            }
        }
        delays.push(began.elapsed().as_secs_f64() / interval.as_secs_f64());
    }
    delays.sort_by(f64::total_cmp);
    let at = |part: f64| {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "few"
        )]
        let index = ((delays.len() - 1) as f64 * part) as usize;
        delays[index]
    };
    writeln!(
        std::io::stdout(),
        "change to suite, in sweep intervals: half within {:.2}, 9 of 10 within {:.2}, all within {:.2}",
        at(0.5),
        at(0.9),
        at(1.0)
    )?;
    Ok(())
}
