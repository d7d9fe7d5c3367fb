//! A TCP connection, and perhaps a few words over it.

use std::net::{SocketAddr, SocketAddrV4};
use std::time::Duration;

use regex::bytes::Regex;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use super::outcome::{Bad, Deadline, Good, Outcome};
use super::probe::Words;

/// More of an answer is not looked at.
pub(super) const ANSWER: usize = 64 << 10;

/// A connection that is closed by RST: thousands of them would otherwise stand in TIME-WAIT, each with a port.
pub(super) async fn connect(target: SocketAddrV4, deadline: &Deadline) -> Result<TcpStream, Bad> {
    let socket = TcpSocket::new_v4()?;
    SockRef::from(&socket).set_linger(Some(Duration::ZERO))?;
    socket.set_nodelay(true)?;
    Ok(deadline.keep("in connecting", socket.connect(SocketAddr::V4(target))).await??)
}

pub(super) async fn check(words: &Words, target: SocketAddrV4, deadline: &Deadline) -> Outcome {
    let mut stream = connect(target, deadline).await?;
    if let Some(text) = &words.send {
        deadline.keep("in sending", stream.write_all(text.as_bytes())).await??;
    }
    if let Some(pattern) = &words.expect {
        deadline.keep("waiting for the expected answer", expect(&mut stream, pattern)).await??;
    }
    Ok(Good::default())
}

/// Reads until the pattern is there, or cannot come any more.
async fn expect(stream: &mut (impl AsyncRead + Unpin), pattern: &Regex) -> Result<(), Bad> {
    let mut answer = Vec::new();
    loop {
        let room = (ANSWER - answer.len()) as u64;
        if room == 0 || (&mut *stream).take(room).read_buf(&mut answer).await? == 0 {
            return Bad::failed(unexpected("answered", &answer, pattern));
        }
        if pattern.is_match(&answer) {
            return Ok(());
        }
    }
}

/// What was answered instead of what was expected.
pub(super) fn unexpected(what: &str, answer: &[u8], pattern: &Regex) -> String {
    /// Enough to recognise it by.
    const SHOWN: usize = 40;
    let start = String::from_utf8_lossy(&answer[..answer.len().min(SHOWN)]);
    let more = if answer.len() > SHOWN { "…" } else { "" };
    format!("{what} \"{}{more}\", expected a match of \"{pattern}\"", start.escape_debug())
}
