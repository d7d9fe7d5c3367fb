//! The socket that asks the kernel.
//!
//! Many questions travel in one datagram: the kernel answers them one after the other before the call that sends them
//! returns, so their answers lie in the socket together. One question at a time, each with its own turn of the event loop,
//! takes seconds for the routes to ten thousand members.

use std::future::poll_fn;
use std::io;
use std::time::Duration;

use rtnetlink::packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NLMSG_ALIGNTO, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage as Rtnl;
use rtnetlink::sys::{AsyncSocket, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE};

use super::WatchError;
use super::message::Message;

/// The kernel answers in microseconds, or milliseconds when it walks a large table. Only a broken socket takes this
/// long.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Questions in one datagram. Their answers wait in the socket's buffer together: each takes less than 5 KiB of it (a
/// page and the kernel's bookkeeping), and it has 208 KiB (`net.core.rmem_default`). More would lose answers, fewer cost a
/// turn of the event loop more often.
const AT_ONCE: usize = 32;

/// Bytes of the largest datagram that the kernel sends (32 KiB: `netlink_dump` in `net/netlink/af_netlink.c`), twice.
const LARGEST_DATAGRAM: usize = 64 << 10;

/// Asks, and reads the answers.
pub(super) struct Questions {
    socket: TokioSocket,
    /// Of the last question: an answer names the question that it is to.
    sequence: u32,
    received: Vec<u8>,
}

/// What the kernel said.
pub(super) enum Answer {
    Is(Message),
    /// Acknowledged, or the end of a dump.
    Done,
    /// An error number.
    Error(i32),
}

impl Questions {
    /// Opens the socket, in the network namespace of the calling thread.
    pub(super) fn open() -> io::Result<Self> {
        let socket = TokioSocket::new(NETLINK_ROUTE)?;
        Ok(Self { socket, sequence: 0, received: Vec::with_capacity(LARGEST_DATAGRAM) })
    }

    /// Asks what has one answer each: the answers are in the order of the questions.
    pub(super) async fn ask(
        &mut self,
        what: &'static str,
        flags: u16,
        questions: Vec<Rtnl>,
    ) -> Result<Vec<Answer>, WatchError> {
        let mut answers = Vec::with_capacity(questions.len());
        let mut questions = questions.into_iter();
        while questions.len() > 0 {
            let first = self.sequence.wrapping_add(1);
            let together: Vec<Rtnl> = questions.by_ref().take(AT_ONCE).collect();
            let mut found: Vec<Option<Answer>> = together.iter().map(|_| None).collect();
            self.send(flags, together).await?;
            while found.iter().any(Option::is_none) {
                self.receive(what, |header, answer| {
                    let place = found.get_mut(header.sequence_number.wrapping_sub(first) as usize);
                    // Else it is to a question that nobody waits for any more.
                    if let Some(place) = place {
                        *place = Some(answer);
                    }
                })
                .await?;
            }
            answers.extend(found.into_iter().flatten());
        }
        Ok(answers)
    }

    /// Asks for a whole table: its entries' messages with their flags, as far as they came before the end or an error.
    pub(super) async fn dump(&mut self, what: &'static str, question: Rtnl) -> Result<Vec<(u16, Answer)>, WatchError> {
        self.send(NLM_F_REQUEST | NLM_F_DUMP, vec![question]).await?;
        let sequence = self.sequence;
        let mut answers = Vec::new();
        while !matches!(answers.last(), Some((_, Answer::Done | Answer::Error(_)))) {
            self.receive(what, |header, answer| {
                if header.sequence_number == sequence {
                    answers.push((header.flags, answer));
                }
            })
            .await?;
        }
        Ok(answers)
    }

    /// Sends the questions in one datagram, numbered onwards from the last one.
    async fn send(&mut self, flags: u16, questions: Vec<Rtnl>) -> Result<(), WatchError> {
        let mut datagram = Vec::new();
        for question in questions {
            self.sequence = self.sequence.wrapping_add(1);
            let mut header = NetlinkHeader::default();
            (header.flags, header.sequence_number) = (flags, self.sequence);
            let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(Message::Known(question)));
            message.finalize();
            let start = datagram.len();
            datagram.resize((start + message.buffer_len()).next_multiple_of(NLMSG_ALIGNTO.into()), 0);
            message.serialize(&mut datagram[start..]);
        }
        let kernel = SocketAddr::new(0, 0);
        let written = poll_fn(|context| self.socket.poll_send_to(context, &datagram, &kernel)).await;
        written.map_err(WatchError::Failed).map(|_| ())
    }

    /// Waits for one datagram and takes each message in it.
    async fn receive(
        &mut self,
        what: &'static str,
        mut take: impl FnMut(&NetlinkHeader, Answer),
    ) -> Result<(), WatchError> {
        self.received.clear();
        let received = poll_fn(|context| self.socket.poll_recv_from(context, &mut self.received));
        let received = tokio::time::timeout(ANSWER_WITHIN, received).await.map_err(|_| WatchError::Silent(what))?;
        received.map_err(WatchError::Failed)?;
        let mut rest = self.received.as_slice();
        // A length beyond the datagram's end, which the kernel does not send, ends it.
        while let Ok(length) = NetlinkBuffer::new_checked(rest).map(|message| message.length() as usize) {
            let (header, answer) = read(&rest[..length]);
            take(&header, answer);
            rest = rest.get(length.next_multiple_of(NLMSG_ALIGNTO.into())..).unwrap_or_default();
        }
        Ok(())
    }
}

/// Reads one whole message.
fn read(bytes: &[u8]) -> (NetlinkHeader, Answer) {
    match NetlinkMessage::<Message>::deserialize(bytes).map(NetlinkMessage::into_parts) {
        Ok((header, payload)) => (header, answer(payload)),
        // The library cannot read even the frame around the content: an error, or the end of a dump.
        Err(error) => {
            let frame = NetlinkBuffer::new(bytes);
            let mut header = NetlinkHeader::default();
            (header.flags, header.sequence_number) = (frame.flags(), frame.sequence_number());
            (header, Answer::Is(Message::Unreadable { kind: frame.message_type(), why: error.to_string() }))
        }
    }
}

fn answer(payload: NetlinkPayload<Message>) -> Answer {
    match payload {
        NetlinkPayload::InnerMessage(message) => Answer::Is(message),
        NetlinkPayload::Error(error) => match error.code {
            Some(code) => Answer::Error(code.get().saturating_abs()),
            None => Answer::Done,
        },
        NetlinkPayload::Done(done) if done.code < 0 => Answer::Error(done.code.saturating_abs()),
        _ => Answer::Done,
    }
}
