//! A member: the least that an HTTP server can do, on the kernel's TCP, so that members cost little beside balancers.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::exchange::{REQUEST, response};

/// What the process is told.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The port to listen on.
    #[arg(long)]
    port: u16,
    /// Bytes of each answer's body.
    #[arg(long)]
    body: usize,
}

/// The listener's name among the events; connections are numbered from 0.
const LISTENER: u64 = u64::MAX;

struct Connection {
    stream: TcpStream,
    /// How much of the current request has come.
    received: usize,
}

/// Answers until it is killed.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, arguments.port))
        .with_context(|| format!("listening on port {}", arguments.port))?;
    listener.set_nonblocking(true)?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    let response = response(arguments.body);
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut events = [EpollEvent::empty(); 256];
    loop {
        let count = match epoll.wait(&mut events, EpollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            count => count?,
        };
        for event in &events[..count] {
            if event.data() == LISTENER {
                accept(&listener, &epoll, &mut connections)?;
                continue;
            }
            let Some(entry) = connections.get_mut(event.data() as usize) else { continue };
            // Closing the file takes it off the epoll.
            if entry.as_mut().is_some_and(|connection| !connection.serve(&response)) {
                *entry = None;
            }
        }
    }
}

fn accept(listener: &TcpListener, epoll: &Epoll, connections: &mut Vec<Option<Connection>>) -> Result<()> {
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            // A client that has gone again already.
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
            Err(error) => return Err(error.into()),
        };
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let free = connections.iter().position(Option::is_none).unwrap_or(connections.len());
        epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, free as u64))?;
        let connection = Some(Connection { stream, received: 0 });
        if free == connections.len() {
            connections.push(connection);
        } else {
            connections[free] = connection;
        }
    }
}

impl Connection {
    /// Answers the requests that have come whole; says whether the connection goes on.
    fn serve(&mut self, response: &[u8]) -> bool {
        let mut buffer = [0; 4096];
        let length = match self.stream.read(&mut buffer) {
            Ok(0) => return false,
            Ok(length) => length,
            Err(error) => return is_transient(&error),
        };
        for &byte in &buffer[..length] {
            // Whatever is not the request that was to come ends the connection, which the client counts as a failure.
            if byte != REQUEST[self.received] {
                return false;
            }
            self.received += 1;
            if self.received == REQUEST.len() {
                self.received = 0;
                if self.stream.write(response).ok() != Some(response.len()) {
                    return false;
                }
            }
        }
        true
    }
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
