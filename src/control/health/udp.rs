//! A datagram, and its answer or at least no refusal.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;

use super::outcome::{Bad, Deadline, Good, Outcome};
use super::probe::Words;
use super::tcp::unexpected;

/// A socket that hears the target alone, and ICMP errors about what it sent there.
pub(super) async fn connected(target: SocketAddrV4) -> Result<UdpSocket, Bad> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.connect(target).await?;
    Ok(socket)
}

/// Refusals that were heard, and when.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<HashMap<SocketAddrV4, Instant>>);

impl Refusals {
    /// Hosts send no more than about one ICMP error a second to another (`net.ipv4.icmp_ratelimit`): for so long after one
    /// silence says nothing.
    const COUNTS: Duration = Duration::from_secs(3);

    fn heard(&self, target: SocketAddrV4) {
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        heard.retain(|_, when| when.elapsed() < Self::COUNTS);
        heard.insert(target, Instant::now());
    }

    fn counts(&self, target: SocketAddrV4) -> bool {
        let heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        heard.get(&target).is_some_and(|when| when.elapsed() < Self::COUNTS)
    }
}

pub(super) async fn check(words: &Words, refusals: &Refusals, target: SocketAddrV4, deadline: &Deadline) -> Outcome {
    let socket = connected(target).await?;
    socket.send(words.send.as_deref().unwrap_or_default().as_bytes()).await?;
    let mut answer = vec![0; 64 << 10];
    let Some(pattern) = &words.expect else {
        // Silence is all that can be expected of a service that was asked nothing it knows.
        return match deadline.keep("", socket.recv(&mut answer)).await {
            Ok(Err(error)) => {
                refusals.heard(target);
                Err(refused(error))
            }
            Err(_) if refusals.counts(target) => Bad::failed("port unreachable"),
            Ok(Ok(_)) | Err(_) => Ok(Good::default()),
        };
    };
    let length = deadline.keep("waiting for the answer", socket.recv(&mut answer)).await?.map_err(refused)?;
    let answer = &answer[..length];
    if pattern.is_match(answer) { Ok(Good::default()) } else { Bad::failed(unexpected("answered", answer, pattern)) }
}

/// To UDP the kernel says of an ICMP "port unreachable" what it says of TCP's RST.
pub(super) fn refused(error: std::io::Error) -> Bad {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => Bad::Failed("port unreachable".to_owned()),
        _ => error.into(),
    }
}
