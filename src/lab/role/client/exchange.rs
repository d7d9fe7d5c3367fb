//! One connection: what is sent, and how its answers are checked.

use std::error::Error;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::timeout;

use super::super::pattern::Pattern;
use super::{Client, Opened, Seen};

/// How long the answer to a datagram may take. A lost one is a failure: nothing asks again.
const DATAGRAM_PATIENCE: Duration = Duration::from_secs(2);
/// UDP source ports that the client chooses from.
const UDP_PORTS: std::ops::RangeInclusive<u64> = 1024..=65_535;

/// An HTTP connection to the target.
struct Connection<'a> {
    client: &'a Client,
    sender: SendRequest<Pattern>,
    own: SocketAddr,
    began: Instant,
    first: bool,
    _opened: Opened<'a>,
}

impl Client {
    /// `GET /`, as often as the load says.
    pub(super) async fn get(&self, number: u64) -> Result<(), String> {
        let mut connection = self.connect(number).await?;
        for _ in 0..self.load.requests {
            let mut response = connection.ask(Method::GET, "/".to_owned(), Pattern::empty()).await?;
            while let Some(frame) = response.body_mut().frame().await {
                frame.map_err(chain("reading an answer"))?;
            }
            connection.answered(&response)?;
        }
        Ok(())
    }

    /// Upload, compare hashes; download, compare bytes.
    pub(super) async fn transfer(&self, number: u64) -> Result<(), String> {
        let length = self.load.bytes;
        let mut connection = self.connect(number).await?;
        let pattern = Pattern::new(number, length);
        let response = connection.ask(Method::POST, "/echo-hash".to_owned(), pattern.clone()).await?;
        connection.answered(&response)?;
        let body = response.into_body().collect().await.map_err(chain("reading an answer"))?.to_bytes();
        let echo: serde_json::Value = serde_json::from_slice(&body).map_err(chain("an answer that is not JSON"))?;
        if echo["length"] != length || echo["hash"] != pattern.clone().digest() {
            return Err("the member received other bytes than were sent".to_owned());
        }
        self.tally.borrow_mut().report.bytes += length;

        let mut response = connection.ask(Method::GET, format!("/bytes/{length}/{number}"), Pattern::empty()).await?;
        let mut expected = pattern;
        let mut received = 0;
        while let Some(frame) = response.body_mut().frame().await {
            let frame = frame.map_err(chain("reading an answer"))?;
            let data = frame.data_ref().map_or(&[][..], |data| data);
            if expected.take(data.len() as u64) != data {
                return Err("other bytes were received than the member sent".to_owned());
            }
            received += data.len() as u64;
        }
        if received != length {
            return Err("fewer bytes were received than the member sent".to_owned());
        }
        self.tally.borrow_mut().report.bytes += length;
        connection.answered(&response)
    }

    /// One datagram from a port of its own, and its answer.
    pub(super) async fn datagram(&self, number: u64) -> Result<(), String> {
        let began = Instant::now();
        let ports = UDP_PORTS.end() - UDP_PORTS.start() + 1;
        let turn = number / (self.load.sources.len() as u64).max(1);
        let own = match self.source(number) {
            Some(source) => SocketAddr::new(source, (UDP_PORTS.start() + turn % ports) as u16),
            None => SocketAddr::from(([0, 0, 0, 0], 0)),
        };
        let socket = UdpSocket::bind(own).await.map_err(chain("binding a UDP socket"))?;
        socket.connect(self.load.target).await.map_err(chain("connecting a UDP socket"))?;
        let own = socket.local_addr().map_err(chain("the own address"))?;
        let _opened = self.opened();
        let question = format!("datagram {number}");
        socket.send(question.as_bytes()).await.map_err(chain("sending a datagram"))?;
        let mut datagram = [0; 2048];
        let length = timeout(DATAGRAM_PATIENCE, socket.recv(&mut datagram))
            .await
            .map_err(|_| format!("no answer to a datagram within {} s", DATAGRAM_PATIENCE.as_secs()))?
            .map_err(chain("receiving a datagram"))?;
        let answer = String::from_utf8_lossy(&datagram[..length]);
        match answer.splitn(3, ' ').collect::<Vec<_>>()[..] {
            [member, client, echo] if echo == question => {
                self.answered(true, began, own, Seen { member: member.to_owned(), client: client.to_owned() })
            }
            _ => Err("an answer to another datagram".to_owned()),
        }
    }

    async fn connect(&self, number: u64) -> Result<Connection<'_>, String> {
        let began = Instant::now();
        let stream = self.call(number).await.map_err(chain("connecting"))?;
        let own = stream.local_addr().map_err(chain("the own address"))?;
        let opened = self.opened();
        let (sender, driver) = handshake(TokioIo::new(stream)).await.map_err(chain("connecting"))?;
        // It ends with its sender; what goes wrong on it, the request says.
        tokio::task::spawn_local(driver);
        Ok(Connection { client: self, sender, own, began, first: true, _opened: opened })
    }

    async fn call(&self, number: u64) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        if let Some(source) = self.source(number) {
            // Choose the port when the target is known: each port then serves once per target, not once at all.
            setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
            socket.bind(SocketAddr::new(source, 0))?;
        }
        socket.set_nodelay(true)?;
        socket.connect(self.load.target.into()).await
    }
}

impl Connection<'_> {
    /// Sends a request and waits for the head of its answer.
    async fn ask(&mut self, method: Method, path: String, body: Pattern) -> Result<Response<Incoming>, String> {
        if !self.first {
            self.sender.ready().await.map_err(chain("the next request"))?;
            self.began = Instant::now();
        }
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.client.load.target.to_string())
            .body(body)
            .map_err(chain("a request"))?;
        let response = self.sender.send_request(request).await.map_err(chain("waiting for an answer"))?;
        if response.status() != 200 {
            return Err(format!("an answer with status {}", response.status()));
        }
        Ok(response)
    }

    /// Checks who answered whom, and counts it.
    fn answered(&mut self, response: &Response<Incoming>) -> Result<(), String> {
        let header = |name: &str| {
            let value = response.headers().get(name).and_then(|value| value.to_str().ok());
            value.map(ToOwned::to_owned).ok_or_else(|| format!("an answer without the header `{name}`"))
        };
        let server = header("server")?;
        if server != self.client.load.target.to_string() {
            return Err(format!("the member was called as {server}"));
        }
        let seen = Seen { member: header("member")?, client: header("client")? };
        self.client.answered(std::mem::take(&mut self.first), self.began, self.own, seen)
    }
}

/// What was being done, and the error with its causes. Without numbers that differ from connection to connection: the
/// text is what failures are counted by.
fn chain<E: Error>(what: &str) -> impl FnOnce(E) -> String {
    move |error| {
        let mut text = format!("{what}: {error}");
        let mut cause = error.source();
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}
