//! Writers of what a client sends; towards PostgreSQL we are one.

use super::{frame, list, text, untagged, value};
use crate::wire::message::Target;
use crate::wire::startup::{CANCEL_REQUEST, SSL_REQUEST};
use crate::wire::{CancelKey, ProtocolVersion, frontend as tag};
use bytes::{BufMut, BytesMut};

/// SSLRequest: asks whether the server speaks TLS; it answers one byte, `S` or `N`.
pub fn ssl_request(buf: &mut BytesMut) {
    untagged(buf, |b| b.put_u32(SSL_REQUEST));
}

/// CancelRequest: on a connection of its own; never answered.
pub fn cancel_request(buf: &mut BytesMut, key: &CancelKey) {
    untagged(buf, |b| {
        b.put_u32(CANCEL_REQUEST);
        b.put_i32(key.process_id);
        b.put_slice(&key.secret);
    });
}

/// StartupMessage with `parameters`, `user` among them. A parameter with an empty name is left out: it would end the list.
pub fn startup<K: AsRef<[u8]>, V: AsRef<[u8]>>(
    buf: &mut BytesMut,
    version: ProtocolVersion,
    parameters: impl IntoIterator<Item = (K, V)>,
) {
    untagged(buf, |b| {
        b.put_u32(version.code());
        for (name, value) in parameters {
            if !matches!(name.as_ref().first(), None | Some(0)) {
                text(b, name.as_ref());
                text(b, value.as_ref());
            }
        }
        b.put_u8(0);
    });
}

/// Query: one simple-protocol text.
pub fn query(buf: &mut BytesMut, query: impl AsRef<[u8]>) {
    frame(buf, tag::QUERY, |b| text(b, query.as_ref()));
}

/// Parse: prepares `query` as `name`, with the types of its first parameters (0: let the server decide).
pub fn parse(buf: &mut BytesMut, name: impl AsRef<[u8]>, query: impl AsRef<[u8]>, types: &[u32]) {
    frame(buf, tag::PARSE, |b| {
        text(b, name.as_ref());
        text(b, query.as_ref());
        list(b, types, |b, oid| b.put_u32(oid));
    });
}

/// Parse under another name: `types` as [`Parse::types`](crate::wire::message::Parse::types) gave them.
pub fn parse_raw(buf: &mut BytesMut, name: impl AsRef<[u8]>, query: impl AsRef<[u8]>, types: &[u8]) {
    frame(buf, tag::PARSE, |b| {
        text(b, name.as_ref());
        text(b, query.as_ref());
        b.put_slice(types);
    });
}

/// Bind with parameters as text, and results as text.
pub fn bind(buf: &mut BytesMut, portal: impl AsRef<[u8]>, statement: impl AsRef<[u8]>, parameters: &[Option<&[u8]>]) {
    frame(buf, tag::BIND, |b| {
        text(b, portal.as_ref());
        text(b, statement.as_ref());
        b.put_u16(0);
        list(b, parameters, value);
        b.put_u16(0);
    });
}

/// Bind under other names: `rest` as [`Bind::rest`](crate::wire::message::Bind::rest) gave it.
pub fn bind_raw(buf: &mut BytesMut, portal: impl AsRef<[u8]>, statement: impl AsRef<[u8]>, rest: &[u8]) {
    frame(buf, tag::BIND, |b| {
        text(b, portal.as_ref());
        text(b, statement.as_ref());
        b.put_slice(rest);
    });
}

/// Describe.
pub fn describe(buf: &mut BytesMut, target: Target, name: impl AsRef<[u8]>) {
    frame(buf, tag::DESCRIBE, |b| {
        b.put_u8(target.byte());
        text(b, name.as_ref());
    });
}

/// Execute; `max_rows` 0 means all.
pub fn execute(buf: &mut BytesMut, portal: impl AsRef<[u8]>, max_rows: i32) {
    frame(buf, tag::EXECUTE, |b| {
        text(b, portal.as_ref());
        b.put_i32(max_rows);
    });
}

/// Close.
pub fn close(buf: &mut BytesMut, target: Target, name: impl AsRef<[u8]>) {
    frame(buf, tag::CLOSE, |b| {
        b.put_u8(target.byte());
        text(b, name.as_ref());
    });
}

/// Sync.
pub fn sync(buf: &mut BytesMut) {
    frame(buf, tag::SYNC, |_| {});
}

/// Flush.
pub fn flush(buf: &mut BytesMut) {
    frame(buf, tag::FLUSH, |_| {});
}

/// Terminate.
pub fn terminate(buf: &mut BytesMut) {
    frame(buf, tag::TERMINATE, |_| {});
}

/// CopyData.
pub fn copy_data(buf: &mut BytesMut, data: &[u8]) {
    frame(buf, tag::COPY_DATA, |b| b.put_slice(data));
}

/// CopyDone.
pub fn copy_done(buf: &mut BytesMut) {
    frame(buf, tag::COPY_DONE, |_| {});
}

/// CopyFail with its reason.
pub fn copy_fail(buf: &mut BytesMut, reason: impl AsRef<[u8]>) {
    frame(buf, tag::COPY_FAIL, |b| text(b, reason.as_ref()));
}

/// PasswordMessage.
pub fn password(buf: &mut BytesMut, password: impl AsRef<[u8]>) {
    frame(buf, tag::PASSWORD, |b| text(b, password.as_ref()));
}

/// SASLInitialResponse.
pub fn sasl_initial_response(buf: &mut BytesMut, mechanism: impl AsRef<[u8]>, data: Option<&[u8]>) {
    frame(buf, tag::PASSWORD, |b| {
        text(b, mechanism.as_ref());
        value(b, data);
    });
}

/// SASLResponse.
pub fn sasl_response(buf: &mut BytesMut, data: &[u8]) {
    frame(buf, tag::PASSWORD, |b| b.put_slice(data));
}
