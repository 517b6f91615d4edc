//! The whole product in one process on loopback: simulated Microsoft, the real cloud, real agents. The demo, the tests and the
//! load bench are built on it; there is no second way to put the product together.
//!
//! Everything lives in one folder, as an operator would have it: configuration, secret files, database, a folder per suite.

pub mod demo;
pub mod load;
pub mod process;
mod program;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
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
use crate::config::cloud::{CloudConfig, CredentialFiles};
use crate::config::load::ConfigError;
use crate::microsoft::HttpTransport;
use crate::microsoft::transport::RouterTransport;
use crate::model::TenantId;
use crate::secret::{KeyRing, SealError, Secret, random_token, read_secret_file};
use crate::simulator::{AppRegistration, Life, Microsoft, Options, Tenant, TenantSpec};
use crate::supervise::TaskDied;
use program::Program;

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
    /// presence-cloud, as a process of its own.
    #[error("presence-cloud did not start: {0}")]
    Ended(String),
    /// A folder or a presence-cloud that cannot be used for this.
    #[error("{0}")]
    Unusable(String),
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
    /// The cloud is this program, in a process of its own; `None`: it runs in this one.
    pub program: Option<PathBuf>,
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
            program: None,
            operators_password: None,
        }
    }
}

/// A running cloud.
enum RunningCloud {
    /// In this process.
    Here {
        view: CloudView,
        address: SocketAddr,
        stop: CancellationToken,
        work: JoinHandle<Result<(), TaskDied>>,
    },
    /// In a process of its own.
    Program(Program),
    /// Somebody else runs it.
    Elsewhere,
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
    program: Option<PathBuf>,
    microsoft_url: Url,
    folder: PathBuf,
    config_file: PathBuf,
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
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .map_err(io("no free port"))?;
        let (microsoft, microsoft_url, stop, work) = serve_microsoft(&settings, listener)?;
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
            program: settings.program.clone(),
            microsoft_url,
            config_file: folder.join("cloud.toml"),
            folder,
            client_id,
            cloud: None,
            grpc: SocketAddr::from(([127, 0, 0, 1], 0)),
            web: SocketAddr::from(([127, 0, 0, 1], 0)),
            operators: SocketAddr::from(([127, 0, 0, 1], 0)),
            _microsoft_stop: stop,
            _microsoft_work: work,
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
            std::fs::write(&world.config_file, text).map_err(io("cannot write cloud.toml"))?;
            match world.start_cloud().await {
                Err(WorldError::Build(BuildError::Listen(..))) if attempt < PORTS_TRIED => {}
                Err(WorldError::Ended(why))
                    if why.contains("cannot listen") && attempt < PORTS_TRIED => {}
                started => {
                    started?;
                    break;
                }
            }
        }
        Ok(world)
    }

    /// Puts a simulated Microsoft and suites around a presence-cloud that runs already, with this configuration. It must have been
    /// made for that: its Microsoft is at an address of this machine that is free. Suites keep what is theirs in `folder`.
    pub async fn around(
        config_file: &Path,
        folder: &Path,
        settings: WorldSettings,
    ) -> Result<Self, WorldError> {
        let config = CloudConfig::read(config_file)?;
        let url = config.login_url.clone();
        if url.scheme() != "http" || config.graph_url != url {
            return Err(WorldError::Unusable(format!(
                "the Microsoft of this presence-cloud is not a simulated one; in [microsoft] of {} write login_url and graph_url as one address such as \
                 http://127.0.0.1:8900",
                config_file.display()
            )));
        }
        let at = url.socket_addrs(|| None).map_err(io("its Microsoft"))?;
        let listener = TcpListener::bind(&at[..]).await.map_err(io(format!(
            "cannot be Microsoft at {url}, where this presence-cloud expects it; stop what listens there"
        )))?;
        TcpStream::connect(config.grpc.listen)
            .await
            .map_err(io(format!(
                "nothing listens at {}; start it: presence-cloud --config {} serve",
                config.grpc.listen,
                config_file.display()
            )))?;
        let mut app = AppRegistration {
            client_id: config.client_id,
            ..AppRegistration::default()
        };
        for credential in &config.credentials {
            match credential {
                CredentialFiles::Secret { file, .. } => {
                    let secret = read_secret_file(file).map_err(BuildError::Credential)?;
                    app.secrets.push(secret.expose().to_owned());
                }
                CredentialFiles::Certificate { certificate, .. } => {
                    let pem = std::fs::read_to_string(certificate)
                        .map_err(io(format!("cannot read {}", certificate.display())))?;
                    app.certificates_pem.push(pem);
                }
            }
        }
        let (microsoft, microsoft_url, stop, work) = serve_microsoft(&settings, listener)?;
        microsoft.register_app(app);
        std::fs::create_dir_all(folder)
            .map_err(io(format!("cannot create {}", folder.display())))?;
        Ok(Self {
            microsoft,
            clock: settings.clock.clone(),
            in_process: false,
            program: None,
            microsoft_url,
            folder: std::path::absolute(folder).map_err(io("cannot find the folder"))?,
            config_file: config_file.to_owned(),
            client_id: config.client_id,
            cloud: Some(RunningCloud::Elsewhere),
            grpc: config.grpc.listen,
            web: config
                .web
                .as_ref()
                .map_or(config.grpc.listen, |web| web.listener.listen),
            operators: config.operators.listener.listen,
            _microsoft_stop: stop,
            _microsoft_work: work,
        })
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
        Ok(CloudConfig::read(&self.config_file)?)
    }

    /// Starts the cloud, if it does not run.
    pub async fn start_cloud(&mut self) -> Result<(), WorldError> {
        if self.cloud.is_some() {
            return Ok(());
        }
        self.cloud = Some(match &self.program {
            Some(program) => {
                let log = self.folder.join("cloud.log");
                let url = self.operators_url();
                RunningCloud::Program(Program::serve(program, &self.config_file, &log, &url).await?)
            }
            None => self.build_here().await?,
        });
        Ok(())
    }

    async fn build_here(&self) -> Result<RunningCloud, WorldError> {
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
        Ok(RunningCloud::Here {
            view,
            address,
            stop,
            work,
        })
    }

    fn call_in_process(&self) -> Arc<dyn HttpTransport> {
        Arc::new(RouterTransport(self.microsoft.router()))
    }

    /// Stops the cloud: in an orderly way if it is in this process. One that somebody else runs goes on.
    pub async fn stop_cloud(&mut self) {
        if let Some(RunningCloud::Here { stop, work, .. }) = self.cloud.take() {
            stop.cancel();
            let _ = work.await;
        }
    }

    /// Figures of the cloud while it runs in this process.
    pub fn cloud(&self) -> Option<&CloudView> {
        match &self.cloud {
            Some(RunningCloud::Here { view, .. }) => Some(view),
            _ => None,
        }
    }

    /// The process id of the cloud, if it was started as a program.
    pub fn cloud_pid(&self) -> Option<u32> {
        match &self.cloud {
            Some(RunningCloud::Program(program)) => Some(program.pid()),
            _ => None,
        }
    }

    /// Waits until the cloud has ended by itself, which it must not.
    pub async fn cloud_died(&mut self) -> String {
        match &mut self.cloud {
            Some(RunningCloud::Here { work, address, .. }) => match work.await {
                Ok(Ok(())) => format!("the cloud at {address} has ended"),
                Ok(Err(died)) => died.to_string(),
                Err(e) => e.to_string(),
            },
            Some(RunningCloud::Program(program)) => program.died().await,
            Some(RunningCloud::Elsewhere) | None => std::future::pending().await,
        }
    }

    /// A store of one's own, as the operator's command line has.
    pub async fn store(&self) -> Result<Store, WorldError> {
        Ok(Store::open_beside(&self.config()?.database, &self.clock).await?)
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
        let people = u32::try_from(tenant.people().len()).unwrap_or(u32::MAX);
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
            max_watched: DEFAULT_MAX_WATCHED.max(people),
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
        let config = self.config()?;
        let enrolment = Enrolment {
            cloud: CloudAddress {
                url: config.grpc_public_url,
                ca_file: config.grpc.tls.map(|tls| tls.certificate),
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

/// A folder for everything: a temporary one that is removed in the end, or one that is kept.
struct Folder {
    path: PathBuf,
    kept: bool,
}

impl Folder {
    fn new(what: &str, keep: Option<PathBuf>) -> Result<Self, WorldError> {
        if let Some(path) = keep {
            let used = std::fs::read_dir(&path).is_ok_and(|mut files| files.next().is_some());
            if used {
                return Err(WorldError::Unusable(format!(
                    "{} is not empty; name another folder",
                    path.display()
                )));
            }
            return Ok(Self { path, kept: true });
        }
        let name = format!("presence-{what}-{}", &random_token()[..8]);
        let path = std::env::temp_dir().join(name);
        let mut builder = std::fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder
            .create(&path)
            .map_err(io("cannot make a temporary folder"))?;
        Ok(Self { path, kept: false })
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.kept {
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// A simulated Microsoft on this listener: itself, its address, and what ends it.
fn serve_microsoft(
    settings: &WorldSettings,
    listener: TcpListener,
) -> Result<(Microsoft, Url, DropGuard, AbortOnDropHandle<()>), WorldError> {
    let microsoft = Microsoft::new(settings.microsoft.clone(), settings.clock.clone());
    let address = listener.local_addr().map_err(io("no free port"))?;
    let url = Url::parse(&format!("http://{address}")).expect("an address makes a URL");
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
    Ok((
        microsoft,
        url,
        stop.drop_guard(),
        AbortOnDropHandle::new(work),
    ))
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
