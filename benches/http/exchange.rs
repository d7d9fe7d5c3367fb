//! One request and its answer, byte by byte the same every time: both ends compare what they get with what was to come.

/// What clients ask.
pub(crate) const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n";

/// The longest body: an answer fits into a socket's buffers, so that sending it takes one call.
pub(crate) const BODY_MAX: usize = 16_384;

/// What members answer, with a body of so many bytes.
pub(crate) fn response(body: usize) -> Vec<u8> {
    let mut bytes =
        format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {body}\r\n\r\n").into_bytes();
    bytes.extend((0..body).map(|index| b'a' + (index % 26) as u8));
    bytes
}
