//! Whether everything is there that is needed.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use presence_bridge::clock::Clock;
use presence_bridge::cloud::mail::Mailer;
use presence_bridge::cloud::operators::Operators;
use presence_bridge::cloud::store::{ConnectionKind, Store, TenantRow, TenantStatus};
use presence_bridge::cloud::{self, BuildError};
use presence_bridge::config::cloud::{CloudConfig, OperatorsConfig};
use presence_bridge::config::listeners::TlsFiles;
use presence_bridge::microsoft::{Ending, Entra, MicrosoftError};
use presence_bridge::secret::KeyRing;

use super::output::{chain, say};

/// Prints one step of a check. Returns whether it went well.
fn step(what: &str, outcome: &anyhow::Result<String>) -> bool {
    match outcome {
        Ok(found) => say(&format!("  ok    {what}: {found}")),
        Err(e) => say(&format!("  FAIL  {what}: {e:#}")),
    }
    outcome.is_ok()
}

pub async fn check(path: &Path, config: CloudConfig, offline: bool) -> anyhow::Result<()> {
    say(&format!("{} is well-formed.", path.display()));
    let key = KeyRing::read(&config.key_file)
        .map(|_| config.key_file.display().to_string())
        .context(if config.key_file.exists() {
            "it is there but cannot be used"
        } else {
            "it is not there yet; make it with: presence-cloud keys create"
        });
    let mut well = step("the key that seals credentials", &key);
    let transport = cloud::transport(&config);
    let entra = transport.and_then(|t| cloud::entra(&config, t, Clock::system()));
    well &= step(
        "the credential of the application",
        &entra
            .as_ref()
            .map(|_| format!("client {}", config.client_id))
            .map_err(|e| anyhow!(chain(e))),
    );
    if let Ok(entra) = &entra {
        well &= check_ends(entra);
    }
    well &= check_tls("TLS of the gRPC listener", config.grpc.tls.as_ref());
    let store = if config.database.exists() {
        let store = Store::open(&config.database).await;
        let found = store
            .as_ref()
            .map(|_| config.database.display().to_string());
        well &= step("the database", &found.map_err(|e| anyhow!(chain(e))));
        store.ok()
    } else {
        let name = config.database.display();
        say(&format!(
            "  note  the database: {name} is not there yet; it is made when it is needed"
        ));
        None
    };
    well &= check_port("the gRPC port", config.grpc.listen).await;
    say(&format!(
        "  note  the budget: {} presence requests per {} s and tenant; everybody is read every {:?} at best",
        config.poll.presence.allowed(),
        config.poll.presence.window.as_secs(),
        config.poll.interval
    ));
    well &= check_pages(&config).await;
    let operators = &config.operators;
    well &= check_port("the operators' port", operators.listener.listen).await;
    well &= check_operators(operators, offline).await;
    well &= check_receivers(&config);
    let tenants = match &store {
        Some(store) => store.tenants().await?,
        None => Vec::new(),
    };
    if tenants.is_empty() {
        say("  note  no tenant is connected yet: presence-cloud tenant add");
    }
    if let (Ok(entra), false) = (&entra, offline) {
        for tenant in tenants.iter().filter(|t| t.status == TenantStatus::Active) {
            well &= step(
                &format!("Microsoft and {}", tenant.name),
                &let_in(entra, tenant).await,
            );
        }
    }
    if !well {
        bail!("something has to be mended first");
    }
    say("All is well.");
    Ok(())
}

/// Says when our credentials end. Returns whether there is one that has not ended.
fn check_ends(entra: &Entra) -> bool {
    let now = Clock::system().now();
    let credentials = entra.credentials();
    for credential in &credentials {
        match (credential.ends, credential.ending(now)) {
            (None, _) => say(&format!(
                "  note  {credential}: it does not tell when it ends; `ends` in the configuration says it"
            )),
            (Some(ends), Ending::Far) => say(&format!("  ok    {credential}: ends {ends}")),
            (Some(ends), Ending::Ended) => say(&format!("  WARN  {credential}: HAS ENDED {ends}")),
            (Some(ends), _) => {
                let days = now.until(ends).as_secs() / 86_400;
                say(&format!(
                    "  WARN  {credential}: ends {ends}, in {days} days; add the next one beside it"
                ));
            }
        }
    }
    let usable = credentials
        .iter()
        .any(|one| one.ending(now) != Ending::Ended);
    if !usable {
        say("  FAIL  the credentials of the application have all ended");
    }
    usable
}

/// A running server has the port: that is no fault.
async fn check_port(what: &str, address: SocketAddr) -> bool {
    match tokio::net::TcpListener::bind(address).await {
        Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => {
            say(&format!(
                "  note  {what}: {address} is in use, by a running presence-cloud or by something else"
            ));
            true
        }
        port => {
            let port = port
                .map(|_| format!("{address} is free"))
                .with_context(|| format!("{address} cannot be used"));
            step(what, &port)
        }
    }
}

fn check_tls(what: &str, files: Option<&TlsFiles>) -> bool {
    files.is_none_or(|files| {
        let tls = cloud::listener::Tls::new(files);
        let fits = tls.map(|_| "certificate and key fit".into());
        step(what, &fits.map_err(Into::into))
    })
}

/// The pages: their certificate, their port, and what has to be registered with Microsoft.
async fn check_pages(config: &CloudConfig) -> bool {
    let Some(web) = &config.web else {
        say("  note  the pages: none; set [web] listen to let customers connect themselves");
        return true;
    };
    let mut well = true;
    well &= check_tls("TLS of the pages", web.listener.tls.as_ref());
    well &= check_port("the port of the pages", web.listener.listen).await;
    say(&format!(
        "  note  the pages: register {} with Microsoft as a redirect address of the platform \"Web\"",
        web.redirect_uri()
    ));
    well
}

/// How operators sign in. An issuer that does not answer is no fault of ours, and may be back when somebody wants to sign in.
fn check_receivers(config: &CloudConfig) -> bool {
    if config.receivers.is_empty() {
        say(
            "  note  alerts: nobody is told yet; add [[alerts.webhook]] or [[alerts.mail]] to the configuration",
        );
    }
    if config.receivers.is_empty() && config.smtp.is_none() {
        return true;
    }
    let mailer = config.smtp.as_ref().map(Mailer::new).transpose();
    let found = mailer.map_err(BuildError::from).and_then(|mailer| {
        let names: Vec<String> = cloud::receivers(config, mailer.as_ref())?
            .iter()
            .map(|receiver| receiver.addressee().name.clone())
            .collect();
        Ok(format!(
            "{}; try them with: presence-cloud alert test",
            names.join(", ")
        ))
    });
    step(
        "who is told about alerts",
        &found.map_err(|e| anyhow!(chain(&e))),
    )
}

async fn check_operators(config: &OperatorsConfig, offline: bool) -> bool {
    const WHAT: &str = "the operators' sign-in";
    let issuer = match Operators::check(config) {
        Ok(issuer) => issuer,
        Err(e) => return step(WHAT, &Err(anyhow!(chain(&e)))),
    };
    if let Some(path) = &config.password_file {
        return step(WHAT, &Ok(format!("the password in {}", path.display())));
    }
    let Some(issuer) = issuer else {
        say(&format!(
            "  note  {WHAT}: nobody signs in to their pages; presence-cloud operators password, or [oidc], changes that"
        ));
        return true;
    };
    say(&format!(
        "  note  {WHAT}: register {} at {} as a redirect address",
        issuer.redirect_uri(),
        issuer.host()
    ));
    if offline {
        return true;
    }
    match issuer.look(Clock::system().now()).await {
        Ok(()) => say(&format!(
            "  ok    {WHAT}: {} answers as it must",
            issuer.host()
        )),
        Err(e) => say(&format!(
            "  WARN  {WHAT}: nobody could sign in just now: {}",
            chain(&e)
        )),
    }
    true
}

/// Whether Microsoft lets us in. A service account's refresh token is not spent for a check: there only the tenant is asked for.
async fn let_in(entra: &Entra, tenant: &TenantRow) -> anyhow::Result<String> {
    let failed = |e: MicrosoftError| anyhow!(chain(&e));
    match tenant.connection {
        ConnectionKind::Organisation => {
            entra.app_token(tenant.id).await.map_err(failed)?;
            Ok("gives us access".into())
        }
        ConnectionKind::ServiceAccount => {
            entra
                .discover(&tenant.id.to_string())
                .await
                .map_err(failed)?;
            Ok("knows the organisation".into())
        }
    }
}
