//! AADSTS codes and the error bodies of Entra. `entra-oauth.md` §3 and §9; `error` names per code are usual, not guaranteed.

use serde_json::{Value, json};
use time::OffsetDateTime;
use time::macros::format_description;
use uuid::Uuid;

use crate::model::Timestamp;

/// Why Entra refuses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The number after AADSTS.
    pub code: u32,
    /// Put in place of the usual text.
    pub detail: Option<String>,
}

impl Refusal {
    pub const fn new(code: u32) -> Self {
        Self { code, detail: None }
    }

    pub fn because(code: u32, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: Some(detail.into()),
        }
    }

    /// The OAuth `error`.
    pub const fn error(&self) -> &'static str {
        match self.code {
            7_000_215 | 7_000_222 | 7_000_218 | 70_002 | 700_025 | 700_027 | 700_030 | 50_012
            | 50_013 | 50_003 | 500_133 | 50_027 => "invalid_client",
            700_016 | 700_011 | 70_001 | 7_000_112 | 50_194 | 1_000_031 | 700_054 => {
                "unauthorized_client"
            }
            50_072 | 50_074 | 50_076 | 50_078 | 50_079 | 50_158 | 53_000 | 53_001 | 53_002
            | 16_000 | 50_058 => "interaction_required",
            65_004 | 53_003 | 90_094 | 90_095 => "access_denied",
            90_002 => "invalid_tenant",
            70_003 => "unsupported_grant_type",
            70_005 => "unsupported_response_type",
            70_011 | 28_002 | 28_003 | 700_022 | 700_023 => "invalid_scope",
            500_011 | 50_001 => "invalid_resource",
            50_011 | 900_971 | 900_144 | 90_013 | 90_014 | 90_023 | 90_100 | 9_002_313
            | 9_001_023 | 90_019 | 90_056 | 900_561 | 50_196 => "invalid_request",
            90_033 | 90_006 | 90_024 | 90_012 | 90_090 | 50_033 | 50_087 | 40_010 | 90_055 => {
                "temporarily_unavailable"
            }
            50_000 | 90_036 => "server_error",
            _ => "invalid_grant",
        }
    }

    fn suberror(&self) -> Option<&'static str> {
        match self.code {
            70_000 | 50_173 | 700_082 => Some("bad_token"),
            70_043 => Some("token_expired"),
            65_001 => Some("consent_required"),
            50_076 | 50_079 | 50_072 => Some("basic_action"),
            53_000 | 53_003 => Some("message_only"),
            50_055 | 50_144 => Some("user_password_expired"),
            _ => None,
        }
    }

    /// HTTP status; `invalid_client` is what the switch says.
    pub fn status(&self, invalid_client: u16) -> u16 {
        match self.error() {
            "invalid_client" => invalid_client,
            "temporarily_unavailable" => 503,
            "server_error" => 500,
            _ => 400,
        }
    }

    /// `AADSTSnnnnn: text`.
    pub fn text(&self) -> String {
        let text = self.detail.as_deref().unwrap_or(match self.code {
            7_000_215 => {
                "Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, not the client secret ID."
            }
            7_000_222 => "The provided client secret keys are expired.",
            7_000_218 => {
                "The request body must contain the following parameter: 'client_assertion' or 'client_secret'."
            }
            700_027 => "Client assertion failed signature validation.",
            700_016 => "Application was not found in the directory.",
            65_001 => "The user or administrator has not consented to use the application.",
            65_004 => "User declined to consent to access the app.",
            70_000 => "The provided value for the input parameter 'refresh_token' is not valid.",
            70_008 => {
                "The provided authorization code or refresh token has expired due to inactivity. Send a new interactive authorization request for this user and resource."
            }
            700_082 => "The refresh token has expired due to inactivity.",
            700_005 => "The provided authorization code is intended to use against other tenant, thus rejected.",
            54_005 => {
                "OAuth2 Authorization code was already redeemed, please retry with a new valid code or use an existing refresh token."
            }
            501_481 => {
                "The Code_Verifier does not match the code_challenge supplied in the authorization request."
            }
            50_011 => {
                "The redirect URI specified in the request does not match the redirect URIs configured for the application."
            }
            50_034 => "The user account does not exist in the directory.",
            50_057 => "The user account is disabled.",
            50_076 => {
                "Due to a configuration change made by your administrator, or because you moved to a new location, you must use multi-factor authentication to access Microsoft Graph."
            }
            50_173 => {
                "The provided grant has expired due to it being revoked, a fresh auth token is needed."
            }
            50_196 => "The server terminated an operation because it encountered a client request loop.",
            50_058 => "A silent sign-in request was sent but no user is signed in.",
            90_094 => "The grant requires administrator permission.",
            70_011 => "The provided value for the input parameter 'scope' is not valid.",
            70_003 => "The app requested an unsupported grant type.",
            90_033 => "A transient error has occurred. Please try again.",
            _ => "The simulator was told to refuse with this code.",
        });
        format!("AADSTS{}: {text}", self.code)
    }

    /// `error_description`, with ids and time as Entra appends them.
    pub fn description(&self, ids: &Ids) -> String {
        format!(
            "{}\r\nTrace ID: {}\r\nCorrelation ID: {}\r\nTimestamp: {}",
            self.text(),
            ids.trace,
            ids.correlation,
            ids.time
        )
    }

    /// The body of a refusal by the token endpoint. `reference` is the address of the page that explains codes.
    pub fn body(&self, ids: &Ids, base: &str) -> Value {
        let mut body = json!({
            "error": self.error(),
            "error_description": self.description(ids),
            "error_codes": [self.code],
            "timestamp": ids.time,
            "trace_id": ids.trace,
            "correlation_id": ids.correlation,
            "error_uri": format!("{base}/error?code={}", self.code),
        });
        if let Some(suberror) = self.suberror() {
            body["suberror"] = suberror.into();
        }
        if matches!(self.code, 50_076 | 50_079 | 53_000 | 53_003) {
            body["claims"] =
                r#"{"access_token":{"capolids":{"essential":true,"values":["00000000-0000-0000-0000-00000000ca01"]}}}"#.into();
        }
        body
    }
}

/// What Entra adds to a refusal so that support can find it.
#[derive(Debug, Clone)]
pub struct Ids {
    pub trace: Uuid,
    pub correlation: Uuid,
    pub time: String,
}

impl Ids {
    pub fn new(correlation: Option<&str>, now: Timestamp) -> Self {
        Self {
            trace: Uuid::new_v4(),
            correlation: correlation
                .and_then(|c| Uuid::try_parse(c).ok())
                .unwrap_or_else(Uuid::new_v4),
            time: OffsetDateTime::from_unix_timestamp(now.as_secs())
                .ok()
                .and_then(|t| {
                    t.format(format_description!(
                        "[year]-[month]-[day] [hour]:[minute]:[second]Z"
                    ))
                    .ok()
                })
                .unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_has_the_documented_body() {
        let ids = Ids::new(
            Some("6c5e5ab8-7ad1-4bd3-9d21-46ffd5ae9a40"),
            Timestamp::from_secs(1_767_924_132),
        );
        let body = Refusal::new(700_082).body(&ids, "http://login");
        assert_eq!(body["error"], "invalid_grant");
        assert_eq!(body["error_codes"], json!([700_082]));
        assert_eq!(body["timestamp"], "2026-01-09 02:02:12Z");
        let text = body["error_description"].as_str().unwrap();
        assert!(text.starts_with("AADSTS700082: The refresh token has expired"));
        assert!(text.contains("\r\nTrace ID: "));
        assert!(text.contains("\r\nCorrelation ID: 6c5e5ab8-7ad1-4bd3-9d21-46ffd5ae9a40\r\n"));
        assert!(text.ends_with("\r\nTimestamp: 2026-01-09 02:02:12Z"));
        assert_eq!(body["suberror"], "bad_token");
        assert_eq!(body["error_uri"], "http://login/error?code=700082");
    }
}
