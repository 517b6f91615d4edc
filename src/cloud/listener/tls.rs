//! TLS of a listener, with certificates that are read anew while it serves.

use std::path::Path;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::cloud::metrics::CertificateFigures;
use crate::cloud::tokens::chain;
use crate::config::listeners::TlsFiles;
use crate::model::Timestamp;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// Why TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsSetupError {
    /// A file cannot be read.
    #[error("cannot read {0}")]
    Read(String, #[source] std::io::Error),
    /// A file does not hold what it should.
    #[error("cannot read {0}")]
    File(String, #[source] rustls::pki_types::pem::Error),
    /// The file holds no certificate.
    #[error("{0} holds no certificate")]
    NoCertificate(String),
    /// The two do not go together, or the key is of a kind that cannot be used.
    #[error("the certificate and the private key cannot be used together")]
    Unusable(#[source] rustls::Error),
}

/// What the two files hold.
#[derive(PartialEq, Eq)]
struct Files {
    certificate: Vec<u8>,
    private_key: Vec<u8>,
}

impl Files {
    fn read(files: &TlsFiles) -> Result<Self, TlsSetupError> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|e| TlsSetupError::Read(path.display().to_string(), e))
        };
        Ok(Self {
            certificate: read(&files.certificate)?,
            private_key: read(&files.private_key)?,
        })
    }

    fn key(&self, files: &TlsFiles, provider: &CryptoProvider) -> Result<Served, TlsSetupError> {
        let failed = |path: &Path| {
            let name = path.display().to_string();
            move |e| TlsSetupError::File(name, e)
        };
        let chain: Vec<_> = CertificateDer::pem_slice_iter(&self.certificate)
            .collect::<Result<_, _>>()
            .map_err(failed(&files.certificate))?;
        let Some(first) = chain.first() else {
            let name = files.certificate.display().to_string();
            return Err(TlsSetupError::NoCertificate(name));
        };
        let ends = crate::microsoft::entra::certificate_ends(first);
        let key =
            PrivateKeyDer::from_pem_slice(&self.private_key).map_err(failed(&files.private_key))?;
        let key = CertifiedKey::from_der(chain, key, provider).map_err(TlsSetupError::Unusable)?;
        Ok(Served {
            key: Arc::new(key),
            ends,
        })
    }
}

/// What callers are shown.
#[derive(Debug)]
struct Served {
    key: Arc<CertifiedKey>,
    ends: Option<Timestamp>,
}

/// The certificate of a listener: that which lies in its files now.
pub struct Tls {
    files: TlsFiles,
    seen: std::sync::Mutex<Files>,
    current: Arc<Current>,
    config: Arc<rustls::ServerConfig>,
}

#[derive(Debug)]
struct Current(RwLock<Served>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let served = self.0.read().expect("nothing panics while replacing it");
        Some(Arc::clone(&served.key))
    }
}

/// Whether the files were taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// They are as they were.
    Same,
    /// They hold something new, which callers are shown from now on.
    Replaced,
}

impl Tls {
    /// From a certificate chain and a private key, both PEM.
    pub fn new(files: &TlsFiles) -> Result<Self, TlsSetupError> {
        let builder = rustls::ServerConfig::builder();
        let seen = Files::read(files)?;
        let served = seen.key(files, builder.crypto_provider())?;
        let current = Arc::new(Current(RwLock::new(served)));
        let resolver: Arc<dyn ResolvesServerCert> = Arc::<Current>::clone(&current);
        let mut config = builder.with_no_client_auth().with_cert_resolver(resolver);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self {
            files: files.clone(),
            seen: std::sync::Mutex::new(seen),
            current,
            config: Arc::new(config),
        })
    }

    /// What rustls needs.
    pub fn config(&self) -> Arc<rustls::ServerConfig> {
        Arc::clone(&self.config)
    }

    /// When the certificate ends that is shown now; `None`: it does not tell.
    pub fn ends(&self) -> Option<Timestamp> {
        let served = self.current.0.read();
        served.expect("nothing panics while replacing it").ends
    }

    /// Looks whether the files hold something new. What cannot be used changes nothing.
    pub fn look(&self) -> Result<Look, TlsSetupError> {
        let now = Files::read(&self.files)?;
        let mut seen = self.seen.lock().expect("nothing panics while looking");
        if *seen == now {
            return Ok(Look::Same);
        }
        let served = now.key(&self.files, self.config.crypto_provider())?;
        *self
            .current
            .0
            .write()
            .expect("nothing panics while replacing it") = served;
        *seen = now;
        Ok(Look::Replaced)
    }

    /// Looks for ever.
    pub async fn look_for_ever(self: Arc<Self>, figures: CertificateFigures) {
        let mut troubles = 0_u32;
        loop {
            figures.ends(self.ends());
            tokio::time::sleep(LOOK).await;
            let this = Arc::clone(&self);
            // The disk may be slow.
            let looked = tokio::task::spawn_blocking(move || this.look()).await;
            match looked {
                Ok(Ok(Look::Same)) => troubles = 0,
                Ok(Ok(Look::Replaced)) => {
                    troubles = 0;
                    let ends = self.ends().map(|ends| ends.to_string());
                    tracing::info!(
                        ends = ends.as_deref(),
                        "the certificate of a listener was replaced"
                    );
                    figures.replaced.increment(1);
                }
                // Two files are not written in one moment: the first look may fall between.
                Ok(Err(error)) => {
                    troubles += 1;
                    if troubles == 2 {
                        tracing::warn!(
                            error = %chain(&error),
                            "the new certificate of a listener cannot be used; the one before is served on"
                        );
                        figures.failed.increment(1);
                    }
                }
                Err(_) => {}
            }
        }
    }
}

/// When the certificate of a listener ends; `None`: it does not tell.
pub fn certificate_ends(certificate: &Path) -> Result<Option<Timestamp>, TlsSetupError> {
    let name = || certificate.display().to_string();
    let first = CertificateDer::from_pem_file(certificate);
    let first = first.map_err(|e| TlsSetupError::File(name(), e))?;
    Ok(crate::microsoft::entra::certificate_ends(&first))
}

#[cfg(test)]
mod tests {
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::*;

    /// A certificate in its files, and what it is in DER.
    fn write(files: &TlsFiles) -> CertificateDer<'static> {
        let made = rcgen::generate_simple_self_signed(["cloud.example".to_owned()]).unwrap();
        std::fs::write(&files.certificate, made.cert.pem()).unwrap();
        std::fs::write(&files.private_key, made.signing_key.serialize_pem()).unwrap();
        made.cert.der().clone()
    }

    fn tls() -> (tempfile::TempDir, TlsFiles, CertificateDer<'static>) {
        let dir = tempfile::tempdir().unwrap();
        let files = TlsFiles {
            certificate: dir.path().join("c.pem"),
            private_key: dir.path().join("k.pem"),
        };
        let shown = write(&files);
        (dir, files, shown)
    }

    /// Whether who trusts this one alone gets a connection.
    async fn shows(tls: &Tls, certificate: &CertificateDer<'static>) -> bool {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate.clone()).unwrap();
        let client = rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let (theirs, ours) = tokio::io::duplex(64 << 10);
        let name = "cloud.example".try_into().unwrap();
        let connector = TlsConnector::from(Arc::new(client));
        let (client, _) = tokio::join!(
            connector.connect(name, theirs),
            TlsAcceptor::from(tls.config()).accept(ours)
        );
        client.is_ok()
    }

    #[tokio::test]
    async fn a_new_certificate_is_shown_and_one_of_no_use_changes_nothing() {
        let (_dir, files, first) = tls();
        let tls = Tls::new(&files).unwrap();
        assert!(shows(&tls, &first).await);
        assert_eq!(tls.look().unwrap(), Look::Same);
        let second = write(&files);
        assert!(shows(&tls, &first).await, "until it is looked at");
        assert_eq!(tls.look().unwrap(), Look::Replaced);
        assert!(shows(&tls, &second).await && !shows(&tls, &first).await);
        // One file is written and the other not yet; rubbish; nothing.
        let good = std::fs::read(&files.private_key).unwrap();
        let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
        std::fs::write(&files.private_key, other).unwrap();
        assert!(matches!(tls.look(), Err(TlsSetupError::Unusable(_))));
        std::fs::write(&files.private_key, "rubbish").unwrap();
        assert!(matches!(tls.look(), Err(TlsSetupError::File(..))));
        std::fs::remove_file(&files.private_key).unwrap();
        assert!(matches!(tls.look(), Err(TlsSetupError::Read(..))));
        assert!(shows(&tls, &second).await, "the one before is served on");
        std::fs::write(&files.private_key, good).unwrap();
        assert_eq!(tls.look().unwrap(), Look::Same);
        assert!(tls.ends().is_some());
    }
}
