//! A DNS query over UDP (RFC 1035) and the answer that is good.

use std::net::SocketAddrV4;
use std::str::FromStr as _;

use hickory_proto::op::{Message, MessageType, Query};
use hickory_proto::rr::{Name, RecordType};

use super::outcome::{Bad, Deadline, Good, Outcome};
use super::udp;
use crate::control::model::monitor::{Dns, Rcode};

/// A query made ready.
pub(super) struct Question {
    settings: Dns,
    query: Query,
}

impl Question {
    pub(super) fn prepare(settings: &Dns) -> Result<Question, String> {
        let mut name = Name::from_ascii(&settings.query).map_err(|error| error.to_string())?;
        name.set_fqdn(true);
        let record = RecordType::from_str(&settings.record).map_err(|error| error.to_string())?;
        Ok(Question { settings: settings.clone(), query: Query::query(name, record) })
    }

    pub(super) async fn check(&self, target: SocketAddrV4, deadline: &Deadline) -> Outcome {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(self.query.clone());
        let bytes = message.to_vec().map_err(|error| Bad::Failed(error.to_string()))?;
        let socket = udp::connected(target).await?;
        socket.send(&bytes).await?;
        // Without EDNS no answer is longer than 512 bytes (RFC 1035 §4.2.1); some are.
        let mut buffer = vec![0; 4096];
        loop {
            let received = deadline.keep("waiting for the answer", socket.recv(&mut buffer)).await?;
            let length = received.map_err(udp::refused)?;
            // An answer to somebody else's question, or an older one's, is none.
            if buffer[..length].starts_with(&message.metadata.id.to_be_bytes()) {
                return self.judge(&buffer[..length]);
            }
        }
    }

    fn judge(&self, bytes: &[u8]) -> Outcome {
        let answer = Message::from_vec(bytes).map_err(|error| Bad::Failed(format!("no DNS message: {error}")))?;
        if answer.metadata.message_type != MessageType::Response || !answer.queries.contains(&self.query) {
            return Bad::failed("answered another question");
        }
        let (found, wanted) = (u16::from(answer.metadata.response_code), self.settings.rcode);
        if found != wanted.number() {
            return Bad::failed(format!("{}, expected {wanted}", rcode_name(found)));
        }
        let Some(wanted) = &self.settings.answer else { return Ok(Good::default()) };
        let mut records: Vec<String> = answer
            .answers
            .iter()
            .filter(|record| record.data.record_type() == self.query.query_type())
            .map(|record| record.data.to_string())
            .collect();
        let plain = |text: &str| text.trim_end_matches('.').to_ascii_lowercase();
        if records.iter().any(|record| plain(record) == plain(wanted)) {
            return Ok(Good::default());
        }
        let found = match records.len() {
            0 => format!("no {} record", self.settings.record),
            1..=3 => records.join(", "),
            more => {
                records.truncate(3);
                format!("{} and {} more", records.join(", "), more - 3)
            }
        };
        Bad::failed(format!("answered {found}, expected {wanted}"))
    }
}

fn rcode_name(number: u16) -> String {
    let known = [Rcode::NoError, Rcode::NxDomain, Rcode::Refused, Rcode::ServFail];
    match known.into_iter().find(|rcode| rcode.number() == number) {
        Some(rcode) => rcode.to_string(),
        None => format!("RCODE {number}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A response to "a.example. A" written down by hand after RFC 1035 §4.1: flags, rcode, answers' addresses.
    fn response(flags: u8, rcode: u8, addresses: &[[u8; 4]]) -> Vec<u8> {
        let mut bytes = vec![0x12, 0x34, flags, 0x80 | rcode, 0, 1, 0, addresses.len() as u8, 0, 0, 0, 0];
        bytes.extend(b"\x01a\x07example\0\0\x01\0\x01");
        for address in addresses {
            // Name: a pointer to the question's; A, IN, TTL 60, 4 bytes.
            bytes.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
            bytes.extend(address);
        }
        bytes
    }

    /// What is answered, the bytes, the expected code and record, and what it comes to.
    type Row = (&'static str, Vec<u8>, Rcode, Option<&'static str>, Result<(), &'static str>);

    #[test]
    fn answers_are_judged() {
        const ONE: [u8; 4] = [192, 0, 2, 1];
        const TWO: [u8; 4] = [192, 0, 2, 2];
        let cut = response(0x84, 0, &[ONE])[..20].to_vec();
        let mut other = response(0x84, 0, &[ONE]);
        other[13] = b'b';
        let rows: [Row; 9] = [
            ("as expected", response(0x84, 0, &[ONE]), Rcode::NoError, Some("192.0.2.1"), Ok(())),
            ("one of two", response(0x84, 0, &[TWO, ONE]), Rcode::NoError, Some("192.0.2.1"), Ok(())),
            ("any answer", response(0x84, 0, &[]), Rcode::NoError, None, Ok(())),
            (
                "another address",
                response(0x84, 0, &[TWO]),
                Rcode::NoError,
                Some("192.0.2.1"),
                Err("answered 192.0.2.2, expected 192.0.2.1"),
            ),
            (
                "no address",
                response(0x84, 0, &[]),
                Rcode::NoError,
                Some("192.0.2.1"),
                Err("answered no A record, expected 192.0.2.1"),
            ),
            ("an error", response(0x84, 2, &[]), Rcode::NoError, None, Err("SERVFAIL, expected NOERROR")),
            ("an expected error", response(0x84, 3, &[]), Rcode::NxDomain, None, Ok(())),
            ("another name", other, Rcode::NoError, None, Err("answered another question")),
            ("a query", response(0x04, 0, &[]), Rcode::NoError, None, Err("answered another question")),
        ];
        for (what, bytes, rcode, expected, outcome) in rows {
            let question = Question::prepare(&Dns {
                query: "a.example".to_owned(),
                record: "A".to_owned(),
                rcode,
                answer: expected.map(str::to_owned),
            });
            let question = question.expect("a question");
            let found = question.judge(&bytes).map(|_| ());
            assert_eq!(found, outcome.map_err(|why| Bad::Failed(why.to_owned())), "{what}");
            let Err(Bad::Failed(why)) = question.judge(&cut) else { panic!("{what}: half a message") };
            assert!(why.starts_with("no DNS message: "), "{why}");
        }
    }
}
