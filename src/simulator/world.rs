//! The simulated Microsoft: its state, shared by all clones.
//!
//! Invariants: locks are held for plain computation only, never while waiting; of two locks, that of a tenant is taken last.

use std::collections::{HashMap, VecDeque};
use std::future::IntoFuture as _;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::counts::{Endpoint, RequestCounts};
use super::directory::{Directory, seeded_uuid};
use super::entra::keys::SigningKeys;
use super::faults::{ActiveFault, Fault, Faults, Scope};
use super::options::{Life, Options, Switches};
use super::tenant::{Cell, Tenant, TenantSpec};
use super::throttle::Throttle;
use super::{control, entra, graph};
use crate::clock::Clock;
use crate::model::{TenantId, Timestamp};

/// How long open connections may last after the simulator was told to stop.
const GRACE: Duration = Duration::from_secs(1);

/// A simulated Microsoft: Entra and Graph, and the tenants in it. Clones share everything.
#[derive(Clone)]
pub struct Microsoft {
    pub(super) inner: Arc<Inner>,
}

/// An application that Microsoft knows.
#[derive(Debug, Clone, Default)]
pub struct AppRegistration {
    /// Its client id.
    pub client_id: Uuid,
    /// Secrets it may authenticate with.
    pub secrets: Vec<String>,
    /// Certificates (RSA, PEM) whose keys may sign its assertions.
    pub certificates_pem: Vec<String>,
    /// Where sign-in may send people back to, compared as texts.
    pub redirect_uris: Vec<String>,
}

pub struct Inner {
    pub options: Options,
    pub clock: Clock,
    started: Timestamp,
    switches: RwLock<Switches>,
    tenants: RwLock<Vec<Arc<Cell>>>,
    state: Mutex<State>,
    pub keys: SigningKeys,
}

/// Everything that belongs to no tenant alone.
pub struct State {
    pub apps: HashMap<Uuid, App>,
    pub access: HashMap<String, AccessToken>,
    pub refresh: HashMap<String, RefreshToken>,
    pub codes: HashMap<String, Code>,
    pub faults: Faults,
    pub throttle: Throttle,
    pub counts: RequestCounts,
    pub rng: fastrand::Rng,
    /// How many access tokens were handed out.
    pub serial: u64,
    /// Assertions seen, until they expire.
    pub assertions: HashMap<(Uuid, String), Timestamp>,
    /// When a client asked for tokens, per tenant and grant; for loop detection.
    pub asked: HashMap<(Uuid, TenantId, String), VecDeque<Timestamp>>,
}

#[derive(Debug, Clone)]
pub struct App {
    pub registration: AppRegistration,
    pub expired_secrets: Vec<String>,
}

/// Who holds a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// The application itself.
    Application,
    /// A person, by object id, with the scopes of the token.
    Person(Uuid, Vec<String>),
}

#[derive(Debug, Clone)]
pub struct AccessToken {
    pub client: Uuid,
    pub tenant: TenantId,
    pub holder: Holder,
    pub roles: Vec<String>,
    pub expires: Timestamp,
}

/// How a person signed in.
#[derive(Debug, Clone, Copy)]
pub struct SignedIn {
    pub at: Timestamp,
    /// A second factor was passed.
    pub mfa: bool,
}

#[derive(Debug, Clone)]
pub struct RefreshToken {
    pub client: Uuid,
    pub tenant: TenantId,
    pub person: Uuid,
    pub scopes: Vec<String>,
    pub issued: Timestamp,
    /// When the person signed in, and whether with a second factor.
    pub signed_in: SignedIn,
    pub revoked: bool,
}

#[derive(Debug, Clone)]
pub struct Code {
    pub client: Uuid,
    pub authority: String,
    pub tenant: TenantId,
    pub person: Uuid,
    pub redirect_uri: String,
    pub scopes: Vec<String>,
    pub nonce: Option<String>,
    pub challenge: Option<String>,
    pub signed_in: SignedIn,
    /// The address of a personal account, which belongs to no tenant here.
    pub personal: Option<String>,
    pub expires: Timestamp,
    pub used: bool,
}

impl Microsoft {
    /// A Microsoft without tenants or apps.
    pub fn new(options: Options, clock: Clock) -> Self {
        let started = clock.now();
        Self {
            inner: Arc::new(Inner {
                switches: RwLock::new(options.switches),
                state: Mutex::new(State {
                    apps: HashMap::new(),
                    access: HashMap::new(),
                    refresh: HashMap::new(),
                    codes: HashMap::new(),
                    faults: Faults::default(),
                    throttle: Throttle::default(),
                    counts: RequestCounts::default(),
                    rng: fastrand::Rng::with_seed(options.seed),
                    serial: 0,
                    assertions: HashMap::new(),
                    asked: HashMap::new(),
                }),
                tenants: RwLock::default(),
                keys: SigningKeys::default(),
                options,
                clock,
                started,
            }),
        }
    }

    /// Entra, Graph (`/v1.0`) and the control API (`/sim`).
    pub fn router(&self) -> Router {
        Router::new()
            .merge(control::router())
            .route("/v1.0/{*rest}", axum::routing::any(graph::entry))
            .fallback(entra::entry)
            .with_state(self.clone())
    }

    /// Serves until told to stop; connections still open a second later are dropped.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) -> io::Result<()> {
        let told = stop.clone();
        let server = axum::serve(listener, self.router())
            .with_graceful_shutdown(async move { told.cancelled().await });
        let mut server = std::pin::pin!(server.into_future());
        tokio::select! {
            done = &mut server => done,
            () = async { stop.cancelled().await; tokio::time::sleep(GRACE).await } => Ok(()),
        }
    }

    /// Founds a tenant. Ids and names come from the seed and the domain.
    pub fn add_tenant(&self, spec: TenantSpec) -> Tenant {
        let domain = spec.domain.to_lowercase();
        let seed = domain
            .bytes()
            .fold(self.inner.options.seed ^ 0xCBF2_9CE4_8422_2325, |h, b| {
                (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01B3)
            });
        let id = spec
            .id
            .unwrap_or_else(|| TenantId(seeded_uuid(&mut fastrand::Rng::with_seed(seed))));
        let directory = Directory::new(seed, &domain, spec.people);
        let cell = Arc::new(Cell::new(id, domain, spec.name, directory));
        let mut tenants = self
            .inner
            .tenants
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        tenants.retain(|t| t.id != id);
        tenants.push(Arc::clone(&cell));
        drop(tenants);
        Tenant::new(self.clone(), cell)
    }

    /// All tenants, in the order of their founding.
    pub fn tenants(&self) -> Vec<Tenant> {
        self.inner
            .cells()
            .into_iter()
            .map(|cell| Tenant::new(self.clone(), cell))
            .collect()
    }

    /// The tenant with this id or domain.
    pub fn tenant(&self, id_or_domain: &str) -> Option<Tenant> {
        let cell = self.inner.cell_named(id_or_domain)?;
        Some(Tenant::new(self.clone(), cell))
    }

    /// Registers an application, or replaces its registration. Registering it gives it no consent anywhere.
    pub fn register_app(&self, app: AppRegistration) {
        self.inner.state().apps.insert(
            app.client_id,
            App {
                registration: app,
                expired_secrets: Vec::new(),
            },
        );
    }

    /// From now on this secret has expired (AADSTS7000222).
    pub fn expire_secret(&self, client_id: Uuid, secret: &str) {
        if let Some(app) = self.inner.state().apps.get_mut(&client_id) {
            app.registration.secrets.retain(|s| s != secret);
            app.expired_secrets.push(secret.to_owned());
        }
    }

    /// Switches a fault on for so many requests, or until it is cleared.
    pub fn set_fault(&self, fault: Fault, scope: Scope, limit: Option<u32>) {
        self.inner.state().faults.set(fault, scope, limit);
    }

    /// Switches off all faults; those of that name; those of that tenant. Returns how many were on.
    pub fn clear_faults(&self, name: Option<&str>, tenant: Option<TenantId>) -> usize {
        self.inner.state().faults.clear(name, tenant)
    }

    /// The faults that are on.
    pub fn faults(&self) -> Vec<ActiveFault> {
        self.inner.state().faults.active().to_vec()
    }

    /// What was asked so far.
    pub fn requests(&self) -> RequestCounts {
        self.inner.state().counts.clone()
    }

    /// Every code, access token and refresh token handed out so far that is still remembered: what a search for leaks looks for.
    pub fn handed_out(&self) -> Vec<String> {
        let state = self.inner.state();
        let (codes, access) = (state.codes.keys(), state.access.keys());
        codes
            .chain(access)
            .chain(state.refresh.keys())
            .cloned()
            .collect()
    }

    /// A new signing key signs at once; the newest of the earlier ones stays published.
    pub fn rotate_signing_keys(&self) {
        self.inner.keys.rotate();
    }

    /// Access tokens of this tenant handed out so far are refused with 401 from now on.
    pub fn expire_access_tokens(&self, tenant: TenantId) {
        self.inner
            .state()
            .access
            .values_mut()
            .filter(|t| t.tenant == tenant)
            .for_each(|t| t.expires = Timestamp::default());
    }

    /// Changes what the references leave open, while it runs.
    pub fn set_switches(&self, change: impl FnOnce(&mut Switches)) {
        change(
            &mut self
                .inner
                .switches
                .write()
                .unwrap_or_else(PoisonError::into_inner),
        );
    }
}

impl Inner {
    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn switches(&self) -> Switches {
        *self.switches.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn cells(&self) -> Vec<Arc<Cell>> {
        self.tenants
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub fn cell(&self, id: TenantId) -> Option<Arc<Cell>> {
        let tenants = self.tenants.read().unwrap_or_else(PoisonError::into_inner);
        let mut there = tenants.iter().filter(|t| !t.rules().deleted);
        there.find(|t| t.id == id).cloned()
    }

    /// A tenant by its id or domain, also one that was deleted.
    pub fn cell_named(&self, id_or_domain: &str) -> Option<Arc<Cell>> {
        let id = id_or_domain.parse::<TenantId>().ok();
        let named =
            |t: &&Arc<Cell>| Some(t.id) == id || t.domain.eq_ignore_ascii_case(id_or_domain);
        let tenants = self.tenants.read().unwrap_or_else(PoisonError::into_inner);
        tenants.iter().find(named).cloned()
    }

    /// The home organisation of an address: a tenant here, or one that is only known by name.
    pub fn home_of(&self, mail: &str) -> TenantId {
        let domain = mail.rsplit('@').next().unwrap_or_default();
        self.cell_named(domain).map_or_else(
            || {
                let seed = domain
                    .bytes()
                    .fold(7, |h: u64, b| h.rotate_left(7) ^ u64::from(b));
                TenantId(seeded_uuid(&mut fastrand::Rng::with_seed(seed)))
            },
            |cell| cell.id,
        )
    }

    /// The time on the clock of people's days.
    pub fn people_time(&self) -> Timestamp {
        let now = self.clock.now();
        let Life::Day { speed } = self.options.life else {
            return now;
        };
        let start = match self.options.opening {
            // 1970-01-06 was a Tuesday: the last Tuesday, at the opening hour.
            Some(time) => {
                let tuesday = (self.started.as_secs() / 86_400 - 5).div_euclid(7) * 7 + 5;
                Timestamp::from_secs(tuesday * 86_400).plus(time)
            }
            None => self.started,
        };
        start.plus(self.started.until(now).mul_f64(speed.max(0.0)))
    }

    /// How this Microsoft names itself to whoever sent this `Host`.
    pub fn base(&self, host: Option<&str>) -> String {
        match &self.options.base_url {
            Some(url) => url.as_str().trim_end_matches('/').to_owned(),
            None => format!("http://{}", host.unwrap_or("localhost")),
        }
    }

    pub fn count(&self, endpoint: Endpoint, tenant: Option<TenantId>, status: u16) {
        self.state().counts.record(endpoint, tenant, status);
    }
}
