//! The token endpoint. `entra-oauth.md` §3, §7.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use uuid::{Uuid, uuid};

use super::aadsts::Refusal;
use super::keys::jws_message;
use super::{Authority, Call};
use crate::model::{TenantId, Timestamp};
use crate::secret::{random_token, sha256};
use crate::simulator::answer::Answer;
use crate::simulator::directory::Entry;
use crate::simulator::faults::{Fault, IdTokenFlaw};
use crate::simulator::tenant::{Cell, NationalCloud, Rules};
use crate::simulator::world::{AccessToken, Code, Holder, Microsoft, RefreshToken, SignedIn};

/// A refresh token nobody used for so long has expired. `entra-oauth.md` §7.
const IDLE_LIFE: Duration = Duration::from_hours(90 * 24);

/// Window of the loop detection.
const LOOP_WINDOW: Duration = Duration::from_mins(5);

/// The tenant of personal accounts.
pub const PERSONAL: Uuid = uuid!("9188040d-6c67-4c5b-b112-36a304b66dad");

/// Role templates that `wids` names: global administrator, and every user.
const ADMINISTRATOR: &str = "62e90394-69f5-4237-9190-012177145e10";
const USER: &str = "b79fbf4d-3ef9-4689-8143-76b194e85509";

/// Prefix of Graph's scopes at Microsoft.
const GRAPH: &str = "https://graph.microsoft.com/";

/// Scopes of `OpenID` Connect, which belong to no resource.
const OIDC: [&str; 4] = ["openid", "profile", "email", "offline_access"];

/// Who gets delegated tokens, and how.
struct Delegation {
    client: Uuid,
    tenant: TenantId,
    person: Uuid,
    scopes: Vec<String>,
    nonce: Option<String>,
    signed_in: SignedIn,
}

impl Microsoft {
    pub(super) fn token(&self, call: &Call, faults: &[Fault]) -> Answer {
        let granted = self.grant(call, faults);
        let answer = match granted {
            Ok(body) => Answer::json(200, body),
            Err(refusal) => {
                let status = refusal.status(self.inner.switches().invalid_client_status);
                Answer::json(status, refusal.body(&call.ids(self), &call.base))
            }
        };
        answer
            .with("cache-control", "no-store, no-cache")
            .with("pragma", "no-cache")
            .with("expires", "-1")
            .with("x-ms-request-id", Uuid::new_v4().to_string())
            .with("x-ms-ests-server", "2.1.12261.12 - NEULR1 ProdSlices")
            .with("x-ms-clitelem", "1,0,0,,")
            .with(
                "strict-transport-security",
                "max-age=31536000; includeSubDomains",
            )
    }

    fn grant(&self, call: &Call, faults: &[Fault]) -> Result<Value, Refusal> {
        if call.method != http::Method::POST {
            return Err(Refusal::because(
                900_561,
                "The endpoint only accepts POST requests.",
            ));
        }
        if let Some(Fault::Aadsts { code, .. }) =
            faults.iter().find(|f| matches!(f, Fault::Aadsts { .. }))
        {
            return Err(Refusal::new(*code));
        }
        let client = self.authenticate(call)?;
        let grant = call.field("grant_type").ok_or_else(|| {
            Refusal::because(
                900_144,
                "The request body must contain the following parameter: 'grant_type'.",
            )
        })?;
        match grant {
            "client_credentials" => self.client_credentials(call, client, faults),
            "authorization_code" => self.authorization_code(call, client, faults),
            "refresh_token" => self.refresh(call, client, faults),
            _ => Err(Refusal::new(70_003)),
        }
    }

    fn detect_loop(&self, client: Uuid, tenant: TenantId, grant: &str) -> Result<(), Refusal> {
        let Some(limit) = self.inner.switches().loop_detection else {
            return Ok(());
        };
        let now = self.inner.clock.now();
        let mut state = self.inner.state();
        let asked = state
            .asked
            .entry((client, tenant, grant.to_owned()))
            .or_default();
        asked.push_back(now);
        while asked
            .front()
            .is_some_and(|at| *at <= now.minus(LOOP_WINDOW))
        {
            asked.pop_front();
        }
        if asked.len() > usize::try_from(limit).unwrap_or(usize::MAX) {
            return Err(Refusal::new(50_196));
        }
        Ok(())
    }

    fn client_credentials(
        &self,
        call: &Call,
        client: Uuid,
        faults: &[Fault],
    ) -> Result<Value, Refusal> {
        let Authority::One(home) = &call.authority else {
            return Err(Refusal::because(
                9_001_023,
                "The grant type is not supported over the /common or /consumers endpoints. Please use the /organizations or tenant-specific endpoint.",
            ));
        };
        let scope = call.field("scope").unwrap_or_default();
        if !scope
            .strip_suffix(".default")
            .is_some_and(|resource| is_graph(resource, &call.base))
        {
            return Err(Refusal::because(
                70_011,
                format!(
                    "The provided request must include a 'scope' input parameter. The provided value for the input parameter 'scope' is not valid. The scope {scope} is not valid."
                ),
            ));
        }
        self.detect_loop(client, home.id, "client_credentials")?;
        if home.rules().disabled_apps.contains(&client) {
            return Err(Refusal::new(7_000_112));
        }
        let switches = self.inner.switches();
        let now = self.inner.clock.now();
        let consent = home
            .consent(client)
            .filter(|c| now >= c.since.plus(switches.consent_propagation))
            .filter(|_| !faults.contains(&Fault::ConsentWithdrawn))
            .ok_or(Refusal::new(switches.no_consent_application))?;
        let mut roles = consent.application;
        if faults.contains(&Fault::ReducedScope) {
            roles.retain(|r| r != "Presence.Read.All");
        }
        let (token, life) = self.access_token(client, home.id, Holder::Application, roles);
        Ok(json!({
            "token_type": "Bearer",
            "expires_in": self.seconds(life),
            "ext_expires_in": self.seconds(life),
            "access_token": token,
        }))
    }

    fn authorization_code(
        &self,
        call: &Call,
        client: Uuid,
        faults: &[Fault],
    ) -> Result<Value, Refusal> {
        let now = self.inner.clock.now();
        let missing = |name: &str| {
            Refusal::because(
                900_144,
                format!("The request body must contain the following parameter: '{name}'."),
            )
        };
        let sent = call.field("code").ok_or_else(|| missing("code"))?;
        let mut state = self.inner.state();
        let code = state.codes.get_mut(sent).ok_or_else(|| {
            Refusal::because(
                9_002_313,
                "Invalid request. Request is malformed or invalid.",
            )
        })?;
        if code.client != client {
            return Err(Refusal::because(
                70_000,
                "The provided value for the input parameter 'code' is not valid.",
            ));
        }
        if code.used {
            return Err(Refusal::new(54_005));
        }
        if now >= code.expires {
            return Err(Refusal::new(70_008));
        }
        let same_authority = code.authority.eq_ignore_ascii_case(&call.name)
            || code.authority
                == call
                    .authority
                    .tenant()
                    .map(|t| t.to_string())
                    .unwrap_or_default();
        if !same_authority {
            return Err(Refusal::new(700_005));
        }
        if call.field("redirect_uri") != Some(code.redirect_uri.as_str()) {
            return Err(Refusal::because(
                50_011,
                "The redirect URI specified in the request does not match the one the code was issued for.",
            ));
        }
        if let Some(challenge) = &code.challenge {
            let verifier = call.field("code_verifier").ok_or(Refusal::new(501_481))?;
            let right = URL_SAFE_NO_PAD.encode(sha256(verifier.as_bytes())) == *challenge;
            if !right || !(43..=128).contains(&verifier.len()) {
                return Err(Refusal::new(501_481));
            }
        }
        code.used = true;
        let code = code.clone();
        drop(state);
        if let Some(address) = &code.personal {
            return Ok(self.personal_tokens(call, client, &code, address, faults));
        }
        let delegation = Delegation {
            client,
            tenant: code.tenant,
            person: code.person,
            scopes: code.scopes,
            nonce: code.nonce,
            signed_in: code.signed_in,
        };
        self.delegate(call, delegation, faults)
    }

    fn refresh(&self, call: &Call, client: Uuid, faults: &[Fault]) -> Result<Value, Refusal> {
        let now = self.inner.clock.now();
        let sent = call.field("refresh_token").ok_or_else(|| {
            Refusal::because(
                900_144,
                "The request body must contain the following parameter: 'refresh_token'.",
            )
        })?;
        let known = self.inner.state().refresh.get(sent).cloned();
        let token = known
            .filter(|t| t.client == client)
            // Bound to user and client; a tenant the user is no member of has nobody by that id.
            .filter(|t| call.authority.tenant().is_none_or(|id| id == t.tenant))
            .ok_or(Refusal::new(70_000))?;
        self.detect_loop(client, token.tenant, "refresh_token")?;
        if token.revoked {
            return Err(Refusal::new(50_173));
        }
        if token.issued.plus(IDLE_LIFE) <= now {
            return Err(Refusal::because(
                700_082,
                format!(
                    "The refresh token has expired due to inactivity. The token was issued on {} and was inactive for 90.00:00:00.",
                    token.issued
                ),
            ));
        }
        let mut scopes = token.scopes.clone();
        if let Some(asked) = call.field("scope") {
            let asked = requested_scopes(asked, &call.base)?;
            if !asked.iter().any(|s| s == ".default") {
                scopes.retain(|s| asked.iter().any(|a| a.eq_ignore_ascii_case(s)));
            }
        }
        let delegation = Delegation {
            client,
            tenant: token.tenant,
            person: token.person,
            scopes,
            nonce: None,
            signed_in: token.signed_in,
        };
        let body = self.delegate(call, delegation, faults)?;
        if self.inner.switches().refresh_revokes_old
            && let Some(old) = self.inner.state().refresh.get_mut(sent)
        {
            old.revoked = true;
        }
        Ok(body)
    }

    /// Tokens for a person, if the account and the consent still stand.
    fn delegate(&self, call: &Call, who: Delegation, faults: &[Fault]) -> Result<Value, Refusal> {
        let switches = self.inner.switches();
        let now = self.inner.clock.now();
        let home = self.inner.cell(who.tenant).ok_or(Refusal::new(90_002))?;
        let entry = home
            .directory()
            .by_id(who.person)
            .cloned()
            .ok_or(Refusal::new(50_034))?;
        standing(&home, &entry, who.client, who.signed_in, now)?;
        let consent = home
            .consent(who.client)
            .filter(|_| !faults.contains(&Fault::ConsentWithdrawn))
            .ok_or(Refusal::new(switches.no_consent_delegated))?;
        let mut scopes: Vec<String> = who
            .scopes
            .iter()
            .filter(|s| OIDC.contains(&s.as_str()) || consent.delegated_to(who.person, s))
            .cloned()
            .collect();
        if faults.contains(&Fault::ReducedScope) {
            scopes.retain(|s| s != "Presence.Read.All");
        }
        let of_graph = |s: &String| !OIDC.contains(&s.as_str());
        if who.scopes.iter().any(of_graph) && !scopes.iter().any(of_graph) {
            return Err(Refusal::new(switches.no_consent_delegated));
        }
        let offline = who.scopes.iter().any(|s| s == "offline_access");
        let holder = Holder::Person(who.person, scopes.clone());
        let (token, life) = self.access_token(who.client, who.tenant, holder, Vec::new());
        let named: Vec<String> = scopes
            .iter()
            .filter(|s| switches.echo_offline_access || *s != "offline_access")
            .map(|s| {
                if OIDC.contains(&s.as_str()) || !switches.scope_prefix {
                    s.clone()
                } else {
                    format!("{GRAPH}{s}")
                }
            })
            .collect();
        let mut body = json!({
            "token_type": "Bearer",
            "scope": named.join(" "),
            "expires_in": self.seconds(life),
            "ext_expires_in": self.seconds(life),
            "access_token": token,
        });
        if offline && !faults.contains(&Fault::MissingRefreshToken) {
            let refresh = format!("1.{}", random_token());
            body["refresh_token"] = refresh.clone().into();
            self.inner.state().refresh.insert(
                refresh,
                RefreshToken {
                    client: who.client,
                    tenant: who.tenant,
                    person: who.person,
                    scopes: who.scopes.clone(),
                    issued: now,
                    signed_in: who.signed_in,
                    revoked: false,
                },
            );
        }
        if who.scopes.iter().any(|s| s == "openid") {
            let mut claims = json!({
                "aud": who.client, "iss": format!("{}/{}/v2.0", call.base, who.tenant),
                "iat": now.as_secs(), "nbf": now.as_secs(), "exp": now.as_secs() + 3_600,
                "name": entry.display_name(), "oid": who.person,
                "preferred_username": entry.mail.as_ref().unwrap_or(&entry.upn),
                "sub": URL_SAFE_NO_PAD.encode(sha256(format!("{}{}", who.person, who.client).as_bytes())),
                "tid": who.tenant.to_string(), "ver": "2.0", "uti": URL_SAFE_NO_PAD.encode(Uuid::new_v4()),
                "rh": "0.", "aio": random_token(),
            });
            if let Some(mail) = &entry.mail {
                let home = self.inner.home_of(mail);
                claims["idp"] = format!("https://sts.windows.net/{home}/").into();
                claims["email"] = mail.as_str().into();
            }
            if switches.wids {
                claims["wids"] = if entry.administrator {
                    json!([ADMINISTRATOR, USER])
                } else {
                    json!([USER])
                };
            }
            body["id_token"] = self
                .id_token(claims, who.nonce, flaw(faults), &call.base)
                .into();
        }
        Ok(body)
    }

    /// What a personal account gets: an id token of the tenant of such accounts, and nothing that opens Graph.
    fn personal_tokens(
        &self,
        call: &Call,
        client: Uuid,
        code: &Code,
        address: &str,
        faults: &[Fault],
    ) -> Value {
        let now = self.inner.clock.now().as_secs();
        let mut body = json!({
            "token_type": "Bearer", "scope": "openid profile", "expires_in": self.seconds(3_600),
            "ext_expires_in": self.seconds(3_600), "access_token": format!("EwB.{}", random_token()),
        });
        if code.scopes.iter().any(|s| s == "openid") {
            let claims = json!({
                "aud": client, "iss": format!("{}/{PERSONAL}/v2.0", call.base), "iat": now, "nbf": now, "exp": now + 3_600,
                "name": address, "oid": code.person, "preferred_username": address,
                "sub": URL_SAFE_NO_PAD.encode(sha256(format!("{}{client}", code.person).as_bytes())),
                "tid": PERSONAL, "ver": "2.0", "uti": URL_SAFE_NO_PAD.encode(Uuid::new_v4()), "rh": "0.",
            });
            let nonce = code.nonce.clone();
            body["id_token"] = self
                .id_token(claims, nonce, flaw(faults), &call.base)
                .into();
        }
        body
    }

    fn id_token(
        &self,
        mut claims: Value,
        nonce: Option<String>,
        flaw: Option<IdTokenFlaw>,
        base: &str,
    ) -> String {
        if let Some(nonce) = nonce {
            claims["nonce"] = nonce.into();
        }
        let keys = &self.inner.keys;
        match flaw {
            None => {}
            Some(IdTokenFlaw::Tid) => claims["tid"] = Uuid::new_v4().to_string().into(),
            Some(IdTokenFlaw::Iss) => {
                claims["iss"] = format!("{base}/{}/v2.0", Uuid::new_v4()).into();
            }
            Some(IdTokenFlaw::Aud) => claims["aud"] = Uuid::new_v4().to_string().into(),
            Some(IdTokenFlaw::Nonce) => claims["nonce"] = random_token().into(),
            Some(IdTokenFlaw::Exp) => {
                let now = self.inner.clock.now().as_secs();
                claims["nbf"] = (now - 7_200).into();
                claims["iat"] = (now - 7_200).into();
                claims["exp"] = (now - 3_600).into();
            }
            Some(IdTokenFlaw::Alg) => {
                let header = json!({ "typ": "JWT", "alg": "none" });
                return format!("{}.", jws_message(&header, &claims));
            }
            Some(IdTokenFlaw::Kid) => {
                return keys.sign(&claims, "JWT", Some("a-key-nobody-published"));
            }
            Some(IdTokenFlaw::Typ) => return keys.sign(&claims, "at+jwt", None),
            Some(IdTokenFlaw::NoNonce) => {
                if let Some(claims) = claims.as_object_mut() {
                    claims.remove("nonce");
                }
            }
            Some(IdTokenFlaw::Hs256) => return keys.sign_hs256(&claims),
            Some(IdTokenFlaw::Future) => {
                let now = self.inner.clock.now().as_secs();
                claims["nbf"] = (now + 3_600).into();
                claims["iat"] = (now + 3_600).into();
                claims["exp"] = (now + 7_200).into();
            }
            Some(IdTokenFlaw::Signature) => {
                let token = keys.sign(&claims, "JWT", None);
                let message = token.rsplit_once('.').map_or("", |(message, _)| message);
                return format!("{message}.{}", URL_SAFE_NO_PAD.encode([7; 256]));
            }
            Some(IdTokenFlaw::Personal) => {
                claims["tid"] = PERSONAL.to_string().into();
                claims["iss"] = format!("{base}/{PERSONAL}/v2.0").into();
            }
        }
        keys.sign(&claims, "JWT", None)
    }

    /// A new access token and its life in seconds. Microsoft's is opaque to clients; this one is a random text.
    fn access_token(
        &self,
        client: Uuid,
        tenant: TenantId,
        holder: Holder,
        roles: Vec<String>,
    ) -> (String, u32) {
        let fixed = self.inner.switches().expires_in;
        let now = self.inner.clock.now();
        let mut state = self.inner.state();
        let life = fixed.unwrap_or_else(|| state.rng.u32(3_600..=5_400));
        state.serial += 1;
        if state.serial.is_multiple_of(1_024) {
            let long_ago = now.minus(Duration::from_hours(1));
            state.access.retain(|_, t| t.expires > long_ago);
        }
        let token = format!("EwB.{}{}", random_token(), random_token());
        let expires = now.plus(Duration::from_secs(life.into()));
        state.access.insert(
            token.clone(),
            AccessToken {
                client,
                tenant,
                holder,
                roles,
                expires,
            },
        );
        (token, life)
    }

    fn seconds(&self, life: u32) -> Value {
        if self.inner.switches().expires_in_as_text {
            life.to_string().into()
        } else {
            life.into()
        }
    }
}

/// What stands against tokens for an account, whatever it consented to. `entra-oauth.md` §7 and §9.
pub fn standing(
    home: &Cell,
    entry: &Entry,
    client: Uuid,
    signed_in: SignedIn,
    now: Timestamp,
) -> Result<(), Refusal> {
    let rules = home.rules();
    if rules.cloud.is_some() {
        return Err(other_cloud(home, &rules));
    }
    let assigned = rules.assigned.get(&client);
    let code = if rules.disabled_apps.contains(&client) {
        7_000_112
    } else if !entry.enabled {
        50_057
    } else if rules.blocked {
        53_003
    } else if assigned.is_some_and(|people| !people.contains(&entry.id)) {
        50_105
    } else if entry.mfa && !signed_in.mfa {
        50_076
    } else if rules
        .sign_in_every
        .is_some_and(|every| signed_in.at.plus(every) <= now)
    {
        70_043
    } else {
        return Ok(());
    };
    Err(Refusal::new(code))
}

/// What the global cloud says about a tenant of another one.
pub fn other_cloud(home: &Cell, rules: &Rules) -> Refusal {
    let code = match rules.cloud {
        Some((NationalCloud::China, _)) => 900_382,
        _ => 90_038,
    };
    let detail = format!(
        "Confidential Client is not supported in Cross Cloud request, or tenant '{}' belongs to another national cloud.",
        home.domain
    );
    Refusal::because(code, detail)
}

fn flaw(faults: &[Fault]) -> Option<IdTokenFlaw> {
    faults.iter().find_map(|f| match f {
        Fault::BadIdToken { flaw } => Some(*flaw),
        _ => None,
    })
}

/// Whether the part of a scope before the permission names Graph. Something in front of the simulator may terminate TLS.
fn is_graph(resource: &str, base: &str) -> bool {
    let without_scheme = |url: &str| {
        let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
        rest.trim_end_matches('/').to_owned()
    };
    resource == GRAPH || without_scheme(resource) == without_scheme(base)
}

/// The scopes of a request, without the prefix of Graph. Scopes of another resource are refused.
pub fn requested_scopes(text: &str, base: &str) -> Result<Vec<String>, Refusal> {
    text.split_whitespace()
        .map(|scope| match scope.rsplit_once('/') {
            None => Ok(scope.to_owned()),
            Some((resource, name)) if is_graph(&format!("{resource}/"), base) => {
                Ok(name.to_owned())
            }
            Some(_) => Err(Refusal::because(
                500_011,
                format!("The resource principal named in {scope} was not found in the tenant."),
            )),
        })
        .collect()
}

/// When an authorization code handed out at `now` expires. `entra-oauth.md` §2.1.
pub fn code_expiry(now: Timestamp) -> Timestamp {
    now.plus(Duration::from_mins(10))
}
