//! The whole product in one process on loopback: simulated Microsoft, the real cloud, real agents. The demo, the tests and the
//! load bench are built on it; there is no second way to put the product together.
//!
//! Everything lives in one folder, as an operator would have it: configuration, secret files, database, a folder per suite.

pub mod demo;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::AbortOnDropHandle;
use url::Url;
use uuid::Uuid;

use crate::agent::connection::CloudAddress;
use crate::agent::identity::{Enrolment, Identity, IdentityError};
use crate::agent::uplink::{Uplink, UplinkHandle, UplinkSettings};
use crate::agent::view::Event;
use crate::clock::Clock;
use crate::cloud::admin::{self, ConnectError, ConnectTenant, DEFAULT_MAX_WATCHED, NewCredential};
use crate::cloud::operators::password::{self, PasswordError};
use crate::cloud::store::{Actor, ConnectionKind, Store, StoreError};
use crate::cloud::{self, BuildError, Cloud, CloudView, Parts};
use crate::config::cloud::CloudConfig;
use crate::config::load::ConfigError;
use crate::microsoft::HttpTransport;
use crate::microsoft::transport::RouterTransport;
use crate::model::TenantId;
use crate::secret::{KeyRing, SealError, Secret, random_token};
use crate::simulator::{AppRegistration, Life, Microsoft, Options, Tenant, TenantSpec};
use crate::supervise::TaskDied;

/// What the simulated Microsoft lets an organisation connection do.
const APPLICATION_PERMISSIONS: &[&str] = &["Presence.Read.All", "User.ReadBasic.All"];

/// What it lets a service account do.
const DELEGATED_PERMISSIONS: &[&str] =
    &["Presence.Read.All", "User.ReadBasic.All", "offline_access"];

/// Ports tried until one is free.
const PORTS_TRIED: u32 = 50;

/// Why a world could not be put together.
#[derive(Debug, thiserror::Error)]
pub enum WorldError {
    /// A file or a port.
    #[error("{0}")]
    Io(String, #[source] std::io::Error),
    /// The configuration that was written.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The cloud.
    #[error("the cloud cannot be started")]
    Build(#[from] BuildError),
    /// The key-encryption key.
    #[error(transparent)]
    Key(#[from] SealError),
    /// The operators' password.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A tenant.
    #[error("a tenant could not be connected")]
    Connect(#[from] ConnectError),
    /// A suite.
    #[error("a suite could not be enrolled")]
    Enrol(#[from] IdentityError),
    /// No such tenant.
    #[error("there is no such tenant")]
    NoTenant,
}

fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> WorldError {
    let what = what.into();
    move |e| WorldError::Io(what, e)
}

/// How a world is made.
#[derive(Debug, Clone)]
pub struct WorldSettings {
    /// Whether people move by themselves, limits, and what the references mark UNVERIFIED.
    pub microsoft: Options,
    /// Time between two readings.
    pub interval: Duration,
    /// The time of everything in it.
    pub clock: Clock,
    /// The cloud reaches the simulated Microsoft by calling it, without a socket: for tests that move time by hand.
    pub in_process: bool,
    /// Further lines of the cloud's configuration, by section, for example `("poll", "share = 1.0")`.
    pub cloud_keys: Vec<(&'static str, String)>,
    /// With which password operators sign in to their pages; `None`: nobody does.
    pub operators_password: Option<Secret>,
}

impl Default for WorldSettings {
    fn default() -> Self {
        Self {
            microsoft: Options {
                life: Life::Explicit,
                ..Options::default()
            },
            interval: Duration::from_secs(5),
            clock: Clock::system(),
            in_process: false,
            cloud_keys: Vec::new(),
            operators_password: None,
        }
    }
}

/// A running cloud.
pub struct RunningCloud {
    view: CloudView,
    address: SocketAddr,
    stop: CancellationToken,
    work: JoinHandle<Result<(), TaskDied>>,
}

/// A running suite.
pub struct Suite {
    /// What it knows, and its watch list.
    pub handle: UplinkHandle,
    /// What happens.
    pub events: mpsc::Receiver<Event>,
    _stop: DropGuard,
    _work: AbortOnDropHandle<()>,
}

/// The whole product in one process.
pub struct World {
    /// The simulated Microsoft.
    pub microsoft: Microsoft,
    /// The time of everything in it.
    pub clock: Clock,
    in_process: bool,
    microsoft_url: Url,
    folder: PathBuf,
    client_id: Uuid,
    cloud: Option<RunningCloud>,
    /// The ports of the cloud, the same after a restart.
    grpc: SocketAddr,
    web: SocketAddr,
    operators: SocketAddr,
    _microsoft_stop: DropGuard,
    _microsoft_work: AbortOnDropHandle<()>,
}

impl World {
    /// Starts the simulated Microsoft and the cloud on free ports, with everything in `folder`.
    pub async fn start(folder: &Path, settings: WorldSettings) -> Result<Self, WorldError> {
        let microsoft = Microsoft::new(settings.microsoft.clone(), settings.clock.clone());
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .map_err(io("no free port"))?;
        let address = listener.local_addr().map_err(io("no free port"))?;
        let microsoft_url =
            Url::parse(&format!("http://{address}")).expect("an address makes a URL");
        let stop = CancellationToken::new();
        let serving = microsoft.clone().serve(listener, stop.clone());
        #[expect(
            clippy::disallowed_methods,
            reason = "kept and ended by the world that is returned"
        )]
        let work = tokio::spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(%error, "the simulated Microsoft has stopped");
            }
        });
        let client_id = Uuid::new_v4();
        let secret = random_token();
        std::fs::create_dir_all(folder)
            .map_err(io(format!("cannot create {}", folder.display())))?;
        let folder = std::path::absolute(folder).map_err(io("cannot find the folder"))?;
        write_private(&folder.join("client-secret"), &secret)?;
        if let Some(password) = &settings.operators_password {
            let hash = password::hash(password)?;
            write_private(&folder.join("operators-password"), &hash)?;
        }
        KeyRing::create(&folder.join("key"))?;
        let mut world = Self {
            microsoft,
            clock: settings.clock.clone(),
            in_process: settings.in_process,
            microsoft_url,
            folder,
            client_id,
            cloud: None,
            grpc: SocketAddr::from(([127, 0, 0, 1], 0)),
            web: SocketAddr::from(([127, 0, 0, 1], 0)),
            operators: SocketAddr::from(([127, 0, 0, 1], 0)),
            _microsoft_stop: stop.drop_guard(),
            _microsoft_work: AbortOnDropHandle::new(work),
        };
        // A port that stays the same, so that a restarted cloud is where its suites look for it; somebody may be quicker to take it.
        for attempt in 1.. {
            world.grpc = free_port().await.map_err(io("no free port"))?;
            world.web = free_port().await.map_err(io("no free port"))?;
            world.operators = free_port().await.map_err(io("no free port"))?;
            world.microsoft.register_app(AppRegistration {
                client_id,
                secrets: vec![secret.clone()],
                redirect_uris: vec![format!("http://{}/callback", world.web)],
                ..AppRegistration::default()
            });
            let text = world.cloud_toml(&settings);
            std::fs::write(world.folder.join("cloud.toml"), text)
                .map_err(io("cannot write cloud.toml"))?;
            match world.start_cloud().await {
                Err(WorldError::Build(BuildError::Listen(..))) if attempt < PORTS_TRIED => {}
                started => {
                    started?;
                    break;
                }
            }
        }
        Ok(world)
    }

    /// Where everything is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the simulated Microsoft is.
    pub fn microsoft_url(&self) -> &Url {
        &self.microsoft_url
    }

    /// Where suites connect.
    pub fn grpc_address(&self) -> SocketAddr {
        self.grpc
    }

    /// Where browsers connect: the first page of the onboarding.
    pub fn web_url(&self) -> Url {
        Url::parse(&format!("http://{}", self.web)).expect("an address makes a URL")
    }

    /// Where operators' browsers, the command line and probes connect.
    pub fn operators_url(&self) -> Url {
        Url::parse(&format!("http://{}", self.operators)).expect("an address makes a URL")
    }

    /// Client id of the cloud's application.
    pub fn client_id(&self) -> Uuid {
        self.client_id
    }

    /// The configuration of the cloud.
    pub fn config(&self) -> Result<CloudConfig, WorldError> {
        Ok(CloudConfig::read(&self.folder.join("cloud.toml"))?)
    }

    /// Starts the cloud, if it does not run.
    pub async fn start_cloud(&mut self) -> Result<(), WorldError> {
        if self.cloud.is_some() {
            return Ok(());
        }
        let cloud = Cloud::build(
            self.config()?,
            Parts {
                clock: self.clock.clone(),
                transport: self.in_process.then(|| self.call_in_process()),
                ..Parts::default()
            },
        )
        .await?;
        let (view, address, stop) = (cloud.view(), cloud.grpc_address(), CancellationToken::new());
        #[expect(clippy::disallowed_methods, reason = "kept and ended by the world")]
        let work = tokio::spawn(cloud.run(stop.clone()));
        self.cloud = Some(RunningCloud {
            view,
            address,
            stop,
            work,
        });
        Ok(())
    }

    fn call_in_process(&self) -> Arc<dyn HttpTransport> {
        Arc::new(RouterTransport(self.microsoft.router()))
    }

    /// Stops the cloud in an orderly way.
    pub async fn stop_cloud(&mut self) {
        if let Some(cloud) = self.cloud.take() {
            cloud.stop.cancel();
            let _ = cloud.work.await;
        }
    }

    /// Figures of the cloud while it runs.
    pub fn cloud(&self) -> Option<&CloudView> {
        self.cloud.as_ref().map(|cloud| &cloud.view)
    }

    /// Waits until the cloud has ended by itself, which it must not.
    pub async fn cloud_died(&mut self) -> String {
        match &mut self.cloud {
            Some(RunningCloud { work, address, .. }) => match work.await {
                Ok(Ok(())) => format!("the cloud at {address} has ended"),
                Ok(Err(died)) => died.to_string(),
                Err(e) => e.to_string(),
            },
            None => std::future::pending().await,
        }
    }

    /// A store of one's own, as the operator's command line has.
    pub async fn store(&self) -> Result<Store, WorldError> {
        Ok(Store::open_beside(&self.folder.join("cloud.db"), &self.clock).await?)
    }

    /// Adds a tenant to the simulated Microsoft, consents, and connects it to the cloud.
    pub async fn add_tenant(
        &self,
        spec: TenantSpec,
        kind: ConnectionKind,
    ) -> Result<Tenant, WorldError> {
        let tenant = self.microsoft.add_tenant(spec);
        self.connect(&tenant, kind).await?;
        Ok(tenant)
    }

    /// Consents and connects a tenant of the simulated Microsoft to the cloud, or connects it anew.
    pub async fn connect(&self, tenant: &Tenant, kind: ConnectionKind) -> Result<(), WorldError> {
        tenant.grant_consent(
            self.client_id,
            APPLICATION_PERMISSIONS,
            DELEGATED_PERMISSIONS,
        );
        let credential = match kind {
            ConnectionKind::Organisation => NewCredential::Organisation,
            ConnectionKind::ServiceAccount => {
                let account = tenant
                    .people()
                    .first()
                    .map(|p| p.upn.clone())
                    .ok_or(WorldError::NoTenant)?;
                NewCredential::ServiceAccount(Secret::new(
                    tenant.mint_refresh_token(self.client_id, &account),
                ))
            }
        };
        let (config, clock) = (self.config()?, self.clock.clone());
        let transport = if self.in_process {
            self.call_in_process()
        } else {
            cloud::transport(&config)?
        };
        let entra = cloud::entra(&config, transport, clock.clone())?;
        let keys = KeyRing::read(&config.key_file)?;
        let request = ConnectTenant {
            tenant: tenant.domain().to_owned(),
            name: tenant.domain().to_owned(),
            credential,
            max_watched: DEFAULT_MAX_WATCHED,
            share_status_message: false,
            share_work_location: false,
            verify: true,
        };
        let store = self.store().await?;
        admin::connect_tenant(&store, &keys, &entra, &clock, &Actor::Service, request).await?;
        store.close().await;
        Ok(())
    }

    /// A one-time enrolment code.
    pub async fn invite(&self, tenant: TenantId) -> Result<Secret, WorldError> {
        let store = self.store().await?;
        let invited = admin::invite_suite(
            &store,
            &self.clock,
            &Actor::Service,
            tenant,
            Duration::from_hours(1),
        )
        .await?;
        store.close().await;
        invited.map(|(code, _)| code).ok_or(WorldError::NoTenant)
    }

    /// Enrols a suite.
    pub async fn enroll(&self, tenant: TenantId, name: &str) -> Result<Identity, WorldError> {
        let listener = self.config()?.grpc;
        let url = format!("{}://{}", listener.scheme(), self.grpc);
        let enrolment = Enrolment {
            cloud: CloudAddress {
                url: Url::parse(&url).expect("an address makes a URL"),
                ca_file: listener.tls.map(|tls| tls.certificate),
            },
            code: self.invite(tenant).await?,
            suite_name: name.into(),
            state: self.folder.join(name),
            replace: false,
        };
        Ok(Identity::enroll(enrolment, &self.clock).await?)
    }

    /// Runs a suite that watches these people. It reconnects quickly.
    pub fn run_suite(&self, identity: Identity, upns: Vec<String>) -> Suite {
        let settings = UplinkSettings {
            backoff: (Duration::from_millis(100), Duration::from_secs(2)),
        };
        let (uplink, events) = Uplink::new(
            identity,
            upns,
            self.clock.clone(),
            settings,
            fastrand::u64(..),
        );
        let (handle, stop) = (uplink.handle(), CancellationToken::new());
        let work = uplink.run(stop.clone());
        #[expect(
            clippy::disallowed_methods,
            reason = "kept and ended by the suite that is returned"
        )]
        let work = tokio::spawn(async move {
            if let Err(why) = work.await {
                tracing::warn!(%why, "a suite has given up");
            }
        });
        Suite {
            handle,
            events,
            _stop: stop.drop_guard(),
            _work: AbortOnDropHandle::new(work),
        }
    }

    /// Enrols and runs a suite.
    pub async fn suite(
        &self,
        tenant: &Tenant,
        name: &str,
        upns: Vec<String>,
    ) -> Result<Suite, WorldError> {
        Ok(self.run_suite(self.enroll(tenant.id(), name).await?, upns))
    }
}

/// A port of loopback that nobody uses now, outside of the range from which the system takes ports for outgoing connections.
async fn free_port() -> std::io::Result<SocketAddr> {
    let mut last = None;
    for _ in 0..PORTS_TRIED {
        let address = SocketAddr::from(([127, 0, 0, 1], fastrand::u16(20_000..32_000)));
        match TcpListener::bind(address).await {
            Ok(_) => return Ok(address),
            Err(e) => last = Some(e),
        }
    }
    Err(last.unwrap_or_else(|| std::io::ErrorKind::AddrInUse.into()))
}

fn write_private(path: &Path, text: &str) -> Result<(), WorldError> {
    use std::io::Write as _;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(io(format!("cannot write {}", path.display())))
}

impl World {
    fn cloud_toml(&self, settings: &WorldSettings) -> String {
        let (microsoft, client_id) = (&self.microsoft_url, self.client_id);
        let (grpc, web, operators) = (self.grpc, self.web, self.operators);
        let interval = settings.interval.as_millis();
        let mut sections = vec![
            (
                "microsoft",
                format!(
                    "login_url = \"{microsoft}\"\ngraph_url = \"{microsoft}\"\nclient_id = \"{client_id}\"\n\
                 client_secret_file = \"client-secret\"\n"
                ),
            ),
            (
                "store",
                "database_file = \"cloud.db\"\nkey_file = \"key\"\n".into(),
            ),
            ("grpc", format!("listen = \"{grpc}\"\n")),
            ("web", format!("listen = \"{web}\"\n")),
            (
                "operators",
                match settings.operators_password {
                    Some(_) => format!(
                        "listen = \"{operators}\"\npassword_file = \"operators-password\"\n"
                    ),
                    None => format!("listen = \"{operators}\"\n"),
                },
            ),
            ("poll", format!("interval = \"{interval}ms\"\n")),
            ("streams", "reconnect_spread = \"0ms\"\n".into()),
        ];
        for (section, line) in &settings.cloud_keys {
            match sections.iter_mut().find(|(name, _)| name == section) {
                Some((_, lines)) => *lines = format!("{lines}{line}\n"),
                None => sections.push((section, format!("{line}\n"))),
            }
        }
        sections
            .iter()
            .map(|(name, lines)| format!("[{name}]\n{lines}\n"))
            .collect::<Vec<_>>()
            .concat()
    }
}
