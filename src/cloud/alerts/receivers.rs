//! Who is told about alerts: webhooks and mailboxes, and how each is told.

use std::fmt::Write as _;
use std::sync::Arc;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, StatusCode, header};
use serde_json::json;
use url::Url;
use uuid::Uuid;

use super::rules::Severity;
use crate::cloud::mail::{MailError, Mailer};
use crate::cloud::metrics::Channel;
use crate::cloud::operations::view::AlertLine;
use crate::cloud::store::{Addressee, Event, Message};
use crate::microsoft::{HttpTransport, Limits, TransportError};
use crate::model::Timestamp;
use crate::secret::Secret;

/// Most alerts in one mail; what is more goes into the next.
const IN_ONE_MAIL: u32 = 50;

/// Why a message has not arrived. Holds no address and nothing the receiver has said.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// The webhook did not answer.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// It answered something else than 2xx.
    #[error("it answers {0}")]
    Status(StatusCode),
    /// The mail.
    #[error(transparent)]
    Mail(#[from] MailError),
    /// The message cannot be written.
    #[error("the message cannot be written")]
    Invalid,
}

impl DeliveryError {
    /// Whether the receiver did not answer at all: then no other message would reach it just now either.
    pub fn is_silence(&self) -> bool {
        match self {
            Self::Transport(e) => matches!(
                e,
                TransportError::Connect(_)
                    | TransportError::Timeout(_)
                    | TransportError::Interrupted(_)
            ),
            Self::Mail(e) => matches!(e, MailError::Unreachable(_)),
            Self::Status(_) | Self::Invalid => false,
        }
    }
}

/// Shortest secret that is taken, in bytes.
const SHORTEST_SECRET: usize = 16;

/// Signs what is sent to one webhook.
struct Signer {
    /// As [Standard Webhooks](https://www.standardwebhooks.com) say: id, time and body.
    standard: hmac::Key,
    /// As GitHub does, which most receivers understand: the body alone.
    body: hmac::Key,
}

impl Signer {
    /// Why nobody could verify what is signed with this secret, if so.
    fn new(secret: &Secret) -> Result<Self, &'static str> {
        let text = secret.expose();
        // Tools of Standard Webhooks write their secrets so; anything else is taken as it is.
        let decoded = text.strip_prefix("whsec_").map(|s| STANDARD.decode(s));
        let decoded = decoded.transpose().map_err(
            |_| "its secret begins with whsec_, but what follows is not base64: copy all of it",
        )?;
        let standard = decoded.as_deref().unwrap_or(text.as_bytes());
        if standard.len() < SHORTEST_SECRET {
            return Err(
                "its secret is shorter than 16 bytes, which can be guessed; make one: openssl rand -base64 32",
            );
        }
        Ok(Self {
            standard: hmac::Key::new(hmac::HMAC_SHA256, standard),
            body: hmac::Key::new(hmac::HMAC_SHA256, text.as_bytes()),
        })
    }

    fn headers(&self, id: &str, at: i64, body: &[u8]) -> [(&'static str, String); 4] {
        let mut signed = format!("{id}.{at}.").into_bytes();
        signed.extend_from_slice(body);
        let standard = hmac::sign(&self.standard, &signed);
        let hub = hmac::sign(&self.body, body);
        let hub = hub.as_ref().iter().fold(String::new(), |mut hex, byte| {
            // Writing to a string does not fail.
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        [
            ("webhook-id", id.to_owned()),
            ("webhook-timestamp", at.to_string()),
            (
                "webhook-signature",
                format!("v1,{}", STANDARD.encode(standard)),
            ),
            ("x-hub-signature-256", format!("sha256={hub}")),
        ]
    }
}

enum Way {
    Webhook {
        transport: Arc<dyn HttpTransport>,
        /// May hold a secret in its path or query: never shown.
        url: Secret,
        signer: Box<Signer>,
    },
    Mail {
        mailer: Box<Mailer>,
        to: Vec<lettre::message::Mailbox>,
    },
}

/// One receiver.
pub struct Receiver {
    addressee: Addressee,
    way: Way,
    /// Where the operators' pages are, for links in messages.
    pages: Url,
}

impl Receiver {
    /// By POST, signed.
    pub fn webhook(
        name: String,
        least: Severity,
        transport: Arc<dyn HttpTransport>,
        url: Secret,
        secret: &Secret,
        pages: Url,
    ) -> Result<Self, &'static str> {
        Ok(Self {
            addressee: Addressee { name, least },
            way: Way::Webhook {
                transport,
                url,
                signer: Box::new(Signer::new(secret)?),
            },
            pages,
        })
    }

    /// By mail.
    pub fn mail(
        name: String,
        least: Severity,
        mailer: Mailer,
        to: Vec<lettre::message::Mailbox>,
        pages: Url,
    ) -> Self {
        Self {
            addressee: Addressee { name, least },
            way: Way::Mail {
                mailer: Box::new(mailer),
                to,
            },
            pages,
        }
    }

    /// Its name, and what it wants to know.
    pub fn addressee(&self) -> &Addressee {
        &self.addressee
    }

    /// The kind of way.
    pub fn channel(&self) -> Channel {
        match self.way {
            Way::Webhook { .. } => Channel::Webhook,
            Way::Mail { .. } => Channel::Mail,
        }
    }

    /// Most messages that are delivered together.
    pub fn at_once(&self) -> u32 {
        match self.way {
            Way::Webhook { .. } => 1,
            Way::Mail { .. } => IN_ONE_MAIL,
        }
    }

    fn address(&self, alert: &AlertLine) -> String {
        let base = self.pages.as_str().trim_end_matches('/');
        match alert.tenant {
            Some(tenant) => format!("{base}/tenants/{tenant}"),
            None => format!("{base}/alerts"),
        }
    }

    /// Delivers these, all or none.
    pub async fn deliver(&self, messages: &[Message], now: Timestamp) -> Result<(), DeliveryError> {
        match &self.way {
            Way::Webhook {
                transport,
                url,
                signer,
            } => {
                for message in messages {
                    let kind = format!("alert.{}", message.event.as_str());
                    let mut alert =
                        serde_json::to_value(&message.alert).map_err(|_| DeliveryError::Invalid)?;
                    alert["url"] = self.address(&message.alert).into();
                    let body = json!({ "type": kind, "timestamp": message.made_at, "data": alert });
                    let id = message.id.to_string();
                    post(transport.as_ref(), url, signer, &id, &body, now).await?;
                }
                Ok(())
            }
            Way::Mail { mailer, to } => {
                let (subject, text) = self.mail_text(messages);
                // The same messages tried again are the same mail, and no mailbox shows it twice.
                let id = messages.iter().fold(0, |all, m| all ^ m.id.as_u128());
                Ok(mailer
                    .send(Uuid::from_u128(id), to, &subject, &text)
                    .await?)
            }
        }
    }

    /// Tells the receiver that it would be told: nothing has happened.
    pub async fn test(&self, now: Timestamp) -> Result<(), DeliveryError> {
        const TEXT: &str = "This is a test. Nothing has happened.";
        match &self.way {
            Way::Webhook {
                transport,
                url,
                signer,
            } => {
                let body = json!({ "type": "test", "timestamp": now, "data": { "title": TEXT } });
                let id = Uuid::new_v4().to_string();
                post(transport.as_ref(), url, signer, &id, &body, now).await
            }
            Way::Mail { mailer, to } => {
                let sent = mailer.send(Uuid::new_v4(), to, "[test] Presence Bridge", TEXT);
                Ok(sent.await?)
            }
        }
    }

    fn mail_text(&self, messages: &[Message]) -> (String, String) {
        let headline = |m: &Message| match m.event {
            Event::Raised => format!("[{}] {}", m.alert.severity, m.alert.title),
            Event::Escalated => format!("[{}, worse] {}", m.alert.severity, m.alert.title),
            Event::Closed => format!("[over] {}", m.alert.title),
        };
        let subject = match messages {
            [one] => headline(one),
            many => {
                let first = many.iter().find(|m| m.event != Event::Closed);
                let first = first.or(many.first()).map(headline).unwrap_or_default();
                format!("{first} (and {} more)", many.len() - 1)
            }
        };
        let mut text = String::new();
        for m in messages {
            let a = &m.alert;
            text.push_str(&headline(m));
            text.push_str("\n\n");
            let _ = writeln!(text, "{}", a.cause);
            if m.event == Event::Closed {
                let closed = a.closed_at.unwrap_or(m.made_at);
                let _ = writeln!(
                    text,
                    "It began at {} and was over at {}.",
                    a.raised_at.to_minute(),
                    closed.to_minute()
                );
            } else {
                let _ = write!(
                    text,
                    "Since: {}\nWhat to do: {}\n",
                    a.raised_at.to_minute(),
                    a.cure
                );
            }
            let _ = write!(text, "{}\n\n", self.address(a));
        }
        text.push_str(
            "-- \nPresence Bridge. What each alert means: docs/operations.md, chapter Alerts.\n",
        );
        (subject, text)
    }
}

async fn post(
    transport: &dyn HttpTransport,
    url: &Secret,
    signer: &Signer,
    id: &str,
    body: &serde_json::Value,
    now: Timestamp,
) -> Result<(), DeliveryError> {
    let body = serde_json::to_vec(body).map_err(|_| DeliveryError::Invalid)?;
    let mut request = Request::post(url.expose()).header(header::CONTENT_TYPE, "application/json");
    for (name, value) in signer.headers(id, now.as_secs(), &body) {
        request = request.header(name, value);
    }
    let request = request
        .body(Bytes::from(body))
        .map_err(|_| DeliveryError::Invalid)?;
    let answer = transport.send(request, Limits::TOKEN).await?;
    if answer.status().is_success() {
        return Ok(());
    }
    Err(DeliveryError::Status(answer.status()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_those_of_the_published_examples() {
        // Example of the Standard Webhooks specification.
        let signer = Signer::new(&Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")).unwrap();
        let headers = signer.headers(
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(
            headers[2].1,
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
        );
        // Example of GitHub's documentation.
        let signer = Signer::new(&Secret::new("It's a Secret to Everybody")).unwrap();
        let headers = signer.headers("1", 1, b"Hello, World!");
        assert_eq!(
            headers[3].1,
            "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
        );
    }

    #[test]
    fn a_secret_nobody_could_use_or_anybody_could_guess_is_refused() {
        for (secret, why) in [
            ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS", "not base64"),
            ("whsec_c2hvcnQ=", "shorter than 16"),
            ("short", "shorter than 16"),
        ] {
            let refused = Signer::new(&Secret::new(secret)).err();
            assert!(refused.is_some_and(|e| e.contains(why)), "{secret}");
        }
    }
}
