//! The multi-tenant service: [`Cloud::build`] puts the parts together and binds, [`Cloud::run`] serves until told to stop.
//!
//! Modules in the order in which presence flows: [`poller`] → [`state`] → [`hub`] → [`rpc`]; [`directory`] is what interest makes of
//! it on its way back.

pub mod admin;
pub mod alerts;
pub mod backup;
pub mod directory;
pub mod health;
pub mod hub;
pub mod keeper;
pub mod keys;
pub mod listener;
pub mod lookout;
pub mod mail;
pub mod metrics;
pub mod onboarding;
pub mod operations;
pub mod operators;
pub mod poller;
pub mod pulse;
pub mod requests;
pub mod rpc;
pub mod state;
pub mod store;
pub mod tenants;
pub mod tokens;
pub mod web;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::alerts::{WayConfig, WebhookUrl, webhook_url};
use crate::config::cloud::{CloudConfig, CredentialFiles, WebConfig};
use crate::config::listeners::ListenerConfig;
use crate::microsoft::entra::EntraSetupError;
use crate::microsoft::transport::TransportSetupError;
use crate::microsoft::{AppCredential, Credential, Entra, Graph, HttpTransport, ReqwestTransport};
use crate::secret::{KeyRing, ReadSecretError, SealError, read_secret_file};
use crate::supervise::{Supervisor, TaskDied};
use alerts::Alerts;
use alerts::receivers::Receiver;
use keeper::Keeper;
use listener::{Noticed, Settings, Tls, TlsSetupError};
use mail::{MailSetupError, Mailer};
use metrics::exposition::Exposition;
use metrics::{Metered, Metrics};
use onboarding::Onboardings;
use operations::{Messenger, Operations};
use operators::Operators;
use operators::probes::Probes;
use poller::TenantFigures;
use pulse::{LATE, LATE_WITH_STORE, Pulse};
use rpc::Api;
use rpc::auth::Authenticator;
use store::{Store, StoreError};
use tenants::Tenants;
use tokens::Tokens;
use web::Web;

/// After being told to stop, streams have this long to say good-bye before the connections are closed.
const GOOD_BYE: Duration = Duration::from_secs(5);

/// Everything has ended this long after being told to stop, or is cut off.
const GRACE: Duration = Duration::from_secs(20);

/// Why the service cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The database.
    #[error("the database cannot be used")]
    Store(#[from] StoreError),
    /// The key-encryption key.
    #[error("the key-encryption key cannot be used")]
    Key(#[source] SealError),
    /// A file of the application's credential.
    #[error("the credential of the application cannot be read")]
    Credential(#[from] ReadSecretError),
    /// A file that is not secret.
    #[error("cannot read {0}")]
    File(String, #[source] std::io::Error),
    /// The client of Microsoft.
    #[error("the connection to Microsoft cannot be set up")]
    Transport(#[from] TransportSetupError),
    /// The client of Entra.
    #[error("the credential of the application cannot be used")]
    Entra(#[from] EntraSetupError),
    /// One of the application's certificates.
    #[error("the credential of the application in {0} cannot be used")]
    Certificate(String, #[source] EntraSetupError),
    /// The operators' password.
    #[error("operators could not sign in")]
    Operators(#[from] operators::oidc::OperatorsError),
    /// One who is to be told about alerts.
    #[error("the receiver of alerts \"{0}\" cannot be used: {1}")]
    Receiver(String, String),
    /// The mail server.
    #[error("mail cannot be sent")]
    Mail(#[from] MailSetupError),
    /// TLS of a listener.
    #[error("TLS of a listener cannot be set up")]
    Tls(#[from] TlsSetupError),
    /// A listener: its section of the configuration, and where.
    #[error("cannot listen on {1}, the address in [{0}]")]
    Listen(&'static str, SocketAddr, #[source] std::io::Error),
}

/// What is injected: time, randomness, outside HTTP. Design decision 15.
pub struct Parts {
    /// Tells the time.
    pub clock: Clock,
    /// Seeds all jitter.
    pub seed: u64,
    /// Reaches Microsoft; `None` for the network.
    pub transport: Option<Arc<dyn HttpTransport>>,
}

impl Default for Parts {
    fn default() -> Self {
        Self {
            clock: Clock::system(),
            seed: fastrand::u64(..),
            transport: None,
        }
    }
}

/// The service, bound and ready.
pub struct Cloud {
    suites: Bound,
    pages: Option<Pages>,
    operators: Operating,
    store: Store,
    tenants: Arc<Tenants>,
    auth: Arc<Authenticator>,
    api: Arc<Api>,
    keeper: Keeper,
    alerts: Arc<Alerts>,
    supervisor: Supervisor,
    exposition: Arc<Exposition>,
    pulse: Arc<Pulse>,
    clock: Clock,
    config: CloudConfig,
}

/// The web pages, bound.
struct Pages {
    web: Arc<Web>,
    bound: Bound,
}

/// The operators' listener, bound.
struct Operating {
    operators: Arc<Operators>,
    bound: Bound,
}

/// A look into the running service.
#[derive(Clone)]
pub struct CloudView {
    tenants: Arc<Tenants>,
    operations: Arc<Operations>,
    exposition: Arc<Exposition>,
}

impl CloudView {
    /// Figures of every tenant that is being served.
    pub fn figures(&self) -> Vec<(crate::model::TenantId, TenantFigures)> {
        self.tenants
            .all()
            .iter()
            .map(|tenant| (tenant.id(), tenant.figures()))
            .collect()
    }

    /// A tenant that is being served.
    pub fn tenant(&self, id: crate::model::TenantId) -> Option<Arc<poller::Tenant>> {
        self.tenants.all().into_iter().find(|one| one.id() == id)
    }

    /// What operators see and do.
    pub fn operations(&self) -> &Operations {
        &self.operations
    }

    /// What monitoring reads.
    pub fn metrics(&self) -> String {
        self.exposition.render()
    }

    /// What is held in memory about a tenant.
    pub fn remembered(&self, tenant: crate::model::TenantId) -> tenants::Remembered {
        self.tenants.remembered(tenant)
    }
}

/// Reaches Microsoft over the network as configured.
pub fn transport(config: &CloudConfig) -> Result<Arc<dyn HttpTransport>, BuildError> {
    let roots = config
        .extra_roots
        .as_ref()
        .map(|path| {
            std::fs::read(path).map_err(|e| BuildError::File(path.display().to_string(), e))
        })
        .transpose()?;
    let allowed = [config.login_url.clone(), config.graph_url.clone()];
    Ok(Arc::new(ReqwestTransport::new(&allowed, roots.as_deref())?))
}

/// The client of Entra as configured.
pub fn entra(
    config: &CloudConfig,
    transport: Arc<dyn HttpTransport>,
    clock: Clock,
) -> Result<Entra, BuildError> {
    let credentials = config
        .credentials
        .iter()
        .map(credential)
        .collect::<Result<Vec<_>, BuildError>>()?;
    let (login, graph) = (config.login_url.clone(), config.graph_url.clone());
    Ok(Entra::with_credentials(
        transport,
        login,
        graph,
        config.client_id,
        credentials,
        clock,
    )?)
}

fn credential(files: &CredentialFiles) -> Result<Credential, BuildError> {
    let (name, credential, ends) = match files {
        CredentialFiles::Secret { file, ends } => {
            (file, AppCredential::Secret(read_secret_file(file)?), *ends)
        }
        CredentialFiles::Certificate {
            certificate,
            private_key,
        } => (
            certificate,
            AppCredential::Certificate {
                certificate_pem: std::fs::read_to_string(certificate)
                    .map_err(|e| BuildError::File(certificate.display().to_string(), e))?,
                private_key_pem: read_secret_file(private_key)?,
            },
            None,
        ),
    };
    Credential::new(credential, ends)
        .map_err(|e| BuildError::Certificate(name.display().to_string(), e))
}

/// Those who are told about alerts, as configured.
pub fn receivers(
    config: &CloudConfig,
    mailer: Option<&Mailer>,
) -> Result<Vec<Receiver>, BuildError> {
    let pages = &config.operators.public_url;
    let mut receivers = Vec::new();
    for one in &config.receivers {
        let name = one.name.clone();
        let bad = |why: String| BuildError::Receiver(name.clone(), why);
        receivers.push(match &one.way {
            WayConfig::Webhook {
                url,
                secret,
                extra_roots,
            } => {
                let read = |file| read_secret_file(file).map_err(|e| bad(tokens::chain(&e)));
                let secret = read(secret)?;
                let url = match url {
                    WebhookUrl::Given(url) => url.clone(),
                    WebhookUrl::File(file) => read(file)?,
                };
                let address =
                    webhook_url(url.expose()).map_err(|why| bad(format!("its address {why}")))?;
                let roots = extra_roots.as_ref().map(|path| {
                    std::fs::read(path).map_err(|e| BuildError::File(path.display().to_string(), e))
                });
                let transport = ReqwestTransport::new(&[address], roots.transpose()?.as_deref())?;
                let (name, pages) = (name.clone(), pages.clone());
                let transport = Arc::new(transport);
                Receiver::webhook(name, one.least, transport, url, &secret, pages)
                    .map_err(|why| bad(why.into()))?
            }
            WayConfig::Mail { to } => {
                let mailer =
                    mailer.ok_or_else(|| bad("there is no mail server: [smtp] host".into()))?;
                let (name, pages) = (name.clone(), pages.clone());
                Receiver::mail(name, one.least, mailer.clone(), to.clone(), pages)
            }
        });
    }
    Ok(receivers)
}

/// A listener, bound.
struct Bound {
    /// Its name in labels.
    name: &'static str,
    socket: TcpListener,
    address: SocketAddr,
    tls: Option<Arc<Tls>>,
    config: ListenerConfig,
}

impl Bound {
    async fn new(name: &'static str, config: &ListenerConfig) -> Result<Self, BuildError> {
        let failed = |e| BuildError::Listen(name, config.listen, e);
        let tls = config.tls.as_ref().map(Tls::new).transpose()?;
        let socket = TcpListener::bind(config.listen).await.map_err(failed)?;
        let address = socket.local_addr().map_err(failed)?;
        Ok(Self {
            name,
            socket,
            address,
            tls: tls.map(Arc::new),
            config: config.clone(),
        })
    }

    /// Looks for new certificates for as long as it lives.
    fn renew_certificate(&self, supervisor: &Supervisor, metrics: &Metrics) {
        let Some(tls) = self.tls.clone() else { return };
        let (stopping, figures) = (supervisor.stopping(), metrics.certificate(self.name));
        supervisor.run("certificate of a listener", async move {
            stopping
                .run_until_cancelled(tls.look_for_ever(figures))
                .await;
        });
    }

    fn settings(&self) -> Settings {
        Settings::new(&self.config, self.tls.as_deref(), GOOD_BYE)
    }
}

impl Cloud {
    /// Puts the parts together and binds, so that the address is known before anything runs.
    pub async fn build(config: CloudConfig, parts: Parts) -> Result<Self, BuildError> {
        let Parts {
            clock,
            seed,
            transport: outside,
        } = parts;
        let outside = match outside {
            Some(outside) => outside,
            None => transport(&config)?,
        };
        let (metrics, pulse) = (Metrics::new(), Arc::new(Pulse::default()));
        let outside: Arc<dyn HttpTransport> = Arc::new(Metered::new(outside, Arc::clone(&metrics)));
        let entra = entra(&config, Arc::clone(&outside), clock.clone())?;
        let keys = Arc::new(KeyRing::read(&config.key_file).map_err(BuildError::Key)?);
        let store = Store::open_beside(&config.database, &clock)
            .await?
            .timed(metrics.store());
        let supervisor = Supervisor::new();
        let graph = Graph::new(outside, config.graph_url.clone());
        let onboardings = |web: &WebConfig| Onboardings {
            store: store.clone(),
            entra: entra.clone(),
            graph: graph.clone(),
            key: Arc::clone(&keys),
            clock: clock.clone(),
            redirect_uri: web.redirect_uri(),
            propagation: web.consent_propagation,
            roles_required: web.require_directory_roles,
        };
        let onboardings = config.web.as_ref().map(onboardings);
        let tokens = Tokens::new(
            store.clone(),
            Arc::clone(&keys),
            entra.clone(),
            clock.clone(),
            supervisor.clone(),
            seed,
            Arc::clone(&metrics),
        );
        let shared = poller::Shared::new(
            graph,
            tokens,
            clock.clone(),
            config.poll.clone(),
            Arc::clone(&metrics),
        );
        let tenants = Tenants::new(
            store.clone(),
            shared,
            clock.clone(),
            supervisor.clone(),
            seed,
        );
        let mailer = config.smtp.as_ref().map(Mailer::new).transpose()?;
        let alerts = Alerts::new(
            store.clone(),
            clock.clone(),
            Arc::clone(&tenants),
            entra.clone(),
            config.alerts,
            receivers(&config, mailer.as_ref())?,
            Arc::clone(&metrics),
        );
        let operations = Operations::new(
            store.clone(),
            clock.clone(),
            Some(entra.clone()),
            Some(Arc::clone(&tenants)),
            config.web.as_ref().map(|web| web.public_url.clone()),
            config.grpc_public_url.clone(),
            Some(Messenger {
                mailer,
                alerts: Arc::clone(&alerts),
                service_name: config.web.as_ref().map(|web| web.service_name.clone()),
            }),
        );
        let exposition = Arc::new(Exposition {
            metrics: Arc::clone(&metrics),
            tenants: Arc::clone(&tenants),
            entra: entra.clone(),
            store: store.clone(),
            clock: clock.clone(),
            interval: config.poll.interval,
            started_at: clock.now(),
            draining: CancellationToken::new(),
            refresh_tokens: Mutex::default(),
        });
        let keeper = Keeper::new(
            Arc::clone(&tenants),
            store.clone(),
            entra,
            clock.clone(),
            pulse.of("keeper", LATE_WITH_STORE),
        );
        let auth = Authenticator::new(store.clone(), clock.clone(), config.audience.clone());
        let api = Api::new(
            Arc::clone(&tenants),
            Arc::clone(&auth),
            store.clone(),
            clock.clone(),
            supervisor.clone(),
            config.streams.clone(),
            Arc::clone(&metrics),
        );
        let suites = Bound::new("grpc", &config.grpc).await?;
        let pages = match (&config.web, onboardings) {
            (Some(settings), Some(onboardings)) => {
                let bound = Bound::new("web", &settings.listener).await?;
                let web = Web::new(
                    settings.clone(),
                    config.grpc_public_url.clone(),
                    config.client_id,
                    &config.login_url,
                    onboardings,
                    Arc::clone(&tenants),
                    Arc::clone(&metrics),
                );
                Some(Pages { web, bound })
            }
            _ => None,
        };
        let issuer = Operators::check(&config.operators)?;
        let bound = Bound::new("operators", &config.operators.listener).await?;
        let operators = Operating {
            operators: Arc::new(Operators {
                operations,
                keys,
                config: config.operators.clone(),
                issuer,
                probes: Probes::new(
                    Arc::clone(&exposition),
                    Arc::clone(&pulse),
                    config.key_file.clone(),
                ),
                metrics,
            }),
            bound,
        };
        Ok(Self {
            suites,
            pages,
            operators,
            store,
            tenants,
            auth,
            api,
            keeper,
            alerts,
            supervisor,
            exposition,
            pulse,
            clock,
            config,
        })
    }

    /// Where suites connect.
    pub fn grpc_address(&self) -> SocketAddr {
        self.suites.address
    }

    /// Where browsers connect, if there are pages.
    pub fn web_address(&self) -> Option<SocketAddr> {
        self.pages.as_ref().map(|pages| pages.bound.address)
    }

    /// Where operators, the command line and probes connect.
    pub fn operators_address(&self) -> SocketAddr {
        self.operators.bound.address
    }

    /// A look into the service while it runs.
    pub fn view(&self) -> CloudView {
        CloudView {
            tenants: Arc::clone(&self.tenants),
            operations: Arc::clone(&self.operators.operators.operations),
            exposition: Arc::clone(&self.exposition),
        }
    }

    /// Serves until `stop`, then says good-bye to every suite. An error means that a part died that must not.
    pub async fn run(self, stop: CancellationToken) -> Result<(), TaskDied> {
        let close = self.exposition.draining.clone();
        let noticed = |name, bound: &Bound| {
            bound.renew_certificate(&self.supervisor, &self.exposition.metrics);
            Noticed {
                connections: self.exposition.metrics.connections(bound.name),
                beat: self.pulse.of(name, LATE),
            }
        };
        // Probes are answered until the others have left: who asks meanwhile is told that the service is stopping.
        let close_last = CancellationToken::new();
        let serving = Arc::new(close_last.clone().drop_guard());
        let routes = self.api.routes(self.config.reflection).await;
        let (suites, closing) = (self.suites, close.clone());
        let (seen, guard) = (noticed("gRPC listener", &suites), Arc::clone(&serving));
        tracing::info!(address = %suites.address, tls = suites.tls.is_some(), "serving suites");
        self.supervisor.run("gRPC listener", async move {
            let _guard = guard;
            let settings = suites.settings();
            listener::serve(suites.socket, settings, routes, closing, seen).await;
        });
        if let Some(pages) = self.pages {
            let (pages_router, closing) = (pages.web.router(), close.clone());
            let stopping = self.supervisor.stopping();
            self.supervisor.run("expired sessions", async move {
                stopping
                    .run_until_cancelled(pages.web.tidy_for_ever())
                    .await;
            });
            let bound = pages.bound;
            tracing::info!(address = %bound.address, tls = bound.tls.is_some(), "serving pages");
            let (seen, guard) = (noticed("web listener", &bound), Arc::clone(&serving));
            self.supervisor.run("web listener", async move {
                let _guard = guard;
                let settings = bound.settings();
                listener::serve(bound.socket, settings, pages_router, closing, seen).await;
            });
        }
        let Operating { operators, bound } = self.operators;
        let seen = noticed("operators' listener", &bound);
        let stopping = self.supervisor.stopping();
        let tidying = Arc::clone(&operators).tidy_for_ever();
        self.supervisor.run("operators' tidying", async move {
            stopping.run_until_cancelled(tidying).await;
        });
        tracing::info!(address = %bound.address, tls = bound.tls.is_some(), "serving operators");
        self.supervisor.run("operators' listener", async move {
            let (service, settings) = (operators.router(), bound.settings());
            listener::serve(bound.socket, settings, service, close_last, seen).await;
        });
        let stopping = self.supervisor.stopping();
        let look_out = lookout::look_out(
            Arc::clone(&self.tenants),
            self.store.clone(),
            self.clock.clone(),
        );
        self.supervisor.run("lookout", async move {
            stopping.run_until_cancelled(look_out).await;
        });
        let stopping = self.supervisor.stopping();
        let watch = Arc::clone(&self.alerts).watch(self.pulse.of("alerts", LATE_WITH_STORE));
        self.supervisor.run("alerts", async move {
            stopping.run_until_cancelled(watch).await;
        });
        for nth in 0..self.alerts.receivers() {
            let stopping = self.supervisor.stopping();
            let deliver = Arc::clone(&self.alerts).deliver(nth);
            self.supervisor.run("messages about alerts", async move {
                stopping.run_until_cancelled(deliver).await;
            });
        }
        let stopping = self.supervisor.stopping();
        let (tenants, auth) = (Arc::clone(&self.tenants), Arc::clone(&self.auth));
        let beat = self.pulse.of("operator's changes", LATE_WITH_STORE);
        self.supervisor.run("operator's changes", async move {
            let follow = tenants.follow_changes(|| auth.forget_keys(), beat);
            stopping.run_until_cancelled(follow).await;
        });
        let (stopping, keeper) = (self.supervisor.stopping(), self.keeper);
        self.supervisor.run("keeper", async move {
            stopping.run_until_cancelled(keeper.run()).await;
        });
        let (stopping, exposition) = (self.supervisor.stopping(), Arc::clone(&self.exposition));
        self.supervisor.run("metrics", async move {
            stopping
                .run_until_cancelled(exposition.tidy_for_ever())
                .await;
        });
        let (stopping, beat) = (self.supervisor.stopping(), self.pulse.of("runtime", LATE));
        self.supervisor.run("runtime", async move {
            stopping
                .run_until_cancelled(pulse::tick_for_ever(beat))
                .await;
        });
        let stopping = self.supervisor.stopping();
        let (tenants, limit) = (Arc::clone(&self.tenants), self.config.streams.stalled);
        self.supervisor.run("stalled streams", async move {
            stopping
                .run_until_cancelled(tenants.end_stalled_streams(limit))
                .await;
        });
        let outcome = tokio::select! {
            () = stop.cancelled() => Ok(()),
            died = self.supervisor.failed() => Err(died),
        };
        tracing::info!("stopping: telling the suites to come back");
        self.tenants
            .send_everybody_away(self.config.streams.reconnect_spread);
        close.cancel();
        drop(serving);
        if !self.supervisor.stop(GRACE).await {
            tracing::warn!("some parts had to be cut off");
        }
        self.store.close().await;
        outcome
    }
}
