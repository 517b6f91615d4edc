//! Faults by name, switchable while the simulator runs.

use serde::Deserialize;
use uuid::Uuid;

use super::counts::Endpoint;
use crate::model::TenantId;

/// Something that goes wrong at Microsoft.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Graph answers 429 and tells to wait.
    Throttle {
        /// Seconds in `Retry-After`.
        retry_after: u32,
    },
    /// Graph answers 429 and tells nothing.
    ThrottleNoRetryAfter,
    /// Graph answers 503.
    Unavailable {
        /// Seconds in `Retry-After`, if any.
        retry_after: Option<u32>,
    },
    /// Graph answers 500.
    ServerError,
    /// 502 with a page of HTML, as from a front end.
    GatewayHtml,
    /// Graph says 401: the token has expired.
    TokenExpired,
    /// Graph says 401 with a claims challenge.
    ClaimsChallenge,
    /// The presence backend says 401 `Unauthorized` out of the blue.
    Flapping401,
    /// As if the administrator had removed the consent: 403 at Graph, AADSTS65001 or 700016 for new tokens.
    ConsentWithdrawn,
    /// Graph answers 403.
    Forbidden,
    /// 200 with something that is no JSON.
    GarbageJson,
    /// 200 with JSON that ends in the middle.
    TruncatedJson,
    /// 200 with 100 MiB of JSON, which takes the simulator no memory.
    HugeBody,
    /// Answers come late.
    Slow {
        /// How late, in milliseconds.
        delay_ms: u64,
    },
    /// Headers arrive, the body never does.
    Stall,
    /// The connection breaks in the middle of the body.
    Reset,
    /// Sent to another address.
    Redirect {
        /// Where to.
        to: String,
        /// With this status, 301 to 308.
        status: u16,
    },
    /// The answer comes byte by byte, each a while after the one before, and goes on after its end.
    Drip {
        /// How long between two bytes, in milliseconds.
        delay_ms: u64,
    },
    /// 200 with JSON that does not end, in chunks; after a gibibyte it does, so that nobody is harmed by having asked.
    Endless,
    /// 200 with JSON that gzip has made a thousandth of, and that would be gigabytes.
    GzipBomb,
    /// 200 with gzip that goes on and on and holds nothing.
    GzipHollow,
    /// 200 with what calls itself gzip and is none.
    GzipGarbage,
    /// 200 with JSON nested so deep that reading it level by level would need more stack than there is.
    DeepJson,
    /// 200 with a web page, as from something that wants people to sign in before they may use the network.
    PortalPage,
    /// JSON in UTF-16.
    WrongCharset,
    /// 200 with the body of an error.
    ErrorInOk,
    /// Each list says that there is more of it, under its own address.
    EndlessPages,
    /// JSON that calls itself text/html.
    WrongContentType,
    /// Everybody shows a value nobody has heard of.
    UnknownAvailability,
    /// Values in camelCase.
    CamelCase,
    /// A presence request that contains this id fails as a whole.
    PoisonUser {
        /// Object id of the person.
        id: Uuid,
        /// With this status.
        status: u16,
    },
    /// This id is left out of presence answers.
    MissingUser {
        /// Object id of the person.
        id: Uuid,
    },
    /// 200 and nothing.
    EmptyBody,
    /// Every nullable property of a presence is null.
    NullFields,
    /// Presences carry properties nobody has heard of.
    ExtraFields,
    /// Sign-in is down: 503 for everything of Entra.
    EntraUnavailable,
    /// The token endpoint answers with this AADSTS code.
    Aadsts {
        /// The number after AADSTS.
        code: u32,
        /// Only for this grant: `client_credentials`, `authorization_code`, `refresh_token`; or `authorize`, the sign-in page.
        grant: Option<String>,
    },
    /// The token endpoint leaves out the refresh token.
    MissingRefreshToken,
    /// Tokens are granted without `Presence.Read.All`.
    ReducedScope,
    /// The token endpoint answers late.
    SlowToken {
        /// How late, in milliseconds.
        delay_ms: u64,
    },
    /// The id token is wrong.
    BadIdToken {
        /// In which way.
        flaw: IdTokenFlaw,
    },
    /// Admin consent comes back with somebody else's tenant.
    ForgedTenant,
}

/// What is wrong with an id token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdTokenFlaw {
    /// `tid` of another tenant, `iss` unchanged.
    Tid,
    /// `iss` of somebody else.
    Iss,
    /// `aud` of another app.
    Aud,
    /// Another `nonce`.
    Nonce,
    /// Expired an hour ago.
    Exp,
    /// `alg` is `none`, without a signature.
    Alg,
    /// `kid` of no key.
    Kid,
    /// A signature of nobody.
    Signature,
    /// Of the tenant of personal accounts.
    Personal,
    /// `typ` of an access token.
    Typ,
    /// No `nonce`.
    NoNonce,
    /// `alg` is HS256, the published key being the secret.
    Hs256,
    /// Issued in an hour from now.
    Future,
}

impl IdTokenFlaw {
    /// All flaws with their names.
    pub const ALL: [(&'static str, Self); 13] = [
        ("tid", Self::Tid),
        ("iss", Self::Iss),
        ("aud", Self::Aud),
        ("nonce", Self::Nonce),
        ("exp", Self::Exp),
        ("alg", Self::Alg),
        ("kid", Self::Kid),
        ("signature", Self::Signature),
        ("personal", Self::Personal),
        ("typ", Self::Typ),
        ("no-nonce", Self::NoNonce),
        ("hs256", Self::Hs256),
        ("future", Self::Future),
    ];
}

/// A fault as help and documents describe it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FaultInfo {
    /// Its name in commands and in the control API.
    pub name: &'static str,
    /// Parameters it takes, in brackets when optional.
    pub parameters: &'static str,
    /// What happens, in one line.
    pub about: &'static str,
}

const fn info(name: &'static str, parameters: &'static str, about: &'static str) -> FaultInfo {
    FaultInfo {
        name,
        parameters,
        about,
    }
}

/// Parameters of a fault as commands and the control API give them.
#[derive(Debug, Clone, Default, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct FaultParams {
    /// Seconds in `Retry-After`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u32>,
    /// Milliseconds of delay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    /// Object id of a person.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<Uuid>,
    /// HTTP status.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Address of a redirect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Grant type, or `authorize`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grant: Option<String>,
    /// What is wrong with the id token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flaw: Option<String>,
}

/// Why a fault cannot be set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFault {
    /// No fault has this name.
    #[error("there is no fault \"{0}\"")]
    UnknownName(String),
    /// It needs a parameter that was not given, or cannot read it.
    #[error("the fault \"{0}\" needs {1}")]
    Needs(&'static str, String),
}

impl Fault {
    /// Every fault.
    pub const ALL: [FaultInfo; 42] = [
        info(
            "throttle",
            "[retry_after]",
            "Graph answers 429 with Retry-After (10 s unless told).",
        ),
        info(
            "throttle-no-retry-after",
            "",
            "Graph answers 429 without Retry-After.",
        ),
        info(
            "unavailable",
            "[retry_after]",
            "Graph answers 503, with Retry-After if told.",
        ),
        info("server-error", "", "Graph answers 500."),
        info("gateway-html", "", "Graph answers 502 with a page of HTML."),
        info(
            "token-expired",
            "",
            "Graph answers 401: the access token has expired.",
        ),
        info(
            "claims-challenge",
            "",
            "Graph answers 401 with a claims challenge (insufficient_claims).",
        ),
        info(
            "flapping-401",
            "",
            "Graph answers 401 Unauthorized, as the presence backend did in 2020.",
        ),
        info(
            "consent-withdrawn",
            "",
            "Graph answers 403, and no new token is given: AADSTS65001 or 700016.",
        ),
        info("forbidden", "", "Graph answers 403."),
        info(
            "garbage-json",
            "",
            "Graph answers 200 with something that is no JSON.",
        ),
        info(
            "truncated-json",
            "",
            "Graph answers 200 with JSON that ends in the middle.",
        ),
        info("huge-body", "", "Graph answers 200 with 100 MiB of JSON."),
        info(
            "slow",
            "[delay_ms]",
            "Graph answers late (3000 ms unless told).",
        ),
        info("stall", "", "Graph sends headers and never a body."),
        info(
            "reset",
            "",
            "Graph breaks the connection in the middle of the body.",
        ),
        info(
            "redirect",
            "[to] [status]",
            "Graph answers 302, or the status told, to another host.",
        ),
        info(
            "drip",
            "[delay_ms]",
            "Graph sends its answer byte by byte (3000 ms apart unless told), and blanks after its end.",
        ),
        info(
            "endless",
            "",
            "Graph answers 200 with JSON that does not end (1 GiB, if anybody reads it).",
        ),
        info(
            "gzip-bomb",
            "",
            "Graph answers 200 with 4 MiB of gzip that would be 4 GiB of JSON.",
        ),
        info(
            "gzip-hollow",
            "",
            "Graph answers 200 with gzip that does not end and holds nothing (256 MiB, if anybody reads it).",
        ),
        info(
            "gzip-garbage",
            "",
            "Graph answers 200 with what calls itself gzip and is none.",
        ),
        info(
            "deep-json",
            "",
            "Graph answers 200 with JSON nested fifty thousand levels deep.",
        ),
        info("portal-page", "", "Graph answers 200 with a page of HTML."),
        info("wrong-charset", "", "Graph answers in UTF-16, and says so."),
        info(
            "error-in-ok",
            "",
            "Graph answers 200 with the body of an error.",
        ),
        info(
            "endless-pages",
            "",
            "Each list of Graph says that there is more of it, under its own address.",
        ),
        info(
            "wrong-content-type",
            "",
            "Graph sends JSON that calls itself text/html.",
        ),
        info(
            "unknown-availability",
            "",
            "Everybody shows an availability and activity nobody has heard of.",
        ),
        info(
            "camel-case",
            "",
            "Availability and activity are spelled in camelCase.",
        ),
        info(
            "poison-user",
            "user [status]",
            "A presence request that contains this id fails as a whole (400 unless told).",
        ),
        info(
            "missing-user",
            "user",
            "This id is left out of presence answers.",
        ),
        info("empty-body", "", "Graph answers 200 and nothing."),
        info(
            "null-fields",
            "",
            "Every nullable property of a presence is null.",
        ),
        info(
            "extra-fields",
            "",
            "Presences carry properties nobody has heard of.",
        ),
        info(
            "entra-unavailable",
            "[retry_after]",
            "Everything of Entra answers 503.",
        ),
        info(
            "aadsts:<code>",
            "[grant]",
            "The token endpoint answers with this AADSTS code; grant authorize: the sign-in page does.",
        ),
        info(
            "missing-refresh-token",
            "",
            "The token endpoint leaves out the refresh token.",
        ),
        info(
            "reduced-scope",
            "",
            "Tokens are granted without Presence.Read.All.",
        ),
        info(
            "slow-token",
            "[delay_ms]",
            "The token endpoint answers late (3000 ms unless told).",
        ),
        info(
            "bad-id-token",
            "flaw",
            "The id token is wrong: tid, iss, aud, nonce, exp, alg, kid, signature, personal, typ, no-nonce, hs256 or future.",
        ),
        info(
            "forged-tenant",
            "",
            "Admin consent comes back with the id of another tenant.",
        ),
    ];

    /// The fault with this name. `aadsts:<code>` carries its code in the name.
    pub fn parse(name: &str, params: &FaultParams) -> Result<Self, InvalidFault> {
        let delay_ms = params.delay_ms.unwrap_or(3_000);
        let user = |fault| {
            params
                .user
                .ok_or_else(|| InvalidFault::Needs(fault, "the object id of a person: user".into()))
        };
        if let Some(code) = name.strip_prefix("aadsts:") {
            let code = code.trim_start_matches("AADSTS").parse().map_err(|_| {
                InvalidFault::Needs("aadsts:<code>", "a number, as in aadsts:65001".into())
            })?;
            let grant = params.grant.clone();
            return Ok(Self::Aadsts { code, grant });
        }
        Ok(match name {
            "throttle" => Self::Throttle {
                retry_after: params.retry_after.unwrap_or(10),
            },
            "throttle-no-retry-after" => Self::ThrottleNoRetryAfter,
            "unavailable" => Self::Unavailable {
                retry_after: params.retry_after,
            },
            "server-error" => Self::ServerError,
            "gateway-html" => Self::GatewayHtml,
            "token-expired" => Self::TokenExpired,
            "claims-challenge" => Self::ClaimsChallenge,
            "flapping-401" => Self::Flapping401,
            "consent-withdrawn" => Self::ConsentWithdrawn,
            "forbidden" => Self::Forbidden,
            "garbage-json" => Self::GarbageJson,
            "truncated-json" => Self::TruncatedJson,
            "huge-body" => Self::HugeBody,
            "slow" => Self::Slow { delay_ms },
            "stall" => Self::Stall,
            "reset" => Self::Reset,
            "redirect" => Self::Redirect {
                to: params
                    .to
                    .clone()
                    .unwrap_or_else(|| "http://elsewhere.invalid/".to_owned()),
                status: match params.status {
                    Some(status @ 301..=308) => status,
                    None => 302,
                    Some(_) => {
                        let status = "a status from 301 to 308".into();
                        return Err(InvalidFault::Needs("redirect", status));
                    }
                },
            },
            "drip" => Self::Drip { delay_ms },
            "endless" => Self::Endless,
            "gzip-bomb" => Self::GzipBomb,
            "gzip-hollow" => Self::GzipHollow,
            "gzip-garbage" => Self::GzipGarbage,
            "deep-json" => Self::DeepJson,
            "portal-page" => Self::PortalPage,
            "wrong-charset" => Self::WrongCharset,
            "error-in-ok" => Self::ErrorInOk,
            "endless-pages" => Self::EndlessPages,
            "wrong-content-type" => Self::WrongContentType,
            "unknown-availability" => Self::UnknownAvailability,
            "camel-case" => Self::CamelCase,
            "poison-user" => Self::PoisonUser {
                id: user("poison-user")?,
                status: match params.status {
                    Some(status @ 400..=599) => status,
                    None => 400,
                    Some(_) => {
                        return Err(InvalidFault::Needs(
                            "poison-user",
                            "a status from 400 to 599".into(),
                        ));
                    }
                },
            },
            "missing-user" => Self::MissingUser {
                id: user("missing-user")?,
            },
            "empty-body" => Self::EmptyBody,
            "null-fields" => Self::NullFields,
            "extra-fields" => Self::ExtraFields,
            "entra-unavailable" => Self::EntraUnavailable,
            "missing-refresh-token" => Self::MissingRefreshToken,
            "reduced-scope" => Self::ReducedScope,
            "slow-token" => Self::SlowToken { delay_ms },
            "bad-id-token" => {
                let names = IdTokenFlaw::ALL.map(|(name, _)| name).join(", ");
                let wanted = params.flaw.as_deref();
                let flaw = IdTokenFlaw::ALL
                    .into_iter()
                    .find(|(name, _)| Some(*name) == wanted)
                    .ok_or(InvalidFault::Needs(
                        "bad-id-token",
                        format!("a flaw: {names}"),
                    ))?;
                Self::BadIdToken { flaw: flaw.1 }
            }
            "forged-tenant" => Self::ForgedTenant,
            _ => return Err(InvalidFault::UnknownName(name.to_owned())),
        })
    }

    /// Its name; for `aadsts` with the code.
    pub fn name(&self) -> String {
        match self {
            Self::Throttle { .. } => "throttle",
            Self::ThrottleNoRetryAfter => "throttle-no-retry-after",
            Self::Unavailable { .. } => "unavailable",
            Self::ServerError => "server-error",
            Self::GatewayHtml => "gateway-html",
            Self::TokenExpired => "token-expired",
            Self::ClaimsChallenge => "claims-challenge",
            Self::Flapping401 => "flapping-401",
            Self::ConsentWithdrawn => "consent-withdrawn",
            Self::Forbidden => "forbidden",
            Self::GarbageJson => "garbage-json",
            Self::TruncatedJson => "truncated-json",
            Self::HugeBody => "huge-body",
            Self::Slow { .. } => "slow",
            Self::Stall => "stall",
            Self::Reset => "reset",
            Self::Redirect { .. } => "redirect",
            Self::Drip { .. } => "drip",
            Self::Endless => "endless",
            Self::GzipBomb => "gzip-bomb",
            Self::GzipHollow => "gzip-hollow",
            Self::GzipGarbage => "gzip-garbage",
            Self::DeepJson => "deep-json",
            Self::PortalPage => "portal-page",
            Self::WrongCharset => "wrong-charset",
            Self::ErrorInOk => "error-in-ok",
            Self::EndlessPages => "endless-pages",
            Self::WrongContentType => "wrong-content-type",
            Self::UnknownAvailability => "unknown-availability",
            Self::CamelCase => "camel-case",
            Self::PoisonUser { .. } => "poison-user",
            Self::MissingUser { .. } => "missing-user",
            Self::EmptyBody => "empty-body",
            Self::NullFields => "null-fields",
            Self::ExtraFields => "extra-fields",
            Self::EntraUnavailable => "entra-unavailable",
            Self::Aadsts { code, .. } => return format!("aadsts:{code}"),
            Self::MissingRefreshToken => "missing-refresh-token",
            Self::ReducedScope => "reduced-scope",
            Self::SlowToken { .. } => "slow-token",
            Self::BadIdToken { .. } => "bad-id-token",
            Self::ForgedTenant => "forged-tenant",
        }
        .to_owned()
    }

    /// Whether it concerns this kind of request when its scope names none.
    fn concerns(&self, endpoint: Endpoint) -> bool {
        match self {
            Self::UnknownAvailability
            | Self::CamelCase
            | Self::PoisonUser { .. }
            | Self::MissingUser { .. }
            | Self::NullFields
            | Self::ExtraFields => endpoint == Endpoint::Presence,
            Self::EntraUnavailable => matches!(
                endpoint,
                Endpoint::Discovery | Endpoint::Keys | Endpoint::Token | Endpoint::Authorize
            ),
            Self::Aadsts { grant, .. } if grant.as_deref() == Some("authorize") => {
                endpoint == Endpoint::Authorize
            }
            Self::ForgedTenant => endpoint == Endpoint::Authorize,
            Self::Aadsts { .. }
            | Self::MissingRefreshToken
            | Self::ReducedScope
            | Self::SlowToken { .. }
            | Self::BadIdToken { .. } => endpoint == Endpoint::Token,
            Self::ConsentWithdrawn => endpoint.is_graph() || endpoint == Endpoint::Token,
            _ => endpoint.is_graph(),
        }
    }
}

/// Whom a fault hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Everybody.
    All,
    /// One tenant.
    Tenant(TenantId),
    /// Everybody, at one kind of request only.
    Endpoint(Endpoint),
    /// One tenant, at one kind of request only.
    TenantEndpoint(TenantId, Endpoint),
}

impl Scope {
    /// From its parts.
    pub const fn of(tenant: Option<TenantId>, endpoint: Option<Endpoint>) -> Self {
        match (tenant, endpoint) {
            (None, None) => Self::All,
            (Some(tenant), None) => Self::Tenant(tenant),
            (None, Some(endpoint)) => Self::Endpoint(endpoint),
            (Some(tenant), Some(endpoint)) => Self::TenantEndpoint(tenant, endpoint),
        }
    }

    /// The tenant, if it names one.
    pub const fn tenant(self) -> Option<TenantId> {
        match self {
            Self::Tenant(tenant) | Self::TenantEndpoint(tenant, _) => Some(tenant),
            Self::All | Self::Endpoint(_) => None,
        }
    }

    /// The kind of request, if it names one.
    pub const fn endpoint(self) -> Option<Endpoint> {
        match self {
            Self::Endpoint(endpoint) | Self::TenantEndpoint(_, endpoint) => Some(endpoint),
            Self::All | Self::Tenant(_) => None,
        }
    }
}

/// A fault that is switched on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActiveFault {
    /// What goes wrong.
    pub fault: Fault,
    /// For whom.
    pub scope: Scope,
    /// How many more requests it hits; `None` is until cleared.
    pub left: Option<u32>,
}

/// The faults that are on.
#[derive(Debug, Default)]
pub struct Faults(Vec<ActiveFault>);

impl Faults {
    /// Switches a fault on; the same fault with the same parameters and scope is replaced.
    pub fn set(&mut self, fault: Fault, scope: Scope, limit: Option<u32>) {
        let keyed = |a: &ActiveFault| match (&a.fault, &fault) {
            // Several people can be poison at once.
            (Fault::PoisonUser { id: a, .. }, Fault::PoisonUser { id: b, .. })
            | (Fault::MissingUser { id: a }, Fault::MissingUser { id: b }) => a == b,
            (a, b) => a.name() == b.name(),
        };
        self.0.retain(|a| a.scope != scope || !keyed(a));
        if limit != Some(0) {
            self.0.push(ActiveFault {
                fault,
                scope,
                left: limit,
            });
        }
    }

    /// Switches off all faults, or those with a name, or those of a tenant; returns how many were on.
    pub fn clear(&mut self, name: Option<&str>, tenant: Option<TenantId>) -> usize {
        let before = self.0.len();
        self.0.retain(|a| {
            name.is_some_and(|name| a.fault.name() != name)
                || tenant.is_some_and(|tenant| a.scope.tenant() != Some(tenant))
        });
        before - self.0.len()
    }

    /// What is on.
    pub fn active(&self) -> &[ActiveFault] {
        &self.0
    }

    /// The faults that hit a request, each of which counts this as one hit.
    ///
    /// `grant` is that of a token request. Faults inside a batch hit only when their scope names [`Endpoint::BatchItem`].
    pub fn hit(
        &mut self,
        tenant: Option<TenantId>,
        endpoint: Endpoint,
        grant: Option<&str>,
        applies: impl Fn(&Fault) -> bool,
    ) -> Vec<Fault> {
        let mut hits = Vec::new();
        self.0.retain_mut(|active| {
            let at_home = match active.scope.endpoint() {
                Some(wanted) => wanted == endpoint,
                None => active.fault.concerns(endpoint),
            };
            let grant_fits = match &active.fault {
                Fault::Aadsts {
                    grant: Some(wanted),
                    ..
                } => Some(wanted.as_str()) == grant,
                _ => true,
            };
            let tenant_fits = active
                .scope
                .tenant()
                .is_none_or(|wanted| Some(wanted) == tenant);
            if !(at_home && grant_fits && tenant_fits && applies(&active.fault)) {
                return true;
            }
            hits.push(active.fault.clone());
            if let Some(left) = &mut active.left {
                *left -= 1;
            }
            active.left != Some(0)
        });
        hits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_can_be_parsed_by_its_name() {
        let params = FaultParams {
            user: Some(Uuid::nil()),
            flaw: Some("kid".into()),
            ..FaultParams::default()
        };
        for info in Fault::ALL {
            let name = info.name.replace("<code>", "65001");
            assert_eq!(Fault::parse(&name, &params).unwrap().name(), name);
        }
        assert!(matches!(
            Fault::parse("typo", &params),
            Err(InvalidFault::UnknownName(_))
        ));
        assert!(matches!(
            Fault::parse("poison-user", &FaultParams::default()),
            Err(InvalidFault::Needs("poison-user", _))
        ));
    }

    #[test]
    fn a_fault_hits_its_tenant_and_ends_after_its_count() {
        let (a, b) = (TenantId(Uuid::nil()), TenantId(Uuid::max()));
        let mut faults = Faults::default();
        faults.set(Fault::ServerError, Scope::Tenant(a), Some(2));
        let mut hit = |tenant, endpoint| faults.hit(Some(tenant), endpoint, None, |_| true).len();
        assert_eq!(hit(b, Endpoint::Presence), 0);
        assert_eq!(hit(a, Endpoint::Token), 0);
        assert_eq!(hit(a, Endpoint::Presence), 1);
        assert_eq!(hit(a, Endpoint::Users), 1);
        assert_eq!(hit(a, Endpoint::Users), 0);
    }

    #[test]
    fn a_grant_can_be_singled_out() {
        let mut faults = Faults::default();
        let grant = Some("refresh_token".to_owned());
        faults.set(
            Fault::Aadsts {
                code: 50_076,
                grant,
            },
            Scope::All,
            None,
        );
        let mut hit = |grant| {
            !faults
                .hit(None, Endpoint::Token, grant, |_| true)
                .is_empty()
        };
        assert!(hit(Some("refresh_token")));
        assert!(!hit(Some("client_credentials")));
    }

    #[test]
    fn clearing_by_name_leaves_the_rest() {
        let mut faults = Faults::default();
        faults.set(Fault::Stall, Scope::All, None);
        faults.set(Fault::Reset, Scope::All, None);
        assert_eq!(faults.clear(Some("stall"), None), 1);
        assert_eq!(faults.active().len(), 1);
        assert_eq!(faults.clear(None, None), 1);
    }
}
