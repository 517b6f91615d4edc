//! How old what a suite shows is, as the suite itself knows it.

use std::time::Duration;

use presence_bridge::cloud::store::ConnectionKind;
use presence_bridge::simulator::TenantSpec;
use presence_bridge::world::{World, WorldSettings};
use tokio::runtime::Runtime;
use tokio::time::Instant;

use crate::table::Row;

/// Mean and highest age of the values of all people of a tenant, over some sweeps.
pub fn ages(
    runtime: &Runtime,
    people: usize,
    interval: Duration,
    sweeps: u32,
    rows: &mut Vec<Row>,
) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let (mean, most) = runtime.block_on(async {
        let settings = WorldSettings {
            interval,
            ..WorldSettings::default()
        };
        let world = World::start(folder.path(), settings).await?;
        let spec = TenantSpec {
            domain: "contoso.example".into(),
            people,
            ..TenantSpec::default()
        };
        let tenant = world.add_tenant(spec, ConnectionKind::Organisation).await?;
        let upns: Vec<String> = tenant.people().iter().map(|p| p.upn.clone()).collect();
        let mut suite = world.suite(&tenant, "suite", upns.clone()).await?;
        let handle = suite.handle.clone();
        #[expect(clippy::disallowed_methods, reason = "ends with the process")]
        drop(tokio::spawn(async move {
            while suite.events.recv().await.is_some() {}
        }));
        let age = |upn: &String| {
            let view = handle.view();
            view.person(upn)
                .and_then(|person| view.age(person, world.clock.now()))
        };
        // Everybody has been read at least twice.
        while !upns.iter().all(|upn| age(upn).is_some()) {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        tokio::time::sleep(interval * 2).await;
        let until = Instant::now() + interval * sweeps;
        let (mut sum, mut count, mut most) = (Duration::ZERO, 0_u32, Duration::ZERO);
        while Instant::now() < until {
            // Not always at the same moment of a sweep.
            tokio::time::sleep(Duration::from_millis(fastrand::u64(20..60))).await;
            for upn in upns.iter().step_by(37) {
                let old = age(upn).unwrap_or(Duration::MAX / 2);
                (sum, count, most) = (sum + old, count + 1, most.max(old));
            }
        }
        anyhow::Ok((sum / count.max(1), most))
    })?;
    let half = interval / 2;
    for (what, ours, reference, slack) in [
        ("mean", mean, half, Duration::from_millis(50)),
        ("highest", most, interval, Duration::from_millis(200)),
    ] {
        let limit = reference.mul_f64(1.1) + slack;
        rows.push(Row {
            what: format!(
                "age of a value at the suite, {what}, sweeps of {interval:?}, {people} people"
            ),
            reference: format!("{reference:.2?}"),
            ours: format!("{ours:.2?}"),
            ratio: Some(ours.as_secs_f64() / reference.as_secs_f64()),
            goal: format!("≤ {limit:.2?}"),
            met: ours <= limit,
        });
    }
    Ok(())
}
