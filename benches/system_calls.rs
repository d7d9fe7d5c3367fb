//! What confinement costs a worker: its two system calls, on a thread as it starts and on one that is confined.
//! Interleaved rounds; prints the medians.
//!
//! `cargo bench --bench system_calls`. No privileges, no packets; a few seconds.

use std::os::fd::{AsFd as _, AsRawFd as _};
use std::thread;
use std::time::Instant;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use nix::sys::socket::{MsgFlags, send};
use pointsman::control::privileges::confine_worker;

const ROUNDS: usize = 21;
const CALLS: u32 = 200_000;

/// Nanoseconds per `poll` of a descriptor that has nothing, and per `sendto` that is refused since it is no socket's: the
/// least that these calls can do, so that what is added shows most.
fn measure(event: &EventFd) -> [f64; 2] {
    [
        time(|| assert_eq!(poll(&mut [PollFd::new(event.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO), Ok(0))),
        time(|| assert!(send(event.as_raw_fd(), &[], MsgFlags::MSG_DONTWAIT).is_err())),
    ]
}

fn time(mut call: impl FnMut()) -> f64 {
    let started = Instant::now();
    for _ in 0..CALLS {
        call();
    }
    started.elapsed().as_nanos() as f64 / f64::from(CALLS)
}

fn on_a_thread(is_confined: bool) -> [f64; 2] {
    let event = EventFd::new().expect("an eventfd");
    let run = move || {
        if is_confined {
            confine_worker(0);
        }
        measure(&event)
    };
    thread::spawn(run).join().expect("a thread that does not panic")
}

fn main() {
    let mut rounds: Vec<([f64; 2], [f64; 2])> = Vec::new();
    for round in 0..ROUNDS {
        // Whoever is first changes with the round.
        let first = on_a_thread(round % 2 == 1);
        let second = on_a_thread(round % 2 == 0);
        rounds.push(if round % 2 == 0 { (first, second) } else { (second, first) });
    }
    for (index, call) in ["poll", "sendto"].iter().enumerate() {
        let unconfined = median(rounds.iter().map(|(unconfined, _)| unconfined[index]).collect());
        let added = median(rounds.iter().map(|(unconfined, confined)| confined[index] - unconfined[index]).collect());
        println!("{call:<6} {unconfined:5.0} ns, and {added:.0} ns more when confined");
    }
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
