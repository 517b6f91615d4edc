//! Reading Microsoft: over TLS, zipped, as it is; the whole service beside the barest reader.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use presence_bridge::cloud::listener::{self, Noticed, Settings, Tls};
use presence_bridge::cloud::store::ConnectionKind;
use presence_bridge::config::listeners::{ListenerConfig, TlsFiles};
use presence_bridge::simulator::{Tenant, TenantSpec};
use presence_bridge::world::{Suite, World, WorldSettings};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::process::{Part, cpu_seconds, play};
use crate::streams::certificate;
use crate::table::Row;

/// Time between two readings of a tenant.
const INTERVAL: Duration = Duration::from_millis(100);

/// People of a tenant: as many as fit into one request.
const PEOPLE: usize = 650;

/// Answers as Microsoft sends them to who accepts it: zipped.
async fn zip(request: Request, next: Next) -> Response {
    let wanted = request
        .headers()
        .get("accept-encoding")
        .is_some_and(|value| value.to_str().is_ok_and(|value| value.contains("gzip")));
    let (mut head, body) = next.run(request).await.into_parts();
    let Ok(bytes) = axum::body::to_bytes(body, 64 << 20).await else {
        return Response::new(Body::empty());
    };
    if !wanted || bytes.len() < 1024 {
        return Response::from_parts(head, Body::from(bytes));
    }
    let mut zipped = Vec::new();
    let mut packer = flate2::read::GzEncoder::new(&bytes[..], flate2::Compression::fast());
    let _ = packer.read_to_end(&mut zipped);
    head.headers.remove("content-length");
    head.headers.insert(
        "content-encoding",
        axum::http::HeaderValue::from_static("gzip"),
    );
    Response::from_parts(head, Body::from(zipped))
}

/// What the barest reader reads.
#[derive(Debug, Serialize, Deserialize)]
pub struct Bare {
    url: String,
    ca: PathBuf,
    /// Bearer token and ids of each tenant.
    tenants: Vec<(String, Vec<String>)>,
}

#[derive(Deserialize)]
struct Answer {
    value: Vec<Person>,
}

#[derive(Deserialize)]
struct Person {
    id: String,
    availability: String,
    activity: String,
}

/// reqwest, `serde_json`, and a map of the last values. Answers how many values it has read, and how many were new.
pub fn bare(setup: Bare) -> anyhow::Result<()> {
    let runtime = Runtime::new()?;
    let ca = reqwest::Certificate::from_pem(&std::fs::read(&setup.ca)?)?;
    let client = reqwest::Client::builder().tls_certs_only([ca]).build()?;
    let read = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    for (token, ids) in setup.tenants {
        let (client, read, url) = (
            client.clone(),
            std::sync::Arc::clone(&read),
            setup.url.clone(),
        );
        let body = serde_json::to_vec(&serde_json::json!({ "ids": ids }))?;
        runtime.spawn(async move {
            let mut last: HashMap<String, (String, String)> = HashMap::new();
            let mut ticks = tokio::time::interval(INTERVAL);
            loop {
                ticks.tick().await;
                let request = client
                    .post(format!("{url}/v1.0/communications/getPresencesByUserId"))
                    .bearer_auth(&token)
                    .header("content-type", "application/json")
                    .header("accept-encoding", "gzip")
                    .body(body.clone());
                let Ok(answer) = request.send().await else {
                    continue;
                };
                let Ok(bytes) = answer.bytes().await else {
                    continue;
                };
                let mut plain = Vec::new();
                let mut packed = flate2::read::GzDecoder::new(&*bytes);
                if packed.read_to_end(&mut plain).is_err() {
                    continue;
                }
                let Ok(answer) = serde_json::from_slice::<Answer>(&plain) else {
                    continue;
                };
                read.fetch_add(
                    answer.value.len() as u64,
                    std::sync::atomic::Ordering::Relaxed,
                );
                for person in answer.value {
                    let value = (person.availability, person.activity);
                    if last.get(&person.id) != Some(&value) {
                        last.insert(person.id, value);
                    }
                }
            }
        });
    }
    play(&(), |(): ()| {
        Ok(read.load(std::sync::atomic::Ordering::Relaxed))
    })
}

/// The real service. Killed when dropped.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The sum of a metric's samples that hold this text.
fn metric(text: &str, begins: &str) -> f64 {
    let lines = text.lines().filter(|line| line.starts_with(begins));
    lines
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

struct Scene {
    world: World,
    _suites: Vec<Suite>,
    tenants: Vec<Tenant>,
    service: Service,
    bare: Bare,
}

async fn scene(folder: &std::path::Path, tenants: usize) -> anyhow::Result<Scene> {
    const PLENTY: &str =
        "presence_requests_per_30s = 1000000\napplication_requests_per_10s = 10000000";
    let settings = WorldSettings {
        interval: INTERVAL,
        cloud_keys: vec![("poll", PLENTY.into())],
        ..WorldSettings::default()
    };
    let mut world = World::start(folder, settings).await?;
    let [pem, key] = certificate(folder)?;
    let tls = Tls::new(&TlsFiles {
        certificate: pem.clone(),
        private_key: key,
    })?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let settings = Settings::new(&ListenerConfig::plain(address), Some(&tls), Duration::ZERO);
    let router = world
        .microsoft
        .router()
        .layer(axum::middleware::from_fn(zip));
    // Everybody is somebody here: the simulated Microsoft is not what is looked at.
    let router = router.layer(axum::middleware::from_fn(|request: Request, next: Next| {
        listener::admit(request.extensions());
        next.run(request)
    }));
    let serving = listener::serve(
        listener,
        settings,
        router,
        CancellationToken::new(),
        Noticed::default(),
    );
    #[expect(clippy::disallowed_methods, reason = "ends with the process")]
    drop(tokio::spawn(serving));
    let (mut all, mut identities) = (Vec::new(), Vec::new());
    for nth in 0..tenants {
        let spec = TenantSpec {
            domain: format!("contoso{nth}.example"),
            people: PEOPLE,
            ..TenantSpec::default()
        };
        let tenant = world.add_tenant(spec, ConnectionKind::Organisation).await?;
        identities.push(world.enroll(tenant.id(), &format!("suite {nth}")).await?);
        all.push(tenant);
    }
    let file = folder.join("cloud.toml");
    let url = format!("https://{address}");
    let plain = world.microsoft_url().as_str().to_owned();
    let text = std::fs::read_to_string(&file)?.replace(&plain, &format!("{url}/"));
    let roots = format!("[microsoft]\nextra_roots_file = \"{}\"\n", pem.display());
    std::fs::write(&file, text.replace("[microsoft]\n", &roots))?;
    world.stop_cloud().await;
    let service = Command::new(env!("CARGO_BIN_EXE_presence-cloud"))
        .arg("--config")
        .arg(&file)
        .arg("serve")
        .env("RUST_LOG", "error")
        .stdin(Stdio::null())
        .spawn()?;
    let service = Service(service);
    let mut suites = Vec::new();
    for (identity, tenant) in identities.into_iter().zip(&all) {
        let upns = tenant
            .people()
            .iter()
            .map(|person| person.upn.clone())
            .collect();
        suites.push(world.run_suite(identity, upns));
    }
    let secret = std::fs::read_to_string(folder.join("client-secret"))?;
    let client = reqwest::Client::builder().build()?;
    let mut bare = Vec::new();
    for tenant in &all {
        let form = [
            ("client_id", world.client_id().to_string()),
            ("client_secret", secret.trim().to_owned()),
            ("grant_type", "client_credentials".to_owned()),
            ("scope", format!("{plain}.default")),
        ];
        let form = serde_urlencoded::to_string(&form)?;
        let token = client
            .post(format!("{plain}{}/oauth2/v2.0/token", tenant.id()))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(form)
            .send()
            .await?;
        let token: serde_json::Value = token.json().await?;
        let token = token["access_token"]
            .as_str()
            .with_context(|| format!("no token: {token}"))?;
        let people = tenant.people();
        let ids = people.iter().map(|person| person.id.0.to_string());
        bare.push((token.to_owned(), ids.collect()));
    }
    Ok(Scene {
        world,
        _suites: suites,
        tenants: all,
        service,
        bare: Bare {
            url,
            ca: pem,
            tenants: bare,
        },
    })
}

/// A few people change all the time.
async fn live(tenants: &[Tenant]) {
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    for nth in 0_usize.. {
        ticks.tick().await;
        let tenant = &tenants[nth % tenants.len()];
        let person = &tenant.people()[nth * 7 % PEOPLE];
        let word = ["Busy", "Away", "Available"][nth / PEOPLE % 3];
        tenant.set_presence(&person.upn, word, word);
    }
}

/// Cost of a presence that is read, and requests for a sweep.
pub fn reading(
    runtime: &Runtime,
    tenants: usize,
    seconds: u64,
    rows: &mut Vec<Row>,
) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let scene = runtime.block_on(scene(folder.path(), tenants))?;
    let pid = scene.service.0.id();
    let metrics = || {
        let url = scene.world.operators_url().join("/metrics")?;
        let text = runtime.block_on(async { reqwest::get(url).await?.text().await })?;
        anyhow::Ok(text)
    };
    let everybody = f64::from(u32::try_from(tenants * PEOPLE)?);
    for _ in 0..300 {
        if metrics()
            .is_ok_and(|text| metric(&text, "presence_cloud_people_read_total") >= 5.0 * everybody)
        {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let (before, cpu) = (metrics()?, cpu_seconds(pid)?);
    runtime.block_on(async {
        tokio::select! {
            () = live(&scene.tenants) => {}
            () = tokio::time::sleep(Duration::from_secs(seconds)) => {}
        }
    });
    let (after, cpu) = (metrics()?, cpu_seconds(pid)? - cpu);
    let more = |name: &str| metric(&after, name) - metric(&before, name);
    let read = more("presence_cloud_people_read_total");
    anyhow::ensure!(read > everybody, "hardly anything was read");
    let ours = cpu * 1e6 / read;
    let (requests, sweeps) = (
        more("presence_cloud_microsoft_requests_total{operation=\"presences\",outcome=\"ok\"}"),
        more("presence_cloud_sweeps_total"),
    );
    let Scene {
        service,
        bare,
        tenants,
        world,
        ..
    } = scene;
    drop(service);
    let (mut part, ()): (Part, ()) = Part::start("reader", &bare)?;
    std::thread::sleep(Duration::from_secs(1));
    let (read, cpu): (u64, _) = (part.ask(&())?, cpu_seconds(part.pid())?);
    runtime.block_on(async {
        tokio::select! {
            () = live(&tenants) => {}
            () = tokio::time::sleep(Duration::from_secs(seconds)) => {}
        }
    });
    let (read, cpu) = (part.ask::<u64>(&())? - read, cpu_seconds(part.pid())? - cpu);
    drop(world);
    #[expect(clippy::cast_precision_loss, reason = "few")]
    let reference = cpu * 1e6 / read.max(1) as f64;
    rows.push(Row::at_most(
        "CPU per presence read (TLS, gzip), the whole service",
        "µs",
        reference,
        ours,
        1.3,
    ));
    rows.push(Row {
        what: format!("requests per sweep, {PEOPLE} watched"),
        reference: "1".into(),
        ours: format!("{:.3}", requests / sweeps),
        ratio: Some(requests / sweeps),
        goal: "1".into(),
        met: (requests / sweeps - 1.0).abs() < 0.02,
    });
    let _ = std::io::stderr().flush();
    Ok(())
}
