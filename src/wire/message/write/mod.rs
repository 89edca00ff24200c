//! Writers: each appends one frame to a buffer.
//!
//! A text of the protocol ends at its first NUL. A text given here that has one inside is cut there, so that it cannot
//! reach into the next field; the server then sees what it would have seen anyway.

pub mod backend;
pub mod frontend;

use bytes::{BufMut, BytesMut};
use memchr::memchr;

/// Bytes: room that is made for a frame at least: most are shorter, and a buffer that grows by every field is copied often.
pub(crate) const ROOM: usize = 128;

/// Appends a frame: the tag, a length word and what `body` writes.
fn frame(buf: &mut BytesMut, tag: u8, body: impl FnOnce(&mut BytesMut)) {
    buf.reserve(ROOM);
    buf.put_u8(tag);
    untagged(buf, body);
}

/// Appends a length word and what `body` writes: a startup packet, or a frame behind its tag.
fn untagged(buf: &mut BytesMut, body: impl FnOnce(&mut BytesMut)) {
    let start = buf.len();
    buf.put_u32(0);
    body(buf);
    // A body over 4 GiB cannot be said in the protocol; no receiver takes a length of u32::MAX.
    let length = u32::try_from(buf.len() - start).unwrap_or(u32::MAX);
    buf[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

/// Appends a text and its NUL.
fn text(buf: &mut BytesMut, text: &[u8]) {
    let end = memchr(0, text).unwrap_or(text.len());
    buf.put_slice(&text[..end]);
    buf.put_u8(0);
}

/// Appends a value behind its Int32 length; NULL has the length -1.
fn value(buf: &mut BytesMut, value: Option<&[u8]>) {
    match value {
        Some(bytes) => {
            buf.put_i32(i32::try_from(bytes.len()).unwrap_or(i32::MAX));
            buf.put_slice(bytes);
        }
        None => buf.put_i32(-1),
    }
}

/// Appends an Int16 count and the items, at most as many as the count can say.
fn list<T: Copy>(buf: &mut BytesMut, items: &[T], mut item: impl FnMut(&mut BytesMut, T)) {
    let count = u16::try_from(items.len()).unwrap_or(u16::MAX);
    buf.put_u16(count);
    for &one in items.iter().take(usize::from(count)) {
        item(buf, one);
    }
}
