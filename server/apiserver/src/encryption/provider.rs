//! The providers of one resource, in order: the first writes, all read.

use super::ciphers::Cipher;
use super::config::ProviderConfig;
use super::kms::Kms;
use bytes::Bytes;
use std::sync::Arc;

/// What every encrypted value starts with.
pub(crate) const ENCRYPTED: &[u8] = b"k8s:enc:";

pub(super) struct Provider {
    /// `k8s:enc:<name>:v<n>:`; empty for plain text.
    pub prefix: String,
    kind: Kind,
}

enum Kind {
    Identity,
    /// Keys with their prefixes; the first writes.
    Keys(Vec<(String, Cipher)>, &'static str),
    Kms(Arc<Kms>),
}

impl Provider {
    /// `kms` is made by the caller, who keeps it to ask for its health.
    pub fn new(config: &ProviderConfig, kms: Option<Arc<Kms>>) -> Self {
        let keys = |name: &str, keys, family| Self {
            prefix: format!("k8s:enc:{name}:v1:"),
            kind: Kind::Keys(keys, family),
        };
        if let Some(kms) = kms {
            return Self { prefix: format!("k8s:enc:kms:v2:{}:", kms.name), kind: Kind::Kms(kms) };
        }
        if let Some(c) = &config.aesgcm {
            keys("aesgcm", c.ciphers(Cipher::gcm), "AES")
        } else if let Some(c) = &config.aescbc {
            keys("aescbc", c.ciphers(Cipher::cbc), "AES")
        } else if let Some(c) = &config.secretbox {
            keys("secretbox", c.ciphers(Cipher::secretbox), "Secretbox")
        } else {
            Self { prefix: String::new(), kind: Kind::Identity }
        }
    }
}

#[derive(Clone)]
pub(super) struct Providers(pub Vec<Arc<Provider>>);

impl Providers {
    /// Encrypts with the first provider. `about` is the storage key.
    pub async fn seal(&self, plain: &Bytes, about: &[u8]) -> Result<Bytes, String> {
        let Some(first) = self.0.first() else { return Ok(plain.clone()) };
        let (prefix, sealed) = match &first.kind {
            Kind::Identity => return Ok(plain.clone()),
            Kind::Keys(keys, family) => {
                let (name, cipher) =
                    keys.first().ok_or_else(|| format!("the {family} provider has no keys"))?;
                (name.as_str(), cipher.seal(plain, about)?)
            }
            Kind::Kms(kms) => ("", kms.seal(plain, about).await?),
        };
        Ok([first.prefix.as_bytes(), prefix.as_bytes(), &sealed].concat().into())
    }

    /// Decrypts; also whether it would be written otherwise today.
    pub async fn open(&self, stored: &Bytes, about: &[u8]) -> Result<(Bytes, bool), String> {
        let mut errors: Vec<String> = Vec::new();
        for (i, provider) in self.0.iter().enumerate() {
            let Some(rest) = stored.strip_prefix(provider.prefix.as_bytes()) else { continue };
            let rest = stored.slice_ref(rest);
            let opened = match &provider.kind {
                // A value that another provider encrypted is that one's to read.
                Kind::Identity if rest.starts_with(ENCRYPTED) => continue,
                Kind::Identity => Ok((rest, false)),
                Kind::Keys(keys, family) => open_with(keys, family, &rest, about),
                Kind::Kms(kms) => kms.open(&rest, about).await,
            };
            match opened {
                Ok((plain, stale)) => return Ok((plain, stale || i != 0)),
                Err(why) if errors.contains(&why) => {}
                Err(why) => errors.push(why),
            }
        }
        Err(match errors.as_slice() {
            [] => "no matching prefix found".into(),
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        })
    }
}

fn open_with(
    keys: &[(String, Cipher)],
    family: &str,
    stored: &Bytes,
    about: &[u8],
) -> Result<(Bytes, bool), String> {
    let mut last = format!("no matching key was found for the provided {family} transformer");
    for (i, (prefix, cipher)) in keys.iter().enumerate() {
        let Some(rest) = stored.strip_prefix(prefix.as_bytes()) else { continue };
        match cipher.open(rest, about) {
            Ok(plain) => return Ok((plain.into(), i != 0)),
            Err(why) => last = why,
        }
    }
    Err(last)
}
