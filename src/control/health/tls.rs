//! A TLS handshake over TCP (rustls with ring).

use std::io::ErrorKind;
use std::net::SocketAddrV4;
use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, IpAddr, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::outcome::{Bad, Deadline, Good, Outcome};
use super::tcp;
use super::tls_words::words_of;
use crate::control::model::monitor::Tls;

/// Where Debian's package ca-certificates has the system's authorities.
const SYSTEM: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Handshakes made ready.
#[derive(Clone)]
pub(super) struct Handshake {
    config: Arc<ClientConfig>,
    /// The member's address where `None`.
    name: Option<ServerName<'static>>,
}

impl Handshake {
    /// `host` is the name that is asked for where the monitor does not say. Fails if the authorities cannot be read.
    pub(super) fn prepare(tls: &Tls, host: Option<&str>, protocol: &[u8]) -> Result<Handshake, String> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let mut config = if tls.verify {
            builder.with_root_certificates(authorities(tls.ca.as_deref())?).with_no_client_auth()
        } else {
            let anybody = Arc::new(Anybody(provider));
            builder.dangerous().with_custom_certificate_verifier(anybody).with_no_client_auth()
        };
        // Every check is a handshake of its own, as a new client's is.
        config.resumption = Resumption::disabled();
        if !protocol.is_empty() {
            config.alpn_protocols = vec![protocol.to_owned()];
        }
        let name = tls.sni.as_deref().or(host).and_then(|name| ServerName::try_from(name.to_owned()).ok());
        Ok(Handshake { config: Arc::new(config), name })
    }

    pub(super) async fn over(
        &self,
        stream: TcpStream,
        target: SocketAddrV4,
        deadline: &Deadline,
    ) -> Result<TlsStream<TcpStream>, Bad> {
        let address = || ServerName::IpAddress(IpAddr::from(std::net::IpAddr::V4(*target.ip())));
        let name = self.name.clone().unwrap_or_else(address);
        let handshake = TlsConnector::from(Arc::clone(&self.config)).connect(name, stream);
        let done = deadline.keep("in TLS handshake", handshake).await?;
        done.map_err(|error| match (words_of(&error), error.kind()) {
            (Some(why), _) => Bad::Failed(format!("TLS handshake: {why}")),
            (None, ErrorKind::UnexpectedEof) => {
                Bad::Failed("TLS handshake: the server closed the connection".to_owned())
            }
            (None, _) => match Bad::from(error) {
                Bad::Failed(why) => Bad::Failed(format!("TLS handshake: {why}")),
                skipped @ Bad::Skipped(_) => skipped,
            },
        })
    }
}

pub(super) async fn check(handshake: &Handshake, target: SocketAddrV4, deadline: &Deadline) -> Outcome {
    let stream = tcp::connect(target, deadline).await?;
    handshake.over(stream, target, deadline).await?;
    Ok(Good::default())
}

fn authorities(file: Option<&Path>) -> Result<RootCertStore, String> {
    let path = file.unwrap_or(Path::new(SYSTEM));
    let fails = |why: &dyn std::fmt::Display| format!("certificate authorities: {}: {why}", path.display());
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| fails(&error))?;
    let mut store = RootCertStore::empty();
    match store.add_parsable_certificates(certificates) {
        (0, _) => Err(fails(&"no certificate of an authority is in it")),
        _ => Ok(store),
    }
}

/// Takes any certificate; that whoever shows it has its key is still proved.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
