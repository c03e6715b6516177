//! A device's key pair.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use data_encoding::HEXLOWER_PERMISSIVE;
use serde::{Deserialize, Serialize};

/// Why a key cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// A text that is no key.
    #[error("{text:?} is not a device key: expected 64 hexadecimal digits")]
    Text {
        /// The text.
        text: String,
    },
    /// The cryptography refuses the secret.
    #[error("the device's secret key cannot be used")]
    Secret,
}

/// The public half: what others know a device by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DeviceKey([u8; 32]);

impl DeviceKey {
    /// The key of these bytes. Whether they are a point of the curve shows when a signature is checked.
    pub const fn from_bytes(bytes: [u8; 32]) -> DeviceKey {
        DeviceKey(bytes)
    }

    /// The 32 bytes, as RFC 8032 encodes them.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whether the device signed the message.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(message, signature).is_ok()
    }

    /// The first eight hexadecimal digits, for people to read; not unique.
    pub fn short(&self) -> String {
        HEXLOWER_PERMISSIVE.encode(&self.0[..4])
    }
}

impl fmt::Display for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER_PERMISSIVE.encode(&self.0))
    }
}

impl fmt::Debug for DeviceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceKey({})", self.short())
    }
}

impl FromStr for DeviceKey {
    type Err = KeyError;
    fn from_str(text: &str) -> Result<DeviceKey, KeyError> {
        let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok();
        let bytes = bytes.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        bytes.map(DeviceKey).ok_or_else(|| KeyError::Text { text: text.to_owned() })
    }
}

/// The secret half. It stays on its device.
pub struct DeviceSecret {
    seed: [u8; 32],
    pair: Ed25519KeyPair,
}

impl fmt::Debug for DeviceSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DeviceSecret(of {})", self.key().short())
    }
}

impl DeviceSecret {
    /// The key pair of 32 random bytes.
    ///
    /// # Errors
    /// [`KeyError::Secret`] when the cryptography does not take them.
    pub fn from_seed(seed: [u8; 32]) -> Result<DeviceSecret, KeyError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| KeyError::Secret)?;
        Ok(DeviceSecret { seed, pair })
    }

    /// The bytes that it was made of; as secret as the key.
    pub fn seed(&self) -> &[u8; 32] {
        &self.seed
    }

    /// The public half.
    pub fn key(&self) -> DeviceKey {
        let mut bytes = [0; 32];
        // An Ed25519 public key has 32 bytes.
        bytes.copy_from_slice(self.pair.public_key().as_ref());
        DeviceKey(bytes)
    }

    /// Signs a message.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        let mut bytes = [0; 64];
        // An Ed25519 signature has 64 bytes.
        bytes.copy_from_slice(self.pair.sign(message).as_ref());
        bytes
    }

    /// The PKCS #8 form, for TLS.
    ///
    /// # Errors
    /// [`KeyError::Secret`] when the cryptography cannot write it.
    pub fn to_pkcs8(&self) -> Result<Vec<u8>, KeyError> {
        Ok(self.pair.to_pkcs8v1().map_err(|_| KeyError::Secret)?.as_ref().to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_pair_is_that_of_rfc_8032() {
        // RFC 8032, 7.1, test 2.
        let seed =
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb".parse::<DeviceKey>().expect("hex");
        let secret = DeviceSecret::from_seed(*seed.as_bytes()).expect("a key");
        let key = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c".parse().expect("hex");
        assert_eq!(secret.key(), key);
        let signature = secret.sign(&[0x72]);
        assert_eq!(&signature[..4], [0x92, 0xa0, 0x09, 0xa9]);
        assert!(key.verifies(&[0x72], &signature) && !key.verifies(&[0x73], &signature));
        assert!(!format!("{secret:?}").contains("4ccd"), "the secret does not show");
    }
}
