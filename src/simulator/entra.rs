//! Simulated Entra: discovery, keys, sign-in, consent and tokens. `entra-oauth.md`.

mod aadsts;
mod authorize;
mod client_auth;
mod der;
pub(super) mod keys;
mod pages;
mod token;

use std::collections::HashMap;
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, Method, Request};
use serde_json::json;
use url::form_urlencoded;
use uuid::Uuid;

use aadsts::{Ids, Refusal};

use super::answer::{Answer, Payload};
use super::counts::Endpoint;
use super::faults::Fault;
use super::tenant::{Cell, NationalCloud, NationalDiscovery};
use super::world::Microsoft;
use crate::model::TenantId;

/// Most bytes of a request.
const MAX_REQUEST: usize = 256 << 10;

/// Under which name Entra was called.
#[derive(Clone)]
enum Authority {
    /// `organizations` or `common`.
    Any,
    /// A tenant by its id or domain.
    One(Arc<Cell>),
}

impl Authority {
    fn tenant(&self) -> Option<TenantId> {
        match self {
            Self::Any => None,
            Self::One(cell) => Some(cell.id),
        }
    }
}

/// A request to Entra.
struct Call {
    base: String,
    /// As written in the path.
    name: String,
    authority: Authority,
    method: Method,
    headers: HeaderMap,
    /// Of the form, or else of the query; the last of several values counts.
    fields: HashMap<String, String>,
}

impl Call {
    fn field(&self, name: &str) -> Option<&str> {
        self.fields
            .get(name)
            .map(String::as_str)
            .filter(|v| !v.is_empty())
    }

    fn ids(&self, microsoft: &Microsoft) -> Ids {
        let header = self.headers.get("client-request-id");
        let correlation = self
            .field("client-request-id")
            .or_else(|| header.and_then(|v| v.to_str().ok()));
        Ids::new(correlation, microsoft.inner.clock.now())
    }
}

/// Serves everything of Entra.
pub async fn entry(
    State(microsoft): State<Microsoft>,
    request: Request<axum::body::Body>,
) -> Response {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, MAX_REQUEST)
        .await
        .unwrap_or_default();
    let host = parts
        .headers
        .get(http::header::HOST)
        .and_then(|h| h.to_str().ok())
        .or_else(|| parts.uri.authority().map(http::uri::Authority::as_str));
    let base = microsoft.inner.base(host);
    let path = parts.uri.path().trim_start_matches('/');
    let (name, what) = path.split_once('/').unwrap_or((path, ""));
    let endpoint = match what {
        "v2.0/.well-known/openid-configuration" => Endpoint::Discovery,
        "discovery/v2.0/keys" => Endpoint::Keys,
        "oauth2/v2.0/authorize" | "v2.0/adminconsent" | "adminconsent" => Endpoint::Authorize,
        "oauth2/v2.0/token" => Endpoint::Token,
        _ => Endpoint::Other,
    };
    if endpoint == Endpoint::Other {
        microsoft.inner.count(endpoint, None, 404);
        let page = pages::message("Not found", "There is nothing at this address.");
        return Answer::html(404, page).send(&[]).await;
    }
    let named = microsoft.inner.cell_named(name);
    let authority = match name {
        "organizations" | "common" => Some(Authority::Any),
        _ => named
            .clone()
            .filter(|cell| !cell.rules().deleted)
            .map(Authority::One),
    };
    let Some(authority) = authority else {
        microsoft
            .inner
            .count(endpoint, named.map(|cell| cell.id), 400);
        let refusal = Refusal::because(
            90_002,
            format!(
                "Tenant '{name}' not found. Check to make sure you have the correct tenant ID and are signing into the correct \
                 cloud. Check with your subscription administrator, this may happen if there are no active subscriptions for the \
                 tenant."
            ),
        );
        let ids = Ids::new(None, microsoft.inner.clock.now());
        let answer = if endpoint == Endpoint::Authorize {
            let text = refusal.description(&ids).replace("\r\n", " ");
            Answer::html(400, pages::message(pages::TROUBLE, &text))
        } else {
            Answer::json(400, refusal.body(&ids, &base))
        };
        return answer.send(&[]).await;
    };
    let form = match parts.method {
        Method::POST => body.as_ref(),
        _ => parts.uri.query().unwrap_or_default().as_bytes(),
    };
    let call = Call {
        base,
        name: name.to_owned(),
        authority,
        method: parts.method,
        headers: parts.headers,
        fields: form_urlencoded::parse(form).into_owned().collect(),
    };
    let grant = match endpoint {
        Endpoint::Authorize => Some("authorize"),
        _ => call.field("grant_type"),
    };
    let tenant = microsoft.tenant_of(&call);
    let faults = microsoft
        .inner
        .state()
        .faults
        .hit(tenant, endpoint, grant, |_| true);
    let answer = microsoft.entra(endpoint, what, &call, &faults);
    microsoft.inner.count(endpoint, tenant, answer.status);
    answer.send(&faults).await
}

impl Microsoft {
    /// Whose request it is: what the path says, or else what was given out before.
    fn tenant_of(&self, call: &Call) -> Option<TenantId> {
        call.authority.tenant().or_else(|| {
            let state = self.inner.state();
            let code = call.field("code").and_then(|c| state.codes.get(c));
            let token = call
                .field("refresh_token")
                .and_then(|t| state.refresh.get(t));
            code.map(|c| c.tenant).or(token.map(|t| t.tenant))
        })
    }

    fn entra(&self, endpoint: Endpoint, what: &str, call: &Call, faults: &[Fault]) -> Answer {
        if let Some(answer) = faults.iter().find_map(Answer::instead) {
            return answer;
        }
        if let Some(answer) = faults.iter().find_map(|fault| self.down(fault, call)) {
            return answer;
        }
        match endpoint {
            Endpoint::Discovery => self.discovery(call),
            Endpoint::Keys => Answer::json(200, self.inner.keys.jwks(&issuer(call)))
                .with("cache-control", "max-age=86400, private"),
            Endpoint::Token => self.token(call, faults),
            _ if what.ends_with("adminconsent") => self.admin_consent(call, faults),
            _ => self.authorize(call, faults),
        }
    }

    /// What a fault of availability makes of Entra.
    fn down(&self, fault: &Fault, call: &Call) -> Option<Answer> {
        let refusal = match fault {
            Fault::EntraUnavailable | Fault::Unavailable { .. } => Refusal::new(90_033),
            Fault::ServerError => Refusal::new(50_000),
            Fault::Throttle { retry_after } => {
                let body = Refusal::new(90_055).body(&call.ids(self), &call.base);
                return Some(Answer::json(429, body).retry_after(Some(*retry_after)));
            }
            _ => return None,
        };
        let retry_after = match fault {
            Fault::Unavailable { retry_after } => *retry_after,
            _ => None,
        };
        let body = refusal.body(&call.ids(self), &call.base);
        Some(Answer::json(refusal.status(401), body).retry_after(retry_after))
    }
}

/// The `iss` of tokens, or the template of it.
fn issuer(call: &Call) -> String {
    match call.authority.tenant() {
        Some(tenant) => format!("{}/{tenant}/v2.0", call.base),
        None => format!("{}/{{tenantid}}/v2.0", call.base),
    }
}

impl Microsoft {
    /// The discovery document; of a tenant of another cloud a refusal, or the names of that cloud. `entra-oauth.md` §5.3.
    fn discovery(&self, call: &Call) -> Answer {
        let Authority::One(home) = &call.authority else {
            return discovery(call);
        };
        let rules = home.rules();
        let Some((cloud, told)) = rules.cloud else {
            return discovery(call);
        };
        if told == NationalDiscovery::Refused {
            let mut body = token::other_cloud(home, &rules).body(&call.ids(self), &call.base);
            body["error"] = "invalid_tenant".into();
            return Answer::json(400, body);
        }
        let (login, graph, region) = match cloud {
            NationalCloud::UsGovernment => {
                ("login.microsoftonline.us", "graph.microsoft.us", "USGov")
            }
            NationalCloud::China => (
                "login.partner.microsoftonline.cn",
                "microsoftgraph.chinacloudapi.cn",
                "CN",
            ),
        };
        let mut answer = discovery(call);
        if let Payload::Json(body) = &mut answer.body {
            let (from, to) = (format!("{}/", call.base), format!("https://{login}/"));
            for (name, value) in body.as_object_mut().into_iter().flatten() {
                if let Some(text) = value.as_str()
                    && name != "issuer"
                {
                    *value = text.replace(&from, &to).into();
                }
            }
            body["cloud_instance_name"] = login.trim_start_matches("login.").into();
            body["msgraph_host"] = graph.into();
            body["tenant_region_scope"] = region.into();
        }
        answer
    }
}

/// The discovery document. `entra-oauth.md` §5.1.
fn discovery(call: &Call) -> Answer {
    let base = &call.base;
    let name = match call.authority.tenant() {
        Some(tenant) => tenant.to_string(),
        None => call.name.clone(),
    };
    let host = base.split_once("://").map_or(base.as_str(), |(_, h)| h);
    let at = |path: &str| format!("{base}/{name}/{path}");
    Answer::json(
        200,
        json!({
            "token_endpoint": at("oauth2/v2.0/token"),
            "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt", "client_secret_basic"],
            "jwks_uri": at("discovery/v2.0/keys"),
            "response_modes_supported": ["query", "fragment", "form_post"],
            "subject_types_supported": ["pairwise"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "response_types_supported": ["code", "id_token", "code id_token", "id_token token"],
            "scopes_supported": ["openid", "profile", "email", "offline_access"],
            "issuer": issuer(call),
            "request_uri_parameter_supported": false,
            "userinfo_endpoint": format!("{base}/oidc/userinfo"),
            "authorization_endpoint": at("oauth2/v2.0/authorize"),
            "device_authorization_endpoint": at("oauth2/v2.0/devicecode"),
            "http_logout_supported": true,
            "frontchannel_logout_supported": true,
            "end_session_endpoint": at("oauth2/v2.0/logout"),
            "claims_supported": ["sub", "iss", "cloud_instance_name", "cloud_instance_host_name", "cloud_graph_host_name",
                "msgraph_host", "aud", "exp", "iat", "auth_time", "acr", "nonce", "preferred_username", "name", "tid", "ver",
                "at_hash", "c_hash", "email"],
            "tenant_region_scope": call.authority.tenant().map(|_| "WW"),
            "cloud_instance_name": host,
            "cloud_graph_host_name": host,
            "msgraph_host": host,
        }),
    )
    .with("cache-control", "max-age=86400, private")
    .with("access-control-allow-origin", "*")
}

/// Reads a client id.
fn client_id(text: &str) -> Option<Uuid> {
    Uuid::try_parse(text).ok()
}
