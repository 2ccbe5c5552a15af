//! Writing certificates and requests.

use super::{PkiError, PrivateKey, der, pem};
use rand::RngCore as _;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;
use time::OffsetDateTime;
use x509_parser::prelude::FromDer as _;

const COMMON_NAME: &[u64] = &[2, 5, 4, 3];
const ORGANIZATION: &[u64] = &[2, 5, 4, 10];
const EXTENDED_KEY_USAGE: &[u64] = &[2, 5, 29, 37];
const SERVER_AUTH: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 3, 1];
const CLIENT_AUTH: &[u64] = &[1, 3, 6, 1, 5, 5, 7, 3, 2];

/// Key usage bits as the BIT STRING holds them.
const DIGITAL_SIGNATURE: u16 = 0x8000;
const KEY_ENCIPHERMENT: u16 = 0x2000;
const CERT_SIGN: u16 = 0x0400;

/// Clocks of joining machines may be behind by this much.
const SKEW: Duration = Duration::from_secs(3600);

/// Who a certificate speaks for: in Kubernetes, user and groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    pub common_name: String,
    pub organizations: Vec<String>,
}

impl Subject {
    pub fn new(common_name: impl Into<String>, organizations: &[&str]) -> Self {
        Self {
            common_name: common_name.into(),
            organizations: organizations.iter().map(|o| (*o).into()).collect(),
        }
    }

    fn der(&self) -> Vec<u8> {
        let attribute = |id: &[u64], value: &str| der::sequence(&[&der::oid(id), &der::utf8(value)]);
        // One relative name with every organization in it, as Go writes it; DER sorts the members of a set.
        let mut organizations: Vec<Vec<u8>> =
            self.organizations.iter().map(|o| attribute(ORGANIZATION, o)).collect();
        organizations.sort();
        let mut names = Vec::new();
        if !organizations.is_empty() {
            names.extend(der::set(&organizations.iter().map(Vec::as_slice).collect::<Vec<_>>()));
        }
        if !self.common_name.is_empty() {
            names.extend(der::set(&[&attribute(COMMON_NAME, &self.common_name)]));
        }
        der::tlv(0x30, &names)
    }

    pub(super) fn read(name: &x509_parser::x509::X509Name<'_>) -> Self {
        let text = |a: &x509_parser::x509::AttributeTypeAndValue<'_>| a.as_str().ok().map(str::to_owned);
        Self {
            common_name: name.iter_common_name().last().and_then(text).unwrap_or_default(),
            organizations: name.iter_organization().filter_map(text).collect(),
        }
    }
}

/// Alternative names of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sans {
    pub dns: BTreeSet<String>,
    pub ips: BTreeSet<IpAddr>,
}

impl Sans {
    pub fn new(
        dns: impl IntoIterator<Item = impl Into<String>>,
        ips: impl IntoIterator<Item = IpAddr>,
    ) -> Self {
        Self { dns: dns.into_iter().map(Into::into).collect(), ips: ips.into_iter().collect() }
    }

    pub fn is_empty(&self) -> bool {
        self.dns.is_empty() && self.ips.is_empty()
    }

    fn extension(&self, critical: bool) -> Vec<u8> {
        let mut names = Vec::new();
        for name in &self.dns {
            names.extend(der::tlv(0x82, name.as_bytes()));
        }
        for ip in &self.ips {
            match ip {
                IpAddr::V4(ip) => names.extend(der::tlv(0x87, &ip.octets())),
                IpAddr::V6(ip) => names.extend(der::tlv(0x87, &ip.octets())),
            }
        }
        extension(&[2, 5, 29, 17], critical, &der::tlv(0x30, &names))
    }

    pub(super) fn read(names: &[x509_parser::extensions::GeneralName<'_>]) -> Result<Self, PkiError> {
        use x509_parser::extensions::GeneralName;
        let mut sans = Self::default();
        for name in names {
            match name {
                GeneralName::DNSName(name) => {
                    sans.dns.insert((*name).to_owned());
                }
                GeneralName::IPAddress(bytes) => {
                    let ip = match bytes.len() {
                        4 => <[u8; 4]>::try_from(*bytes).ok().map(IpAddr::from),
                        16 => <[u8; 16]>::try_from(*bytes).ok().map(IpAddr::from),
                        _ => None,
                    };
                    sans.ips.insert(ip.ok_or(PkiError::Malformed("alternative name"))?);
                }
                _ => {
                    return Err(PkiError::Malformed(
                        "alternative name: only DNS names and addresses are used",
                    ));
                }
            }
        }
        Ok(sans)
    }
}

/// What a leaf certificate is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usages {
    pub server: bool,
    pub client: bool,
    pub digital_signature: bool,
    pub key_encipherment: bool,
}

impl Usages {
    pub const SERVER: Self =
        Self { server: true, client: false, digital_signature: true, key_encipherment: false };
    pub const CLIENT: Self =
        Self { server: false, client: true, digital_signature: true, key_encipherment: false };
}

/// Everything a leaf says apart from its key and issuer.
#[derive(Clone, Debug)]
pub struct LeafSpec {
    pub subject: Subject,
    pub sans: Sans,
    pub usages: Usages,
    pub lifetime: Duration,
}

pub const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

impl LeafSpec {
    pub fn server(common_name: impl Into<String>, sans: Sans) -> Self {
        Self { subject: Subject::new(common_name, &[]), sans, usages: Usages::SERVER, lifetime: YEAR }
    }

    pub fn client(common_name: impl Into<String>, organizations: &[&str]) -> Self {
        Self {
            subject: Subject::new(common_name, organizations),
            sans: Sans::default(),
            usages: Usages::CLIENT,
            lifetime: YEAR,
        }
    }
}

/// The issuer's side of signing.
pub(super) struct Issuer<'a> {
    pub key: &'a PrivateKey,
    /// Name, DER.
    pub name: &'a [u8],
    pub not_after: OffsetDateTime,
}

pub(super) fn leaf(issuer: &Issuer<'_>, spec: &LeafSpec, spki: &[u8]) -> Result<Vec<u8>, PkiError> {
    leaf_with_subject(issuer, &spec.subject.der(), spec, spki)
}

fn leaf_with_subject(
    issuer: &Issuer<'_>,
    subject: &[u8],
    spec: &LeafSpec,
    spki: &[u8],
) -> Result<Vec<u8>, PkiError> {
    let now = OffsetDateTime::now_utc();
    let mut flags = 0;
    if spec.usages.digital_signature {
        flags |= DIGITAL_SIGNATURE;
    }
    if spec.usages.key_encipherment {
        flags |= KEY_ENCIPHERMENT;
    }
    let mut purposes = Vec::new();
    if spec.usages.server {
        purposes.extend(der::oid(SERVER_AUTH));
    }
    if spec.usages.client {
        purposes.extend(der::oid(CLIENT_AUTH));
    }
    let mut extensions = Vec::new();
    if flags != 0 {
        extensions.extend(extension(&[2, 5, 29, 15], true, &der::bit_flags(flags)));
    }
    if !purposes.is_empty() {
        extensions.extend(extension(EXTENDED_KEY_USAGE, false, &der::tlv(0x30, &purposes)));
    }
    extensions.extend(extension(&[2, 5, 29, 19], true, &der::tlv(0x30, &[])));
    extensions.extend(authority_key_id(&key_id(&issuer.key.spki())));
    if !spec.sans.is_empty() {
        extensions.extend(spec.sans.extension(subject.len() <= 2));
    }
    let not_after = (now + spec.lifetime).min(issuer.not_after);
    certificate(issuer, subject, now - SKEW, not_after, spki, &extensions)
}

/// A self-signed authority, valid for ten years.
pub(super) fn authority(common_name: &str, key: &PrivateKey) -> Result<Vec<u8>, PkiError> {
    let now = OffsetDateTime::now_utc();
    let name = Subject::new(common_name, &[]).der();
    let spki = key.spki();
    let mut extensions =
        extension(&[2, 5, 29, 15], true, &der::bit_flags(DIGITAL_SIGNATURE | KEY_ENCIPHERMENT | CERT_SIGN));
    extensions.extend(extension(&[2, 5, 29, 19], true, &der::sequence(&[&der::boolean_true()])));
    extensions.extend(extension(&[2, 5, 29, 14], false, &der::octet_string(&key_id(&spki))));
    let dns = Sans { dns: [common_name.to_owned()].into(), ips: BTreeSet::new() };
    extensions.extend(dns.extension(false));
    let not_after = now + YEAR * 10;
    certificate(&Issuer { key, name: &name, not_after }, &name, now - SKEW, not_after, &spki, &extensions)
}

fn certificate(
    issuer: &Issuer<'_>,
    subject: &[u8],
    not_before: OffsetDateTime,
    not_after: OffsetDateTime,
    spki: &[u8],
    extensions: &[u8],
) -> Result<Vec<u8>, PkiError> {
    let mut serial = [0u8; 16];
    rand::rng().fill_bytes(&mut serial);
    serial[0] = serial[0] & 0x7f | 0x40;
    let to_sign = der::sequence(&[
        &der::context(0, &der::integer(&[2])),
        &der::integer(&serial),
        &ecdsa_with_sha256(),
        issuer.name,
        &der::sequence(&[&der::time(not_before), &der::time(not_after)]),
        subject,
        spki,
        &der::context(3, &der::tlv(0x30, extensions)),
    ]);
    let signature = issuer.key.sign_asn1(&to_sign)?;
    Ok(der::sequence(&[&to_sign, &ecdsa_with_sha256(), &der::bit_string(&signature)]))
}

fn ecdsa_with_sha256() -> Vec<u8> {
    der::sequence(&[&der::oid(&[1, 2, 840, 10045, 4, 3, 2])])
}

fn extension(id: &[u64], critical: bool, value: &[u8]) -> Vec<u8> {
    let flag = if critical { der::boolean_true() } else { Vec::new() };
    der::sequence(&[&der::oid(id), &flag, &der::octet_string(value)])
}

fn key_id(spki: &[u8]) -> Vec<u8> {
    ring::digest::digest(&ring::digest::SHA256, spki).as_ref()[..20].to_vec()
}

fn authority_key_id(id: &[u8]) -> Vec<u8> {
    extension(&[2, 5, 29, 35], false, &der::sequence(&[&der::tlv(0x80, id)]))
}

/// A certificate request for `key`, PEM.
pub fn new_request(key: &PrivateKey, subject: &Subject, sans: &Sans) -> Result<String, PkiError> {
    let attributes = if sans.is_empty() {
        Vec::new()
    } else {
        let extensions = der::tlv(0x30, &sans.extension(false));
        der::sequence(&[&der::oid(&[1, 2, 840, 113549, 1, 9, 14]), &der::set(&[&extensions])])
    };
    let to_sign =
        der::sequence(&[&der::integer(&[0]), &subject.der(), &key.spki(), &der::context(0, &attributes)]);
    let signature = key.sign_asn1(&to_sign)?;
    let request = der::sequence(&[&to_sign, &ecdsa_with_sha256(), &der::bit_string(&signature)]);
    Ok(pem::encode("CERTIFICATE REQUEST", &request))
}

/// What a certificate request asks for; its signature has been checked.
#[derive(Clone, Debug)]
pub struct Request {
    pub subject: Subject,
    pub sans: Sans,
    /// Names of kinds a Kubernetes signer refuses (e-mail addresses, URIs).
    pub other_names: bool,
    subject_der: Vec<u8>,
    spki: Vec<u8>,
}

impl Request {
    /// Reads a PEM request. Fails when it is malformed or not signed by its own key.
    pub fn from_pem(text: &[u8]) -> Result<Self, PkiError> {
        let der = pem::request(text)?;
        let malformed = || PkiError::Malformed("certificate request");
        let (rest, csr) = x509_parser::certification_request::X509CertificationRequest::from_der(&der)
            .map_err(|_| malformed())?;
        if !rest.is_empty() {
            return Err(malformed());
        }
        csr.verify_signature()
            .map_err(|_| PkiError::Crypto("checking the certificate request's signature"))?;
        let info = &csr.certification_request_info;
        let (mut sans, mut other_names) = (Sans::default(), false);
        for extension in csr.requested_extensions().into_iter().flatten() {
            if let x509_parser::extensions::ParsedExtension::SubjectAlternativeName(names) = extension {
                use x509_parser::extensions::GeneralName::{DNSName, IPAddress};
                let (known, other): (Vec<_>, Vec<_>) =
                    names.general_names.iter().cloned().partition(|n| matches!(n, DNSName(_) | IPAddress(_)));
                other_names |= !other.is_empty();
                sans = Sans::read(&known)?;
            }
        }
        Ok(Self {
            subject: Subject::read(&info.subject),
            sans,
            other_names,
            subject_der: info.subject.as_raw().to_vec(),
            spki: info.subject_pki.raw.to_vec(),
        })
    }

    /// Signs what was asked for, with the usages and lifetime the signer grants. PEM.
    pub(super) fn sign(
        &self,
        issuer: &Issuer<'_>,
        usages: Usages,
        lifetime: Duration,
    ) -> Result<String, PkiError> {
        let spec = LeafSpec { subject: self.subject.clone(), sans: self.sans.clone(), usages, lifetime };
        Ok(pem::encode("CERTIFICATE", &leaf_with_subject(issuer, &self.subject_der, &spec, &self.spki)?))
    }
}
