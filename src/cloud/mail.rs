//! Sends mail: alerts to operators, links to customers.
//!
//! Invariant: no address and no text of a mail server stands in an error: servers repeat addresses in what they say.

use std::path::PathBuf;
use std::time::Duration;

use lettre::address::Envelope;
use lettre::message::Mailbox;
use lettre::message::header::ContentType;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor};

use tokio::time::Instant;
use uuid::Uuid;

use crate::secret::{ReadSecretError, read_secret_file};

/// One try may last so long, from the connection to the last word of the server. Shorter than an answer of the pages and of the admin API.
const TIMEOUT: Duration = Duration::from_secs(20);

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

    /// Sends a mail of plain text; the same `id` again is the same mail. Good when at least one of them has it: whoever is refused does
    /// not keep it from the others. After an error nobody has it, unless the connection broke after the last word.
    pub async fn send(
        &self,
        id: Uuid,
        to: &[Mailbox],
        subject: &str,
        text: &str,
    ) -> Result<(), MailError> {
        let mut mail = Message::builder()
            .message_id(Some(format!("<{id}@{}>", self.from.email.domain())))
            .from(self.from.clone())
            .subject(one_line(subject))
            .header(ContentType::TEXT_PLAIN);
        for to in to {
            mail = mail.to(to.clone());
        }
        let mail = mail.body(text.to_owned()).map_err(|_| MailError::Invalid)?;
        let mail = mail.formatted();
        let until = Instant::now() + TIMEOUT;
        let (mut taken, mut refused) = (0, Err(MailError::Invalid));
        for to in to {
            match self.send_to(to, &mail, until).await {
                Ok(()) => taken += 1,
                // The next ones would not get through either.
                Err(e @ MailError::Unreachable(_)) if taken == 0 => return Err(e),
                Err(e) => {
                    tracing::warn!(error = %e, "a mail was not taken for one of its recipients");
                    // What may be taken later counts more than what never will.
                    if !matches!(refused, Err(MailError::NotNow(_))) {
                        refused = Err(e);
                    }
                }
            }
        }
        if taken > 0 { Ok(()) } else { refused }
    }

    async fn send_to(&self, to: &Mailbox, mail: &[u8], until: Instant) -> Result<(), MailError> {
        let from = Some(self.from.email.clone());
        let envelope =
            Envelope::new(from, vec![to.email.clone()]).map_err(|_| MailError::Invalid)?;
        let sent = tokio::time::timeout_at(until, self.transport.send_raw(&envelope, mail));
        let Ok(sent) = sent.await else {
            return Err(MailError::Unreachable(": it does not answer in time"));
        };
        let Err(e) = sent else { return Ok(()) };
        Err(match e.status() {
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
        })
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
    use tokio::net::TcpListener;

    use super::*;

    fn mailer(port: u16) -> Mailer {
        Mailer::new(&SmtpConfig {
            host: "127.0.0.1".into(),
            port,
            security: Security::None,
            login: None,
            from: "presence@cloud.example".parse().unwrap(),
            extra_roots: None,
        })
        .unwrap()
    }

    /// A mail server that refuses everybody whose address begins so. Ends with the connections; what it was told.
    async fn server(listener: TcpListener, refused: &'static str) -> String {
        let mut told = String::new();
        while let Ok(Ok((socket, _))) =
            tokio::time::timeout(Duration::from_secs(2), listener.accept()).await
        {
            let (read, mut write) = socket.into_split();
            let mut lines = BufReader::new(read).lines();
            write.write_all(b"220 ready\r\n").await.unwrap();
            let mut in_data = false;
            while let Ok(Some(line)) = lines.next_line().await {
                told.push_str(&line);
                told.push('\n');
                let answer = match (in_data, line.as_str()) {
                    (true, ".") => "250 taken",
                    (true, _) => continue,
                    (false, "DATA") => "354 go on",
                    (false, "QUIT") => break,
                    (false, l) if l.starts_with(&format!("RCPT TO:<{refused}")) => "550 no",
                    (false, _) => "250 well",
                };
                in_data = answer.starts_with("354") || in_data && answer != "250 taken";
                let answer = format!("{answer}\r\n");
                write.write_all(answer.as_bytes()).await.unwrap();
            }
        }
        told
    }

    async fn sent(refused: &'static str, to: &[&str]) -> (Result<(), MailError>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mailer = mailer(listener.local_addr().unwrap().port());
        let to: Vec<Mailbox> = to.iter().map(|to| to.parse().unwrap()).collect();
        let send = async {
            let sent = mailer.send(Uuid::from_u128(7), &to, "[test]", "text").await;
            drop(mailer);
            sent
        };
        tokio::join!(send, server(listener, refused))
    }

    #[tokio::test]
    async fn one_who_is_refused_does_not_keep_it_from_the_others() {
        let to = ["gone@ops.example", "ann@ops.example", "ben@ops.example"];
        let (outcome, told) = sent("gone", &to).await;
        assert_eq!(outcome, Ok(()));
        assert_eq!(told.matches("DATA\n").count(), 2, "{told}");
        let id = "Message-ID: <00000000-0000-0000-0000-000000000007@cloud.example>";
        assert_eq!(told.matches(id).count(), 2, "{told}");
        let (outcome, _) = sent("", &to).await;
        assert!(matches!(outcome, Err(MailError::Refused(_))), "{outcome:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_says_nothing_is_given_up_in_time() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mailer = mailer(listener.local_addr().unwrap().port());
        let to = ["ann@ops.example".parse().unwrap()];
        let silent = async {
            let _kept = listener.accept().await.unwrap();
            std::future::pending::<()>().await;
        };
        let began = Instant::now();
        let send = mailer.send(Uuid::from_u128(7), &to, "[test]", "text");
        let outcome = tokio::select! {
            outcome = send => outcome,
            () = silent => unreachable!("for ever"),
        };
        assert_eq!(
            outcome,
            Err(MailError::Unreachable(": it does not answer in time"))
        );
        assert!(began.elapsed() <= TIMEOUT + Duration::from_secs(1));
    }
}
