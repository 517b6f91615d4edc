//! With whom the commands talk: the running service, by its admin API; or the database, when nothing listens.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use http::{Method, StatusCode};
use presence_bridge::clock::Clock;
use presence_bridge::cloud;
use presence_bridge::cloud::operations::answers::{
    Alerts, AlertsTested, ApiTokens, Audit, Invited, LinkMade, Me, Offboarded, SuiteDone, Suites,
    TenantDone, Tenants, TokenMade,
};
use presence_bridge::cloud::operations::filter::{self, TenantFilter};
use presence_bridge::cloud::operations::view::TenantDetail;
use presence_bridge::cloud::operations::{OperationError, Operations};
use presence_bridge::cloud::operators::api::{BASE, ProblemBody, local};
use presence_bridge::cloud::store::{Actor, Role, Store};
use presence_bridge::config::cloud::CloudConfig;
use presence_bridge::model::{SuiteId, TenantId};
use presence_bridge::secret::{
    KeyRing, ReadSecretError, SealError, Secret, read_secret_file, sha256,
};
use reqwest::Certificate;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use url::Url;

use super::output::note;

/// Longest time for an answer: longer than the service takes.
const TIMEOUT: Duration = Duration::from_secs(45);

/// Longest time for the first answer, which costs the service nothing: one that hangs is known soon.
const FIRST: Duration = Duration::from_secs(10);

/// Longest time for a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// How to talk, and how to print.
#[derive(Args, Clone)]
pub struct Ask {
    /// Print one JSON value instead of a table.
    #[arg(long, global = true)]
    pub json: bool,
    /// The operators' listener of a service elsewhere, for example `https://operators.example.com`; needs a token. Default: the service
    /// of the configuration.
    #[arg(long, global = true, value_name = "URL", value_parser = address)]
    pub url: Option<Url>,
    /// File with a token of the admin API, readable by its owner only. Or the token in `PRESENCE_CLOUD_TOKEN`. Default: who may read the
    /// key file may do everything.
    #[arg(long, global = true, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Certificates to trust besides those of the system, PEM.
    #[arg(long, global = true, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
}

/// An address, whole: a name and a port alone are read as something else, or as nothing.
fn address(text: &str) -> Result<Url, String> {
    const EXAMPLE: &str = "for example https://operators.example.com";
    let url = match Url::parse(text) {
        Ok(url) if text.contains("://") => url,
        _ => return Err(format!("it begins with https://, {EXAMPLE}")),
    };
    if url.host_str().is_none_or(str::is_empty) {
        return Err(format!("it names no machine; {EXAMPLE}"));
    }
    Ok(url)
}

/// Whether a command only looks, or changes something: what is said beforehand depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    Look,
    Act,
}

impl Intent {
    fn beside(self) -> &'static str {
        match self {
            Self::Look => "is from the database: what only a running service knows is missing",
            Self::Act => {
                "is written to the database, and holds from the next start of the service on"
            }
        }
    }
}

impl Ask {
    fn token(&self) -> anyhow::Result<Option<Secret>> {
        if let Some(file) = &self.token_file {
            return Ok(Some(read_secret_file(file)?));
        }
        let told = std::env::var("PRESENCE_CLOUD_TOKEN").unwrap_or_default();
        let told = told.trim();
        Ok((!told.is_empty()).then(|| Secret::new(told)))
    }
}

/// What proves who we are.
enum Proof {
    Token(Secret),
    Keys(KeyRing),
}

/// The running service.
pub struct Service {
    client: reqwest::Client,
    base: Url,
    proof: Proof,
    /// Which start of the service it is, once it was asked for.
    start: OnceCell<String>,
}

/// Nothing listens.
#[derive(Debug, thiserror::Error)]
#[error("nothing listens at {0}")]
pub struct NobodyThere(String);

/// The service answered, and did not do it.
#[derive(Debug, thiserror::Error)]
#[error("{told}")]
pub struct Refused {
    /// As the service said.
    pub problem: ProblemBody,
    /// For who typed the command.
    told: String,
}

pub enum Talk {
    Service(Box<Service>),
    Store(Arc<Operations>),
}

/// The certificates of a file.
pub fn certificates(file: &Path) -> anyhow::Result<Vec<Certificate>> {
    let pem = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let found = Certificate::from_pem_bundle(&pem).unwrap_or_default();
    if found.is_empty() {
        bail!("there is no certificate in {}", file.display());
    }
    Ok(found)
}

/// Talks HTTP to somebody, by a name at an address if they are given.
pub fn client(
    roots: Vec<Certificate>,
    to: Option<(&str, SocketAddr)>,
) -> anyhow::Result<reqwest::Client> {
    let mut builder = reqwest::Client::builder()
        .user_agent(concat!("presence-cloud/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT)
        .timeout(TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .tls_certs_merge(roots);
    if let Some((host, address)) = to {
        builder = builder.resolve(host, address);
    }
    builder.build().context("TLS cannot be set up")
}

/// Where this machine reaches one of its own listeners.
pub fn here(listen: SocketAddr) -> SocketAddr {
    let mut address = listen;
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

/// The operators' listener of this machine's configuration. It is called by the name its certificate is for, at the address it
/// listens on; its own certificate is trusted.
pub fn operators(
    config: &CloudConfig,
    ca_file: Option<&Path>,
) -> anyhow::Result<(reqwest::Client, Url)> {
    let address = here(config.operators.listener.listen);
    let mut roots = ca_file.map(certificates).transpose()?.unwrap_or_default();
    let mut base = Url::parse(&format!("http://{address}"))?;
    let mut named = None;
    if let Some(tls) = &config.operators.listener.tls {
        roots.extend(certificates(&tls.certificate)?);
        let host = config.operators.public_url.host_str().unwrap_or_default();
        base = Url::parse(&format!("https://{host}:{}", address.port()))?;
        named = Some(host);
    }
    Ok((client(roots, named.map(|host| (host, address)))?, base))
}

/// Why the key file, which opens the admin API to this machine, cannot be read, and what to do about it.
fn unreadable(e: SealError) -> anyhow::Error {
    use std::io::ErrorKind::{NotFound, PermissionDenied};
    match &e {
        SealError::KeyFile(ReadSecretError::Io(name, why)) if why.kind() == NotFound => anyhow!(
            "there is no key file {name}; on a new machine make it: presence-cloud keys create. If there is a database already, put your \
             copy of the file back"
        ),
        SealError::KeyFile(ReadSecretError::Io(name, why)) if why.kind() == PermissionDenied => {
            anyhow!(
                "you may not read the key file {name}, which opens the admin API to this machine: run this as the service's user or as \
                 root, or use a token (--token-file)"
            )
        }
        SealError::KeyFile(ReadSecretError::TooOpen(name)) => anyhow!(
            "chmod 600 {name}: others may read it, and it is the key that opens the admin API to this machine"
        ),
        _ => anyhow!(e)
            .context("the key file, which opens the admin API to this machine, is of no use"),
    }
}

impl Service {
    /// A service elsewhere.
    fn elsewhere(url: &Url, ask: &Ask, token: Secret) -> anyhow::Result<Self> {
        let loopback = match url.host() {
            Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
            Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
            Some(url::Host::Domain(name)) => name == "localhost",
            None => false,
        };
        if url.scheme() != "https" && !(url.scheme() == "http" && loopback) {
            bail!(
                "--url must begin with https:// (plain http:// would show the token to everybody on the way)"
            );
        }
        let roots = ask.ca_file.as_deref().map(certificates).transpose()?;
        Ok(Self {
            client: client(roots.unwrap_or_default(), None)?,
            base: url.clone(),
            proof: Proof::Token(token),
            start: OnceCell::new(),
        })
    }

    /// The service of this machine's configuration.
    pub fn of_config(config: &CloudConfig, ask: &Ask) -> anyhow::Result<Self> {
        let (client, base) = operators(config, ask.ca_file.as_deref())?;
        let proof = match ask.token()? {
            Some(token) => Proof::Token(token),
            None => Proof::Keys(KeyRing::read(&config.key_file).map_err(unreadable)?),
        };
        Ok(Self {
            client,
            base,
            proof,
            start: OnceCell::new(),
        })
    }

    /// Where it is.
    pub fn address(&self) -> String {
        self.base.origin().ascii_serialization()
    }

    /// What shows who we are, for this request alone if it is a proof.
    async fn token(&self, method: &Method, url: &Url, body: &[u8]) -> anyhow::Result<Secret> {
        let keys = match &self.proof {
            Proof::Token(token) => return Ok(token.clone()),
            Proof::Keys(keys) => keys,
        };
        let start = self.start.get_or_try_init(|| self.ask_for_start()).await?;
        let target = match url.query() {
            Some(query) => format!("{}?{query}", url.path()),
            None => url.path().to_owned(),
        };
        let errand = local::Errand {
            start,
            method: method.as_str(),
            target: &target,
            body: sha256(body),
        };
        let actor = Actor::of_this_account().name();
        Ok(local::prove(keys, &actor, &errand, Clock::system().now())?)
    }

    /// Which start of the service it is: it says so to everybody who is not signed in.
    async fn ask_for_start(&self) -> anyhow::Result<String> {
        let (url, where_) = (self.base.join(&format!("{BASE}/me"))?, self.address());
        let response = match self.client.get(url).timeout(FIRST).send().await {
            Ok(response) => response,
            Err(e) if refused(&e) => return Err(NobodyThere(where_).into()),
            Err(e) => return Err(unanswered(e, &where_, false)),
        };
        let start = response.headers().get(local::START);
        let start = start.and_then(|start| start.to_str().ok());
        let start = start.with_context(|| no_service_of_ours(&where_, response.status()))?;
        Ok(start.to_owned())
    }

    async fn raw(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        body: Option<Value>,
        patience: Duration,
    ) -> anyhow::Result<String> {
        let mut url = self.base.join(&format!("{BASE}{path}"))?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let changes = method != Method::GET;
        let body = body.map(|body| serde_json::to_vec(&body)).transpose()?;
        let body = body.unwrap_or_default();
        let token = self.token(&method, &url, &body).await?;
        let mut request = self
            .client
            .request(method, url)
            .timeout(patience)
            .bearer_auth(token.expose());
        if !body.is_empty() {
            let json = (http::header::CONTENT_TYPE, "application/json");
            request = request.header(json.0, json.1).body(body);
        }
        let where_ = self.address();
        let response = match request.send().await {
            Ok(response) => response,
            Err(e) if refused(&e) => return Err(NobodyThere(where_).into()),
            Err(e) => return Err(unanswered(e, &where_, changes)),
        };
        let status = response.status();
        let text = match response.text().await {
            Ok(text) => text,
            Err(e) => return Err(unanswered(e, &where_, changes)),
        };
        if status.is_success() {
            return Ok(text);
        }
        let Ok(problem) = serde_json::from_str::<ProblemBody>(&text) else {
            bail!(no_service_of_ours(&where_, status));
        };
        let told = match (problem.code.as_ref(), &self.proof) {
            ("not-signed-in", Proof::Keys(_)) => format!(
                "the service at {where_} does not accept the key file of this configuration: is it another service's, or does it \
                 run with another configuration?"
            ),
            ("not-signed-in", Proof::Token(_)) => format!(
                "the service at {where_} does not accept this token; it has ended, was revoked, or is another service's. An operator \
                 makes one with: presence-cloud api-token make"
            ),
            _ => problem.detail.clone(),
        };
        Err(Refused { problem, told }.into())
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        body: Option<Value>,
    ) -> anyhow::Result<T> {
        let text = self.raw(method, path, query, body, TIMEOUT).await?;
        self.read(&text)
    }

    fn read<T: DeserializeOwned>(&self, text: &str) -> anyhow::Result<T> {
        serde_json::from_str(text).with_context(|| {
            format!(
                "the service at {} answers in a way this command does not understand; use the command of its version",
                self.address()
            )
        })
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.send(Method::GET, path, &[], None).await
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: Option<Value>,
    ) -> anyhow::Result<T> {
        self.send(Method::POST, path, &[], body).await
    }

    /// What a probe says, which needs no token.
    pub async fn probe(&self, path: &str) -> anyhow::Result<Value> {
        let answer = self.client.get(self.base.join(path)?).send().await;
        match answer {
            Ok(answer) => Ok(answer.json().await?),
            Err(e) if refused(&e) => Err(NobodyThere(self.address()).into()),
            Err(e) => Err(e.without_url().into()),
        }
    }

    /// Whom it takes us for.
    pub async fn me(&self) -> anyhow::Result<Me> {
        let text = self.raw(Method::GET, "/me", &[], None, FIRST).await?;
        self.read(&text)
    }
}

fn no_service_of_ours(at: &str, status: StatusCode) -> String {
    format!(
        "what answers at {at} is no presence-cloud of this version (status {}); restart the service if it was just replaced",
        status.as_u16()
    )
}

/// Why there is no whole answer, and what to do.
fn unanswered(e: reqwest::Error, service: &str, changes: bool) -> anyhow::Error {
    let was_it_done = if changes {
        " Look whether it was done before you try again."
    } else {
        ""
    };
    if e.is_timeout() {
        return anyhow!(
            "the service at {service} accepts connections and does not answer in time: it hangs, or has too much to do. Look at its log and \
             at `presence-cloud doctor`; restart it if it stays so (systemctl restart presence-cloud).{was_it_done}"
        );
    }
    let told = format!("the service at {service} cannot be asked.{was_it_done} Details");
    anyhow!(e.without_url()).context(told)
}

/// Nothing listens there: everything else is somebody who does not speak as expected.
pub fn refused(error: &reqwest::Error) -> bool {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(e) = cause {
        if let Some(e) = e.downcast_ref::<std::io::Error>()
            && e.kind() == std::io::ErrorKind::ConnectionRefused
        {
            return true;
        }
        cause = e.source();
    }
    false
}

/// Everything that is known without a running service.
async fn beside(config: &CloudConfig) -> anyhow::Result<Arc<Operations>> {
    let (clock, store) = (Clock::system(), Store::open(&config.database).await?);
    let entra = cloud::transport(config)
        .and_then(|transport| cloud::entra(config, transport, clock.clone()));
    Ok(Operations::new(
        store,
        clock,
        entra.ok(),
        None,
        config.web.as_ref().map(|web| web.public_url.clone()),
        config.grpc_public_url.clone(),
        None,
    ))
}

fn by() -> Actor {
    Actor::of_this_account()
}

impl Talk {
    /// Finds out with whom.
    pub async fn open(config: &Path, ask: &Ask, intent: Intent) -> anyhow::Result<Self> {
        if let Some(url) = &ask.url {
            let token = ask.token()?.context(
                "--url needs a token: --token-file, or PRESENCE_CLOUD_TOKEN. An operator makes one with: presence-cloud api-token make",
            )?;
            let service = Service::elsewhere(url, ask, token)?;
            service.me().await?;
            return Ok(Self::Service(Box::new(service)));
        }
        let config = super::read(config)?;
        let service = Service::of_config(&config, ask)?;
        match service.me().await {
            Ok(_) => Ok(Self::Service(Box::new(service))),
            Err(e) if e.is::<NobodyThere>() && matches!(service.proof, Proof::Keys(_)) => {
                // A program sees it: what is missing is null, and standard error holds nothing but why something failed.
                if !ask.json {
                    note(&format!(
                        "presence-cloud: {e}, so this {}.",
                        intent.beside()
                    ));
                }
                Ok(Self::Store(beside(&config).await?))
            }
            Err(e) => Err(e),
        }
    }

    pub async fn tenants(&self, wanted: &TenantFilter) -> anyhow::Result<Tenants> {
        match self {
            Self::Service(s) => {
                let pairs = [
                    ("health", &wanted.health),
                    ("attention", &wanted.attention),
                    ("search", &wanted.search),
                ];
                let query: Vec<_> = pairs
                    .into_iter()
                    .filter_map(|(name, value)| Some((name, value.clone()?)))
                    .collect();
                s.send(Method::GET, "/tenants", &query, None).await
            }
            Self::Store(o) => {
                let (seen, domains) = (o.overview().await?, o.store().domains().await?);
                filter::page(seen, &domains, wanted, None, None).context("there is no first page")
            }
        }
    }

    pub async fn tenant(&self, id: TenantId) -> anyhow::Result<TenantDetail> {
        match self {
            Self::Service(s) => s.get(&format!("/tenants/{id}")).await,
            Self::Store(o) => Ok(o.tenant(id).await?.ok_or(OperationError::NoTenant(id))?),
        }
    }

    /// Pauses, resumes or refreshes.
    pub async fn act(&self, act: &str, id: TenantId) -> anyhow::Result<TenantDone> {
        match self {
            Self::Service(s) => s.post(&format!("/tenants/{id}/{act}"), None).await,
            Self::Store(o) => {
                match act {
                    "pause" => o.pause(&by(), id).await?,
                    "resume" => o.resume(&by(), id).await?,
                    _ => o.refresh(&by(), id).await?,
                }
                let row = o.store().tenant(id).await?;
                let row = row.ok_or(OperationError::NoTenant(id))?;
                Ok(TenantDone {
                    tenant: id,
                    name: row.name,
                    status: row.status.as_str().into(),
                    at: o.now(),
                })
            }
        }
    }

    pub async fn link(&self, id: TenantId, name: &str, days: u64) -> anyhow::Result<LinkMade> {
        match self {
            Self::Service(s) => {
                let body = json!({ "days": days });
                s.post(&format!("/tenants/{id}/link"), Some(body)).await
            }
            Self::Store(o) => {
                let valid_for = Duration::from_hours(days * 24);
                let link = o.relink(&by(), id, valid_for).await?;
                Ok(LinkMade {
                    tenant: id,
                    name: name.into(),
                    url: link.url.expose().into(),
                    until: link.until,
                })
            }
        }
    }

    pub async fn send_link(&self, id: TenantId, to: &str, days: u64) -> anyhow::Result<TenantDone> {
        match self {
            Self::Service(s) => {
                let body = json!({ "email": to, "days": days });
                s.post(&format!("/tenants/{id}/send-link"), Some(body))
                    .await
            }
            Self::Store(_) => bail!(
                "mail is sent by the running service, and none answers; make a link without --email"
            ),
        }
    }

    pub async fn test_alerts(&self) -> anyhow::Result<AlertsTested> {
        match self {
            Self::Service(s) => s.post("/alerts/test", None).await,
            Self::Store(_) => bail!(
                "test messages are sent by the running service, and none answers; start it first"
            ),
        }
    }

    pub async fn invite(&self, id: TenantId, name: &str, hours: u64) -> anyhow::Result<Invited> {
        match self {
            Self::Service(s) => {
                let body = json!({ "hours": hours });
                s.post(&format!("/tenants/{id}/invite"), Some(body)).await
            }
            Self::Store(o) => {
                let made = o.invite(&by(), id, Duration::from_hours(hours)).await?;
                Ok(Invited {
                    tenant: id,
                    name: name.into(),
                    code: made.code.expose().into(),
                    until: made.until,
                    command: made.command,
                    address: made.address,
                })
            }
        }
    }

    pub async fn offboard(&self, id: TenantId, confirm: &str) -> anyhow::Result<Offboarded> {
        match self {
            Self::Service(s) => {
                let body = json!({ "confirm": confirm });
                s.post(&format!("/tenants/{id}/offboard"), Some(body)).await
            }
            Self::Store(o) => Ok(o.offboard(&by(), id, confirm).await?.into()),
        }
    }

    pub async fn suites(&self, of: Option<TenantId>) -> anyhow::Result<Suites> {
        match (self, of) {
            (Self::Service(s), None) => s.get("/suites").await,
            (Self::Service(s), Some(id)) => s.get(&format!("/tenants/{id}/suites")).await,
            (Self::Store(o), of) => Ok(Suites {
                at: o.now(),
                suites: o.suites(of).await?,
            }),
        }
    }

    pub async fn revoke(&self, suite: SuiteId) -> anyhow::Result<SuiteDone> {
        match self {
            Self::Service(s) => s.post(&format!("/suites/{suite}/revoke"), None).await,
            Self::Store(o) => {
                o.revoke(&by(), suite).await?;
                let suites = o.suites(None).await?;
                let line = suites.into_iter().find(|s| s.id == suite);
                let line = line.ok_or(OperationError::NoSuite(suite))?;
                Ok(SuiteDone {
                    suite,
                    name: line.name,
                    tenant: line.tenant,
                    tenant_name: line.tenant_name,
                    status: line.status,
                    at: o.now(),
                })
            }
        }
    }

    pub async fn alerts(
        &self,
        of: Option<TenantId>,
        open: bool,
        most: u32,
    ) -> anyhow::Result<Alerts> {
        match self {
            Self::Service(s) => {
                let mut query = vec![("open", open.to_string()), ("limit", most.to_string())];
                query.extend(of.map(|id| ("tenant", id.to_string())));
                s.send(Method::GET, "/alerts", &query, None).await
            }
            Self::Store(o) => Ok(Alerts {
                at: o.now(),
                alerts: o.alerts(of, open, most).await?,
            }),
        }
    }

    pub async fn audit(
        &self,
        of: Option<TenantId>,
        before: Option<i64>,
        most: u32,
    ) -> anyhow::Result<Audit> {
        match self {
            Self::Service(s) => {
                let mut query = vec![("limit", most.to_string())];
                query.extend(of.map(|id| ("tenant", id.to_string())));
                query.extend(before.map(|n| ("before", n.to_string())));
                s.send(Method::GET, "/audit", &query, None).await
            }
            Self::Store(o) => {
                let entries = o.audit(of, before, most).await?;
                let full = u32::try_from(entries.len()).is_ok_and(|n| n == most);
                Ok(Audit {
                    next: entries.last().filter(|_| full).map(|e| e.id),
                    entries,
                })
            }
        }
    }

    /// The whole audit log, an entry a line.
    pub async fn export(&self, of: Option<TenantId>) -> anyhow::Result<String> {
        match self {
            Self::Service(s) => {
                let body = json!({ "tenant": of });
                s.raw(Method::POST, "/audit/export", &[], Some(body), TIMEOUT)
                    .await
            }
            Self::Store(o) => {
                let mut text = String::new();
                let add = |entry: &_| -> anyhow::Result<()> {
                    text.push_str(&serde_json::to_string(entry)?);
                    text.push('\n');
                    Ok(())
                };
                o.export(&by(), of, "as JSON lines", add).await?;
                Ok(text)
            }
        }
    }

    pub async fn api_tokens(&self) -> anyhow::Result<ApiTokens> {
        match self {
            Self::Service(s) => s.get("/api-tokens").await,
            Self::Store(o) => Ok(ApiTokens {
                at: o.now(),
                tokens: o.api_tokens().await?,
            }),
        }
    }

    pub async fn make_api_token(
        &self,
        name: &str,
        role: Role,
        days: u64,
    ) -> anyhow::Result<TokenMade> {
        match self {
            Self::Service(s) => {
                let body = json!({ "name": name, "role": role, "days": days });
                s.post("/api-tokens", Some(body)).await
            }
            Self::Store(o) => {
                let valid_for = Duration::from_hours(days * 24);
                Ok(o.make_api_token(&by(), name, role, valid_for).await?)
            }
        }
    }

    pub async fn revoke_api_token(&self, name: &str) -> anyhow::Result<()> {
        match self {
            Self::Service(s) => {
                let mut path = Url::parse("http://x/api-tokens")?;
                if let Ok(mut segments) = path.path_segments_mut() {
                    segments.push(name);
                }
                s.raw(Method::DELETE, path.path(), &[], None, TIMEOUT)
                    .await?;
                Ok(())
            }
            Self::Store(o) => Ok(o.revoke_api_token(&by(), name).await?),
        }
    }

    /// The organisation that is meant: its id and its name.
    pub async fn pick(&self, wanted: &str) -> anyhow::Result<(TenantId, String)> {
        let tenants = self.tenants(&TenantFilter::default()).await?.tenants;
        let found = cloud::admin::pick_tenant(&tenants, |t| (t.id, t.name.as_str()), wanted);
        let found = found?;
        Ok((found.id, found.name.clone()))
    }

    /// The same, if one was named.
    pub async fn pick_if(&self, wanted: Option<&str>) -> anyhow::Result<Option<TenantId>> {
        Ok(match wanted {
            Some(wanted) => Some(self.pick(wanted).await?.0),
            None => None,
        })
    }
}
