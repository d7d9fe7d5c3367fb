//! What is wrong with a TLS handshake, in words for whoever is on call: what the library calls it says little to them.

use std::io;
use std::time::{Duration, UNIX_EPOCH};

use rustls::pki_types::UnixTime;
use rustls::{CertificateError, Error, InvalidMessage};

use crate::control::time::rfc3339;

/// What an I/O error of a TLS stream's means, if it is TLS that is at fault.
pub(super) fn words_of(error: &io::Error) -> Option<String> {
    error.get_ref()?.downcast_ref::<Error>().map(words)
}

fn words(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(wrong) => certificate(wrong),
        Error::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion)
        | Error::InappropriateMessage { .. } => "not TLS: the server answered with something else".to_owned(),
        Error::InvalidMessage(_) | Error::PeerSentOversizedRecord => {
            format!("the server answered with something that is no valid TLS ({error})")
        }
        Error::NoCertificatesPresented => "the server showed no certificate".to_owned(),
        // TLS calls the peers' complaints alerts (RFC 8446 section 6).
        Error::AlertReceived(alert) => format!("the server refused: {}", spaced(&format!("{alert:?}"))),
        Error::PeerIncompatible(why) => {
            format!("the server and we have no TLS version or cipher in common ({})", spaced(&format!("{why:?}")))
        }
        Error::NoApplicationProtocol => "the server does not speak HTTP/1.1 over TLS (ALPN)".to_owned(),
        Error::DecryptError => "what the server sent cannot be decrypted".to_owned(),
        Error::PeerMisbehaved(why) => {
            format!("the server broke the rules of TLS ({})", spaced(&format!("{why:?}")))
        }
        other => other.to_string(),
    }
}

/// As X.509 means it (RFC 5280).
fn certificate(wrong: &CertificateError) -> String {
    let untrusted = |why: &str| format!("certificate not trusted: {why} (verify = false turns this off)");
    match wrong {
        CertificateError::UnknownIssuer => untrusted("issued by an unknown authority"),
        CertificateError::ExpiredContext { not_after, .. } => format!("certificate expired on {}", date(*not_after)),
        CertificateError::Expired => "certificate expired".to_owned(),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("certificate not valid before {}", date(*not_before))
        }
        CertificateError::NotValidYet => "certificate not valid yet".to_owned(),
        CertificateError::NotValidForNameContext { expected, presented } => {
            let presented: Vec<String> = presented.iter().map(|name| plain_name(name)).collect();
            let names = if presented.is_empty() { "no name".to_owned() } else { presented.join(", ") };
            format!("certificate is for {names}, not for {} (sni says for which name it must be)", expected.to_str())
        }
        CertificateError::NotValidForName => {
            "certificate is for another name (sni says for which name it must be)".to_owned()
        }
        CertificateError::Revoked => "certificate revoked".to_owned(),
        CertificateError::BadSignature => untrusted("its signature is wrong"),
        CertificateError::BadEncoding => "certificate cannot be read".to_owned(),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            untrusted("it is not made for servers")
        }
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            untrusted("it is signed in a way that is not supported")
        }
        CertificateError::UnhandledCriticalExtension => untrusted("it has a critical extension that is not understood"),
        // What the verifier has no name of its own for comes as text (webpki's `Error`).
        CertificateError::Other(other) => match other.0.to_string().as_str() {
            "CaUsedAsEndEntity" => untrusted("it is an authority's own, or self-signed as one"),
            "EndEntityUsedAsCa" => untrusted("it is issued by a server's certificate, not by an authority's"),
            "UnsupportedCertVersion" => untrusted("it is no X.509 version 3"),
            "NameConstraintViolation" => untrusted("its authority may not issue it for such names"),
            "PathLenConstraintViolated" => untrusted("too many authorities between it and one that is known"),
            other => untrusted(&spaced(other)),
        },
        other => untrusted(&spaced(&other.to_string())),
    }
}

/// `DnsName("a.example")`, as the verifier puts it, is `a.example`.
fn plain_name(name: &str) -> String {
    name.split_once('"').and_then(|(_, rest)| rest.split_once('"')).map_or(name, |(name, _)| name).to_owned()
}

fn date(moment: UnixTime) -> String {
    let moment = rfc3339(UNIX_EPOCH + Duration::from_secs(moment.as_secs()));
    format!("{} {} UTC", &moment[..10], &moment[11..16])
}

/// `HandshakeFailure` is `handshake failure`. What is more than a name stays as it is.
fn spaced(name: &str) -> String {
    if !name.chars().all(char::is_alphanumeric) {
        return name.to_owned();
    }
    let mut text = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !text.is_empty() {
            text.push(' ');
        }
        text.extend(letter.to_lowercase());
    }
    text
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::pki_types::ServerName;
    use rustls::{AlertDescription, ContentType, OtherError, PeerIncompatible};

    use super::*;

    #[derive(Debug)]
    struct Text(&'static str);

    impl std::fmt::Display for Text {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.0)
        }
    }

    impl std::error::Error for Text {}

    #[test]
    fn errors_are_said_in_words() {
        let time = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let other = |text| CertificateError::Other(OtherError(Arc::new(Text(text))));
        let named = |presented: &[&str]| CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("other.example").expect("a name"),
            presented: presented.iter().map(|&name| name.to_owned()).collect(),
        };
        let of_certificates = [
            (
                CertificateError::UnknownIssuer,
                "certificate not trusted: issued by an unknown authority (verify = false turns this off)",
            ),
            (
                // `date -u -d @1735689599`
                CertificateError::ExpiredContext { time: time(1_800_000_000), not_after: time(1_735_689_599) },
                "certificate expired on 2024-12-31 23:59 UTC",
            ),
            (
                CertificateError::NotValidYetContext { time: time(0), not_before: time(951_782_400) },
                "certificate not valid before 2000-02-29 00:00 UTC",
            ),
            (
                named(&["DnsName(\"www.lab.example\")", "DnsName(\"b.example\")"]),
                "certificate is for www.lab.example, b.example, not for other.example (sni says for which name it must be)",
            ),
            (named(&[]), "certificate is for no name, not for other.example (sni says for which name it must be)"),
            (
                other("CaUsedAsEndEntity"),
                "certificate not trusted: it is an authority's own, or self-signed as one (verify = false turns this off)",
            ),
            (other("SomethingNew"), "certificate not trusted: something new (verify = false turns this off)"),
            (CertificateError::Revoked, "certificate revoked"),
        ];
        let others = [
            (
                Error::InvalidMessage(InvalidMessage::InvalidContentType),
                "not TLS: the server answered with something else",
            ),
            (
                Error::InappropriateMessage {
                    expect_types: vec![ContentType::Handshake],
                    got_type: ContentType::ApplicationData,
                },
                "not TLS: the server answered with something else",
            ),
            (Error::AlertReceived(AlertDescription::HandshakeFailure), "the server refused: handshake failure"),
            (Error::AlertReceived(AlertDescription::CertificateRequired), "the server refused: certificate required"),
            (
                Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon),
                "the server and we have no TLS version or cipher in common (no cipher suites in common)",
            ),
            (Error::NoCertificatesPresented, "the server showed no certificate"),
        ];
        let of_certificates = of_certificates.map(|(error, words)| (Error::InvalidCertificate(error), words));
        for (error, expected) in of_certificates.into_iter().chain(others) {
            let shown = format!("{error:?}");
            // As tokio-rustls has it.
            let error = io::Error::new(io::ErrorKind::InvalidData, error);
            assert_eq!(words_of(&error).as_deref(), Some(expected), "{shown}");
        }
        assert_eq!(words_of(&io::Error::from_raw_os_error(libc::ECONNRESET)), None);
        assert_eq!(words_of(&io::Error::new(io::ErrorKind::UnexpectedEof, "tls handshake eof")), None);
    }
}
