//! Whether a connection has work or waits for its client, and for how long it does.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// A client that does not read what waits for it is cut off after that.
const WRITE: Duration = Duration::from_secs(10);

/// It has to take so many bytes in that time, or all there are: 100 kB/s.
const LEAST: usize = 1 << 20;

/// What a connection does.
#[derive(Debug, Default)]
pub(super) struct Activity {
    /// Answers being made or written.
    answers: AtomicUsize,
    /// The client does not read, or others are waited for.
    is_waiting: AtomicBool,
}

/// While it lives, its connection is not closed for a new one, unless it waits all the same.
#[derive(Debug)]
pub(super) struct Busy(Arc<Activity>);

impl Activity {
    /// From now on there is work.
    pub(super) fn begin(this: &Arc<Self>) -> Busy {
        this.answers.fetch_add(1, Ordering::Relaxed);
        Busy(Arc::clone(this))
    }

    /// Whether its client, or another one, is waited for although there is work.
    pub(super) fn wait(&self, is_waiting: bool) {
        self.is_waiting.store(is_waiting, Ordering::Relaxed);
    }

    /// Whether nobody loses much if it is closed.
    pub(super) fn is_waiting(&self) -> bool {
        self.answers.load(Ordering::Relaxed) == 0 || self.is_waiting.load(Ordering::Relaxed)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.answers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream that does not wait for ever for a client that does not read.
#[derive(Debug)]
pub(super) struct Patient<S> {
    stream: S,
    activity: Arc<Activity>,
    /// Since a write had to wait, until everything is written.
    late: Option<Pin<Box<Sleep>>>,
    /// Since then, or since it last was enough.
    written: usize,
}

impl<S> Patient<S> {
    pub(super) fn new(stream: S, activity: Arc<Activity>) -> Self {
        Self { stream, activity, late: None, written: 0 }
    }

    /// What comes of a write that came to that.
    fn after(&mut self, context: &mut Context<'_>, wrote: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        self.activity.wait(wrote.is_pending());
        match wrote {
            Poll::Ready(Ok(bytes)) => {
                self.written += bytes;
                if self.written >= LEAST {
                    self.late = None;
                }
                wrote
            }
            Poll::Ready(Err(_)) => wrote,
            Poll::Pending => {
                if self.late.is_none() {
                    self.written = 0;
                }
                let late = self.late.get_or_insert_with(|| Box::pin(tokio::time::sleep(WRITE)));
                late.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.after(context, wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.after(context, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Called when there is nothing left to be written.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.late = None;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn run(test: impl Future<Output = ()>) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().build().expect("a runtime").block_on(test);
    }

    #[test]
    fn who_does_not_read_is_cut_off() {
        run(async {
            let (ours, mut theirs) = tokio::io::duplex(1024);
            let activity = Arc::<Activity>::default();
            let busy = Activity::begin(&activity);
            let mut stream = Patient::new(ours, Arc::clone(&activity));
            stream.write_all(&[7; 1000]).await.expect("there is room");
            assert!(!activity.is_waiting());
            // It takes some, and then nothing.
            let slow = async {
                theirs.read_exact(&mut [0; 500]).await.expect("some");
                tokio::time::sleep(WRITE / 2).await;
                assert!(activity.is_waiting(), "it may be closed for another");
                theirs.read_exact(&mut [0; 500]).await.expect("more");
                std::future::pending::<()>().await;
            };
            let began = tokio::time::Instant::now();
            let error = tokio::select! {
                result = stream.write_all(&[7; 4000]) => result.expect_err("too slow"),
                () = slow => unreachable!(),
            };
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert!(began.elapsed() >= WRITE && began.elapsed() < WRITE * 2, "{:?}", began.elapsed());
            drop(busy);
            assert!(activity.is_waiting());
        });
    }

    #[test]
    fn who_reads_in_time_is_waited_for() {
        run(async {
            let (ours, mut theirs) = tokio::io::duplex(1024);
            let mut stream = Patient::new(ours, Arc::default());
            let read = async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                theirs.read_exact(&mut vec![0; 4000]).await.expect("all of it");
            };
            let write = async {
                stream.write_all(&[7; 4000]).await.expect("it is read");
                stream.flush().await.expect("written");
            };
            tokio::join!(write, read);
            assert!(stream.late.is_none(), "nothing waits any more");
        });
    }
}
