//! TLS 1.3 with bare Ed25519 keys on both sides.

use std::sync::Arc;

use isle_identity::{DeviceKey, DeviceSecret};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use crate::TransportError;

/// What both ends say that they speak.
const ALPN: &[u8] = b"isle/1";
/// How the DER form of an Ed25519 public key begins (RFC 8410); its 32 bytes follow.
const KEY_START: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

fn to_der(key: &DeviceKey) -> Vec<u8> {
    [KEY_START.as_slice(), key.as_bytes()].concat()
}

/// The key in its DER form; `None` for anything else.
pub(crate) fn from_der(der: &[u8]) -> Option<DeviceKey> {
    let key = der.strip_prefix(&KEY_START)?;
    Some(DeviceKey::from_bytes(key.try_into().ok()?))
}

/// Lets in any key, or one alone, if the other end proves that it holds its secret.
#[derive(Debug)]
struct Verifier {
    expected: Option<DeviceKey>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    fn check(&self, key: &CertificateDer<'_>, more: &[CertificateDer<'_>]) -> Result<(), Error> {
        let found = from_der(key).filter(|_| more.is_empty());
        let found = found.ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
        if self.expected.is_some_and(|expected| expected != found) {
            return Err(Error::General(format!("device {} answers there", found.short())));
        }
        Ok(())
    }

    fn signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = SubjectPublicKeyInfoDer::from(key.as_ref());
        verify_tls13_signature_with_raw_key(message, &key, signature, &self.algorithms)
    }
}

const SCHEMES: [SignatureScheme; 1] = [SignatureScheme::ED25519];

fn only_tls13() -> Error {
    Error::General("only TLS 1.3 is spoken".to_owned())
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        key: &CertificateDer<'_>,
        more: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(key, more).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, key, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        key: &CertificateDer<'_>,
        more: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(key, more).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(only_tls13())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.signature(message, key, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// The device's key as TLS wants it.
#[derive(Debug, Clone)]
pub(crate) struct TlsIdentity {
    provider: Arc<CryptoProvider>,
    key: Arc<CertifiedKey>,
}

fn unfit(error: impl std::fmt::Display) -> TransportError {
    TransportError::Key { reason: error.to_string() }
}

impl TlsIdentity {
    pub(crate) fn new(secret: &DeviceSecret) -> Result<TlsIdentity, TransportError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let pkcs8 = secret.to_pkcs8().map_err(unfit)?;
        let signing = provider.key_provider.load_private_key(PrivatePkcs8KeyDer::from(pkcs8).into()).map_err(unfit)?;
        let key = CertifiedKey::new(vec![CertificateDer::from(to_der(&secret.key()))], signing);
        Ok(TlsIdentity { provider, key: Arc::new(key) })
    }

    fn verifier(&self, expected: Option<DeviceKey>) -> Arc<Verifier> {
        Arc::new(Verifier { expected, algorithms: self.provider.signature_verification_algorithms })
    }

    /// For those who call: any key is let in.
    pub(crate) fn server(&self) -> Result<quinn::crypto::rustls::QuicServerConfig, TransportError> {
        let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&self.provider));
        let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).map_err(unfit)?;
        let resolver = rustls::server::AlwaysResolvesServerRawPublicKeys::new(Arc::clone(&self.key));
        let mut config = builder.with_client_cert_verifier(self.verifier(None)).with_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.try_into().map_err(unfit)
    }

    /// For calling one device.
    pub(crate) fn client(
        &self,
        expected: DeviceKey,
    ) -> Result<quinn::crypto::rustls::QuicClientConfig, TransportError> {
        let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&self.provider));
        let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).map_err(unfit)?;
        let resolver = rustls::client::AlwaysResolvesClientRawPublicKeys::new(Arc::clone(&self.key));
        let builder = builder.dangerous().with_custom_certificate_verifier(self.verifier(Some(expected)));
        let mut config = builder.with_client_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        config.enable_sni = false;
        config.try_into().map_err(unfit)
    }
}
