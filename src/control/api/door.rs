//! The sockets: made while the process may still do so, kept as long as it lives.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::stat::{Mode, umask};
use nix::unistd::{Group, chown};
use rustix::fs::{AtFlags, unlinkat};
use socket2::{SockRef, TcpKeepalive};
use thiserror::Error;

use crate::control::model::Api;

/// Why nobody can talk to the daemon.
#[derive(Debug, Error)]
pub enum DoorError {
    /// Another daemon has it.
    #[error(
        "api.socket: {socket}: another pointsman answers there{who} (a second one needs a [api] socket of its own)"
    )]
    Taken {
        /// The socket.
        socket: String,
        /// Its process, if it said so.
        who: String,
    },
    /// Something else is there.
    #[error("api.socket: {0} is there and is no socket; remove it, or choose another path")]
    NoSocket(String),
    /// There is no such group.
    #[error("api.group: there is no group {0:?} on this host")]
    NoGroup(String),
    /// The kernel says no.
    #[error("{key}: {place}: {source}")]
    System {
        /// The key of the configuration.
        key: &'static str,
        /// Its value.
        place: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What the API is served at. Dropped, it removes its socket.
#[derive(Debug)]
pub struct Doors {
    /// Everything, for those whom the socket's mode lets in.
    pub unix: UnixListener,
    /// To be read by whoever can connect.
    pub tcp: Option<TcpListener>,
    /// Held for as long as the socket is ours.
    _lock: File,
    /// Paths may lead nowhere once privileges are given up.
    directory: File,
    name: PathBuf,
}

impl Drop for Doors {
    fn drop(&mut self) {
        // One that stays behind is replaced by the next start.
        let _ = unlinkat(&self.directory, &self.name, AtFlags::empty());
    }
}

impl Doors {
    /// Makes them; before there are other threads, which would make files by the same mask meanwhile.
    pub fn open(api: &Api) -> Result<Self, DoorError> {
        let socket = &api.socket;
        let failed = |source| DoorError::System { key: "api.socket", place: socket.display().to_string(), source };
        let directory = socket.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(directory).map_err(failed)?;
        let name = socket.file_name().map(PathBuf::from).ok_or_else(|| failed(io::ErrorKind::IsADirectory.into()))?;
        let lock = lock(socket, failed)?;
        remove_stale(socket, failed)?;
        // 0660 from its first moment on.
        let before = umask(Mode::S_IXUSR | Mode::S_IXGRP | Mode::S_IRWXO);
        let bound = UnixListener::bind(socket);
        umask(before);
        let unix = bound.map_err(failed)?;
        let directory = File::open(directory).map_err(failed)?;
        let mut doors = Self { unix, tcp: None, _lock: lock, directory, name };
        if let Some(group) = &api.group {
            let id = Group::from_name(group).ok().flatten().ok_or_else(|| DoorError::NoGroup(group.clone()))?.gid;
            let failed = |source: nix::Error| DoorError::System {
                key: "api.group",
                place: group.clone(),
                source: source.into(),
            };
            chown(socket, None, Some(id)).map_err(failed)?;
        }
        doors.tcp = api.listen.map(listen).transpose()?;
        Ok(doors)
    }
}

/// A client at `api.listen` that has not answered the kernel for so long has vanished.
const VANISHED: Duration = Duration::from_secs(30);

fn listen(address: SocketAddr) -> Result<TcpListener, DoorError> {
    let bound = TcpListener::bind(address).and_then(|listener| {
        // Connections have these from their listener (tcp(7)).
        let socket = SockRef::from(&listener);
        let keepalive = TcpKeepalive::new().with_time(VANISHED / 2).with_interval(VANISHED / 6).with_retries(3);
        socket.set_tcp_keepalive(&keepalive)?;
        socket.set_tcp_user_timeout(Some(VANISHED))?;
        Ok(listener)
    });
    bound.map_err(|source| DoorError::System { key: "api.listen", place: address.to_string(), source })
}

/// Only one daemon has a socket; the lock goes with its process, however that ends.
fn lock(socket: &Path, failed: impl Fn(io::Error) -> DoorError) -> Result<File, DoorError> {
    let mut path = socket.as_os_str().to_owned();
    path.push(".lock");
    let options = File::options().create(true).read(true).write(true).truncate(false).mode(0o640).open(path);
    let mut lock = options.map_err(&failed)?;
    match lock.try_lock() {
        Ok(()) => {
            let id = std::process::id().to_string();
            lock.set_len(0).and_then(|()| lock.write_all(id.as_bytes())).map_err(failed)?;
            Ok(lock)
        }
        Err(TryLockError::WouldBlock) => {
            let mut id = String::new();
            let _ = lock.rewind().and_then(|()| lock.read_to_string(&mut id));
            let who = if id.is_empty() { String::new() } else { format!(", process {id}") };
            Err(DoorError::Taken { socket: socket.display().to_string(), who })
        }
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// A socket that nobody listens at is left over from a process that was killed.
fn remove_stale(socket: &Path, failed: impl Fn(io::Error) -> DoorError) -> Result<(), DoorError> {
    let found = match fs::symlink_metadata(socket) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    let shown = || socket.display().to_string();
    if !found.file_type().is_socket() {
        return Err(DoorError::NoSocket(shown()));
    }
    match UnixStream::connect(socket) {
        Ok(_) => Err(DoorError::Taken { socket: shown(), who: String::new() }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(socket).map_err(failed),
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn api(directory: &Path) -> Api {
        Api { socket: directory.join("deep/api.sock"), group: None, listen: None }
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let place = tempfile::tempdir().expect("a directory");
        let api = api(place.path());
        fs::create_dir(place.path().join("deep")).expect("a directory");
        drop(UnixListener::bind(&api.socket).expect("bound"));
        let doors = Doors::open(&api).expect("the stale one is replaced");
        let mode = fs::metadata(&api.socket).expect("a socket").permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        let error = Doors::open(&api).expect_err("a live one").to_string();
        let expected = format!("another pointsman answers there, process {}", std::process::id());
        assert!(error.contains(&expected) && error.contains("api.sock"), "{error}");
        drop(doors);
        assert!(!api.socket.exists(), "it is removed");
        let _other = UnixListener::bind(&api.socket).expect("bound");
        let error = Doors::open(&api).expect_err("somebody else's").to_string();
        assert!(error.contains("another pointsman answers there"), "{error}");
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let place = tempfile::tempdir().expect("a directory");
        let api = api(place.path());
        fs::create_dir(place.path().join("deep")).expect("a directory");
        fs::write(&api.socket, "text").expect("written");
        let error = Doors::open(&api).expect_err("a file").to_string();
        assert!(error.contains("is there and is no socket"), "{error}");
        assert_eq!(fs::read_to_string(&api.socket).expect("still there"), "text");
        let no_group = Api { socket: place.path().join("b.sock"), group: Some("no.such.group".into()), ..api };
        let error = Doors::open(&no_group).expect_err("no group").to_string();
        assert_eq!(error, "api.group: there is no group \"no.such.group\" on this host");
    }
}
