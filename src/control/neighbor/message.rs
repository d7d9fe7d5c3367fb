//! A netlink message that is there even if its content cannot be read: a question whose answer vanished would wait for
//! ever, and an event that vanished would leave old facts standing.

use rtnetlink::packet_core::{NetlinkDeserializable, NetlinkHeader, NetlinkSerializable};
use rtnetlink::packet_route::RouteNetlinkMessage as Rtnl;

/// What the kernel sent.
#[derive(Debug, Clone)]
pub(super) enum Message {
    Known(Rtnl),
    /// A type that the library does not know, or a content that it cannot read.
    Unreadable {
        kind: u16,
        why: String,
    },
}

impl NetlinkDeserializable for Message {
    type Error = std::convert::Infallible;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, Self::Error> {
        Ok(match Rtnl::deserialize(header, payload) {
            Ok(message) => Self::Known(message),
            Err(error) => Self::Unreadable { kind: header.message_type, why: error.to_string() },
        })
    }
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        match self {
            Self::Known(message) => message.message_type(),
            Self::Unreadable { kind, .. } => *kind,
        }
    }

    fn buffer_len(&self) -> usize {
        match self {
            Self::Known(message) => NetlinkSerializable::buffer_len(message),
            Self::Unreadable { .. } => 0,
        }
    }

    fn serialize(&self, buffer: &mut [u8]) {
        if let Self::Known(message) = self {
            message.serialize(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(kind: u16, payload: &[u8]) -> Message {
        let mut header = NetlinkHeader::default();
        header.message_type = kind;
        let Ok(message) = Message::deserialize(&header, payload);
        message
    }

    #[test]
    fn a_message_that_cannot_be_read_is_still_there() {
        assert!(matches!(read(nix::libc::RTM_NEWROUTE, &[2, 32]), Message::Unreadable { kind: 24, .. }));
        assert!(matches!(read(9999, &[]), Message::Unreadable { kind: 9999, .. }));
    }
}
