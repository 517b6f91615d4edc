//! Sends mail: alerts to operators, links to customers.
//!
//! Invariant: no address and no text of a mail server stands in an error: servers repeat addresses in what they say.

use std::path::PathBuf;
use std::time::Duration;

use lettre::message::Mailbox;
use lettre::message::header::ContentType;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor};

use crate::secret::{ReadSecretError, read_secret_file};

/// One try may last so long.
const TIMEOUT: Duration = Duration::from_secs(30);

/// How the way to the mail server is kept private.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Security {
    /// Plain first, then TLS; nothing is sent before. Port 587.
    StartTls,
    /// TLS from the start. Port 465.
    Tls,
    /// Plain: to this machine only. Port 25.
    None,
}

/// The mail server.
#[derive(Debug, Clone)]
pub struct SmtpConfig {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the way to it is kept private.
    pub security: Security,
    /// As whom to sign in, and the file of the password.
    pub login: Option<(String, PathBuf)>,
    /// From whom mails come.
    pub from: Mailbox,
    /// Certificates to trust besides those of the operating system, PEM.
    pub extra_roots: Option<PathBuf>,
}

/// Why mail cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum MailSetupError {
    /// The password.
    #[error("the password of the mail server cannot be read")]
    Password(#[from] ReadSecretError),
    /// The certificates.
    #[error("the certificates in {0} cannot be used")]
    Roots(String),
    /// TLS.
    #[error("TLS to the mail server cannot be set up for the name {0}")]
    Tls(String),
}

/// Why a mail was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MailError {
    /// It will not be taken later either.
    #[error("the mail server refuses it for good ({0})")]
    Refused(String),
    /// The server answered that it cannot now.
    #[error("the mail server cannot take it now ({0})")]
    NotNow(String),
    /// Name, network or TLS.
    #[error("the mail server cannot be reached{0}")]
    Unreachable(&'static str),
    /// What was to be sent is no mail.
    #[error("this cannot be sent as a mail")]
    Invalid,
}

/// Sends mail.
#[derive(Clone)]
pub struct Mailer {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
}

impl Mailer {
    /// Reads the files that are named. Nothing is sent, and the server is not asked.
    pub fn new(config: &SmtpConfig) -> Result<Self, MailSetupError> {
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&*config.host)
            .port(config.port)
            .timeout(Some(TIMEOUT));
        if config.security != Security::None {
            let mut tls = TlsParameters::builder(config.host.clone());
            if let Some(path) = &config.extra_roots {
                let bad = || MailSetupError::Roots(path.display().to_string());
                let pem = std::fs::read(path).map_err(|_| bad())?;
                let roots = Certificate::from_pem(&pem).map_err(|_| bad())?;
                tls = tls.add_root_certificate(roots);
            }
            let tls = tls
                .build_rustls()
                .map_err(|_| MailSetupError::Tls(config.host.clone()))?;
            builder = builder.tls(match config.security {
                Security::Tls => Tls::Wrapper(tls),
                _ => Tls::Required(tls),
            });
        }
        if let Some((user, file)) = &config.login {
            let password = read_secret_file(file)?;
            let password = password.expose().to_owned();
            builder = builder.credentials(Credentials::new(user.clone(), password));
        }
        Ok(Self {
            transport: builder.build(),
            from: config.from.clone(),
        })
    }

    /// Sends a mail of plain text. An error means that nobody has it.
    pub async fn send(&self, to: &[Mailbox], subject: &str, text: &str) -> Result<(), MailError> {
        let mut mail = Message::builder()
            .from(self.from.clone())
            .subject(one_line(subject))
            .header(ContentType::TEXT_PLAIN);
        for to in to {
            mail = mail.to(to.clone());
        }
        let mail = mail.body(text.to_owned()).map_err(|_| MailError::Invalid)?;
        match self.transport.send(mail).await {
            Ok(_) => Ok(()),
            Err(e) => Err(match e.status() {
                Some(code) if e.is_permanent() => MailError::Refused(code.to_string()),
                Some(code) => MailError::NotNow(code.to_string()),
                None if e.is_timeout() => MailError::Unreachable(": it does not answer in time"),
                None if e.is_tls() || is_tls(&e) => {
                    MailError::Unreachable(": TLS fails, see extra_roots_file")
                }
                None if e.is_client() => MailError::Unreachable(
                    ": it does not offer what is configured (security, username)",
                ),
                None => MailError::Unreachable(""),
            }),
        }
    }
}

/// Names of tenants stand in subjects; they may hold anything.
fn one_line(text: &str) -> String {
    let mut line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if line.len() > 200 {
        let end = (0..=200).rev().find(|n| line.is_char_boundary(*n));
        line.truncate(end.unwrap_or_default());
    }
    line
}

/// Whether TLS is why there is no connection: then it stands somewhere among the causes, inside of an I/O error.
fn is_tls(error: &dyn std::error::Error) -> bool {
    let mut cause = error.source();
    while let Some(e) = cause {
        let inner = e.downcast_ref::<std::io::Error>().and_then(|e| e.get_ref());
        if e.is::<rustls::Error>()
            || inner.is_some_and(<dyn std::error::Error + Send + Sync>::is::<rustls::Error>)
        {
            return true;
        }
        cause = e.source();
    }
    false
}
