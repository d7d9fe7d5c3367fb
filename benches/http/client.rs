//! The client: keep-alive connections that each have one request under way, always.
//!
//! It says how many answers it has had whenever a line comes on its standard input; when that ends, it reports and
//! ends, too.

use std::io::{self, BufRead as _, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddrV4, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use serde::{Deserialize, Serialize};

use crate::exchange::{REQUEST, response};

/// How long a connection may take to be made.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// How long a thread waits for events before it looks whether it is to end.
const LOOK_EVERY_MS: u16 = 100;
/// Failures after which a thread gives up: nothing would be measured any more.
const FAILURES_MAX: u64 = 1000;

/// What the process is told.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Whom to ask.
    #[arg(long)]
    target: SocketAddrV4,
    /// Connections, divided among the threads.
    #[arg(long)]
    connections: usize,
    /// Threads.
    #[arg(long)]
    threads: usize,
    /// Bytes of each answer's body.
    #[arg(long)]
    body: usize,
    /// Seconds after which it ends in any case.
    #[arg(long)]
    limit_seconds: u64,
}

/// What it says at the end, as JSON.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Answers that were not as they should be, and connections that ended or could not be made.
    pub(crate) failures: u64,
    /// From request to whole answer, from the first line of input on, in microseconds.
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
}

/// What threads share.
struct Shared {
    target: SocketAddrV4,
    response: Vec<u8>,
    answers: AtomicU64,
    failures: AtomicU64,
    is_measuring: AtomicBool,
    is_over: AtomicBool,
    deadline: Instant,
}

struct Connection {
    stream: TcpStream,
    /// How much of the answer has come.
    received: usize,
    asked: Instant,
}

/// Asks until its standard input ends.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let shared = Shared {
        target: arguments.target,
        response: response(arguments.body),
        answers: AtomicU64::new(0),
        failures: AtomicU64::new(0),
        is_measuring: AtomicBool::new(false),
        is_over: AtomicBool::new(false),
        deadline: Instant::now() + Duration::from_secs(arguments.limit_seconds),
    };
    let each = arguments.connections.div_ceil(arguments.threads.max(1));
    let latencies = thread::scope(|scope| -> Result<Histogram<u64>> {
        let work = || shared.work(each).inspect_err(|error| eprintln!("client: {error:#}"));
        let threads: Vec<_> = (0..arguments.threads).map(|_| scope.spawn(work)).collect();
        for line in io::stdin().lock().lines() {
            line?;
            shared.is_measuring.store(true, Ordering::Relaxed);
            say(&shared.answers.load(Ordering::Relaxed))?;
        }
        shared.is_over.store(true, Ordering::Relaxed);
        let mut all = Histogram::new(3)?;
        for thread in threads {
            all.add(thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??)?;
        }
        Ok(all)
    })?;
    say(&Report {
        failures: shared.failures.load(Ordering::Relaxed),
        p50_us: latencies.value_at_quantile(0.50),
        p99_us: latencies.value_at_quantile(0.99),
    })
}

fn say(value: &impl Serialize) -> Result<()> {
    let mut output = io::stdout().lock();
    serde_json::to_writer(&mut output, value)?;
    output.write_all(b"\n")?;
    Ok(output.flush()?)
}

impl Shared {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
            || Instant::now() > self.deadline
            || self.failures.load(Ordering::Relaxed) > FAILURES_MAX
    }

    /// One thread's connections, to the end.
    fn work(&self, count: usize) -> Result<Histogram<u64>> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let mut latencies = Histogram::new(3)?;
        let mut connections =
            (0..count as u64).map(|number| self.connect(&epoll, number)).collect::<Result<Vec<_>>>()?;
        let mut events = [EpollEvent::empty(); 256];
        while !self.is_over() {
            let ready = match epoll.wait(&mut events, EpollTimeout::from(LOOK_EVERY_MS)) {
                Err(Errno::EINTR) => continue,
                ready => ready?,
            };
            for event in &events[..ready] {
                let connection = &mut connections[event.data() as usize];
                let asked = connection.asked;
                match connection.advance(&self.response) {
                    Ok(false) => {}
                    Ok(true) => {
                        self.answers.fetch_add(1, Ordering::Relaxed);
                        if self.is_measuring.load(Ordering::Relaxed) {
                            latencies.record((connection.asked - asked).as_micros() as u64)?;
                        }
                    }
                    Err(_) => {
                        self.failures.fetch_add(1, Ordering::Relaxed);
                        *connection = self.connect(&epoll, event.data())?;
                    }
                }
            }
        }
        Ok(latencies)
    }

    /// Makes a connection and asks on it.
    fn connect(&self, epoll: &Epoll, number: u64) -> Result<Connection> {
        let stream = TcpStream::connect_timeout(&self.target.into(), CONNECT_WITHIN)
            .with_context(|| format!("connecting to {}", self.target))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, number))?;
        let mut connection = Connection { stream, received: 0, asked: Instant::now() };
        connection.ask()?;
        Ok(connection)
    }
}

impl Connection {
    fn ask(&mut self) -> io::Result<()> {
        self.received = 0;
        self.asked = Instant::now();
        match self.stream.write(REQUEST)? {
            length if length == REQUEST.len() => Ok(()),
            _ => Err(ErrorKind::WriteZero.into()),
        }
    }

    /// Takes what has come; says whether the answer was whole and the next request is under way.
    fn advance(&mut self, response: &[u8]) -> io::Result<bool> {
        let mut buffer = [0; 8192];
        let length = match self.stream.read(&mut buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(length) => length,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(false),
            Err(error) => return Err(error),
        };
        let end = self.received + length;
        if response.get(self.received..end) != Some(&buffer[..length]) {
            return Err(ErrorKind::InvalidData.into());
        }
        self.received = end;
        if end < response.len() {
            return Ok(false);
        }
        self.ask()?;
        Ok(true)
    }
}
