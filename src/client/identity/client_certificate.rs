//! An application that proves itself by a certificate: it signs a statement of who it is (a JWT, RFC 7523)
//! with the key, and names the certificate in it by its hash.
//!
//! The file is PEM and holds both; it is read anew for every token, so that a renewed one is taken.

use std::fmt;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use futures_util::future::BoxFuture;
use rustls::SignatureScheme;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::authority::{Application, Proof};
use super::settings::{CERTIFICATE, Settings};
use crate::client::token::{Audience, Grant, Identity, NoToken};

/// How long a statement holds, in seconds: enough for clocks that differ by minutes.
const LIFETIME: u64 = 600;

#[derive(Debug)]
struct ClientCertificate {
    application: Application,
    file: PathBuf,
    /// The file has a password.
    encrypted: bool,
    /// Entra ID is told the certificates too, for applications that trust a subject and an issuer.
    send_chain: bool,
}

/// The application of the settings.
///
/// Errors: what is missing.
pub(super) fn new(settings: &Settings) -> Result<Arc<dyn Identity>, String> {
    let application = Application::new("client certificate", settings)?;
    let file = settings.certificate.clone();
    let file = file.ok_or_else(|| format!("client certificate: {CERTIFICATE} is missing"))?;
    Ok(Arc::new(ClientCertificate {
        application,
        file,
        encrypted: settings.certificate_password,
        send_chain: settings.send_chain,
    }))
}

impl Identity for ClientCertificate {
    fn name(&self) -> String {
        self.application.name().to_owned()
    }

    fn fetch<'a>(&'a self, audience: &'a Audience) -> BoxFuture<'a, Result<Grant, NoToken>> {
        Box::pin(async move {
            let proof = || {
                let file = self.file.display();
                let statement = fs::read(&self.file)
                    .map_err(|why| why.to_string())
                    .and_then(|pem| Certificate::read(&pem, self.encrypted))
                    .and_then(|certificate| self.statement(&certificate));
                statement
                    .map(Proof::Assertion)
                    .map_err(|why| NoToken::Refused(format!("{CERTIFICATE} {file}: {why}")))
            };
            self.application.token(audience, proof).await
        })
    }
}

impl ClientCertificate {
    /// What is signed and sent.
    fn statement(&self, certificate: &Certificate) -> Result<String, String> {
        let mut header = json!({
            "alg": "PS256",
            "typ": "JWT",
            "x5t#S256": URL_SAFE_NO_PAD.encode(Sha256::digest(&certificate.own)),
        });
        if self.send_chain {
            let chain = certificate.chain.iter().map(|one| Value::from(STANDARD.encode(one)));
            header["x5c"] = chain.collect();
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|why| why.to_string())?;
        let claims = json!({
            "aud": self.application.url().as_str(),
            "iss": self.application.client(),
            "sub": self.application.client(),
            "jti": URL_SAFE_NO_PAD.encode(id),
            "nbf": now,
            "exp": now + LIFETIME,
        });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", part(&header), part(&claims));
        let signature = certificate.sign(text.as_bytes())?;
        Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// A certificate and its key.
struct Certificate {
    own: CertificateDer<'static>,
    /// All of the file, the own one first.
    chain: Vec<CertificateDer<'static>>,
    key: Arc<dyn SigningKey>,
}

/// Shows nothing of the key.
impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").finish_non_exhaustive()
    }
}

impl Certificate {
    /// Reads certificates and a key.
    ///
    /// Errors: what is wrong with the file, and how to make a better one.
    fn read(pem: &[u8], encrypted: bool) -> Result<Certificate, String> {
        const REMEDY: &str = "make a file of both without a password: \
                              openssl pkcs12 -in FILE.pfx -nodes -out FILE.pem";
        let marked = |mark: &str| pem.windows(mark.len()).any(|part| part == mark.as_bytes());
        if encrypted || marked("ENCRYPTED") {
            return Err(format!("it has a password, which is not supported; {REMEDY}"));
        }
        if !marked("-----BEGIN ") {
            return Err(format!("it is not PEM; {REMEDY}"));
        }
        let mut chain = CertificateDer::pem_slice_iter(pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|why| format!("a certificate in it is damaged: {why}"))?;
        let key = PrivateKeyDer::from_pem_slice(pem)
            .map_err(|_| format!("there is no private key in it; {REMEDY}"))?;
        let key = rustls::crypto::ring::sign::any_supported_type(&key)
            .map_err(|_| "its private key is of a kind that is not supported".to_owned())?;
        let is_own = |certificate: &CertificateDer<'static>| {
            let pair = CertifiedKey::new(vec![certificate.clone()], Arc::clone(&key));
            pair.keys_match().is_ok()
        };
        let own = chain.iter().position(is_own);
        let own = own.ok_or_else(|| format!("no certificate in it is for its key; {REMEDY}"))?;
        chain[..=own].rotate_right(1);
        Ok(Certificate { own: chain[0].clone(), chain, key })
    }

    /// The signature of `text`, by RSASSA-PSS with SHA-256 and a salt of 32 bytes, which is PS256.
    fn sign(&self, text: &[u8]) -> Result<Vec<u8>, String> {
        let signer = self.key.choose_scheme(&[SignatureScheme::RSA_PSS_SHA256]);
        let signer = signer.ok_or("its key is not RSA, which Entra ID needs")?;
        signer.sign(text).map_err(|why| why.to_string())
    }
}
