//! A certificate for servers on this machine, and the authority that clients have to trust for it.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// Files in PEM. Made anew for every test, and trusted by nobody who was not told to.
#[derive(Debug)]
pub(crate) struct Identity {
    /// What clients trust.
    pub(crate) authority: PathBuf,
    /// The server's certificate, for 127.0.0.1.
    pub(crate) certificate: PathBuf,
    /// Its private key.
    pub(crate) key: PathBuf,
}

impl Identity {
    /// Makes one in a directory.
    pub(crate) fn new(directory: &Path) -> Identity {
        let key = KeyPair::generate().expect("a key of the authority");
        let mut params = CertificateParams::new([]).expect("no names");
        params.distinguished_name.push(DnType::CommonName, "authority of one test");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let authority = params.self_signed(&key).expect("a certificate of the authority");
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().expect("a key of the server");
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).expect("an address");
        params.distinguished_name.push(DnType::CommonName, "server of one test");
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &issuer).expect("a certificate of the server");
        let write = |name: &str, text: String| {
            let path = directory.join(name);
            fs::write(&path, text).expect("a file of the identity");
            path
        };
        Identity {
            authority: write("authority.pem", authority.pem()),
            certificate: write("certificate.pem", certificate.pem()),
            key: write("key.pem", key.serialize_pem()),
        }
    }
}
