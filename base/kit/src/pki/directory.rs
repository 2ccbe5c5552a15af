//! The authorities and leaves of one cluster, on disk.

use super::certificate::{self, Issuer, LeafSpec, Request, Sans, Subject, Usages};
use super::{PkiError, PrivateKey, RotatingCertificate, pem};
use crate::Shutdown;
use rustls::pki_types::CertificateDer;
use std::fs;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer as _, ParsedExtension, X509Certificate};

/// A certificate authority. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Authority(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    key: PrivateKey,
    der: CertificateDer<'static>,
    pem: String,
    subject: Vec<u8>,
    not_after: OffsetDateTime,
}

impl Authority {
    fn new(key: PrivateKey, der: Vec<u8>) -> Result<Self, PkiError> {
        let (_, parsed) = X509Certificate::from_der(&der).map_err(|_| PkiError::Malformed("certificate"))?;
        let subject = parsed.subject().as_raw().to_vec();
        let not_after = parsed.validity().not_after.to_datetime();
        let pem = pem::encode("CERTIFICATE", &der);
        Ok(Self(Arc::new(Inner { key, der: der.into(), pem, subject, not_after })))
    }

    /// A new authority that lives in memory only.
    pub fn generate(common_name: &str) -> Result<Self, PkiError> {
        let key = PrivateKey::generate()?;
        let der = certificate::authority(common_name, &key)?;
        Self::new(key, der)
    }

    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.0.der
    }

    pub fn certificate_pem(&self) -> &str {
        &self.0.pem
    }

    /// Signs a leaf with a new key.
    pub fn issue(&self, spec: &LeafSpec) -> Result<Leaf, PkiError> {
        let key = PrivateKey::generate()?;
        let der = certificate::leaf(&self.issuer(), spec, &key.spki())?;
        Leaf::new(key, vec![der.into()])
    }

    /// Signs a certificate request; returns the certificate as PEM. The caller has decided that it may.
    pub fn sign_request(
        &self,
        request: &Request,
        usages: Usages,
        lifetime: Duration,
    ) -> Result<String, PkiError> {
        request.sign(&self.issuer(), usages, lifetime)
    }

    fn issuer(&self) -> Issuer<'_> {
        Issuer { key: &self.0.key, name: &self.0.subject, not_after: self.0.not_after }
    }

    fn load_or_create(dir: &Path, name: &str, common_name: &str) -> Result<Self, PkiError> {
        let (crt, key_path) = (dir.join(format!("{name}.crt")), dir.join(format!("{name}.key")));
        let in_file = |path: &Path, source| PkiError::File { path: path.into(), source: Box::new(source) };
        match (read(&crt)?, read(&key_path)?) {
            (Some(_), None) => Err(PkiError::MissingKey { path: key_path }),
            (None, key) => {
                // A key without its certificate is a creation cut short; nothing was signed with it yet.
                let key = match key {
                    Some(text) => PrivateKey::from_pem(&text).map_err(|e| in_file(&key_path, e))?,
                    None => {
                        let key = PrivateKey::generate()?;
                        write(&key_path, key.to_pem().as_bytes())?;
                        key
                    }
                };
                let der = certificate::authority(common_name, &key)?;
                write(&crt, pem::encode("CERTIFICATE", &der).as_bytes())?;
                tracing::info!(path = %crt.display(), "created a certificate authority");
                Self::new(key, der)
            }
            (Some(certificate), Some(key)) => {
                let key = PrivateKey::from_pem(&key).map_err(|e| in_file(&key_path, e))?;
                let der =
                    pem::certificates(&certificate).map_err(|e| in_file(&crt, e))?.swap_remove(0).to_vec();
                let (_, parsed) = X509Certificate::from_der(&der)
                    .map_err(|_| in_file(&crt, PkiError::Malformed("certificate")))?;
                if parsed.public_key().raw != key.spki() {
                    return Err(PkiError::Mismatch { path: crt });
                }
                if parsed.validity().not_after.to_datetime() <= OffsetDateTime::now_utc() {
                    return Err(PkiError::Expired { path: crt });
                }
                Self::new(key, der)
            }
        }
    }
}

/// When a certificate ends, in seconds since 1970.
pub fn not_after(certificate: &CertificateDer<'_>) -> Result<i64, PkiError> {
    let (_, parsed) =
        X509Certificate::from_der(certificate).map_err(|_| PkiError::Malformed("certificate"))?;
    Ok(parsed.validity().not_after.timestamp())
}

/// A certificate with its private key.
#[derive(Clone, Debug)]
pub struct Leaf {
    pub key: PrivateKey,
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    pub not_before: OffsetDateTime,
    pub not_after: OffsetDateTime,
    subject: Subject,
    sans: Sans,
    issuer: Vec<u8>,
}

impl Leaf {
    pub fn new(key: PrivateKey, chain: Vec<CertificateDer<'static>>) -> Result<Self, PkiError> {
        let malformed = || PkiError::Malformed("certificate");
        let first = chain.first().ok_or_else(malformed)?;
        let (_, parsed) = X509Certificate::from_der(first).map_err(|_| malformed())?;
        if parsed.public_key().raw != key.spki() {
            return Err(PkiError::Crypto("pairing the certificate with its key"));
        }
        let mut sans = Sans::default();
        for extension in parsed.extensions() {
            if let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() {
                sans = Sans::read(&names.general_names)?;
            }
        }
        let subject = Subject::read(parsed.subject());
        let validity = parsed.validity();
        let (not_before, not_after) = (validity.not_before.to_datetime(), validity.not_after.to_datetime());
        let issuer = parsed.issuer().as_raw().to_vec();
        Ok(Self { key, not_before, not_after, subject, sans, issuer, chain })
    }

    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Self, PkiError> {
        Self::new(PrivateKey::from_pem(key)?, pem::certificates(certificates)?)
    }

    /// Whom it names.
    pub fn common_name(&self) -> &str {
        &self.subject.common_name
    }

    pub fn certificate_pem(&self) -> String {
        self.chain.iter().map(|c| pem::encode("CERTIFICATE", c)).collect()
    }

    pub fn key_pem(&self) -> String {
        self.key.to_pem()
    }

    /// How long from now until the certificate should be replaced: at four fifths of its life.
    pub fn renew_in(&self) -> Duration {
        let life = self.not_after - self.not_before;
        let at = self.not_after - life / 5;
        Duration::try_from(at - OffsetDateTime::now_utc()).unwrap_or(Duration::ZERO)
    }

    fn serves(&self, authority: &Authority, spec: &LeafSpec) -> bool {
        let sorted = |s: &Subject| {
            let mut s = s.clone();
            s.organizations.sort();
            s
        };
        let signed = || {
            let (_, ca) = X509Certificate::from_der(&authority.0.der).ok()?;
            let (_, leaf) = X509Certificate::from_der(self.chain.first()?).ok()?;
            leaf.verify_signature(Some(ca.public_key())).ok()
        };
        !self.renew_in().is_zero()
            && self.issuer == authority.0.subject
            && sorted(&self.subject) == sorted(&spec.subject)
            && self.sans == spec.sans
            && signed().is_some()
    }
}

/// `<data dir>/pki`.
#[derive(Clone, Debug)]
pub struct Pki {
    dir: PathBuf,
    /// Signs servers and clients (`ca.crt`, `ca.key`).
    pub ca: Authority,
    /// Signs the aggregation layer's front proxy (`front-proxy-ca.crt`, `front-proxy-ca.key`).
    pub front_proxy_ca: Authority,
    /// Signs service-account tokens (`sa.key`, `sa.pub`).
    pub service_account: PrivateKey,
}

impl Pki {
    /// Opens `<data_dir>/pki`, creating what is missing. What is there and cannot be used is an error that names
    /// the file, never silently replaced: authorities and the token key are what everything else trusts.
    pub fn open(data_dir: &Path) -> Result<Self, PkiError> {
        let dir = data_dir.join("pki");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(|source| PkiError::Io {
            path: dir.clone(),
            operation: "creating the directory",
            source,
        })?;
        let ca = Authority::load_or_create(&dir, "ca", "kubernetes")?;
        let front_proxy_ca = Authority::load_or_create(&dir, "front-proxy-ca", "front-proxy-ca")?;
        let path = dir.join("sa.key");
        let service_account = match read(&path)? {
            Some(text) => PrivateKey::from_pem(&text)
                .map_err(|source| PkiError::File { path: path.clone(), source: Box::new(source) })?,
            None => {
                let key = PrivateKey::generate()?;
                write(&path, key.to_pem().as_bytes())?;
                key
            }
        };
        let public = dir.join("sa.pub");
        if read(&public)?.as_deref() != Some(service_account.public_pem().as_bytes()) {
            write(&public, service_account.public_pem().as_bytes())?;
        }
        Ok(Self { dir, ca, front_proxy_ca, service_account })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The leaf kept under `<name>.crt` and `<name>.key`, signed by [`Pki::ca`]. Issued anew when it is missing,
    /// unreadable, near its end, signed by another authority, or says something else than `spec`.
    pub fn leaf(&self, name: &str, spec: &LeafSpec) -> Result<Leaf, PkiError> {
        self.leaf_of(&self.ca, name, spec)
    }

    /// [`leaf`](Self::leaf) for any authority.
    pub fn leaf_of(&self, authority: &Authority, name: &str, spec: &LeafSpec) -> Result<Leaf, PkiError> {
        let (crt, key) = (self.dir.join(format!("{name}.crt")), self.dir.join(format!("{name}.key")));
        if let (Some(certificate), Some(key)) = (read(&crt)?, read(&key)?)
            && let Ok(leaf) = Leaf::from_pem(&certificate, &key)
            && leaf.serves(authority, spec)
        {
            return Ok(leaf);
        }
        let leaf = authority.issue(spec)?;
        // A crash between the two leaves a pair that does not match, which the next start replaces.
        write(&key, leaf.key_pem().as_bytes())?;
        write(&crt, leaf.certificate_pem().as_bytes())?;
        tracing::info!(certificate = %crt.display(), not_after = %leaf.not_after, "issued a certificate");
        Ok(leaf)
    }

    /// Replaces the certificate in `slot` whenever it nears its end, until shutdown. Sleeps between.
    pub async fn keep_fresh(
        self,
        name: String,
        spec: LeafSpec,
        slot: Arc<RotatingCertificate>,
        shutdown: Shutdown,
    ) {
        let authority = self.ca.clone();
        self.keep_fresh_of(authority, name, spec, slot, shutdown).await;
    }

    /// [`keep_fresh`](Self::keep_fresh) for any authority.
    pub async fn keep_fresh_of(
        self,
        authority: Authority,
        name: String,
        spec: LeafSpec,
        slot: Arc<RotatingCertificate>,
        shutdown: Shutdown,
    ) {
        // Sleeping stops while a machine is suspended; waking daily bounds how late that can make a renewal.
        const DAY: Duration = Duration::from_secs(24 * 3600);
        loop {
            let wait = slot.renew_in().clamp(Duration::from_secs(60), DAY);
            tokio::select! {
                () = shutdown.wait() => return,
                () = tokio::time::sleep(wait) => {}
            }
            let renewed = self.leaf_of(&authority, &name, &spec).and_then(|leaf| slot.replace(&leaf));
            if let Err(error) = renewed {
                tracing::warn!(certificate = name, error = %error, "a certificate could not be renewed");
            }
        }
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, PkiError> {
    match fs::read(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(PkiError::Io { path: path.into(), operation: "reading", source }),
    }
}

/// Durable and atomic: a reader sees the old file or the whole new one, mode 0600 from its first byte.
pub(super) fn write(path: &Path, content: &[u8]) -> Result<(), PkiError> {
    let io = |operation| move |source| PkiError::Io { path: path.into(), operation, source };
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(io("creating"))?;
    let done = file
        .set_permissions(fs::Permissions::from_mode(0o600))
        .and_then(|()| file.write_all(content))
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&temporary, path));
    if let Err(source) = done {
        let _ = fs::remove_file(&temporary);
        return Err(io("writing")(source));
    }
    if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        fs::File::open(parent).and_then(|d| d.sync_all()).map_err(io("syncing the directory of"))?;
    }
    Ok(())
}
