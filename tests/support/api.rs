//! Requests of the API, written by hand: a library would not send what is wrong.

#![allow(dead_code, reason = "each test binary uses its own part of this")]
#![allow(missing_docs, unreachable_pub, reason = "test code")]

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use pointsman::lab::Lab;
use serde_json::Value;

pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn socket(lab: &Lab) -> PathBuf {
    lab.directory().join("api.sock")
}

pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.filter(|(one, _)| one.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }

    /// A problem of this status that says this.
    #[track_caller]
    pub fn assert_problem(&self, status: u16, words: &str) {
        assert_eq!(self.status, status, "{}", self.body);
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        let problem = self.json();
        assert_eq!(problem["status"], status);
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains(words)), "{words:?}: {problem}");
    }
}

/// Sends these bytes and reads to the end.
pub fn exchange(lab: &Lab, bytes: &[u8]) -> Answer {
    let mut stream = UnixStream::connect(socket(lab)).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    // Whoever refuses may close before the end: what counts is the answer.
    let _ = stream.write_all(bytes);
    let mut text = Vec::new();
    stream.read_to_end(&mut text).expect("an answer");
    let text = String::from_utf8(text).expect("text");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

pub fn request(lab: &Lab, method: &str, path: &str, headers: &str, body: &str) -> Answer {
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n"
    );
    exchange(lab, &[head.as_bytes(), body.as_bytes()].concat())
}

pub fn get(lab: &Lab, path: &str) -> Answer {
    request(lab, "GET", path, "", "")
}

/// A command that asks the lab's daemon.
pub fn command(lab: &Lab, arguments: &[&str]) -> Command {
    let mut command = Command::new(&lab.topology().program);
    command.args(arguments).env("POINTSMAN_SOCKET", socket(lab));
    command
}

fn cli(lab: &Lab, arguments: &[&str]) -> Output {
    command(lab, arguments).output().expect("run")
}

/// What a command prints that succeeds.
#[track_caller]
pub fn printed(lab: &Lab, arguments: &[&str]) -> String {
    let output = cli(lab, arguments);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[track_caller]
pub fn printed_json(lab: &Lab, arguments: &[&str]) -> Value {
    serde_json::from_str(&printed(lab, arguments)).expect("JSON")
}

/// Its code, and what it says on stderr.
pub fn failed(lab: &Lab, arguments: &[&str]) -> (Option<i32>, String) {
    let output = cli(lab, arguments);
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}
