//! Two servers with the same streams: the product, and the barest one that forwards what is encoded already. What is driven through
//! them, in processes of their own.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use bytes::{Buf as _, BufMut as _, Bytes};
use hyper_util::rt::{TokioExecutor, TokioIo};
use presence_bridge::cloud::poller::Tenant;
use presence_bridge::cloud::store::ConnectionKind;
use presence_bridge::model::{ById, Presence, UserId};
use presence_bridge::simulator::TenantSpec;
use presence_bridge::wire::v1;
use presence_bridge::world::{World, WorldSettings};
use prost::Message as _;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Request, Response, Status, Streaming};

use crate::process::{now_us, play};

/// Which streams there are, and who is watched.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Setup {
    /// Streams, each over its own connection.
    pub streams: usize,
    /// Different people of all streams together.
    pub people: usize,
    /// People each stream watches: the same for all, or everybody else's own.
    pub watched: usize,
    /// Whether over TLS.
    pub tls: bool,
}

impl Setup {
    /// Whom a stream watches.
    fn watched_by(self, stream: usize) -> impl Iterator<Item = usize> {
        // Neighbours in an answer go to different streams, if streams watch different people at all.
        let apart = (self.people / self.watched.max(1)).max(1);
        (0..self.watched).map(move |nth| (stream + nth * apart) % self.people)
    }

    /// How many streams each person concerns.
    fn watchers(self, person: usize) -> Vec<usize> {
        let watches = |stream: &usize| self.watched_by(*stream).any(|one| one == person);
        (0..self.streams).filter(watches).collect()
    }
}

/// How a stream is opened.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Opening {
    pub bearer: String,
    pub watch: Vec<String>,
}

/// Where the streams are opened.
#[derive(Debug, Serialize, Deserialize)]
pub struct Ready {
    pub url: String,
    pub ca: Option<PathBuf>,
    pub openings: Vec<Opening>,
}

/// What is driven through them.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub enum Drive {
    /// So many answers, so far apart, each with so many changes; the next people in turn.
    Answers {
        answers: usize,
        apart_us: u64,
        changes: usize,
    },
    /// As much as goes, for so many seconds: the reference only.
    Flood { seconds: u64 },
}

/// When each answer was there.
#[derive(Debug, Serialize, Deserialize)]
pub struct Driven {
    pub at_us: Vec<u64>,
}

/// A certificate for this machine, in files.
pub fn certificate(folder: &std::path::Path) -> anyhow::Result<[PathBuf; 2]> {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
    let files = ["grpc.pem", "grpc.key"].map(|name| folder.join(name));
    std::fs::write(&files[0], made.cert.pem())?;
    std::fs::write(&files[1], made.signing_key.serialize_pem())?;
    Ok(files)
}

/// Waits for each answer's time.
async fn paced(answers: usize, apart_us: u64, mut answer: impl AsyncFnMut(usize)) -> Driven {
    let mut ticks = tokio::time::interval(Duration::from_micros(apart_us));
    let mut at_us = Vec::with_capacity(answers);
    for nth in 0..answers {
        ticks.tick().await;
        at_us.push(now_us());
        answer(nth).await;
    }
    Driven { at_us }
}

/// What changes in each answer, in turn.
struct Turns {
    people: usize,
    next: usize,
}

impl Turns {
    /// The next people, and which of three things they show now: another one each time round.
    fn next(&mut self, changes: usize) -> impl Iterator<Item = (usize, usize)> {
        let (first, people) = (self.next, self.people);
        self.next += changes;
        (first..first + changes).map(move |nth| (nth % people, (nth / people) % 3))
    }
}

/// With as many workers as there are cores; `PRESENCE_BENCH_WORKERS` tries another number, for both servers.
fn runtime() -> anyhow::Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Ok(workers) = std::env::var("PRESENCE_BENCH_WORKERS") {
        builder.worker_threads(workers.parse()?);
    }
    Ok(builder.enable_all().build()?)
}

/// The product. Microsoft's answers are handed to it where they are when they have been parsed.
pub fn product(setup: Setup) -> anyhow::Result<()> {
    let runtime = runtime()?;
    let folder = tempfile::tempdir()?;
    let files = setup.tls.then(|| certificate(folder.path())).transpose()?;
    let grpc = files.as_ref().map(|[certificate, key]| {
        let keys = format!(
            "certificate_file = \"{}\"\nprivate_key_file = \"{}\"",
            certificate.display(),
            key.display()
        );
        ("grpc", keys)
    });
    let (_world, tenant, users, ready) = runtime.block_on(async {
        let world = World::start(
            folder.path(),
            WorldSettings {
                // Read once, when somebody watches; from then on the answers are ours.
                interval: Duration::from_hours(12),
                cloud_keys: grpc.into_iter().collect(),
                ..WorldSettings::default()
            },
        )
        .await?;
        let spec = TenantSpec {
            domain: "contoso.example".into(),
            people: setup.people,
            ..TenantSpec::default()
        };
        let simulated = world.add_tenant(spec, ConnectionKind::Organisation).await?;
        let people = simulated.people();
        let mut openings = Vec::new();
        let mut bearer = String::new();
        for stream in 0..setup.streams {
            // Four streams are what a suite may have.
            if stream % 4 == 0 {
                let identity = loop {
                    let name = format!("suite {stream}");
                    match world.enroll(simulated.id(), &name).await {
                        Ok(identity) => break identity,
                        // Not too many at once.
                        Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
                    }
                };
                identity
                    .bearer(world.clock.now())
                    .to_str()?
                    .clone_into(&mut bearer);
            }
            let watch = setup
                .watched_by(stream)
                .map(|person| people[person].upn.clone());
            openings.push(Opening {
                bearer: bearer.clone(),
                watch: watch.collect(),
            });
        }
        let view = world.cloud().context("no cloud")?.clone();
        let tenant = loop {
            match view.tenant(simulated.id()) {
                Some(tenant) => break tenant,
                None => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        };
        let scheme = if setup.tls { "https" } else { "http" };
        let ready = Ready {
            url: format!("{scheme}://{}", world.grpc_address()),
            ca: files.map(|[certificate, _]| certificate),
            openings,
        };
        let users: Vec<UserId> = people.iter().map(|person| person.id).collect();
        anyhow::Ok((world, tenant, users, ready))
    })?;
    let clock = presence_bridge::clock::Clock::system();
    let mut turns = Turns {
        people: setup.people,
        next: 0,
    };
    let shown = ["Busy", "Away", "DoNotDisturb"]
        .map(|word| Presence::from_microsoft(Some(word), Some(word)));
    let apply = |tenant: &Tenant, changes: Vec<(usize, usize)>| {
        let asked: Vec<UserId> = changes.iter().map(|(person, _)| users[*person]).collect();
        let presences = changes.iter().map(|(_, shows)| shown[*shows].clone());
        let answer: ById<UserId, Presence> = asked.iter().copied().zip(presences).collect();
        tenant.take_in(&asked, answer, clock.now());
    };
    play(&ready, |drive| match drive {
        Drive::Answers {
            answers,
            apart_us,
            changes,
        } => Ok(runtime.block_on(paced(answers, apart_us, async |_| {
            apply(&tenant, turns.next(changes).collect());
        }))),
        // What is newer replaces what waits: without a pace there would be no telling what a change costs.
        Drive::Flood { .. } => anyhow::bail!("the product is driven by answers"),
    })
}

/// Hands bytes on as they are.
#[derive(Debug, Clone, Copy, Default)]
struct AsIs;

impl Codec for AsIs {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for AsIs {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(item);
        Ok(())
    }
}

impl Decoder for AsIs {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let all = from.remaining();
        Ok(Some(from.copy_to_bytes(all)))
    }
}

type Outlets = Arc<Mutex<Vec<mpsc::Sender<Result<Bytes, Status>>>>>;

/// Gives every caller an outlet.
#[derive(Clone)]
struct Outlet(Outlets);

impl tonic::server::StreamingService<Bytes> for Outlet {
    type Response = Bytes;
    type ResponseStream = ReceiverStream<Result<Bytes, Status>>;
    type Future = std::future::Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, _: Request<Streaming<Bytes>>) -> Self::Future {
        let (outlet, down) = mpsc::channel(1024);
        let mut all = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        all.push(outlet);
        std::future::ready(Ok(Response::new(ReceiverStream::new(down))))
    }
}

/// The barest server there can be: tonic on hyper, and a channel for each stream.
pub fn bare(setup: Setup) -> anyhow::Result<()> {
    let runtime = runtime()?;
    let folder = tempfile::tempdir()?;
    let files = setup.tls.then(|| certificate(folder.path())).transpose()?;
    let acceptor = files.as_ref().map(|[certificate, key]| {
        use rustls::pki_types::pem::PemObject as _;
        use rustls::pki_types::{CertificateDer, PrivateKeyDer};
        let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<_, _>>()?;
        let key = PrivateKeyDer::from_pem_file(key)?;
        let mut config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        anyhow::Ok(tokio_rustls::TlsAcceptor::from(Arc::new(config)))
    });
    let acceptor = acceptor.transpose()?;
    let outlets: Outlets = Arc::default();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
    let address = listener.local_addr()?;
    let outlet = Outlet(Arc::clone(&outlets));
    let accepting = async move {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let (socket, _) = listener.accept().await?;
            socket.set_nodelay(true)?;
            let (acceptor, outlet) = (acceptor.clone(), outlet.clone());
            connections.spawn(async move {
                match acceptor {
                    None => speak(TokioIo::new(socket), outlet).await,
                    Some(acceptor) => {
                        if let Ok(stream) = acceptor.accept(socket).await {
                            speak(TokioIo::new(stream), outlet).await;
                        }
                    }
                }
            });
        }
        #[expect(unreachable_code, reason = "names the type of the error")]
        io::Result::Ok(())
    };
    let _accepting = runtime.spawn(accepting);
    let scheme = if setup.tls { "https" } else { "http" };
    let openings = (0..setup.streams).map(|_| Opening {
        bearer: "Bearer nobody".into(),
        watch: Vec::new(),
    });
    let ready = Ready {
        url: format!("{scheme}://{address}"),
        ca: files.map(|[certificate, _]| certificate),
        openings: openings.collect(),
    };
    // Encoded once, and never again.
    let message = |people: usize| {
        let presence = v1::Presence {
            upn: "given.family.1234@contoso.example".into(),
            availability: 3,
            activity: 4,
            sequence: 12_345_678,
            confirmed_at: Some(prost_types::Timestamp {
                seconds: 1_800_000_000,
                nanos: 123_000_000,
            }),
            changed_at: Some(prost_types::Timestamp {
                seconds: 1_800_000_000,
                nanos: 123_000_000,
            }),
            ..v1::Presence::default()
        };
        let presences = v1::Presences {
            kind: v1::PresencesKind::Change as i32,
            presences: vec![presence; people],
            snapshot_complete: false,
            position: Some(v1::Position {
                epoch: 1,
                sequence: 12_345_678,
            }),
        };
        let response = v1::watch_response::Response::Presences(presences);
        let message = v1::WatchResponse {
            response: Some(response),
        };
        Bytes::from(message.encode_to_vec())
    };
    let (one, many) = (message(1), message(256));
    let concerned: Vec<Vec<usize>> = (0..setup.people)
        .map(|person| setup.watchers(person))
        .collect();
    let mut turns = Turns {
        people: setup.people,
        next: 0,
    };
    play(&ready, |drive| {
        let outlets = outlets
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone();
        match drive {
            Drive::Answers {
                answers,
                apart_us,
                changes,
            } => Ok(runtime.block_on(paced(answers, apart_us, async |_| {
                for (person, _) in turns.next(changes) {
                    for stream in &concerned[person] {
                        let _ = outlets[*stream].send(Ok(one.clone())).await;
                    }
                }
            }))),
            Drive::Flood { seconds } => {
                let until = now_us() + seconds * 1_000_000;
                runtime.block_on(async {
                    while now_us() < until {
                        for outlet in &outlets {
                            let _ = outlet.send(Ok(many.clone())).await;
                        }
                    }
                });
                Ok(Driven { at_us: Vec::new() })
            }
        }
    })
}

async fn speak<I>(io: I, outlet: Outlet)
where
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let service = hyper::service::service_fn(move |request| {
        let outlet = outlet.clone();
        async move {
            let mut grpc = tonic::server::Grpc::new(AsIs);
            Ok::<_, std::convert::Infallible>(grpc.streaming(outlet, request).await)
        }
    });
    let http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let _ = http.serve_connection(io, service).await;
}
