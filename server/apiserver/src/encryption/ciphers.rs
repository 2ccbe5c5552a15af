//! The ciphers values are stored under, in upstream's formats.
//!
//! AES-GCM: a random nonce of 12 bytes, then ciphertext and tag; the storage key is authenticated with it.
//! AES-CBC: a random block to start from, then ciphertext, padded as PKCS#7; nothing is authenticated.
//! Secretbox (XSalsa20-Poly1305): a random nonce of 24 bytes, then tag and ciphertext.

use aes::cipher::{BlockDecryptMut as _, BlockEncryptMut as _, KeyIvInit as _, block_padding::Pkcs7};
use aes::{Aes128, Aes192, Aes256};
use aes_gcm::aead::consts::U12;
use aes_gcm::aead::{Aead as _, KeyInit as _, Payload};
use aes_gcm::{AesGcm, Nonce};
use crypto_secretbox::XSalsa20Poly1305;
use hkdf::Hkdf;
use rand::RngCore as _;
use sha2::Sha256;

const SHORT: &str = "the stored data was shorter than the required size";

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::rng().fill_bytes(&mut bytes);
    bytes
}

pub(super) enum Gcm {
    Aes128(Box<AesGcm<Aes128, U12>>),
    Aes192(Box<AesGcm<Aes192, U12>>),
    Aes256(Box<AesGcm<Aes256, U12>>),
}

impl Gcm {
    pub fn new(key: &[u8]) -> Option<Self> {
        Some(match key.len() {
            16 => Self::Aes128(Box::new(AesGcm::new_from_slice(key).ok()?)),
            24 => Self::Aes192(Box::new(AesGcm::new_from_slice(key).ok()?)),
            32 => Self::Aes256(Box::new(AesGcm::new_from_slice(key).ok()?)),
            _ => return None,
        })
    }

    pub fn seal(&self, plain: &[u8], about: &[u8]) -> Result<Vec<u8>, String> {
        let nonce = random::<12>();
        let (at, payload): (&Nonce<U12>, _) = ((&nonce).into(), Payload { msg: plain, aad: about });
        let sealed = match self {
            Self::Aes128(cipher) => cipher.encrypt(at, payload),
            Self::Aes192(cipher) => cipher.encrypt(at, payload),
            Self::Aes256(cipher) => cipher.encrypt(at, payload),
        };
        let sealed = sealed.map_err(|_| "the value is too large to encrypt".to_owned())?;
        Ok([&nonce[..], &sealed].concat())
    }

    pub fn open(&self, stored: &[u8], about: &[u8]) -> Result<Vec<u8>, String> {
        let (nonce, sealed) = stored.split_first_chunk::<12>().ok_or(SHORT)?;
        let (at, payload): (&Nonce<U12>, _) = (nonce.into(), Payload { msg: sealed, aad: about });
        match self {
            Self::Aes128(cipher) => cipher.decrypt(at, payload),
            Self::Aes192(cipher) => cipher.decrypt(at, payload),
            Self::Aes256(cipher) => cipher.decrypt(at, payload),
        }
        .map_err(|_| "cipher: message authentication failed".into())
    }
}

/// AES-GCM under a key of its own for every value, derived from a seed and 32 random bytes that are stored first.
pub(super) struct Seed(Vec<u8>);

const INFO: usize = 32;

impl Seed {
    pub const SIZE: usize = 32;

    pub fn new(seed: Vec<u8>) -> Result<Self, String> {
        if seed.len() < Self::SIZE {
            return Err(format!("invalid seed length {} used for key generation", seed.len()));
        }
        Ok(Self(seed))
    }

    pub fn generate() -> [u8; Self::SIZE] {
        random()
    }

    fn derive(&self, info: &[u8]) -> Result<Gcm, String> {
        let mut key = [0; 32];
        let derived = Hkdf::<Sha256>::from_prk(&self.0).map(|kdf| kdf.expand(info, &mut key));
        match derived {
            Ok(Ok(())) => Gcm::new(&key).ok_or_else(|| "no key of that size".into()),
            _ => Err("failed to derive a key from the seed".into()),
        }
    }

    pub fn seal(&self, plain: &[u8], about: &[u8]) -> Result<Vec<u8>, String> {
        let info = random::<INFO>();
        let sealed = self.derive(&info)?.seal(plain, about)?;
        Ok([&info[..], &sealed].concat())
    }

    pub fn open(&self, stored: &[u8], about: &[u8]) -> Result<Vec<u8>, String> {
        let (info, sealed) = stored.split_at_checked(INFO).ok_or(SHORT)?;
        self.derive(info)?.open(sealed, about)
    }
}

/// One key of a provider.
pub(super) enum Cipher {
    Gcm(Gcm),
    Cbc(Vec<u8>),
    Secretbox(Box<XSalsa20Poly1305>),
}

impl Cipher {
    pub fn gcm(key: &[u8]) -> Option<Self> {
        Gcm::new(key).map(Self::Gcm)
    }

    pub fn cbc(key: &[u8]) -> Option<Self> {
        matches!(key.len(), 16 | 24 | 32).then(|| Self::Cbc(key.to_vec()))
    }

    pub fn secretbox(key: &[u8]) -> Option<Self> {
        XSalsa20Poly1305::new_from_slice(key).ok().map(|c| Self::Secretbox(Box::new(c)))
    }

    pub fn seal(&self, plain: &[u8], about: &[u8]) -> Result<Vec<u8>, String> {
        match self {
            Self::Gcm(cipher) => cipher.seal(plain, about),
            Self::Cbc(key) => {
                let iv = random::<16>();
                let bad = |_| "the key has no proper size".to_owned();
                let sealed = match key.len() {
                    16 => cbc::Encryptor::<Aes128>::new_from_slices(key, &iv)
                        .map_err(bad)?
                        .encrypt_padded_vec_mut::<Pkcs7>(plain),
                    24 => cbc::Encryptor::<Aes192>::new_from_slices(key, &iv)
                        .map_err(bad)?
                        .encrypt_padded_vec_mut::<Pkcs7>(plain),
                    _ => cbc::Encryptor::<Aes256>::new_from_slices(key, &iv)
                        .map_err(bad)?
                        .encrypt_padded_vec_mut::<Pkcs7>(plain),
                };
                Ok([&iv[..], &sealed].concat())
            }
            Self::Secretbox(cipher) => {
                let nonce = random::<24>();
                let sealed = cipher
                    .encrypt((&nonce).into(), plain)
                    .map_err(|_| "the value is too large to encrypt".to_owned())?;
                Ok([&nonce[..], &sealed].concat())
            }
        }
    }

    pub fn open(&self, stored: &[u8], about: &[u8]) -> Result<Vec<u8>, String> {
        match self {
            Self::Gcm(cipher) => cipher.open(stored, about),
            Self::Cbc(key) => {
                let (iv, sealed) = stored.split_at_checked(16).ok_or(SHORT)?;
                if sealed.is_empty() || sealed.len() % 16 != 0 {
                    return Err("the stored data is not a multiple of the block size".into());
                }
                let bad = |_| "the key has no proper size".to_owned();
                match key.len() {
                    16 => cbc::Decryptor::<Aes128>::new_from_slices(key, iv)
                        .map_err(bad)?
                        .decrypt_padded_vec_mut::<Pkcs7>(sealed),
                    24 => cbc::Decryptor::<Aes192>::new_from_slices(key, iv)
                        .map_err(bad)?
                        .decrypt_padded_vec_mut::<Pkcs7>(sealed),
                    _ => cbc::Decryptor::<Aes256>::new_from_slices(key, iv)
                        .map_err(bad)?
                        .decrypt_padded_vec_mut::<Pkcs7>(sealed),
                }
                .map_err(|_| "invalid padding on input".into())
            }
            Self::Secretbox(cipher) => {
                let (nonce, sealed) = stored.split_first_chunk::<24>().ok_or(SHORT)?;
                if sealed.len() < 16 {
                    return Err(SHORT.into());
                }
                // Upstream's words for a box that does not open.
                cipher
                    .decrypt(nonce.into(), sealed)
                    .map_err(|_| "output array was not large enough for encryption".into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_sealed_opens_and_nothing_else_does(plain: Vec<u8>, at: prop::sample::Index) {
            let ciphers = [
                Cipher::gcm(&[1; 16]), Cipher::gcm(&[2; 24]), Cipher::gcm(&[3; 32]),
                Cipher::secretbox(&[4; 32]),
            ];
            for cipher in ciphers.into_iter().flatten() {
                let mut sealed = cipher.seal(&plain, b"/registry/a").unwrap();
                prop_assert_eq!(&cipher.open(&sealed, b"/registry/a").unwrap(), &plain);
                let at = at.index(sealed.len());
                sealed[at] ^= 1;
                prop_assert!(cipher.open(&sealed, b"/registry/a").is_err());
            }
            for size in [16, 24, 32] {
                let cipher = Cipher::cbc(&vec![5; size]).unwrap();
                let sealed = cipher.seal(&plain, b"").unwrap();
                prop_assert_eq!(&cipher.open(&sealed, b"").unwrap(), &plain);
            }
            let seed = Seed::new(vec![6; 32]).unwrap();
            let sealed = seed.seal(&plain, b"k").unwrap();
            prop_assert_eq!(&seed.open(&sealed, b"k").unwrap(), &plain);
            prop_assert!(seed.open(&sealed, b"other").is_err());
        }
    }

    #[test]
    fn a_value_belongs_to_its_key() {
        let cipher = Cipher::gcm(&[1; 32]).unwrap();
        let sealed = cipher.seal(b"x", b"/registry/secrets/a/b").unwrap();
        let error = cipher.open(&sealed, b"/registry/secrets/a/c").unwrap_err();
        assert_eq!(error, "cipher: message authentication failed");
        assert_eq!(cipher.open(b"short", b"").unwrap_err(), SHORT);
        assert!(Cipher::gcm(&[0; 15]).is_none() && Cipher::secretbox(&[0; 16]).is_none());
    }

    /// A box made elsewhere (libsodium's published vector) opens, so the format is everybody's.
    #[test]
    fn secretbox_is_the_common_one() {
        let key = hex::decode("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389").unwrap();
        let nonce = hex::decode("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37").unwrap();
        let plain = "be075fc53c81f2d5cf141316ebeb0c7b5228c52a4c62cbd44b66849b64244ffce5ecbaaf33bd751a1ac728d45e6c61296cdc3c01233561f41db66cce314adb310e3be8250c46f06dceea3a7fa1348057e2f6556ad6b1318a024a838f21af1fde048977eb48f59ffd4924ca1c60902e52f0a089bc76897040e082f937763848645e0705";
        let sealed = "f3ffc7703f9400e52a7dfb4b3d3305d98e993b9f48681273c29650ba32fc76ce48332ea7164d96a4476fb8c531a1186ac0dfc17c98dce87b4da7f011ec48c97271d2c20f9b928fe2270d6fb863d51738b48eeee314a7cc8ab932164548e526ae90224368517acfeabd6bb3732bc0e9da99832b61ca01b6de56244a9e88d5f9b37973f622a43d14a6599b1f654cb45a74e355a5";
        let (plain, sealed) = (hex::decode(plain).unwrap(), hex::decode(sealed).unwrap());
        let cipher = Cipher::secretbox(&key).unwrap();
        assert_eq!(cipher.open(&[nonce, sealed].concat(), b"").unwrap(), plain);
    }
}
